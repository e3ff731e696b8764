"""The paper's controller for spaces that are no networks of its own: decision after decision, each a choice of a name.

Every decision takes one LSTM step that reads the option taken before it (at first, the "empty" embedding); its h gives
the logits. Decisions with the same options share their embeddings and softmax weights, as functions and operations do
in the paper. There is no attention: nothing is chosen by what was decided about it. An inactive decision is passed over: the
next one goes on from where the last active one was.

Shape letters: those of `lstm_steps`.
"""

from __future__ import annotations

import torch

from enas.architecture import Space
from enas.controllers.lstm_steps import LSTMConfig, Path, StepwisePolicy


class SequenceLSTMPolicy(StepwisePolicy):
    """π(a) = Π of p(decision | all decisions before it), by an LSTM."""

    meaningless = ("distance_prior", "operation_tanh_reduce", "operation_prior")

    def __init__(self, space: Space, config: LSTMConfig, generator: torch.Generator) -> None:
        starts: dict[tuple[str, ...], int] = {}
        rows = 0
        for decision in space.decisions:
            if decision.options not in starts:
                starts[decision.options] = rows
                rows += len(decision.options)
        super().__init__(space, config, rows, generator)
        del self.key_SS, self.query_SS, self.attention_S
        self.starts = starts
        """Where the options of decisions stand among all."""

    def walk(self, path: Path) -> None:
        h_NS = c_NS = self.zeros(path.n)
        embedding_FG = self.embedding_inputs()
        input_NG = self.empty_input(path.n)
        for decision in self.space.decisions:
            first = self.starts[decision.options]
            rows = slice(first, first + len(decision.options))
            before = input_NG, h_NS, c_NS
            h_NS, c_NS = self.step(input_NG, h_NS, c_NS)
            logits_NK = self.squash(h_NS @ self.softmax_FS[rows].T)
            input_NG = embedding_FG[rows][path.take(decision.kind, decision.node, logits_NK)]
            if self.space.conditional:
                active_N1, after = path.active().unsqueeze(1), (input_NG, h_NS, c_NS)
                input_NG, h_NS, c_NS = (
                    torch.where(active_N1, new, old) for new, old in zip(after, before, strict=True)
                )
