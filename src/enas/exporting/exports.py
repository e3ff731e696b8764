"""A network in several formats: each file is made, compared with the network, and only then written, with the record of its
check beside it."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from enas.errors import ConfigError, EnasError, ExportError, shown
from enas.exporting import code, onnx, pt2, safetensors
from enas.exporting.check import BATCHES, first_line, largest_difference, median_seconds
from enas.exporting.subject import Run, Subject, any_module, tensors
from enas.paths import user_path
from enas.plain import in_plain_torch
from enas.retrain import WEIGHTS
from enas.runtime.environment import version_of, versions
from enas.runtime.files import Digest, digest_of, write_atomic, write_json

FormatName = Literal["safetensors", "py", "pt2", "onnx"]


class Format(NamedTuple):
    """How a module becomes a file, and what of it the file is to keep."""

    written: Callable[[Subject], bytes]
    loaded: Callable[[bytes, Subject], Run]
    tolerance: float
    """How far its outputs may be from the module's, as a share of the largest of these."""
    runtime: str | None = None
    """What computes what is in a file, if it is not the module itself."""
    packages: tuple[str, ...] = ()
    """Whose versions matter beside torch's."""


FORMATS: dict[FormatName, Format] = {
    "safetensors": Format(safetensors.written, safetensors.loaded, 0.0, packages=("safetensors",)),
    "py": Format(code.written, code.loaded, 1e-6, "py"),
    "pt2": Format(pt2.written, pt2.loaded, 1e-5, "pt2"),
    "onnx": Format(onnx.written, onnx.loaded, 1e-4, "onnxruntime", onnx.PACKAGES),
}
GRAPHS: tuple[FormatName, ...] = ("pt2", "onnx")
"""Formats that hold what is computed, step by step, so that what has a state may be several of them."""


@dataclass(frozen=True)
class Tensors:
    """What goes in or comes out, by name."""

    name: str
    dtype: str
    shape: list[int | str]
    """The length of each axis, or what it is if it varies."""


@dataclass(frozen=True)
class Check:
    """The record of the check of a file, written beside it."""

    file: str
    digest: Digest
    inputs: list[Tensors]
    outputs: list[Tensors]
    batches: tuple[int, ...]
    """The sizes of batch that were compared."""
    largest_difference: float
    """Of outputs, as a share of the largest output of the network."""
    tolerance: float
    """What was allowed."""
    seconds: dict[str, float]
    """The median of a forward pass with a batch of one: of torch without compiled kernels, and of the file's runtime."""
    threads: int
    versions: dict[str, str | None]


def export(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    folder: str | os.PathLike[str] = "export",
    to: Sequence[FormatName] = ("safetensors", "pt2", "onnx"),
) -> list[Path]:
    """Write any module without choices into a folder, in each of these formats; returns the files.

    `example` is a tensor, or several, as the module takes them, the batch as their first axis; its values stand for what
    goes in. The module is used in evaluation mode, on the CPU, in the type that it has. Files are `weights.safetensors`,
    `model.py` (which comes with the weights), `model.pt2` and `model.onnx`, each with a record of its check beside it, such
    as `model.onnx.json`.

    Raises `ConfigError` for an unknown format, a module that is not on the CPU, an example that is none, or a format whose
    packages are not installed; `ExportError` if a format cannot say what the module does, or differs from it: then there
    is no file of that format.
    """
    check_formats(to)
    if any(tensor.device.type != "cpu" for tensor in model.state_dict().values()):
        raise ConfigError(
            "the module is not on the CPU, where files are compared with it: move it with .cpu()"
        )
    modes = {module: module.training for module in model.modules()}
    place = user_path(os.fspath(folder))
    try:
        subject = any_module(model.eval(), example)
        return [place / check.file for check in export_subjects(subject, (subject,), place, to)]
    finally:
        for module, training in modes.items():
            module.training = training


def check_formats(to: Sequence[str]) -> None:
    """Raise `ConfigError` for a format that there is not, or whose packages are missing."""
    for name in to:
        if name not in FORMATS:
            raise ConfigError(
                f"there is no format {shown(name)}; there are {', '.join(get_args(FormatName))}"
            )
    if "onnx" in to:
        for package in onnx.PACKAGES:
            onnx.needed(package)


def export_subjects(
    whole: Subject, graphs: Sequence[Subject], folder: Path, to: Sequence[FormatName]
) -> list[Check]:
    """Write a network, and the graphs that it is recorded as, in each of these formats; code comes with its weights.

    Raises as `export`.
    """
    wanted: list[FormatName] = ["safetensors", *to] if "py" in to else list(to)
    checks = []
    for name in dict.fromkeys(wanted):
        for subject in graphs if name in GRAPHS else (whole,):
            path = folder / (WEIGHTS if name == "safetensors" else f"{subject.name}.{name}")
            record = path.with_name(f"{path.name}.json")
            try:
                data, check = made(subject, name, path.name)
            except EnasError:
                for old in (path, record):  # of an earlier network, which nothing would tell apart
                    old.unlink(missing_ok=True)
                raise
            write_atomic(path, data)
            write_json(record, asdict(check))
            checks.append(check)
    return checks


def made(subject: Subject, name: FormatName, file: str) -> tuple[bytes, Check]:
    """A file of a format, compared with the network. Raises `ExportError` if it cannot be made, or differs."""
    chosen = FORMATS[name]
    with in_plain_torch(), quiet(), torch.no_grad():
        try:
            data = chosen.written(subject)
            run = chosen.loaded(data, subject)
            difference = largest_difference(subject, run)
        except ExportError as error:
            raise ExportError(f"{file}: {error}") from error
        except EnasError:
            raise
        except Exception as error:  # exporters raise errors of any kind
            raise ExportError(
                f"{file}: the network cannot be written as {name} ({first_line(error)})"
            ) from error
        if not difference <= chosen.tolerance:
            raise ExportError(
                f"{file}: what it computes differs from the network by {difference:.2g} of its largest output, and "
                f"{chosen.tolerance:g} is allowed; nothing was written"
            )
        one = subject.drawn(1)
        seconds = {"torch": median_seconds(subject.reference, one)}
        if chosen.runtime is not None:
            seconds[chosen.runtime] = median_seconds(run, one)
        inputs, outputs = sizes(subject)
    return data, Check(
        file,
        digest_of(data),
        inputs,
        outputs,
        BATCHES,
        difference,
        chosen.tolerance,
        seconds,
        torch.get_num_threads(),
        versions() | {package: version_of(package) for package in chosen.packages},
    )


def sizes(subject: Subject) -> tuple[list[Tensors], list[Tensors]]:
    """The inputs and the outputs; a length that varies like one of an input's is what that is."""
    pairs = [(subject.drawn(batch), tensors(subject.reference(*subject.drawn(batch)))) for batch in (2, 3)]
    (given, found), (given_3, found_3) = pairs
    varying = {
        (x.shape[axis], x_3.shape[axis]): name
        for x, x_3, axes in zip(given, given_3, subject.axes, strict=True)
        for axis, name in axes.items()
    }

    def described(names: Sequence[str], xs: Sequence[Tensor], xs_3: Sequence[Tensor]) -> list[Tensors]:
        return [
            Tensors(
                name,
                str(x.dtype).removeprefix("torch."),
                [varying.get(pair, pair[0]) for pair in zip(x.shape, x_3.shape, strict=True)],
            )
            for name, x, x_3 in zip(names, xs, xs_3, strict=True)
        ]

    return described(subject.inputs, given, given_3), described(subject.outputs, found, found_3)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, exporters do not talk of themselves: of names that they will not use, or packages that they could use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
