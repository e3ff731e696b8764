"""Trainings on a Ray cluster, each as one task."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ray
import torch

from enas.config import RunConfig
from enas.errors import ConfigError, EnasError, shortened, shown
from enas.executors.cluster import WORKER_MIB, Cluster, train_there
from enas.executors.work import Answer
from enas.runtime.device_memory import OF_A_PROCESS
from enas.runtime.devices import pick_device
from enas.runtime.memory import MIB
from enas.runtime.stop import StopRequest
from enas.trainings import Job

WAIT_SECONDS = 0.5
"""How long a request to stop may wait to be noticed."""
ANSWER_SECONDS = 5.0
"""How long an address may take to answer. Ray itself tries for minutes."""
PASSED_ON = ("ENAS_", "NUMBA_")
"""Variables of the environment that begin so are those of the workers too: last digits may depend on them."""


class RayExecutor(Cluster["ray.ObjectRef[Answer]"]):
    """A Ray cluster. Trainings are placed by their threads, memory and share of a GPU."""

    def __init__(self, address: str, threads: int, device: torch.device, workers: int | None = None) -> None:
        """The cluster at an `address`, HOST:PORT or `auto`; a training takes so many `threads`, and of a GPU of the kind of
        `device`, if that is one, what its memory asks for."""
        super().__init__(threads, workers)
        self.address = address
        self.device = device
        self.needs: dict[str, float] = {"CPU": threads}
        """What a training takes of a node, by Ray's names: numbers, and bytes of memory."""
        if device.type == "cuda":
            self.needs["GPU"] = 1.0
        self.nodes: list[Mapping[str, float]] = []
        """What each node has, by the same names."""

    @classmethod
    def for_run(cls, config: RunConfig, workers: int | None = None) -> RayExecutor:
        """For trainings of a run, with its number of threads, or one each. Raises `ConfigError` if the cluster cannot be
        reached, or has no room for one."""
        found = cls(config.ray_address, config.threads or 1, pick_device(config.device), workers)
        with found.connected():
            found.look()
        return found

    @property
    def at_once(self) -> int:
        return min(self.workers, sum(slots_of(node, self.needs) for node in self.nodes))

    def room(self, seconds: float, mib: float) -> int:
        self.needs["memory"] = (WORKER_MIB + mib) * MIB
        if self.device.type == "cuda":
            self.needs["memory"] = WORKER_MIB * MIB
            total = torch.cuda.get_device_properties(self.device).total_memory / MIB
            self.needs["GPU"] = share_of_gpu(mib, total)
        self.check_room()
        return self.at_once

    def look(self) -> None:
        """See what nodes there are. Raises `ConfigError` if none has room for a training."""
        self.nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.check_room()

    def check_room(self) -> None:
        """Raise `ConfigError` if no node has room for a training."""
        if not self.at_once:
            have = (described({name: node.get(name, 0) for name in self.needs}) for node in self.nodes)
            raise ConfigError(
                f"no node of the Ray cluster at {self.address} has {described(self.needs)}, which a training takes; they "
                f"have {'; '.join(dict.fromkeys(have))}. Add a node, or take fewer --threads"
            )

    # ---- the cluster ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def connected(self, run: Path | None = None) -> Iterator[None]:
        if ray.is_initialized():  # by the program that calls this one, or further out
            yield
            return
        check_answers(self.address)
        os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")  # or Ray's print takes the place of Python's
        passed_on = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        with signals_kept():
            try:
                ray.init(
                    self.address,
                    runtime_env={"env_vars": passed_on} if passed_on else None,
                    log_to_driver=False,
                    configure_logging=False,
                    logging_level=logging.ERROR,
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                said = shortened(" ".join(str(error).split()), 300)
                raise ConfigError(f"the Ray cluster at {self.address} cannot be joined: {said}") from error
        try:
            with contextlib.redirect_stdout(sys.stderr):  # where Ray says that a node is gone
                yield
        finally:
            ray.shutdown()

    def submit(self, jobs: Sequence[Job]) -> list[ray.ObjectRef[Answer]]:
        check_answers(ray.get_runtime_context().gcs_address)  # nodes may be gone since, the head among them
        self.look()
        task = ray.remote(train).options(
            num_cpus=self.needs["CPU"],
            num_gpus=self.needs.get("GPU", 0),
            memory=self.needs.get("memory", 0),
            max_retries=0,  # `Cluster` hands over again what was lost
        )
        return [task.remote(str(job.folder.absolute()), os.getcwd(), self.threads) for job in jobs]

    def ended(self, handles: Sequence[ray.ObjectRef[Answer]]) -> list[ray.ObjectRef[Answer]]:
        return ray.wait(list(handles), num_returns=len(handles), timeout=WAIT_SECONDS)[0]

    def answer(self, handle: ray.ObjectRef[Answer]) -> Answer:
        try:
            return Answer(*ray.get(handle))
        except ray.exceptions.RayTaskError as error:
            said = shortened(" ".join(str(error.cause).split()), 300)
            raise EnasError(
                f"a worker of the Ray cluster cannot train: {said}. Its nodes need the Python environment of this machine"
            ) from error
        except ray.exceptions.RayError as error:
            return Answer("lost", first_sentence(error))

    def cancel(self, handle: ray.ObjectRef[Answer]) -> None:
        ray.cancel(handle)  # an interrupt, to the one that trains


# ---- on a worker -------------------------------------------------------------------------------------------------------


def train(folder: str, here: str, threads: int) -> Answer:
    """What a task does. It saves and ends on the interrupt that `ray.cancel` is, and if its node is shut down."""
    with StopRequest() as stop:
        return train_there(folder, here, threads, "ray", stop)


# ---- what is where -----------------------------------------------------------------------------------------------------


def share_of_gpu(mib: float, total: float) -> float:
    """The share of a GPU, of so many MiB in all, that a training of `mib` takes: 1 / k if k fit."""
    return 1 / max(1, math.floor(total / (mib + OF_A_PROCESS)))


def slots_of(node: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """How many times a node has what is needed."""
    return min(math.floor(node.get(name, 0) / amount + 1e-9) for name, amount in needs.items())


def described(resources: Mapping[str, float]) -> str:
    """`2 CPU, 1.2 GiB of memory`."""
    return ", ".join(
        f"{amount / 2**30:.1f} GiB of memory" if name == "memory" else f"{amount:.3g} {name}"
        for name, amount in resources.items()
    )


def check_answers(address: str) -> None:
    """Raise `ConfigError` if nobody answers at an address, or it is none."""
    known: str | None = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if address == "auto" and known in ("", "auto"):
        known = found_here()
    if known is None:
        return  # which Ray itself says at once
    host, _, port = known.rpartition(":")
    if not re.fullmatch(r"[\w.-]+|\[[\w:.%]+\]", host) or not re.fullmatch(r"\d{1,5}", port):
        raise ConfigError(
            f"--ray-address is HOST:PORT, as `ray start --head` prints it, or auto, not {shown(known)}"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError, ValueError) as error:  # of a name that is none, too
        raise ConfigError(
            f"no Ray cluster answers at {known} ({error}). Start one with `ray start --head`, or give --ray-address"
        ) from error


def found_here() -> str | None:
    """What Ray takes for `auto`: the cluster on this machine, or the last one that was started here, which may be gone.

    None if there never was one.
    """
    with contextlib.suppress(ImportError, ConnectionError, ValueError):
        from ray._private.services import canonicalize_bootstrap_address

        return canonicalize_bootstrap_address("auto")
    return None


def first_sentence(error: Exception) -> str:
    """What an error says first; its name if that is nothing."""
    said = " ".join(str(error).split()).partition(". ")[0]
    return shortened(said or type(error).__name__, 200)


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """Inside, Ray may set handlers of signals; afterwards they are as before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
