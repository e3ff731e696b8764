"""What networks cost: counted as torch counts, and latencies measured and predicted by a clock that is known."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from enas import NetworkConfig
from enas.architecture import Architecture
from enas.config import RunConfig
from enas.costs import measuring
from enas.costs.counting import WorkCounter
from enas.costs.latency import (
    A_TURN,
    LatencyConfig,
    clock_for,
    measure_in_turn,
    measure_latency,
    using_threads,
)
from enas.costs.measuring import LATENCY, RunCosts
from enas.costs.model import LatencyModel
from enas.errors import ConfigError, DataError, RunFolderError
from enas.retrain import Network
from enas.run import Run
from enas.runtime.files import read_json, write_json
from enas.runtime.stop import Stopped, StopRequest
from enas.spaces.micro.space import MicroSpace
from enas.stages import put_architecture
from tests import own_network, tiny
from tests.own_network import Net, task
from tests.test_cli import printed, refusal

CPU = torch.device("cpu")


# ---- counted -----------------------------------------------------------------------------------------------------------


def of_space(space: str, folder: Path) -> RunConfig:
    if space == "recurrent":
        return tiny.config(tiny.write_text(folder / "text"))
    if space == "choices":
        return NetworkConfig(network=Net, task=task)
    return tiny.image_config(space)


@pytest.mark.slow
@pytest.mark.parametrize("space", ["recurrent", "macro", "micro", "nasbench201", "choices"])
def test_parameters_and_multiply_adds_are_those_that_torch_counts(space: str, tmp_path: Path) -> None:
    config = of_space(space, tmp_path)
    costs, rng = RunCosts(config), random.Random(1)
    example = costs.task.example(2)
    different = set()
    for architecture in (config.searched_space().sample(rng) for _ in range(200)):
        model = config.model(Network("candidate", architecture, 0)).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(*example.inputs, **example.named)
        found = costs.costs(architecture)
        assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert found.multiply_adds * example.count * 2 == counter.get_total_flops()
        different.add((found.multiply_adds, found.activation_bytes))
    assert len(different) > 1


class Reshaped(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], 2, -1).transpose(1, 2).relu_().contiguous()


def test_activation_bytes_are_what_operations_write_and_views_write_nothing() -> None:
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),  # 4·5·6 floats
        nn.BatchNorm2d(4),  # as many
        nn.ReLU(),  # as many
        Reshaped(),  # a view, a view, in place, and a copy
        nn.Flatten(),  # a view
        nn.Linear(120, 7),  # 7 floats
    ).eval()
    for device in ("cpu", "meta"):
        image_1CHW, there = torch.zeros(1, 3, 5, 6, device=device), layers.to(device)
        with torch.no_grad(), WorkCounter() as counter:
            there(image_1CHW)
        assert sum(calls.written for calls in counter.work.values()) == 4 * (4 * 120 + 7)
        assert counter.work["convolution 3x3"].calls == 1
        assert counter.work["convolution 3x3"].operations == 2 * 30 * 9 * 3 * 4


def test_kinds_tell_depthwise_convolutions_and_sizes_of_filters_apart() -> None:
    layers = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    )
    image_1CHW = torch.zeros(1, 4, 9, 9)
    with torch.no_grad(), WorkCounter() as counter:
        layers(image_1CHW)
    calls = {kind: found.calls for kind, found in counter.work.items()}
    assert calls == {"convolution 3x3 depthwise": 1, "convolution 3x3": 1, "convolution 1x1": 2}


def test_counting_leaves_the_inputs_as_they_are() -> None:
    """Also where the network changes in place what a norm or a ReLU returns."""
    images_BCHW = torch.randn(2, 3, 4, 4)
    for first in (nn.BatchNorm2d(3), nn.ReLU()):
        layers = nn.Sequential(first, nn.LeakyReLU(0.5, inplace=True)).eval()
        given_BCHW = images_BCHW.clone()
        with torch.no_grad(), WorkCounter() as counter:
            output_BCHW = layers(given_BCHW)
        assert torch.equal(given_BCHW, images_BCHW)
        assert torch.equal(output_BCHW, layers(images_BCHW))
        assert {kind.calls for kind in counter.work.values()} == {1}


class Looking(nn.Module):
    """A network of one's own that cannot be computed without values."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.net(x * (2 if x.sum().item() > 0 else 1))
        return scores


