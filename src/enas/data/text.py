"""A corpus: three streams of word indices over one vocabulary, read from a folder of plain text.

Words are what whitespace separates; every line, an empty one too, ends with the word `<eos>`. The
vocabulary is the sorted words of the training text, as in the authors' code. Mikolov's Penn Treebank comes
out with 10,000 words and 929,589 / 73,760 / 82,430 tokens, WikiText-2 with 33,278 words and 2,088,628 /
217,646 / 245,569 tokens.

Words outside the vocabulary become `<unk>`:

* A word of valid.txt or test.txt that train.txt lacks is `<unk>`. Where the training text itself holds
  `<unk>` (Penn Treebank, WikiText-2), that is the word; otherwise it is added to the vocabulary, but only
  if it is needed. An added `<unk>` is never seen in training, so its probability is arbitrary: cap the
  vocabulary to avoid that.
* With `max_vocabulary`, only the most frequent training words are kept (equal counts: in alphabetical order),
  `<eos>` and `<unk>` always among them, and all others are `<unk>` in the training text as well.

The more words `<unk>` stands for, the easier it is to predict: perplexities compare only between runs with
the same `Corpus.hash`.
"""

import codecs
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from enas.errors import ConfigError, DataError

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
EOS = "<eos>"
UNKNOWN = "<unk>"


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as word indices, ready for `enas.data.windows.batchify`.

    Raises `DataError` if a split is not a one-dimensional int64 tensor of indices into the vocabulary.
    """

    name: str
    """What it is called in logs and reports."""

    vocabulary: tuple[str, ...] = field(repr=False)
    """Word of each index."""

    train: Tensor = field(repr=False)
    """Training tokens in the order of the text, one-dimensional int64."""

    valid: Tensor = field(repr=False)
    """Validation tokens."""

    test: Tensor = field(repr=False)
    """Test tokens."""

    source: dict[str, str]
    """Where it comes from, for the record of a run. Added here: `tokens` (a split), `unknown` (share of
    `<unk>` in each split) and `hash`."""

    hash: str = field(init=False)
    """Hexadecimal sha256 over vocabulary and splits, the same on every machine."""

    def __post_init__(self) -> None:
        splits = {split: self._checked(split).numpy() for split in SPLITS}
        described = {"tokens": ", ".join(f"{split} {len(tokens):,}" for split, tokens in splits.items())}
        if UNKNOWN in self.vocabulary:
            unknown = self.vocabulary.index(UNKNOWN)
            shares = (f"{split} {np.mean(tokens == unknown):.2%}" for split, tokens in splits.items())
            described["unknown"] = ", ".join(shares)
        described["hash"] = _hash(self.vocabulary, splits)
        object.__setattr__(self, "hash", described["hash"])
        object.__setattr__(self, "source", self.source | described)

    def _checked(self, split: Split) -> Tensor:
        tokens: Tensor = getattr(self, split)
        if tokens.dtype != torch.int64 or tokens.dim() != 1 or tokens.numel() == 0:
            raise DataError(
                f"The {split} split of {self.name} must be a one-dimensional int64 tensor with tokens in it, "
                f"not {tokens.dtype} of shape {tuple(tokens.shape)}."
            )
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= len(self.vocabulary):
            raise DataError(
                f"The {split} split of {self.name} holds indices from {low} to {high}, "
                f"but its vocabulary has {len(self.vocabulary)} words."
            )
        return tokens

    def __str__(self) -> str:
        return f"{self.name}: {len(self.vocabulary):,} words; tokens: {self.source['tokens']}"


def _hash(vocabulary: tuple[str, ...], splits: Mapping[Split, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(vocabulary).encode("ascii"))
    for split, tokens in splits.items():
        digest.update(f"{split} {len(tokens)}\n".encode("ascii"))
        digest.update(tokens.astype("<i8").tobytes())
    return digest.hexdigest()


def corpus_from_words(
    name: str,
    words: Mapping[Split, Iterable[str]],
    source: Mapping[str, str],
    max_vocabulary: int | None = None,
) -> Corpus:
    """Number the words of the three splits as the module describes; each iterable is read once.

    Raises `ConfigError` if `max_vocabulary` leaves no room for a word beside `<eos>` and `<unk>`.
    """
    if max_vocabulary is not None and max_vocabulary < 3:
        raise ConfigError(
            f"max_vocabulary is {max_vocabulary}; with {EOS} and {UNKNOWN} always kept, set it to 3 or more."
        )
    # Words are numbered as they are first seen and renumbered once all are counted: the text is read once.
    seen: dict[str, int] = {}
    first_numbers = {
        split: np.array([seen.setdefault(word, len(seen)) for word in words[split]], np.int64)
        for split in SPLITS
    }
    train_counts = np.bincount(first_numbers["train"], minlength=len(seen)).tolist()
    vocabulary = _vocabulary(dict(zip(seen, train_counts, strict=True)), max_vocabulary)

    index = {word: i for i, word in enumerate(vocabulary)}
    unknown = index.get(UNKNOWN, -1)  # without <unk>, every word is in the vocabulary and this is never used
    renumbered = np.array([index.get(word, unknown) for word in seen], np.int64)
    train, valid, test = (torch.from_numpy(renumbered[first_numbers[split]]) for split in SPLITS)
    return Corpus(name, vocabulary, train, valid, test, dict(source))


def _vocabulary(train_counts: Mapping[str, int], limit: int | None) -> tuple[str, ...]:
    """Sorted words to keep, given the count in training of every word of the corpus."""
    trained = {word for word, count in train_counts.items() if count > 0}
    too_many = limit is not None and len(trained) > limit
    unseen = len(trained) < len(train_counts)
    kept = {EOS, UNKNOWN} if too_many or unseen else {EOS}
    others = sorted(trained - kept, key=lambda word: (-train_counts[word], word))
    room = None if limit is None else limit - len(kept)
    return tuple(sorted(kept.union(others[:room])))


def read_folder(
    folder: str | Path,
    name: str | None = None,
    max_vocabulary: int | None = None,
    max_tokens: Mapping[Split, int] | None = None,
) -> Corpus:
    """Read train.txt, valid.txt and test.txt (UTF-8) of a folder.

    `max_tokens` limits the splits it names to as many whole lines, from the first, as hold at most so many
    tokens.
    Raises `DataError` for a missing folder or file, a file without words or not in UTF-8, and a limit below
    the first line.
    """
    folder = Path(folder).expanduser()
    layout = "a text folder holds train.txt, valid.txt and test.txt"
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; {layout}.")
    paths = {split: folder / f"{split}.txt" for split in SPLITS}
    for path in paths.values():
        if not path.is_file():
            raise DataError(f"{folder} has no {path.name}; {layout}.")
    limits = max_tokens or {}
    return corpus_from_words(
        name or folder.resolve().name,
        {split: _words(path, limits.get(split)) for split, path in paths.items()},
        {"folder": str(folder.resolve())} | describe_limits(max_vocabulary, limits),
        max_vocabulary,
    )


def describe_limits(max_vocabulary: int | None, max_tokens: Mapping[Split, int]) -> dict[str, str]:
    """Entries of `Corpus.source` that say what was left out of the text."""
    limits = {f"max_{split}_tokens": str(limit) for split, limit in max_tokens.items()}
    return limits if max_vocabulary is None else {"max_vocabulary": str(max_vocabulary)} | limits


def _words(path: Path, limit: int | None) -> Iterator[str]:
    total, has_words = 0, False
    for words in _lines(path):
        if limit is not None and total + len(words) > limit:
            break
        total += len(words)
        has_words = has_words or len(words) > 1
        yield from words
    if not has_words and limit is None:
        raise DataError(f"{path} has no words; put text into it, words separated by spaces.")
    if not has_words:
        raise DataError(f"{path} has no line with words within {limit} tokens; raise max_{path.stem}_tokens.")


def _lines(path: Path) -> Iterator[list[str]]:
    """Words of each line, `<eos>` last."""
    offset = 0
    with path.open("rb") as file:
        for line in file:
            # Decoded by line, so that memory is that of the tokens and an error has its place in the file.
            # A byte-order mark belongs to the encoding, not to the first word.
            text = line.removeprefix(codecs.BOM_UTF8) if offset == 0 else line
            try:
                yield [*text.decode("utf-8").split(), EOS]
            except UnicodeDecodeError as error:
                position = offset + len(line) - len(text) + error.start
                raise DataError(
                    f"{path} is not UTF-8: byte 0x{text[error.start]:02x} at position {position}; "
                    "convert the file to UTF-8."
                ) from error
            offset += len(line)
