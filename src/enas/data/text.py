"""A corpus: three streams of word indices over one vocabulary, read from a folder of plain text.

Words are what whitespace separates, as Python's `str.split` knows it: spaces and tabs, but also the no-break space
(U+00A0) and the other spaces of Unicode, its separators of lines and paragraphs, and the control characters 0x1c to 0x1f;
not the zero-width space (U+200B), which is part of a word. Marks of byte order (U+FEFF) are dropped wherever they are.
Every line, an empty one too, ends with the word `<eos>`, and has no second one if it is written there. The vocabulary is
the sorted words of the training text, as in the authors' code. Mikolov's Penn Treebank comes out with 10,000 words and
929,589 / 73,760 / 82,430 tokens, WikiText-2 with 33,278 words and 2,088,628 / 217,646 / 245,569 tokens.

Words outside the vocabulary become `<unk>`:

* A word of valid.txt or test.txt that train.txt lacks is `<unk>`. Where the training text itself holds `<unk>` (Penn
  Treebank, WikiText-2), that is the word; otherwise it is added to the vocabulary, but only if it is needed. An added
  `<unk>` is never seen in training, so its probability is arbitrary: cap the vocabulary to avoid that.
* With `max_vocabulary`, only the most frequent training words are kept (equal counts: in alphabetical order), `<eos>` and
  `<unk>` always among them, and all others are `<unk>` in the training text as well.

The more words `<unk>` stands for, the easier it is to predict: perplexities compare only between runs with the same
`Corpus.hash`.
"""

import codecs
import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from enas.constraints import PositiveInt, Settings
from enas.data.own_files import SPLITS, Split, data_path, is_data, located, named_split, printable
from enas.errors import ConfigError, DataError
from enas.runtime.progress import say

NAMED_TEXTS = ("stdlib", "ptb", "wikitext-2")
TEXT_SUFFIXES = {".txt", ".tokens"}
LAYOUT = "a text folder holds train.txt, valid.txt and test.txt"
EOS = "<eos>"
UNKNOWN = "<unk>"
BYTE_ORDER_MARK = "\ufeff"
WIDE_SPACES = re.compile(r"[^\S\x00-\x7f]")
"""White space beyond ASCII."""


@dataclass(frozen=True)
class TextConfig(Settings):
    """Which text to learn from, and how much of it."""

    source: str = "stdlib"
    """`stdlib` (Python's own standard library, no download), `ptb`, `wikitext-2`, or the path of a folder
    with train.txt, valid.txt and test.txt. A path that leads somewhere becomes absolute."""
    folder: str | None = None
    """Where train.txt, valid.txt and test.txt of `ptb` or `wikitext-2` are; by default in a folder of that
    name in $ENAS_DATA, or else in the cache folder of the platform."""
    max_vocabulary: PositiveInt | None = None
    """Most words in the vocabulary, `<eos>` and `<unk>` included: the most frequent of the training text.
    By default 10,000 for `stdlib`, and all words for other texts."""
    max_train_tokens: PositiveInt | None = None
    """Most training tokens: whole files of `stdlib`, first lines of other texts. By default all."""
    max_valid_tokens: PositiveInt | None = None
    """Most validation tokens, likewise."""
    max_test_tokens: PositiveInt | None = None
    """Most test tokens, likewise. The perplexity of a part does not compare with that of the whole."""
    download: bool = True
    """Download `ptb` or `wikitext-2` if it is not found and `folder` is not set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source not in NAMED_TEXTS:
            object.__setattr__(self, "source", located(self.source))
        object.__setattr__(self, "folder", located(self.folder))


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as word indices, ready for `enas.data.windows.batchify`.

    Raises `DataError` if a split is not a one-dimensional int64 tensor of indices into the vocabulary.
    """

    name: str
    """What logs and reports call the text."""
    vocabulary: tuple[str, ...]
    """All words; a token is the index of one."""
    train: Tensor = field(repr=False)
    valid: Tensor = field(repr=False)
    test: Tensor = field(repr=False)
    source: dict[str, str]
    """Where the text comes from, for the record of a run. Added here: `tokens` (a split), `unknown` (share of
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
        digest = hashlib.sha256(json.dumps(self.vocabulary).encode("ascii"))
        for split, tokens in splits.items():
            digest.update(f"{split} {len(tokens)}\n".encode("ascii"))
            digest.update(tokens.astype("<i8").tobytes())
        described["hash"] = digest.hexdigest()
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


def corpus_from_words(
    name: str,
    words: Mapping[Split, Iterable[str]],
    source: Mapping[str, str],
    max_vocabulary: int | None = None,
    max_tokens: Mapping[Split, int] | None = None,
) -> Corpus:
    """Number the words of the three splits as the module describes; each iterable is read once.

    `max_tokens` are the limits by which the words were chosen, for the record.
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
    limits = {} if max_vocabulary is None else {"max_vocabulary": str(max_vocabulary)}
    limits |= {f"max_{split}_tokens": str(limit) for split, limit in (max_tokens or {}).items()}
    return Corpus(name, vocabulary, train, valid, test, dict(source) | limits)


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
    """Read train.txt, valid.txt and test.txt (UTF-8) of a folder, or files of other usual names.

    A usual name is one of `SPLIT_NAMES`, something and a dot before it or not, with a suffix of `TEXT_SUFFIXES`, in
    capitals or not: `val.txt`, `wiki.train.tokens`. `max_tokens` limits the splits it names to as many whole lines, from
    the first, as hold at most that many tokens.
    Raises `DataError` for a missing folder or file, two files for a split, a file without words or not in UTF-8, and a
    limit below the first line.
    """
    folder = data_path(folder)
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; {LAYOUT}.")
    limits = max_tokens or {}
    paths = {split: _file_of(folder, split) for split in SPLITS}
    words = {split: _words(split, path, limits.get(split)) for split, path in paths.items()}
    source = {"folder": str(folder.resolve())}
    return corpus_from_words(name or folder.resolve().name, words, source, max_vocabulary, limits)


