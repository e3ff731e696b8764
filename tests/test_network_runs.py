"""Searches of a network of one's own, from a file and from Python: every command, resumed bit for bit, every mistake."""

import itertools
import json
import math
import random
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import enas
from enas import Choice, NetworkConfig, Task
from enas.child_training import ChildTraining
from enas.cli import main
from enas.derive import DeriveConfig
from enas.errors import ConfigError, EnasError, NotFiniteError, RunFolderError
from enas.evidence.variants import variants_of, with_settings
from enas.phases import SearchConfig
from enas.recipes import CONTROLLERS, named_controller
from enas.recipes.common import shortlisted, verifying
from enas.report.summary import table
from enas.retrain import Network
from enas.run import Run
from enas.runs.network_settings import NetworkDeriveConfig, NetworkSearchConfig, NetworkVerifyConfig
from enas.runtime.files import digest_of_file, read_json
from enas.runtime.stop import Stopped
from enas.settings import config_from_json, config_to_json
from enas.shared_weights import SharedWeights
from enas.spaces import architecture_from_json
from enas.stages import ALL_STAGES, execute
from enas.verification import VerifyConfig
from tests import own_network, tiny
from tests.own_network import FLAGS, SMALL, Net, digits, layer, loss, score
from tests.own_network import task as digits_task
from tests.test_cli import printed, refusal
from tests.test_image_runs import interrupt

FILE = Path(own_network.__file__)


def small(config: NetworkConfig, **changes: object) -> NetworkConfig:
    made = with_settings(config, {**SMALL, **changes})
    assert isinstance(made, NetworkConfig)
    return made


