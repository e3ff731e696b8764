"""Checkpoints: the newest few states of a stage, each whole on the disk, read back without running code."""

import contextlib
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from enas.errors import ConfigError, RunFolderError
from enas.runtime.files import PART_SUFFIX, atomic_file

logger = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one stage: `step-00000123.pt` in a folder of their own.

    A state is a dictionary of tensors and plain values, nested at will, as `state_dict()` returns. A tensor
    that is a view is saved with all of the storage it looks into; clone it first where that is much larger.

    Args:
        folder: created by the first `save`.
        keep: how many of the newest checkpoints to keep, at least 1.
        warn: is told, in one line, of every damaged checkpoint that `load_newest` passes over.
    """

    def __init__(
        self, folder: str | os.PathLike[str], keep: int = 3, warn: Callable[[str], None] = logger.warning
    ) -> None:
        if keep < 1:
            raise ConfigError(f"Cannot keep {keep} checkpoints: at least 1 is needed to resume.")
        self.folder = Path(folder)
        self.keep = keep
        self.warn = warn

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, oldest first."""
        names = [path.name for path in self.folder.glob("step-*.pt")]
        return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d+)\.pt", name)))

    def path(self, step: int) -> Path:
        """Return the file of the checkpoint of `step`."""
        return self.folder / f"step-{step:08d}.pt"

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Save `state` as the newest checkpoint, then delete those no longer kept; return its file.

        Checkpoints of later steps are deleted too: the run has gone back to an earlier one, and goes on from
        there.

        Raises:
            TypeError: the state holds something other than tensors and plain values; it is named.
            RunFolderError: the file cannot be written, for example because the disk is full. All earlier
                checkpoints are then still there.
        """
        plain = _plain(state, "state")
        path = self.path(step)
        with atomic_file(path) as file:
            try:
                torch.save(plain, file)
            except RuntimeError as error:
                # Torch's writer covers the disk's error with one of its own about a position in the file.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
        self._prune(step)
        return path

    def whole(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Read whole checkpoints as they are asked for, the newest first: (step, state) with tensors on the CPU."""
        for step in reversed(self.steps()):
            try:
                state = _read(self.path(step))
            except MemoryError:
                raise
            except Exception as error:  # the kinds of damage, and what readers raise on them, have no end
                self.warn(
                    f"Checkpoint {self.path(step)} is damaged ({_reason(error)}); trying the one before."
                )
            else:
                yield step, state

    def load_newest(self) -> tuple[int, dict[str, Any]] | None:
        """Return the newest whole checkpoint; None if there is none.

        Raises:
            RunFolderError: there are checkpoints, but all of them are damaged.
        """
        steps = self.steps()
        newest = next(self.whole(), None)
        if newest is not None:
            return newest
        if steps:
            raise RunFolderError(
                f"All {len(steps)} checkpoints in {self.folder} are damaged. Restore them from a copy, or "
                "delete the folder to start this stage again."
            )
        return None

    def _prune(self, newest: int) -> None:
        kept = [step for step in self.steps() if step <= newest][-self.keep :]
        unwanted = [self.path(step) for step in self.steps() if step not in kept]
        unwanted += self.folder.glob(f".step-*{PART_SUFFIX}")  # of a process that was killed while saving
        for path in unwanted:
            with contextlib.suppress(OSError):  # a file that cannot be deleted is no reason to stop training
                path.unlink()


def _plain(value: Any, where: str) -> Any:
    """Return `value` with mappings as dict and tensors detached; refuse what is more than data."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return {_plain_key(key, where): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item, f"{where}[{index}]") for index, item in enumerate(value))
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(
        f"{where} is a {type(value).__name__}; a checkpoint holds tensors and plain Python values only."
    )


def _plain_key(key: Any, where: str) -> str | int:
    if isinstance(key, str | int) and type(key) in (str, int):  # a subclass would be pickled as a class
        return key
    raise TypeError(f"{where} has the key {key!r}; keys of a checkpoint are strings and integers.")


def _read(path: Path) -> dict[str, Any]:
    """Read one checkpoint, every part of it compared with its CRC; raise anything if it is damaged."""
    with zipfile.ZipFile(path) as archive:
        part = archive.testzip()
    if part is not None:
        raise zipfile.BadZipFile(f"the checksum of {part} is wrong")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise TypeError(f"it holds a {type(state).__name__}, not a dictionary")
    return state


def _reason(error: Exception) -> str:
    """Say in a few words what is wrong; torch's own refusal to unpickle is a page long."""
    if isinstance(error, pickle.UnpicklingError):
        return "it holds something other than tensors and plain values"
    return (str(error) or type(error).__name__).splitlines()[0]
