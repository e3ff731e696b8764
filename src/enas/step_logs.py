"""What training steps log. A GPU's numbers are read a step later, so that it is never waited for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from enas.architecture import Architecture
from enas.errors import NotFiniteError
from enas.runtime.transfers import Arriving

StepLog = Mapping[str, float]
"""The numbers of a step by name, `loss` among them."""


class Measured(NamedTuple):
    """What a step computed along one path."""

    architecture: Architecture | None
    share: float
    """Of it in what the step logs."""
    names: tuple[str, ...]
    values: Tensor
    """The loss that is descended, then what is logged of it by these names."""

    def checked(self, values: list[float]) -> dict[str, float]:
        """Its share of what the step logs. Raises `NotFiniteError` if the loss is NaN or infinite."""
        total, *logged = values
        if not math.isfinite(total):
            whose = "" if self.architecture is None else f" of architecture '{self.architecture}'"
            raise NotFiniteError(f"the loss{whose} is {total}")
        return {name: value * self.share for name, value in zip(self.names, logged, strict=True)}


def sum_of(logs: Iterable[StepLog]) -> dict[str, float]:
    """The sum of logs, name by name."""
    sums: dict[str, float] = {}
    for log in logs:
        for name, value in log.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def checked_norm(norm: float) -> float:
    """The norm of a gradient. Raises `NotFiniteError` if it is NaN or infinite."""
    if not math.isfinite(norm):
        raise NotFiniteError(f"the gradient's norm is {norm}")
    return norm


class LateLog(StepLog):
    """The log of a step that a GPU may not have done yet. Whoever reads a number waits for the step."""

    def __init__(
        self,
        place: tuple[int, int],
        measured: list[Measured],
        norm: Tensor,
        rate: float,
        described: Callable[[dict[str, float]], dict[str, float]],
    ) -> None:
        """`place` is epoch and step; `described` adds what follows from the mean of what the paths log."""
        self.place = place
        self._measured = [one._replace(values=one.values[:0]) for one in measured]
        self._sizes = [len(one.values) for one in measured]
        self._arriving = Arriving(torch.cat([*(one.values for one in measured), norm[None]]))
        self._rate, self._described = rate, described
        self.has_been_read = False
        """Whether reading it again waits for nothing."""

    def read(self) -> dict[str, float]:
        """All numbers. Raises `NotFiniteError`, with the place of the step, if its loss or gradient is NaN or infinite."""
        return self._numbers

    @cached_property
    def _numbers(self) -> dict[str, float]:
        found = self._arriving.read()
        self.has_been_read = True
        try:
            logs = []
            for one, size in zip(self._measured, self._sizes, strict=True):
                logs.append(one.checked(found[:size]))
                found = found[size:]
            norm = checked_norm(*found)
        except NotFiniteError as error:
            error.place = self.place
            raise
        mean = self._described(sum_of(logs))
        return {**mean, "gradient_norm": norm, "learning_rate": self._rate}

    def __getitem__(self, name: str) -> float:
        return self.read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.read())

    def __len__(self) -> int:
        return len(self.read())


def arrived(log: StepLog) -> bool:
    """Whether reading a log waits for nothing."""
    return not isinstance(log, LateLog) or log.has_been_read


class Sums:
    """Sums of what steps log, each added when its numbers are there."""

    def __init__(self, so_far: StepLog = MappingProxyType({})) -> None:
        self.newest: StepLog = {}
        """The log of the last step that was added."""
        self._sums = dict(so_far)
        self._coming: list[StepLog] = []

    def add(self, log: StepLog) -> None:
        """Add a step."""
        self._coming.append(log)
        while self._coming and arrived(self._coming[0]):
            self._add_first()

    def settled(self) -> dict[str, float]:
        """The sums of all steps; waits for the last of them."""
        while self._coming:
            self._add_first()
        return dict(self._sums)

    def clear(self) -> None:
        """Begin anew."""
        self._sums = {}

    def _add_first(self) -> None:
        self.newest = self._coming.pop(0)
        for name, value in self.newest.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
