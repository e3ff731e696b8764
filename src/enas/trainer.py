"""One training step, for a path of shared weights and for a network of its own alike (paper, equation 1)."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from enas import collective, parallel
from enas.architecture import Architecture
from enas.errors import NotFiniteError
from enas.masks import masks_from
from enas.norms import Norms, kept_statistics, norms_of
from enas.runtime.devices import wait_for
from enas.runtime.memory import MIB
from enas.runtime.seeding import generator
from enas.task import BaseTask, Minibatch, set_mode

OWN: tuple[Architecture | None, ...] = (None,)
"""The path of a network of its own: all of it."""


class Trainer:
    """A network that is being trained for a task, its optimiser, and the average of its weights, if there is one."""

    def __init__(self, model: nn.Module, task: BaseTask) -> None:
        self.model = task.placed(model)
        self.task = task
        self.optimizer = task.optimizer(self.model.parameters())
        self.averaged: AveragedModel | None = None
        self.by_examples = False
        """Whether several processes share each minibatch, as they do for a network of its own, and not the architectures."""
        self._norms: dict[nn.Module, Norms] = {}

    # ---- the step ------------------------------------------------------------------------------------------------------

    @parallel.repeated
    def step(
        self, epoch: int, step: int, architectures: Sequence[Architecture | None] = OWN
    ) -> dict[str, float]:
        """Train on the minibatch of a step, by the mean gradient of the architectures; returns what to log.

        Raises `NotFiniteError`, with the weights untouched, if a loss or the gradient's norm is NaN or infinite.
        """
        minibatch = self.task.minibatch(epoch, step)
        log = self.add_gradients(minibatch, epoch, step, architectures)
        rate = self.task.rate(epoch) * self.task.rate_factor(minibatch)
        norm = descend(self.optimizer, rate, self.task.clip, self.task.l2)
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        return {**log, "gradient_norm": norm, "learning_rate": rate}

    def add_gradients(
        self, minibatch: Minibatch, epoch: int, step: int, architectures: Sequence[Architecture | None] = OWN
    ) -> dict[str, float]:
        """Compute the mean gradient of the M architectures, 1/M Σ ∇L(m_i, ω); returns the mean of what they log.

        Several processes compute an architecture each in turn, or all of them every one on a part of the minibatch.
        """
        set_mode(self.model, training=True)
        count = parallel.division()[1]
        parts = count if self.by_examples or architectures[0] is None else 1
        pieces = [(slot, part) for slot in range(len(architectures)) for part in range(parts)]

        def add_gradient(piece: tuple[int, int]) -> tuple[dict[str, float], Any]:
            slot, part = piece
            architecture, read, share = architectures[slot], minibatch, 1 / len(architectures)
            place = self.task.mask_place(epoch, step) if architecture is None else (epoch, step, slot)
            if parts > 1:
                read, examples = self.task.shard(minibatch, part, parts)
                if not examples:
                    return {}, None
                place, share = (*place, part), share * examples
            with masks_from(generator(self.task.seed, "masks", *place)), self.task.autocast():
                loss = self.task.loss(self.model, read, architecture, slot)
            # One transfer from the device for all of them.
            total, *values = torch.stack([loss.total.detach(), *loss.logged.values()]).tolist()
            if not math.isfinite(total):
                whose = "" if architecture is None else f" of architecture '{architecture}'"
                raise NotFiniteError(f"the loss{whose} is {total}")
            loss.backward(share)
            shares = {key: value * share for key, value in zip(loss.logged, values, strict=True)}
            return shares, self.task.states.get(slot) if count > 1 else None

        try:
            found = collective.spread(pieces, add_gradient)
        except NotFiniteError:
            self.optimizer.zero_grad()  # of the architectures before
            raise
        collective.sum_gradients(self.model.parameters())
        log: dict[str, float] = {}
        for shares, _ in found:
            for key, value in shares.items():
                log[key] = log.get(key, 0.0) + value
        for slot in range(len(architectures)):
            carried = [state for _, state in found[slot * parts : (slot + 1) * parts] if state is not None]
            if carried:
                self.task.carry(slot, carried)
        return self.task.described(log)

    # ---- the network to evaluate ---------------------------------------------------------------------------------------

    def start_average(self, rule: Callable[[Any, Any, Any], None]) -> AveragedModel:
        """Start to average the weights, beginning with those after the next step. `evaluation_model` then has the averages.

        `rule` says how weights enter the average, as torch's `AveragedModel` has it. Moving statistics of norms are not
        averaged.
        """
        self.averaged = AveragedModel(self.model, multi_avg_fn=rule)
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
        """All that resuming needs."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "task": self.task.state_dict(),
        }
        return state if self.averaged is None else {**state, "average": self.averaged.state_dict()}

    @parallel.repeated
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
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
            with saved_bytes() as saved:
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
        return Estimate(seconds, (copies * weights + gradients + kept + self.task.data_bytes) / MIB)

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
    """MiB of memory: weights, gradient, optimiser, what the backward pass needs, and the data."""


# ---- descent -----------------------------------------------------------------------------------------------------------


def descend(
    optimizer: torch.optim.Optimizer, rate: float, clip: float | None = None, l2: float = 0.0
) -> float:
    """L2, clipping and one step on the parameters that have a gradient, which is then dropped.

    Parameters without one, off the sampled path, keep still, and so does their momentum. Returns the gradient's norm
    before clipping. Raises `NotFiniteError`, with the weights untouched, if it is NaN or infinite.
    """
    (group,) = optimizer.param_groups
    used = [parameter for parameter in group["params"] if parameter.grad is not None]
    add_l2(used, l2)
    norm = nn.utils.get_total_norm([parameter.grad for parameter in used])
    if not math.isfinite(value := float(norm)):
        optimizer.zero_grad()
        raise NotFiniteError(f"the gradient's norm is {value}")
    group["lr"] = rate
    plain = isinstance(optimizer, torch.optim.SGD) and group["momentum"] == group["weight_decay"] == 0
    if clip is not None and plain:
        group["lr"] = rate * min(1.0, clip / (value + 1e-6))  # the same, and spares a pass
    elif clip is not None:
        nn.utils.clip_grads_with_norm_(used, clip, norm)
    optimizer.step()
    optimizer.zero_grad()
    return value


def add_l2(parameters: Iterable[nn.Parameter], weight: float) -> None:
    """Add the gradient of weight·Σw² to the parameters that have a gradient: those on the sampled path."""
    used = [(p.grad, p.detach()) for p in parameters if p.grad is not None]
    if weight and used:
        gradients, weights = zip(*used, strict=True)
        torch._foreach_add_(gradients, weights, alpha=2 * weight)


def mean_of_steps(averaged: Any, weights: Any, steps: Tensor) -> None:
    """The rule of `Trainer.start_average` for the plain mean of the weights after all steps so far."""
    torch._foreach_lerp_(averaged, weights, 1 / (int(steps) + 1))


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
