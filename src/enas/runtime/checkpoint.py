"""Checkpoints: the newest few states of a stage, each whole on the disk, and read back without running code in them."""

import contextlib
import hashlib
import io
import logging
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from enas.errors import ConfigError, EnasError, RunFolderError
from enas.runtime.files import PART_SUFFIX, atomic_file
from enas.runtime.records import check_settings

logger = logging.getLogger(__name__)

_SEAL = b"\nenas sha256 "
"""A checkpoint ends in this and the hash of all bytes before it. The zip file's own checksums leave out names and
headers."""
_SEAL_BYTES = len(_SEAL) + hashlib.sha256().digest_size


class CheckpointStore:
    """The checkpoints of one stage: `step-00000123.pt` in a folder of their own.

    A state is a dictionary of tensors and plain values, nested at will, as `state_dict()` returns. A view is saved with
    its whole storage; clone it first where that is much larger.

    Args:
        folder: created by the first `save`, in a folder that exists.
        keep: how many of the newest checkpoints to keep, at least 1.
        warn: takes one line for every damaged checkpoint that `load_newest` passes over.
        settings: plain values by name. Every checkpoint keeps them, and one that was saved with others is refused.
        run_file: a file that every run has. Once it is gone, the run has been deleted, and nothing is saved.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        keep: int = 3,
        warn: Callable[[str], None] = logger.warning,
        settings: Mapping[str, Any] | None = None,
        run_file: Path | None = None,
    ) -> None:
        if keep < 1:
            raise ConfigError(f"Cannot keep {keep} checkpoints: at least 1 is needed to resume.")
        self.folder = Path(folder)
        self.keep = keep
        self.warn = warn
        self.settings = {} if settings is None else settings
        self.run_file = run_file

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, oldest first."""
        names = [path.name for path in self.folder.glob("step-*.pt")]
        return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d+)\.pt", name)))

    def path(self, step: int) -> Path:
        """Return the file of the checkpoint of `step`."""
        return self.folder / f"step-{step:08d}.pt"

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Save `state` as the newest checkpoint, then delete those no longer kept; return its file.

        Checkpoints of later steps are deleted too: the run has gone back to an earlier one, and goes on from there.

        Raises `TypeError`, naming the place, if the state holds something other than tensors and plain values;
        `RunFolderError` if the run has been deleted, or the file cannot be written, for example because the disk is full:
        all earlier checkpoints are then still there.
        """
        plain = {"step": step, "settings": dict(self.settings), "state": _plain(state, "state")}
        path = self.path(step)
        check_still_there(self.run_file)
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"Cannot make the folder {self.folder}: {error.strerror}. Check that the one above it is there and may be "
                "written to."
            ) from error
        with atomic_file(path, own=True) as file:
            try:
                torch.save(plain, file)
            except RuntimeError as error:
                # Torch's writer covers the disk's error with one of its own about a position in the file.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            file.seek(0)
            digest = hashlib.file_digest(cast(io.BufferedRandom, file), "sha256")  # reads to the end
            file.write(_SEAL + digest.digest())
        self._prune(step)
        return path

    def whole(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Read the undamaged checkpoints one by one, the newest first: (step, state) with tensors on the CPU.

        Raises `RunFolderError`, naming the first setting that differs, if a checkpoint was saved with others.
        """
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                settings, state = _read(path, step)
            except MemoryError:
                raise
            except Exception as error:  # damage, and what readers raise on it, are of endless kinds
                self.warn(f"Checkpoint {path} is damaged ({_reason(error)}); trying the one before.")
            else:
                check_settings(settings, self.settings, path, f"begin again without {self.folder.parent}")
                yield step, state

    def load_newest(self) -> tuple[int, dict[str, Any]] | None:
        """Return the newest undamaged checkpoint; None if there is no checkpoint.

        Raises `RunFolderError` if all checkpoints are damaged, or the newest undamaged one was saved with other settings.
        """
        steps = self.steps()
        newest = next(self.whole(), None)
        if newest is None and steps:
            raise RunFolderError(
                f"All {len(steps)} checkpoints in {self.folder} are damaged. Restore them from a copy, or "
                "delete the folder to start this stage again."
            )
        return newest

    def prune(self) -> None:
        """Delete all but the newest few, and what a process that was killed while saving has left."""
        if self.steps():
            self._prune(self.steps()[-1])

    def said_kept(self) -> str:
        """A sentence on the newest checkpoint, for the message when a stage ends in an error; empty if there is none."""
        steps = self.steps()
        return f" The checkpoint after step {steps[-1]} is kept." if steps else ""

    def _prune(self, newest: int) -> None:
        kept = [step for step in self.steps() if step <= newest][-self.keep :]
        unwanted = [self.path(step) for step in self.steps() if step not in kept]
        unwanted += self.folder.glob(f".step-*{PART_SUFFIX}")  # of a process that was killed while saving
        for path in unwanted:
            with contextlib.suppress(OSError):  # a file that cannot be deleted is no reason to stop training
                path.unlink()


