"""Standard streams that may be closed, full, or lack a character: no reason for a program to lose its work."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO, cast

from enas.errors import EnasError


def forgiving(stream: TextIO | None = None) -> TextIO:
    """A stream for messages: what `stream` (standard error by default) cannot take is lost without an error.

    Its reader may have gone, the disk be full, or the stream be closed or missing.
    """
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
        try:
            os.fstat(number)
        except OSError:  # closed
            _lead_nowhere(number)
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

    Raises `SystemExit` as `reader_may_go`, and `EnasError` if standard output cannot be written for another reason, such
    as a full disk.
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


def _flush_or_drop(stream: TextIO) -> None:
    """Flush a stream. What it cannot write is dropped: it would make Python's own flush at the exit fail."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with _failures_ignored():
            _lead_nowhere(stream.fileno())
            stream.flush()


def _lead_nowhere(number: int) -> None:
    """Let a file descriptor, open or not, lead to the null device, also in programs that are started from here."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere == number:
        os.set_inheritable(number, True)
        return
    os.dup2(nowhere, number)
    os.close(nowhere)
