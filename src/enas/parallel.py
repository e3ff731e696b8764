"""Several processes of one run, as torchrun starts them: process 0 runs the stages, and the others repeat its calls.

Every process has a copy of what is trained, such as the shared weights. When process 0 calls a `repeated` method of it, the
others make the same call on their copies, and all share its work (`enas.collective`). Everywhere else process 0 is alone: it
has the controller, reads and writes the run folder, and listens to the user. Where torchrun started nothing there is one
process, and every function here does what one process would do.

What is sent is pickled, between the processes of one run and nobody else.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, NoReturn, ParamSpec, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from enas.architecture import Architecture, Space
from enas.errors import ConfigError, EnasError, NotFiniteError, ProcessError
from enas.runtime.launch import follows, started_as
from enas.runtime.progress import say
from enas.runtime.stop import Stopped, StopRequest

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

PATIENCE = datetime.timedelta(days=20)
"""The others wait while process 0 is alone. One that has died is noticed by its connections, long before."""
STOP = "enas/stop"
"""Where the signal is kept that told a process to stop."""
POLL_SECONDS = 0.2
"""How often a process asks whether another one was told to stop."""

Owner = TypeVar("Owner")
Result = TypeVar("Result")
P = ParamSpec("P")


class Copies(Protocol):
    """Makes copies of what process 0 has."""

    @property
    def space(self) -> Space:
        """That of the architectures among what they are made of."""

    def copy(self, kind: str, *of: Any) -> object:
        """The copy of a thing of this kind."""


class Processes:
    """All processes of a run, as one of them sees them."""

    def __init__(self, store: Store) -> None:
        """`store` is what any of them can read and write at any time."""
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self.store = store
        self.copies: list[object] = []
        """What every process has a copy of."""
        self.together = False
        """Whether all are in the same call."""
        self.shares_work = False
        """Whether they share the work of this part of it."""
        self.asked = -POLL_SECONDS
        """When it asked the others for a stop."""

    def send(self, kind: str, *content: Any) -> None:
        """Tell the others something, as process 0."""
        with loss_noticed():
            dist.broadcast_object_list([(kind, *content)], 0, device=torch.device("cpu"))

    def received(self) -> tuple[Any, ...]:
        """What process 0 tells next."""
        message: list[Any] = [None]
        with loss_noticed():
            dist.broadcast_object_list(message, 0, device=torch.device("cpu"))
        return tuple(message[0])

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Inside, all are in the same call and share its work.

        All of them raise a `NotFiniteError` alike. After any other error they are at different places: they stay
        `together`, and nothing more is sent.
        """
        self.together = self.shares_work = True
        try:
            yield
        except NotFiniteError:
            self.together = False
            raise
        finally:
            self.shares_work = False
        self.together = False

    def repeat(self, copies: Copies, stop: StopRequest) -> NoReturn:
        """Repeat the calls of process 0 on copies, which `copies` makes.

        Raises `SystemExit`, with the exit code of process 0, when that ends.
        """
        while True:
            kind, *content = self.received()
            if kind == "call":
                of, method, arguments = content
                copy: Any = self.copies[of]
                with contextlib.suppress(NotFiniteError), self.call():
                    getattr(copy, method)(*unpacked(arguments, copy))
            elif kind == "copy":
                self.copies.append(copies.copy(*unpacked(content, copies)))
            elif kind == "done":
                self.copies.pop()
            else:
                raise SystemExit(content[0])
            _ = stop.requested  # which tells the others


_here: Processes | None = None
"""None where there is one process."""

# ---- the life of a process ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def joined() -> Iterator[Processes | None]:
    """Inside, this is one of the processes that torchrun started; None if it started none.

    When process 0 leaves, the others end, with its exit code. Of errors the first is said, by the process that met it.
    Raises `ProcessError` if they do not find each other, or inside if one of them has ended.
    """
    global _here
    if started_as()[1] == 1:
        yield None
        return
    here = _here = Processes(connected())
    code = 1
    try:
        yield here
        code = 0
    except Stopped as stopped:
        code = stopped.exit_code
        raise
    except EnasError as error:
        code = 2
        if not first_to_complain(here.store):
            raise SystemExit(code) from error
        if follows():
            say(error.complaint, sys.__stderr__)
        raise
    finally:
        if here.rank == 0 and not here.together:
            with contextlib.suppress(ProcessError):
                here.send("end", code)
        _here = None
        dist.destroy_process_group()


