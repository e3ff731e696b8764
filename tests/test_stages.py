"""Run folders: what is done is not done again, settings survive config.json, and wrong ones are named."""

import ast
import copy
import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from enas.child_training import ChildTraining, evaluate
from enas.cli import parse
from enas.errors import ConfigError, DataError, NotFiniteError, RunFolderError
from enas.phases import Search
from enas.recipes import CONTROLLERS, RECIPES, named_controllers, recipe
from enas.report.summary import next_commands, summary
from enas.retrain import Network, check_weights
from enas.runs.recurrent import RecurrentConfig
from enas.runtime.checkpoint import CheckpointStore
from enas.runtime.environment import environment
from enas.runtime.files import digest_of_file, read_json, write_json
from enas.runtime.lock import run_lock
from enas.settings import FREE, NEEDED, config_from_json, config_to_json, flat, settings_for
from enas.spaces import architecture_from_json
from enas.spaces.recurrent.space import RecurrentSpace
from enas.stages import ALL_STAGES, Run, StageName, execute
from enas.task import Score
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
        config = replace(config, controller=named_controllers(config.searched_space().name)[controller])
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
        assert f"setting {'.'.join((*place, 'colour'))} is not known" in str(caught.value)


def test_value_out_of_range_says_what_the_setting_says() -> None:
    record = json.loads(json.dumps(config_to_json(recipe("recurrent-quick"))))
    with pytest.raises(
        RunFolderError, match=r"config.json, setting search\.epochs must be at least 1, not 0$"
    ):
        config_from_json(with_value(record, ("search", "epochs"), 0))


@pytest.mark.parametrize("change", [{"kind": "convolutional"}, {"settings": None}])
def test_unknown_kinds_are_refused(change: dict[str, Any]) -> None:
    record = {**config_to_json(recipe("recurrent-quick")), **change}
    with pytest.raises(RunFolderError, match=r"config\.json"):
        config_from_json(record)
    for missing in change:
        with pytest.raises(RunFolderError, match=missing):
            config_from_json({key: value for key, value in record.items() if key != missing})


@pytest.mark.parametrize(
    ("controller", "needs"),
    [
        ({"kind": "oracle"}, ".kind must be one of 'uniform', 'evolution', .*, not 'oracle'"),
        ({"kind": 3}, ".kind must be one of 'uniform'"),
        ({}, ".kind is missing"),
        (1, " must be an object, not 1"),
    ],
)
def test_unknown_controllers_are_refused(controller: object, needs: str) -> None:
    record = json.loads(json.dumps(config_to_json(recipe("recurrent-quick"))))
    with pytest.raises(RunFolderError, match=f"setting controller{needs}"):
        config_from_json(with_value(record, ("controller",), controller))


def test_unknown_setting_suggests_the_nearest() -> None:
    record = json.loads(json.dumps(config_to_json(recipe("recurrent-paper"))))
    with pytest.raises(RunFolderError, match=r"controller\.hiden is not known; did you mean 'hidden'\?$"):
        config_from_json(with_value(record, ("controller", "hiden"), 1))


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

    monkeypatch.setattr(RecurrentConfig, "model", full)
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
    assert shlex.split(ast.literal_eval(quoted[1])) == ["enas", "resume", str(folder)]


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
    taken: list[str] = []

    def take(folder: Path, result: Any) -> Path:
        taken.append(folder.name)
        return check_weights(folder, result)

    def test(*given: Any) -> Score | None:
        tested.append(taken.pop())
        return evaluate(*given)

    monkeypatch.setattr("enas.run.check_weights", take)
    monkeypatch.setattr("enas.run.evaluate", test)
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
    made, do_step = RecurrentConfig.child_training, ChildTraining.step
    doomed = []

    def child_training(self: RecurrentConfig, network: Network, epochs: int | None = None) -> Any:
        training = made(self, network, epochs)
        if network.id.partition("-")[0] in architectures:
            doomed.append(training)
        return training

    def step(self: ChildTraining) -> dict[str, float]:
        if self in doomed:
            with torch.no_grad():
                self.model.embedding.weight.fill_(float("inf"))
        return do_step(self)

    monkeypatch.setattr(RecurrentConfig, "child_training", child_training)
    monkeypatch.setattr(ChildTraining, "step", step)


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
    (picture,) = re.findall(r"^its picture: (.*)$", said, flags=re.MULTILINE)
    assert Path(picture).read_text(encoding="utf-8").startswith("<?xml")
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
        ((), "enas compare"),
        (("retrain",), "enas show"),
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
    following, _, load = next_commands(run).partition("\nin Python:\n")
    commands = [line.strip() for line in following.splitlines()[1:]]
    assert commands[0].startswith(f"{command} {shlex.quote(str(run.folder))}")
    assert load == ("" if removed else f"  model = enas.load({str(run.folder)!r})")
    for line in commands:
        words = shlex.split(line.partition("#")[0])
        assert words[0] == "enas"
        parse(words[1:])


