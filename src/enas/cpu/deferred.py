"""Feature maps that still have a batch norm or a ReLU to come.

A batch norm has two steps: the statistics of a convolution's output z, and then scale · z + shift, with one scale and one
shift a channel. The second step and the ReLU after it cost a pass over memory each, unless the next reader of z does them
while reading. So a kernel returns z with what is still to be done to it.

Shape letters: B images, C channels (of all maps), H rows, W columns, n maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function


class Deferred(NamedTuple):
    """The feature maps scale_C · z_BCHW + shift_C, through a ReLU if `rectified`; only z is in memory."""

    z_BCHW: Tensor
    scale_C: Tensor | None = None
    shift_C: Tensor | None = None
    rectified: bool = False

    @property
    def shape(self) -> torch.Size:
        """Of the maps [B, C, H, W]."""
        return self.z_BCHW.shape


Maps = Tensor | Deferred
"""Feature maps [B, C, H, W]."""


def deferred(x: Maps) -> Deferred:
    """Maps with what is still to be done to them, which may be nothing."""
    return x if isinstance(x, Deferred) else Deferred(x)


# ---- as kernels take them ----------------------------------------------------------------------------------------------


def tensors(xs: Sequence[Deferred]) -> list[Tensor | None]:
    """The tensors that get a gradient [3 n]: z of all maps, then their scales, then their shifts, which may be None."""
    return [*(x.z_BCHW for x in xs), *(x.scale_C for x in xs), *(x.shift_C for x in xs)]


def rectified(xs: Sequence[Deferred]) -> tuple[bool, ...]:
    """Whether each of the maps is rectified [n]."""
    return tuple(x.rectified for x in xs)


def numbers(rectified: Sequence[bool], given: Sequence[Tensor | None]) -> Any:
    """Scale, shift and lowest value (0 if rectified, else -infinity) of every channel of all maps [C, 3]."""
    n = len(rectified)
    zs, scales, shifts = given[:n], given[n : 2 * n], given[2 * n :]
    channels = [z.shape[1] for z in zs if z is not None]
    numbers_C3 = np.empty((sum(channels), 3), np.float32)
    end = 0
    for C, scale_C, shift_C, low in zip(channels, scales, shifts, rectified, strict=True):
        begin, end = end, end + C
        numbers_C3[begin:end, 0] = 1 if scale_C is None else scale_C.detach().numpy()
        numbers_C3[begin:end, 1] = 0 if shift_C is None else shift_C.detach().numpy()
        numbers_C3[begin:end, 2] = 0 if low else -math.inf
    return numbers_C3


def affine_gradients(
    d_affine_2C: Tensor, channels: Sequence[int], needed: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of the scales of n maps, then of the shifts; None where not `needed` [2 n]."""
    parts = [part for row_C in d_affine_2C for part in row_C.split(list(channels))]
    return [part if wanted else None for part, wanted in zip(parts, needed, strict=True)]


def addresses(maps: Sequence[Tensor | None]) -> Any:
    """The addresses of their memory [n]; 0 for None."""
    return np.array([0 if x is None else x.data_ptr() for x in maps], np.int64)


# ---- nodes of autograd's graph -----------------------------------------------------------------------------------------


class _NoContext:
    """Stands in for a context where there will be no backward pass: keeps nothing."""

    def save_for_backward(self, *_: Any) -> None:
        pass

    def mark_non_differentiable(self, *_: Any) -> None:
        pass


def apply(function: type[Function], *arguments: Any) -> Any:
    """function.apply(*arguments); where gradients are disabled, without the time that autograd takes."""
    if torch.is_grad_enabled():
        return function.apply(*arguments)
    return function.forward(_NoContext(), *arguments)
