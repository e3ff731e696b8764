"""Standard streams that may be closed, full, or lack a character: none of that is an error of what a program computes."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO, cast

from enas.errors import EnasError


def forgiving(stream: TextIO | None = None) -> TextIO:
    """A stream for messages, which are lost where `stream` (standard error, as it is now) cannot take them: its reader
    has gone, the disk is full, it is closed, or there is none."""
    return cast(TextIO, _Forgiving(sys.stderr if stream is None else stream))


class _Forgiving(io.TextIOBase):
    """Writes what it can."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = io.StringIO() if stream is None else stream

    @property
    def encoding(self) -> str:  # type: ignore[override] # typeshed has an attribute, which the base does not let set
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        with _failures_ignored():
            return self._stream.isatty()
        return False

    def write(self, text: str) -> int:
        with _failures_ignored():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with _failures_ignored():
            self._stream.flush()


def _failures_ignored() -> contextlib.suppress:
    """OSError of the system; ValueError where the stream is closed, or its encoding lacks a character."""
    return contextlib.suppress(OSError, ValueError)


def can_show(text: str, stream: TextIO | None = None) -> bool:
    """Whether the encoding of `stream` (standard output) has every character of `text`."""
    stream = sys.stdout if stream is None else stream
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Make the standard streams safe to use while the block, a whole program, runs.

    A closed one leads nowhere: otherwise the next file to be opened would take its number, and messages of libraries
    would be written into that file. Standard output has a question mark where its encoding lacks a character. What
    cannot be written in the end is dropped without a word.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        _open_if_closed(number)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 # stays open
            setattr(sys, name, stream)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            _flush_or_drop(stream)


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Print to standard output in the block, and see that all of it has been written.

    Raises:
        SystemExit: with code 0, the reader of a pipe has gone: it has what it wanted.
        EnasError: standard output cannot be written for another reason, such as a full disk.
    """
    try:
        with reader_may_go():
            try:
                yield
            finally:
                sys.stdout.flush()
    except OSError as error:
        raise EnasError(
            f"cannot write to standard output: {error.strerror}; what the command has saved is kept"
        ) from error


@contextlib.contextmanager
def reader_may_go() -> Iterator[None]:
    """Write to a pipe in the block. Raises `SystemExit` with code 0 if its reader has gone: it has what it wanted."""
    try:
        yield
    except BrokenPipeError:
        raise SystemExit(0) from None


def show_text(text: str) -> int:
    """Print to standard output; returns the exit code 0. See `printing`."""
    with printing():
        print(text)
    return 0


def _open_if_closed(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        _lead_nowhere(number)


def _flush_or_drop(stream: TextIO) -> None:
    """Flush a stream; what it cannot write would make Python's own flush at the exit fail, with a message and a code."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with _failures_ignored():
            _lead_nowhere(stream.fileno())
            stream.flush()


def _lead_nowhere(number: int) -> None:
    """Let a file descriptor, open or not, lead to the null device, in programs started from here too."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere == number:
        os.set_inheritable(number, True)
        return
    os.dup2(nowhere, number)
    os.close(nowhere)
