"""The paper's controller of recurrent cells (§2.1-2.2): node after node, source then function.

Details the paper leaves open follow the authors' recurrent code:

* Every node that decides something takes one LSTM step that reads the function of the node before (at
  first, the "empty" embedding); the state h of this step is the node's anchor. A node without decisions (the
  fixed input node of the corrected code) has the anchor 0 and the key 0.
* The source of node k is chosen by attention over the earlier anchors; its logits are squashed and then, if
  asked for, lowered by (k - j)²/6.
* A second step reads the chosen anchor, scaled by 1/(0.1 + k - j), and its h gives the function. At a node
  without a source it reads what the first step read.

Shape letters: those of `lstm_steps`, k also the number of a node.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from enas.architecture import Space
from enas.controllers.lstm_steps import LSTMConfig, Path, StepwisePolicy, cannot_decide, picked


class NodeDecisions(NamedTuple):
    """Where a node's decisions stand among the space's; None for one that it does not take."""

    source: int | None = None
    function: int | None = None


NOTHING = NodeDecisions()


def nodes_of(space: Space) -> tuple[NodeDecisions, ...]:
    """The decisions of nodes 0, 1, ...

    Raises `ConfigError` unless nodes come in order, each deciding at most a source, among all nodes before
    it, and then a function, among the same functions at every node.
    """
    decisions = space.decisions
    nodes = [NOTHING] * (1 + max(decision.node for decision in decisions))
    kinds: dict[int, list[str]] = {}
    for position, decision in enumerate(decisions):
        kinds.setdefault(decision.node, []).append(decision.kind)
        if decision.kind == "source":
            nodes[decision.node] = nodes[decision.node]._replace(source=position)
        else:
            nodes[decision.node] = nodes[decision.node]._replace(function=position)
    if not (
        all(before.node <= after.node for before, after in pairwise(decisions))
        and all(of_node in (["source"], ["function"], ["source", "function"]) for of_node in kinds.values())
        and all(len(d.options) == d.node for d in decisions if d.kind == "source")
        and len({d.options for d in decisions if d.kind == "function"}) <= 1
    ):
        raise cannot_decide(
            space,
            "nodes in order, each with at most a source among all earlier nodes and then a function, "
            "the same functions everywhere",
        )
    return tuple(nodes)


class LSTMPolicy(StepwisePolicy):
    """π(a) = Π of p(decision | all decisions before it), by an LSTM."""

    meaningless = ("operation_tanh_reduce", "operation_prior")
    _distance_K: Tensor

    def __init__(self, space: Space, config: LSTMConfig, generator: torch.Generator) -> None:
        """Raises `ConfigError` if the space is not one of recurrent cells."""
        nodes = nodes_of(space)
        functions = max((len(d.options) for d in space.decisions if d.kind == "function"), default=0)
        super().__init__(space, config, functions, generator)
        self.nodes = nodes
        self.distance_prior = config.distance_prior
        distance_K = torch.arange(len(nodes) - 1, 0, -1, dtype=torch.get_default_dtype())
        self.register_buffer("_distance_K", distance_K, persistent=False)

    def walk(self, path: Path) -> None:
        zeros_NS = self.zeros(path.n)
        embedding_FG = self.embedding_inputs()
        anchors: list[Tensor] = []
        keys: list[Tensor] = []
        input_NG = self.empty_input(path.n)
        h_NS = c_NS = zeros_NS
        for k, node in enumerate(self.nodes):
            if node == NOTHING:
                anchors.append(zeros_NS)
                keys.append(zeros_NS)
                continue
            h_NS, c_NS = self.step(input_NG, h_NS, c_NS)
            anchors.append(h_NS)
            keys.append(h_NS @ self.key_SS)
            if node.source is not None:
                source_N = path.take(self._source_logits(h_NS, keys[:k]))
                distance_N = (k - source_N).to(zeros_NS.dtype)
                input_NG = (picked(anchors, source_N) / (0.1 + distance_N).unsqueeze(1)) @ self.input_SG
            if node.function is not None:
                h_NS, c_NS = self.step(input_NG, h_NS, c_NS)
                input_NG = embedding_FG[path.take(self.squash(h_NS @ self.softmax_FS.T))]

    def logit_bounds(self) -> tuple[Tensor, Tensor]:
        """Those of the squash, the distance of a source subtracted."""
        low_LK, high_LK = super().logit_bounds()
        if self.distance_prior:
            for k, node in enumerate(self.nodes):
                if node.source is not None:
                    penalty_k = self._distance_K[-k:].cpu().square() / 6
                    low_LK[node.source, :k] -= penalty_k
                    high_LK[node.source, :k] -= penalty_k
        return low_LK, high_LK

    def _source_logits(self, h_NS: Tensor, keys: list[Tensor]) -> Tensor:
        """The logits of node k reading node j = 0 .. k-1 [N, k]."""
        logits_Nk = self.attend(h_NS, keys)
        if not self.distance_prior:
            return logits_Nk
        return logits_Nk - self._distance_K[-len(keys) :].square() / 6
