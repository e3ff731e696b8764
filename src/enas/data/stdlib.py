r"""Text that needs no download: source and documentation of the running Python's own standard library.

Wherever Python runs there are some two million tokens of code, comments, docstrings and the language reference
(pydoc_data/topics.py, each topic a document of its own). A language model learns from them what it learns from the Penn
Treebank: frequent words, phrases (`return self .`), agreement at a distance (brackets, quotes), names that come back
within a file, and English prose.

One regular expression finds the tokens in the text in lower case, so that code and prose share words.

* Letters: a run of them is a word. Names are cut before each `_`, which stays with what follows, `_get_default` into
  `_get` `_default`: parts of names are words that come back, and few are `<unk>`.
* Numbers, of any kind: `<num>`, as `N` in the Penn Treebank.
* Operators (`==`, `->`, `**`, `...`) and triple quotes are a word each, a backslash goes with the character that follows
  (`\n`), other punctuation is a word a character. A ruler (`--------`) is cut to four characters.
* Line ends: `<eos>`. Blank lines and indentation are dropped; easy to predict, they would only flatter.

The perplexity is exp of the mean negative log-likelihood of these tokens, `<eos>` included. It compares models on one
corpus (same `Corpus.hash`), not with the Penn Treebank, nor with another version of Python.

Splits are by document. A sha256 of its name decides whether it is in train, valid or test (about 90, 5 and 5 %), whatever
the version of Python, and gives the order of documents. A limit on tokens takes whole documents in that order, without those
that do not fit. Test suites, installed packages, files made at build time, and modules that are mostly tables are left out.
The text depends on the version of Python and on who packaged it, so `Corpus.source` names the version and the hash.
"""

import ast
import functools
import hashlib
import os
import platform
import re
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from enas.data.own_files import SPLITS, Split
from enas.data.text import EOS, Corpus, corpus_from_words
from enas.errors import DataError

DEFAULT_VOCABULARY = 10_000
NUMBER = "<num>"
_TOPICS = "pydoc_data/topics.py"
_SKIPPED_FOLDERS = re.compile(
    r"tests?|idle_test"  # test suites
    r"|site-packages|dist-packages|__pycache__|config-.*"  # installed packages, made at build time
    r"|encodings|msilib"  # tables
)
_SKIPPED_FILES = re.compile(
    r"_sysconfig_?(data|vars).*|sitecustomize\.py|usercustomize\.py"  # made at build time or by a site
    r"|html/entities\.py|locale\.py|stringprep\.py"  # tables
)
_RULERS = "-=*#~^.+"
_TOKEN = re.compile(
    r"\n\s*"  # a line's end, with the blank lines and the indentation that follow
    r"|_*[^\W\d_]+|_+"  # letters with the underscores before them
    r"|\d\w*(?:\.\d\w*)*"  # 10, 1.5e3, 0xff, 10_000, 3.11.2
    + "".join(rf"|\{character}{{4,}}" for character in _RULERS)
    + r'|"""|\'\'\''
    r"|->|\.\.\.|[-+*/%&|^@:=!<>]=|\*\*|//|<<|>>"
    r"|\\\S"  # escapes
    r"|[^\w\s]"
)


def _spell(token: str) -> str:
    """The word that a match of `_TOKEN` stands for."""
    if token.startswith("\n"):
        return EOS
    if token[0].isdecimal():
        return NUMBER
    return token[:4] if token[0] in _RULERS else token


def tokenize(text: str, spell: Callable[[str], str] = _spell) -> list[str]:
    """The words of a text, with `<eos>` after each line that has words; `spell` may be a memoised `_spell`."""
    lines = text.strip().lower()
    return [spell(token) for token in _TOKEN.findall(lines + "\n")] if lines else []


def split_of(document: str) -> Split:
    """Split of the document of this name."""
    share = int.from_bytes(_digest(document)[:4], "big") / 2**32
    return "train" if share < 0.90 else "valid" if share < 0.95 else "test"


def _digest(document: str) -> bytes:
    return hashlib.sha256(f"stdlib:{document}".encode()).digest()


def documents(folder: Path) -> dict[str, str]:
    """Texts of the library in a folder that are not blank, in the order described above, by name.

    The name is the path from the folder with forward slashes; for a topic of the language reference, its own.
    """
    texts = {}
    for parent, subfolders, files in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not _SKIPPED_FOLDERS.fullmatch(name)]
        for path in (Path(parent, file) for file in files if file.endswith(".py")):
            name = path.relative_to(folder).as_posix()
            if not _SKIPPED_FILES.fullmatch(name):
                texts[name] = path.read_text("utf-8", errors="replace")
    texts |= _topics(texts.pop(_TOPICS, ""))
    return {name: texts[name] for name in sorted(texts, key=_digest) if texts[name].strip()}


def _topics(source: str) -> dict[str, str]:
    """The language reference, from the literal dictionary in pydoc_data/topics.py; nothing is executed."""
    dictionaries = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Dict))
    return {
        f"{_TOPICS}/{ast.literal_eval(topic)}": ast.literal_eval(text)
        for dictionary in dictionaries
        for topic, text in zip(dictionary.keys, dictionary.values, strict=True)
        if topic is not None
    }


def read_stdlib(
    folder: str | Path | None = None,
    max_vocabulary: int = DEFAULT_VOCABULARY,
    max_tokens: Mapping[Split, int] | None = None,
) -> Corpus:
    """The corpus described above; `folder` is where the library is, by default that of the running Python.

    Raises `DataError` if its sources are not there (they may be in a zip file, or not installed), or if a
    limit on tokens is below every document.
    """
    place = Path(folder or sysconfig.get_path("stdlib"))
    texts: dict[Split, list[str]] = {split: [] for split in SPLITS}
    for name, text in documents(place).items():
        texts[split_of(name)].append(text)
    if not all(texts.values()):
        raise DataError(
            f"Python {platform.python_version()} has no or too few sources of its library in {place}; "
            "they may be in a zip file, or not installed. Use another Python, or set `source` to 'ptb', "
            "'wikitext-2' or a folder with text of your own."
        )
    limits = max_tokens or {}
    spell = functools.cache(_spell)
    return corpus_from_words(
        "stdlib",
        {split: _words(split, texts[split], limits.get(split), spell) for split in SPLITS},
        {
            "folder": str(place),
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "documents": ", ".join(f"{split} {len(texts[split])}" for split in SPLITS),
        },
        max_vocabulary,
        limits,
    )


def _words(split: Split, texts: list[str], limit: int | None, spell: Callable[[str], str]) -> Iterator[str]:
    total = 0
    for text in texts:
        words = tokenize(text, spell)
        if limit is None or total + len(words) <= limit:
            total += len(words)
            yield from words
    if total == 0:
        raise DataError(
            f"No {split} document of the standard library is within {limit} tokens: raise max_{split}_tokens."
        )
