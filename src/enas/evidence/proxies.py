"""Proxies without training: what an untrained network is taken to reach, by its size or by how it computes.

A search that picks no better than such a number has not earned its time. Each proxy scores as many random architectures as
the search made evaluations, and picks the best. Higher is better.

Shape letters: B images of a minibatch, R ReLUs, one for every pixel and channel that one is applied to, K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from enas.architecture import Architecture
from enas.config import RunConfig
from enas.errors import ConfigError
from enas.evidence.methods import MOST_MULTIPLY_ADDS, MOST_PARAMETERS, NASWOT, SYNFLOW
from enas.norms import batch_statistics, norms_of
from enas.retrain import Network, uniform_architectures
from enas.runtime.checkpoint import check_still_there
from enas.runtime.files import write_json
from enas.runtime.progress import progress
from enas.runtime.records import check_settings, read_record
from enas.runtime.seeding import derive_seed
from enas.runtime.stop import StopRequest
from enas.stages import Run
from enas.task import BaseTask, set_mode

SCORES = "scores.json"

# ---- of one network ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def naswot(network: nn.Module, inputs: Tensor) -> float:
    """How differently the inputs of a minibatch [B, …] open an untrained network's ReLUs (Mellor et al. 2021, NASWOT,
    arXiv:2006.04647): log |det K|, where K_ij is the number of ReLUs that are open for both i and j, or shut for both.

    Norms use the minibatch's own statistics. It is -infinity where two inputs open the same ReLUs, or there are none.
    """
    set_mode(network, training=False)
    patterns = ReLUPatterns()
    with batch_statistics(norms_of(network)), patterns:
        network(inputs)
    return patterns.log_determinant()


class ReLUPatterns(TorchDispatchMode):
    """Inside, every ReLU is noted: which inputs of the minibatch it is open for."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)  # not by super(), whose type is not known
        self.kernel_BB: Tensor | None = None
        """K of all ReLUs so far."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.relu.default, torch.ops.aten.relu_.default):
            self.note(args[0])
        return func(*args, **(kwargs or {}))

    def note(self, x: Tensor) -> None:
        """Take in the ReLUs that are applied to x [B, …]."""
        sign_BR = torch.where(x.flatten(1) > 0, 1.0, -1.0)
        alike_BB = (
            sign_BR @ sign_BR.T + sign_BR.shape[1]
        ) / 2  # of agreements minus disagreements, and their sum
        kernel_BB = alike_BB.cpu().double()
        self.kernel_BB = kernel_BB if self.kernel_BB is None else self.kernel_BB + kernel_BB

    def log_determinant(self) -> float:
        """log |det K|."""
        return -math.inf if self.kernel_BB is None else float(torch.linalg.slogdet(self.kernel_BB).logabsdet)


def synflow(network: nn.Module, shape: Sequence[int]) -> float:
    """How much passes through an untrained network (Tanaka et al. 2020, SynFlow, arXiv:2006.05467; as a score of
    architectures Abdelfattah et al. 2021, arXiv:2101.08134): Σ |θ ∂R/∂θ| over the weights, where all weights are replaced by
    their absolute values, and R is the sum of the outputs for one input of ones of this shape. Norms are left out.

    In float64, as R may be very large. The network is changed, and of no other use.
    """
    set_mode(network.cpu().double(), training=False)
    for norm in norms_of(network):
        norm.register_forward_hook(lambda norm, inputs, output: inputs[0])
    weights = list(network.parameters())
    with torch.no_grad():
        for weight in weights:
            weight.abs_()
    passed = network(torch.ones(1, *shape, dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(passed, weights, allow_unused=True)
    # A weight that the outputs do not depend on has no gradient.
    pairs: Iterable[tuple[Tensor, Tensor | None]] = zip(weights, gradients, strict=True)
    flows = [(weight.detach() * gradient).abs().sum() for weight, gradient in pairs if gradient is not None]
    return sum(flow.item() for flow in flows)


# ---- of an architecture of a run ---------------------------------------------------------------------------------------

Proxy = Callable[[RunConfig, BaseTask, Network], float]
"""What an untrained network of a run scores. Raises `ConfigError` if the proxy is not for networks of this task."""


def parameters(config: RunConfig, task: BaseTask, network: Network) -> float:
    """Their number."""
    with torch.device("meta"):
        return task.parameters(config.model(network))


def multiply_adds(config: RunConfig, task: BaseTask, network: Network) -> float:
    """Of one input."""
    with torch.device("meta"):
        size = task.size(config.model(network))
    if "multiply_adds" not in size:
        raise ConfigError("networks of this task have no count of multiply-adds")
    return size["multiply_adds"]


def naswot_of(config: RunConfig, task: BaseTask, network: Network) -> float:
    """On the first training minibatch."""
    inputs = task.inputs(task.minibatch(0, 0))
    return naswot(config.model(network).to(task.device), inputs)


def synflow_of(config: RunConfig, task: BaseTask, network: Network) -> float:
    """For an input as large as those of the training."""
    inputs = task.inputs(task.minibatch(0, 0))
    return synflow(config.model(network), inputs.shape[1:])


PROXIES: Mapping[str, Proxy] = {
    MOST_PARAMETERS: parameters,
    MOST_MULTIPLY_ADDS: multiply_adds,
    NASWOT: naswot_of,
    SYNFLOW: synflow_of,
}
"""The proxies, by the names of the rivals that pick by them."""


# ---- the best of many --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoresRecord:
    """What scores.json holds: what the first architectures of those drawn score."""

    scores: list[float | None]
    """None for -infinity."""
    seconds: float
    """That scoring them took."""
    settings: dict[str, Any]


@dataclass(frozen=True)
class Ranked:
    """Random architectures in the order they were drawn, what they score, and how long scoring took."""

    architectures: Sequence[Architecture]
    scores: Sequence[float]
    seconds: float

    @property
    def best(self) -> Architecture:
        """The one of the highest score, of equal ones the first."""
        return self.architectures[max(range(len(self.scores)), key=self.scores.__getitem__)]

    @property
    def tells_apart(self) -> bool:
        """Whether there is any difference between the scores."""
        return len(set(self.scores)) > 1


def rank_by(
    run: Run, name: str, folder: Path, seed: int, count: int, seconds: float, stop: StopRequest
) -> Ranked:
    """Score `count` random architectures by a proxy, or all there are; fewer, but at least one, if they take longer than
    `seconds`.

    Leaves scores.json in `folder`, from which it goes on. Raises `ConfigError` if the proxy is not for the run's task, and
    `Stopped`, after saving, if a stop is requested.
    """
    config, proxy = run.config, PROXIES[name]
    drawn = list(islice(uniform_architectures(config.searched_space(), derive_seed(seed, "proxies")), count))
    networks = [Network("candidate", architecture, seed) for architecture in drawn]
    path, settings = folder / SCORES, run.training_settings()
    scores, spent = [], 0.0
    if path.exists():
        advice = f"Delete {folder} to score the architectures again"
        record = read_record(path, ScoresRecord, advice)
        check_settings(record.settings, settings, path, advice)
        scores = [-math.inf if score is None else score for score in record.scores]
        spent = record.seconds
    if len(scores) < len(networks) and (not scores or spent < seconds):
        task = run.child_training(networks[0]).task
        began = time.monotonic() - spent
        with progress(
            f"compare: {name}, seed {seed}", len(networks), "architectures", done=len(scores)
        ) as bar:
            for network in networks[len(scores) :]:
                scores.append(proxy(config, task, network))
                spent = time.monotonic() - began
                bar.advance(1)
                if stop.requested or spent >= seconds:
                    break
        check_still_there(run.run_file)
        folder.mkdir(parents=True, exist_ok=True)
        said = [score if math.isfinite(score) else None for score in scores]
        write_json(path, {"scores": said, "seconds": round(spent, 3), "settings": settings})
        if stop.requested:
            raise stop.stopped(run.folder)
    return Ranked(drawn[: len(scores)], scores, spent)
