"""`make test-gpu`: one line where there is no GPU; its checks and its record, tried with the CPU in the place of a GPU."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from enas.runtime.files import read_json
from tests import tiny

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so_in_one_line(
    script: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script.main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("There is no GPU to test: ")
    assert said.err.count("\n") == 1


def test_its_record_says_what_it_printed(
    script: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "recipe", lambda name: tiny.image_config(name.removesuffix("-quick")))
    record = tmp_path / "record.json"
    flags = ["--device", "cpu", "--spaces", "network", "--recipes", "--tiny", "nasbench201-quick"]
    assert script.main([*flags, "--seconds", "0", "--record", str(record)]) == 0
    found = read_json(record)
    assert set(found["checks"]) == {f"{check} network" for check in script.CHECKS}
    assert all(result["passed"] for result in found["checks"].values())
    assert found["checks"]["resume network"]["equal"]
    times = found["speeds"]["speed nasbench201-quick cpu fp32"]["seconds"]
    assert set(times) == {"weights", "reward", "child"}
    assert min(times.values()) > 0
    assert "6 of 6 checks passed" in capsys.readouterr().out


def test_recurrent_cells_against_their_plain_form(script: ModuleType, tmp_path: Path) -> None:
    found = script.recorded("recurrent", "cpu", tmp_path)
    assert found["passed"]
    assert found["not_used"] == "cpu has none"
    assert 0 < found["largest_relative_difference"] < script.TOLERANCE


def test_a_difference_fails(script: ModuleType) -> None:
    assert script.largest_difference(
        [{"loss": 1.0, "ppl": 2.0}], [{"loss": 1.0, "ppl": 2.1}]
    ) == pytest.approx(0.05)
    assert script.largest_difference(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])) == pytest.approx(0.1)
