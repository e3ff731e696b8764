"""Checkpoints: the newest few states of a stage, each whole on the disk, and read back without running code in them.

How often there is one depends on the clock and on steps; nothing that is computed depends on it.
"""

import contextlib
import hashlib
import io
import logging
import os
import pickle
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from enas.errors import ConfigError, EnasError, RunFolderError, shortened
from enas.runtime.files import PART_SUFFIX, atomic_file
from enas.runtime.flat import packed, unpacked
from enas.runtime.records import check_settings

logger = logging.getLogger(__name__)

_SEAL = b"\nenas sha256 "
"""A checkpoint ends in this and the hash of all bytes before it. The zip file's own checksums leave out names and
headers."""
_SEAL_BYTES = len(_SEAL) + hashlib.sha256().digest_size


@dataclass(frozen=True)
class Rhythm:
    """When a checkpoint is due."""

    minutes: float = 5.0
    """So long after the last one."""
    steps: int | None = None
    """At every multiple of so many steps too, if that is given."""
    clock: Callable[[], float] = time.monotonic
    """Returns seconds."""

    def of_steps(self, step: int) -> bool:
        """Whether the checkpoint of a step is one that steps ask for, whatever the clock says."""
        return self.steps is not None and step % self.steps == 0


class CheckpointStore:
    """The checkpoints of one stage: `step-00000123.pt` in a folder of their own.

    A state is a dictionary of tensors and plain values, nested at will, as `state_dict()` returns.

    Args:
        folder: created by the first `save`, in a folder that exists.
        keep: how many of the newest checkpoints to keep, at least 1; and how many that steps ask for, the last one of all
            among them.
        warn: takes one line for every damaged checkpoint that `load_newest` passes over.
        settings: plain values by name. Every checkpoint keeps them, and one that was saved with others is refused.
        run_file: a file that every run has. Once it is gone, the run has been deleted, and nothing is saved.
        rhythm: what `due` goes by.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        keep: int = 3,
        warn: Callable[[str], None] = logger.warning,
        settings: Mapping[str, Any] | None = None,
        run_file: Path | None = None,
        rhythm: Rhythm = Rhythm(),
    ) -> None:
        if keep < 1:
            raise ConfigError(f"Cannot keep {keep} checkpoints: at least 1 is needed to resume.")
        self.folder = Path(folder)
        self.keep = keep
        self.warn = warn
        self.settings = {} if settings is None else settings
        self.run_file = run_file
        self.rhythm = rhythm
        self._saved_at = rhythm.clock()

    def due(self, step: int) -> bool:
        """Whether to save after this step."""
        seconds = self.rhythm.clock() - self._saved_at
        return self.rhythm.of_steps(step) or seconds >= 60 * self.rhythm.minutes

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
        text, flat = packed(state)
        whole = {"step": step, "settings": dict(self.settings), "state": text, "tensors": flat}
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
                torch.save(whole, file)
            except RuntimeError as error:
                # Torch's writer covers the disk's error with one of its own about a position in the file.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            file.seek(0)
            digest = hashlib.file_digest(cast(io.BufferedRandom, file), "sha256")  # reads to the end
            file.write(_SEAL + digest.digest())
        self._prune(step)
        self._saved_at = self.rhythm.clock()
        return path

    def whole(
        self, chosen: Callable[[int], bool] = lambda step: True
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Read the undamaged checkpoints of the `chosen` steps, the newest first: (step, state) with tensors on the CPU.

        Raises `RunFolderError`, naming the first setting that differs, if a checkpoint was saved with others; also for one
        of an earlier version.
        """
        for step in filter(chosen, reversed(self.steps())):
            path = self.path(step)
            try:
                settings, state = _read(path, step)
            except (EnasError, MemoryError):
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
        reached = [step for step in self.steps() if step <= newest]
        by_steps = list(filter(self.rhythm.of_steps, reached[:-1]))
        kept = {*reached[-self.keep :], *by_steps[max(0, len(by_steps) - self.keep + 1) :]}
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
        if (other := _other_weights(error)) is not None:
            raise RunFolderError(
                f"Checkpoint {path} does not hold what this run saves: it has other weights than the network as its code is "
                f"now ({other}). Put the code back as it was, or begin a new run in another folder."
            ) from error
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


def _read(path: Path, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read one checkpoint, compared with its hash: (settings, state).

    Raises `RunFolderError` if it is of an earlier version, and anything if it is damaged.
    """
    _check_seal(path)
    saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    names = saved.keys() if isinstance(saved, dict) else set()
    if names == {"step", "settings", "state"}:
        raise RunFolderError(
            f"{path} is of an earlier version of enas, which wrote checkpoints in another form. Go on with that version, or "
            f"begin again without {path.parent.parent}"
        )
    if names != {"step", "settings", "state", "tensors"}:
        raise TypeError(f"it holds a {type(saved).__name__}, not a dictionary of what a checkpoint has")
    if saved["step"] != step:
        raise ValueError(f"it was saved after step {saved['step']}")
    state = unpacked(saved["state"], saved["tensors"])
    if not isinstance(saved["settings"], dict) or not isinstance(state, dict):
        raise TypeError("its state and settings are no dictionaries")
    return saved["settings"], state


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


def _other_weights(error: Exception) -> str | None:
    """The first difference that `nn.Module.load_state_dict` complains of; None for any other error. What the checkpoint has
    was compared with its hash, and so it is the module that is another one."""
    heading, *differences = str(error).splitlines() or [""]
    if not (isinstance(error, RuntimeError) and heading.startswith("Error(s) in loading state_dict for")):
        return None
    return shortened(differences[0].strip().rstrip("."), 200) if differences else None


def _reason(error: Exception) -> str:
    """Say in a few words what is wrong; torch's own refusal to unpickle is a page long."""
    if isinstance(error, pickle.UnpicklingError):
        return "it holds something other than tensors and plain values"
    return (str(error) or type(error).__name__).splitlines()[0]
