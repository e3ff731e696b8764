"""Progress for the person watching: a bar on a terminal or in a notebook, plain lines elsewhere, and estimates beforehand.

All but a notebook's bar goes to standard error; standard output is for what a command was asked to print. What cannot be
shown is lost without an error: no training ends because nobody can read its progress.
"""

import contextlib
import html
import os
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from importlib import import_module
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

from enas.runtime.streams import forgiving


class Progress:
    """How far a stage is, and its newest numbers; made by `progress`, which sets `show`, called after each change."""

    def __init__(self, total: int, unit: str, done: int, clock: Callable[[], float]) -> None:
        self.total = total
        self.unit = unit
        self.done = done
        self.numbers: dict[str, float] = {}
        self.show: Callable[[], None] = lambda: None
        self._clock = clock
        self._timed_from: tuple[int, float] | None = None

    def advance(self, count: int = 1, **numbers: float) -> None:
        """Say that `count` more units are done, and what the given numbers are now."""
        self.done += count
        self.numbers |= numbers
        if self._timed_from is None and count > 0:
            self._timed_from = self.done, self._clock()
        self.show()

    def __str__(self) -> str:
        """The present state: `120/400 steps, about 4 min left, loss 5.12, ppl 167.3`."""
        numbers = [f"{name} {_number(value)}" for name, value in self.numbers.items()]
        return ", ".join([f"{self.done}/{self.total} {self.unit}", *self._left(), *numbers])

    def _left(self) -> list[str]:
        """The time left at the mean speed since the first advance; nothing if it cannot be known yet, or all is done.

        The time before the first advance does not count, as processes start and kernels compile in it.
        """
        done, then = self._timed_from or (self.done, 0.0)
        worked, missing = self.done - done, self.total - self.done
        if worked <= 0 or missing <= 0:
            return []
        return [f"about {duration((self._clock() - then) / worked * missing)} left"]


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
        interval: without a terminal, print at most one line in this many seconds; the last is always printed.
        stream: standard error, unless given; a notebook's cell where there is one.
        clock: returns seconds.
    """
    in_notebook = stream is None and Console().is_jupyter
    stream = forgiving(stream)
    shown = Progress(total, unit, done, clock)
    if in_notebook:
        with _cell(shown, stage, clock):
            yield shown
    elif stream.isatty() and os.environ.get("TERM") != "dumb":
        with _bar(shown, stage, stream):
            yield shown
    elif _brief.get():
        yield shown
    else:
        with _lines(shown, stage, stream, interval, clock):
            yield shown


@contextlib.contextmanager
def _bar(shown: Progress, stage: str, stream: TextIO) -> Iterator[None]:
    """A bar on a terminal, drawn again in place."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with RichProgress(
        *columns, console=Console(file=stream)
    ) as rich:  # without colours where NO_COLOR is set
        task = rich.add_task(stage, total=shown.total, completed=shown.done, text=str(shown))
        shown.show = lambda: rich.update(task, completed=shown.done, total=shown.total, text=str(shown))
        yield


REDRAWN = 0.5
"""Seconds after which a notebook's bar is drawn again."""


@contextlib.contextmanager
def _cell(shown: Progress, stage: str, clock: Callable[[], float]) -> Iterator[None]:
    """One output of a notebook's cell, which is drawn again in place: a bar, and the line of text for what draws no HTML."""
    display = import_module("IPython.display").display  # which is there in a notebook

    def drawn() -> dict[str, str]:
        line = f"{stage}: {shown}"
        bar = f'<progress value="{shown.done}" max="{shown.total}"></progress>'
        return {"text/plain": line, "text/html": f"{bar} {html.escape(line)}"}

    output = display(drawn(), raw=True, display_id=True)
    due = clock() + REDRAWN

    def show() -> None:
        nonlocal due
        if clock() >= due:
            due = clock() + REDRAWN
            output.update(drawn(), raw=True)

    shown.show = show
    try:
        yield
    finally:
        output.update(drawn(), raw=True)


@contextlib.contextmanager
def _lines(
    shown: Progress, stage: str, stream: TextIO, interval: float, clock: Callable[[], float]
) -> Iterator[None]:
    """Plain lines: the first state, then at most one in `interval` seconds, and the last state."""
    due, unsaid = clock(), False

    def show() -> None:
        nonlocal due, unsaid
        unsaid = True
        if clock() >= due:
            due = clock() + interval
            finish()

    def finish() -> None:
        nonlocal unsaid
        if unsaid:
            say(f"{stage}: {shown}", stream)
        unsaid = False

    shown.show = show
    try:
        yield
    finally:
        finish()


_brief: ContextVar[bool] = ContextVar("brief", default=False)


@contextlib.contextmanager
def brief() -> Iterator[None]:
    """Inside, plain lines of progress and what is said `in_passing` are left out, where a caller says a line itself. Bars
    stay."""
    before = _brief.set(True)
    try:
        yield
    finally:
        _brief.reset(before)


def in_passing(line: str) -> None:
    """Say a line that only tells what a stage is doing."""
    if not _brief.get():
        say(line)


def say(line: str, stream: TextIO | None = None) -> None:
    """Print one line for the person watching; above the bar, while there is one."""
    print(line, file=forgiving(stream), flush=True)


def estimate_line(stage: str, seconds: float, memory: str) -> str:
    """Say what a stage will take: `search: about 12 min, 1.1 GiB of memory`."""
    return f"{stage}: about {duration(seconds)}, {memory}"


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
