"""Whose code an error is in, the user's or this package's, and how it is told.

The innermost frame decides that is in a file of the user's or of this package: what a library raises counts as an error of
whoever called it. A function of this package that only hands over to what the user gave is no caller in that sense: it is
marked by `hands_over`. An error of the user's is told by the user's lines; one of this package keeps its whole traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType
from typing import TypeVar, cast

import enas
from enas.errors import ConfigError, EnasError, UserCodeError, enas_command, shortened

PACKAGE = str(Path(enas.__file__).absolute().parent)

Function = TypeVar("Function", bound=FunctionType | Callable[..., object])

_handing_over: set[CodeType] = set()


class Where(str):
    """A note of an error that says where in a run it was."""

    __slots__ = ()


def hands_over(function: Function) -> Function:
    """Mark a function that calls what the user gave, and does little else: an error in its own frame is the user's too, such
    as that of a call with too few arguments. Costs nothing when it is called."""
    _handing_over.add(cast(FunctionType, function).__code__)
    return function


@contextmanager
def noted(where: str, of: object = "") -> Iterator[None]:
    """Inside, an error that is no `EnasError` gets a note of where it was, for `told_in_lines`; none if it is `of` None."""
    try:
        yield
    except EnasError:
        raise
    except Exception as error:
        if of is not None:
            error.add_note(Where(f"{where} {of}".rstrip()))
        raise


def of_the_user(file: str, folder: Path) -> bool:
    """Whether a file is in a folder, and is neither of this package nor of what is installed, which may be in it too."""
    if not file.startswith(str(folder) + os.sep):
        return False
    others = (PACKAGE, *map(os.path.abspath, (sys.prefix, sys.base_prefix)))
    inside = [other + os.sep for other in others if other.startswith(str(folder) + os.sep)]
    installed = {"site-packages", "dist-packages"} & set(Path(file).relative_to(folder).parts)
    return not installed and not file.startswith(tuple(inside))


def is_of_the_user(error: BaseException, folder: Path) -> bool:
    """Whether the code of the files in a folder is to blame for an error, or what it has given."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        code = frame.f_code
        if of_the_user(code.co_filename, folder):
            return True
        if code.co_filename.startswith(PACKAGE + os.sep):
            return code in _handing_over
    return False


def users_frames(error: BaseException, folder: Path) -> traceback.StackSummary:
    """The frames of an error that are in the user's files, the innermost last."""
    frames = traceback.extract_tb(error.__traceback__)
    return traceback.StackSummary.from_list(
        [frame for frame in frames if of_the_user(frame.filename, folder)]
    )


@contextmanager
def told_in_a_line(path: Path, folder: Path) -> Iterator[None]:
    """Inside, an error of the user's is a `ConfigError` of one line, which says where in the code of a file and of those in
    its folder: for what is tried before a run begins. So is an `EnasError` that their code has come to. Where a library
    raises what they gave wrongly to it, with none of their lines on its way, it has no place. An error of this package stays
    as it is."""
    try:
        yield
    except SyntaxError as error:
        text = f": {shortened(error.text.strip(), 120)}" if error.text else ""
        where = f"{error.filename or path}, line {error.lineno or 1}"
        raise ConfigError(f"{where}: {error.msg}{text}") from error
    except (Exception, SystemExit) as error:
        own = users_frames(error, folder)
        if not own if isinstance(error, EnasError) else not is_of_the_user(error, folder):
            raise
        what = " ".join([f"{type(error).__name__}: {error}", *remarks(error)])
        said = shortened(" ".join(what.split()), 500)
        raise ConfigError(f"{own[-1].filename}, line {own[-1].lineno}: {said}" if own else said) from error


@contextmanager
def told_in_lines(folder: Path, run: Path) -> Iterator[None]:
    """Inside, an error of the user's is a `UserCodeError`: their lines of its traceback, and where in the `run` it was, as
    `noted`. Other errors stay as they are."""
    try:
        yield
    except EnasError:
        raise
    except Exception as error:
        if not is_of_the_user(error, folder):
            raise
        lines = "".join(users_frames(error, folder).format())
        said = shortened(" ".join([f"{type(error).__name__}: {error}", *remarks(error)]), 1000)
        where = ", ".join(note for note in notes_of(error) if isinstance(note, Where))
        resume = enas_command("resume", run, "--changed-file-ok")
        place = f" {where}" if where else ""
        raise UserCodeError(
            f"{lines}{said}\nyour own code has failed{place}. What the last checkpoint has is kept: mend the code, and "
            f"{resume!r} goes on"
        ) from error


def notes_of(error: BaseException) -> list[str]:
    """What was added to an error."""
    return list(getattr(error, "__notes__", []))


def remarks(error: BaseException) -> list[str]:
    """What was added to an error, but for where it was."""
    return [note for note in notes_of(error) if not isinstance(note, Where)]
