"""One training in its folder, for whichever executor: what a worker does, and how that went."""

from __future__ import annotations

import contextlib
import platform
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from enas.child_training import ChildTraining
from enas.errors import EnasError, UserCodeError
from enas.run import Run
from enas.runtime.devices import numbered, take_device
from enas.runtime.environment import environment
from enas.runtime.files import Digest, digest_of_file, write_json
from enas.runtime.lock import run_lock
from enas.runtime.stop import Stopped, StopRequest
from enas.trainings import LOG, WORKER, Job


class Answer(NamedTuple):
    """How a training went."""

    kind: Literal["done", "stopped", "failed", "broke", "lost"]
    """There is a result.json; it was saved and stopped; an error of the run's that every training would meet; an error in
    the program; its machine or its process is gone."""
    reason: str = ""
    """Empty for what is done."""

    def error(self) -> EnasError:
        """What a failure is here. That of the user's code has lines before its last one."""
        return (UserCodeError if "\n" in self.reason else EnasError)(self.reason)


@lru_cache(maxsize=1)
def opened(folder: Path, device: str | None, config: Digest) -> Run:
    """The run of a folder whose config.json has this digest, on a device of this process's own if there is one; its data are
    kept for the next training."""
    run = Run.open(folder)
    if device is not None:
        take_device(device)
        run.config = replace(run.config, device=device)
    return run


def train_in(
    folder: Path,
    executor: str,
    stop: StopRequest,
    after_step: Callable[[ChildTraining], None] = lambda training: None,
    patience: float = 0.0,
    device: str | None = None,
) -> Answer:
    """Train the job of a folder in this process, from its own checkpoint if there is one.

    What is said goes into log.txt of the folder, and `executor` with this machine into worker.json. `patience` is how
    many seconds to wait if another process holds the folder; `device` stands in for that of the run. An error in the program
    is raised.
    """
    if stop.requested:
        return Answer("stopped", stop.signal_name or "request")
    with contextlib.ExitStack() as held:
        try:
            log = held.enter_context(open(folder / LOG, "a", encoding="utf-8"))
        except OSError as error:
            return Answer(
                "failed",
                f"Cannot write {folder / LOG}: {error.strerror}. Was the run deleted while this ran?",
            )
        held.enter_context(contextlib.redirect_stderr(log))
        try:
            job = Job.read(folder)
            run = opened(job.run, device, digest_of_file(job.run / "config.json"))
            with run_lock(folder, patience):
                used = numbered(run.config.hardware["device"])
                where = {"executor": executor, "host": platform.node(), "device": used}
                write_json(folder / WORKER, {**where, **environment()})
                with run.config.told_later(job.run):
                    job.perform(run, stop, after_step)
        except Stopped:
            return Answer("stopped", stop.signal_name or "request")
        except EnasError as error:
            return Answer("failed", str(error))
        except BaseException:
            traceback.print_exc()
            raise
    return Answer("done")