# ---- what a run folder may be made to hold -----------------------------------------------------------------------------


def edit(path: Path, *remove: str, **changes: Any) -> None:
    """Change keys of a JSON file, and remove some."""
    record = {key: value for key, value in read_json(path).items() if key not in remove}
    write_json(path, {**record, **changes})


def folder_of(run: Run, result: dict[str, Any]) -> Path:
    return run.folder / "retrain" / str(result["id"])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def swap(path: Path) -> None:
    """Put the weights of another network of the same shapes in their place."""
    other = sorted(one for one in path.parent.parent.glob("*/weights.safetensors") if "lstm" not in str(one))
    (taken,) = [one for one in other if one != path]
    shutil.copyfile(taken, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "has changed since the training (other bytes)"),
        (swap, "has changed since the training"),
        (cut, "has changed since the training"),
        (lambda path: path.write_bytes(b""), "has changed since the training (0 bytes where there were"),
        (Path.unlink, "is missing"),
    ],
)
def test_weights_that_are_not_those_of_the_training_are_refused(
    run: Run, damage: Callable[[Path], object], message: str
) -> None:
    found = run.results()[0]
    result, weights = folder_of(run, found) / "result.json", folder_of(run, found) / "weights.safetensors"
    edit(result, "test")
    damage(weights)
    before = (run.folder / "comparison.json").read_bytes()
    for use in (lambda: execute(run, ("test",)), run.found_model):
        with pytest.raises(RunFolderError) as caught:
            use()
        assert message in str(caught.value)
        assert str(weights) in str(caught.value)
        assert str(caught.value).endswith(f"elete {weights.parent} to train the network again")
    assert "test" not in read_json(result)
    assert (run.folder / "comparison.json").read_bytes() == before


@pytest.mark.parametrize(
    "damage", [cut, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"x" * 99)]
)
def test_weights_that_cannot_be_loaded_are_refused(run: Run, damage: Callable[[Path], object]) -> None:
    found = run.results()[0]
    folder = folder_of(run, found)
    weights = folder / "weights.safetensors"
    damage(weights)
    edit(folder / "result.json", "test", weights=asdict(digest_of_file(weights)))
    with pytest.raises(RunFolderError, match=r"weights\.safetensors cannot be loaded \("):
        execute(run, ("test",))


def test_result_says_what_its_weights_are(run: Run) -> None:
    for result in run.results():
        data = (folder_of(run, result) / "weights.safetensors").read_bytes()
        assert result["weights"] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


WRONG_RESULTS: dict[str, Any] = {
    "empty": {},
    "list": [1],
    "number": 3,
    "role": {"role": "winner"},
    "id": {"id": "../../x"},
    "id of another": {"id": "00000000-seed0"},
    "seed": {"seed": 1},
    "seed as a text": {"seed": "0"},
    "no architecture": {"architecture": None},
    "architecture": {"architecture": {"space": {}, "choices": []}},
    "parameters": {"parameters": None},
    "best_epoch": {"best_epoch": None},
    "seconds": {"seconds": "long"},
    "weights": {"weights": {"sha256": 1}},
    "test": {"test": [1]},
    "no test": {"test": None},
    "diverged without a reason": {"diverged": None},
    "valid_loss": {"valid_loss": "0.1"},
}


