"""Errors a person can act on: one or two sentences saying what is wrong, the value, and what to do."""

import difflib
import os
import shlex
from collections.abc import Iterable

LONGEST_COMPLAINT = 2000
"""Characters of a message: whatever it repeats, a person can read it."""
LONGEST_WORD = 100
"""Of a word that a known one may be near to, in characters."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is nearest to this one, the first of equally near ones; None if none is near."""
    word, words = word[:LONGEST_WORD], list(dict.fromkeys(known))
    near = difflib.get_close_matches(word, words, n=max(1, len(words)))
    ratios = {name: difflib.SequenceMatcher(None, name, word).ratio() for name in words if name in near}
    return max(ratios, key=ratios.__getitem__, default=None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'search'? ` for the nearest known word; nothing if none is near."""
    near = nearest(word, known)
    return "" if near is None else f"did you mean {near!r}? "


def shown(value: object, most: int = 60) -> str:
    """A value as Python writes it, for a message: what is long is cut, and its length said.

    Text keeps its quotes; what no encoding can write, such as the bytes of a path that is not UTF-8, is escaped.
    """
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number of thousands of digits"
    return shortened(text, most)


def shortened(text: str, most: int = 60) -> str:
    """Text for a message: what is long is cut, and its length said."""
    return text if len(text) <= most else f"{text[: most - 4]} ... ({len(text):,} characters)"


def enas_command(*words: str | os.PathLike[str]) -> str:
    """A command to copy into a shell: words with spaces and the like are quoted."""
    return shlex.join(["enas", *(os.fspath(word) for word in words)])


class EnasError(Exception):
    """Base of every error the command line shows as one line with exit code 2, never as a traceback."""

    @property
    def complaint(self) -> str:
        """What is printed of it: a line that says who complains. What a user's code says of its own comes before."""
        *before, line = str(self).split("\n") if isinstance(self, UserCodeError) else [str(self)]
        return "\n".join([*before, f"enas: {shortened(line, LONGEST_COMPLAINT)}"])


class ArchitectureError(EnasError, ValueError):
    """An architecture, or its string, is not in its space."""


class DataError(EnasError):
    """Data are missing, empty or not what their reader expects."""


class MissingDataError(DataError):
    """There is nothing where a setting says that data are."""


class ConfigError(EnasError, ValueError):
    """A setting, or a combination of settings, makes no sense."""


class SettingError(ConfigError):
    """The value of one setting is not what its type allows; the message begins with the setting's name."""


class RunFolderError(EnasError):
    """A run folder is in use, damaged, or lacks what a stage reads."""


class FolderInUseError(RunFolderError):
    """Another process works in a run folder."""


class ContractError(EnasError, AssertionError):
    """A space, network, task or controller of a user's own breaks a rule of its contract (`enas.testing`)."""


class NotFiniteError(EnasError):
    """A loss, gradient, score or reward is NaN or infinite; checkpoints from before are kept."""

    def __init__(self, message: str, advised: bool = False) -> None:
        super().__init__(message)
        self.advised = advised
        """Whether the message itself says what to do; otherwise a lower rate or clipping bound of the training may help."""

    place: tuple[int, int] | None = None
    """Epoch and step of the training step that it was in, where that is not the one that raised it."""


class ProcessError(EnasError):
    """Another process of the same run has ended, or holds other weights than this one."""


class UserCodeError(EnasError):
    """The user's own code has raised an error in the middle of a run. The message has their lines of its traceback, and then
    one line."""


class ExportError(EnasError):
    """A network cannot be written in a format, or what was written computes something else."""
