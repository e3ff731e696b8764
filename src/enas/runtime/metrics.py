"""The numbers of a run over time: one record a line in metrics.jsonl, and in TensorBoard where wanted."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from enas.errors import ConfigError
from enas.runtime.files import JsonlLog
from enas.runtime.work import Clock, processor_seconds

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Board(Protocol):
    """Takes the numbers too, such as TensorBoard's SummaryWriter."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Take one number under a name such as `search/loss`."""


@dataclass(frozen=True)
class MetricsRecord:
    """The keys that every line of metrics.jsonl has."""

    stage: str
    step: int
    time: float
    """Seconds that the run had taken, by the clock."""
    work: float | None = None
    """Seconds of work; None in records from before they were counted."""


@dataclass(frozen=True)
class MetricsState:
    """What a checkpoint keeps of a run's metrics; the defaults are those of a new run."""

    position: int = 0
    seconds: float = 0.0
    work: float | None = None
    """None in a checkpoint from before it was counted."""


class Metrics:
    """Records numbers of a run.

    Args:
        log: where each record becomes a line with the keys `stage`, `step`, `time`, `work` and those of the numbers.
        board: opens what takes each number as `stage/name` too, from the step on that it is given.
        clock: returns seconds. `time` is how long the run has taken; pauses between a stop and its resume, and work
            that no checkpoint kept, do not count.
        worked: returns seconds of work, as `work_clock` has it. `work` is those of the run, likewise.
    """

    def __init__(
        self,
        log: JsonlLog,
        board: Callable[[int], Board] | None = None,
        clock: Clock = time.monotonic,
        worked: Clock = processor_seconds,
    ) -> None:
        self.log = log
        self._open_board = board
        self.board: Board | None = None
        self._clock, self._worked = clock, worked
        self._started, self._work_before = clock(), worked()

    def record(self, stage: str, step: int, **numbers: float) -> None:
        """Append one record. A number that is not finite, which JSON cannot say, is stored as null."""
        if own := {"time", "work"} & numbers.keys():
            raise ValueError(f"A metric cannot be called {min(own)!r}: every record has its own.")
        record = {
            "stage": stage,
            "step": step,
            "time": round(self.seconds(), 3),
            "work": round(self.work(), 3),
        }
        self.log.append(
            record | {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        )
        if self.board is None and self._open_board is not None:
            self.board = self._open_board(step)
        if self.board is not None:
            for name, value in numbers.items():
                self.board.add_scalar(f"{stage}/{name}", value, step)

    def seconds(self) -> float:
        """Return how long the run has taken."""
        return self._clock() - self._started

    def work(self) -> float:
        """Return the run's seconds of work."""
        return self._worked() - self._work_before

    def state(self) -> MetricsState:
        """Return what a checkpoint has to keep, after forcing all records onto the disk."""
        return MetricsState(self.log.position(), self.seconds(), self.work())

    def restore(self, state: MetricsState) -> None:
        """Go back to a checkpoint: drop the records made since, and count the time from there.

        Raises `RunFolderError` if the log is not the one the checkpoint was saved with.
        """
        self.log.rewind(state.position)
        self._started = self._clock() - state.seconds
        self._work_before = self._worked() - (state.seconds if state.work is None else state.work)


def tensorboard_writer(folder: str | os.PathLike[str], first_step: int) -> "SummaryWriter":
    """Return a writer of TensorBoard events into `folder`, which is created when missing.

    Events of an earlier process from `first_step` on, which a resumed run repeats, are hidden.
    Raises `ConfigError` if TensorBoard, an optional dependency, is not installed.
    """
    return summary_writer()(os.fspath(folder), purge_step=first_step)


def summary_writer() -> "type[SummaryWriter]":
    """The class of writers. Raises `ConfigError` if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "TensorBoard is not installed. Install it with: pip install 'enas[tensorboard]', or turn it off."
        ) from error
    return SummaryWriter
