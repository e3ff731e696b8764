"""The found network of a run in several formats, with a model card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from enas.exporting import language
from enas.exporting.card import Facts, card, in_and_out, use
from enas.exporting.exports import Check, FormatName, check_formats, export_subjects
from enas.exporting.subject import Inputs, Subject, batched
from enas.loading import load_described, training_folder
from enas.report.text import to_text
from enas.retrain import MODEL, WEIGHTS, Network
from enas.run import VERSIONS, Run
from enas.run_records import EnvironmentRecord
from enas.runs.models import DataRecord, ImageModel, Model, WordModel
from enas.runtime.files import digest_of_file, write_atomic, write_json
from enas.runtime.records import read_record
from enas.runtime.seeding import generator
from enas.spaces import architecture_from_json
from enas.tasks.language_model import LanguageModel

EXPORT = "export"
"""The subfolder of a run with what was exported."""
LSTM = "LSTM language model"


def export_run(folder: Path, to: tuple[FormatName, ...]) -> tuple[Path, list[Check]]:
    """Write the found network of a run, or the network of one training, in each of these formats, with a model card.

    **If the run's recipe is in a file, that is imported.** Returns the folder of the files, and the records of their checks.
    Raises `RunFolderError` if there is no trained network, and otherwise as `enas.export`; no format is written then that
    follows the one which cannot be.
    """
    check_formats(to)
    if (folder / "config.json").exists() and not (run := Run.open(folder)).config.describable:
        return export_own(run, to)
    trained = training_folder(folder)
    model, record = load_described(trained)
    whole, graphs = subjects(model, record.model)
    place = folder / EXPORT
    checks = export_subjects(whole, graphs, place, to)
    if (place / WEIGHTS).exists():
        write_json(place / MODEL, replace(record, weights=digest_of_file(place / WEIGHTS)).to_json())
    facts = Facts(record.data, use(record.model), record.versions)
    write_atomic(place / "README.md", card(whole.title, facts, folder, trained, checks))
    return place, checks


def export_own(run: Run, to: tuple[FormatName, ...]) -> tuple[Path, list[Check]]:
    """The same for a network that only its user's code describes. It is exported with rows of the validation data."""
    config, place = run.config, run.folder / EXPORT
    with config.told():
        model = run.found_model()
        example = config.example(model)

        def drawn(batch: int) -> Inputs:
            """The first rows, again and again."""
            return tuple(x[torch.arange(batch) % len(x)] for x in example)

        whole = batched(model, drawn, to_text(run.architecture().graph()))
        checks = export_subjects(whole, (whole,), place, to)
    found = Network("found", run.architecture(), config.seed)
    data = DataRecord(str(run.data), run.data.hash, "", 0)
    then = read_record(run.folder / "environment.json", EnvironmentRecord, "Put the original back")
    facts = Facts(data, in_and_out(checks[0]), {name: vars(then)[name] for name in VERSIONS})
    trained = run.folder / "retrain" / found.id
    write_atomic(place / "README.md", card(whole.title, facts, run.folder, trained, checks))
    return place, checks


def subjects(model: nn.Module, described: Model) -> tuple[Subject, tuple[Subject, ...]]:
    """A loaded network as it is, and the graphs that it is exported as."""
    match described:
        case ImageModel():
            return of_images(model, described)
        case WordModel():
            about = {"words": described.words}
            return language.subjects(cast(LanguageModel, model), about, title(described.architecture))


def of_images(model: nn.Module, described: ImageModel) -> tuple[Subject, tuple[Subject, ...]]:
    """A network for images, from normalised ones [B, C, H, W] to class scores [B, K]."""
    size = described.shape[:3]

    def drawn(batch: int) -> Inputs:
        return (torch.randn(batch, *size, generator=generator(0, "example", batch)),)

    about = {"classes": described.classes, **described.normalisation._asdict()}
    whole = Subject(
        "model", model, drawn, ({0: "batch"},), ("images",), ("scores",), about, title(described.architecture)
    )
    return whole, (whole,)


def title(architecture: dict[str, Any] | None) -> str:
    """A network for people: its name, and its drawing."""
    if architecture is None:
        return f"{LSTM}."
    return to_text(architecture_from_json(architecture).graph())