def connected() -> Store:
    """Connect with the others, by Gloo for what is on the CPU, and by NCCL between GPUs where each process has its own.

    Returns what all of them can read and write.
    """
    gpus = torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % gpus)
    rank, count = started_as()
    if not dist.is_available():
        raise ConfigError(
            f"PyTorch {torch.__version__} was built without torch.distributed: start one process"
        )
    from torch.distributed.rendezvous import rendezvous  # which is not there in such a build

    own = gpus >= int(os.environ.get("LOCAL_WORLD_SIZE", count)) and dist.is_nccl_available()
    try:
        found: tuple[Store, int, int] = next(rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if own else "gloo"
        dist.init_process_group(backend, store=found[0], rank=rank, world_size=count, timeout=PATIENCE)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ProcessError(f"the {count} processes of this run do not find each other: {reason}") from error
    return found[0]


def first_to_complain(store: Store) -> bool:
    """Whether no other process has ended in an error before: those of the others follow from that one."""
    try:
        return bool(store.add("enas/complaints", 1) == 1)
    except RuntimeError:  # it was in a process that has ended
        return True


@contextlib.contextmanager
def loss_noticed() -> Iterator[None]:
    """Turn the error of a connection into a `ProcessError`."""
    try:
        yield
    except RuntimeError as error:  # torch has no narrower one
        raise ProcessError(
            "another process of this run has ended. What the last checkpoint has is kept: start all of them again with "
            "'enas resume RUN'"
        ) from error


def stop_of_any(signal_name: str | None) -> str | None:
    """The signal that told this process to stop, which the others hear of; or that of another one; None if there is none."""
    here = _here
    if here is None:
        return signal_name
    with loss_noticed():
        if signal_name is not None:
            here.store.set(STOP, signal_name)
        elif time.monotonic() - here.asked >= POLL_SECONDS:
            here.asked = time.monotonic()
            if here.store.check([STOP]):
                return str(here.store.get(STOP), "ascii")
    return signal_name


# ---- calls that are repeated -------------------------------------------------------------------------------------------


def repeated(
    method: Callable[Concatenate[Owner, P], Result],
) -> Callable[Concatenate[Owner, P], Result]:
    """A method that all processes call at once, on their copies of an object that process 0 has `shared`."""

    @functools.wraps(method)
    def call(self: Owner, /, *args: P.args, **named: P.kwargs) -> Result:
        here = _here
        if here is None or here.rank > 0 or here.together:
            return method(self, *args, **named)
        of = next((place for place, copy in enumerate(here.copies) if copy is self), None)
        if of is None:
            return method(self, *args, **named)
        assert not named  # they are not sent
        here.send("call", of, method.__name__, packed(args))
        with here.call():
            return method(self, *args, **named)

    return call


@contextlib.contextmanager
def shared(original: object, kind: str, *of: Any) -> Iterator[None]:
    """Inside, every process has a copy of an object of process 0, made by its `Copies`."""
    here = _here
    if here is None or here.rank > 0 or here.together:
        yield
        return
    here.send("copy", kind, *packed(of))
    here.copies.append(original)
    try:
        yield
    finally:
        here.copies.pop()
        if not here.together:
            here.send("done")


class Choices(NamedTuple):
    """An architecture without its space, which the others have."""

    choices: tuple[int, ...]


def packed(value: Any) -> Any:
    """Arguments as they are sent."""
    if isinstance(value, Architecture):
        return Choices(value.choices)
    return [packed(item) for item in value] if isinstance(value, list | tuple) else value


def unpacked(value: Any, of: Any) -> Any:
    """Arguments as they were; architectures are of the space that `of` has."""
    if isinstance(value, Choices):
        space: Space = of.space
        return space.architecture(value.choices)
    return [unpacked(item, of) for item in value] if isinstance(value, list) else value


# ---- work that is shared -----------------------------------------------------------------------------------------------


def processes() -> int:
    """How many processes this run has."""
    return 1 if _here is None else _here.count


def division() -> tuple[int, int]:
    """(the number of this process, how many share the present work): (0, 1) for one that is alone."""
    return (_here.rank, _here.count) if _here is not None and _here.shares_work else (0, 1)


@contextlib.contextmanager
def by_itself() -> Iterator[None]:
    """Inside, this process computes by itself, whatever the others do."""
    here = _here
    if here is None:
        yield
        return
    before, here.shares_work = here.shares_work, False
    try:
        yield
    finally:
        here.shares_work = before


def check_norms(model: nn.Module) -> None:
    """Raise `ConfigError` for norms that would wait for one another where processes compute different things."""
    if processes() > 1 and any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        raise ConfigError(
            "nn.SyncBatchNorm takes its statistics over all processes, which compute different architectures here: use "
            "nn.BatchNorm2d, whose statistics are those of each process, or one process"
        )
