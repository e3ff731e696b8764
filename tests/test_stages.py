"""Run folders: what is done is not done again, settings survive config.json, and wrong ones are named."""

import ast
import copy
import json
import re
import shlex
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from enas.cli import check_command
from enas.config import CONTROLLERS
from enas.errors import ConfigError, DataError, NotFiniteError, RunFolderError
from enas.recipes import RECIPES, recipe
from enas.report.summary import next_commands, summary
from enas.retrain import Network
from enas.runs.recurrent import RecurrentWorkshop
from enas.runtime.files import read_json, write_json
from enas.settings import config_from_json, config_to_json
from enas.stages import ALL_STAGES, Run, StageName, execute
from enas.tasks.language_child import LanguageChildTraining
from tests import tiny


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_text(tmp_path_factory.mktemp("data") / "text")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A run folder with everything done; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    execute(Run.create(folder, tiny.config(text), ALL_STAGES), ALL_STAGES)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Run:
    """A copy of the finished run."""
    shutil.copytree(finished, tmp_path / "run")
    return Run.open(tmp_path / "run")


def stamps(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }


# ---- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("controller", [None, *CONTROLLERS])
def test_settings_survive_json(name: str, controller: str | None) -> None:
    config = recipe(name)
    if controller is not None:
        config = replace(config, controller=config.controllers[controller])
    record = json.loads(json.dumps(config_to_json(config)))
    assert config_from_json(record) == config
    assert type(config_from_json(record).controller) is type(config.controller)