def _file_of(folder: Path, split: Split) -> Path:
    """The file of a split. Prints which others are left out."""
    names = [
        path.name
        for path in sorted(folder.iterdir())
        if named_split(path.stem.rpartition(".")[2]) == split
        and path.suffix.lower() in TEXT_SUFFIXES
        and is_data(path.name)
        and path.is_file()
    ]
    chosen = names[0] if len(names) == 1 else f"{split}.txt"
    if not names:
        raise DataError(f"{folder} has no {chosen}; {LAYOUT}.")
    if chosen not in names:
        raise DataError(
            f"{folder} has more than one text for the {split} split, {' and '.join(names)}: keep one, or call it {chosen}."
        )
    if len(names) > 1:
        others = ", ".join(name for name in names if name != chosen)
        say(f"data: {folder / chosen} is read; beside it is left out: {others}")
    return folder / chosen


def ended(words: list[str]) -> list[str]:
    """The words of a line with `<eos>` after them, and with no second one."""
    return words if words[-1:] == [EOS] else [*words, EOS]


def _words(split: Split, path: Path, limit: int | None) -> Iterator[str]:
    total, has_words, already, spaces = 0, False, 0, 0
    for line in _lines(path):
        given = line.split()
        words = ended(given)
        already += words is given
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
    if already:
        say(f"data: {path}: {already:,} lines have {EOS} at their end already, and get no second one")
    if spaces:
        say(f"data: {path}: no-break and other spaces of Unicode, in {spaces:,} lines, separate words too")


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
                    f"convert the file to UTF-8{_conversion(path)}."
                ) from error
            if "\0" in text:
                raise DataError(
                    f"{path} has a NUL character at position {offset + line.index(0)}, as no text in UTF-8 has; convert "
                    f"the file to UTF-8{_conversion(path)}."
                )
            # Files put together have such marks in the middle; they belong to the encoding, not to a word or line.
            if text := text.replace(BYTE_ORDER_MARK, ""):
                yield text
            offset += len(line)


def _conversion(path: Path) -> str:
    """The command that converts a file that looks like UTF-16; nothing for any other."""
    with path.open("rb") as file:
        start = file.read(1000)
    if start[:2] not in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and b"\0" not in start:
        return ""
    return f", as it looks like UTF-16: iconv -f UTF-16 -t UTF-8 {shlex.quote(path.name)} > converted.txt"