@pytest.mark.parametrize("change", WRONG_RESULTS.values(), ids=WRONG_RESULTS.keys())
@pytest.mark.parametrize("part", ["derive", "retrain"])
def test_result_that_is_none_is_refused_and_nothing_is_picked_by_it(run: Run, part: str, change: Any) -> None:
    found = run.results()[0]
    if part == "derive":
        (run.folder / "architecture.json").unlink()
        place = sorted((run.folder / "derive").iterdir())[0]
    else:
        place = folder_of(run, found)
    path = place / "result.json"
    write_json(path, {**read_json(path), **change} if isinstance(change, dict) and change else change)
    before = stamps(run.folder)
    with pytest.raises(RunFolderError) as caught:
        execute(run, ("derive", "retrain", "test"))
    assert str(path) in str(caught.value)
    assert f"Delete {path.parent} to train the network again" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert stamps(run.folder) == before
    assert sorted(path.name for path in run.folder.parent.iterdir()) == ["run"]


def test_shortlisted_network_without_a_loss_is_refused(run: Run) -> None:
    (run.folder / "architecture.json").unlink()
    path = sorted((run.folder / "derive").glob("*/result.json"))[0]
    edit(path, "valid_loss")
    with pytest.raises(RunFolderError, match=r"has no valid_loss"):
        execute(run, ("derive",))
    assert not (run.folder / "architecture.json").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1])),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_text(path.read_text().replace("[0, ", "[1, ", 1)),
        Path.unlink,
    ],
)
def test_archive_that_is_not_what_the_search_left_is_refused(
    run: Run, damage: Callable[[Path], object]
) -> None:
    (run.folder / "architecture.json").unlink()
    path = run.folder / "archive.jsonl"
    before = path.read_bytes()
    damage(path)
    assert not path.exists() or path.read_bytes() != before
    with pytest.raises(RunFolderError, match=r"archive\.jsonl (has changed since the search|is missing)"):
        execute(run, ("derive",))
    assert not (run.folder / "architecture.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": [9, 0, 0, 0, 0]}, "the choices of record 2 are not in the recurrent space"),
        ({"choices": [0]}, "the choices of record 2 are not in the recurrent space"),
        ({"choices": [-1, 0, 0, 0, 0]}, "the choices of record 2 are not in the recurrent space"),
        ({"choices": [10**30, 0, 0, 0, 0]}, "the choices of record 2 are not in the recurrent space"),
        ({"choices": "00000"}, "record 2: choices must be several values"),
        ({"choices": [0.5, 0, 0, 0, 0]}, "record 2: choices.0 must be a whole number"),
        ({"reward": None}, "record 2: reward must be a number"),
        ({"epoch": True}, "record 2: epoch must be a whole number"),
    ],
)
def test_archive_is_read_record_by_record(run: Run, change: dict[str, Any], message: str) -> None:
    (run.folder / "architecture.json").unlink()
    path = run.folder / "archive.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), **change})
    path.write_text("\n".join(lines) + "\n")
    edit(run.folder / "search.json", archive=asdict(digest_of_file(path)))
    with pytest.raises(RunFolderError) as caught:
        execute(run, ("derive",))
    assert f"{path}" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("environment.json", {}, r"environment\.json: data_hash is missing"),
        ("environment.json", [], r"environment\.json: it must be an object"),
        ("environment.json", {"data_hash": 1}, r"environment\.json: data_hash must be text"),
        ("search.json", {}, r"search\.json: steps is missing"),
        ("search.json", [1], r"search\.json: it must be an object"),
        ("derive.json", {"seconds": 1}, r"derive\.json: candidates is missing"),
        ("architecture.json", [], r"architecture\.json: an architecture needs"),
        ("architecture.json", {"space": {}}, r"architecture\.json: an architecture needs"),
    ],
)
def test_wrong_record_of_a_run_is_named(run: Run, name: str, value: Any, message: str) -> None:
    write_json(run.folder / name, value)
    result = sorted((run.folder / "retrain").glob("*/result.json"))[0]
    edit(result, "test")  # so that the data are needed
    with pytest.raises(RunFolderError, match=message):
        execute(run, ALL_STAGES)


@pytest.mark.parametrize("stages", [1.5, "search", [["search"]], [1], {"search": 1}, "x" * 10_000])
def test_stages_are_a_list_of_names(run: Run, stages: Any) -> None:
    edit(run.folder / "config.json", stages=stages)
    with pytest.raises(RunFolderError, match="'stages' must name some of") as caught:
        Run.open(run.folder)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "record", [[1], 1, None, "a", {"kind": ["recurrent"]}, {"kind": "recurrent", "settings": []}]
)
def test_config_that_is_none_is_one_line(run: Run, record: Any) -> None:
    write_json(run.folder / "config.json", record)
    with pytest.raises(RunFolderError, match=r"config\.json: (it|kind|settings) must be "):
        Run.open(run.folder)


