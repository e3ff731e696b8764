"""A small transformer that reads the text of Python's own library: heads, widths, the place of the norms, activations.

Options need no weights of their own: all numbers of heads use the same projections. Choices that are given the same
`SharedDecision` decide alike: the activations of all layers, and the two places of a norm, of which only one has it.

Command:  enas run examples/transformer.py   (some minutes on two cores; fewer with --budget 2m)
or        python examples/transformer.py   (the same, and how the found network goes on with a line)
"""

import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import enas
from enas import Choice, NetworkConfig, SharedDecision, Task, Training
from enas.data.stdlib import read_stdlib
from enas.data.text import Corpus

WORDS, LENGTH, FEATURES, LAYERS = 500, 32, 64, 2
TOKENS = {"train": 40_000, "valid": 10_000, "test": 10_000}


class Heads(nn.Module):
    """Causal attention by so many heads."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, query_BTF: Tensor, key_BTF: Tensor, value_BTF: Tensor) -> Tensor:
        by_head = [x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query_BTF, key_BTF, value_BTF)]
        return F.scaled_dot_product_attention(*by_head, is_causal=True).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Projections, between them heads of a chosen number."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(FEATURES, 3 * FEATURES)
        self.heads = Choice({f"heads{number}": Heads(number) for number in (1, 2, 4, 8)})
        self.leave = nn.Linear(FEATURES, FEATURES)

    def forward(self, x_BTF: Tensor) -> Tensor:
        return self.leave(self.heads(*self.enter(x_BTF).chunk(3, -1)))


def feed_forward(width: int, activation: SharedDecision) -> nn.Module:
    """Two linear layers with an activation between them."""
    between = Choice({"relu": nn.ReLU(), "gelu": nn.GELU(), "tanh": nn.Tanh()}, activation)
    return nn.Sequential(nn.Linear(FEATURES, width), between, nn.Linear(width, FEATURES))


class Residual(nn.Module):
    """Adds what a layer makes of its input, and takes the norm first, of the input, or last, of the sum."""

    def __init__(self, layer: nn.Module, place: SharedDecision) -> None:
        super().__init__()
        self.layer = layer
        self.before = Choice({"first": nn.LayerNorm(FEATURES), "last": nn.Identity()}, place)
        self.after = Choice({"first": nn.Identity(), "last": nn.LayerNorm(FEATURES)}, place)

    def forward(self, x_BTF: Tensor) -> Tensor:
        return self.after(x_BTF + self.layer(self.before(x_BTF)))


class Net(nn.Module):
    """Scores [B, T, V] of the words that follow, of words [B, T]."""

    def __init__(self) -> None:
        super().__init__()
        place, activation = SharedDecision("norm"), SharedDecision("activation")
        self.words, self.places = nn.Embedding(WORDS, FEATURES), nn.Embedding(LENGTH, FEATURES)
        self.layers = nn.Sequential()
        for _ in range(LAYERS):
            wide = Choice({f"wide{width}": feed_forward(width, activation) for width in (64, 128, 256)})
            self.layers.extend([Residual(Attention(), place), Residual(wide, place)])
        self.head = nn.Sequential(nn.LayerNorm(FEATURES), nn.Linear(FEATURES, WORDS))

    def forward(self, words_BT: Tensor) -> Tensor:
        return self.head(self.layers(self.words(words_BT) + self.places.weight[: words_BT.shape[1]]))


def loss(scores_BTV: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The cross-entropy of the words that follow."""
    return F.cross_entropy(scores_BTV.flatten(0, 1), batch[1].flatten())


def bits(scores_BTV: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Bits a word: fewer are better."""
    return loss(scores_BTV, batch) / math.log(2)


@cache
def text() -> Corpus:
    """The text, which is read once."""
    return read_stdlib(max_vocabulary=WORDS, max_tokens=TOKENS)


def windows(tokens_N: Tensor) -> tuple[Tensor, Tensor]:
    """Pieces of the text [N, LENGTH], and the word that follows each of theirs."""
    count = (len(tokens_N) - 1) // LENGTH
    ends = count * LENGTH
    return tokens_N[:ends].reshape(count, LENGTH), tokens_N[1 : ends + 1].reshape(count, LENGTH)


def task() -> Task:
    """Predicting every word from those before it."""
    splits = [windows(tokens_N) for tokens_N in (text().train, text().valid, text().test)]
    training = Training(optimizer="adamw", learning_rate=0.003, warmup=1.0, clip=1.0)
    return Task(*splits, batch=32, loss=loss, score=bits, higher_is_better=False, training=training)


def recipe() -> NetworkConfig:
    """What `enas run` reads."""
    return NetworkConfig(network=Net, task=task)


def main(folder: str = "runs/transformer", **settings: object) -> None:
    """Search, train what was found beside three random networks, and let it write."""
    found = enas.search(Net, task, folder, **settings)
    print(f"{found.space.count():,} networks; found: {found.architecture}")
    model = enas.train(found, random=3)
    words = text().test[:8].tolist()
    with torch.no_grad():
        while len(words) < LENGTH:
            words.append(int(model(torch.tensor([words]))[0, -1].argmax()))
    print(*(text().vocabulary[word] for word in words))


if __name__ == "__main__":
    main()
