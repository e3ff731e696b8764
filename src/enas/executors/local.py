"""Trainings in processes of this machine, which share its cores: the local `Executor`.

Processes are spawned, not forked: torch's threads do not survive a fork, and Windows and macOS have none. A worker
trains one job after the other, since starting one costs seconds. Parent and worker talk through a pipe: down go the
folders of jobs and the request to stop, up go step counts and endings; results stay in files. A worker whose parent is
gone finds the pipe closed, saves, and ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import torch

from enas.child_training import ChildTraining
from enas.config import RunConfig
from enas.errors import ConfigError, EnasError
from enas.executors.work import Answer, train_in
from enas.run import Run
from enas.runtime.device_memory import free_mib, shared_out, too_little
from enas.runtime.devices import gpus_of, pick_device, set_threads
from enas.runtime.environment import usable_cores
from enas.runtime.memory import keep_freed_memory
from enas.runtime.progress import say
from enas.runtime.stop import Stopped, StopRequest
from enas.trainings import LOG, Executor, Job, Outcome, outcome_of

POLL_SECONDS = 0.2
"""How long a stop request may wait to be noticed: a signal sets a flag, and does not end the wait for messages."""
NO_MAIN_GUARD = 78
"""Exit code of a worker that found itself at the call that started it: of sysexits.h, a wrong configuration."""
REPORT_SECONDS = 0.5
"""How long a worker keeps the progress of its steps to itself."""


def refuse_import_by_worker() -> None:
    """End this process if it is a worker that is only importing the script whose call started it.

    A spawned process imports the script that the user runs. Without a main guard it comes to the same call there, which
    would start workers of its own; the parent says what is wrong.
    """
    importing = "_inheriting"  # set while it imports, as Python checks too
    if getattr(multiprocessing.current_process(), importing, False):
        raise SystemExit(NO_MAIN_GUARD)


def share_cores(workers: int | None, threads: int | None, cores: int) -> tuple[int, int]:
    """(workers, threads of each). What is not given is such that all cores have work; threads default to one each.

    Raises `ConfigError` for numbers below 1.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers must be at least 1, not {workers}")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, not {threads}")
    if workers is None:
        threads = 1 if threads is None else threads
        return max(1, cores // threads), threads
    return workers, max(1, cores // workers) if threads is None else threads


class LocalExecutor(Executor):
    """Processes of this machine."""

    here = True

    def __init__(
        self,
        workers: int,
        threads: int,
        gpus: Sequence[torch.device] = (),
        *,
        insisted: bool = False,
        lower: str = "",
    ) -> None:
        """`workers` processes, each computing with `threads` threads, on these `gpus` if there are some: no more than their
        memory carries, unless the number is `insisted` on. `lower` says which settings take less of it."""
        self.places: list[str | None] = [None] * workers
        """The device of each process; None is that of the run."""
        self.threads = threads
        self.gpus = gpus
        self.insisted = insisted
        self.lower = lower

    @classmethod
    def for_run(cls, config: RunConfig, workers: int | None = None) -> Executor:
        """Processes for trainings of a run: with its number of threads, as many as the cores are enough for, and the memory
        of the GPUs, unless it is said how many. On an accelerator that does not tell its memory there is one."""
        device, insisted = pick_device(config.device), workers is not None
        shared, threads = share_cores(workers, config.threads, usable_cores())
        count = shared if insisted or device.type in ("cpu", "cuda") else 1
        lower = config.smaller("training")
        return cls(count, threads, gpus_of(device), insisted=insisted, lower=lower)

    @property
    def at_once(self) -> int:
        return len(self.places)

    @property
    def sharing(self) -> int:
        return max(Counter(self.places).values())

    @property
    def where(self) -> str:
        named = sorted({place for place in self.places if place is not None})
        return f" on {', '.join(named)}" if named and len(self.gpus) > 1 else ""

    def room(self, seconds: float, mib: float) -> int:
        free = {str(gpu): room for gpu in self.gpus if (room := free_mib(gpu)) is not None}
        if free:
            found = shared_out(free, mib, len(self.places))
            if self.insisted:
                others = cycle(sorted(free, key=lambda gpu: -free[gpu]))
                found += islice(others, len(self.places) - len(found))
            if not found:
                raise too_little(free, mib, self.lower)
            self.places = [*found]
        return len(self.places)

    def run(
        self, jobs: Sequence[Job], stop: StopRequest, on_step: Callable[[Job, int], None]
    ) -> Iterator[Outcome]:
        refuse_import_by_worker()
        waiting = deque(jobs)
        team = Team(self.threads, self.places)
        try:
            while True:
                if stop.requested:
                    team.stop(stop.signal_name or "request")
                else:
                    team.hand_out(waiting)
                if not team.busy():
                    return
                yield from team.hear(on_step, stop)
        except EnasError as error:
            team.stop("an error elsewhere")
            while team.busy():
                with contextlib.suppress(EnasError):  # one is enough
                    list(team.hear(on_step, stop))
            raise error
        finally:
            team.dismiss()


class ThisProcess(Executor):
    """No other process: for a network that none could import."""

    here = True
    at_once = 1

    def __init__(self, config: RunConfig) -> None:
        """`config` is that of the run whose jobs there will be."""
        self.config = config

    def run(
        self, jobs: Sequence[Job], stop: StopRequest, on_step: Callable[[Job, int], None]
    ) -> Iterator[Outcome]:
        say(
            "the network and the task are in no file that other processes could import: the trainings are done in this one, "
            "one after the other"
        )
        run = Run(jobs[0].run, self.config, ())
        for job in jobs:
            if stop.requested:
                return

            def after_step(training: ChildTraining, job: Job = job) -> None:
                on_step(job, training.done)

            try:
                result = job.perform(run, stop, after_step)
            except Stopped:
                return
            yield outcome_of(job, result)


class Worker:
    """A process, the parent's end of its pipe, and the job it is at."""

    def __init__(self, threads: int, place: str | None) -> None:
        self.place = place
        """Its device; None is that of the run."""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        # Not daemonic, so that the end of the parent does not kill it while it saves.
        self.process: BaseProcess = context.Process(target=work, args=(theirs, threads, place), daemon=False)
        with interrupts_held():
            self.process.start()
        theirs.close()
        self.job: Job | None = None

    def tell(self, *message: Any) -> None:
        """Send a message; to a dead worker, none: reading from it will tell."""
        with contextlib.suppress(OSError):
            self.connection.send(message)


class Team:
    """The workers of an executor."""

    def __init__(self, threads: int, places: Sequence[str | None]) -> None:
        """One at each of the `places`, which are devices; each computes with so many `threads`."""
        self.threads = threads
        self.places = places
        self.workers: list[Worker] = []
        self.told_to_stop = False

    def busy(self) -> list[Worker]:
        """Those at a job."""
        return [worker for worker in self.workers if worker.job is not None]

    def hand_out(self, waiting: deque[Job]) -> None:
        """Give jobs to idle workers, and to new ones at the places that nobody has."""
        while waiting and len(self.busy()) < len(self.places):
            idle = [worker for worker in self.workers if worker.job is None]
            if not idle:
                left = Counter(self.places) - Counter(worker.place for worker in self.workers)
                idle = [Worker(self.threads, next(place for place in self.places if left[place]))]
                self.workers += idle
            idle[0].job = waiting.popleft()
            idle[0].tell("train", str(idle[0].job.folder))

    def stop(self, reason: str) -> None:
        """Ask everyone, once, to save and stop."""
        if not self.told_to_stop:
            self.told_to_stop = True
            for worker in self.workers:
                worker.tell("stop", reason)

    def hear(self, on_step: Callable[[Job, int], None], stop: StopRequest) -> Iterator[Outcome]:
        """Wait a moment for messages; the outcomes among them. Raises the `EnasError` that a worker met."""
        of_connection = {worker.connection: worker for worker in self.busy()}
        for connection in wait(list(of_connection), POLL_SECONDS):
            worker = of_connection[cast(Connection, connection)]
            job = worker.job
            assert job is not None
            try:
                kind, *content = worker.connection.recv()
            except (EOFError, OSError):
                self.workers.remove(worker)
                worker.process.join()
                if worker.process.exitcode == NO_MAIN_GUARD:
                    raise ConfigError(
                        "the processes that train import the script that they were started from, and came to the same call: "
                        "put it under `if __name__ == '__main__':`"
                    ) from None
                if not self.told_to_stop:
                    log = job.folder / LOG
                    see = f"; see {log}" if log.exists() else ", before it could begin"
                    yield Outcome(job, "died", {}, f"{how_it_ended(worker.process)}{see}")
                continue
            if kind == "step":
                on_step(job, *content)
                continue
            worker.job = None
            if kind == "done":
                result = job.result()
                assert result is not None
                yield outcome_of(job, result)
            elif kind == "failed":
                raise Answer(kind, *content).error()
            elif not self.told_to_stop:  # somebody stopped this one alone
                yield Outcome(job, "died", {}, f"it was stopped by {content[0]} after saving")

    def dismiss(self) -> None:
        """End all processes: idle ones find their pipe closed; those still at a job are not waited for."""
        for worker in self.workers:
            if worker.job is not None:
                worker.process.kill()
            worker.connection.close()
        for worker in self.workers:
            worker.process.join()
            worker.process.close()


def how_it_ended(process: BaseProcess) -> str:
    """The end of a process in words."""
    code = process.exitcode or 0
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Inside, Ctrl-C and the loss of the terminal wait, where the system can hold them back; a process started here never
    sees one.

    A terminal sends both to all processes. The parent passes them on to the workers, also while these still start.
    """
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---- in the worker -----------------------------------------------------------------------------------------------------


def work(connection: Connection, threads: int, device: str | None) -> None:
    """What a worker process does: train the jobs that come through the pipe, until it is closed, on its device."""
    stop = StopRequest()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: stop.request(signal.Signals(number).name))
    keep_freed_memory()
    set_threads(threads)
    folders: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(connection, folders, stop), daemon=True).start()
    last = 0.0

    def report(training: ChildTraining) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            with contextlib.suppress(OSError):
                connection.send(("step", training.done))

    for folder in iter(folders.get, None):
        answer = train_in(folder, "local", stop, report, device=device)
        with contextlib.suppress(OSError):  # the parent may be gone; the files are what counts
            connection.send(answer)


def listen(connection: Connection, folders: queue.SimpleQueue[Path | None], stop: StopRequest) -> None:
    """Pass on the parent's messages; without a parent, stop."""
    try:
        while True:
            kind, content = connection.recv()
            if kind == "stop":
                stop.request(content)
            else:
                folders.put(Path(content))
    except (EOFError, OSError):
        stop.request("the end of the command")
        folders.put(None)