@contextlib.contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Turn any error of taking over a state that is not this run's into one line that names the checkpoint."""
    try:
        yield
    except (EnasError, MemoryError):
        raise
    except Exception as error:  # each module that takes over its part of the state raises errors of its own
        reason = _reason(error) if str(error) else "something is missing"
        raise RunFolderError(
            f"Checkpoint {path} does not hold what this run saves ({type(error).__name__}: {reason}). Delete it to go on "
            "from the one before, or begin again in a new folder."
        ) from error


def check_still_there(run_file: Path | None) -> None:
    """Raise `RunFolderError` if this file, which every run has, is gone."""
    if run_file is not None and not run_file.exists():
        raise RunFolderError(
            f"{run_file} is gone: {run_file.parent} was deleted or moved while this ran. Nothing more is written; begin "
            "again, or resume where the folder is now."
        )


def _plain(value: Any, where: str) -> Any:
    """Return `value` with mappings as dict and tensors detached; refuse what is more than data."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):  # a subclass would be pickled as a class
                raise TypeError(
                    f"{where} has the key {key!r}; keys of a checkpoint are strings and integers."
                )
        return {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item, f"{where}[{index}]") for index, item in enumerate(value))
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(
        f"{where} is a {type(value).__name__}; a checkpoint holds tensors and plain Python values only."
    )


def _read(path: Path, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read one checkpoint, compared with its hash: (settings, state); raise anything if it is damaged."""
    _check_seal(path)
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(saved, dict) or saved.keys() != {"step", "settings", "state"}:
        raise TypeError(f"it holds a {type(saved).__name__}, not a dictionary of step, settings and state")
    if saved["step"] != step:
        raise ValueError(f"it was saved after step {saved['step']}")
    if not isinstance(saved["settings"], dict) or not isinstance(saved["state"], dict):
        raise TypeError("its state and settings are no dictionaries")
    return saved["settings"], saved["state"]


def _check_seal(path: Path) -> None:
    """Raise `ValueError` unless a file ends with the hash of the rest of it."""
    with open(path, "rb") as file:
        left = max(0, os.path.getsize(path) - _SEAL_BYTES)
        found = hashlib.sha256()
        while part := file.read(min(left, 2**20)):
            found.update(part)
            left -= len(part)
        seal = file.read()
    if not seal.startswith(_SEAL):
        raise ValueError("its end is missing")
    if seal[len(_SEAL) :] != found.digest():
        raise ValueError("its checksum is wrong")


def _reason(error: Exception) -> str:
    """Say in a few words what is wrong; torch's own refusal to unpickle is a page long."""
    if isinstance(error, pickle.UnpicklingError):
        return "it holds something other than tensors and plain values"
    return (str(error) or type(error).__name__).splitlines()[0]
