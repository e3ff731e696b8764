"""A model card: a README.md that says what a network is, what it was trained on and how, what came out, and against what.

Text that comes from data, such as the names of classes, is written so that nothing of it is markup.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enas.data.own_files import printable
from enas.data.sources import LICENCES
from enas.evidence.statistics import proportion
from enas.exporting.exports import Check
from enas.report.summary import number
from enas.retrain import read_result
from enas.run import Run
from enas.runs.models import DataRecord, ImageModel, Model
from enas.runtime.records import read_record
from enas.scores import decimals

SHOWN = 50
"""Most names of classes that are written out."""
ONE_TRAINING = "One training has no interval: `enas compare` measures how much another seed would change."
PARTS = {
    "weights.safetensors": "the weights; if model.json is beside them, `enas.load` makes the module of both",
    "model.py": "the network in plain torch; `load()` reads the weights beside it",
    "model.pt2": "`torch.export.load`: the graph with its weights",
    "model.onnx": "the graph with its weights, for any ONNX runtime",
    "step.pt2": "one word: tokens [B] and the state in, scores and the next state out",
    "step.onnx": "the same, for any ONNX runtime",
    "sequence.pt2": "any number of words: tokens [T, B] and the state in, scores and the last state out",
    "sequence.onnx": "the same, for any ONNX runtime",
}


@dataclass(frozen=True)
class Claim:
    """What a comparison says of one rival."""

    rival: str
    claim: str


@dataclass(frozen=True)
class Claims:
    """What comparison.json of `enas compare` says."""

    contests: list[Claim]


@dataclass(frozen=True)
class Facts:
    """What is known of a network whose run there may not be."""

    data: DataRecord
    use: str
    """What goes in and what comes out."""
    versions: Mapping[str, str | None]
    """Of the packages that trained it."""


def card(title: str, facts: Facts, folder: Path, trained: Path, checks: Sequence[Check]) -> str:
    """The model card of a network, trained in the folder `trained` of the run in `folder`, or of no run."""
    name, _, drawing = title.partition("\n")
    run = Run.open(folder) if (folder / "config.json").exists() else None
    result = read_result(trained)
    sections = {
        "Data": data(facts.data),
        "Input and output": facts.use,
        "Protocol": protocol(facts.versions, run, result),
        "Result": "Not known." if result is None else outcome(result, facts.data),
        "Random baseline": baseline(run),
        "Files": files(checks),
    }
    drawn = f"\n\n```text\n{drawing.strip()}\n```" if drawing.strip() else ""
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in sections.items())
    return f"# {plain(name)}{drawn}\n\n{body}\n"


def plain(text: str, longest: int = 300) -> str:
    """Text of any origin, on one line, as text alone in Markdown and in HTML."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", html.escape(printable(text, longest), quote=False))


def data(trained_on: DataRecord) -> str:
    """What the network was trained on."""
    licence = LICENCES.get(trained_on.source, "unknown, as the data are the user's own")
    return (
        f"{plain(trained_on.name)}.\n\nLicence of the data: {licence}. SHA-256: `{plain(trained_on.hash)}`."
    )


def in_and_out(check: Check) -> str:
    """What goes in and what comes out, by the names that it has in the graphs."""
    given, made = (
        ", ".join(f"`{each.name}` {each.dtype} {shape(each.shape)}" for each in tensors)
        for tensors in (check.inputs, check.outputs)
    )
    return f"From {given} to {made}. What these are, the code that trained it says."


def shape(axes: Sequence[int | str]) -> str:
    """The lengths of the axes of a tensor."""
    return f"\\[{', '.join(map(str, axes))}\\]"


def use(model: Model) -> str:
    """What goes in and what comes out."""
    if not isinstance(model, ImageModel):
        return f"Tokens, the places of {len(model.words):,} words in the vocabulary, to the scores of the next word."
    shape = f"{model.shape.channels}×{model.shape.height}×{model.shape.width}"
    mean, std = (", ".join(f"{value:.6g}" for value in values) for values in model.normalisation)
    return (
        f"Images of {shape} pixels, scaled to 0..1, minus the mean ({mean}) of their channel, divided by its standard "
        f"deviation ({std}); to the scores of {len(model.classes)} classes: {named(model.classes)}."
    )


