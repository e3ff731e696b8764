"""Errors a person can act on: one or two sentences saying what is wrong, the value, and what to do."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'search'? ` for the nearest known word; nothing if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


class EnasError(Exception):
    """Base of every error the command line shows as one line with exit code 2, never as a traceback."""


class ArchitectureError(EnasError, ValueError):
    """An architecture, or its string, is not in its space."""


class DataError(EnasError):
    """Data are missing, empty or not what their reader expects."""


class MissingDataError(DataError):
    """There is nothing where a setting says that data are."""


class ConfigError(EnasError, ValueError):
    """A setting, or a combination of settings, makes no sense."""


class RunFolderError(EnasError):
    """A run folder is in use, damaged, or lacks what a stage reads."""


class NotFiniteError(EnasError):
    """A loss or reward is NaN or infinite; checkpoints from before are kept."""
