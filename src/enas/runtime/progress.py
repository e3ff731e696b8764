"""Progress for the person watching: a bar on a terminal, plain lines anywhere else, and estimates beforehand.

All of it goes to standard error; standard output is for what a command was asked to print. What cannot be shown is
lost: nobody's training ends because its watcher has gone.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

from enas.runtime.streams import forgiving


class Progress:
    """How far a stage is, and its newest numbers; made by `progress`."""

    def __init__(
        self, stage: str, total: int, unit: str, *, done: int, clock: Callable[[], float], display: "_Display"
    ) -> None:
        self.stage = stage
        self.total = total
        self.unit = unit
        self.done = done
        self.numbers: dict[str, float] = {}
        self._clock = clock
        self._timed_from: tuple[int, float] | None = None
        self._display = display

    def advance(self, count: int = 1, **numbers: float) -> None:
        """Say that `count` more units are done, and what the given numbers are now."""
        self.done += count
        self.numbers |= numbers
        if self._timed_from is None and count > 0:
            self._timed_from = self.done, self._clock()
        self._display.show(self)

    def text(self) -> str:
        """Return the present state: `120/400 steps, about 4 min left, loss 5.12, ppl 167.3`."""
        numbers = [f"{name} {_number(value)}" for name, value in self.numbers.items()]
        return ", ".join([f"{self.done}/{self.total} {self.unit}", *self._left(), *numbers])

    def _left(self) -> list[str]:
        """Return the time left at the mean speed since the first advance, if there is some and it can be known.

        The first one is left out, as processes start and kernels compile before it.
        """
        if self._timed_from is None:
            return []
        done, then = self._timed_from
        worked = self.done - done
        missing = self.total - self.done
        if worked <= 0 or missing <= 0:
            return []
        return [f"about {duration((self._clock() - then) / worked * missing)} left"]


class _Display(Protocol):
    """Where progress is shown."""

    def show(self, progress: Progress) -> None:
        """Show the present state."""


class _Bar:
    """A bar on a terminal, drawn again in place."""

    def __init__(self, rich: RichProgress, stage: str, total: int, done: int) -> None:
        self._rich = rich
        self._task = rich.add_task(stage, total=total, completed=done, text="")

    def show(self, progress: Progress) -> None:
        self._rich.update(self._task, completed=progress.done, total=progress.total, text=progress.text())


class _Lines:
    """Plain lines: the first state, then at most one in `interval` seconds, and the last."""

    def __init__(self, stream: TextIO, interval: float, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._interval = interval
        self._clock = clock
        self._next = clock()
        self._unsaid: Progress | None = None

    def show(self, progress: Progress) -> None:
        self._unsaid = progress
        if self._clock() >= self._next:
            self._next = self._clock() + self._interval
            self.finish()

    def finish(self) -> None:
        """Print the last state, unless it already has been."""
        if self._unsaid is not None:
            say(f"{self._unsaid.stage}: {self._unsaid.text()}", self._stream)
            self._unsaid = None


@contextlib.contextmanager
def progress(
    stage: str,
    total: int,
    unit: str,
    *,
    done: int = 0,
    interval: float = 10.0,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Progress]:
    """Show the progress of a stage through `total` units while the block runs; one at a time.

    Args:
        stage: the name to show, such as "search, epoch 3".
        total: how many units there are.
        unit: what is counted, in the plural.
        done: units done before, by the run that this one resumes.
        interval: off a terminal, print at most one line in so many seconds; the last is always printed.
        stream: standard error, unless given.
        clock: returns seconds.
    """
    stream = forgiving(stream)
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        stage_column = TextColumn("{task.description}", markup=False)
        text_column = TextColumn("{task.fields[text]}", markup=False)
        # Rich leaves colours out where NO_COLOR is set.
        with RichProgress(stage_column, BarColumn(), text_column, console=Console(file=stream)) as rich:
            bar = _Bar(rich, stage, total, done)
            shown = Progress(stage, total, unit, done=done, clock=clock, display=bar)
            bar.show(shown)
            yield shown
    else:
        lines = _Lines(stream, interval, clock)
        try:
            yield Progress(stage, total, unit, done=done, clock=clock, display=lines)
        finally:
            lines.finish()


def say(line: str, stream: TextIO | None = None) -> None:
    """Print one line for the person watching; above the bar, while there is one."""
    print(line, file=forgiving(stream), flush=True)


def estimate_line(stage: str, seconds: float, memory_mb: float) -> str:
    """Return what a stage will take (`memory_mb` in MiB): `search: about 12 min, 1.1 GiB of memory`."""
    memory = f"{memory_mb:.0f} MiB" if memory_mb < 1000 else f"{memory_mb / 1024:.1f} GiB"
    return f"{stage}: about {duration(seconds)}, {memory} of memory"


def duration(seconds: float) -> str:
    """Return a time in one unit or two: `8 s`, `3 min 20 s`, `12 min`, `2 h 5 min`, `3 d 4 h`."""
    minute, hour, day = 60, 3600, 86_400
    if round(seconds) < 10 * minute:
        return _two_units(round(seconds), 60, "min", "s")
    if round(seconds / minute) * minute < day:
        return _two_units(round(seconds / minute), 60, "h", "min")
    return _two_units(round(seconds / hour), 24, "d", "h")


def _two_units(count: int, per_large: int, large: str, small: str) -> str:
    larges, smalls = divmod(count, per_large)
    if larges == 0:
        return f"{smalls} {small}"
    return f"{larges} {large} {smalls} {small}" if smalls else f"{larges} {large}"


def _number(value: float) -> str:
    """Four significant digits, and never a power of ten where plain digits do."""
    if isinstance(value, int) or 1e4 <= abs(value) < 1e9:
        return f"{value:.0f}"
    return f"{value:.4g}"
