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
from enas.runtime.environment import cudnn_version, environment, nvidia_driver, nvidia_gpus
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
        Check("torch", True, True, f"{_torch()} on {here['cpu']}, {torch.get_num_threads()} threads"),
        Check("memory", True, True, "unknown" if memory is None else f"{memory / 1024:.1f} GiB free"),
        Check("disk", free > 1, True, f"{free:.1f} GiB free here"),
        _stdlib(),
    ]
    found += [Check(name, ok, False, detail) for name, ok, detail in kernels_report()]
    found.append(_accelerator())
    for package, purpose in (
        ("pygraphviz", "SVG and PNG drawings"),
        ("tensorboard", "metrics in TensorBoard"),
        ("nas_bench_graph", "scores of trained networks for enas benchmark"),
        ("ray", "trainings on a Ray cluster"),
        ("submitit", "trainings on a Slurm cluster"),
    ):
        ok = importlib.util.find_spec(package) is not None
        found.append(Check(package, ok, False, purpose if ok else f"{purpose}: pip install {package}"))
    return found


def _torch() -> str:
    """Torch, and what it was built for."""
    if torch.version.hip is not None:
        return f"{torch.__version__} for ROCm {torch.version.hip}"
    if torch.version.cuda is None:
        return (
            torch.__version__ if torch.backends.mps.is_built() else f"{torch.__version__} for the CPU alone"
        )
    return f"{torch.__version__} for CUDA {torch.version.cuda}, cuDNN {cudnn_version() or 'missing'}"


def _accelerator() -> Check:
    """What torch can use, and what it cannot though it is there."""
    driver = nvidia_driver()
    if torch.cuda.is_available():
        gpus = [_gpu(number) for number in range(torch.cuda.device_count())]
        return Check(
            "accelerator", True, False, "; ".join([*gpus, *([f"driver {driver}"] if driver else [])])
        )
    if torch.backends.mps.is_available():
        return Check("accelerator", True, False, "Apple MPS; used only where --device mps names it")
    idle = ", ".join(nvidia_gpus())
    if not idle:
        return Check("accelerator", False, False, "none; the CPU is used")
    why = f"torch finds no working CUDA in driver {driver or 'unknown'}: a newer one may be needed"
    if torch.version.cuda is None:
        why = "this torch is built without CUDA: see https://pytorch.org/get-started/locally"
    return Check("accelerator", False, False, f"{idle} is here and is not used, as {why}")


def _gpu(number: int) -> str:
    free, total = (size / 2**30 for size in torch.cuda.mem_get_info(number))
    return f"cuda:{number} {torch.cuda.get_device_name(number)}, {free:.1f} of {total:.1f} GiB free"


def _stdlib() -> Check:
    try:
        corpus = load_text(TextConfig(max_vocabulary=100, max_train_tokens=1000))
    except EnasError as error:
        return Check("embedded text", False, True, str(error))
    return Check(
        "embedded text", True, True, f"the standard library of Python {corpus.source.get('python', '')}"
    )