def test_a_network_that_looks_at_values_is_counted_with_values() -> None:
    looking = RunCosts(NetworkConfig(network=Looking, task=task))
    plain = RunCosts(NetworkConfig(network=Net, task=task))
    rng = random.Random(0)
    for _ in range(5):
        choices = plain.config.searched_space().sample(rng).choices
        of_looking, of_plain = (
            each.costs(each.config.searched_space().architecture(choices)) for each in (looking, plain)
        )
        assert (of_looking.parameters, of_looking.multiply_adds) == (
            of_plain.parameters,
            of_plain.multiply_adds,
        )
        assert (
            of_looking.activation_bytes == of_plain.activation_bytes + 4 * 64 + 4 // 10
        )  # the product, and a sum


# ---- measured ----------------------------------------------------------------------------------------------------------


class Pretended:
    """A clock, and passes that take a known time by it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.passes: list[str] = []

    def __call__(self) -> float:
        return self.now

    def network(self, name: str, *seconds: float) -> Callable[[], None]:
        times = itertools.cycle(seconds)

        def one() -> None:
            self.passes.append(name)
            self.now += next(times)

        return one


def test_the_fastest_pass_of_each_turn_counts_and_turns_have_quantiles() -> None:
    clock = Pretended()
    # Without a warm-up the untimed pass of a turn is its first: 9 s, then 3, 1, 2; from turn to turn ten times as long.
    turns = [9.0, 3, 1, 2, 90, 30, 10, 20, 900, 300, 100, 200]
    config = LatencyConfig(warmup=1, repeats=3)
    (found,) = measure_in_turn([clock.network("a", *turns)], config, CPU, 4, clock=clock)
    assert len(clock.passes) == 3 * (1 + A_TURN)
    assert (found.median_ms, found.repeats, found.batch, found.device) == (10_000, 3, 4, "cpu")
    assert found.low_ms == pytest.approx(1000 * (1 + 0.2 * 9))
    assert found.high_ms == pytest.approx(1000 * (10 + 0.8 * 90))
    assert found.threads == torch.get_num_threads()


def test_every_network_has_its_turn_before_any_has_another() -> None:
    clock, between = Pretended(), itertools.count()
    names = "abcde"
    networks = [clock.network(name, 1.0 + number) for number, name in enumerate(names)]
    config = LatencyConfig(warmup=2, repeats=4)
    found = measure_in_turn(networks, config, CPU, 1, lambda: next(between), clock)
    assert [latency.median_ms for latency in found] == [1000, 2000, 3000, 4000, 5000]
    turns = [(name, len(list(passes))) for name, passes in itertools.groupby(clock.passes)]
    assert next(between) == 4 * len(names)
    merged = "".join(clock.passes)
    first, rest = merged[: 5 * (2 + A_TURN)], merged[5 * (2 + A_TURN) :]
    rounds = [first[:: 2 + A_TURN], *(rest[start : start + 20 : 1 + A_TURN] for start in range(0, 60, 20))]
    assert all(sorted(one) == list(names) for one in rounds)
    assert len(set(rounds)) > 1
    assert sum(length for _, length in turns) == 5 * (2 + A_TURN) + 3 * 5 * (1 + A_TURN)


def test_a_module_is_measured_without_gradients_and_threads_are_put_back() -> None:
    seen: list[tuple[bool, int]] = []

    class Watching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((torch.is_inference_mode_enabled(), torch.get_num_threads()))
            return x

    before = torch.get_num_threads()
    found = measure_latency(Watching(), [torch.zeros(3, 2)], threads=1, warmup=2, repeats=2)
    assert set(seen) == {(True, 1)}
    assert len(seen) == 2 + A_TURN + 1 + A_TURN
    assert (found.batch, found.threads, found.repeats) == (3, 1, 2)
    assert torch.get_num_threads() == before
    with using_threads(2):
        assert clock_for(CPU)() != 0.0
        assert clock_for(CPU).__name__ == "perf_counter"


def test_a_batch_is_cut_off_a_validation_batch_which_must_be_as_long() -> None:
    costs = RunCosts(NetworkConfig(network=Net, task=task), LatencyConfig(batch=3))
    assert [len(x) for x in costs.example.inputs] == [3]
    assert (costs.example.batch, costs.example.count) == (3, 3)
    with pytest.raises(ConfigError, match="has 10 examples, not 11"):
        _ = RunCosts(NetworkConfig(network=Net, task=task), LatencyConfig(batch=11)).example


# ---- predicted ---------------------------------------------------------------------------------------------------------

SPACE = MicroSpace(nodes=2)


def drawn(count: int, seed: int = 0) -> list[Architecture]:
    rng = random.Random(seed)
    return [SPACE.sample(rng) for _ in range(count)]


def nothing(architecture: Architecture) -> Mapping[str, float]:
    return {"calls": 1.0}


def planted(architecture: Architecture) -> float:
    """A sum over the options that are taken."""
    return 2.0 + sum(random.Random(100 * place + c).random() for place, c in enumerate(architecture.choices))


def product(architecture: Architecture) -> Mapping[str, float]:
    """What is no sum over decisions."""
    first, second, *_ = (1.0 + choice for choice in architecture.choices[::3])
    return {"calls": first * second, "bytes": second}


def test_a_planted_sum_over_options_is_recovered_exactly() -> None:
    model = LatencyModel.fit(drawn(150), [planted(one) for one in drawn(150)], nothing)
    assert model.best == "table"
    others = drawn(100, seed=1)
    assert model.predict(others) == pytest.approx([planted(one) for one in others], rel=1e-9)
    assert model.errors.median_relative < 1e-9
    assert model.errors.spearman == pytest.approx(1.0)
    # The regression knows no decisions here, and its error says so.
    assert model.predictors["regression"].errors.median_relative > 0.05


def test_work_that_is_no_sum_over_options_is_predicted_by_the_regression() -> None:
    def milliseconds(architecture: Architecture) -> float:
        work = product(architecture)
        return 1.0 + 0.3 * work["calls"] + 0.01 * work["bytes"]

    model = LatencyModel.fit(drawn(100), [milliseconds(one) for one in drawn(100)], product)
    assert model.best == "regression"
    others = drawn(100, seed=1)
    assert model.predict(others) == pytest.approx([milliseconds(one) for one in others], rel=1e-3)
    assert model.errors.median_relative < 1e-3 < model.predictors["table"].errors.median_relative


def test_errors_on_noise_are_those_of_architectures_that_were_not_fitted_to() -> None:
    def noise(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.random.default_rng(seed).uniform(1, 3, count)

    architectures, others = drawn(60), drawn(2000, seed=1)
    model = LatencyModel.fit(architectures, noise(60, 0), nothing)
    truth = noise(2000, 1)
    real = float(np.median(np.abs(model.predict(others) - truth) / truth))
    assert 0.7 * real < model.errors.median_relative < 1.4 * real
    assert (model.errors.spearman or 0.0) < 0.4
    # An error of what was fitted to would flatter the table, which has more options than there are architectures.
    table = LatencyModel({"table": model.predictors["table"]}, 60, nothing)
    fitted = float(np.median(np.abs(table.predict(architectures) - noise(60, 0)) / noise(60, 0)))
    assert table.errors.median_relative > 1.5 * fitted


def test_where_all_are_equal_there_is_no_order() -> None:
    model = LatencyModel.fit(drawn(20), [3.0] * 20, nothing)
    assert model.errors.spearman is None
    assert model.predict(drawn(5, seed=1)) == pytest.approx([3.0] * 5)


@pytest.mark.parametrize("times", [[1.0], [1.0, 0.0, 2.0], [1.0, float("nan"), 2.0], [1.0, 2.0]])
def test_times_that_are_none_are_refused(times: list[float]) -> None:
    with pytest.raises(DataError, match="a time above zero"):
        LatencyModel.fit(drawn(3 if len(times) > 1 else 1), times, nothing)


# ---- latency.json ------------------------------------------------------------------------------------------------------

FEW = LatencyConfig(warmup=0, repeats=1, samples=20)


def counting() -> Callable[[], float]:
    """A clock by which every pass takes 5 ms."""
    now = itertools.count()
    return lambda: 0.005 * next(now)


def costs_by(clock: Callable[[], float], settings: LatencyConfig = FEW) -> RunCosts:
    return RunCosts(tiny.image_config("nasbench201"), settings, clock)


def never() -> float:
    raise AssertionError("a clock was looked at")


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "HELD_BYTES", 0)


class AfterTurns(StopRequest):
    """Asks to stop once so many turns have passed."""

    def __init__(self, turns: int) -> None:
        super().__init__()
        self.left = turns

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.usefixtures("one_at_a_time")
def test_a_stopped_measurement_goes_on_and_a_finished_one_is_read(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        costs_by(counting()).latency_model(tmp_path, None, AfterTurns(7))
    begun = read_json(tmp_path / LATENCY)
    assert len(begun["samples"]) == 7
    assert begun["predictors"] is None
    turns = AfterTurns(13)
    model = costs_by(counting()).latency_model(tmp_path, None, turns)
    assert turns.left == 0
    whole = read_json(tmp_path / LATENCY)
    assert whole["samples"][:7] == begun["samples"]
    assert [sample["latency"]["median_ms"] for sample in whole["samples"]] == pytest.approx([5.0] * 20)
    space = tiny.image_config("nasbench201").searched_space()
    assert len({tuple(sample["choices"]) for sample in whole["samples"]}) == 20
    again = costs_by(never).latency_model(tmp_path, None, StopRequest())
    assert again.predictors == model.predictors
    some = [space.sample(random.Random(seed)) for seed in range(5)]
    assert again.predict(some).tolist() == model.predict(some).tolist() == pytest.approx([5.0] * 5)


def test_every_key_of_the_file_is_in_the_documentation(tmp_path: Path) -> None:
    costs_by(counting()).latency_model(tmp_path, None, StopRequest())
    record = read_json(tmp_path / LATENCY)
    assert {name.partition(".")[0] for name in record.pop("settings")} == {
        *("latency", "precision", "space", "child")
    }
    for predictor in record["predictors"].values():
        assert predictor.pop("weights_ms")
    assert tiny.keys(record) <= tiny.documented()


def test_latencies_of_other_settings_or_of_a_run_that_is_gone_are_refused(tmp_path: Path) -> None:
    costs_by(counting()).latency_model(tmp_path, None, StopRequest())
    other = LatencyConfig(batch=2, warmup=0, repeats=1, samples=20)
    with pytest.raises(RunFolderError, match=r"latency.batch is 2 .* delete .*latency.json to measure again"):
        costs_by(never, other).latency_model(tmp_path, None, StopRequest())
    (tmp_path / LATENCY).unlink()
    with pytest.raises(RunFolderError, match="is gone"):
        costs_by(counting()).latency_model(tmp_path, tmp_path / "config.json", StopRequest())
    assert not list(tmp_path.iterdir())


def test_a_finished_model_is_kept_on_another_machine_and_an_unfinished_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / LATENCY
    costs_by(counting()).latency_model(tmp_path, None, StopRequest())
    record = read_json(path)
    record["machine"]["processor"] = "an abacus"
    write_json(path, record)
    costs_by(never).latency_model(tmp_path, None, StopRequest())
    assert "an abacus: they are kept" in capsys.readouterr().err
    assert read_json(path)["machine"]["processor"] == "an abacus"
    write_json(path, {**record, "predictors": None, "samples": record["samples"][:3]})
    costs_by(counting()).latency_model(tmp_path, None, StopRequest())
    assert "an abacus: they are measured again" in capsys.readouterr().err
    assert read_json(path)["machine"]["processor"] != "an abacus"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"samples": [{"choices": [0]}]}, "samples.0 is missing"),
        ({"predictors": {"oracle": {}}}, "predictors"),
        ({"settings": 3}, "settings must be"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    path = tmp_path / LATENCY
    write_json(path, {"settings": {}, "machine": {}, "samples": [], "predictors": None, **change})
    with pytest.raises(RunFolderError, match=f"{LATENCY}.*{says}.*Delete it"):
        costs_by(never).latency_model(tmp_path, None, StopRequest())


# ---- the command -------------------------------------------------------------------------------------------------------

FILE = Path(own_network.__file__)
CELL = "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed(capsys, "cost", *words, "--json"))
    return found


def run_of(folder: Path, architecture: str | None) -> RunConfig:
    """A run, with an architecture or without one."""
    config = tiny.image_config("nasbench201")
    Run.create(folder, config, ("retrain",))
    if architecture is not None:
        put_architecture(folder, config.searched_space().parse(architecture))
    return config


def test_a_runs_architecture_is_set_beside_random_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_of(tmp_path / "run", CELL)
    found = as_json(capsys, str(tmp_path / "run"), "--samples", "6")
    costs = RunCosts(config).costs(config.searched_space().parse(CELL))
    assert found["parameters"]["own"] == costs.parameters
    assert found["multiply_adds"]["own"] == costs.multiply_adds
    assert found["activation_bytes"]["own"] == costs.activation_bytes
    assert (found["unit"], found["samples"]) == ("image", 6)
    for name in ("parameters", "multiply_adds", "activation_bytes", "latency_ms"):
        row = found[name]
        assert row["random_low"] <= row["random_median"] <= row["random_high"]
        assert 0 <= row["lower"] <= 6
    assert found["latency"]["median_ms"] == found["latency_ms"]["own"] > 0
    assert (found["latency"]["threads"], found["latency"]["batch"]) == (1, 1)
    text = printed(capsys, "cost", str(tmp_path / "run"), "--samples", "6", "--no-latency")
    assert text.startswith(f"{CELL}\nbeside 6 random architectures\n")
    assert "latency" not in text
    assert f"parameters {costs.parameters:,}" in " ".join(text.split())


def test_places_count_the_random_ones_that_cost_less(capsys: pytest.CaptureFixture[str]) -> None:
    cheapest = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    dearest = (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    )
    for architecture, lower in ((cheapest, 0), (dearest, 9)):
        found = as_json(capsys, architecture, "--samples", "9", "--no-latency")
        assert found["multiply_adds"]["lower"] == lower
        assert "latency_ms" not in found


def test_an_architecture_of_another_size_is_counted_at_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "tanh tanh(1) relu(2)", "--samples", "2", "--no-latency")
    width = 200
    assert found["parameters"]["own"] - found["multiply_adds"]["own"] == 0
    assert found["parameters"]["own"] % width == 0
    assert found["unit"] == "word"


def test_a_file_says_what_random_ones_cost_and_reads_its_own_architectures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    space = NetworkConfig(network=Net, task=task).searched_space()
    text = str(space.sample(random.Random(3)))
    assert "own" not in as_json(capsys, str(FILE), "--samples", "3", "--no-latency")["parameters"]
    found = as_json(capsys, text, "--recipe", str(FILE), "--samples", "3", "--batch", "2", "--threads", "1")
    assert found["architecture"]["text"] == text
    assert (found["unit"], found["latency"]["batch"], found["latency"]["threads"]) == ("example", 2, 1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tanhh tanh(1)"], "is no run folder, and as an architecture"),
        (["no/such/folder"], "there is no folder 'no/such/folder'; check the path"),
        (["tanh tanh(1)", "--recipe", "recurrent-quik"], "did you mean 'recurrent-quick'?"),
        (
            ["tanh tanh(1)", "--recipe", "macro-quick"],
            "of another space (recurrent) than the recipe's (macro)",
        ),
        (["mix=nope", "--recipe", str(FILE)], "mix"),
        (["micro-quick", "--recipe", "macro-quick"], "is a recipe itself"),
        (["micro-quick", "--samples", "0"], "--samples must be at least 1"),
        (["micro-quick", "--batch", "many"], "--batch must be a whole number"),
        (["no_such_file.py"], "cannot read"),
    ],
)
def test_what_has_no_costs_is_refused(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refusal(capsys, "cost", *words)


def test_a_run_without_an_architecture_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(tmp_path / "run", None)
    capsys.readouterr()
    assert "has no architecture yet" in refusal(capsys, "cost", str(tmp_path / "run"))
