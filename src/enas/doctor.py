"""What this machine has: everything a run may need, checked by using it."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from enas.data.sources import load_text
from enas.data.text import TextConfig
from enas.errors import EnasError
from enas.ops import kernels_report
from enas.runtime.devices import pick_device
from enas.runtime.environment import environment
from enas.runtime.memory import available_memory_mib


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    needed: bool
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


def checks() -> list[Check]:
    """Everything, most needed first."""
    here = environment()
    memory = available_memory_mib()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    found = [
        Check("python", True, True, str(here["python"])),
        Check("torch", True, True, f"{here['torch']} on {here['cpu']}, {torch.get_num_threads()} threads"),
        Check("memory", True, True, "unknown" if memory is None else f"{memory / 1024:.1f} GiB free"),
        Check("disk", free > 1, True, f"{free:.1f} GiB free here"),
        _stdlib(),
    ]
    found += [Check(name, ok, False, detail) for name, ok, detail in kernels_report()]
    devices = ", ".join(here["devices"]) or "none; the CPU is used"
    if here["devices"] and pick_device().type == "cpu":
        devices += "; used only where --device names it"
    found.append(Check("accelerator", bool(here["devices"]), False, devices))
    for package, purpose in (
        ("pygraphviz", "SVG and PNG drawings"),
        ("tensorboard", "metrics in TensorBoard"),
        ("nas_bench_graph", "scores of trained networks for enas benchmark"),
    ):
        ok = importlib.util.find_spec(package) is not None
        found.append(Check(package, ok, False, purpose if ok else f"{purpose}: pip install {package}"))
    return found


def _stdlib() -> Check:
    try:
        corpus = load_text(TextConfig(max_vocabulary=100, max_train_tokens=1000))
    except EnasError as error:
        return Check("embedded text", False, True, str(error))
    return Check(
        "embedded text", True, True, f"the standard library of Python {corpus.source.get('python', '')}"
    )
