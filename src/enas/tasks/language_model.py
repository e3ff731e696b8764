"""A word-level language model around any recurrent cell: tied embedding, dropout masks, softmax.

The same shell serves the supernet, a child and the LSTM they are compared with. Shape letters: T time, B
batch, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas.data.batches import mapped
from enas.masks import mask
from enas.spaces.recurrent.cell import Cell
from enas.tasks.language_settings import DropoutConfig


class Masks(NamedTuple):
    """Dropout masks of one window; None where nothing is dropped."""

    words_TB: Tensor | None = None
    input_BD: Tensor | None = None
    state_BD: Tensor | None = None
    output_BD: Tensor | None = None


NO_MASKS = Masks()


def draw_masks(config: DropoutConfig, tokens_TB: Tensor, vocabulary: int, like_VD: Tensor) -> Masks:
    """Draw the masks of one window, in a fixed order, of the type and on the device of the embedding `like_VD`."""
    batch, hidden = tokens_TB.shape[1], like_VD.shape[1]

    def drawn(rate: float, *shape: int) -> Tensor | None:
        return None if rate == 0 else mask(shape, rate, like_VD)

    if config.words_per == "batch":
        words_V = drawn(config.words, vocabulary)
        words_TB = None if words_V is None else words_V[tokens_TB]
    else:
        words_TB = drawn(config.words, *tokens_TB.shape)
        if words_TB is not None:  # a word that stands twice in a sequence takes the mask of its first place
            same_TTB = tokens_TB.unsqueeze(0) == tokens_TB.unsqueeze(1)
            words_TB = words_TB.gather(0, same_TTB.int().argmax(dim=0))
    embeddings_BD = drawn(config.embeddings, batch, hidden)
    cell_input_BD = drawn(config.cell_input, batch, hidden)
    if embeddings_BD is not None and cell_input_BD is not None:
        input_BD: Tensor | None = embeddings_BD * cell_input_BD
    else:
        input_BD = cell_input_BD if embeddings_BD is None else embeddings_BD
    return Masks(words_TB, input_BD, drawn(config.state, batch, hidden), drawn(config.output, batch, hidden))


class Features(NamedTuple):
    """What the cell made of a window."""

    hidden_TBD: Tensor
    """h_t, without the output mask: the regularisers of activations act on it."""
    output_TBD: Tensor
    """h_t with the output mask: what the softmax reads."""
    state: Any
    """What to carry into the next window."""


class LanguageModel(nn.Module):
    """Next-word prediction: `softmax(h_t Eᵀ)` with the embedding E on both sides (tied, no bias)."""

    cell: Cell

    def __init__(
        self,
        cell: Cell,
        vocabulary: int,
        init_range: float,
        generator: torch.Generator,
        dropout: DropoutConfig | None = None,
    ) -> None:
        """`dropout` says what is dropped in training mode: by default nothing."""
        super().__init__()
        self.vocabulary = vocabulary
        self.hidden = cell.hidden
        self.dropout = DropoutConfig() if dropout is None else dropout
        self.embedding = nn.Embedding(vocabulary, self.hidden)
        self.cell = cell
        nn.init.uniform_(self.embedding.weight, -init_range, init_range, generator)

    def features(
        self,
        tokens_TB: Tensor,
        state: Any,
        masks: Masks | None = None,
        *,
        looked_up_TBD: Tensor | None = None,
        **cell_settings: Any,
    ) -> Features:
        """Run the cell over a window; `cell_settings` go to the cell (the supernet's needs an `architecture`).

        In training mode, masks are drawn unless they are given (see `enas.masks`). The tokens' rows of the embedding are
        looked up unless they are given.
        """
        if masks is None:
            masks = NO_MASKS
            if self.training:
                masks = draw_masks(self.dropout, tokens_TB, self.vocabulary, self.embedding.weight)
        inputs_TBD = self.embedding(tokens_TB) if looked_up_TBD is None else looked_up_TBD
        if masks.words_TB is not None:
            inputs_TBD = inputs_TBD * masks.words_TB.unsqueeze(-1)
        if masks.input_BD is not None:
            inputs_TBD = inputs_TBD * masks.input_BD
        hidden_TBD, state = self.cell(inputs_TBD, state, state_mask_BD=masks.state_BD, **cell_settings)
        output_TBD = hidden_TBD if masks.output_BD is None else hidden_TBD * masks.output_BD
        return Features(hidden_TBD, output_TBD, state)

    def forward(self, tokens_TB: Tensor, state: Any = None, **cell_settings: Any) -> tuple[Tensor, Any]:
        """Logits [T, B, V] of the words that follow, and the state to carry (None at the start of a text)."""
        state = self.initial_state(tokens_TB.shape[1]) if state is None else state
        features = self.features(tokens_TB, state, **cell_settings)
        return F.linear(features.output_TBD, self.embedding.weight), features.state

    def initial_state(self, batch: int) -> Any:
        """The state before the first word of a text."""
        return self.cell.initial_state(batch)


def detach(state: Any) -> Any:
    """The state with the gradient stopped, in memory of its own: what is carried from one window to the next."""
    return mapped(lambda part_BD: part_BD.detach().clone(), state)


class LSTMCell(Cell):
    """One LSTM layer as wide as the embedding: the baseline every found cell is compared with.

    Its weights start as the library's do, U(-1/sqrt(D), 1/sqrt(D)), which suits an LSTM better than a cell's range.
    """

    def __init__(self, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = hidden
        self.lstm = nn.LSTM(hidden, hidden)
        with torch.no_grad():
            for parameter in self.lstm.parameters():
                parameter.uniform_(-(hidden**-0.5), hidden**-0.5, generator=generator)

    def forward(
        self,
        inputs_TBD: Tensor,
        state: tuple[Tensor, Tensor],
        *,
        state_mask_BD: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs [T, B, D] and (h, c), each [B, D]. The state mask multiplies h where it enters a product."""
        weight_ih, weight_hh, bias_ih, bias_hh = self.lstm.all_weights[0]
        projected_TBG = F.linear(inputs_TBD, weight_ih).to(inputs_TBD.dtype) + (bias_ih + bias_hh)
        h_BD, c_BD = state
        outputs = []
        for projected_BG in projected_TBG:
            masked_BD = h_BD if state_mask_BD is None else h_BD * state_mask_BD
            gates_BG = projected_BG + F.linear(masked_BD, weight_hh).to(h_BD.dtype)
            i_BD, f_BD, g_BD, o_BD = gates_BG.chunk(4, dim=-1)
            c_BD = torch.sigmoid(f_BD) * c_BD + torch.sigmoid(i_BD) * torch.tanh(g_BD)
            h_BD = torch.sigmoid(o_BD) * torch.tanh(c_BD)
            outputs.append(h_BD)
        return torch.stack(outputs), (h_BD, c_BD)

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """Zeros (h, c), each [B, D]."""
        zeros_BD = self.lstm.all_weights[0][0].new_zeros(batch, self.hidden)
        return zeros_BD, zeros_BD


def lstm_hidden_of_equal_size(parameters: int, vocabulary: int) -> int:
    """The width D at which an LSTM language model, V·D + 8·D² + 8·D parameters, comes closest to `parameters`."""

    def distance(hidden: int) -> int:
        return abs(vocabulary * hidden + 8 * hidden * (hidden + 1) - parameters)

    hidden = 1
    while distance(hidden + 1) < distance(hidden):
        hidden += 1
    return hidden
