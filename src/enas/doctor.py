"""What this machine has: everything a run may need, checked by using it."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from enas.data.sources import TextConfig, load_text
from enas.errors import EnasError
from enas.nn.products import packs
from enas.nn.usable import why_no_kernels
from enas.runtime.devices import pick_device
from enas.runtime.environment import available_memory_mb, environment


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
    memory = available_memory_mb()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    found = [
        Check("python", True, True, str(here["python"])),
        Check("torch", True, True, f"{here['torch']} on {here['cpu']}, {torch.get_num_threads()} threads"),
        Check("memory", True, True, "unknown" if memory is None else f"{memory / 1024:.1f} GiB free"),
        Check("disk", free > 1, True, f"{free:.1f} GiB free here"),
        _stdlib(),
    ]
    found.append(_kernels())
    for dtype in (torch.float32, torch.bfloat16):
        ok = packs(dtype)
        detail = "matrix products with packed weights" if ok else "plain matrix products, slower"
        found.append(Check(f"oneDNN {str(dtype).removeprefix('torch.')}", ok, False, detail))
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


def _kernels() -> Check:
    """Whether compiled kernels work, on which threads, and where they are kept."""
    why_not = why_no_kernels()
    if why_not is not None:
        return Check("kernels", False, False, f"plain PyTorch instead, slower: {why_not}")
    from enas.nn.probe import kept  # here, as it needs numba
    from enas.nn.threads import shares_threads

    threads = (
        f"{torch.get_num_threads()} threads"
        if shares_threads()
        else "one thread, as PyTorch's OpenMP cannot be shared on this system"
    )
    return Check("kernels", True, False, f"compiled, on {threads}; {kept()}")


def _stdlib() -> Check:
    try:
        corpus = load_text(TextConfig(max_vocabulary=100, max_train_tokens=1000))
    except EnasError as error:
        return Check("embedded text", False, True, str(error))
    return Check(
        "embedded text", True, True, f"the standard library of Python {corpus.source.get('python', '')}"
    )
