"""A recurrent language model as classes of plain torch: a step of the cell, and the loop over the words."""

from __future__ import annotations

from enas.spaces.recurrent.net import ChildCell
from enas.tasks.language_model import LanguageModel

MODEL = '''class LanguageModel(nn.Module):
    """Next-word prediction, with the embedding on both sides. T words in B rows, V words in the vocabulary."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding({vocabulary}, {hidden})
        self.cell = Cell()

    def initial_state(self, batch):
        """The state before the first word of a text."""
        return {initial}

    def forward(self, tokens, state=None):
        """Scores [T, B, V] of the words that follow the tokens [T, B], and the state to carry."""
        state = self.initial_state(tokens.shape[1]) if state is None else state
        outputs, state = self.cell(self.embedding(tokens), state)
        return F.linear(outputs, self.embedding.weight), state
'''

CELL = '''class Cell(nn.Module):
    """{about}"""

    def __init__(self):
        super().__init__()
        self.input_weight = nn.Parameter(torch.empty({double}, {double}))
        self.node_weights = nn.ParameterList(
            nn.Parameter(torch.empty({hidden}, {double})) for _ in range({nodes})
        )

    def step(self, projected, h):
        """The next state, from the product of the input and its weights, and the state before."""
        {step}

    def forward(self, inputs, h):
        """The states after each of the inputs [T, B, {hidden}], and the last of them."""
        outputs = []
        for projected in inputs @ self.input_weight[:{hidden}]:
            h = self.step(projected, h)
            outputs.append(h)
        return torch.stack(outputs), h
'''

LSTM = '''class Cell(nn.Module):
    """One LSTM layer."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM({hidden}, {hidden})

    def forward(self, inputs, state):
        """The outputs after each of the inputs [T, B, {hidden}], and the last (h, c)."""
        h, c = (part.unsqueeze(0) for part in state)
        outputs, (h, c) = self.lstm(inputs, (h, c))
        return outputs, (h.squeeze(0), c.squeeze(0))
'''


def source(model: LanguageModel) -> tuple[str, str]:
    """The classes of a language model as text, and the expression that makes the model."""
    hidden, cell = model.hidden, model.cell
    zeros = f"torch.zeros(batch, {hidden})"
    if isinstance(cell, ChildCell):
        initial, classes = zeros, cell_source(cell)
    else:
        initial, classes = f"{zeros}, {zeros}", LSTM.format(hidden=hidden)
    whole = MODEL.format(vocabulary=model.vocabulary, hidden=hidden, initial=initial)
    return f"{classes}\n\n{whole}".rstrip(), "LanguageModel()"


def cell_source(cell: ChildCell) -> str:
    """The class of a cell, whose step is written out node by node (paper, appendix A, equations 2-5)."""
    plan, hidden = cell.plan, cell.hidden
    lines = []
    for node, function in enumerate(plan.functions):
        source = "h" if node == 0 else f"s{plan.sources[node - 1]}"
        weight = f"self.input_weight[{hidden}:]" if node == 0 else f"self.node_weights[{node - 1}]"
        product = f"projected + h @ {weight}" if node == 0 else f"{source} @ {weight}"
        candidate = "a" if function == "identity" else f"torch.{function}(a)"
        lines.append(f"a, g = ({product}).chunk(2, dim=-1)")
        lines.append(f"s{node} = {source} + torch.sigmoid(g) * ({candidate} - {source})")
    nodes = ", ".join(f"s{node}" for node in plan.outputs)
    lines.append(f"return torch.stack([{nodes}]).mean(0)")
    return CELL.format(
        about=f"The recurrent cell {cell.architecture}.",
        hidden=hidden,
        double=2 * hidden,
        nodes=len(plan.sources),
        step="\n        ".join(lines),
    )
