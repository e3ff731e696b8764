"""The command line: every mistake is one clear line and exit code 2; what is asked for is on standard output."""

import contextlib
import json
import math
import re
import shlex
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import enas
from enas import cli
from enas.cli import COMMANDS, main, parse
from enas.cli.flags import flag_names
from enas.cli.stages import take_free_folder
from enas.errors import ConfigError
from enas.recipes import CONTROLLERS, RECIPES, named_controllers, recipe
from enas.runtime.files import append_jsonl, read_json, read_jsonl, write_json
from enas.spaces import architecture_from_json
from enas.spaces.recurrent.space import RecurrentSpace
from tests import tiny
from tests.tiny import settings

AUTHORS_CELL = "0 2 0 3 0 3 2 2 3 3 1 0 5 2 3 3"  # 8 searched nodes, in the corrected code's numbers


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a command is refused with."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("enas: ")
    assert "Traceback" not in lines[0]
    return lines[0].removeprefix("enas: ")


def exit_code(*argv: str) -> Any:
    """What a process of this command would end with."""
    try:
        return main(argv)
    except SystemExit as stop:  # after help
        return stop.code


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert exit_code(*argv) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("runn recurrent-quick", "there is no command 'runn'; did you mean 'run'?"),
        ("run", "name a recipe: recurrent-quick, recurrent-default"),
        ("run --seed 1", "name a recipe"),
        ("run recurrent-quik", "there is no recipe 'recurrent-quik'; did you mean 'recurrent-quick'?"),
        ("run recurrent-quick --search.epoch 3", "no flag --search.epoch; did you mean '--search.epochs'?"),
        ("run recurrent-quick --searc.epochs=3", "no flag --searc.epochs; did you mean '--search.epochs'?"),
        ("run recurrent-quick --search.epochs", "--search.epochs needs a value"),
        (
            "run recurrent-quick --search.epochs many",
            "--search.epochs must be a whole number, not 'many'",
        ),
        ("run recurrent-quick --search.epochs 0", "--search.epochs must be at least 1, not 0"),
        ("run recurrent-quick --search.warmup 1.5", "--search.warmup must be at most 1, not 1.5"),
        (
            "run recurrent-quick --precision fp16",
            "--precision must be one of fp32, tf32, bf16, not 'fp16'",
        ),
        (
            "run recurrent-quick --cost.measure watts",
            "--cost.measure must be one of parameters, multiply_adds, activation_bytes, latency, not 'watts'; ",
        ),
        ("run recurrent-quick --space.functions tanh sine", "functions must be distinct names out of"),
        ("run recurrent-quick stray", "unexpected stray"),
        ("run recurrent-quick --controller lstmm", "did you mean 'lstm'? --controller is one of"),
        (
            "run recurrent-quick --controller",
            "--controller needs a value",
        ),
        ("run recurrent-quick --controller lstm --controller.hiden 3", "did you mean '--controller.hidden'?"),
        ("run recurrent-quick --architecture tanh", "there is no flag --architecture"),
        ("retrain recurrent-quick", "'enas retrain recurrent-quick' needs --architecture"),
        (
            "retrain recurrent-quick --space.nodes 2 --architecture 'tanh sine(1)'",
            "function sine is not in this space",
        ),
        ("retrain recurrent-quick --space.nodes 2 --architecture 'tanh tanh(7)'", "tanh(7)"),
        ("retrain recurrent-quick --space.nodes 2 --architecture '0 0'", "2 numbers given"),
        ("derive", "RUN is missing"),
        ("resume a b", "unexpected b"),
        ("resume nowhere", "nowhere is not a run folder: it has no config.json"),
        ("test .", ". is not a run folder: it has no config.json"),
        ("show", "RUN-OR-ARCHITECTURE is missing"),
        ("show 'tanh tanh(1) sine(2)'", "as an architecture: function sine is not in this space"),
        ("show '9 0 0'", "function number 9 is not in 0..3"),
        ("show missing.json", "missing.json is missing"),
        ("show tanh --sgv cell.svg", "no flag --sgv; did you mean '--svg'?"),
        ("doctor --jason", "there is no flag --jason; did you mean '--json'?"),
        ("recipes recurrent-quick", "unexpected recurrent-quick"),
        ("run recurrent-quick --data.source nowhere", "`source` is 'nowhere', neither a folder nor one of"),
        ("run recurrent-quick --device tpu", "Unknown device 'tpu'"),
        ("run recurrent-quick --threads 0", "--threads must be at least 1 or None, not 0"),
    ],
)
def test_mistakes_are_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], command: str, says: str
) -> None:
    assert says in refusal(capsys, *shlex.split(command))
    assert not list(Path().rglob("config.json"))


