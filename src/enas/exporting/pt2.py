"""`torch.export`: the graph of a network with its weights, for torch without this package."""

from __future__ import annotations

import io
import json

import torch

from enas.exporting.subject import Run, Subject

ABOUT = "about.json"
"""The name under which what else a user has to know is kept in the file."""


def written(subject: Subject) -> bytes:
    """The file of a module."""
    program = torch.export.export(subject.module, subject.example(), dynamic_shapes=subject.varying())
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={ABOUT: json.dumps(subject.about)})
    return file.getvalue()


def loaded(data: bytes, subject: Subject) -> Run:
    """What a file computes."""
    return torch.export.load(io.BytesIO(data)).module()
