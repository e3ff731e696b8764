"""What `enas doctor` says of accelerators. For those that are not here, what torch and the driver would say stands in."""

from pathlib import Path

import pytest
import torch

from enas import doctor
from enas.runtime import environment

GIB = 2**30
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\nGCC version: 12.3\n"
)
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"


def line(name: str) -> doctor.Check:
    (check,) = [check for check in doctor.checks() if check.name == name]
    return check


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No accelerator, and a folder where a driver could tell of itself."""
    monkeypatch.setattr(doctor, "_stdlib", lambda: doctor.Check("embedded text", True, True, "not looked at"))
    monkeypatch.setattr(environment, "NVIDIA", tmp_path)
    monkeypatch.setattr(environment, "_asked_of_nvidia", lambda what: [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.version, "cuda", None)
    return tmp_path


def driver(folder: Path, version: str, *names: str) -> None:
    (folder / "version").write_text(version)
    for number, name in enumerate(names):
        gpu = folder / "gpus" / f"0000:{number:02x}:00.0"
        gpu.mkdir(parents=True)
        (gpu / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 180\nVideo BIOS: \t ??\n")


def test_without_one_the_cpu_is_used(without: Path) -> None:
    assert line("accelerator") == doctor.Check("accelerator", False, False, "none; the CPU is used")
    assert line("torch").detail.startswith(f"{torch.__version__} for the CPU alone on ")


def test_a_build_for_the_cpu_beside_a_gpu_is_said(without: Path) -> None:
    driver(without, OPEN, "NVIDIA GeForce RTX 4090", "NVIDIA H100")
    check = line("accelerator")
    assert not check.ok
    assert not check.needed
    assert check.detail == (
        "NVIDIA GeForce RTX 4090, NVIDIA H100 is here and is not used, as this torch is built without CUDA: see "
        "https://pytorch.org/get-started/locally"
    )


def test_a_driver_that_is_too_old_is_said(without: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(without, CLOSED, "NVIDIA TITAN V")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert line("accelerator").detail == (
        "NVIDIA TITAN V is here and is not used, as torch finds no working CUDA in driver 535.104.05: a newer one may be "
        "needed"
    )


def test_gpus_are_named_with_their_free_memory_and_what_torch_is_built_for(
    without: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(without, OPEN)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: ["NVIDIA H100", "NVIDIA L4"][number])
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda number: ((70 * GIB, 80 * GIB), (GIB, 24 * GIB))[number]
    )
    assert line("accelerator") == doctor.Check(
        "accelerator",
        True,
        False,
        "cuda:0 NVIDIA H100, 70.0 of 80.0 GiB free; cuda:1 NVIDIA L4, 1.0 of 24.0 GiB free; driver 570.86.15",
    )
    assert line("torch").detail.startswith(f"{torch.__version__} for CUDA 12.8, cuDNN 9.10.2 on ")
    here = environment.environment()
    assert (here["cuda"], here["cudnn"], here["driver"]) == ("12.8", "9.10.2", "570.86.15")


def test_mps_is_named_and_not_taken_by_itself(without: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    check = line("accelerator")
    assert check.ok
    assert check.detail == "Apple MPS; used only where --device mps names it"


@pytest.mark.parametrize(("number", "version"), [(8902, "8.9.2"), (90100, "9.1.0"), (None, None)])
def test_versions_of_cudnn(number: int | None, version: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: number)
    assert environment.cudnn_version() == version


def test_without_the_files_of_linux_the_drivers_own_program_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def output(*command: str) -> str | None:
        asked.append(command)
        return {
            "--query-gpu=name": "NVIDIA L4\nNVIDIA L4",
            "--query-gpu=driver_version": "551.23\n551.23",
        }.get(command[1])

    monkeypatch.setattr(environment, "NVIDIA", tmp_path / "none")
    monkeypatch.setattr(environment, "_output", output)
    assert environment.nvidia_gpus() == ["NVIDIA L4"] * 2
    assert environment.nvidia_driver() == "551.23"
    assert {command[0] for command in asked} == {"nvidia-smi"}
    monkeypatch.setattr(environment, "_output", lambda *command: None)
    assert environment.nvidia_gpus() == []
    assert environment.nvidia_driver() is None
