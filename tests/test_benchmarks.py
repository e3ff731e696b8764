"""The scripts of benchmarks/, each at its smallest: they run, and print what they say they print.

gpu.py and kill.py have tests of their own. How long anything takes is asserted nowhere.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from enas import ops
from enas.architecture import Architecture
from enas.evidence.comparison import SAMPLING
from enas.evidence.variants import with_settings
from enas.executors.local import LocalExecutor
from enas.retrain import random_architectures
from enas.spaces.nasbench201.space import NASBench201Space
from enas.stages import Run
from tests import tiny
from tests.test_trainings import InThisProcess

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
Record = dict[str, Any]
Printed = Callable[..., list[Record]]
"""From a script and its options to the lines that it prints."""
STEP = {"workload", "phase", "dtype", "threads", "seconds", "floor_seconds", "plain_seconds", "times_floor"}
STEP |= {"times_plain", "peak_mb"}
"""Keys of a figure of a step."""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a script, by its name; it and the scripts that it imports are forgotten after the test."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(ops, "_kernels", dict)  # which take minutes to compile
    before, threads = set(sys.modules), torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == BENCHMARKS:
            del sys.modules[name]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Printed:
    """Runs a script in this process."""

    def run(module: ModuleType, *options: object) -> list[Record]:
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, options)])
        module.main()
        return records(capsys.readouterr().out)

    return run


def records(out: str) -> list[Record]:
    """The lines that a script printed, every one of them JSON."""
    return [json.loads(line) for line in out.splitlines()]


def alone(*argv: object) -> list[Record]:
    """What a script prints that needs a process, or several, of its own."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ENAS_KERNELS": "off",
        "PYTHONPATH": str(BENCHMARKS.parent / "src"),
    }
    ended = subprocess.run([sys.executable, *map(str, argv)], capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return records(ended.stdout)


def positive(record: Record, *keys: str) -> bool:
    """Whether all of these are measured."""
    return all(record[key] > 0 for key in keys)


@pytest.fixture
def recurrent(script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The recurrent benchmark on short windows of few words."""
    module = script("recurrent")
    for name, value in (("BATCH", 4), ("STEPS", 3), ("VOCABULARY", 50), ("UPDATES", 1)):
        monkeypatch.setattr(module, name, value)
    return module


def test_recurrent(recurrent: ModuleType, printed: Printed) -> None:
    lines = printed(recurrent, "--hidden", 8, "--threads", 1, "--rounds", 1)
    assert [(line["phase"], line["dtype"]) for line in lines] == [
        ("controller", "fp32"),
        *((phase, dtype) for dtype in ("fp32", "bf16") for phase in ("train", "reward", "reward")),
    ]
    steps = STEP | {"products_seconds", "times_products"}
    more = {"train": {"times_plain_fp32", "weights_mb"}, "reward": set(), "controller": set()}
    for line in lines:
        assert line.keys() == steps | more[line["phase"]]
        assert positive(line, "seconds", "plain_seconds", "times_plain")
        floor = [line["floor_seconds"], line["products_seconds"]]
        assert floor == [None, None] if line["phase"] == "controller" else floor[0] >= floor[1] > 0


def test_recurrent_finds_the_loss_of_plain_code(recurrent: ModuleType) -> None:
    ours = recurrent.search_task(8, torch.float32, 50)
    plain = recurrent.Plain(8, recurrent.PUBLISHED, torch.float32)
    minibatch = ours.task.minibatch(0, 0)
    with torch.no_grad():
        for parameter in (*ours.trainer.model.parameters(), *plain.parameters()):
            parameter.fill_(0.02)
        expected = plain.loss(minibatch.tokens_TB, minibatch.targets_TB)
    loss = ours.train_step(0, 0, [recurrent.PUBLISHED])["loss"]
    assert loss == pytest.approx(float(expected), rel=1e-5)


def test_memory_of_the_recurrent_search() -> None:
    (line,) = alone(BENCHMARKS / "recurrent.py", "--memory", "--hidden", 8, "--threads", 1)
    assert line["phase"] == "memory"
    assert positive(line, "weights_mb", "activations_mb")
    assert 0 <= line["peak_mb"] < line["process_mb"]


@pytest.mark.parametrize("workload", ["macro-sum", "macro-concat", "micro"])
def test_convolutional(workload: str, script: Callable[[str], ModuleType], printed: Printed) -> None:
    """Which itself refuses to measure plain code that finds another loss."""
    module = script("convolutional")
    small = ["--batch", 2, "--architectures", 1, "--threads", 1, "--phase", "train", "reward-1"]
    lines = printed(module, "--workload", workload, *small, "--dtype", "fp32")
    assert [line["phase"] for line in lines] == ["train", "reward"]
    for line in lines:
        assert line.keys() == STEP | {"times_plain_fp32", "times_package_fp32", "architectures"}
        assert positive(line, "seconds", "floor_seconds", "plain_seconds", "times_floor", "times_plain")
        assert line["times_package_fp32"] == 1
        assert line["times_plain_fp32"] == line["times_plain"]


def test_convolutional_refuses_plain_code_that_computes_something_else(
    script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("convolutional")
    workload = module.micro()
    architecture = workload.space.sample(module.random.Random(0))
    monkeypatch.setattr(module, "AUXILIARY_WEIGHT", 0.5)
    with pytest.raises(AssertionError, match="not close"):
        module.check_same_loss(workload, architecture)


def test_operations(
    script: Callable[[str], ModuleType], printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("operations")
    for name, value in (("SHORTEST", 1e-9), ("BATCH", 4), ("STEPS", 3), ("VOCABULARY", 50)):
        monkeypatch.setattr(module, name, value)
    chosen: dict[str, Any] = {}
    for case in module.cases():  # the last ones are the smallest
        hidden = getattr(case, "hidden", None)
        name = case.operation.plain.__name__
        chosen[name] = case if hidden is None else case._replace(hidden=8)
    monkeypatch.setattr(module, "cases", lambda: iter(chosen.values()))
    *lines, last = printed(module, "--batch", 2, "--threads", 1, "--rounds", 1, "--dtype", "fp32")
    assert [line["operation"] for line in lines] == list(chosen)
    keys = {"operation", "size", "dtype", "threads", "kernel", "milliseconds", "times_plain"}
    for line in lines:
        maps = not line["size"].startswith("recurrent")
        assert line.keys() == keys | ({"times_channels_last"} if maps else set())
        assert positive(line, "times_plain")
        assert ": 2x" in line["size"] or not maps
    slower = [line for line in lines if line["kernel"] and line["times_plain"] < 1 / module.TOLERATED]
    assert [one.split(",")[0] for one in last["slower"]] == [line["operation"] for line in slower]


def test_choices(script: Callable[[str], ModuleType], printed: Printed) -> None:
    module = script("choices")
    lines = printed(module, "--channels", 4, "--cells", 1, "--batch", 2, "--threads", 1, "--rounds", 1)
    assert [line["architecture"] for line in lines] == list(module.ARCHITECTURES)
    times = {"times_choices", "times_child", "times_channels_last"}
    for line in lines:
        sizes = {"channels": 4, "cells": 1, "batch": 2, "threads": 1}
        assert {key: line[key] for key in sizes} == sizes
        assert line.keys() == {"architecture", *sizes, "seconds_hand", "use_microseconds"} | times
        assert positive(line, "seconds_hand", "use_microseconds", *times)


def test_latency(
    script: Callable[[str], ModuleType], printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("latency")
    monkeypatch.setattr(module, "recipe", lambda name: tiny.image_config("micro"))
    few = ["--samples", 20, "--architectures", 3, "--fewer", 2, "--others", "macro-quick"]
    lines = printed(module, *few)
    assert [(line["recipe"], line["architectures"]) for line in lines] == [
        ("micro-quick", 3),
        ("macro-quick", 2),
    ]
    for line in lines:
        assert line["samples"] == 20
        assert line["predictor"] in line["errors"]
        assert 0 <= line["median_error"] <= line["error_90"]
        assert -1 <= line["spearman"] <= 1
        assert line["slowest_times"] >= 1
        assert positive(line, "median_ms", "seconds_fit")


def test_remedies(
    script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every remedy, on a few digits; and what is done is not done again."""
    module = script("remedies")
    known = module.known_of
    few = {"data.max_train": 60, "data.valid": 20, "data.max_test": 30, "shared.training.batch": 10}
    few |= {"shared.reward.batch": 20, "network.filters": 4}

    def on_few(space: str, file: Path | None) -> Any:
        truth, recipe = known(space, file)
        return truth, with_settings(recipe, few)

    for name, value in (("TUNING", 1), ("MINIBATCHES", 1), ("WIDE", 2), ("known_of", on_few)):
        monkeypatch.setattr(module, name, value)
    file = tmp_path / "records.jsonl"
    options = ["--seeds", "1", "--architectures", "6", "--epochs", "1", "--records", str(file)]
    monkeypatch.setattr(sys, "argv", ["remedies.py", "cells", *options])
    module.main()
    lines = capsys.readouterr().out.splitlines()
    names = list(module.remedies(known("cells", None)[1]))
    found, table = records("\n".join(lines[: -len(names) - 1])), lines[-len(names) - 1 :]
    assert list(dict.fromkeys(record["remedy"] for record in found)) == names
    assert [row.split(" | ")[:2] for row in table] == [["remedy", "n"], *([name, "1"] for name in names)]
    for record in found:
        assert record.keys() == {"space", "remedy", "seed", "reading", "tau", "top", "seconds"}
        assert -1 <= record["tau"] <= 1
    readings = {name: {one["reading"] for one in found if one["remedy"] == name} for name in names}
    always = {"accuracy", "loss", "strata"}
    more = {"tuned", "speed", "fall", "wide", "moving", "recalibrated"}
    assert readings == {name: always | (more if name == "the recipe" else set()) for name in names}
    kept = file.read_text(encoding="utf-8")
    module.main()
    assert capsys.readouterr().out.splitlines() == table
    assert file.read_text(encoding="utf-8") == kept


def test_a_curriculum_and_dropped_options(script: Callable[[str], ModuleType]) -> None:
    """The options that the first half of the epochs takes, of a space whose operations are known; then all, uniformly."""
    module = script("remedies")
    only_space = SimpleNamespace(space=NASBench201Space())
    trained = module.Trained(only_space, epochs=10, seed=1, samples=4)
    space, weighted = trained.space, {"nor_conv_1x1", "nor_conv_3x3"}

    def counts(paths: Callable[..., list[Architecture]], epoch: int) -> Counter[str]:
        drawn = [one for step in range(50) for one in paths(trained, epoch, step)]
        taken = [
            decision.options[choice]
            for one in drawn
            for decision, choice in zip(space.decisions, one.choices, strict=True)
        ]
        assert len(taken) == 50 * 4 * 6
        return Counter(taken)

    # A curriculum of five options in five epochs: one of two with parameters, both, then each of the others.
    growing = [set(counts(module.grown, epoch)) for epoch in range(5)]
    assert [len(options) for options in growing] == [1, 2, 3, 4, 5]
    assert growing[0] < growing[1] == weighted < growing[2] < growing[3] < growing[4]
    assert set(counts(module.dropped, 0)) == weighted
    # Three of five options have no parameters, and the rate at which they are dropped falls by a fifth an epoch. Of 1,200
    # choices the share has a standard deviation of at most 0.014.
    for epoch, rate in ((1, 0.8), (3, 0.4), (5, 0.0), (9, 0.0)):
        found = counts(module.dropped, epoch)
        share = sum(found[option] for option in weighted) / found.total()
        assert share == pytest.approx(0.4 + 0.6 * rate, abs=0.05)
    for paths in (module.grown, module.dropped):
        assert paths(trained, 5, 0) == module.uniform(trained, 5, 0)


def test_remedies_on_the_random_architectures_of_a_run(
    script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of these, one diverged; and other methods' records are none."""
    module = script("remedies")
    run = Run.create(tmp_path / "run", tiny.image_config("micro"), ("search",))
    drawn = random_architectures(run.config.searched_space(), 6, 0, set())
    methods = [(SAMPLING, 70.0), (SAMPLING, 50.0), (SAMPLING, 60.0), (SAMPLING, None), ("enas", 80.0)]
    lines = [
        {"method": method, "architecture": str(one), "score": score}
        for one, (method, score) in zip(drawn, methods, strict=False)
    ]
    (run.folder / "compare").mkdir()
    (run.folder / "compare" / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    truth, config = module.known_of_run(run.folder)
    assert dict(truth.scores["test"]) == dict(zip(drawn[:3], [70.0, 50.0, 60.0], strict=True))
    assert config == run.config
    options = ["--run", run.folder, "--seeds", "1", "--records", tmp_path / "records.jsonl"]
    monkeypatch.setattr(sys, "argv", ["remedies.py", "run", *map(str, options), "--only", "half as long"])
    module.main()
    *found, _, row = capsys.readouterr().out.splitlines()
    assert {one["space"] for one in records("\n".join(found))} == {"run"}
    assert row.startswith("half as long | 1 | ")


def test_latency_target(
    script: Callable[[str], ModuleType], printed: Printed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = script("latency_target")
    monkeypatch.setattr(module, "recipe", lambda name: tiny.image_config("nasbench201"))
    monkeypatch.setattr(module, "EXAMPLES", 10)
    monkeypatch.setattr(LocalExecutor, "for_run", lambda config, workers: InThisProcess())
    few = ["--seeds", 2, "--samples", 2, "--measured", 20, "--share", 1, "--workers", 1]
    *picks, last = printed(module, *few, "--run", tmp_path / "run")
    assert [pick["seed"] for pick in picks] == [0, 1]
    keys = {"seed", "target", "predicted", "measured", "low", "high", "off_target", "score"}
    for pick in picks:
        assert pick.keys() == keys
        assert pick["low"] <= pick["measured"] <= pick["high"]
        assert pick["off_target"] == pytest.approx(pick["measured"] / pick["target"] - 1, abs=0.01)
        assert pick["target"] == last["target"]
        assert 0 <= pick["score"] <= 100
    assert last["picks"] == len(picks)
    assert 0 <= last["within_tenth"] <= len(picks)
    assert last["median_error"] >= 0
    assert {"score", "random_score", "better", "claim"} < last.keys()


@pytest.mark.slow
def test_processes() -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    few = ["--turns", 1, "--steps", 1, "--updates", 1]
    lines = alone(*torchrun, BENCHMARKS / "processes.py", *few)
    assert [line["recipe"] for line in lines] == ["recurrent-quick", "micro-quick"]
    for line in lines:
        assert line["processes"] == 2
        assert line["equal"] is True
        assert positive(line, "alone", "together", "times", "times_weights", "times_rewards", "proposals")


@pytest.mark.slow
def test_side_by_side(
    script: Callable[[str], ModuleType], printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("side_by_side")
    monkeypatch.setattr(module, "recipe", lambda name: tiny.image_config("macro"))
    monkeypatch.setenv("ENAS_KERNELS", "off")  # of the processes that train
    (line,) = printed(module, "--trainings", 2, "--epochs", 1, "--recipes", "macro-quick")
    assert (line["recipe"], line["processes"], line["trainings"], line["epochs"]) == ("macro-quick", 2, 2, 1)
    assert line["equal"] is True
    assert positive(line, "one", "several", "times")
