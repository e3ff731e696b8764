"""A recurrent architecture, its norm, and what a window of it returns, as the operations on recurrent cells have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from enas.errors import ConfigError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


@dataclass(frozen=True)
class CellPlan:
    """One recurrent architecture in the kernel's terms; node 0 is the input node.

    Raises ConfigError for a source that is not an earlier node, an unknown function, or outputs that are empty,
    repeated or not nodes.
    """

    sources: tuple[int, ...]
    """`sources[k - 1]` is the predecessor j < k of node k = 1 .. N-1."""
    functions: tuple[str, ...]
    """Functions of nodes 0 .. N-1, each a key of `ACTIVATIONS`."""
    outputs: tuple[int, ...]
    """Nodes whose mean is the output: the loose ends (paper), or all searched nodes (authors)."""

    def __post_init__(self) -> None:
        n = len(self.functions)
        if len(self.sources) != n - 1:
            raise ConfigError(
                f"A cell of {n} functions needs {n - 1} sources, one for every node but the first; "
                f"there are {len(self.sources)}."
            )
        for k, j in enumerate(self.sources, start=1):
            if not 0 <= j < k:
                raise ConfigError(f"Node {k} reads node {j}; it can read the nodes 0 to {k - 1} only.")
        for f in self.functions:
            if f not in ACTIVATIONS:
                raise ConfigError(f"Unknown function {f!r}; choose among {', '.join(ACTIVATIONS)}.")
        outputs = set(self.outputs)
        if not outputs or len(outputs) < len(self.outputs) or not outputs <= set(range(n)):
            raise ConfigError(
                f"The outputs {self.outputs} must be distinct nodes among 0 to {n - 1}, at least one."
            )


@dataclass(frozen=True)
class OutputNorm:
    """Batch normalisation of the mean of the outputs, over the batch at each time step.

    Without `mean_D` and `variance_D` the statistics of the batch are used (biased variance), else the given ones, as
    constants.
    """

    weight_D: Tensor
    bias_D: Tensor
    eps: float
    mean_D: Tensor | None = None
    variance_D: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.mean_D is None) != (self.variance_D is None):
            raise ConfigError("Give the norm both mean and variance, or neither to use the batch's.")


class Recurrence(NamedTuple):
    """What a window of time returns; the last output is the state to carry into the next window."""

    output_TBD: Tensor
    mean_TD: Tensor | None = None
    """The batch's mean at every step, without gradient; None unless the norm used batch statistics."""
    variance_TD: Tensor | None = None
    """The batch's biased variance at every step; likewise."""


def check_recurrence(
    projected_TBE: Tensor,
    state_BD: Tensor,
    recurrent_weight_DE: Tensor,
    node_weights_DE: Sequence[Tensor],
    plan: CellPlan,
    *,
    state_mask_BD: Tensor | None = None,
    norm: OutputNorm | None = None,
) -> None:
    """Raise `ConfigError` if the arguments of a recurrence do not fit together."""
    B, D = state_BD.shape
    if projected_TBE.shape[1:] != (B, 2 * D):
        raise ConfigError(
            f"A state of shape {[B, D]} needs a projected input of shape [T, {B}, {2 * D}], not "
            f"{list(projected_TBE.shape)}."
        )
    if len(node_weights_DE) != len(plan.sources):
        raise ConfigError(
            f"The plan has {len(plan.sources)} nodes with weights; {len(node_weights_DE)} were given."
        )
    for k, weight_DE in enumerate([recurrent_weight_DE, *node_weights_DE]):
        if weight_DE.shape != (D, 2 * D):
            raise ConfigError(f"The weight of node {k} must be [{D}, {2 * D}], not {list(weight_DE.shape)}.")
    vectors = [] if norm is None else [norm.weight_D, norm.bias_D, norm.mean_D, norm.variance_D]
    if any(x is not None and x.shape != (D,) for x in vectors):
        raise ConfigError(f"Weight, bias, mean and variance of the norm must be of length {D}.")
