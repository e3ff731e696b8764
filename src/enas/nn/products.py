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
        return torch.equal(_packed_linear(weight_ED, 2)(x_RD), x_RD @ weight_ED.T)
    except (AttributeError, RuntimeError):
        return False


def _packed_linear(weight_ED: Tensor, rows: int) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight_ED, rows)
    linear = torch.ops.mkldnn._linear_pointwise.default

    def product(x_RD: Tensor) -> Tensor:
        y_RE: Tensor = linear(x_RD, packed, None, "none", [], "")
        return y_RE

    return product


def linear(weight_ED: Tensor, rows: int, calls: int) -> Product:
    """x [R, D] -> x Wᵀ [R, E], for about this many rows and calls."""
    if packs(weight_ED.dtype) and calls >= _CALLS_THAT_PAY_FOR_PACKING:
        return _packed_linear(weight_ED, rows)
    y_RE = weight_ED.new_empty(rows, len(weight_ED))

    def product(x_RD: Tensor) -> Tensor:
        return torch.mm(x_RD, weight_ED.T, out=y_RE[: len(x_RD)])

    return product


def side_by_side(weights_DE: Sequence[Tensor], rows: int, calls: int) -> Product:
    """x [R, D] -> [x W_1 | ... | x W_m], [R, m E]."""
    if packs(weights_DE[0].dtype) and calls >= _CALLS_THAT_PAY_FOR_PACKING:
        return _packed_linear(torch.cat(list(weights_DE), dim=1).T, rows)
    D, E = weights_DE[0].shape
    y_RmE = weights_DE[0].new_empty(rows, len(weights_DE), E)

    def product(x_RD: Tensor) -> Tensor:
        for i, weight_DE in enumerate(weights_DE):
            torch.mm(x_RD, weight_DE, out=y_RmE[:, i])
        return y_RmE.flatten(1)

    return product


def summed(weights_DE: Sequence[Tensor], rows: int, calls: int) -> Product:
    """[y_1 | ... | y_m] [R, m E] -> y_1 W_1ᵀ + ... + y_m W_mᵀ, [R, D]: the input gradient of `side_by_side`."""
    if packs(weights_DE[0].dtype) and calls >= _CALLS_THAT_PAY_FOR_PACKING:
        return _packed_linear(torch.cat(list(weights_DE), dim=1), rows)
    D, E = weights_DE[0].shape
    x_RD = weights_DE[0].new_empty(rows, D)

    def product(y_RmE: Tensor) -> Tensor:
        for i, (y_RE, weight_DE) in enumerate(zip(y_RmE.split(E, dim=1), weights_DE, strict=True)):
            torch.addmm(x_RD, y_RE, weight_DE.T, beta=float(i > 0), out=x_RD)
        return x_RD

    return product
