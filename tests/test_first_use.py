"""What a first user of a network of their own meets: mistakes are one line, and commands say what is next."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from torch.nn import functional as F

import enas
from enas import NetworkConfig, Task
from enas.api import changed
from enas.cli import main
from enas.config import Metric
from enas.errors import ConfigError, RunFolderError
from enas.executors.work import train_in
from enas.recipes import recipe
from enas.recipes.files import forget, module_of
from enas.report.summary import table
from enas.retrain import Network, random_architectures
from enas.run import Run
from enas.runtime.files import read_jsonl
from enas.runtime.lock import run_lock
from enas.runtime.stop import StopRequest
from enas.runtime.whose import of_the_user
from enas.trainings import Job
from tests import own_network, tiny
from tests.own_network import FLAGS

FILE = Path(own_network.__file__).read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that one is in."""
    monkeypatch.chdir(tmp_path)
    forget()
    return tmp_path


def mine(*changes: tuple[str, str]) -> None:
    """Write mine.py, the tiny network with some of its text changed."""
    text = FILE
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    Path("mine.py").write_text(text, encoding="utf-8")


def complaint(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line of an error of a command that says other things before."""
    capsys.readouterr()
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = (line for line in said.splitlines() if line.startswith("enas: "))
    return line.removeprefix("enas: ")


# ---- whose code failed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["show", "run"])
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "loss=loss",
            "loss=F.cross_entropy",
            r"TypeError: cross_entropy_loss\(\): .* \(the loss is called as loss\(output, batch\), with the whole batch: "
            r"\(Tensor, Tensor\)\)",
        ),
        (
            "score=score",
            "score=F.cross_entropy",
            r"TypeError: .*the score is called as score\(output, batch\)",
        ),
        (
            "loss=loss",
            "loss=beside.loss",
            r"\S+beside\.py, line 3: TypeError: .*called as loss\(output, batch\)",
        ),
        ("nn.Linear(64, 8)", "nn.Linear(63, 8)", r"\S+mine\.py, line \d+: RuntimeError: mat1 and mat2"),
        ("batch=10, ", "", r"train is tuple of single examples: say with batch= how many make a step"),
        (
            "nn.Identity()})\n        inner",
            "nn.Linear(8, 7)})\n        inner",
            r"\S+mine\.py, line \d+: ConfigError: mix, option 'idle', gives the shape",
        ),
        (
            "self.mix(x), x",
            "self.mix(self.mix(x)), x",
            r"\S+mine\.py, line \d+: ConfigError: mix was called twice in one pass",
        ),
    ],
)
def test_show_and_run_refuse_the_same_mistakes_in_the_same_words(
    command: str, old: str, new: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("beside.py").write_text(
        "from torch.nn import functional as F\ndef loss(output, batch):\n    return F.cross_entropy(output, batch)\n"
    )
    mine((old, new), ("from enas import", "import beside\nfrom enas import"))
    assert re.match(says, complaint(capsys, command, "mine.py", *(FLAGS if command == "run" else [])))


BROKEN = """
calls = 0

def fails(output):
    global calls
    calls += 1
    if calls > {after} and Path("broken").exists():
        {what}

"""


def failing_later(what: str, measure: str, after: int) -> None:
    """mine.py, in which the loss or the score does something else after so many calls, while there is a file `broken`."""
    mine(
        ("import torch\n", "from pathlib import Path\nimport torch\n"),
        (f"def {measure}(", BROKEN.format(after=after, what=what) + f"def {measure}("),
        {
            "loss": ("return F.cross_entropy(", "fails(output)\n    return F.cross_entropy("),
            "score": ("return (output.argmax", "fails(output)\n    return (output.argmax"),
        }[measure],
    )
    Path("broken").touch()


@pytest.mark.parametrize(
    ("measure", "after", "place"),
    [
        ("loss", 20, r"in epoch \d, weights step \d, in the stage search"),
        ("score", 10, r"in epoch \d, controller step \d, in the stage search"),
        ("loss", 70, r"found \S+, in the stage test"),
    ],
)
def test_an_error_of_the_users_later_on_shows_their_lines_and_loses_nothing(
    measure: str, after: int, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_later("{}[len(output)]", measure, after)
    assert main(["run", "mine.py", *FLAGS, "--run", "mended"]) == 2
    said = capsys.readouterr().err.splitlines()
    *frames, error, line = said[next(i for i, one in enumerate(said) if one.startswith("  File")) :]
    assert [one for one in frames if one.startswith("  File")] == [
        one for one in frames if "mine.py" in one and one.endswith((f"in {measure}", "in fails"))
    ]
    assert "{}[len(output)]" in [one.strip() for one in frames]
    assert error == "KeyError: 10"
    assert re.match(f"enas: your own code has failed with architecture mix=.*, {place}. What the last", line)
    assert line.endswith("and 'enas resume mended --changed-file-ok' goes on")
    Path("broken").unlink()
    assert main(["resume", "mended"]) == 0
    assert main(["run", "mine.py", *FLAGS, "--run", "whole"]) == 0
    assert tiny.content(Path("mended")) == tiny.content(Path("whole"))


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("nn.Linear(8, 10)\n", "nn.Linear(8, 12)\n", r"size mismatch for \S*head\.weight: .*"),
        ("nn.Linear(8, 10)\n", "nn.Sequential(nn.Linear(8, 10))\n", r"Missing key\(s\) .*head\.0\.weight.*"),
    ],
)
def test_a_network_of_other_weights_cannot_go_on_and_says_so(
    old: str, new: str, difference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_later("{}[len(output)]", "loss", 30)
    assert main(["run", "mine.py", *FLAGS, "--run", "with a space"]) == 2
    before = tiny.content(Path("with a space"))
    mine((old, new))
    go_on = "enas resume 'with a space' --changed-file-ok"
    said = complaint(capsys, "resume", "with a space")
    assert "mine.py changed since the run was begun: put back" in said
    assert said.endswith(f"go on with what is there now by {go_on!r}")
    said = complaint(capsys, *shlex.split(go_on)[1:])
    assert re.fullmatch(
        r"Checkpoint with a space\S+step-\d+\.pt does not hold what this run saves: it has other weights than the network "
        rf"as its code is now \({difference}\)\. Put the code back as it was, or begin a new run in another folder\.",
        said,
    )
    after = tiny.content(Path("with a space"))
    assert {name for name in before if before[name] != after.get(name)} <= {"config.json"}


def test_a_worker_tells_it_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    failing_later("{}[len(output)]", "loss", 10**9)
    run = Run.create(Path("run"), recipe("mine.py"), ("retrain",))
    (architecture,) = random_architectures(run.config.searched_space(), 1, 0, set())
    job = Job(run.folder, "many", Network("random", architecture, 0))
    job.put()
    module_of(Path("mine.py").absolute())[0].calls = 10**9
    answer = train_in(job.folder, "local", StopRequest())
    assert answer.kind == "failed"
    complaint = answer.error().complaint
    *frames, error, line = complaint.splitlines()
    assert frames[-2 if "^" in frames[-1] else -1].strip() == "{}[len(output)]"
    assert error == "KeyError: 10"
    assert line.startswith(
        f"enas: your own code has failed with architecture {architecture}, random {architecture.id}"
    )
    assert "src/enas" not in complaint


def test_an_error_of_this_package_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is met while the user's code is tried, and in the middle of a run."""
    mine()
    assert main(["search", "mine.py", *FLAGS]) == 0

    def broken(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("enas.tasks.batches.scalar", broken)
    for command in (["show", "mine.py"], ["search", "mine.py", *FLAGS], ["derive", "runs/mine"]):
        with pytest.raises(KeyError, match="ours"):
            main(command)


def test_what_is_installed_below_the_folder_of_a_file_is_not_the_users(folder: Path) -> None:
    assert of_the_user(str(folder / "beside.py"), folder)
    assert of_the_user(str(folder / "parts" / "beside.py"), folder)
    assert not of_the_user(str(folder.parent / "beside.py"), folder)
    assert not of_the_user(str(folder / ".venv/lib/python3.12/site-packages/torch/nn.py"), folder)
    installed = folder / "site-packages" / "theirs"
    assert of_the_user(str(installed / "mine.py"), installed)  # a recipe of a package that is installed
    package = Path(own_network.__file__).parents[1] / "src" / "enas" / "run.py"
    assert not of_the_user(str(package), package.parents[2])


# ---- a run that was stopped, or never began ----------------------------------------------------------------------------


def test_a_run_that_waits_is_named_before_another_begins(capsys: pytest.CaptureFixture[str]) -> None:
    mine()
    waiting = (
        "runs/mine is not finished, and 'enas resume runs/mine' goes on with it; this begins runs/mine-2"
    )
    Run.create(Path("runs/mine"), recipe("mine.py"), ("search",))
    with run_lock("runs/mine"):  # as whoever is at work on it
        assert main(["search", "mine.py", *FLAGS]) == 0
    assert waiting not in capsys.readouterr().err
    shutil.rmtree("runs/mine-2")
    assert main(["search", "mine.py", *FLAGS]) == 0
    assert waiting in capsys.readouterr().err.splitlines()
    assert main(["search", "mine.py", *FLAGS]) == 0  # after mine-2, which is finished
    said = capsys.readouterr().err.splitlines()
    assert "run folder: runs/mine-3" in said
    assert not [line for line in said if "is not finished" in line]


def test_a_start_that_fails_leaves_no_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine(("loss=loss", "loss=F.cross_entropy"))
    kept = folder / "kept"
    kept.mkdir()
    for given in ([], ["--run", "own"], ["--run", str(kept)]):
        complaint(capsys, "run", "mine.py", *given)
    with pytest.raises(TypeError, match="cross_entropy_loss"):
        enas.search(own_network.Net, replace(own_network.task(), loss=F.cross_entropy), run="python")
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == [
        "kept",
        "mine.py",
        "runs",
    ]
    assert not list((folder / "runs").iterdir())


def test_only_a_new_run_is_offered_another_folder(capsys: pytest.CaptureFixture[str]) -> None:
    mine()
    Run.create(Path("begun"), recipe("mine.py"), ("search",))
    in_use = f"begun is in use by process {os.getpid()} on {socket.gethostname()}. Wait for it, or stop it."
    with run_lock("begun"):
        assert complaint(capsys, "resume", "begun") == in_use
        assert (
            complaint(capsys, "run", "mine.py", "--run", "begun")
            == f"{in_use} Or choose another folder with --run."
        )


@pytest.mark.parametrize("command", ["resume", "compare", "rank"])
def test_a_file_given_for_its_run_is_told_the_folder(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine()
    assert complaint(capsys, command, "mine.py") == (
        "mine.py is not a run folder: it is a file. Give the folder of a run of it, such as runs/mine"
    )
    assert "gone.py is not a run folder: it has no config.json" in complaint(capsys, command, "gone.py")


def test_show_of_a_folder_that_there_is_not_says_so_first(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "runs" / "fashion").mkdir(parents=True)
    for given, says in (
        ("runs/fashon", "there is no folder 'runs/fashon'; did you mean 'runs/fashion'?"),
        ("runs/other", "there is no folder 'runs/other'; check the path"),
        ("nowhere/fashion", "there is no folder 'nowhere/fashion'; check the path"),
    ):
        assert complaint(capsys, "show", given) == says


@pytest.mark.parametrize(
    "command",
    ["resume", "derive", "retrain", "test", "report", "export", "compare", "rank", "gate scores.txt"],
)
def test_a_folder_that_is_no_run_is_told_the_nearest_one(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "runs" / "fashion").mkdir(parents=True)
    (folder / "scores.txt").write_text("1\n2\n")
    for given in ("runs/fashon", "fashion"):
        assert "; did you mean 'runs/fashion'?" in complaint(capsys, *command.split(), given)
    assert "; check the path" in complaint(capsys, *command.split(), "runs/other")


def test_a_network_that_is_loaded_of_no_folder_is_told_the_nearest_one(folder: Path) -> None:
    (folder / "runs" / "fashion").mkdir(parents=True)
    with pytest.raises(RunFolderError, match=r"nor a run; did you mean 'runs/fashion'\?$"):
        enas.load("runs/fashon")


# ---- what would be searched or compared wrongly ------------------------------------------------------------------------


@pytest.mark.parametrize("plain", ["[{}]", "{{0: {}}}"])
def test_a_choice_in_a_plain_list_beside_others_is_named(
    plain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain_head = plain.format("Choice({'one': nn.Linear(8, 10), 'two': nn.Linear(8, 10)})")
    mine(
        ("nn.Linear(8, 10)\n", f"nn.Identity()\n        self.plain = {plain_head}\n"),
        ("self.head(", "self.plain[0]("),
    )
    said = complaint(capsys, "show", "mine.py")
    assert re.match(r"\S+mine\.py, line \d+: ConfigError: a Choice of one, two was called outside", said)
    assert "it is in a Python list or dict (use nn.ModuleList or nn.ModuleDict)" in said


def test_a_loss_as_the_score_must_be_said_to_be_better_if_lower() -> None:
    given = vars(own_network.task())
    shared = {name: given[name] for name in ("train", "valid", "batch", "loss")}
    with pytest.raises(ConfigError, match=r"the score is the loss, .*: add higher_is_better=False"):
        Task(**shared, score=own_network.loss)
    assert not Task(**shared, score=own_network.loss, higher_is_better=False).higher_is_better


def test_settings_are_named_from_python_as_their_flags_are() -> None:
    config = NetworkConfig(network=own_network.Net, task=own_network.task)
    flags = {"derive.shortlist-epochs": 3, "retrain.child.recalibration-batches": 5}
    underlined = {"derive.shortlist_epochs": 3, "retrain.child.recalibration_batches": 5}
    assert changed(config, flags) == changed(config, underlined) != config
    with pytest.raises(ConfigError, match=r"there is no setting 'derive\.shortlst_epochs'"):
        changed(config, {"derive.shortlst-epochs": 3})


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("epoch", "epochs"),
        ("epoc", "epochs"),
        ("sed", "seed"),
        ("verify.training", "verify.trainings"),
        ("serch.epochs", "search.epochs"),
        ("proposal", "search.proposals"),
        ("controller.hiden", "controller.hidden"),
    ],
)
def test_a_setting_that_python_misspells_is_told_the_nearest(given: str, near: str) -> None:
    settings: dict[str, object] = {"controller": "lstm", given: 3}
    with pytest.raises(ConfigError, match=f"there is no setting '{given}': .*; did you mean '{near}'\\?$"):
        enas.search(own_network.Net, own_network.task, run="run", **settings)
    assert not Path("run").exists()


def test_of_equally_near_flags_that_of_the_search_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    mine()
    said = complaint(capsys, "run", "mine.py", "--epochs", "4")
    assert said.startswith("there is no flag --epochs; did you mean '--search.epochs'? ")


def test_an_option_of_compare_that_python_misspells_is_told_the_nearest() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^enas\.compare: there is no option 'seed'; did you mean 'seeds'\? There are seeds, ",
    ):
        enas.compare("run", seed=2)


# ---- what is said meanwhile --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainings", ["0", "4"])
def test_the_lines_of_a_run_name_what_is_trained_and_which_reward_it_is(
    trainings: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine()
    assert main(["search", "mine.py", *FLAGS, "--verify.trainings", trainings, "--verify.epochs", "1"]) == 0
    said = capsys.readouterr().err
    last = [line for line in said.splitlines() if line.startswith("search: ")][-1]
    assert "/" in last
    assert ("corrected_reward" in last) == (", reward" not in last) == (trainings == "4")
    assert ("verify candidate" in said) == (trainings == "4")
    assert "retrain" not in said
    shown = re.search(r"loss ([\d.]+)", last)
    assert shown is not None
    trained = [
        record["loss"]
        for record in read_jsonl(Path("runs/mine/metrics.jsonl"))
        if record["stage"] == "search/weights"
    ]
    assert float(shown[1]) > 0.5 * min(trained)  # of the weights, not of the policy, which is about 0


def test_a_comparison_says_a_line_at_the_start_and_the_end_of_a_search(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine()
    assert main(["search", "mine.py", *FLAGS]) == 0
    assert main(["derive", "runs/mine"]) == 0
    capsys.readouterr()
    small = ["--seeds", "2", "--samples", "2", "--epochs", "1", "--workers", "1", "--rivals", "none"]
    for again in (False, True):
        assert main(["compare", "runs/mine", *small]) == 0
        said = capsys.readouterr().err.splitlines()
        assert any("Budgets are in seconds of the processor" in line for line in said)
        found = Run.open(Path("runs/mine/compare/enas-seed1")).architecture()
        lines = ["compare: enas, seed 1", f"enas-seed1: {found}"]
        assert [line for line in said if line in lines] == ([] if again else lines)
        assert not [line for line in said if line.startswith(("search", "derive", "policy"))]


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["search", "--help"]])
def test_help_says_that_a_recipe_may_be_a_file(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert "a file of yours, as in 'enas run mine.py'" in " ".join(
        re.findall(r"[^\s│]+", capsys.readouterr().out)
    )


def test_the_table_says_of_which_epoch_its_scores_are() -> None:
    result = {"role": "found", "id": "a", "parameters": 3, "epochs": 9, "seconds": 1.0}
    assert "9 epochs each, one seed; scores are of the epoch with the best valid one:" in table(
        [{**result, "valid_score": 0.5}], Metric("score", False)
    )
    assert "9 epochs each, one seed:" in table(
        [result], Metric("score", False)
    )  # trained on the validation data too
