"""What a recurrent architecture computes: with shared weights (`SupernetCell`) or its own (`ChildCell`).

Both hold weights and hand the ones of an architecture to `run_cell`, or to `run_normed_cell` where every node
has a batch norm. Shape letters: T time, B batch, D hidden; E = 2D, the columns of the candidate, then those
of the highway gate (paper, appendix A).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from enas.architecture import Architecture
from enas.cell_plan import ACTIVATIONS, CellPlan, OutputNorm
from enas.constraints import PartialShare, PositiveFloat, Settings
from enas.ops import recurrences
from enas.spaces.recurrent.cell import Cell
from enas.spaces.recurrent.space import RecurrentSpace


@dataclass(frozen=True)
class CellConfig(Settings):
    """How the cells of the space compute, and which of them share which weights."""

    sharing: Literal["source", "function-source"] = "source"
    """Which cells share a node's weights: those that read the same source (paper, §2.1: one matrix per
    ordered pair), or only those that also apply the same function (authors)."""
    output: Literal["loose-ends", "all"] = "loose-ends"
    """What is averaged into h_t: the nodes that no other reads (paper), or every searched node (authors)."""
    norm: Literal["none", "output", "output-and-nodes"] = "none"
    """Batch norm in the supernet: on the averaged output (paper, appendix A), and also on every node's
    product (the authors' first code). A child has none."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the variance; the authors' first code has 1.0."""
    norm_decay: PartialShare = 0.999
    """How much of the moving statistics is kept at every time step."""


class CellWeights(NamedTuple):
    """The weights of one architecture."""

    input_2DE: Tensor
    """Rows of x_t, then of h_{t-1} (paper: W^(x) and W_1)."""
    nodes_DE: list[Tensor]
    """One for each node after the input node."""


class BatchNorm(nn.BatchNorm1d):
    """The batch norm of a cell, applied at every time step. Its moving variance is the biased one."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, eps: float, decay: float) -> None:
        super().__init__(features, eps, momentum=1 - decay)
        self.decay = decay

    def over_time(self) -> OutputNorm:
        """The norm as the recurrence takes it: by the batch's statistics in training mode, else the moving ones."""
        if self.training:
            return OutputNorm(self.weight, self.bias, self.eps)
        return OutputNorm(self.weight, self.bias, self.eps, self.running_mean, self.running_var)

    def forward(self, x_BD: Tensor) -> Tensor:
        """One time step, normalised; in training mode this updates the moving statistics."""
        if self.training:
            variance_D, mean_D = torch.var_mean(x_BD, dim=0, correction=0)
            self.update(mean_D.detach().unsqueeze(0), variance_D.detach().unsqueeze(0))
        else:
            mean_D, variance_D = self.running_mean, self.running_var
        return (x_BD - mean_D) * torch.rsqrt(variance_D + self.eps) * self.weight + self.bias

    @torch.no_grad()
    def update(self, mean_TD: Tensor, variance_TD: Tensor) -> None:
        """Update the moving statistics with those of T time steps, one after the other, unless they are frozen."""
        if not self.track_running_stats:
            return
        steps = torch.arange(len(mean_TD) - 1, -1, -1, device=mean_TD.device, dtype=mean_TD.dtype)
        share_T1 = ((1 - self.decay) * self.decay**steps).unsqueeze(1)
        kept = self.decay ** len(mean_TD)
        self.running_mean.mul_(kept).add_((share_T1 * mean_TD).sum(0))
        self.running_var.mul_(kept).add_((share_T1 * variance_TD).sum(0))


def cell_plan(architecture: Architecture, output: Literal["loose-ends", "all"]) -> CellPlan:
    """The architecture in the terms of the recurrence."""
    space = RecurrentSpace.of(architecture)
    searched = range(space.total_nodes - space.nodes, space.total_nodes)
    outputs = space.loose_ends(architecture) if output == "loose-ends" else tuple(searched)
    return CellPlan(space.sources(architecture), space.node_functions(architecture), outputs)


def run_cell(
    inputs_TBD: Tensor,
    state_BD: Tensor,
    weights: CellWeights,
    plan: CellPlan,
    state_mask_BD: Tensor | None = None,
    norm: BatchNorm | None = None,
) -> Tensor:
    """Outputs h_1 .. h_T [T, B, D] of one cell; the last one is the state to carry (paper, equations 2-5).

    The input's product with W^(x) does not depend on the state, so it is one product over all time steps.
    """
    return run_cells(inputs_TBD, state_BD, [weights], [plan], state_mask_BD, norm)[0]


def run_cells(
    inputs_TBD: Tensor,
    state_BD: Tensor,
    weights: Sequence[CellWeights],
    plans: Sequence[CellPlan],
    state_mask_BD: Tensor | None = None,
    norm: BatchNorm | None = None,
) -> list[Tensor]:
    """`run_cell` of several cells from one state: on a GPU in hardly more launches than one of them takes."""
    hidden = state_BD.shape[-1]
    inputs = {id(one.input_2DE): one.input_2DE for one in weights}
    projected = {key: product(inputs_TBD, weight[:hidden]) for key, weight in inputs.items()}
    results = recurrences(
        [projected[id(one.input_2DE)] for one in weights],
        state_BD,
        [one.input_2DE[hidden:] for one in weights],
        [one.nodes_DE for one in weights],
        plans,
        state_mask_BD=state_mask_BD,
        norm=None if norm is None else norm.over_time(),
    )
    for result in results:
        if norm is not None and result.mean_TD is not None and result.variance_TD is not None:
            norm.update(result.mean_TD, result.variance_TD)
    return [result.output_TBD for result in results]


def run_normed_cell(
    inputs_TBD: Tensor,
    state_BD: Tensor,
    weights: CellWeights,
    plan: CellPlan,
    state_mask_BD: Tensor | None,
    norm: BatchNorm,
    node_norms: nn.ModuleList,
) -> Tensor:
    """`run_cell` with a norm on every node's product as well, before it is split (the authors' first code).

    In plain autograd: a norm between product and activation belongs to one old recipe only.
    """
    hidden = state_BD.shape[-1]

    def node(k: int, s_BD: Tensor, weight_DE: Tensor, added_BE: Tensor | None = None) -> Tensor:
        product_BE = product(s_BD if state_mask_BD is None else s_BD * state_mask_BD, weight_DE)
        sum_BE = product_BE if added_BE is None else product_BE + added_BE
        candidate_BD, gate_BD = node_norms[k](sum_BE).chunk(2, dim=-1)
        highway_BD: Tensor = torch.sigmoid(gate_BD) * (ACTIVATIONS[plan.functions[k]](candidate_BD) - s_BD)
        return s_BD + highway_BD

    outputs = []
    for projected_BE in product(inputs_TBD, weights.input_2DE[:hidden]):
        nodes = [node(0, state_BD, weights.input_2DE[hidden:], projected_BE)]
        for k, (source, weight_DE) in enumerate(zip(plan.sources, weights.nodes_DE, strict=True), start=1):
            nodes.append(node(k, nodes[source], weight_DE))
        state_BD = norm(torch.stack([nodes[k] for k in plan.outputs]).mean(0))
        outputs.append(state_BD)
    return torch.stack(outputs)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x · weight, in the type of x even where autocast gives the product another."""
    return (x @ weight).to(x.dtype)


def uniform_(weight: Tensor, bound: float, generator: torch.Generator) -> Tensor:
    """Fill with U(-bound, bound) in place."""
    with torch.no_grad():
        return weight.uniform_(-bound, bound, generator=generator)


class SupernetCell(Cell):
    """The shared weights ω of every cell of a space; each call computes one architecture with its part of them.

    Blocks are parameters of their own, so that those off the sampled path get no gradient, no optimiser work and no
    communication.
    """

    def __init__(
        self,
        space: RecurrentSpace,
        hidden: int,
        config: CellConfig,
        init_range: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.space = space
        self.hidden = hidden
        self.config = config

        def block(rows: int) -> nn.Parameter:
            return nn.Parameter(uniform_(torch.empty(rows, 2 * hidden), init_range, generator))

        self.input_weights = nn.ParameterDict()
        self.node_weights = nn.ParameterDict()
        per_function = config.sharing == "function-source"
        searched_input = per_function and space.input_function is None
        for function in space.functions if searched_input else ("shared",):
            self.input_weights[function] = block(2 * hidden)
        for node in range(1, space.total_nodes):
            for source in range(node):
                for function in space.functions if per_function else ("shared",):
                    self.node_weights[f"{node}-{source}-{function}"] = block(hidden)

        def norm(features: int) -> BatchNorm:
            return BatchNorm(features, config.norm_eps, config.norm_decay)

        nodes = range(space.total_nodes)
        with_nodes = config.norm == "output-and-nodes"
        self.norm = None if config.norm == "none" else norm(hidden)
        self.node_norms = nn.ModuleList(norm(2 * hidden) for _ in nodes) if with_nodes else None

    def weights(self, architecture: Architecture) -> CellWeights:
        """The blocks on the architecture's path: the supernet's slice."""
        functions = self.space.node_functions(architecture)
        sources = self.space.sources(architecture)
        first = functions[0] if functions[0] in self.input_weights else "shared"
        keys = [
            f"{node}-{source}-{functions[node] if self.config.sharing == 'function-source' else 'shared'}"
            for node, source in enumerate(sources, start=1)
        ]
        return CellWeights(self.input_weights[first], [self.node_weights[key] for key in keys])

    def forward(
        self,
        inputs_TBD: Tensor,
        state_BD: Tensor,
        architecture: Architecture,
        *,
        state_mask_BD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Outputs [T, B, D] of the architecture's cell, and the state to carry."""
        weights, plan = self.weights(architecture), cell_plan(architecture, self.config.output)
        if self.norm is None or self.node_norms is None:
            output_TBD = run_cell(inputs_TBD, state_BD, weights, plan, state_mask_BD, self.norm)
        else:
            output_TBD = run_normed_cell(
                inputs_TBD, state_BD, weights, plan, state_mask_BD, self.norm, self.node_norms
            )
        return output_TBD, output_TBD[-1]

    def outputs_of(
        self, inputs_TBD: Tensor, state: Tensor, architectures: Sequence[Architecture]
    ) -> list[Tensor]:
        if self.node_norms is not None:
            return super().outputs_of(inputs_TBD, state, architectures)
        weights = [self.weights(one) for one in architectures]
        plans = [cell_plan(one, self.config.output) for one in architectures]
        return run_cells(inputs_TBD, state, weights, plans, norm=self.norm)


class ChildCell(Cell):
    """One architecture with weights of its own, and no batch norm (paper, appendix A)."""

    def __init__(
        self,
        architecture: Architecture,
        hidden: int,
        config: CellConfig,
        init_range: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.hidden = hidden
        self.plan = cell_plan(architecture, config.output)
        self.input_weight = nn.Parameter(uniform_(torch.empty(2 * hidden, 2 * hidden), init_range, generator))
        self.node_weights = nn.ParameterList(
            uniform_(torch.empty(hidden, 2 * hidden), init_range, generator) for _ in self.plan.sources
        )

    @torch.no_grad()
    def load_slice(self, supernet: SupernetCell) -> None:
        """Copy the weights that the supernet holds for this architecture."""
        weights = supernet.weights(self.architecture)
        self.input_weight.copy_(weights.input_2DE)
        for mine, shared in zip(self.node_weights, weights.nodes_DE, strict=True):
            mine.copy_(shared)

    def forward(
        self,
        inputs_TBD: Tensor,
        state_BD: Tensor,
        *,
        state_mask_BD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Outputs [T, B, D] and the state to carry."""
        weights = CellWeights(self.input_weight, list(self.node_weights))
        output_TBD = run_cell(inputs_TBD, state_BD, weights, self.plan, state_mask_BD)
        return output_TBD, output_TBD[-1]