def config(network: Any = Net, task: Any = digits_task, **changes: object) -> NetworkConfig:
    return small(NetworkConfig(network=network, task=task), **changes)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the file that nobody interrupted, from the command line."""
    folder = tmp_path_factory.mktemp("whole")
    file = folder / "mine.py"
    shutil.copy(FILE, file)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", "mine.py", *FLAGS, "--retrain.random", "1", "--run", str(folder / "run")]) == 0
    return folder / "run"


# ---- from a file -------------------------------------------------------------------------------------------------------


def test_the_record_names_the_file_and_holds_neither_network_nor_task(whole: Path) -> None:
    record = read_json(whole / "config.json")
    assert record["kind"] == "network"
    assert record["recipe"] == {
        "from": "RecipeFile",
        "file": str(whole.parent / "mine.py"),
        "sha256": digest_of_file(FILE).sha256,
        "function": "recipe",
        "beside": {},
    }
    assert not {"network", "task", "origin"} & set(record["settings"])
    assert record["settings"]["retrain"]["child"]["training"]["optimizer"] == "sgd"


def test_the_found_network_computes_what_its_result_says(whole: Path) -> None:
    run = Run.open(whole)
    model, (found, _) = run.found_model(), run.results()
    assert not [module for module in model.modules() if isinstance(module, Choice)]
    x_ND, y_N = digits(100, 140)
    with torch.no_grad():
        right = (model(x_ND).argmax(1) == y_N).float().mean()
    assert float(right) == pytest.approx(found["test"]["test_score"])
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("cls", "name", "call"),
    [
        *((SharedWeights, "train_step", call) for call in (0, 7)),
        *((SharedWeights, "rewards", call) for call in (2, 4)),
        *((ChildTraining, "step", call) for call in (0, 14, 20)),
        (ChildTraining, "end_epoch", 4),
    ],
)
def test_killed_and_resumed_equals_uninterrupted(whole: Path, cls: type, name: str, call: int) -> None:
    folder = Path("run")
    opened = Run.open(whole)
    run = Run.create(folder, opened.config, ALL_STAGES)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, cls, name, call)
        with pytest.raises(KeyboardInterrupt):
            execute(run, ALL_STAGES)
    assert main(["resume", "run"]) == 0
    assert tiny.content(folder) == tiny.content(whole)


def test_show_rank_and_the_others_work_on_it(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("run")
    shutil.copytree(whole, folder)
    architecture = Run.open(folder).architecture()
    assert str(architecture) in printed(capsys, "show", "run")
    assert architecture_from_json(json.loads(printed(capsys, "show", "run", "--json"))) == architecture
    small = ["--architectures", "6", "--repeats", "2", "--epochs", "1", "--workers", "1"]
    said = printed(capsys, "rank", "run", *small)
    assert "6 architectures, 2 of them with a second seed; score: score" in said
    shared = {one["id"]: one["shared"] for one in read_json(folder / "rank.json")["scores"]}
    weights, _ = Run.open(folder).searched()
    architectures = [
        weights.space.architecture(one["choices"]) for one in read_json(folder / "rank.json")["scores"]
    ]
    assert list(shared.values()) == weights.scores(architectures)
    assert "reward" in (folder / "metrics.jsonl").read_text()
    assert main(["test", "run"]) == 0
    members = printed(capsys, "ensemble", "run", "--samples", "3", "--split", "valid")
    assert "3 architectures with the shared weights, valid images" in members


def test_every_ablation_of_the_search_is_one_of_its(capsys: pytest.CaptureFixture[str]) -> None:
    named = variants_of(config())
    assert {
        "random",
        "no-warmup",
        "statistics-recalibrated",
        "average-none",
        "sampler-fair",
        "derive-mode",
    } <= set(named)
    assert not {"frozen", "plain-convolutions", "random-connections", "relu-and-tanh-switched"} & set(named)
    shutil.copy(FILE, "mine.py")
    words = ["mine.py", *FLAGS, "--variant", "random", "--variant", "derive-mode", "--run", "ablation"]
    said = printed(capsys, "ablate", *words)
    assert [
        line.split()[0] for line in said.splitlines() if line.startswith(("recipe", "random", "derive"))
    ] == [
        "recipe",
        "random",
        "derive-mode",
    ]
    assert printed(capsys, "ablate", *words) == said  # goes on, though a setting was found by measuring


# ---- from Python -------------------------------------------------------------------------------------------------------


def test_search_train_and_compare_from_python(capsys: pytest.CaptureFixture[str]) -> None:
    def here() -> Task:
        return digits_task()

    found = enas.search(Net, here, run="mine", **SMALL)
    assert found.architecture == Run.open(Path("mine"), recipe=found.config).architecture()
    assert found.space.count() == found.config.searched_space().count() == 27
    capsys.readouterr()
    model = enas.train(found, random=1, run="mine")
    assert isinstance(model.head, nn.Linear)
    trained = Run.open(Path("mine"), recipe=found.config)
    assert table(trained.results(), trained.config.metric) in capsys.readouterr().err
    before = tiny.content(Path("mine"))
    again = enas.search(Net, here, run="mine", **SMALL)
    assert again == found
    enas.train(again, random=1)
    assert tiny.content(Path("mine")) == before
    capsys.readouterr()
    verdict = enas.compare("mine", seeds=2, samples=4, rivals="shared-random,synflow")
    said = capsys.readouterr().err
    assert said.count("in no file that other processes could import") == 1
    assert str(verdict).splitlines()[0].startswith("method")
    assert {one.rival for one in verdict.contests} >= {"shared-random", "random-search", "sampling"}
    assert enas.compare(again, seeds=2, samples=4, rivals="shared-random,synflow") == verdict
    capsys.readouterr()
    assert "the network and the task of this run are in no file" in refusal(capsys, "resume", "mine")


def test_what_python_and_a_file_search_is_the_same(whole: Path) -> None:
    found = enas.search(Net, digits_task, run="mine", **SMALL)
    assert found.architecture == Run.open(whole).architecture()
    ours, theirs = (
        {
            name: value
            for name, value in tiny.content(folder).items()
            if re.match("(arch|metrics|candid|check)", name)
        }
        for folder in (Path("mine"), whole)
    )
    assert ours == theirs


def test_other_settings_than_those_begun_with_are_refused() -> None:
    enas.search(Net, digits_task, run="mine", **SMALL)
    with pytest.raises(
        ConfigError, match=r"seed is 0 in mine.config\.json, not 1: give the settings that the run was begun"
    ):
        enas.search(Net, digits_task, run="mine", **{**SMALL, "seed": 1})
    with pytest.raises(ConfigError, match=r"there is no setting 'search\.epoch'"):
        enas.search(Net, digits_task, run="other", **{"search.epoch": 1})
    with pytest.raises(ConfigError, match=r"there is no setting 'sed'"):
        enas.search(Net, digits_task, run="other", sed=1)
    with pytest.raises(ConfigError, match=r"enas\.compare: .*'sampls'"):
        enas.compare("mine", sampls=1)
    assert not Path("other/config.json").exists()


def test_a_module_is_searched_as_it_is_and_left_as_it_is() -> None:
    net = Net()
    before = tiny.plain(net.state_dict())
    weights = config(network=net).shared_weights()
    assert tiny.plain(weights.trainer.model.network.state_dict()) == before
    enas.search(net, digits_task, run="mine", **SMALL)
    assert tiny.plain(net.state_dict()) == before


def test_weights_that_a_function_makes_follow_from_the_seed() -> None:
    first, again, other = (config(seed=seed).shared_weights().state_dict()["model"] for seed in (0, 0, 1))
    assert tiny.plain(first) == tiny.plain(again)
    assert tiny.plain(first) != tiny.plain(other)
    architecture = config().searched_space().sample(random.Random(0))
    models = [config().model(Network("candidate", architecture, seed)).state_dict() for seed in (0, 0, 1)]
    assert tiny.plain(models[0]) == tiny.plain(models[1])
    assert tiny.plain(models[0]) != tiny.plain(models[2])


def test_a_stop_says_that_the_same_call_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = SharedWeights.train_step, itertools.count()

    def step(self: SharedWeights, *args: Any) -> Any:
        if next(calls) == 4:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(SharedWeights, "train_step", step)
        with pytest.raises(
            Stopped, match=r"^Stopped by SIGTERM after saving\. The same call goes on from there\.$"
        ):
            enas.search(Net, digits_task, run="mine", **SMALL)
    found = enas.search(Net, digits_task, run="mine", **SMALL)
    enas.search(Net, digits_task, run="whole", **SMALL)
    assert tiny.content(Path("mine")) == tiny.content(Path("whole"))
    assert found.architecture == Run.open(Path("whole"), recipe=found.config).architecture()


SCRIPT = """
import sys
import enas
from own_network import SMALL, Net, task

