"""What an untrained network tells of what it may reach. Higher is better.

Shape letters: B images of a minibatch, R ReLUs, one for every pixel and channel that one is applied to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from enas.norms import batch_statistics, norms_of
from enas.task import set_mode


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

    The network is changed, and of no other use.
    """
    passes_freely(network)
    return flow(network, network(ones(shape))).through


@dataclass(frozen=True)
class Flow:
    """What passes through the part of a network that an output depends on."""

    parameters: int
    """The weights of that part."""
    through: float
    """Σ |θ ∂R/∂θ| over them."""


def passes_freely(network: nn.Module) -> None:
    """Make all weights positive and leave the norms out; what is left is of no other use. It is in float64, as flows may be
    very large, on the CPU."""
    set_mode(network.cpu().double(), training=False)
    for norm in norms_of(network):
        norm.register_forward_hook(lambda norm, inputs, output: inputs[0])
    with torch.no_grad():
        for weight in network.parameters():
            weight.abs_()


def ones(shape: Sequence[int]) -> Tensor:
    """One input of ones of this shape."""
    return torch.ones(1, *shape, dtype=torch.float64)


def flow(network: nn.Module, outputs: Tensor) -> Flow:
    """What passed through a network that `passes_freely` on the way to these outputs of `ones`."""
    weights = list(network.parameters())
    gradients = torch.autograd.grad(outputs.sum(), weights, allow_unused=True)
    # A weight that the outputs do not depend on has no gradient.
    pairs: Iterable[tuple[Tensor, Tensor | None]] = zip(weights, gradients, strict=True)
    used = [(weight.detach(), gradient) for weight, gradient in pairs if gradient is not None]
    through = sum((weight * gradient).abs().sum().item() for weight, gradient in used)
    return Flow(sum(weight.numel() for weight, _ in used), through)