def test_bf16_where_it_is_slow_is_refused_before_there_is_a_run_unless_insisted_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enas.runtime.devices.slowness_of_bfloat16", lambda: 31.4)
    command = ["search", "recurrent-quick", *tiny.flags(tiny.write_text(Path("text")), "--precision", "bf16")]
    assert refusal(capsys, *command, "--device", "cpu") == (
        "--precision bf16 would be slow: this processor has no instructions for it; a product takes 31 times as long as in "
        "fp32. Use fp32, or insist with --allow-slow True."
    )
    assert not list(Path().rglob("config.json"))
    assert main([*command, "--allow-slow", "True", "--run", "slow"]) == 0
    assert json.loads(Path("slow/config.json").read_text())["settings"]["allow_slow"] is True


@pytest.mark.parametrize("columns", ["20", "60", "400"])
def test_refusals_are_one_line_on_a_terminal_of_any_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    line = refusal(capsys, "run", "recurrent-quick", "--search.epochs", "0")
    assert line == "--search.epochs must be at least 1, not 0; see 'enas run recurrent-quick --help'"


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("broken", ["missing", "empty"])
def test_missing_or_empty_text_is_refused_and_leaves_no_run(
    capsys: pytest.CaptureFixture[str], split: str, broken: str
) -> None:
    text = tiny.write_text(Path("text"))
    file = text / f"{split}.txt"
    file.unlink() if broken == "missing" else file.write_text("")
    line = refusal(capsys, "run", "recurrent-quick", *tiny.flags(text))
    assert f"{split}.txt" in line
    assert ("has no" if broken == "missing" else "has no words") in line
    assert not list(Path().rglob("config.json"))