{before}
    found = enas.search({network}, task, run="mine", **SMALL, **{{"retrain.random": 2}})
    print(enas.compare(found, seeds=2, samples=4, rivals="none", workers=1))
"""


@pytest.mark.slow
@pytest.mark.parametrize("importable", [True, False])
def test_a_script_trains_in_processes_or_says_why_not(importable: bool) -> None:
    shutil.copy(FILE, "own_network.py")
    network = "Net" if importable else "lambda: Net()"
    Path("script.py").write_text(SCRIPT.format(before="if __name__ == '__main__':", network=network))
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "sampling" in done.stdout
    assert ("in no file that other processes could import" in done.stderr) is not importable
    record = read_json(Path("mine/config.json"))["recipe"]
    if importable:
        assert (record["from"], record["network"], record["task"]) == ("NetworkFile", "Net", "task")
        assert set(record["beside"]) == {"own_network.py"}
        assert main(["derive", "mine"]) == 0
    else:
        assert record == {"from": "InMemory"}


def test_a_script_without_a_main_guard_says_so_when_it_is_imported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(FILE, "own_network.py")
    Path("script.py").write_text(SCRIPT.format(before="if True:", network="Net"))
    line = refusal(capsys, "run", "script.py")
    assert (
        "script.py, line 7: ConfigError: enas.search is called while its script is imported: put it under"
        in line
    )


# ---- every controller, every part of a task ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTROLLERS)
def test_every_controller_searches(name: str, tmp_path: Path) -> None:
    made = config()
    controller = named_controller(name, made.searched_space().name)
    run = Run.create(tmp_path / "run", replace(made, controller=controller), ("search", "derive"))
    execute(run, ("search", "derive"))
    assert run.architecture().space == made.searched_space()
    assert len(run.archive()) == 9


def test_a_lower_score_is_better_where_the_task_says_so() -> None:
    x_ND, y_N = (
        torch.randn(60, 3, generator=torch.Generator().manual_seed(0)),
        torch.arange(60.0)[:, None] / 60,
    )

    class Fit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = Choice(
                {
                    "linear": nn.Linear(3, 1),
                    "deep": nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)),
                }
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.mix(x)

    def error(output: torch.Tensor, batch: Any) -> torch.Tensor:
        return (output - batch[1]).square().mean()

    data = [(x_ND[part], y_N[part]) for part in (slice(0, 40), slice(40, 50), slice(50, 60))]
    task = Task(*data, batch=10, loss=error, score=error, higher_is_better=False)
    found = enas.search(Fit, task, run="mine", **SMALL)
    metric = found.config.metric
    assert metric.better(0.1, 0.2)
    assert (
        metric.score_name,
        metric.score({"valid_score": 0.5}),
        metric.shortlisted_by({"valid_score": 0.5}),
    ) == (
        "-score",
        -0.5,
        0.5,
    )
    candidates = read_json(Path("mine/candidates.json"))
    best = min(
        (one for one in candidates if one["trained_loss"] is not None), key=lambda one: one["trained_loss"]
    )
    assert best["architecture"]["id"] == found.architecture.id
    enas.train(found)
    result = Run.open(Path("mine"), recipe=found.config).results()[0]
    assert result["valid_loss"] == pytest.approx(result["valid_score"])


def test_without_test_data_nothing_is_tested(capsys: pytest.CaptureFixture[str]) -> None:
    task = Task(digits(0, 60), digits(60, 100), batch=10, loss=loss, score=score)
    found = enas.search(Net, task, run="mine", **SMALL)
    enas.train(found, random=1)
    assert "the task has no test data" in capsys.readouterr().err
    assert "test" not in Run.open(Path("mine"), recipe=found.config).results()[0]
    with pytest.raises(ConfigError, match="give the task a third split"):
        enas.compare(found)


def test_other_data_are_refused() -> None:
    enas.search(Net, digits_task, run="mine", **SMALL)
    for first in (1, 60):
        other = Task(digits(first, 60 + first), digits(60, 100), batch=10, loss=loss, score=score)
        opened = Run.open(Path("mine"), recipe=config(task=other))
        with pytest.raises(RunFolderError, match="the data have changed since mine was begun"):
            _ = opened.data


def test_other_data_for_a_training_in_the_same_folder_change_nothing_there() -> None:
    found = enas.search(Net, digits_task, run="mine", **SMALL)
    before = Path("mine/config.json").read_bytes()
    other = Task(digits(1, 61), digits(60, 100), batch=10, loss=loss, score=score)
    with pytest.raises(RunFolderError, match="the data have changed since mine was begun"):
        enas.train(found, other, epochs=1)
    assert Path("mine/config.json").read_bytes() == before


def test_a_setting_by_two_names_is_refused_and_paths_and_threads_are_as_everywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=r"epochs and search\.epochs are one setting, which is given twice"):
        enas.search(Net, digits_task, run="mine", epochs=1, **SMALL)
    assert not Path("mine").exists()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(Path("home").absolute()))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = enas.search(Net, digits_task, run="~/mine", **SMALL)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert found.run == Path("home/mine").absolute()
    with pytest.raises(ConfigError, match="a path is empty"):
        enas.train(found, run="")


@pytest.mark.parametrize("setting", ["retrain.child.statistics", "retrain.child.epochs"])
def test_the_recipe_of_the_trainings_may_change_after_the_search_but_not_while_it_is_verified(
    setting: str,
) -> None:
    changes: dict[str, object] = {"verify.trainings": 2, "verify.rounds": 2, "verify.epochs": 1}
    run = Run.create(Path("mine"), config(**{"search.warmup": 0.0, **changes}), ALL_STAGES)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, SharedWeights, "train_step", 8)  # in the second epoch
        with pytest.raises(KeyboardInterrupt):
            execute(run, ("search",))
    before = run.config
    value: object = "batch" if setting.endswith("statistics") else 3
    other = with_settings(before, {setting: value})
    run.config = other
    with pytest.raises(
        RunFolderError, match=rf"{re.escape(setting)}.* in config\.json, but .*step-.*was made with"
    ):
        execute(run, ("search",))
    run.config = before
    execute(run, ("search",))
    run.config = other
    execute(run, ("search", "derive"))


def test_a_search_that_goes_on_without_a_task_is_refused_in_a_line() -> None:
    enas.search(Net, digits_task, run="mine", **SMALL)
    nothing: Any = None
    with pytest.raises(ConfigError, match="a run of a network needs its task"):
        enas.search(Net, nothing, run="mine", **SMALL)


def test_what_makes_a_task_need_not_have_a_hash() -> None:
    @dataclass
    class Maker:
        made: int = 0

        def __call__(self) -> Task:
            self.made += 1
            return digits_task()

    maker = Maker()
    found = enas.search(Net, maker, run="mine", **SMALL)
    enas.train(found)
    assert maker.made == 1


def test_a_setting_that_may_change_at_any_time_is_taken_over_by_the_next_call() -> None:
    enas.search(Net, digits_task, run="mine", **SMALL)
    written = Path("mine/config.json").read_bytes()
    enas.search(Net, digits_task, run="mine", **SMALL)
    assert Path("mine/config.json").read_bytes() == written
    more = {"threads": 2, "search.log-every": 5, "retrain.child.epochs": 7}
    found = enas.search(Net, digits_task, run="mine", **{**SMALL, **more})
    now = json.loads(written)
    now["settings"]["threads"], now["settings"]["search"]["log_every"] = 2, 5
    assert read_json(Path("mine/config.json")) == now
    assert (found.config.threads, found.config.search.log_every, found.config.retrain.child.epochs) == (
        2,
        5,
        2,
    )


def test_settings_survive_json_and_the_tasks_own_training_is_in_them() -> None:
    training = enas.Training(optimizer="adamw", clip=1.0)
    task = replace(digits_task(), training=training)
    made = config(task=task, **{"retrain.child.training": enas.Training(momentum=0.5)})
    assert made.shared.training == training
    record = json.loads(json.dumps(config_to_json(made)))
    assert config_from_json(record, recipe=made) == made
    assert config_from_json(record, recipe=made).task is task
    record["settings"]["network"] = {"weights": 3}
    with pytest.raises(RunFolderError, match="setting network: it is no setting"):
        config_from_json(record, recipe=made)
    longer = made.with_epochs(4, 8)
    assert (longer.search.epochs, longer.retrain.child.epochs) == (4, 8)


# ---- mistakes ----------------------------------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """A module as a network with one choice in it."""

    def __init__(self, options: dict[str, Any], twice: bool = False, asked: bool = True) -> None:
        super().__init__()
        self.mix = Choice(options)
        self.other = Choice({"a": nn.Identity(), "b": layer(nn.ReLU)})
        self.stem, self.head = nn.Linear(64, 8), nn.Linear(8, 10)
        self.twice, self.asked = twice, asked

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.other(x) if self.asked else x
        x = self.mix(x)
        return self.head(self.mix(x) if self.twice else x)


FINE = {"a": nn.Identity(), "b": nn.Linear(8, 8)}


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (lambda: Wrapped({**FINE, "c": nn.Linear(8, 4)}), "mix"),
        (lambda: Wrapped(FINE, twice=True), "mix"),
        (lambda: nn.Linear(64, 10), "there is no Choice and no Inputs in Linear"),
        (lambda: 3, "a network must be a torch.nn.Module, not 3"),
        (None, "a run of a network needs the network"),
    ],
)
def test_networks_that_cannot_be_searched(network: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        Run.create(Path("run"), config(network=network), ("search",))
    assert not Path("run/config.json").exists()


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"loss": lambda output, batch: output}, ConfigError, "the loss must be a scalar"),
        ({"loss": lambda output, batch: torch.tensor(1.0)}, ConfigError, "without a gradient"),
        ({"loss": lambda output, batch: output.sum() * math.nan}, NotFiniteError, "is nan"),
        ({"score": lambda output, batch: math.nan}, NotFiniteError, "is nan"),
        ({"score": lambda output, batch: output}, ConfigError, "the score must be a number"),
        ({"train": []}, EnasError, "train has no batch"),
        ({"train": iter([])}, EnasError, "can be passed over only once"),
        ({"valid": []}, EnasError, "valid has no batch"),
        ({"batch": None}, ConfigError, "say with batch="),
        ({"train": lambda: iter([digits(0, 10)])}, ConfigError, "say with steps="),
    ],
)
def test_tasks_that_cannot_be_trained_for_leave_no_run(
    changes: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=re.escape(says)):
        enas.search(Net, replace(digits_task(), **changes), run="run", **SMALL)
    assert not Path("run/config.json").exists()


def test_what_is_no_task_is_refused() -> None:
    three: Any = partial(int, 3)
    with pytest.raises(ConfigError, match=r"returned 3, which is no enas\.Task"):
        enas.search(Net, three, run="run")
    with pytest.raises(ConfigError, match="there is no task 'digts'; packages have none"):
        enas.search(Net, "digts", run="run")


def test_a_choice_that_is_never_called_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Run.create(Path("run"), config(network=lambda: Wrapped(FINE, asked=False)), ("search",))
    assert "other: never called with this example" in capsys.readouterr().err


def test_errors_of_a_files_network_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    broken = FILE.read_text().replace("self.head = nn.Linear(8, 10)", "self.head = nn.Linear(7, 10)")
    Path("mine.py").write_text(broken)
    assert main(["run", "mine.py", *FLAGS]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("enas:"))
    assert re.search(r"mine\.py, line \d+: RuntimeError: mat1 and mat2 shapes cannot be multiplied", line)
    assert not list(Path().rglob("config.json"))


def test_the_network_of_the_readme_is_searched_trained_and_compared(
    capsys: pytest.CaptureFixture[str],
) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    program = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)[1]
    for shown, short in (
        ("epochs=20", f"**{SMALL}"),
        ("random=3", "random=1"),
        ("seeds=6", "seeds=2, samples=2, epochs=1, workers=1, rivals='none'"),
    ):
        assert shown in program
        program = program.replace(shown, short)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(program, names)
    assert isinstance(names["model"].mix, nn.Module)
    assert not any(isinstance(module, Choice) for module in names["model"].modules())
    assert "random-search" in capsys.readouterr().out


# ---- settings within the settings --------------------------------------------------------------------------------------


def test_settings_that_are_given_keep_the_other_defaults_of_networks() -> None:
    usual = NetworkConfig(network=Net, task=digits_task)
    changed = NetworkConfig(
        network=Net,
        task=digits_task,
        search=NetworkSearchConfig(epochs=3),
        verify=NetworkVerifyConfig(rounds=2),
        derive=NetworkDeriveConfig(samples=7),
    )
    names = {"search.epochs": 3, "verify.rounds": 2, "derive.samples": 7}
    assert changed == with_settings(usual, names) != usual
    assert asdict(usual.verify) == asdict(verifying(usual.retrain.child.epochs))
    assert asdict(usual.derive) == asdict(shortlisted(usual.retrain.child.epochs))


@pytest.mark.parametrize("name", ["search", "verify", "derive"])
def test_settings_with_other_defaults_are_refused(name: str) -> None:
    plain: dict[str, Any] = {"search": SearchConfig(5), "verify": VerifyConfig(), "derive": DeriveConfig()}
    kind = f"Network{type(plain[name]).__name__}"
    with pytest.raises(ConfigError, match=f"{name} must be a {kind}, not {type(plain[name]).__name__}"):
        NetworkConfig(network=Net, task=digits_task, **{name: plain[name]})