def named(names: Sequence[str]) -> str:
    """Names in a row."""
    shown = [plain(name, 60) for name in names[:SHOWN]]
    return ", ".join([*shown, *(["…"] if len(names) > SHOWN else [])])


def protocol(used: Mapping[str, str | None], run: Run | None, result: Mapping[str, Any] | None) -> str:
    """How it was found and trained."""
    lines = []
    if run is not None and (run.folder / "search.json").exists():
        config, space = run.config, run.config.searched_space()
        lines.append(
            f"Found among {space.count():,} architectures of the {space.name} space by a search of "
            f"{config.search.epochs} epochs with shared weights, controller `{config.controller.kind}`, seed {config.seed}."
        )
    if result is not None:
        lines.append(
            f"Trained from scratch for {result['epochs']} epochs with seed {result['seed']}; the weights are those of epoch "
            f"{result['best_epoch']}. {result['parameters']:,} parameters."
        )
    versions = ", ".join(f"{plain(name)} {plain(version)}" for name, version in used.items() if version)
    return "\n".join([*lines, f"Versions: {versions}."])


def outcome(result: Mapping[str, Any], trained_on: DataRecord) -> str:
    """What it came to on the test data, and how sure that is."""
    scores = {f"valid {k[6:]}": v for k, v in result.items() if k.startswith("valid_") and k != "valid_loss"}
    tested = result.get("test", {})
    if "test_accuracy" in tested:
        right = round(tested["test_accuracy"] / 100 * trained_on.tested)
        found = proportion(right, trained_on.tested)
        said = (
            f"Test accuracy {100 * found.value:.2f} % [{100 * found.low:.2f}, {100 * found.high:.2f}]: an exact interval of "
            f"{found.level:.0%} for {found.n:,} test images. It leaves out what another seed of the training would change."
        )
    elif "test_ppl" in tested:
        said = f"Test perplexity {tested['test_ppl']:.2f} on {trained_on.tested:,} tokens. {ONE_TRAINING}"
    elif "test_score" in tested:
        score = tested["test_score"]
        said = f"Test score {number(score, decimals([score]))}, as the task measures it. {ONE_TRAINING}"
    else:
        said = "Not tested yet."
    return "\n".join(
        [said, *(f"{key.capitalize()} {number(value, decimals([value]))}." for key, value in scores.items())]
    )


def baseline(run: Run | None) -> str:
    """What architectures drawn at random came to, trained alike."""
    if run is None:
        return "None: these are the files of one training."
    metric = run.config.metric
    results = [result for result in run.results() if result["role"] == "random"]
    tested = [float(one["test"][f"test_{metric.name}"]) for one in results if "test" in one]
    lines = ["No random architecture was trained beside it."]
    if tested:
        best = min(tested) if metric.lower_is_better else max(tested)
        mean, best_said = (number(score, decimals(tested)) for score in (sum(tested) / len(tested), best))
        lines = [
            f"{len(tested)} random architectures, trained alike, with one seed each: test {metric.name} {mean} in the mean, "
            f"{best_said} the best."
        ]
    compared = run.folder / "compare" / "comparison.json"
    if compared.exists():
        lines += [
            f"\nOf the method, by `enas compare`: {plain(each.rival)}: {plain(each.claim)}."
            for each in read_record(compared, Claims, f"Run {run.command('compare')} again").contests
        ]
    return "\n".join(lines)


def files(checks: Sequence[Check]) -> str:
    """The files, with their sizes and the differences that were measured."""
    rows = [
        f"| {check.file} | {PARTS[check.file]} | {check.digest.bytes:,} | {check.largest_difference:.1e} | {times(check)} |"
        for check in checks
    ]
    head = ["| file | what it is | bytes | differs by | milliseconds |", "|---|---|---|---|---|"]
    note = (
        "Each file was compared with the network at batches of 1, 2 and 7. The difference is a share of the largest output. "
        "Times are medians of a forward pass with a batch of one."
    )
    return "\n".join([*head, *rows, "", note])


def times(check: Check) -> str:
    """Milliseconds of a forward pass, by what computes it."""
    return ", ".join(f"{name} {1000 * seconds:.3g}" for name, seconds in check.seconds.items())
