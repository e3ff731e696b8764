"""Products with a weight that stays the same for many calls, packed once into the layout the library computes in.

With a batch of 64 rows, reading the weight is most of the work of a product; oneDNN on a packed weight is up to 1.6
times as fast as `torch.mm`. Its operators are not public: they are tried once before they are trusted.

Shape letters: R rows, D in, E out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""A product with a fixed weight. What it returns may be overwritten by the next call of the same product."""

_CALLS_THAT_PAY_FOR_PACKING = 4


@cache
def packs(dtype: torch.dtype) -> bool:
    """Whether this build of torch multiplies by packed weights of this dtype, found by one small product."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    x_RD = torch.arange(-8, 8, dtype=dtype, device="cpu").reshape(2, 8)
    weight_ED = torch.arange(-20, 20, dtype=dtype, device="cpu").reshape(5, 8)
    try:
        return torch.equal(_packed(weight_ED, 2)(x_RD), x_RD @ weight_ED.T)
    except (AttributeError, RuntimeError):
        return False


def linear(weight_ED: Tensor, dtype: torch.dtype, rows: int, calls: int) -> Product:
    """x -> x Wᵀ, [R, D] -> [R, E], computed in `dtype`, for about this many rows and calls."""
    weight_ED = weight_ED.to(dtype)
    if calls >= _CALLS_THAT_PAY_FOR_PACKING and packs(dtype):
        return _packed(weight_ED.contiguous(), rows)
    return lambda x_RD: x_RD @ weight_ED.T


def _packed(weight_ED: Tensor, rows: int) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight_ED, rows)
    multiply = torch.ops.mkldnn._linear_pointwise.default

    def product(x_RD: Tensor) -> Tensor:
        y_RE: Tensor = multiply(x_RD, packed, None, "none", [], "")
        return y_RE

    return product
