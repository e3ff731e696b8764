"""What is said of a device's memory. A GPU is stood in for by what torch would say of it; nothing here has run on one."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from enas.errors import ConfigError
from enas.executors.local import LocalExecutor
from enas.retrain import Network
from enas.run import Run
from enas.runs.recurrent import RecurrentConfig
from enas.runtime import device_memory
from enas.runtime.device_memory import (
    fitting_at_once,
    free_mib,
    memory_line,
    peak_mib,
    refusals_explained,
    release,
)
from enas.runtime.stop import StopRequest
from enas.stages import execute
from enas.trainer import Trainer
from enas.trainings import train_all
from tests import tiny
from tests.test_trainings import jobs_of

GPU, CPU, MPS = torch.device("cuda:1"), torch.device("cpu"), torch.device("mps")
GIB = 2**30


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU of 24 GiB: 10 GiB are free, 5 are held by torch, which uses 2 of them, and 9 are others'. What is done to it."""
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * GIB, 24 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * GIB)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7 * GIB)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: done.append("reset"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("emptied"))
    return done


@pytest.fixture
def config(tmp_path: Path) -> RecurrentConfig:
    return tiny.config(tiny.write_text(tmp_path / "text"))


def test_what_torch_holds_and_does_not_use_is_free(gpu: list[str]) -> None:
    assert free_mib(GPU) == 13 * 1024
    assert free_mib(MPS) is None
    assert free_mib(CPU) == pytest.approx(device_memory.available_memory_mib(), rel=0.5)


