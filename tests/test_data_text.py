"""Text: folders, vocabulary, windows, the published texts and the standard library's."""

import functools
import hashlib
import http.server
import itertools
import logging
import os
import platform
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from scipy import stats

from enas.data import published, sources, stdlib, windows
from enas.data.own_files import SPLITS, Split
from enas.data.published import Published, cache_folder, locate_text
from enas.data.sources import load_text
from enas.data.stdlib import NUMBER, documents, read_stdlib, split_of, tokenize
from enas.data.text import EOS, UNKNOWN, Corpus, TextConfig, corpus_from_words, read_folder
from enas.data.windows import (
    Window,
    batchify,
    eval_windows,
    fixed_windows,
    random_windows,
)
from enas.errors import ConfigError, DataError
from enas.stages import Run
from enas.tasks.language import cut
from tests import tiny

TEXTS = {"train": "b a \n\n a c a\n", "valid": "a b\n", "test": "c"}
WORDS: dict[Split, list[str]] = {
    "train": ["b", "a", EOS, EOS, "a", "c", "a", EOS],
    "valid": ["a", "b", EOS],
    "test": ["c", EOS],
}


def write_texts(folder: Path, **texts: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, text in texts.items():
        (folder / f"{split}.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def words_of(corpus: Corpus, split: Split) -> list[str]:
    return [corpus.vocabulary[i] for i in getattr(corpus, split).tolist()]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- folders ------------------------------------------------------------------------------------------------


def test_folder_is_read_word_for_word(tmp_path: Path) -> None:
    corpus = read_folder(write_texts(tmp_path / "mine", **TEXTS))
    assert corpus.vocabulary == (EOS, "a", "b", "c")
    assert {split: words_of(corpus, split) for split in SPLITS} == WORDS
    assert all(getattr(corpus, split).dtype == torch.int64 for split in SPLITS)
    assert corpus.name == "mine"
    assert corpus.source["tokens"] == "train 8, valid 3, test 2"
    assert corpus.source["folder"] == str((tmp_path / "mine").resolve())
    assert str(corpus) == "mine: 4 words; tokens: train 8, valid 3, test 2"


def test_large_folder_has_the_counts_of_an_independent_reading(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = {
        split: [" ".join(f"w{i}" for i in rng.zipf(1.3, 20) if i < 500) for _ in range(300)]
        for split in SPLITS
    }
    folder = write_texts(
        tmp_path, **{split: "".join(f" {line} \n" for line in lines[split]) for split in SPLITS}
    )
    corpus = read_folder(folder)
    # The authors' way: newlines become words of the stream.
    expected = {split: "".join(f" {line} {EOS}" for line in lines[split]).split() for split in SPLITS}
    known = set(expected["train"])
    assert corpus.vocabulary == tuple(sorted(known | {UNKNOWN}))
    for split in SPLITS:
        assert words_of(corpus, split) == [w if w in known else UNKNOWN for w in expected[split]]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace(" ", "\t "),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace(" ", " \ufeff"),
        lambda text: text.replace("a", "a\ufeff"),
        lambda text: text.replace(" ", "\u00a0"),
        lambda text: text.replace("\n", " <eos>\n"),
        lambda text: text.replace("\n", "\u2003<eos>\n\ufeff"),
    ],
    ids=[
        "line ends of Windows",
        "byte-order mark",
        "other white space",
        "no last newline",
        "byte-order marks before words",
        "byte-order marks after words",
        "no-break spaces",
        "ends that are written",
        "ends that are written after an em space, and a byte-order mark after the last",
    ],
)
def test_encodings_of_the_same_text_are_the_same_corpus(tmp_path: Path, change: Callable[[str], str]) -> None:
    plain = read_folder(write_texts(tmp_path / "a", **TEXTS))
    changed = read_folder(
        write_texts(tmp_path / "b", **{split: change(text) for split, text in TEXTS.items()})
    )
    assert changed.hash == plain.hash


def test_unseen_words_are_the_unknown_word_of_the_training_text(tmp_path: Path) -> None:
    corpus = read_folder(write_texts(tmp_path, train="a <unk> b", valid="a x", test="y <unk>"))
    assert corpus.vocabulary == (EOS, UNKNOWN, "a", "b")
    assert words_of(corpus, "valid") == ["a", UNKNOWN, EOS]
    assert words_of(corpus, "test") == [UNKNOWN, UNKNOWN, EOS]
    assert corpus.source["unknown"] == "train 25.00%, valid 33.33%, test 66.67%"
    assert str(corpus).endswith("; <unk>: train 25.00%, valid 33.33%, test 66.67%")


def test_an_unknown_word_is_added_only_if_it_is_needed(tmp_path: Path) -> None:
    needed = read_folder(write_texts(tmp_path, train="a b", valid="a x", test="b"))
    assert needed.vocabulary == (EOS, UNKNOWN, "a", "b")
    assert words_of(needed, "valid") == ["a", UNKNOWN, EOS]
    not_needed = read_folder(write_texts(tmp_path, valid="a"))
    assert not_needed.vocabulary == (EOS, "a", "b")
    assert "unknown" not in not_needed.source


def test_cap_keeps_the_most_frequent_words(tmp_path: Path) -> None:
    folder = write_texts(tmp_path, train="d d d c c b b a", valid="a b", test="x")
    corpus = read_folder(folder, max_vocabulary=4)
    assert corpus.vocabulary == (EOS, UNKNOWN, "b", "d")  # b before c: equal counts go by the alphabet
    assert words_of(corpus, "train") == ["d"] * 3 + [UNKNOWN] * 2 + ["b"] * 2 + [UNKNOWN, EOS]
    assert corpus.source["max_vocabulary"] == "4"


@pytest.mark.parametrize(("trained", "unseen"), [(["a"], False), (["a", UNKNOWN], False), (["a"], True)])
def test_cap_is_exact_at_every_size(trained: list[str], unseen: bool) -> None:
    train = trained + [f"w{i}" for i in range(10) for _ in range(i + 1)] + [EOS]
    words: dict[Split, list[str]] = {
        "train": train,
        "valid": ["a", EOS],
        "test": ["new" if unseen else "a", EOS],
    }
    full = corpus_from_words("all", words, {}).vocabulary
    counts = Counter(train)
    for limit in range(3, len(full) + 3):
        vocabulary = corpus_from_words("capped", words, {}, limit).vocabulary
        assert len(vocabulary) == min(limit, len(full))
        assert limit < len(full) or vocabulary == full
        others = set(vocabulary) - {EOS, UNKNOWN}
        left_out = set(train) - set(vocabulary)
        assert min(counts[w] for w in others) >= max((counts[w] for w in left_out), default=0)


def test_limits_keep_the_first_whole_lines(tmp_path: Path) -> None:
    folder = write_texts(tmp_path, train="a b\nc\nd e\nf\n", valid="a\nb\n", test="c\nd\n")
    corpus = read_folder(folder, max_tokens={"train": 7, "valid": 2})
    assert words_of(corpus, "train") == ["a", "b", EOS, "c", EOS]
    assert words_of(corpus, "valid") == ["a", EOS]
    assert len(corpus.test) == 4
    assert (corpus.source["max_train_tokens"], corpus.source["max_valid_tokens"]) == ("7", "2")
    assert "max_test_tokens" not in corpus.source


def test_hash_says_whether_the_data_are_equal(tmp_path: Path) -> None:
    corpora = [
        read_folder(write_texts(tmp_path / str(i), **(TEXTS | change)))
        for i, change in enumerate(
            [{}, {"train": "b b \n\n a c a\n"}, {"valid": "b a\n"}, {"train": "b a \n\n a d a\n"}]
        )
    ]
    tensors = (corpora[0].train, corpora[0].valid, corpora[0].test)
    corpora.append(Corpus("one word is another", (EOS, "a", "b", "d"), *tensors, {}))
    joined = torch.cat(tensors)
    corpora.append(
        Corpus("splits end elsewhere", corpora[0].vocabulary, joined[:9], joined[9:11], joined[11:], {})
    )
    assert len({corpus.hash for corpus in corpora}) == len(corpora)
    assert read_folder(write_texts(tmp_path / "again", **TEXTS), "again").hash == corpora[0].hash
    assert corpora[0].source["hash"] == corpora[0].hash


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.tensor([0, 2]), "holds indices from 0 to 2, but its vocabulary has 2 words"),
        (torch.tensor([-1, 0]), "holds indices from -1 to 0"),
        (torch.tensor([0, 1], dtype=torch.int32), r"not torch.int32 of shape \(2,\)"),
        (torch.tensor([[0, 1]]), r"not torch.int64 of shape \(1, 2\)"),
        (
            torch.tensor([], dtype=torch.int64),
            r"must be .* with tokens in it, not torch.int64 of shape \(0,\)",
        ),
    ],
)
def test_corpus_refuses_other_tensors(tokens: torch.Tensor, message: str) -> None:
    good = torch.tensor([0, 1])
    with pytest.raises(DataError, match=f"^The valid split of mine .*{message}"):
        Corpus("mine", ("a", "b"), good, tokens, good, {})


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            {"train": "a", "test": "a"},
            r" has no valid.txt; a text folder holds train.txt, valid.txt and test.txt.$",
        ),
        ({"train": "", "valid": "a", "test": "a"}, r"train.txt has no words; put text into it, "),
        ({"train": "a", "valid": "a", "test": " \n\n"}, r"test.txt has no words; put text into it, "),
        (
            {"train": b"ab\n\xefc \xe9t\xe9\n", "valid": "a", "test": "a"},
            r"train.txt is not UTF-8: byte 0xef at position 3; convert the file to UTF-8.$",
        ),
        (
            {"train": b"\xef\xbb\xbfab \xff", "valid": "a", "test": "a"},
            r"train.txt is not UTF-8: byte 0xff at position 6; ",
        ),
        (
            {"train": "a b\n".encode("utf-16"), "valid": "a", "test": "a"},
            r"train.txt is not UTF-8: byte 0xff at position 0; convert the file to UTF-8, as it looks like UTF-16: iconv -f "
            r"UTF-16 -t UTF-8 train.txt > converted.txt.$",
        ),
        (
            {"train": "a", "valid": "a b\n".encode("utf-16-be"), "test": "a"},
            r"valid.txt has a NUL character at position 0, as no text in UTF-8 has; convert .* it looks like UTF-16",
        ),
        (
            {"train": "a", "valid": "a\n" * 1000 + "b\0", "test": "a"},
            r"valid.txt has a NUL character at position 2001, as no text in UTF-8 has; convert the file to UTF-8.$",
        ),
    ],
    ids=[
        "missing file",
        "empty file",
        "only white space",
        "not UTF-8",
        "not UTF-8 after a byte-order mark",
        "UTF-16",
        "UTF-16 without a mark",
        "NUL",
    ],
)
def test_unusable_folder_is_refused(tmp_path: Path, texts: dict[str, str | bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_folder(write_texts(tmp_path, **texts))


@pytest.mark.parametrize(
    "names",
    [
        ("train.txt", "val.txt", "test.txt"),
        ("Train.TXT", "Validation.txt", "TEST.txt"),
        ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
        ("training.tokens", "dev.txt", "testing.txt"),
    ],
)
def test_texts_have_many_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    write_texts(tmp_path / "plain", **TEXTS)
    (tmp_path / "mine").mkdir()
    for name, text in zip(names, TEXTS.values(), strict=True):
        (tmp_path / "mine" / name).write_text(text)
    (tmp_path / "mine" / ".val.txt.swp").write_text("hidden")
    (tmp_path / "mine" / "train.json").write_text("another suffix")
    assert read_folder(tmp_path / "mine").hash == read_folder(tmp_path / "plain").hash


def test_a_second_text_for_a_split_is_refused_or_left_out_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_texts(tmp_path, **TEXTS, val="other")
    assert words_of(read_folder(tmp_path), "valid") == WORDS["valid"]
    said = f"data: {tmp_path / 'valid.txt'} is read; beside it is left out: val.txt\n"
    assert capsys.readouterr().err == said
    (tmp_path / "valid.txt").rename(tmp_path / "dev.txt")
    message = (
        r" has more than one text for the valid split, dev.txt and val.txt: keep one, or call it valid.txt.$"
    )
    with pytest.raises(DataError, match=message):
        read_folder(tmp_path)


def test_what_is_done_to_ends_and_spaces_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {"train": "a\u00a0b <eos>\na <eos>\nc\n", "valid": "a\u200bb é\n", "test": "a <eos> b\n"}
    corpus = read_folder(write_texts(tmp_path, **texts))
    train = tmp_path / "train.txt"
    assert capsys.readouterr().err == (
        f"data: {train}: 2 lines have <eos> at their end already, and get no second one\n"
        f"data: {train}: no-break and other spaces of Unicode, in 1 lines, separate words too\n"
    )
    assert words_of(corpus, "train") == ["a", "b", EOS, "a", EOS, "c", EOS]
    assert words_of(corpus, "valid") == [UNKNOWN, UNKNOWN, EOS]
    assert words_of(corpus, "test") == ["a", EOS, "b", EOS]


def test_missing_folder_and_impossible_limits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^There is no folder .*nowhere; a text folder holds train.txt"):
        read_folder(tmp_path / "nowhere")
    folder = write_texts(tmp_path, **TEXTS)
    with pytest.raises(
        DataError, match=r"valid.txt has no line with words within 2 tokens; raise max_valid_tokens.$"
    ):
        read_folder(folder, max_tokens={"valid": 2})
    with pytest.raises(
        ConfigError, match=r"^max_vocabulary is 2; with <eos> and <unk> always kept, set it to 3"
    ):
        read_folder(folder, max_vocabulary=2)


# --- rows and windows ---------------------------------------------------------------------------------------


def test_rows_are_contiguous_and_the_rest_is_dropped() -> None:
    rows_BT = batchify(torch.arange(11), 3)
    assert rows_BT.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_fixed_windows_by_hand() -> None:
    assert fixed_windows(8, 3) == [(0, 3), (3, 3)]
    assert fixed_windows(7, 3) == [(0, 3), (3, 3)]
    assert fixed_windows(6, 3) == [(0, 3)]
    assert fixed_windows(4, 3) == [(0, 3)]


@pytest.mark.parametrize(("batch", "steps"), [(20, 1327), (64, 414), (128, 207)])
def test_fixed_windows_of_the_penn_treebank_are_the_authors(batch: int, steps: int) -> None:
    assert len(fixed_windows(929_589 // batch, 35)) == steps


def test_targets_are_the_next_tokens_of_the_same_row() -> None:
    rows_BT = batchify(torch.arange(40), 2)
    x_TB, y_TB, *_ = cut(rows_BT.t(), Window(5, 3))
    assert x_TB.t().tolist() == [[5, 6, 7], [25, 26, 27]]
    assert y_TB.t().tolist() == [[6, 7, 8], [26, 27, 28]]


def test_eval_windows_have_every_target_exactly_once() -> None:
    for columns, bptt in itertools.product(range(2, 40), range(1, 45)):
        rows_TB = torch.arange(columns).view(columns, 1)
        pairs = [cut(rows_TB, window)[:2] for window in eval_windows(columns, bptt)]
        assert torch.equal(torch.cat([x_TB for x_TB, _ in pairs]), rows_TB[:-1])
        assert torch.equal(torch.cat([y_TB for _, y_TB in pairs]), rows_TB[1:])
        assert all(len(x_TB) == bptt for x_TB, _ in pairs[:-1])
        assert 1 <= len(pairs[-1][0]) <= bptt


@pytest.mark.parametrize("columns", [2, 3, 4, 5, 38, 1000, 14_524])
@pytest.mark.parametrize("bptt", [1, 8, 35])
def test_random_windows_follow_each_other_to_the_end(columns: int, bptt: int) -> None:
    for seed in range(5):
        drawn = random_windows(columns, bptt, generator(seed))
        assert drawn[0].start == 0
        ends = [start + length for start, length in drawn]
        assert ends[:-1] == [start for start, _ in drawn[1:]]
        assert all(end < columns - 3 for end in ends[:-1])
        assert columns - 3 <= ends[-1] <= columns - 1
        assert all(1 <= length <= bptt + 20 for _, length in drawn)


def test_random_windows_are_known_from_the_seed() -> None:
    first = random_windows(2000, 35, generator(1))
    assert random_windows(2000, 35, generator(1)) == first
    assert random_windows(2000, 35, generator(2)) != first
    state = torch.random.get_rng_state()
    random_windows(2000, 35, generator(1))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("full_share", [0.95, 0.0])
def test_random_lengths_have_the_authors_distribution(
    full_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert windows.FULL_LENGTH_SHARE == 0.95
    monkeypatch.setattr(windows, "FULL_LENGTH_SHARE", full_share)  # 0: the short windows by themselves
    lengths = [length for _, length in random_windows(200_000, 35, generator(0))][
        :-1
    ]  # the last one may be cut
    edges = np.arange(0, 57)
    full, half = (stats.truncnorm.cdf(edges, -2, 2, mean, 5) for mean in (35, 17.5))
    cdf = full_share * full + (1 - full_share) * half
    probability = np.diff(cdf)  # of the lengths 0, 1, ... 55: rounded down
    mean = edges[:-1] @ probability
    sd = ((edges[:-1] - mean) ** 2 @ probability) ** 0.5
    assert abs(np.mean(lengths) - mean) < 4 * sd / len(lengths) ** 0.5
    observed = np.bincount(lengths, minlength=len(probability))
    assert observed[probability == 0].sum() == 0
    expected = probability * len(lengths)
    bins = np.where(
        expected >= 5, np.arange(len(expected)), expected.argmax()
    )  # rare lengths join a frequent one
    table = [np.bincount(bins, lengths_of)[np.unique(bins)] for lengths_of in (observed, expected)]
    assert stats.chisquare(*table).pvalue > 1e-3


def test_too_little_text_for_rows_and_windows_is_refused() -> None:
    assert batchify(torch.arange(8), 4).shape == (4, 2)
    with pytest.raises(DataError, match=r"^The test split has 7 tokens, too few for 4 rows of at least 2: "):
        batchify(torch.arange(7), 4, "test split")
    with pytest.raises(DataError, match=r"^Rows of 35 tokens hold no window of 35 steps and its targets: "):
        fixed_windows(35, 35)
    for listed in (fixed_windows, eval_windows, functools.partial(random_windows, generator=generator(0))):
        with pytest.raises(
            DataError, match=r"^Rows of 1 tokens have no input with a target: lower the batch"
        ):
            listed(1, 35)
        with pytest.raises(ConfigError, match=r"^bptt is 0; set it to 1 or more"):
            listed(100, 0)
    with pytest.raises(ConfigError, match=r"^batch is 0; set it to 1 or more"):
        batchify(torch.arange(8), 0)


# --- the standard library -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def _get_value(self, x):\n", "def _get _value ( self , x ) : <eos>"),
        ("    return x\n\n\n        # The END\n", "return x <eos> # the end <eos>"),
        ("class HTTPServer: pass", "class httpserver : pass <eos>"),
        ("__init__ _ a__b", "__init __ _ a __b <eos>"),
        ("10 1.5e3 0xFF 1_000 3.11.2. x2 2x", " ".join([NUMBER] * 5 + [".", "x", NUMBER, NUMBER, EOS])),
        ("a->b **c != ... := x//=y", "a -> b ** c != ... := x // = y <eos>"),
        ("-------- ==== ..... ##### '''x''' \"\"\"", "---- ==== .... #### ''' x ''' \"\"\" <eos>"),
        (r"'\n\\' r'\d+' \x00", rf"' \n \\ ' r ' \d + ' \x {NUMBER} <eos>"),
        ("naïve Ärger — 'x'\r\n\ty\r\n", "naïve ärger — ' x ' <eos> y <eos>"),
        ("\n \n", ""),
    ],
)
def test_tokens_of_code(text: str, words: str) -> None:
    assert tokenize(text) == words.split()


def marker(i: int) -> str:
    """A word of letters that only file i has."""
    return "file" + "".join(chr(ord("a") + int(digit)) for digit in f"{i:04d}")


def write_library(folder: Path, count: int = 100) -> Path:
    (folder / "package").mkdir(parents=True)
    for i in range(count):
        (folder / "package" / f"module{i}.py").write_text(f"{marker(i)} = {i}\n" * 3)
    return folder


def test_splits_of_the_library_are_disjoint_by_file(tmp_path: Path) -> None:
    corpus = read_stdlib(write_library(tmp_path))
    files: dict[Split, set[str]] = {split: set() for split in SPLITS}
    for i in range(100):
        files[split_of(f"package/module{i}.py")].add(marker(i))
    assert all(files.values())
    assert set(corpus.vocabulary) == files["train"] | {EOS, UNKNOWN, "=", NUMBER}
    for split in SPLITS:  # a file is three lines of "marker = number"
        assert len(getattr(corpus, split)) == 3 * 4 * len(files[split])
    for split in ("valid", "test"):  # none of whose files is in the training text
        assert words_of(corpus, split).count(UNKNOWN) == 3 * len(files[split])
    assert corpus.source["documents"] == ", ".join(f"{split} {len(files[split])}" for split in SPLITS)


def test_library_does_not_depend_on_the_order_of_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_library(tmp_path)
    expected = read_stdlib(folder).hash
    walk = os.walk

    def reversed_walk(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for parent, folders, files in walk(top):
            yield parent, folders, files[::-1]

    monkeypatch.setattr(stdlib.os, "walk", reversed_walk)
    assert read_stdlib(folder).hash == expected


def test_what_is_not_the_library_is_left_out(tmp_path: Path) -> None:
    kept = ["a.py", "b/__init__.py", "b/testing.py", "xml/test_support.py"]
    dropped = [
        "test/a.py",
        "b/tests/c.py",
        "idlelib/idle_test/d.py",
        "site-packages/e.py",
        "dist-packages/e/f.py",
    ]
    dropped += ["__pycache__/g.py", "encodings/h.py", "config-3.11-linux/i.py", "_sysconfigdata__linux.py"]
    dropped += ["sitecustomize.py", "html/entities.py", "a.pyc", "README.txt"]
    for name in [*kept, *dropped]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1")
    (tmp_path / "blank.py").write_text("\n")
    assert sorted(documents(tmp_path)) == kept


def test_topics_of_the_language_reference_are_documents(tmp_path: Path) -> None:
    (tmp_path / "pydoc_data").mkdir()
    (tmp_path / "pydoc_data" / "topics.py").write_text(
        "# made by Sphinx\n"
        "topics = {'assert': 'The \"assert\"\\n'\n"
        "    'statement', 'if': r'''The if''', 'del': ''}\n"
    )
    expected = {"pydoc_data/topics.py/assert": 'The "assert"\nstatement', "pydoc_data/topics.py/if": "The if"}
    assert documents(tmp_path) == expected


def test_limits_take_whole_documents_that_fit(tmp_path: Path) -> None:
    folder = write_library(tmp_path)  # documents of 12 tokens
    big = next(name for name in (f"big{i}.py" for i in itertools.count()) if split_of(name) == "train")
    (folder / big).write_text("word " * 1000)
    corpus = read_stdlib(folder, max_tokens={"train": 50})
    small = [name for name in documents(folder) if name != big and split_of(name) == "train"]
    numbers = [int(name.removeprefix("package/module").removesuffix(".py")) for name in small]
    assert words_of(corpus, "train") == [w for i in numbers[:4] for w in [marker(i), "=", NUMBER, EOS] * 3]
    with pytest.raises(
        DataError, match=r"^No test document of the .* library is within 11 tokens: raise max_test"
    ):
        read_stdlib(folder, max_tokens={"test": 11})


@pytest.mark.parametrize("file", [None, "os.pyc", "os.py"])
def test_python_without_sources_is_named(tmp_path: Path, file: str | None) -> None:
    if file:
        (tmp_path / file).write_bytes(b"x")
    message = (
        rf"^Python {platform.python_version()} has no or too few sources of its library .* or set `source` to"
    )
    with pytest.raises(DataError, match=message):
        read_stdlib(tmp_path)
    with pytest.raises(DataError, match=r"they may be in a zip file, or not installed"):
        read_stdlib(tmp_path / "python311.zip")


def test_the_running_library_is_a_corpus() -> None:
    corpus = load_text(TextConfig())
    assert len(corpus.vocabulary) == 10_000
    assert corpus.vocabulary == tuple(sorted(corpus.vocabulary))
    assert {"self", "def", "the", "<num>", EOS, UNKNOWN} <= set(corpus.vocabulary)
    sizes = [len(getattr(corpus, split)) for split in SPLITS]
    assert sizes[0] > 500_000
    assert min(sizes[1:]) > 20_000
    assert corpus.source["python"].endswith(platform.python_version())
    # <unk> is as rare as in the Penn Treebank (5 %), and no word has most of the text
    assert (corpus.valid == corpus.vocabulary.index(UNKNOWN)).float().mean() < 0.1
    assert corpus.train.bincount().max() < 0.2 * sizes[0]


def test_the_running_library_is_the_same_in_another_process() -> None:
    limits: dict[Split, int] = {"train": 100_000, "valid": 10_000, "test": 10_000}
    corpus = read_stdlib(max_vocabulary=2000, max_tokens=limits)
    assert len(corpus.vocabulary) == 2000
    assert 98_000 < len(corpus.train) <= 100_000
    code = f"from enas.data.stdlib import read_stdlib; print(read_stdlib(None, 2000, {limits}).hash)"
    environment = os.environ | {"PYTHONHASHSEED": "1", "LC_ALL": "C", "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == corpus.hash


# --- published texts ----------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENAS_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


class Requests(http.server.SimpleHTTPRequestHandler):
    """Serves files and keeps the paths that were asked for."""

    seen: list[str]

    def log_message(self, format: str, *args: object) -> None:
        self.seen.append(self.path)


@pytest.fixture
def requests(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A server of the texts: its address, and the requests that it has had."""
    write_texts(tmp_path / "served", **TEXTS)
    seen: list[str] = []
    handler = type("Handler", (Requests,), {"seen": seen})
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=tmp_path / "served")
    ) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", seen
        server.shutdown()
        thread.join()


def fake(url: str) -> Published:
    hashes = {f"{split}.txt": hashlib.sha256(TEXTS[split].encode()).hexdigest() for split in SPLITS}
    return Published("fake", url + "{}", 0.1, hashes, "fake", "stdlib")


def test_published_text_is_downloaded_once_and_only_what_is_missing(
    cache: Path, requests: tuple[str, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    url, seen = requests
    write_texts(cache / "fake", test=TEXTS["test"])
    with caplog.at_level(logging.INFO, "enas"):
        assert locate_text(fake(url)) == cache / "fake"
    assert [record.getMessage() for record in caplog.records if record.name.startswith("enas")] == [
        f"downloading fake (0.1 MB in all) from {url} to {cache / 'fake'}"
    ]
    assert len(seen) == 2
    assert {split: words_of(read_folder(cache / "fake"), split) for split in SPLITS} == WORDS
    assert locate_text(fake(url)) == cache / "fake"
    assert len(seen) == 2


def test_download_with_a_wrong_checksum_is_refused(
    cache: Path, requests: tuple[str, list[str]], tmp_path: Path
) -> None:
    write_texts(tmp_path / "served", valid="something else\n")
    message = r"^What http\S*/valid.txt sends is not the published file: its sha256 is not [0-9a-f]{64}\. Put"
    with pytest.raises(DataError, match=message):
        locate_text(fake(requests[0]))
    assert sorted(path.name for path in (cache / "fake").iterdir()) == ["train.txt"]


def test_without_network_the_layout_is_named(
    cache: Path, requests: tuple[str, list[str]], tmp_path: Path
) -> None:
    (tmp_path / "served" / "train.txt").unlink()
    with pytest.raises(
        DataError, match=r"^fake could not be downloaded from \S*/train.txt \(HTTPError\). Put"
    ):
        locate_text(fake(requests[0]))
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}/"
    with pytest.raises(
        DataError, match=r"\(ConnectionError\). Put train.txt, valid.txt and test.txt into .*fake, or"
    ):
        locate_text(fake(closed))


def test_nothing_is_downloaded_unasked(
    cache: Path, requests: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, seen = requests
    monkeypatch.setattr(sources, "PUBLISHED_TEXTS", {"fake": fake(url)})
    message = r"^The data fake are not in .*fake: train.txt and valid.txt and test.txt not found. Put"
    with pytest.raises(DataError, match=message):
        load_text(TextConfig("fake", download=False))
    mine = write_texts(tmp_path / "mine", train=TEXTS["train"], test=TEXTS["test"])
    with pytest.raises(
        DataError, match=r"^The data fake are not in .*mine: valid.txt not found. Put train.txt"
    ):
        locate_text(fake(url), mine)
    assert seen == []
    assert not cache.exists()
    write_texts(mine, valid=TEXTS["valid"])
    assert locate_text(fake(url), mine, download=False) == mine


def test_a_local_file_that_is_not_the_published_one_is_refused_and_kept(
    cache: Path, requests: tuple[str, list[str]]
) -> None:
    write_texts(cache / "fake", train=TEXTS["train"], test="not that\n")
    with pytest.raises(
        DataError, match=r"test.txt is not the published file of fake: its sha256 is .* Replace it, or"
    ):
        locate_text(fake(requests[0]))
    assert (cache / "fake" / "test.txt").read_text() == "not that\n"


def test_cache_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENAS_DATA", "~/texts")
    assert cache_folder() == Path.home() / "texts"
    monkeypatch.delenv("ENAS_DATA")
    assert "enas" in cache_folder().parts


def test_published_texts_are_pinned() -> None:
    for text in published.PUBLISHED_TEXTS.values():
        commit = text.url.split("/")[5]
        assert len(bytes.fromhex(commit)) == 20
        assert text.sha256.keys() == {f"{split}.txt" for split in SPLITS}
        assert {len(bytes.fromhex(digits)) for digits in text.sha256.values()} == {32}


# --- the setting --------------------------------------------------------------------------------------------


def test_a_setting_names_a_folder_a_published_text_or_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_texts(tmp_path / "mine", **TEXTS)
    mine = load_text(TextConfig(source=str(folder), max_vocabulary=3, max_train_tokens=5))
    assert mine.hash == read_folder(folder, "mine", 3, {"train": 5}).hash
    monkeypatch.setattr(sources, "PUBLISHED_TEXTS", {"fake": fake("http://nowhere/")})
    published_text = load_text(TextConfig("fake", folder=str(folder)))
    assert (published_text.name, published_text.hash) == ("fake", read_folder(folder).hash)
    library = load_text(
        TextConfig(max_vocabulary=100, max_train_tokens=5000, max_valid_tokens=2000, max_test_tokens=3000)
    )
    limits: dict[Split, int] = {"train": 5000, "valid": 2000, "test": 3000}
    assert library.hash == read_stdlib(None, 100, limits).hash


def test_a_run_on_data_of_a_relative_path_goes_on_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write_text(tmp_path / "text")
    monkeypatch.chdir(tmp_path)
    run = Run.create(tmp_path / "run", tiny.config(Path("text")), ("retrain",))
    monkeypatch.chdir("/")
    opened = Run.open(tmp_path / "run")
    assert opened.data.hash == run.data.hash
    assert opened.config == run.config
    (tmp_path / "text").rename(tmp_path / "moved")
    message = (
        rf"^`source` is '{tmp_path}/text', neither a folder nor one of .* If the data have moved, change the setting "
        rf"data.source in {tmp_path}/run/config.json to where they are.$"
    )
    with pytest.raises(DataError, match=message):
        _ = Run.open(tmp_path / "run").data
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace(f"{tmp_path}/text", f"{tmp_path}/moved"))
    assert Run.open(tmp_path / "run").data.hash == run.data.hash


def test_a_folder_of_a_built_in_name_is_not_read_but_spoken_of(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_texts(tmp_path / "ptb", **TEXTS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"^The data ptb are not in .*cache/ptb: "):
        load_text(TextConfig("ptb", download=False))
    assert capsys.readouterr().err == (
        "data: ptb means the built-in data; for the folder of this name that is here, write ./ptb\n"
    )
    assert words_of(load_text(TextConfig("./ptb")), "valid") == WORDS["valid"]
    assert capsys.readouterr().err == ""


def test_settings_that_name_no_text_are_refused(tmp_path: Path) -> None:
    names = "neither a folder nor one of stdlib, ptb, wikitext-2"
    with pytest.raises(DataError, match=rf"^`source` is 'wikitext2', {names}; did you mean 'wikitext-2'\?$"):
        load_text(TextConfig("wikitext2"))
    with pytest.raises(DataError, match=rf"^`source` is 'no/such/folder', {names}.$"):
        load_text(TextConfig("no/such/folder"))
    with pytest.raises(
        ConfigError, match=r"^`folder` is for ptb and wikitext-2, but `source` is 'stdlib': to read a text"
    ):
        load_text(TextConfig(folder=str(tmp_path)))


def test_settings_are_flags_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--source", "ptb", "--max-train-tokens", "1000", "--no-download"]
    assert tyro.cli(TextConfig, args=flags) == TextConfig("ptb", max_train_tokens=1000, download=False)
    with pytest.raises(SystemExit):
        tyro.cli(TextConfig, args=["--help"])
    shown = capsys.readouterr().out
    assert "no download" in shown
    assert "most frequent" in shown