def test_architecture_of_another_space_is_refused(run: Run) -> None:
    write_json(run.folder / "architecture.json", RecurrentSpace(1).architecture([0]).to_json())
    with pytest.raises(RunFolderError, match=r"architecture\.json is of another space than config\.json"):
        execute(run, ("retrain",))


def saved_again(store: CheckpointStore, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the state in the newest checkpoint, which stays whole."""
    newest = store.load_newest()
    assert newest is not None
    change(newest[1])
    store.save(*newest)


SEARCH_KEYS = ("place", "weights", "controller", "explorer", "watcher", "metrics", "verifier", "archive")


@pytest.mark.parametrize("key", SEARCH_KEYS)
def test_checkpoint_of_a_search_without_a_key_is_named(run: Run, key: str) -> None:
    store = run.search_checkpoints()
    saved_again(store, lambda state: state.pop(key))
    (run.folder / "architecture.json").unlink()
    (run.folder / "search.json").unlink()
    with pytest.raises(
        RunFolderError, match=rf"step-00000024\.pt does not hold what this run saves \(.*{key} is missing"
    ):
        execute(run, ("search",))
    with pytest.raises(RunFolderError, match=r"step-00000024\.pt does not hold what this run saves"):
        execute(run, ("derive",))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["weights"].pop("model"),
        lambda state: state["weights"].update(model=3),
        lambda state: state["weights"]["model"].pop("embedding.weight"),
        lambda state: state["controller"].pop("policy"),
    ],
)
def test_checkpoint_whose_parts_do_not_fit_is_refused_in_one_line(
    run: Run, change: Callable[[dict[str, Any]], object]
) -> None:
    saved_again(run.search_checkpoints(), change)
    (run.folder / "architecture.json").unlink()
    with pytest.raises(RunFolderError) as caught:
        execute(run, ("derive",))
    assert "\n" not in str(caught.value)


def test_checkpoint_of_a_training_without_a_key_is_named(run: Run) -> None:
    folder = folder_of(run, run.results()[0])
    (folder / "result.json").unlink()
    store = CheckpointStore(folder / "checkpoints", 2)
    saved_again(store, lambda state: state["training"]["trainer"].pop("optimizer"))
    with pytest.raises(RunFolderError, match=r"step-\d+\.pt does not hold what this run saves"):
        execute(run, ("retrain",))


# ---- settings that were changed ----------------------------------------------------------------------------------------


def test_every_setting_belongs_to_something_or_is_free() -> None:
    of_no_network = {"retrain.random", "retrain.lstm"}  # they say which networks there are
    for name in RECIPES:
        record = config_to_json(recipe(name))
        known = {"kind", *flat(record["settings"])}
        needed = {key for work in NEEDED for key in settings_for(work, recipe(name))}
        assert needed.isdisjoint(FREE)
        assert known - needed - set(FREE) <= of_no_network
        assert json.loads(json.dumps(settings_for("search", recipe(name)))) == settings_for(
            "search", recipe(name)
        )


def with_settings(run: Run, *more: str) -> Run:
    """The run with other settings in config.json."""
    text = Path(run.config.data.source)
    edit(run.folder / "config.json", **config_to_json(tiny.config(text, *more)))
    return Run.open(run.folder)


@pytest.mark.parametrize(
    ("flag", "value", "name", "then", "now"),
    [
        ("--shared.hidden", "16", "shared.hidden", "8", "16"),
        ("--search.epochs", "1", "search.epochs", "2", "1"),
        ("--search.epochs", "3", "search.epochs", "2", "3"),
        ("--seed", "7", "seed", "0", "7"),
        ("--shared.training.windows.batch", "2", "shared.training.windows.batch", "4", "2"),
        ("--space.nodes", "4", "space.nodes", "3", "4"),
        ("--precision", "bf16", "precision", "'fp32'", "'bf16'"),
    ],
)
@pytest.mark.parametrize("removed", ["", "search.json", "architecture.json"])
def test_setting_that_was_edited_after_the_search_is_named(
    run: Run, flag: str, value: str, name: str, then: str, now: str, removed: str
) -> None:
    if removed:
        (run.folder / removed).unlink()
    if removed == "search.json":
        (run.folder / "architecture.json").unlink()
    edited = with_settings(run, flag, value)
    for stages in (("search",), ALL_STAGES):
        with pytest.raises(RunFolderError) as caught:
            execute(edited, stages)
        assert f"{name} is {now} in config.json, but {run.folder}/checkpoints" in str(caught.value)
        assert f"was made with {then}: put {then} back, or " in str(caught.value)


def test_other_controller_is_named_before_its_settings(run: Run) -> None:
    config = replace(run.config, controller=named_controllers(run.config.searched_space().name)["lstm"])
    edit(run.folder / "config.json", **config_to_json(config))
    with pytest.raises(
        RunFolderError, match=r"controller\.kind is 'lstm' in config\.json, but .* 'independent'"
    ):
        execute(Run.open(run.folder), ("search",))


@pytest.mark.parametrize("ended", [True, False])
def test_setting_that_was_edited_after_a_training_is_named(run: Run, ended: bool) -> None:
    found = run.results()[0]
    if not ended:
        for result in run.results():
            (folder_of(run, result) / "result.json").unlink()
    edited = with_settings(run, "--retrain.child.epochs", "1")
    execute(edited, ("search", "derive"))  # these do not depend on it
    with pytest.raises(RunFolderError) as caught:
        execute(edited, ("retrain",))
    assert f"retrain.child.epochs is 1 in config.json, but {folder_of(run, found)}" in str(caught.value)
    assert "was made with 2: put 2 back, or " in str(caught.value)


def test_rule_that_was_edited_after_a_pick_is_named(run: Run) -> None:
    edited = with_settings(run, "--derive.rule", "mode")
    with pytest.raises(
        RunFolderError, match=r"derive\.rule is 'mode' in config\.json, but .*delete architecture\.json"
    ):
        execute(edited, ("derive",))
    (run.folder / "architecture.json").unlink()
    execute(edited, ("derive",))
    assert edited.derive_record() is not None


def test_length_of_the_shortlists_trainings_may_not_change_between_them(run: Run) -> None:
    (run.folder / "architecture.json").unlink()
    edited = with_settings(run, "--derive.shortlist-epochs", "2")
    with pytest.raises(
        RunFolderError, match=r"retrain\.child\.epochs is 2 in config\.json, but .*derive.* was made with 1"
    ):
        execute(edited, ("derive",))


def test_free_settings_may_change_and_the_rest_goes_on(run: Run, tmp_path: Path) -> None:
    moved = shutil.copytree(run.config.data.source, tmp_path / "moved")
    free = ("--search.checkpoint-every", "3", "--search.keep-checkpoints", "4", "--search.log-every", "2")
    more = (
        "--retrain.checkpoint-every",
        "2",
        "--threads",
        "1",
        "--device",
        "cpu",
        "--search.percentile-every",
        "1",
    )
    edited = with_settings(run, "--data.source", str(moved), *free, *more)
    for path in (
        run.folder / "search.json",
        run.folder / "architecture.json",
        folder_of(run, run.results()[0]) / "result.json",
    ):
        path.unlink()
    before = run.search_checkpoints().steps()
    execute(edited, ALL_STAGES)
    assert edited.search_checkpoints().steps() == before
    assert edited.results() == Run.open(run.folder).results()


def test_other_versions_since_the_start_are_said_once(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    edit(run.folder / "environment.json", torch="1.0", enas="0.0")
    assert run.data is run.data
    said = [line for line in capsys.readouterr().err.splitlines() if "was begun with" in line]
    assert len(said) == 1
    assert f"enas 0.0, now {environment()['enas']}" in said[0]
    assert f"torch 1.0, now {torch.__version__}" in said[0]
    assert Run.open(run.folder).data is not None


def test_same_versions_are_not_spoken_of(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.data.hash == read_json(run.folder / "environment.json")["data_hash"]
    assert capsys.readouterr().err == ""


def test_environment_that_was_deleted_is_written_again_with_a_word(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_json(run.folder / "environment.json")["data_hash"]
    (run.folder / "environment.json").unlink()
    assert run.data.hash == before
    assert "environment.json is missing and written again" in capsys.readouterr().err
    assert read_json(run.folder / "environment.json")["data_hash"] == before


# ---- which networks are results ----------------------------------------------------------------------------------------


def test_only_networks_of_the_present_architecture_are_results(run: Run) -> None:
    before = run.results()
    _, lstm, other = before
    found = run.architecture()
    picked = next(
        a for a in found.space.enumerate() if a not in (found, architecture_from_json(other["architecture"]))
    )
    write_json(run.folder / "architecture.json", picked.to_json())
    assert run.results() == [lstm, other]
    execute(run, ("retrain", "test"))
    results = read_json(run.folder / "comparison.json")
    assert [(result["role"], result["id"]) for result in results] == [
        ("found", f"{picked.id}-seed0"),
        ("lstm", lstm["id"]),
        ("random", other["id"]),
    ]
    assert "of the 2 others" in summary(run)


def test_network_that_is_now_found_is_no_random_one(run: Run) -> None:
    _, lstm, other = run.results()
    write_json(run.folder / "architecture.json", other["architecture"])
    results = run.results()
    assert [(result["role"], result["id"]) for result in results[:2]] == [
        ("found", other["id"]),
        ("lstm", lstm["id"]),
    ]
    assert all(result["id"] != other["id"] for result in results[1:])


def test_without_an_architecture_there_are_no_results(run: Run) -> None:
    (run.folder / "architecture.json").unlink()
    assert run.results() == []


# ---- a folder that goes away -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["folder", "config.json"])
@pytest.mark.parametrize("stage", ["search", "retrain"])
def test_run_that_is_deleted_while_it_works_stops_and_is_not_made_again(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: StageName, gone: str
) -> None:
    folder = tmp_path / "run"
    run = Run.create(folder, tiny.config(text, "--derive.rule", "mode"), ALL_STAGES)
    if stage == "retrain":
        execute(run, ("search", "derive"))
    left: list[list[Path]] = []

    def delete() -> None:
        if gone == "folder":
            shutil.rmtree(folder)
        else:
            (folder / gone).unlink()
        left.append(sorted(folder.rglob("*")))

    child_step, search_step = ChildTraining.step, Search.step

    def step(self: ChildTraining) -> dict[str, float]:
        if self.done == 5:
            delete()
        return child_step(self)

    def searching(self: Search, *place: Any) -> dict[str, float]:
        if place[-1] == 7:
            delete()
        return search_step(self, *place)

    monkeypatch.setattr(ChildTraining, "step", step)
    if stage == "search":
        monkeypatch.setattr(Search, "step", searching)
    with pytest.raises(RunFolderError, match="deleted or moved while this ran"):
        execute(run, ALL_STAGES)
    assert len(left) == 1
    assert sorted(folder.rglob("*")) == left[0]
    assert folder.exists() == (gone != "folder")


def test_stages_of_a_run_without_its_config_do_not_begin(run: Run) -> None:
    (run.folder / "config.json").unlink()
    before = stamps(run.folder)
    with pytest.raises(RunFolderError, match=r"config\.json is gone"):
        execute(run, ("test",))
    assert stamps(run.folder) == before


# ---- what a killed process leaves --------------------------------------------------------------------------------------


def test_what_a_killed_process_left_is_cleared_under_the_lock(run: Run) -> None:
    folder = folder_of(run, run.results()[0])
    parts = [folder / ".weights.safetensors.77.part", run.folder / ".search.json.77.part"]
    for path in parts:
        path.write_bytes(b"half")
    kept = stamps(run.folder).keys() - {str(path.relative_to(run.folder)) for path in parts}
    with run_lock(run.folder):
        assert not any(path.exists() for path in parts)
    assert kept <= stamps(run.folder).keys()


def test_checkpoint_that_pruning_did_not_reach_is_deleted(run: Run) -> None:
    folder = folder_of(run, run.results()[0])
    (folder / "result.json").unlink()
    (run.folder / "search.json").unlink()
    (run.folder / "architecture.json").unlink()
    for checkpoints in (folder / "checkpoints", run.folder / "checkpoints"):
        newest = sorted(checkpoints.iterdir())[-1]
        shutil.copyfile(newest, checkpoints / "step-00000001.pt")
    execute(run, ALL_STAGES)
    for checkpoints in (folder / "checkpoints", run.folder / "checkpoints"):
        steps = CheckpointStore(checkpoints).steps()
        assert len(steps) == 2
        assert 1 not in steps
