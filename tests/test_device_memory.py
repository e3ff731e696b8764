"""What is said of a device's memory. A GPU is stood in for by what torch would say of it; nothing here has run on one."""

import contextlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from enas.errors import ConfigError
from enas.executors import in_stages
from enas.executors.local import LocalExecutor
from enas.retrain import Network
from enas.run import Run
from enas.runs.recurrent import RecurrentConfig
from enas.runtime import device_memory
from enas.runtime.device_memory import (
    free_mib,
    memory_line,
    peak_mib,
    refusals_explained,
    release,
    shared_out,
)
from enas.runtime.devices import gpus_of
from enas.runtime.files import read_json
from enas.runtime.stop import StopRequest
from enas.stages import execute
from enas.trainer import Trainer
from enas.trainings import train_all
from tests import tiny
from tests.test_trainings import content, expected, jobs_of

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


def test_as_many_processes_as_fit() -> None:
    free = 13 * 1024.0
    assert int(0.95 * free / (1024 + 600)) == 7
    assert shared_out({"cuda:0": free}, 1024, 99) == ["cuda:0"] * 7
    assert shared_out({"cuda:0": free}, 1024, 4) == ["cuda:0"] * 4
    assert shared_out({"cuda:0": free}, 13_000, 99) == [
        "cuda:0"
    ]  # it may try, as an estimate is none too exact
    assert shared_out({"cuda:0": free}, 14_000, 99) == []


def test_processes_are_spread_over_gpus_by_their_free_memory() -> None:
    free = {"cuda:0": 4_000.0, "cuda:1": 12_000.0, "cuda:2": 8_000.0}
    carried = {"cuda:1": 5, "cuda:2": 3, "cuda:0": 1}
    for gpu, count in carried.items():
        assert count * (1400 + 600) <= 0.95 * free[gpu] < (count + 1) * (1400 + 600)
    every = shared_out(free, 1400, 99)
    assert Counter(every) == carried
    assert every == ["cuda:1", "cuda:2", "cuda:0", "cuda:1", "cuda:2", "cuda:1", "cuda:2", "cuda:1", "cuda:1"]
    assert shared_out(free, 1400, 4) == every[:4]
    assert shared_out(free, 6000, 99) == ["cuda:1", "cuda:2"]  # the third has too little
    alike = shared_out({"cuda:0": 9_000.0, "cuda:1": 9_000.0, "cuda:2": 9_000.0}, 1400, 4)
    assert alike == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]


SEVERAL = [torch.device("cuda", index) for index in range(3)]


def free_of(monkeypatch: pytest.MonkeyPatch, *gib: float) -> None:
    """So much is free on each of the GPUs."""
    monkeypatch.setattr("enas.executors.local.free_mib", lambda gpu: gib[gpu.index] * 1024)


def test_an_executor_spreads_its_workers_and_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    free_of(monkeypatch, 4, 12, 8)
    executor = LocalExecutor(8, 1, SEVERAL, lower="retrain.child.training.batch (128)")
    assert (executor.at_once, executor.where) == (8, "")
    assert executor.room(1.0, 3000) == 6
    assert Counter(executor.places) == {"cuda:0": 1, "cuda:1": 3, "cuda:2": 2}
    assert (executor.at_once, executor.sharing) == (6, 3)
    assert executor.where == " on cuda:0, cuda:1, cuda:2"
    with pytest.raises(ConfigError) as caught:
        executor.room(1.0, 13_000)
    assert str(caught.value) == (
        "a training takes about 12.7 GiB of a GPU, and the memory of 'cuda:0' has 4.0 GiB free, the memory of 'cuda:1' has "
        "12.0 GiB free, the memory of 'cuda:2' has 8.0 GiB free: lower retrain.child.training.batch (128)"
    )


def test_workers_that_are_insisted_on_are_spread_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    free_of(monkeypatch, 4, 12, 8)
    executor = LocalExecutor(8, 1, SEVERAL, insisted=True)
    assert executor.room(1.0, 3000) == 8
    assert Counter(executor.places) == {"cuda:0": 1, "cuda:1": 4, "cuda:2": 3}
    executor = LocalExecutor(4, 1, SEVERAL, insisted=True)
    assert executor.room(1.0, 100_000) == 4
    assert executor.places == ["cuda:1", "cuda:2", "cuda:0", "cuda:1"]


def test_the_name_of_a_device_says_which_gpus_may_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert gpus_of(torch.device("cuda")) == SEVERAL
    assert gpus_of(GPU) == [GPU]
    assert gpus_of(CPU) == gpus_of(MPS) == []


def test_stages_train_side_by_side_on_several_gpus(
    config: RecurrentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsaid = replace(config, threads=None)
    assert not in_stages(unsaid)
    monkeypatch.setattr("enas.runtime.devices.pick_device", torch.device)
    for name, count, several in (("cuda", 2, True), ("cuda", 1, False), ("cuda:1", 2, False)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert in_stages(replace(unsaid, device=name)) is several


@pytest.mark.slow
def test_a_worker_trains_on_the_device_that_it_is_given(config: RecurrentConfig, tmp_path: Path) -> None:
    """The run asks for a GPU, which is not here, and the workers are told to take the CPU: they do as a run there."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    run = Run.create(tmp_path / "run", config, ("retrain",))
    jobs = jobs_of(run, 3)
    Run(run.folder, replace(config, device="cuda"), run.stages).write_config()
    for job in jobs:
        job.put()
    executor = LocalExecutor(2, 1)
    executor.places = ["cpu", "cpu"]
    outcomes = list(executor.run(jobs, StopRequest(), lambda job, step: None))
    assert {outcome.job for outcome in outcomes} == set(jobs)
    for number, job in enumerate(jobs):
        assert read_json(job.folder / "worker.json")["device"] == "cpu"
        assert content(job.folder) == expected(run, job, tmp_path / f"alone-{number}")


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
