"""The setting that says which text a run learns from, and the one function that loads it."""

from dataclasses import dataclass

from enas.constraints import PositiveInt, Settings
from enas.data.own_files import data_path, locate_sources, no_source, readable, say_if_hidden
from enas.data.published import PUBLISHED_TEXTS, locate
from enas.data.stdlib import DEFAULT_VOCABULARY, read_stdlib
from enas.data.text import Corpus, Split, read_folder
from enas.errors import ConfigError

STDLIB = "stdlib"
NAMED_SOURCES = (STDLIB, *PUBLISHED_TEXTS)


@dataclass(frozen=True)
class TextConfig(Settings):
    """Which text to learn from, and how much of it."""

    source: str = STDLIB
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
        locate_sources(self, NAMED_SOURCES)


def load_text(config: TextConfig) -> Corpus:
    """The corpus of a setting.

    Raises `DataError` if the text is missing or cannot be used, `ConfigError` if settings contradict each
    other.
    """
    with readable():
        return _load(config)


def _load(config: TextConfig) -> Corpus:
    budgets: dict[Split, int | None] = {
        "train": config.max_train_tokens,
        "valid": config.max_valid_tokens,
        "test": config.max_test_tokens,
    }
    limits = {split: budget for split, budget in budgets.items() if budget is not None}
    published = PUBLISHED_TEXTS.get(config.source)
    if config.folder is not None and published is None:
        raise ConfigError(
            f"`folder` is for {' and '.join(PUBLISHED_TEXTS)}, but `source` is {config.source!r}: "
            f"to read a text of your own, set `source` to {config.folder!r} and leave `folder` out."
        )
    say_if_hidden(config.source, NAMED_SOURCES)
    if published is not None:
        place = locate(published, config.folder, config.download)
        return read_folder(place, published.name, config.max_vocabulary, limits)
    if config.source == STDLIB:
        max_vocabulary = DEFAULT_VOCABULARY if config.max_vocabulary is None else config.max_vocabulary
        return read_stdlib(max_vocabulary=max_vocabulary, max_tokens=limits)
    folder = data_path(config.source)
    if not folder.is_dir():
        raise no_source(config.source, "neither a folder nor", NAMED_SOURCES)
    return read_folder(folder, max_vocabulary=config.max_vocabulary, max_tokens=limits)
