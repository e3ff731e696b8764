"""A corpus: three streams of word indices over one vocabulary, read from a folder of plain text.

Words are what whitespace separates, as Python's `str.split` knows it: spaces and tabs, but also the no-break space
(U+00A0) and the other spaces of Unicode, its separators of lines and paragraphs, and the control characters 0x1c to 0x1f;
not the zero-width space (U+200B), which is part of a word. Marks of byte order (U+FEFF) are dropped wherever they are.
Every line, an empty one too, ends with the word `<eos>`, and has no second one if it is written there. The
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
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from enas.data.own_files import data_path, is_data, printable
from enas.errors import ConfigError, DataError
from enas.runtime.progress import say

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}
"""What people call the splits."""
TEXT_SUFFIXES = {".txt", ".tokens"}
EOS = "<eos>"
UNKNOWN = "<unk>"


def named_split(name: str) -> Split | None:
    """The split that a name stands for, in capitals or small letters; None if it is no usual one."""
    return SPLIT_NAMES.get(name.casefold())


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
        unknown = f"; {UNKNOWN}: {self.source['unknown']}" if "unknown" in self.source else ""
        words = f"{len(self.vocabulary):,} words"
        return f"{printable(self.name)}: {words}; tokens: {self.source['tokens']}{unknown}"


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
    """Read train.txt, valid.txt and test.txt (UTF-8) of a folder, or files of other usual names (`find_texts`).

    `max_tokens` limits the splits it names to as many whole lines, from the first, as hold at most so many
    tokens.
    Raises `DataError` for a missing folder or file, a file without words or not in UTF-8, and a limit below
    the first line.
    """
    folder = data_path(str(folder))
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; {LAYOUT}.")
    paths = find_texts(folder)
    limits = max_tokens or {}
    return corpus_from_words(
        name or folder.resolve().name,
        {split: _words(split, path, limits.get(split)) for split, path in paths.items()},
        {"folder": str(folder.resolve())} | describe_limits(max_vocabulary, limits),
        max_vocabulary,
    )


LAYOUT = "a text folder holds train.txt, valid.txt and test.txt"


def find_texts(folder: Path) -> dict[Split, Path]:
    """The file of each split: train.txt, valid.txt and test.txt, or another with a usual name of the split.

    That is a name of `SPLIT_NAMES`, something and a dot before it or not, with a suffix of `TEXT_SUFFIXES`, in capitals
    or not: `val.txt`, `wiki.train.tokens`. Says which files are left out.
    Raises `DataError` if a split has none, or several of which none has the first name.
    """
    found: dict[Split, list[Path]] = {split: [] for split in SPLITS}
    for path in sorted(folder.iterdir()):
        split = named_split(path.stem.rpartition(".")[2])
        if split and path.suffix.lower() in TEXT_SUFFIXES and is_data(path.name) and path.is_file():
            found[split].append(path)
    return {split: _one(folder, split, paths) for split, paths in found.items()}


def _one(folder: Path, split: Split, paths: list[Path]) -> Path:
    """The file of a split, of those that may be it."""
    names = [path.name for path in paths]
    chosen = folder / (names[0] if len(names) == 1 else f"{split}.txt")
    if not paths:
        raise DataError(f"{folder} has no {chosen.name}; {LAYOUT}.")
    if chosen not in paths:
        raise DataError(
            f"{folder} has more than one text for the {split} split, {' and '.join(names)}: keep one, or call it "
            f"{chosen.name}."
        )
    if len(paths) > 1:
        others = ", ".join(name for name in names if name != chosen.name)
        say(f"data: {chosen} is read; beside it is left out: {others}")
    return chosen


def describe_limits(max_vocabulary: int | None, max_tokens: Mapping[Split, int]) -> dict[str, str]:
    """Entries of `Corpus.source` that say what was left out of the text."""
    limits = {f"max_{split}_tokens": str(limit) for split, limit in max_tokens.items()}
    return limits if max_vocabulary is None else {"max_vocabulary": str(max_vocabulary)} | limits


def _words(split: Split, path: Path, limit: int | None) -> Iterator[str]:
    total, has_words, ended, spaces = 0, False, 0, 0
    for line in _lines(path):
        words = line.split()
        if words and words[-1] == EOS:
            ended += 1
        else:
            words.append(EOS)
        if limit is not None and total + len(words) > limit:
            break
        total += len(words)
        has_words = has_words or len(words) > 1
        spaces += not line.isascii() and WIDE_SPACES.search(line) is not None
        yield from words
    if not has_words and limit is None:
        raise DataError(f"{path} has no words; put text into it, words separated by spaces.")
    if not has_words:
        raise DataError(f"{path} has no line with words within {limit} tokens; raise max_{split}_tokens.")
    if ended:
        say(f"data: {path}: {ended:,} lines have {EOS} at their end already, and get no second one")
    if spaces:
        say(f"data: {path}: no-break and other spaces of Unicode, in {spaces:,} lines, separate words too")


WIDE_SPACES = re.compile(r"[^\S\x00-\x7f]")
"""White space beyond ASCII."""


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file, without marks of byte order."""
    offset = 0
    with path.open("rb") as file:
        for line in file:
            # Decoded by line, so that memory is that of the tokens and an error has its place in the file.
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path} is not UTF-8: byte 0x{line[error.start]:02x} at position {offset + error.start}; "
                    f"convert the file to UTF-8{_how(path)}."
                ) from error
            if "\0" in text:
                raise DataError(
                    f"{path} has a NUL character at position {offset + line.index(0)}, as no text in UTF-8 has; convert "
                    f"the file to UTF-8{_how(path)}."
                )
            # Files put together have such marks in the middle; they belong to the encoding, not to a word or line.
            if text := text.replace("\ufeff", ""):
                yield text
            offset += len(line)


def _how(path: Path) -> str:
    """How to convert a file that looks like UTF-16; nothing if it does not."""
    with path.open("rb") as file:
        start = file.read(1000)
    if start[:2] not in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and b"\0" not in start:
        return ""
    return f", as it looks like UTF-16: iconv -f UTF-16 -t UTF-8 {shlex.quote(path.name)} > converted.txt"
