"""Killing a command: at one of its changes of files, or after a while. What benchmarks/kill.py does its work with.

A command is a fork of this process. Between two changes of files nothing happens that a kill could leave behind.
"""

from __future__ import annotations

import builtins
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enas import cli

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
"""Audit events of Python's that change names in a folder."""


@dataclass
class Operations:
    """Counts the changes of files in a folder, and kills the process at one of them, before it is done."""

    folder: str
    at: int
    """Which one; 0 for none."""
    count: int = 0

    def change(self, what: str, path: object) -> None:
        """Count one."""
        self.count += 1
        if self.count == self.at:
            os.write(2, f"\nkilled before: {what} {path}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def inside(self, path: object) -> bool:
        """Whether a path lies in the folder."""
        return isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(self.folder)

    def listen(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook."""
        if event in CHANGES:
            for path in arguments[:1]:
                if self.inside(path):
                    self.change(event, path)
        elif event == "open" and self.inside(arguments[0]) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            self.change("open", arguments[0])

    def install(self) -> None:
        """Count from now on, in this process."""
        sys.addaudithook(self.listen)
        sync, plain_open, operations = os.fsync, builtins.open, self

        def counted_sync(descriptor: Any) -> None:
            operations.change("os.fsync", descriptor)
            sync(descriptor)

        class Torn(io.FileIO):
            """A file that a kill may find half written."""

            def write(self, data: Any, /) -> int:
                operations.change("write", self.name)
                view = memoryview(data).cast("B")
                half = super().write(view[: len(view) // 2]) or 0
                operations.change("rest of the write", self.name)
                return half + (super().write(view[half:]) or 0)

            def truncate(self, size: int | None = None, /) -> int:
                operations.change("truncate", self.name)
                return super().truncate(size)

        def counted_open(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **named: Any) -> Any:
            if "b" not in mode or not set(mode) & set("wax+") or not operations.inside(file):
                return plain_open(file, mode, buffering, *more, **named)
            raw = Torn(file, mode.replace("b", ""))
            if buffering == 0:
                return raw
            return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

        os.fsync = counted_sync
        builtins.open = io.open = counted_open


def fork(argv: Sequence[str], log: Path, run: Path, at: int | None = None) -> int:
    """Begin a command in a fork; returns its process id. With `at`, changes of files in `run` are counted, see
    `Operations`; the last line of the log is their number."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(target, descriptor)
        operations = Operations(str(run), at or 0)
        if at is not None:
            operations.install()
        code = cli.main(list(argv))
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(2, f"\n{operations.count}\n".encode())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ending(pid: int) -> int:
    """The exit code of a fork, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_after(pid: int, seconds: float) -> int:
    """Kill a fork after so long, unless it ends by itself; returns how it ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(min(0.002, seconds))
    os.kill(pid, signal.SIGKILL)
    return ending(pid)
