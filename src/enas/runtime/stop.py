"""Stopping on request: a signal sets a flag; the stage ends its step, saves, and exits with its own code."""

import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from enas.errors import EnasError
from enas.runtime.launch import follows

EXIT_STOPPED = 75
"""Exit code: stopped by a signal after saving; resume with `enas resume RUN` (EX_TEMPFAIL of sysexits.h)."""


class Stopped(EnasError):
    """A stage stopped by a signal after saving; the process exits with `exit_code`."""

    exit_code = EXIT_STOPPED

    def __init__(self, run: str | os.PathLike[str], signal_name: str, command: str = "enas resume") -> None:
        """`command`, followed by the run folder, goes on from there."""
        super().__init__(
            f"Stopped by {signal_name} after saving. Continue with: {command} {shlex.quote(os.fspath(run))}"
        )


class StopRequest:
    """Listens for SIGTERM, Ctrl-C and the loss of the terminal (on Windows Ctrl-Break too) while the block runs.

    The first signal only sets `requested`; a second Ctrl-C raises KeyboardInterrupt at once, without saving. The block
    restores the earlier handlers when it ends. Python delivers signals to the main thread alone; in any other thread, call
    `request` instead. A stage looks at `requested` after each step, saves, and raises `stopped(run)`.
    """

    def __init__(self, anywhere: Callable[[str | None], str | None] = lambda own: own) -> None:
        """`anywhere` is asked, with the signal of this process, for one that any process of the run has had."""
        self.signal_name: str | None = None
        self._anywhere = anywhere
        self._process = os.getpid()
        self._interrupts = 0
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether to save and stop after the present step."""
        self.signal_name = self._anywhere(self.signal_name)
        return self.signal_name is not None

    def request(self, signal_name: str) -> None:
        """Ask to stop, in the name of a signal or of whatever else wants it."""
        self.signal_name = signal_name

    def stopped(self, run: str | os.PathLike[str], command: str = "enas resume") -> Stopped:
        """Return the exception to raise once the state of `run` is saved; `command` continues it."""
        return Stopped(run, self.signal_name or "request", command)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _stop_signals():
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that was not set from Python, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a fork, such as a worker of a data loader, which its owner ends
            return
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt
        if self.signal_name is None:
            _tell("\nStopping once this step is done and saved. A second Ctrl-C stops without saving.\n")
        self.request(signal.Signals(number).name)


def _stop_signals() -> list[signal.Signals]:
    signals = [signal.SIGTERM, signal.SIGINT]
    if sys.platform == "win32":
        signals.append(signal.SIGBREAK)
    elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup has it ignored
        signals.append(signal.SIGHUP)
    return signals


def _tell(line: str) -> None:
    """Write to standard error past Python's buffers, which the interrupted code may be using right now."""
    if sys.stderr is None or follows():  # without it, another file may have its number
        return
    with contextlib.suppress(OSError):
        os.write(2, line.encode())
