"""safetensors: the weights of a network by their names, which load without running code."""

from __future__ import annotations

import copy

import safetensors.torch

from enas.exporting.subject import Run, Subject


def written(subject: Subject) -> bytes:
    """The file of a module. Weights that two parts share are there under both names."""
    weights = {
        name: weight.detach().clone().contiguous() for name, weight in subject.module.state_dict().items()
    }
    return safetensors.torch.save(weights)


def loaded(data: bytes, subject: Subject) -> Run:
    """What a module computes with the weights of a file."""
    module = copy.deepcopy(subject.module)
    module.load_state_dict(safetensors.torch.load(data))
    return subject.caller(module)
