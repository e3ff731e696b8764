"""A trained network taken up again: from `weights.safetensors` and `model.json` beside it, and nothing else.

No data are needed, nothing is fetched, and nothing is unpickled. A network of the user's own needs the code that made it.
"""

from __future__ import annotations

import os
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from enas.errors import ArchitectureError, ConfigError, RunFolderError, enas_command, shortened
from enas.paths import near_folder, user_path
from enas.retrain import MODEL, WEIGHTS
from enas.run import Run
from enas.runs.models import ModelRecord
from enas.runtime.files import Digest, digest_of
from enas.runtime.records import read_record

ADVICE = "Put the original back, or train the network again"


def load(folder: str | os.PathLike[str]) -> nn.Module:
    """The trained network of a run, or of one training, as a plain module on the CPU in evaluation mode.

    `folder` is a run folder, whose found architecture is meant, or any folder with `model.json` and `weights.safetensors`.
    A network for images maps normalised images [B, C, H, W] to class scores [B, K]; it has `classes`, their names, and
    `preprocess`, a function from pixels or pictures to normalised images. A language model maps tokens [T, B] to the scores
    [T, B, V] of the next words and a state; it has `words`, the vocabulary, and `preprocess`, from text to tokens. A network
    of the user's own is as it was trained. **The file or package that it is from is imported**, and its data are looked at.

    Raises `RunFolderError` if a file is missing or damaged, or there is no trained network yet.
    """
    path = user_path(os.fspath(folder))
    if (path / "config.json").exists() and not (run := Run.open(path)).config.describable:
        return run.found_model()
    return load_described(training_folder(path))[0]


def load_described(folder: Path) -> tuple[nn.Module, ModelRecord]:
    """The network in the folder of a training, and what model.json says of it. Raises as `load`."""
    path = folder / MODEL
    record = read_record(path, ModelRecord, ADVICE)
    weights = read_weights(folder / WEIGHTS, record.weights)
    try:
        with torch.device("meta"):  # shapes alone: nothing is drawn, whatever sizes the record says
            model = record.model.build()
        model.load_state_dict(weights, assign=True)
    except (ArchitectureError, ConfigError) as error:
        raise RunFolderError(f"{path}: {error}. {ADVICE}") from error
    except RuntimeError as error:
        reason = shortened(" ".join(str(error).split()), 200)
        raise RunFolderError(
            f"{folder / WEIGHTS} is not of the network in {path} ({reason}). {ADVICE}"
        ) from error
    return model.eval(), record


def read_weights(path: Path, expected: Digest) -> dict[str, Tensor]:
    """The weights in a file. Raises `RunFolderError` if it is not the one that was written."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read ({error.strerror}). {ADVICE}") from error
    if digest_of(data) != expected:
        raise RunFolderError(f"{path} has changed since the training. {ADVICE}")
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise RunFolderError(f"{path} holds no weights ({error}). {ADVICE}") from error


def training_folder(folder: Path) -> Path:
    """Where the trained network is that a folder stands for: the folder itself, or the found network's in a run folder.

    Raises `RunFolderError` if there is none.
    """
    if (folder / MODEL).exists():
        return folder
    if not (folder / "config.json").exists():
        raise RunFolderError(
            f"{shortened(str(folder), 200)} has no trained network: neither {MODEL} nor a run; "
            f"{near_folder(folder)}"
        )
    run = Run.open(folder)
    network, _ = run.found_result()
    trained = folder / "retrain" / network.id
    if not (trained / MODEL).exists():
        raise RunFolderError(
            f"{trained} has no {MODEL}, as an earlier version trained it; {enas_command('retrain', folder)!r} writes it"
        )
    return trained