def test_text_too_short_for_the_batch_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    text = tiny.write_text(Path("text"))
    assert main(["run", "recurrent-quick", *tiny.flags(text, "--shared.training.windows.batch", "200")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("enas: ")]
    assert len(lines) == 1
    assert "too few for 200 rows" in lines[0]


def test_folder_that_holds_a_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    text = tiny.write_text(Path("text"))
    folder = Path("here")
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    line = refusal(capsys, "run", "recurrent-quick", *tiny.flags(text), "--run", "here")
    assert "here already holds a run. Continue it with 'enas resume here'" in line
    assert (folder / "config.json").read_text() == "{}"


def test_run_folder_that_cannot_be_made_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    line = refusal(capsys, "run", "recurrent-quick", "--run", "file/run")
    assert "cannot make the folder file/run" in line


@pytest.mark.parametrize("written", ["", "[]", "{}", '{"kind": "recurrent"}'])
def test_damaged_config_is_refused(capsys: pytest.CaptureFixture[str], written: str) -> None:
    Path("run").mkdir()
    Path("run/config.json").write_text(written)
    assert "config.json" in refusal(capsys, "resume", "run")


# ---- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_without_flags_is_itself(name: str) -> None:
    assert settings(name, []) == recipe(name)


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("joined", [True, False])
def test_controller_is_replaced_by_name(controller: str, joined: bool) -> None:
    flag = [f"--controller={controller}"] if joined else ["--controller", controller]
    config = settings("recurrent-quick", [*flag, "--seed", "3"])
    default = recipe("recurrent-quick")
    assert config == replace(default, controller=named_controllers("recurrent")[controller], seed=3)


def test_flags_reach_every_depth() -> None:
    words = (
        "--run there --seed=4 --shared.training.sgd.learning_rate 2.5 --controller.reinforce.betas 0.5 0.6"
    )
    command: Any = parse(["run", "recurrent-default", *words.split()])
    config = command.settings
    assert (command.run, config.seed) == (Path("there"), 4)
    assert config.shared.training.sgd.learning_rate == 2.5
    assert config.controller.reinforce.betas == (0.5, 0.6)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_help_has_every_setting_with_its_meaning(capsys: pytest.CaptureFixture[str], controller: str) -> None:
    said = printed(capsys, "run", "recurrent-quick", "--controller", controller, "--help")
    offered = set(re.findall(r"^[│|\s]*(--[a-z][\w.-]*)", said, re.MULTILINE))
    default = recipe("recurrent-quick")
    config = replace(default, controller=named_controllers("recurrent")[controller])
    assert offered - {"--help", "--controller"} == {"--run", "--budget", *flag_names(config)}
    words = " ".join(said.replace("│", " ").replace("|", " ").split())
    assert "Every random number of the run follows from it." in words
    assert "Puts another controller in the place of the recipe's." in words


# ---- what is printed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_names_every_command(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    said = printed(capsys, *argv)
    for command in COMMANDS:
        assert re.search(rf"^. +• {command} +\w", said, re.MULTILINE), command


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(capsys, "recipes")
    for name, text in RECIPES.items():
        assert f"{name}\n{textwrap.indent(text, '  ')}" in said
        assert f"Command:  enas run {name}" in text
        assert "Expect:" in text
        assert "Source:" in text
    assert json.loads(printed(capsys, "recipes", "--json")) == RECIPES


def test_doctor_looks_at_everything(capsys: pytest.CaptureFixture[str]) -> None:
    checks = json.loads(printed(capsys, "doctor", "--json"))
    named = {check["name"]: check for check in checks}
    assert {"python", "torch", "memory", "disk", "embedded text", "accelerator", "pygraphviz"} <= set(named)
    assert all(check["ok"] for check in checks if check["needed"])
    plain = printed(capsys, "doctor").splitlines()
    assert len(plain) == len(checks)
    assert all(line.startswith(("ok  ", "none")) for line in plain)


def test_show_draws_a_published_string(capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(capsys, "show", AUTHORS_CELL)
    space = RecurrentSpace(8, input_function="tanh")
    architecture = space.parse(AUTHORS_CELL)
    assert str(architecture) in said.splitlines()
    assert f"one of {space.count():,} in its space" in said
    record = json.loads(printed(capsys, "show", AUTHORS_CELL, "--json"))
    assert architecture_from_json(record) == architecture


def test_show_reads_strings_json_and_run_folders_alike(capsys: pytest.CaptureFixture[str]) -> None:
    text = "tanh relu(1) identity(1) sigmoid(3)"
    drawn = printed(capsys, "show", text)
    Path("cell.json").write_text(printed(capsys, "show", text, "--json"))
    assert printed(capsys, "show", "cell.json") == drawn
    data = tiny.write_text(Path("text"))
    Path("run").mkdir()
    config = settings("recurrent-quick", [*tiny.flags(data), "--space.nodes", "4"])
    from enas.stages import Run, put_architecture

    Run.create(Path("run"), config, ("retrain", "test"))
    put_architecture(Path("run"), RecurrentSpace(4).parse(text))
    assert printed(capsys, "show", "run") == drawn


def test_show_takes_a_string_longer_than_any_file_name(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(["tanh", *[f"sigmoid({node})" for node in range(1, 40)]])
    assert text in printed(capsys, "show", text)


def test_show_counts_the_largest_spaces_in_powers_of_ten(capsys: pytest.CaptureFixture[str]) -> None:
    """Python refuses to write the number out: 6^170 · 2^(170·169/2)."""
    numbers = " ".join("0 " + "0 " * layer for layer in range(170))
    exponent = math.floor(170 * math.log10(6) + 170 * 169 / 2 * math.log10(2))
    said = printed(capsys, "show", f"macro: {numbers}")
    assert said.splitlines()[-1] == f"one of about 10^{exponent} in its space"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--svg", ""], "--svg: a path is empty"),
        (["--svg", "."], "--svg must be a file, not the folder '.'"),
        (["--png", "x.jpg"], "--png must be a path that ends in .png, not 'x.jpg'"),
        (["--png", "x.svg"], "--png must be a path that ends in .png, not 'x.svg'"),
        (["--svg", "x.png"], "--svg must be a path that ends in .svg, not 'x.png'"),
        (["--svg=~nosuchuser/x.svg"], "'~nosuchuser/x.svg': there is no such home folder"),
    ],
)
def test_show_refuses_files_that_are_not_for_its_drawing(
    capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert says in refusal(capsys, "show", "tanh relu(1)", *words)
    assert list(Path().iterdir()) == []


def test_home_folders_are_known_wherever_a_path_is_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path("home").absolute()
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    printed(capsys, "show", "tanh relu(1)", "--svg=~/cell.svg", "--png", "~/cell")
    assert {path.name for path in home.iterdir()} == {"cell.svg", "cell"}
    assert vars(parse(["run", "macro-quick", "--run=~/x"]))["run"] == home / "x"
    (home / "cell.json").write_text(printed(capsys, "show", "tanh relu(1)", "--json"))
    assert "relu(1)" in printed(capsys, "show", "~/cell.json")
    assert str(home / "x") in refusal(capsys, "resume", "~/x")
    assert str(home / "x") in refusal(capsys, "rank", "~/x")
    assert [path.name for path in Path().iterdir()] == ["home"]


@pytest.mark.parametrize(
    "command", ["run macro-quick --run ''", "resume ''", "show ''", "rank ''", "table build cells --run ''"]
)
def test_an_empty_path_is_not_the_folder_one_is_in(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert "a path is empty" in refusal(capsys, *shlex.split(command))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_about_itself(capsys: pytest.CaptureFixture[str], command: str) -> None:
    for flag in ("--help", "-h"):
        assert exit_code(command, flag) == 0
        said = capsys.readouterr()
        assert said.err == ""
        assert f"usage: enas {command} " in said.out


@pytest.mark.parametrize(
    "command",
    ["derive run --help", "resume run -h", "retrain run --help", "table show cells --help", "recipes --help"],
)
def test_help_is_given_after_other_words_too(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert printed(capsys, *command.split()).startswith(f"usage: enas {command.split()[0]} ")


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--version") == f"enas {enas.__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["x"],
        ["run", "x"],
        ["run", "macro-quick", "--x"],
        ["run", "macro-quick", "--controller", "x"],
        ["run", "macro-quick", "--search.epochs", "x"],
        ["run", "macro-quick", "--seed", "9"],
        ["run", "macro-quick", "--search.exploration", "x"],
        ["run", "macro-quick", "--data.valid", "x"],
        ["run", "macro-quick", "x"],
        ["run", "macro-quick", "--space.operations", "x"],
        ["retrain", "macro-quick", "--architecture", "x"],
        ["ablate", "macro-quick", "--variant", "x"],
        ["ablate", "macro-quick", "--variant", "no-warmup", "--seeds", "x"],
        ["run", "macro-quick", "--run", "x"],
        ["run", "macro-quick", "--device", "x"],
        ["ablate", "macro-quick", "--variant", "no-warmup", "--seeds", "9"],
        ["resume", "x"],
        ["rank", "x"],
        ["show", "x"],
        ["recipes", "x"],
        ["table", "show", "x"],
        ["benchmark", "x"],
        ["benchmark", "nas-bench-graph", "--controllers", "x"],
        ["compare", "r", "--rivals", "x"],
        ["table", "score", "cells", "--run", "r", "--methods", "x"],
    ],
    ids=" ".join,
)
def test_a_refusal_does_not_repeat_ten_thousand_characters(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    *before, last = words
    said = refusal(capsys, *before, last * 10_000)
    assert len(said) < 1000
    assert re.search("[0-9] (characters|digits)", said)


def test_bytes_that_are_no_text_pass_through_flags_and_records() -> None:
    """A path of an old disk may not be UTF-8; Python keeps its bytes as lone surrogates."""
    assert vars(parse(["run", "micro-quick", "--run", "caf\udce9"]))["run"] == Path("caf\udce9")
    write_json("record.json", {"path": "caf\udce9"})
    append_jsonl("log.jsonl", {"path": "caf\udce9"})
    assert read_json("record.json") == {"path": "caf\udce9"}
    assert read_jsonl("log.jsonl") == [{"path": "caf\udce9"}]


def test_a_complaint_has_a_bearable_length(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: list[str]) -> None:
        raise ConfigError("a" * 10_000)

    monkeypatch.setattr(cli, "parse", refuse)
    assert main(["show"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("enas: aaaa")
    assert said.endswith("(10,000 characters)\n")
    assert len(said) < 2100


def test_show_draws_into_files(capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, "show", AUTHORS_CELL, "--svg", "cell.svg", "--png", "cell.png")
    assert "<svg" in Path("cell.svg").read_text()
    assert Path("cell.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def take_free(held: contextlib.ExitStack) -> Path:
    return take_free_folder(held, Path("runs", "recurrent-quick"))


def test_default_folder_is_the_first_that_holds_no_run() -> None:
    for expected in ("recurrent-quick", "recurrent-quick-2", "recurrent-quick-3"):
        for _ in range(2):
            with contextlib.ExitStack() as held:
                assert take_free(held) == Path("runs", expected)
        Path("runs", expected).mkdir()
        Path("runs", expected, "config.json").write_text("{}")


def test_default_folders_of_runs_that_begin_together_are_different_ones() -> None:
    """Also before either has written its settings, which takes seconds."""
    with contextlib.ExitStack() as first:
        assert take_free(first) == Path("runs/recurrent-quick")
        with contextlib.ExitStack() as second:
            assert take_free(second) == Path("runs/recurrent-quick-2")
        with contextlib.ExitStack() as second:
            assert take_free(second) == Path("runs/recurrent-quick-2")
    with contextlib.ExitStack() as again:
        assert take_free(again) == Path("runs/recurrent-quick")


def test_retraining_a_given_architecture_runs_to_its_test_perplexity(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = tiny.write_text(Path("text"))
    cell = "tanh relu(1) identity(1)"
    said = printed(capsys, "retrain", "recurrent-quick", *tiny.flags(text), "--architecture", cell)
    assert cell in said
    assert "better than" in said
    assert sorted(path.name for path in Path("runs/recurrent-quick").iterdir() if path.suffix == ".json") == [
        "architecture.json",
        "comparison.json",
        "config.json",
        "environment.json",
    ]


def test_interruption_claims_no_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("enas.cli.parse", interrupted)
    assert main(["show", "tanh"]) == 130
    assert "is kept" not in capsys.readouterr().err
