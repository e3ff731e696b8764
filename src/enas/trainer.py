"""One training step, for a path of shared weights and for a network of its own alike (paper, equation 1)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from enas import collective, parallel
from enas.architecture import Architecture
from enas.averaging import Average
from enas.errors import NotFiniteError
from enas.masks import masks_from
from enas.norms import Norms, kept_statistics, norms_of
from enas.runtime.device_memory import peak_mib
from enas.runtime.devices import wait_for
from enas.runtime.memory import MIB
from enas.runtime.seeding import generator
from enas.runtime.transfers import queues
from enas.runtime.whose import noted
from enas.step_logs import LateLog, Measured, StepLog, checked_norm, sum_of
from enas.task import BaseTask, Loss, Minibatch, set_mode

OWN: tuple[Architecture | None, ...] = (None,)
"""The path of a network of its own: all of it."""


class Piece(NamedTuple):
    """A term of a step's gradient, which one process computes."""

    architecture: Architecture | None
    slot: int
    """The place of the architecture among those of the step."""
    minibatch: Minibatch
    """Or a part of it."""
    place: tuple[int, ...]
    """What its masks follow from, beside the seed."""
    share: float
    """Of its gradient, and of what it logs, in those of the step."""


class Trainer:
    """A network that is being trained for a task, its optimiser, and the average of its weights, if there is one."""

    def __init__(self, model: nn.Module, task: BaseTask) -> None:
        self.model = task.placed(model)
        self.task = task
        self.optimizer = task.optimizer(self.model.parameters())
        self.averaged: Average | None = None
        self.by_examples = False
        """Whether several processes share each minibatch, as they do for a network of its own, and not the architectures."""
        self._norms: dict[nn.Module, Norms] = {}
        self._late: LateLog | None = None
        """Of a step that a GPU may not have done yet."""
        self._stopped = torch.zeros((), device=task.device)
        """1 on the GPU from the first step on whose loss or gradient is not finite: it takes no further one."""

    # ---- the step ------------------------------------------------------------------------------------------------------

    @parallel.repeated
    def step(self, epoch: int, step: int, architectures: Sequence[Architecture | None] = OWN) -> StepLog:
        """Train on the minibatch of a step, by the mean gradient of the architectures; returns what to log.

        Raises `NotFiniteError`, with the weights untouched, if a loss or the gradient's norm is NaN or infinite. On a GPU
        the next step raises it, or whatever reads the weights before; the error has the place, and no weight has changed.
        Several processes wait for the losses, and for one another, in every step, and raise it at once.
        """
        minibatch = self.task.minibatch(epoch, step)
        rate = self.task.rate(epoch) * self.task.rate_factor(minibatch)
        if not self.works_ahead:
            log = self.add_gradients(minibatch, epoch, step, architectures)
            norm = descend(self.optimizer, rate, self.task.clip, self.task.l2)
            self._average()
            return {**log, "gradient_norm": norm, "learning_rate": rate}
        set_mode(self.model, training=True)
        measured = []
        for piece in self._pieces(minibatch, epoch, step, architectures):
            with noted("with architecture", piece.architecture):
                loss, numbers = self._loss(piece)
                loss.backward(piece.share)
            measured.append(numbers)
        totals = [one.values[0] for one in measured]
        gradient_norm = descend_unless(
            self._stopped, totals, self.optimizer, rate, self.task.clip, self.task.l2
        )
        self._average()
        late = LateLog((epoch, step), measured, gradient_norm, rate, self.task.described)
        self.settle()  # while the GPU has this step to do
        self._late = late
        return late

    @property
    def works_ahead(self) -> bool:
        """Whether steps are given to a GPU without waiting for the one before: if the optimiser can leave a step out, and no
        other process shares the step, for each has to know whether the losses of all are finite."""
        can_leave_out = getattr(self.optimizer, "_step_supports_amp_scaling", False)
        return queues(self.task.device) and can_leave_out and parallel.division()[1] == 1

    def settle(self) -> None:
        """Wait for the last step. Raises `NotFiniteError`, with its place, if its loss or gradient is not finite."""
        late, self._late = self._late, None
        if late is not None:
            late.read()

    def add_gradients(
        self, minibatch: Minibatch, epoch: int, step: int, architectures: Sequence[Architecture | None] = OWN
    ) -> dict[str, float]:
        """Compute the mean gradient of the M architectures, 1/M Σ ∇L(m_i, ω); returns the mean of what they log.

        Several processes take turns with its pieces: an architecture each, or a part of the minibatch each. Then they add up
        their gradients, and wait for one another. Raises `NotFiniteError`, in all of them, if a loss is NaN or infinite.
        """
        set_mode(self.model, training=True)
        pieces = self._pieces(minibatch, epoch, step, architectures)
        shared = parallel.division()[1] > 1

        def add(piece: Piece) -> tuple[StepLog, Any]:
            with noted("with architecture", piece.architecture):
                loss, numbers = self._loss(piece)
                log = numbers.checked(numbers.values.tolist())  # one transfer from the device for all of them
                loss.backward(piece.share)
            return log, self.task.states.get(piece.slot) if shared else None

        try:
            found = collective.spread(pieces, add)
        except NotFiniteError:
            self.optimizer.zero_grad()  # of the architectures before
            raise
        collective.sum_gradients(self.model.parameters())
        if shared:
            for slot in range(len(architectures)):
                states = [
                    state for piece, (_, state) in zip(pieces, found, strict=True) if piece.slot == slot
                ]
                if states[0] is not None:
                    self.task.carry(slot, states)
        return self.task.described(sum_of(log for log, _ in found))

    def _pieces(
        self, minibatch: Minibatch, epoch: int, step: int, architectures: Sequence[Architecture | None]
    ) -> list[Piece]:
        """The terms of the mean gradient: each architecture on the minibatch, or on every part of it."""
        count = parallel.division()[1] if self.by_examples or architectures[0] is None else 1
        parts: list[tuple[tuple[int, ...], Minibatch, float]] = [((), minibatch, 1.0)]
        if count > 1:
            parts = [((part,), *self.task.shard(minibatch, part, count)) for part in range(count)]
        pieces = []
        for slot, architecture in enumerate(architectures):
            place = self.task.mask_place(epoch, step) if architecture is None else (epoch, step, slot)
            for part, read, examples in parts:
                if examples:
                    share = examples / len(architectures)  # the 1/M of equation 1, or less of a part
                    pieces.append(Piece(architecture, slot, read, (*place, *part), share))
        return pieces

    def _loss(self, piece: Piece) -> tuple[Loss, Measured]:
        """The loss of a piece, and its numbers on the device."""
        with masks_from(generator(self.task.seed, "masks", *piece.place)), self.task.autocast():
            loss = self.task.loss(self.model, piece.minibatch, piece.architecture, piece.slot)
        values = torch.stack([loss.total.detach(), *loss.logged.values()])
        return loss, Measured(piece.architecture, piece.share, tuple(loss.logged), values)

    def _average(self) -> None:
        if self.averaged is not None:
            self.averaged.update()

    # ---- the network to evaluate ---------------------------------------------------------------------------------------

    def start_average(self, share: Callable[[int], float]) -> Average:
        """Start to average the weights, beginning with those after the next step. `evaluation_model` then has the averages.

        `share` says how weights enter the average, as `Average` has it.
        """
        self.averaged = Average(self.model, share)
        return self.averaged

    @property
    def evaluation_model(self) -> nn.Module:
        """The network with averaged weights, or without an average the one that is trained."""
        return self.model if self.averaged is None else self.averaged.module

    def norms(self) -> Norms:
        """The batch norms of the network to evaluate, looked for once: a supernet has thousands of modules."""
        model = self.evaluation_model
        if model not in self._norms:
            self._norms[model] = norms_of(model)
        return self._norms[model]

    # ---- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs. Raises `NotFiniteError` as `step` does."""
        self.settle()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "task": self.task.state_dict(),
        }
        return state if self.averaged is None else {**state, "average": self.averaged.state_dict()}

    @parallel.repeated
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._late = None
        self._stopped.zero_()
        self.model.load_state_dict(state["model"])
        take_over(self.optimizer, state["optimizer"])
        self.task.load_state_dict(state["task"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["average"])

    # ---- what a step costs ---------------------------------------------------------------------------------------------

    def estimate(
        self, architecture: Architecture | None = None, to_compile: Iterable[Architecture] = ()
    ) -> Estimate:
        """Time and memory of a step. Its gradients are computed and thrown away, so nothing changes.

        Before that, the kernels that `to_compile` needs are compiled on a part of a minibatch.
        """
        minibatch, before = self.task.minibatch(0, 0), self.task.state_dict()
        with kept_statistics(norms_of(self.model)):
            for other in to_compile:
                self._throw_away(self.task.part(minibatch), other)
            with saved_bytes() as saved, peak_mib(self.task.device) as peak:
                gradients = self._throw_away(minibatch, architecture)
            began = time.perf_counter()
            self._throw_away(minibatch, architecture)
            seconds = time.perf_counter() - began
        self.task.load_state_dict(before)
        weights = sum(parameter.nbytes for parameter in self.model.parameters())
        group = self.optimizer.param_groups[0]
        moments = 2 if "betas" in group else bool(group.get("momentum"))  # Adam keeps two, momentum one
        copies = 1 + moments + (self.averaged is not None)
        kept = self.task.kept_bytes(self.model, minibatch, saved())
        counted = (copies * weights + gradients + kept + self.task.data_bytes) / MIB
        return Estimate(seconds, max(counted, peak() + moments * weights / MIB))

    def _throw_away(self, minibatch: Minibatch, architecture: Architecture | None) -> int:
        """Compute a step's gradient and drop it; returns the bytes that it took."""
        self.add_gradients(minibatch, 0, 0, (architecture,))
        taken = sum(p.grad.nbytes for p in self.model.parameters() if p.grad is not None)
        self.optimizer.zero_grad()
        wait_for(self.task.device)
        return taken


class Estimate(NamedTuple):
    """What a training step costs."""

    seconds: float
    mib: float
    """MiB of the device's memory: weights, gradient, optimiser, what the backward pass needs, and the data."""


# ---- descent -----------------------------------------------------------------------------------------------------------


def descend(
    optimizer: torch.optim.Optimizer, rate: float, clip: float | None = None, l2: float = 0.0
) -> float:
    """L2, clipping and one step on the parameters that have a gradient, which is then dropped.

    Parameters without one, off the sampled path, keep still, and so does their momentum. Returns the gradient's norm
    before clipping. Raises `NotFiniteError`, with the weights untouched, if it is NaN or infinite.
    """
    with only_used(optimizer) as used:
        (group,) = optimizer.param_groups
        add_l2(used, l2)
        norm = nn.utils.get_total_norm(gradients_of(used))
        value = checked_norm(float(norm))
        group["lr"] = rate
        plain = isinstance(optimizer, torch.optim.SGD) and group["momentum"] == group["weight_decay"] == 0
        if clip is not None and plain:
            group["lr"] = rate * min(1.0, clip / (value + 1e-6))  # the same, and spares a pass
        elif clip is not None:
            nn.utils.clip_grads_with_norm_(used, clip, norm)
        optimizer.step()
    return value


def descend_unless(
    stopped: Tensor,
    losses: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    rate: float,
    clip: float | None = None,
    l2: float = 0.0,
) -> Tensor:
    """`descend` on a GPU, without waiting for it. Returns the gradient's norm before clipping.

    `stopped` [] becomes 1 if a loss or the norm is NaN or infinite. Where it is, the optimiser changes nothing.
    """
    with only_used(optimizer) as used:
        (group,) = optimizer.param_groups
        add_l2(used, l2)
        for parameter in used:
            parameter.grad = None if parameter.grad is None else laid_out(parameter.grad, parameter)
        norms = torch._foreach_norm(gradients_of(used)) if used else [torch.zeros_like(stopped)]
        norm: Tensor = torch.linalg.vector_norm(torch.stack([norm.float() for norm in norms]))
        finite = torch.stack([norm, *losses]).isfinite().all()
        stopped.logical_or_(~finite)
        group["lr"] = rate
        # What a `GradScaler` tells an optimiser: gradients are divided by the one, and left alone where the other is not 0.
        scale = None if clip is None else ((norm + 1e-6) / clip).clamp(min=1)
        begin_momentum(optimizer, used)
        vars(optimizer).update(grad_scale=scale, found_inf=stopped)
        optimizer.step()
    return norm


def begin_momentum(optimizer: torch.optim.Optimizer, used: Iterable[nn.Parameter]) -> None:
    """Momentum of 0 for parameters that were never used before: torch's fused SGD has it of all or of none."""
    for parameter in used if optimizer.param_groups[0].get("momentum") else ():
        if "momentum_buffer" not in optimizer.state[parameter]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """A value of a parameter in its memory format, which torch's fused optimisers ask for, to strides that mean nothing."""
    if value.stride() == like.stride():
        return value
    strides = zip(value.shape, value.stride(), like.stride(), strict=True)
    if all(size == 1 or own == asked for size, own, asked in strides):
        return value.as_strided(like.shape, like.stride())
    return torch.empty_like(like).copy_(value)


def gradients_of(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The gradients of those that have one."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@contextlib.contextmanager
def only_used(optimizer: torch.optim.Optimizer) -> Iterator[list[nn.Parameter]]:
    """Inside, the optimiser has only the parameters that have a gradient, which is dropped at the end. Of a supernet's
    thousands few have one, and the optimiser would look at all of them time and again."""
    (group,) = optimizer.param_groups
    every: list[nn.Parameter] = group["params"]
    group["params"] = [parameter for parameter in every if parameter.grad is not None]
    try:
        yield group["params"]
    finally:
        optimizer.zero_grad()
        group["params"] = every


def take_over(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimiser, also of another device, where it went through its parameters in another way."""
    (own,), (saved,) = optimizer.param_groups, state["param_groups"]
    way = {name: own[name] for name in ("foreach", "fused") if name in own}
    optimizer.load_state_dict({**state, "param_groups": [{**saved, **way}]})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = laid_out(value, parameter)


def add_l2(parameters: Iterable[nn.Parameter], weight: float) -> None:
    """Add the gradient of weight·Σw² to the parameters that have a gradient: those on the sampled path."""
    used = [(p.grad, p.detach()) for p in parameters if p.grad is not None]
    if weight and used:
        gradients, weights = zip(*used, strict=True)
        torch._foreach_add_(gradients, weights, alpha=2 * weight)


@contextlib.contextmanager
def saved_bytes() -> Iterator[Callable[[], int]]:
    """Count what forward passes inside keep for the backward pass; the function given returns the bytes so far."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(storages.values())
