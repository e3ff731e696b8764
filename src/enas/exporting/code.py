"""One file of plain torch that defines a network and loads its weights, with nothing of this package in it."""

from __future__ import annotations

from typing import Any

import safetensors.torch
import torch

from enas.data.own_files import printable
from enas.exporting import safetensors as weights
from enas.exporting.classes import WIDTH, broken, source
from enas.exporting.recorded import Recording
from enas.exporting.subject import Run, Subject

HEAD = '''"""{title}

Plain torch. The weights are in weights.safetensors beside this file:

    from model import load
    model = load()
"""

{imports}

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
'''

LOAD = '''def network(weights):
    """The network with these weights, in evaluation mode. Weights of parts that only a training has are left out."""
    model = {made}
    model.load_state_dict({{name: weights[name] for name in model.state_dict()}}, assign=True)
    return model.eval()


def load(path=Path(__file__).with_name("weights.safetensors")):
    """The network with the weights of a file, in evaluation mode."""
    return network(load_file(path))
'''

PREPROCESS = '''def preprocess(pixels):
    """What the network takes, of pixels 0 to 255 [B, C, H, W]."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (pixels / 255 - mean) / std
'''


def written(subject: Subject) -> bytes:
    """The file of a module. Raises `ExportError` for what code cannot say."""
    if subject.code is not None:
        classes, made = subject.code()
    else:
        with Recording(subject.module) as recording:
            subject.reference(*subject.example())
        classes, made = source(recording)
    title = "\n".join(
        printable(line).replace("\\", "/").replace('"', "'") for line in subject.title.splitlines()
    )
    ordered = ["from collections import OrderedDict"] if "OrderedDict(" in classes + made else []
    imports = "\n".join([*ordered, "from pathlib import Path"])
    parts = [
        HEAD.format(title=title, imports=imports),
        *constants(subject.about),
        classes + "\n",
        LOAD.format(made=made),
    ]
    if {"mean", "std"} <= subject.about.keys():
        parts.append(PREPROCESS)
    if "words" in subject.about:
        parts.append(vocabulary(subject.about["words"]))
    return "\n\n".join(parts).encode()


def constants(about: Any) -> list[str]:
    """What else there is to know, as constants."""
    lines = [
        broken(f"{name.upper()} = {tuple(about[name])!r}")
        for name in ("classes", "mean", "std")
        if name in about
    ]
    return ["\n".join(line for each in lines for line in each) + "\n"] if lines else []


def vocabulary(words: tuple[str, ...]) -> str:
    """The words, as many on a line as fit: none has white space in it."""
    lines, line = [], ""
    for word in words:
        safe = "".join(c if c.isprintable() and c not in "\\\"'" else f"\\U{ord(c):08x}" for c in word)
        if line and len(line) + len(safe) >= WIDTH:
            lines.append(line)
            line = ""
        line += f" {safe}" if line else safe
    return 'WORDS = """\n' + "\n".join([*lines, line]) + '\n""".split()\n'


def loaded(data: bytes, subject: Subject) -> Run:
    """What a file computes, with the weights of the module."""
    names: dict[str, Any] = {"__file__": "model.py", "__name__": "model"}
    exec(compile(data, "model.py", "exec"), names)
    network: torch.nn.Module = names["network"](safetensors.torch.load(weights.written(subject)))
    return subject.caller(network)
