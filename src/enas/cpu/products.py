"""Products with weights that stay the same for many calls, packed once into the layout the library computes in.

With a batch of 64 rows, reading the weight is most of the work of a product; oneDNN on a packed weight is up to 1.6
times as fast as `torch.mm`. Its operators are not public: they are tried once before they are trusted.

Shape letters: R rows, D in, E out, m weights with the same input.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""A product with fixed weights. What it returns may be overwritten by the next call of the same product."""

_CALLS_THAT_PAY_FOR_PACKING = 4


@cache
def packs(dtype: torch.dtype) -> bool:
    """Whether this build of torch multiplies by packed weights of this dtype, found by one small product."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    x_RD = torch.arange(-8, 8, dtype=dtype).reshape(2, 8)
    weight_ED = torch.arange(-20, 20, dtype=dtype).reshape(5, 8)
    try:
        return torch.equal(_packed(weight_ED, 2)(x_RD), x_RD @ weight_ED.T)
    except (AttributeError, RuntimeError):
        return False


def linear(weight_ED: Tensor, dtype: torch.dtype, rows: int, calls: int) -> Product:
    """x -> x Wᵀ, [R, D] -> [R, E], computed in `dtype`, for about this many rows and calls."""
    if _packing_pays(dtype, calls):
        return _packed(weight_ED.to(dtype), rows)
    return _plain([weight_ED.to(dtype).T], rows)


def side_by_side(weights_DE: Sequence[Tensor], dtype: torch.dtype, rows: int, calls: int) -> Product:
    """x -> [x W_1 | ... | x W_m], [R, D] -> [R, m E], computed in `dtype`, for about this many rows and calls."""
    if _packing_pays(dtype, calls):
        return _packed(torch.cat([weight_DE.to(dtype).T for weight_DE in weights_DE]), rows)
    return _plain([weight_DE.to(dtype) for weight_DE in weights_DE], rows)


def summed(weights_DE: Sequence[Tensor], dtype: torch.dtype, rows: int, calls: int) -> Product:
    """[y_1 | ... | y_m] -> y_1 W_1ᵀ + ... + y_m W_mᵀ, [R, m E] -> [R, D]: the input gradient of `side_by_side`."""
    weights_DE = [weight_DE.to(dtype) for weight_DE in weights_DE]
    if _packing_pays(dtype, calls):
        return _packed(torch.cat(weights_DE, dim=1) if len(weights_DE) > 1 else weights_DE[0], rows)
    D, E = weights_DE[0].shape
    x_RD = weights_DE[0].new_empty(rows, D)

    def product(y_RmE: Tensor) -> Tensor:
        for i, (y_RE, weight_DE) in enumerate(zip(y_RmE.split(E, dim=1), weights_DE, strict=True)):
            torch.addmm(x_RD, y_RE, weight_DE.T, beta=float(i > 0), out=x_RD)
        return x_RD

    return product


def _packing_pays(dtype: torch.dtype, calls: int) -> bool:
    return calls >= _CALLS_THAT_PAY_FOR_PACKING and packs(dtype)


def _packed(weight_ED: Tensor, rows: int) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight_ED, rows)
    multiply = torch.ops.mkldnn._linear_pointwise.default

    def product(x_RD: Tensor) -> Tensor:
        y_RE: Tensor = multiply(x_RD, packed, None, "none", [], "")
        return y_RE

    return product


def _plain(weights_DE: Sequence[Tensor], rows: int) -> Product:
    y_RmE = weights_DE[0].new_empty(rows, len(weights_DE), weights_DE[0].shape[1])

    def product(x_RD: Tensor) -> Tensor:
        y = y_RmE[: len(x_RD)]
        for i, weight_DE in enumerate(weights_DE):
            torch.mm(x_RD, weight_DE, out=y[:, i])
        return y.flatten(1)

    return product