def test_an_estimate_says_which_memory_and_whether_it_is_there(
    gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert memory_line(1126, GPU) == "1.1 GiB of the memory of 'cuda:1'"
    assert memory_line(13 * 1024 + 1, GPU) == (
        "13.0 GiB of the memory of 'cuda:1', of which 13.0 GiB are free: it may not suffice"
    )
    monkeypatch.setattr(device_memory, "available_memory_mib", lambda: 900.4)
    assert memory_line(850.4, CPU) == "850 MiB of memory"
    assert memory_line(1126, CPU, here=False) == "1.1 GiB of memory"
    assert memory_line(1126, CPU) == "1.1 GiB of memory, of which 900 MiB are free: it may not suffice"
    monkeypatch.setattr(device_memory, "available_memory_mib", lambda: None)
    assert memory_line(1126, CPU) == "1.1 GiB of memory"


def test_the_peak_on_a_gpu_counts_where_it_is_more_than_what_is_known_of(
    gpu: list[str], config: RecurrentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with peak_mib(GPU) as peak:
        assert gpu == ["reset"]
        assert peak() == 7 * 1024
    weights = config.shared_weights()
    architecture = config.space.architecture([0] * len(config.space.decisions))
    counted = weights.trainer.estimate(architecture).mib
    assert 0 < counted < 100
    monkeypatch.setattr("enas.trainer.peak_mib", lambda device: peak_mib(GPU))
    assert weights.trainer.estimate(architecture).mib == 7 * 1024  # plain SGD keeps nothing besides


# ---- running out of it -------------------------------------------------------------------------------------------------

NO_MEMORY = {
    "cuda": (
        GPU,
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation"),
    ),
    "cublas": (
        GPU,
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ),
    "cudnn": (GPU, RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")),
    "mps": (MPS, RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)")),
    "cpu": (
        CPU,
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you"),
    ),
    "python": (CPU, MemoryError()),
}


@pytest.mark.parametrize(("device", "error"), NO_MEMORY.values(), ids=NO_MEMORY)
def test_out_of_memory_is_one_line_that_says_what_to_lower(
    gpu: list[str], device: torch.device, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_memory, "available_memory_mib", lambda: 900.4)
    with pytest.raises(ConfigError) as caught, refusals_explained(device, "shared.hidden (1000)"):
        raise error
    where = {
        "cuda": "the memory of 'cuda:1' (24.0 GiB, of which other processes have 9.0 GiB)",
        "mps": "the memory of 'mps'",
        "cpu": "memory (900 MiB are free)",
    }[device.type]
    assert str(caught.value) == (
        f"the networks and their minibatches do not fit into {where}: lower shared.hidden (1000)"
    )


@pytest.mark.parametrize("text", ["CUDA error: an illegal memory access was encountered", "shapes differ"])
def test_other_errors_stay_what_they_are(text: str) -> None:
    with pytest.raises(RuntimeError, match=text), refusals_explained(GPU, "nothing"):
        raise RuntimeError(text)


def test_an_operation_without_a_deterministic_algorithm_is_named() -> None:
    said = (
        "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set "
        "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation"
    )
    with pytest.raises(ConfigError) as caught, refusals_explained(GPU, "nothing"):
        raise RuntimeError(said)
    assert str(caught.value) == (
        "adaptive_avg_pool2d_backward_cuda has no deterministic algorithm on 'cuda:1': use another operation, or "
        "--deterministic False"
    )


@pytest.mark.parametrize("space", ["recurrent", "macro", "micro", "nasbench201"])
def test_every_recipe_names_settings_that_it_has(space: str) -> None:
    config = tiny.settings(f"{space}-quick", ())
    for work, first in (("search", "shared.training"), ("training", "retrain.child.training")):
        said = config.smaller(work)
        assert said.startswith(first)
        for name in said.split(" or "):
            setting, value = name.removesuffix(")").split(" (")
            assert int(value) >= 1
            flag = setting.replace("_", "-")
            assert tiny.settings(f"{space}-quick", (f"--{flag}", "3")).smaller(work) != said


def test_a_stage_that_runs_out_of_it_keeps_what_is_saved(
    config: RecurrentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path / "run", config, ("search", "retrain"))
    do_step = Trainer.step

    def step(self: Trainer, epoch: int, number: int, *architectures: Any) -> dict[str, float]:
        if number == 7:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return do_step(self, epoch, number, *architectures)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(
        ConfigError, match=r"lower shared\.training\.windows\.batch \(4\) or shared\.hidden \(8\)$"
    ):
        execute(run, ("search",))
    assert run.search_checkpoints().steps() == [0, 5]
    network = Network("random", config.space.architecture([0] * len(config.space.decisions)), 0)
    with pytest.raises(ConfigError, match=r"lower retrain\.child\.training\.windows\.batch"):
        run.train(network, "rank", StopRequest())
    monkeypatch.undo()
    execute(run, ("search",))
    assert run.search_record() is not None


# ---- processes that share it -------------------------------------------------------------------------------------------


def test_as_many_processes_as_fit(gpu: list[str]) -> None:
    assert fitting_at_once(1024, GPU) == int(0.95 * 13 * 1024 / (1024 + 600)) == 7
    assert fitting_at_once(100 * 1024, GPU) == 1
    assert fitting_at_once(1, MPS) == 1


def test_trainings_share_a_gpu_after_what_the_parent_holds_is_given_back(
    gpu: list[str], config: RecurrentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run = Run.create(tmp_path / "run", replace(config, threads=1), ("retrain",))
    monkeypatch.setattr("enas.executors.local.usable_cores", lambda: 5)
    monkeypatch.setattr("enas.executors.local.pick_device", lambda name: GPU)
    monkeypatch.setattr("enas.trainings.release", lambda device: release(GPU))
    chosen = LocalExecutor.for_run(run.config, 3)
    assert chosen.room(1.0, 1e9) == 3  # as it was said
    executor = LocalExecutor.for_run(run.config)
    assert executor.at_once == 5
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda device: (0, 24 * GIB) if not gpu else (2 * GIB, 24 * GIB)
    )
    monkeypatch.setattr(LocalExecutor, "run", lambda self, jobs, stop, on_step: iter(()))
    monkeypatch.setattr("enas.child_training.ChildTraining.estimate", lambda self: (1.0, 2 * 1024))
    with contextlib.suppress(StopIteration):
        next(train_all(run, jobs_of(run, 9), executor, StopRequest(), "trainings"))
    assert gpu == ["emptied"]
    assert executor.at_once == 1  # 2 GiB and the 3 GiB that torch did not use carry one of 2.6 GiB
    assert "1 at a time" in capsys.readouterr().err
