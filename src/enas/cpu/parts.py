"""The parts of a concatenation or a sum of `Deferred`s, as kernels take them.

Shape letters: P parts, C channels of all parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from enas.cpu.deferred import Deferred
from enas.cpu.kernels import array


def addresses(maps: Sequence[Tensor | None]) -> np.ndarray[Any, Any]:
    """Where each of them lies in memory [P]; 0 for None."""
    return np.array([0 if x is None else x.data_ptr() for x in maps], np.int64)


class Parts:
    """The parts of a concatenation, apart from their values."""

    def __init__(self, channels: Sequence[int], affine: Sequence[bool], rectified: Sequence[bool]) -> None:
        self.channels = channels
        self.affine = affine
        self.low_P = np.array([0 if r else -np.inf for r in rectified], np.float32)
        self.channels_P = np.array(channels, np.int64)

    @classmethod
    def of(cls, xs: Sequence[Deferred]) -> Parts:
        """Those of these activations."""
        return cls(
            [x.z_BCHW.shape[1] for x in xs],
            [x.scale_C is not None for x in xs],
            [x.rectified for x in xs],
        )

    def tensors(self, xs: Sequence[Deferred]) -> list[Tensor]:
        """Every z, then scale and shift of those that have them."""
        maps = [x.z_BCHW for x in xs]
        for x in xs:
            if x.scale_C is not None and x.shift_C is not None:
                maps += [x.scale_C, x.shift_C]
        return maps

    def affine_2C(self, scales: Sequence[Tensor]) -> np.ndarray[Any, Any]:
        """Scale and shift of every channel of the concatenation: 1 and 0 where there are none."""
        affine_2C = np.empty((2, sum(self.channels)), np.float32)
        channel = given = 0
        for channels, pending in zip(self.channels, self.affine, strict=True):
            for row, without in enumerate((1, 0)):
                part = array(scales[given + row]) if pending else without
                affine_2C[row, channel : channel + channels] = part
            given += 2 * pending
            channel += channels
        return affine_2C

    def affine_gradients(self, d_affine_2C: Tensor) -> list[Tensor]:
        """The gradients of scale and shift of those parts that have them, in the order of `tensors`."""
        gradients: list[Tensor] = []
        for part_2C, pending in zip(d_affine_2C.split(list(self.channels), 1), self.affine, strict=True):
            if pending:
                gradients += [part_2C[0], part_2C[1]]
        return gradients
