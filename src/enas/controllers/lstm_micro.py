"""The paper's controller of cells (§2.4): the normal and then the reduction cell, from one run of the LSTM; or the one cell
that is both.

* A cell starts with two steps on the "empty" embedding for its inputs, nodes 0 and 1. Their keys come from the
  h of these steps, their anchors are 0 (authors' code).
* Node n takes five steps. The first reads the "empty" embedding and gives source 1, by attention over nodes
  0 .. n-1; the second reads the anchor of source 1 and gives source 2; the third reads the anchor of source 2
  and gives operation 1; the fourth reads operation 1 and gives operation 2; the last reads operation 2, and its
  h is the anchor of the node.
* Operations have a bias inside the squash, z = h W_softmax + b, and a tanh constant of their own.
* The next cell goes on from the state of the last, with anchors and keys of its own.

The first released code starts b at (10, 10, 0, 0, 0), where the tanh is flat: what it favours by that it can
never unlearn, nor can it prefer one separable convolution to the other. Here b starts at 0, and what that code
favours is a setting, `operation_prior`: biases outside the tanh, which learn.

Shape letters: those of `lstm_steps`, M cells.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from enas.architecture import Space
from enas.controllers.lstm_steps import LSTMConfig, Path, StepwisePolicy, picked
from enas.errors import ConfigError

INPUTS = 2
"""Nodes 0 and 1 of a cell, the outputs of the two cells before."""

SEPARABLE = ("sep3x3", "sep5x5")
"""The operations that the first released code favours."""

AUTHORS_PRIOR = ((1.10 / 2.5 + 0.25, -0.25), (1.10 / 2.5, 0.0))
"""Its logits at the start: (separable, other) in the normal and in the reduction cell."""


class MicroLSTMPolicy(StepwisePolicy):
    """π(a) = Π of p(decision | all decisions before it), by one run of an LSTM over all cells."""

    meaningless = ("distance_prior",)

    def __init__(self, space: Space, config: LSTMConfig, generator: torch.Generator) -> None:
        operations = next(decision.options for decision in space.decisions if decision.kind == "operation")
        super().__init__(space, config, len(operations), generator)
        nodes = space.decisions[::4]  # the first of the four decisions of every node
        firsts = [number for number, decision in enumerate(nodes) if decision.node == INPUTS]
        self.cells = tuple(end - first for first, end in pairwise([*firsts, len(nodes)]))
        """The number of computed nodes of each cell."""
        self.operation_tanh_reduce = config.operation_tanh_reduce
        self.bias_F = nn.Parameter(torch.zeros(len(operations)))
        self.prior_MF = None if config.operation_prior == "none" else self._authors_prior(operations)

    def walk(self, path: Path) -> None:
        h_NS = c_NS = zeros_NS = self.zeros(path.n)
        empty_NG = self.empty_input(path.n)
        embedding_FG = self.embedding_inputs()
        for cell, nodes in enumerate(self.cells):
            anchors, keys = [zeros_NS] * INPUTS, []
            for _ in range(INPUTS):
                h_NS, c_NS = self.step(empty_NG, h_NS, c_NS)
                keys.append(h_NS @ self.key_SS)
            for node in range(INPUTS, INPUTS + nodes):
                input_NG = empty_NG
                for _ in range(2):
                    h_NS, c_NS = self.step(input_NG, h_NS, c_NS)
                    source_N = path.take("source", node, self.attend(h_NS, keys))
                    input_NG = picked(anchors, source_N) @ self.input_SG
                for _ in range(2):
                    h_NS, c_NS = self.step(input_NG, h_NS, c_NS)
                    operation_N = path.take("operation", node, self._operation_logits(h_NS, cell))
                    input_NG = embedding_FG[operation_N]
                h_NS, c_NS = self.step(input_NG, h_NS, c_NS)
                anchors.append(h_NS)
                keys.append(h_NS @ self.key_SS)

    def logit_bounds(self) -> tuple[Tensor, Tensor]:
        """Those of the squash, narrower for operations; none for them if they have biases outside of it."""
        low_LK, high_LK = super().logit_bounds()
        scale = 1 / self.operation_tanh_reduce if self.prior_MF is None else math.inf
        for position, decision in enumerate(self.space.decisions):
            if decision.kind == "operation":
                low_LK[position] *= scale
                high_LK[position] *= scale
        return low_LK, high_LK

    def _operation_logits(self, h_NS: Tensor, cell: int) -> Tensor:
        """The logits of the operations of a node [N, F]."""
        logits_NF = self.squash(h_NS @ self.softmax_FS.T + self.bias_F, self.operation_tanh_reduce)
        return logits_NF if self.prior_MF is None else logits_NF + self.prior_MF[cell]

    def _authors_prior(self, operations: tuple[str, ...]) -> nn.Parameter:
        """Biases that start where the first released code starts [M, F]; those of a normal cell if there is only one.

        Raises `ConfigError` for more than a normal and a reduction cell.
        """
        if len(self.cells) > len(AUTHORS_PRIOR):
            raise ConfigError(
                f"operation_prior = authors is for a normal and a reduction cell, not for the {len(self.cells)} of the "
                f"{self.space.name} space; leave it at none."
            )
        priors = AUTHORS_PRIOR[: len(self.cells)]
        rows = [[sep if name in SEPARABLE else other for name in operations] for sep, other in priors]
        return nn.Parameter(torch.tensor(rows))
