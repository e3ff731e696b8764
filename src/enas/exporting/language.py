"""A recurrent language model as two graphs: one step with its state in and out, and a sequence of any length.

Shape letters: T time, B batch, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan  # a loop in a graph; torch has no public name for it yet
from torch.nn import functional as F

from enas.exporting.language_code import source
from enas.exporting.subject import Inputs, Run, Subject, numbered
from enas.runtime.seeding import generator
from enas.tasks.language_model import LanguageModel


class Step(nn.Module):
    """One word of every row."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """From tokens [B] and the state to scores [B, V] of the next words, and the next state."""
        scores_1BV, following = self.model(tokens.unsqueeze(0), packed(state))
        return scores_1BV.squeeze(0), *parts(following)


class Sequence(nn.Module):
    """Words of every row, one after the other: `LanguageModel`, with its loop over time in the graph."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """From tokens [T, B] and the state to scores [T, B, V] of the next words, and the last state."""

        def step(before: Inputs, input_BD: Tensor) -> tuple[Inputs, Tensor]:
            output_1BD, after = self.model.cell(input_BD.unsqueeze(0), packed(before))
            return tuple(part.clone() for part in parts(after)), output_1BD.squeeze(0).clone()

        last, output_TBD = scan(step, state, self.model.embedding(tokens))
        return F.linear(output_TBD, self.model.embedding.weight), *last


def packed(state: Inputs) -> Any:
    """The state as a cell takes it: one tensor, or several."""
    return state[0] if len(state) == 1 else state


def parts(state: Any) -> Inputs:
    """The tensors of a state."""
    return state if isinstance(state, tuple) else (state,)


def subjects(
    model: LanguageModel, about: Mapping[str, Any], title: str
) -> tuple[Subject, tuple[Subject, ...]]:
    """The model as it is, called with tokens [T, B] and a state; and the two graphs that it is exported as."""
    zeros = parts(model.initial_state(1))

    def drawn(batch: int) -> Inputs:
        draw = generator(0, "example", batch)
        tokens_TB = torch.randint(model.vocabulary, (2 + batch % 3, batch), generator=draw)
        return tokens_TB, *(torch.rand(batch, zero.shape[1], generator=draw) - 0.5 for zero in zeros)

    def one_word(batch: int) -> Inputs:
        tokens_TB, *state = drawn(batch)
        return tokens_TB[0], *state

    def caller(module: nn.Module) -> Run:
        return lambda tokens, *state: module(tokens, packed(state))

    inputs = ("tokens", *numbered("state", len(zeros)))
    outputs = ("scores", *numbered("next_state", len(zeros)))
    of_state: tuple[Mapping[int, str], ...] = ({0: "batch"},) * len(zeros)
    in_time: tuple[Mapping[int, str], ...] = ({0: "time", 1: "batch"}, *of_state)
    whole = Subject(
        "model", model, drawn, in_time, inputs, outputs, about, title, caller, model, partial(source, model)
    )
    step = Subject("step", Step(model), one_word, ({0: "batch"}, *of_state), inputs, outputs, about)
    return whole, (step, replace(whole, name="sequence", module=Sequence(model)))
