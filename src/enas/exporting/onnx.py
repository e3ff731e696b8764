"""ONNX: the graph of a network with its weights, for runtimes in other languages and on other devices."""

from __future__ import annotations

import importlib
import json
import re
from typing import Any

import torch
from torch import Tensor

from enas.errors import ConfigError, ExportError
from enas.exporting.check import first_line
from enas.exporting.subject import Run, Subject

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LACKS = re.compile(r"No (?:ONNX function|decompositions) (?:found|registered) for \S*?op='([\w.]+)'")
"""What torch says of an operation that ONNX lacks."""


def needed(package: str) -> Any:
    """A package of the extra. Raises `ConfigError`, with the command that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"the format onnx needs the package {package}, which cannot be imported ({first_line(error)}); install it with "
            "pip install 'enas[onnx]', or leave the format out"
        ) from error


def written(subject: Subject) -> bytes:
    """The file of a module, as ONNX's own checker accepts it.

    Raises `ExportError` naming an operation that ONNX lacks.
    """
    onnx = needed("onnx")
    try:
        program = torch.onnx.export(
            subject.module,
            subject.example(),
            dynamo=True,
            dynamic_shapes=subject.varying(),
            input_names=subject.inputs,
            output_names=subject.outputs,
            verbose=False,
        )
    except Exception as error:  # converters raise errors of any kind
        raise ExportError(missing_operation(error) or first_line(error)) from error
    assert program is not None  # as dynamo is True
    model = program.model_proto
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in subject.about.items()})
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def missing_operation(error: BaseException) -> str | None:
    """Which operation ONNX lacks, if that is what an error and its causes say."""
    cause: BaseException | None = error
    while cause is not None:
        if found := LACKS.search(str(cause)):
            return (
                f"ONNX has no operation for torch's {found[1]}: put another in its place, or leave onnx out"
            )
        cause = cause.__cause__
    return None


def loaded(data: bytes, subject: Subject) -> Run:
    """What a file computes, by onnxruntime on the CPU with torch's number of threads."""
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        values = dict(zip(names, (x.numpy() for x in inputs), strict=True))
        return [torch.from_numpy(found) for found in session.run(None, values)]

    return run