def paths(settings: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every place in the settings where a setting stands."""
    found: list[tuple[str, ...]] = []
    for key, value in settings.items():
        found += paths(value, (*prefix, key)) if isinstance(value, dict) else [(*prefix, key)]
    return found


def with_value(record: dict[str, Any], place: tuple[str, ...], value: object) -> dict[str, Any]:
    changed = copy.deepcopy(record)
    inner = changed["settings"]
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


def test_every_ill_typed_setting_is_refused_by_name() -> None:
    record = json.loads(json.dumps(config_to_json(recipe("recurrent-authors"))))
    for place in paths(asdict(recipe("recurrent-authors"))):
        with pytest.raises(RunFolderError) as caught:
            config_from_json(with_value(record, place, {"no": "value"}))
        assert f"setting {'.'.join(place)}" in str(caught.value), place


def test_every_unknown_setting_is_refused_by_name() -> None:
    record = json.loads(json.dumps(config_to_json(recipe("recurrent-authors"))))
    for place in {path[:-1] for path in paths(asdict(recipe("recurrent-authors")))}:
        with pytest.raises(RunFolderError) as caught:
            config_from_json(with_value(record, (*place, "colour"), 1))
        assert f"setting {'.'.join((*place, 'colour'))}: there is no such setting" in str(caught.value)


def test_value_out_of_range_says_what_the_setting_says() -> None:
    record = json.loads(json.dumps(config_to_json(recipe("recurrent-quick"))))
    with pytest.raises(
        RunFolderError, match=r"config.json, setting search\.epochs must be at least 1, not 0$"
    ):
        config_from_json(with_value(record, ("search", "epochs"), 0))


@pytest.mark.parametrize("change", [{"kind": "convolutional"}, {"controller": "Oracle"}, {"settings": None}])
def test_unknown_kinds_are_refused(change: dict[str, Any]) -> None:
    record = {**config_to_json(recipe("recurrent-quick")), **change}
    with pytest.raises(RunFolderError, match=r"config\.json lacks or does not know"):
        config_from_json(record)
    for missing in change:
        with pytest.raises(RunFolderError, match=missing):
            config_from_json({key: value for key, value in record.items() if key != missing})


# ---- run folders -------------------------------------------------------------------------------------------------------


def test_folder_that_holds_a_run_is_not_begun_again(finished: Path, text: Path) -> None:
    before = stamps(finished)
    with pytest.raises(RunFolderError, match=r"already holds a run.*enas resume"):
        Run.create(finished, tiny.config(text), ALL_STAGES)
    assert stamps(finished) == before


def test_folder_without_config_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"not a run folder: it has no config\.json"):
        Run.open(tmp_path)


@pytest.mark.parametrize("stages", [None, [], ["search", "win"]])
def test_config_without_known_stages_is_refused(run: Run, stages: list[str] | None) -> None:
    record = read_json(run.folder / "config.json")
    write_json(run.folder / "config.json", {key: value for key, value in record.items() if key != "stages"})
    if stages is not None:
        write_json(run.folder / "config.json", {**record, "stages": stages})
    with pytest.raises(RunFolderError, match="'stages' must name some of search, derive, retrain, test"):
        Run.open(run.folder)


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["--data.source", "/nowhere"], DataError),
        (["--device", "tpu"], ConfigError),
        (["--threads", "0"], ConfigError),
        (["--retrain.child.training.windows.batch", "5000"], DataError),
        (["--retrain.child.training.windows.bptt", "5000"], DataError),
        (["--retrain.child.eval-batch", "5000"], DataError),
        (["--retrain.random", "100000"], ConfigError),
        (["--shared.reward.batch", "5000"], DataError),
        (["--search.proposals", "1"], ConfigError),  # the baseline of the recipe needs two
        (["--derive.rule", "ridge", "--search.updates", "0"], ConfigError),
        (["--derive.shortlist-order", "ridge", "--search.warmup", "1"], ConfigError),
    ],
)
def test_settings_that_cannot_work_leave_no_run(
    text: Path, tmp_path: Path, more: list[str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Run.create(tmp_path, tiny.config(text, *more), ALL_STAGES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "more",
    [
        ["--search.proposals", "1", "--search.updates", "0"],  # nothing is learnt
        ["--search.proposals", "1", "--controller.reinforce.baseline", "ema"],
        ["--derive.rule", "ridge"],
        ["--retrain.random", "127"],  # all but the one that is found
    ],
)
def test_settings_that_can_work_are_not_refused(text: Path, tmp_path: Path, more: list[str]) -> None:
    config = tiny.config(text, "--space.nodes", "3", *more)
    assert config.space.count() == 128
    Run.create(tmp_path, config, ALL_STAGES)


def test_networks_that_do_not_fit_into_memory_are_refused_in_a_line(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes.")

    monkeypatch.setattr(RecurrentWorkshop, "model", full)
    with pytest.raises(ConfigError, match="do not fit into memory"):
        Run.create(tmp_path, tiny.config(text), ALL_STAGES)


def test_commands_for_a_folder_with_spaces_can_be_typed(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my 'first' run"
    run = Run.create(folder, tiny.config(text), ALL_STAGES)
    for line in next_commands(run).splitlines()[1:]:
        assert shlex.split(line)[2] == str(folder)
    with pytest.raises(RunFolderError) as caught:
        run.architecture()
    quoted = re.search(r"run (['\"].*['\"]) first$", str(caught.value))
    assert quoted is not None
    assert shlex.split(ast.literal_eval(quoted[1])) == ["enas", "derive", str(folder)]


def test_data_that_changed_are_refused(tmp_path: Path) -> None:
    text = tiny.write_text(tmp_path / "text")
    Run.create(tmp_path / "run", tiny.config(text), ALL_STAGES)
    valid = text / "valid.txt"
    valid.write_text(valid.read_text() + "the cat\n")
    with pytest.raises(RunFolderError, match="the data have changed"):
        execute(Run.open(tmp_path / "run"), ALL_STAGES)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("stage", "missing", "message"),
    [
        ("derive", "checkpoints", "is not finished; run 'enas resume"),
        ("retrain", "architecture.json", "has no architecture yet; run 'enas derive"),
        ("test", "retrain", "has no retrained network yet; run 'enas retrain"),
    ],
)
def test_stage_without_what_it_reads_says_what_to_run(
    run: Run, stage: StageName, missing: str, message: str
) -> None:
    path = run.folder / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if stage == "derive":
        (run.folder / "architecture.json").unlink()
    with pytest.raises(RunFolderError, match=message):
        execute(run, (stage,))


# ---- what is done is not done again ------------------------------------------------------------------------------------


def test_finished_trainings_are_not_repeated(run: Run) -> None:
    before = stamps(run.folder / "retrain") | stamps(run.folder / "derive")
    execute(run, ("search", "derive", "retrain"))
    assert stamps(run.folder / "retrain") | stamps(run.folder / "derive") == before


def test_test_data_are_read_once_a_network(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tested: list[str] = []
    measure = RecurrentWorkshop.test

    def test(self: RecurrentWorkshop, network: Network, weights: Path) -> dict[str, float]:
        tested.append(network.id)
        return measure(self, network, weights)

    monkeypatch.setattr(RecurrentWorkshop, "test", test)
    execute(run, ("test",))
    assert tested == []
    result = run.results()[1]
    write_json(
        run.folder / "retrain" / result["id"] / "result.json",
        {k: v for k, v in result.items() if k != "test"},
    )
    execute(run, ("test",))
    execute(run, ("test",))
    assert tested == [result["id"]]
    assert run.results()[1] == result  # and comes out the same
    assert read_json(run.folder / "comparison.json") == run.results()


def test_search_that_ended_just_before_it_could_say_so_is_finished(run: Run) -> None:
    """A run killed between its last checkpoint and search.json."""
    (run.folder / "search.json").unlink()
    (run.folder / "architecture.json").unlink()
    before = tiny.content(run.folder)
    execute(run, ("search",))
    assert read_json(run.folder / "search.json")["steps"] == 24
    after = tiny.content(run.folder)
    del after["search.json"]
    assert after == before


def diverge(monkeypatch: pytest.MonkeyPatch, architectures: set[str]) -> None:
    """Let the trainings of these architectures (`lstm` for the LSTM) meet a gradient that is infinite."""
    made, do_step = RecurrentWorkshop.child_training, LanguageChildTraining.step
    doomed = []

    def child_training(self: RecurrentWorkshop, network: Network, epochs: int | None = None) -> Any:
        training = made(self, network, epochs)
        if network.id.partition("-")[0] in architectures:
            doomed.append(training)
        return training

    def step(self: LanguageChildTraining) -> dict[str, float]:
        if self in doomed:
            with torch.no_grad():
                self.model.embedding.fill_(float("inf"))
        return do_step(self)

    monkeypatch.setattr(RecurrentWorkshop, "child_training", child_training)
    monkeypatch.setattr(LanguageChildTraining, "step", step)


def test_rival_that_diverges_is_a_result_and_the_run_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _, other = run.results()
    for network in (found["id"], other["id"]):
        shutil.rmtree(run.folder / "retrain" / network)
    (run.folder / "comparison.json").unlink()
    architecture = other["architecture"]["id"]
    diverge(monkeypatch, {architecture})
    execute(run, ("retrain", "test"))
    results = read_json(run.folder / "comparison.json")
    assert [("diverged" in result, "test" in result) for result in results] == [
        (False, True),
        (False, True),
        (True, False),
    ]
    assert results[2]["parameters"] == other["parameters"]
    assert architecture in results[2]["diverged"]
    (row,) = [line for line in summary(run).splitlines() if line.startswith(f"random {other['id']}")]
    assert "diverged" in row
    assert "of the 2 others" in summary(run)


def test_found_architecture_that_diverges_stops_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run.results()[0]
    shutil.rmtree(run.folder / "retrain" / found["id"])
    diverge(monkeypatch, {found["architecture"]["id"]})
    with pytest.raises(NotFiniteError, match=found["architecture"]["id"]):
        execute(run, ("retrain",))
    assert not (run.folder / "retrain" / found["id"] / "result.json").exists()


def test_shortlisted_architecture_that_diverges_is_not_picked(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    picked = run.architecture()
    for name in ("architecture.json", "candidates.json"):
        (run.folder / name).unlink()
    shutil.rmtree(run.folder / "derive")
    diverge(monkeypatch, {picked.id})
    execute(run, ("derive",))
    assert run.architecture() != picked
    records = {r["architecture"]["id"]: r for r in read_json(run.folder / "candidates.json")}
    assert records[picked.id]["trained_loss"] is None
    assert records[run.architecture().id]["trained_loss"] is not None


def test_derive_picks_the_same_again(run: Run) -> None:
    before = tiny.content(run.folder)
    for name in ("architecture.json", "architecture.svg", "candidates.json"):
        (run.folder / name).unlink()
    execute(run, ("derive",))
    assert tiny.content(run.folder) == before


def test_candidates_record_what_the_shortlist_was_picked_by(run: Run) -> None:
    listed = read_json(run.folder / "candidates.json")
    trained = [record for record in listed if record["trained_loss"] is not None]
    assert len(trained) == run.config.derive.shortlist
    best = min(trained, key=lambda record: record["trained_loss"])
    assert best["architecture"] == read_json(run.folder / "architecture.json")
    for record in trained:
        result = read_json(run.folder / "derive" / f"{record['architecture']['id']}-seed0" / "result.json")
        assert result["valid_loss"] == record["trained_loss"]
        assert result["epochs"] == run.config.derive.shortlist_epochs


# ---- what is said at the end -------------------------------------------------------------------------------------------


def test_summary_has_every_network_and_commands_that_parse(run: Run) -> None:
    said = summary(run)
    assert str(run.architecture()) in said
    for result in run.results():
        (row,) = [line for line in said.splitlines() if line.startswith(f"{result['role']} {result['id']}")]
        assert f"{result['parameters']:,}" in row
        assert f"{result['valid_ppl']:.2f}" in row
        assert f"{result['test']['test_ppl']:.2f}" in row
    tested = [result["test"]["test_ppl"] for result in run.results()]
    better = sum(tested[0] < other for other in tested[1:])
    assert f"better than {better} of the 2 others" in said


@pytest.mark.parametrize(
    ("removed", "command"),
    [
        ((), "enas show"),
        (("retrain",), "enas retrain"),
        (("retrain", "architecture.json"), "enas derive"),
        (("retrain", "architecture.json", "search.json"), "enas resume"),
    ],
)
def test_next_commands_are_for_where_the_run_is_and_parse(
    run: Run, removed: tuple[str, ...], command: str
) -> None:
    for name in removed:
        path = run.folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    commands = [line.strip() for line in next_commands(run).splitlines()[1:]]
    assert any(line.startswith(f"{command} {shlex.quote(str(run.folder))}") for line in commands)
    for line in commands:
        words = shlex.split(line.partition("#")[0])
        assert words[0] == "enas"
        check_command(words[1:])
