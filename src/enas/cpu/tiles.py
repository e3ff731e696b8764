"""Sums over many shifted rows, of which every convolution is made; on one thread, from compiled kernels.

Feature maps of a few images stand in a scratch array with zeros around them, channel by channel, so that the pixel a
filter's tap sees lies a fixed offset away from the pixel it computes. A convolution is then one product over K = channels ×
taps rows, each the same array seen from another offset, and needs no copy for each tap.

Shape letters: O outputs, K terms of a sum, S positions.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from enas.cpu.kernels import inlined
from enas.cpu.simd import (
    LANES,
    OUTER_TILE,
    PRODUCT_TILE,
    halves_outer_tile,
    outer_tile,
    pairs_product_tile,
    product_tile,
)

_PRODUCT_ROWS, _PRODUCT_VECTORS = PRODUCT_TILE
_OUTER_ROWS, _OUTER_TERMS = OUTER_TILE


@inlined
def pack(w_OK: Any, packed: Any) -> None:
    """The weights in the order in which `product` reads them: blocks of outputs, each [K, outputs of the block]."""
    O, K = w_OK.shape
    at = 0
    for o in range(0, O, _PRODUCT_ROWS):
        rows = min(_PRODUCT_ROWS, O - o)
        for k in range(K):
            for r in range(rows):
                packed[at] = w_OK[o + r, k]
                at += 1


def _product(tile: Any) -> Any:
    @inlined
    def multiply(
        packed: Any,
        O: int,
        K: int,
        x: Any,
        x_at: int,
        offset_K: Any,
        S: int,
        y: Any,
        y_at: int,
        y_stride: int,
        adds: int,
    ) -> None:
        step = LANES * _PRODUCT_VECTORS
        for s in range(0, S, step):
            vectors = min(_PRODUCT_VECTORS, (S - s + LANES - 1) // LANES)
            for o in range(0, O, _PRODUCT_ROWS):
                rows = min(_PRODUCT_ROWS, O - o)
                tile(
                    rows,
                    vectors,
                    packed,
                    o * K,
                    x,
                    x_at + s,
                    offset_K,
                    K,
                    y,
                    y_at + o * y_stride + s,
                    y_stride,
                    adds,
                )

    return multiply


product, pairs_product = _product(product_tile), _product(pairs_product_tile)
"""y[o, s] = Σ_k w[o, k] · x[offset[k] + s] for s < S rounded up to a multiple of 16; added to y if `adds` is not 0.

`packed` has O · K weights from `pack`; x and y are flat: x[x_at + offset_K[k] + s], y[y_at + o · y_stride + s]. In pairs, a
term k is two channels: uint32 of two bfloat16 in x and in `packed`.
"""


def _add_outer(tile: Any) -> Any:
    @inlined
    def add(
        dy: Any,
        dy_at: int,
        dy_stride: int,
        O: int,
        x: Any,
        x_at: int,
        offset_K: Any,
        K: int,
        S: int,
        dw_OK: Any,
    ) -> None:
        dw = dw_OK.reshape(-1)
        for k in range(0, K, _OUTER_TERMS):
            terms = min(_OUTER_TERMS, K - k)
            for o in range(0, O, _OUTER_ROWS):
                rows = min(_OUTER_ROWS, O - o)
                at = dy_at + o * dy_stride
                tile(rows, terms, dy, at, dy_stride, x, x_at, offset_K, k, S, dw, o * K + k, K)

    return add


add_outer, add_halves_outer = _add_outer(outer_tile), _add_outer(halves_outer_tile)
"""dw[o, k] += Σ_s dy[o, s] · x[offset[k] + s] over s < S; dw is contiguous.

dy and x are flat: dy[dy_at + o · dy_stride + s], x[x_at + offset_K[k] + s]. S is a multiple of 16, or of 32 for the bfloat16
(seen as uint16) of `add_halves_outer`.
"""


@cache
def tap_offsets(channels: int, width: int, plane: int, row: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where the K = channels · width² taps of a filter see a scratch array whose channels lie `plane` apart, rows `row`."""
    c, ky, kx = np.meshgrid(np.arange(channels), np.arange(width), np.arange(width), indexing="ij")
    offsets: np.ndarray[Any, np.dtype[np.int64]] = (c * plane + ky * row + kx).astype(np.int64).reshape(-1)
    return offsets
