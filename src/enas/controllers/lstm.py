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

import torch
from torch import Tensor

from enas.architecture import Kind, Space
from enas.controllers.lstm_steps import LSTMConfig, Path, StepwisePolicy, picked


class LSTMPolicy(StepwisePolicy):
    """π(a) = Π of p(decision | all decisions before it), by an LSTM."""

    meaningless = ("operation_tanh_reduce", "operation_prior")
    _distance_K: Tensor

    def __init__(self, space: Space, config: LSTMConfig, generator: torch.Generator) -> None:
        functions = max((len(d.options) for d in space.decisions if d.kind == "function"), default=0)
        super().__init__(space, config, functions, generator)
        self.nodes: list[list[Kind]] = [[] for _ in range(1 + max(d.node for d in space.decisions))]
        """What each node decides."""
        for decision in space.decisions:
            self.nodes[decision.node].append(decision.kind)
        self.distance_prior = config.distance_prior
        distance_K = torch.arange(len(self.nodes) - 1, 0, -1, dtype=torch.get_default_dtype())
        self.register_buffer("_distance_K", distance_K, persistent=False)

    def walk(self, path: Path) -> None:
        zeros_NS = self.zeros(path.n)
        embedding_FG = self.embedding_inputs()
        anchors: list[Tensor] = []
        keys: list[Tensor] = []
        input_NG = self.empty_input(path.n)
        h_NS = c_NS = zeros_NS
        for k, kinds in enumerate(self.nodes):
            if not kinds:
                anchors.append(zeros_NS)
                keys.append(zeros_NS)
                continue
            h_NS, c_NS = self.step(input_NG, h_NS, c_NS)
            anchors.append(h_NS)
            keys.append(h_NS @ self.key_SS)
            if "source" in kinds and k > 0:
                source_N = path.take("source", k, self._source_logits(h_NS, keys[:k]))
                distance_N = (k - source_N).to(zeros_NS.dtype)
                input_NG = (picked(anchors, source_N) / (0.1 + distance_N).unsqueeze(1)) @ self.input_SG
            if "function" in kinds:
                h_NS, c_NS = self.step(input_NG, h_NS, c_NS)
                input_NG = embedding_FG[path.take("function", k, self.squash(h_NS @ self.softmax_FS.T))]

    def logit_bounds(self) -> tuple[Tensor, Tensor]:
        """Those of the squash, the distance of a source subtracted."""
        low_LK, high_LK = super().logit_bounds()
        if self.distance_prior:
            for position, decision in enumerate(self.space.decisions):
                if decision.kind == "source":
                    penalty_k = self._distance_K[-decision.node :].cpu().square() / 6
                    low_LK[position, : decision.node] -= penalty_k
                    high_LK[position, : decision.node] -= penalty_k
        return low_LK, high_LK

    def _source_logits(self, h_NS: Tensor, keys: list[Tensor]) -> Tensor:
        """The logits of node k reading node j = 0 .. k-1 [N, k]."""
        logits_Nk = self.attend(h_NS, keys)
        if not self.distance_prior:
            return logits_Nk
        return logits_Nk - self._distance_K[-len(keys) :].square() / 6
