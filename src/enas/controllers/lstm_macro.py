"""The paper's controller of whole networks (§2.3): layer after layer, an operation and then its skip connections.

* A step that reads the skip connections of the layer before (at first, the "empty" embedding) gives the
  operation of layer i; a second step reads this operation, and its h is the anchor of the layer's output.
* With the same h, every bit j of the layer is decided by attention to the anchor of the tensor it would take:
  the logits of (no, yes) are (-z_j, z_j), squashed, so that P(skip) = σ(2 z_j). No bit depends on another of
  the same layer.
* The next step reads Σ of the anchors taken / (1 + their number), at layer 0 the "empty" embedding.

The tensor of bit j is T[j]: T[0] the stem, T[j] the output of layer j-1. The stem's anchor and key are 0, as
those of the fixed input node in the authors' corrected recurrent code. The first released code attends to the
anchor of layer j for a bit that takes the output of layer j-1; here the two are the same tensor.

Shape letters: those of `lstm_steps`, j bits of one layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from enas.architecture import Space
from enas.controllers.lstm_steps import LSTMConfig, Path, StepwisePolicy


class MacroLSTMPolicy(StepwisePolicy):
    """π(a) = Π of p(decision | all layers before, and the layer's operation), by an LSTM."""

    meaningless = ("distance_prior", "operation_tanh_reduce", "operation_prior")

    def __init__(self, space: Space, config: LSTMConfig, generator: torch.Generator) -> None:
        super().__init__(space, config, len(space.decisions[0].options), generator)
        self.layers = sum(decision.kind == "operation" for decision in space.decisions)

    def walk(self, path: Path) -> None:
        h_NS = c_NS = stem_NS = self.zeros(path.n)
        embedding_FG = self.embedding_inputs()
        anchors, keys = [stem_NS], [stem_NS]  # of T[0], T[1], ...
        input_NG = empty_NG = self.empty_input(path.n)
        for layer in range(self.layers):
            h_NS, c_NS = self.step(input_NG, h_NS, c_NS)
            operation_N = path.take("operation", layer, self.squash(h_NS @ self.softmax_FS.T))
            h_NS, c_NS = self.step(embedding_FG[operation_N], h_NS, c_NS)
            if layer == 0:
                input_NG = empty_NG
            else:
                z_Nj = self.attend(h_NS, keys[:layer])
                logits_Nj2 = torch.stack((-z_Nj, z_Nj), -1)
                skips_Nj = path.take_together("skip", layer, logits_Nj2).to(z_Nj.dtype)
                input_NG = self._taken(anchors[:layer], skips_Nj) @ self.input_SG
            anchors.append(h_NS)
            keys.append(h_NS @ self.key_SS)

    def _taken(self, anchors: list[Tensor], skips_Nj: Tensor) -> Tensor:
        """Σ of the anchors taken / (1 + their number) [N, S]."""
        sum_NS = torch.einsum("nj,jns->ns", skips_Nj, torch.stack(anchors))
        return sum_NS / (1 + skips_Nj.sum(1, keepdim=True))
