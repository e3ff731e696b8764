"""Runs that are stopped, killed or refused at any moment, in processes of their own: nothing is lost, nothing differs."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import enas
from enas.runtime.checkpoint import CheckpointStore
from enas.runtime.files import read_jsonl
from enas.runtime.lock import run_lock
from tests import tiny

# Importing and loading compiled kernels takes seconds, so one process does it, with a run of its own, and every run is
# a fork of it. A fork can be told to send itself a
# signal at its n-th change of a file in a folder (opening to write, renaming, deleting). What happens between two
# such changes leaves no trace, so these are all the moments at which killing can make a difference.
SERVER = """
import json, os, resource, runpy, signal, sys
import enas.cli
assert enas.cli.main(sys.argv[1:]) == 0
print("READY", flush=True)

def watch(folder, moment, number):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        changes = event in ("os.rename", "os.remove") or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if changes and str(arguments[0]).startswith(folder):
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), number)
            if moment == 0:
                os.write(1, b".")
    sys.addaudithook(hook)

for line in sys.stdin:
    job = json.loads(line)
    pid = os.fork()
    if pid == 0:
        for descriptor, path in ((1, job["stdout"]), (2, job["stderr"])):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        if job["limit"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
        if job["signal"]:
            watch(job["folder"], job["moment"], job["signal"])
        sys.argv[1:] = job["argv"]
        try:
            runpy.run_module("enas", run_name="__main__")
        except SystemExit as stop:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(stop.code or 0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(99)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@contextlib.contextmanager
def served(command: Sequence[str], environment: Mapping[str, str]) -> "Iterator[subprocess.Popen[str]]":
    """A program that says READY and then reads jobs, until no more come."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline() not in ("READY\n", ""):
            pass
        yield process
        assert process.stdin is not None
        process.stdin.close()


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str


class Server:
    """Runs `enas` commands, one after the other, each in a new process."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self.process = process
        self.folder = folder

    def enas(
        self, *argv: object, folder: Path | None = None, moment: int = 0, number: int = 0, limit: int = 0
    ) -> Ended:
        """Run a command; send it signal `number` at the `moment`-th change of a file in `folder`, if given."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        stdout, stderr = self.folder / "stdout", self.folder / "stderr"
        job = {
            "argv": [str(word) for word in argv],
            "stdout": str(stdout),
            "stderr": str(stderr),
            "folder": str(folder),
            "moment": moment,
            "signal": int(number),
            "limit": limit,
        }
        print(json.dumps(job), file=self.process.stdin, flush=True)
        return Ended(int(self.process.stdout.readline()), stdout.read_text(), stderr.read_text())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    import enas

    source = str(Path(enas.__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source, "PYTHONWARNINGS": "error"}
    folder = tmp_path_factory.mktemp("server")
    first = begin(tiny.write_text(folder / "text"), folder / "run")
    command = [sys.executable, "-c", SERVER, *map(str, first)]
    with served(command, environment) as process:
        yield Server(process, folder)


class Whole(NamedTuple):
    text: Path
    folder: Path
    changes: int
    """How often it changed a file."""


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A run that nobody interrupted."""
    text = tiny.write_text(tmp_path_factory.mktemp("data") / "text")
    folder = tmp_path_factory.mktemp("whole") / "run"
    argv = ["run", "recurrent-quick", *tiny.flags(text), "--run", folder]
    ended = server.enas(*argv, folder=folder, number=signal.SIGKILL)
    assert ended.code == 0, ended.stderr
    return Whole(text, folder, ended.stdout.split("\n")[0].count("."))


def begin(text: Path, folder: Path, *more: str) -> list[object]:
    return ["run", "recurrent-quick", *tiny.flags(text, *more), "--run", folder]


def one_line(ended: Ended) -> str:
    """The complaint: the last line, after those of progress, and no traceback."""
    assert ended.code == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("enas: ")]
    assert len(lines) == 1
    assert ended.stderr.rstrip().endswith(lines[0])
    return lines[0]


def test_python_of_the_readme_works(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    program = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)[0]
    known = " ".join(
        enas.load(whole.folder).words[:3]
    )  # of a vocabulary that is smaller than that of the recipe
    assert '"for name in"' in program
    program = program.replace("for name in", known)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "recurrent-quick").symlink_to(whole.folder)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(program, names)
    words = names["model"].words
    assert capsys.readouterr().out.strip() in words
    assert names["logits_TBV"].shape == (3, 1, len(words))


def test_whole_run_has_every_result(whole: Whole) -> None:
    found = tiny.content(whole.folder)
    assert {
        "archive.jsonl",
        "metrics.jsonl",
        "candidates.json",
        "architecture.json",
        "comparison.json",
    } <= set(found)
    assert sum(name.endswith("weights.safetensors") for name in found) == 5  # 2 of the shortlist, 3 retrained
    assert [result["role"] for result in found["comparison.json"]] == ["found", "lstm", "random"]
    assert all(result["test"]["test_ppl"] > 1 for result in found["comparison.json"])


def test_same_command_twice_gives_the_same_bits(server: Server, whole: Whole, tmp_path: Path) -> None:
    assert server.enas(*begin(whole.text, tmp_path / "run")).code == 0
    assert tiny.content(tmp_path / "run") == tiny.content(whole.folder)


@pytest.mark.parametrize("index", range(10))
def test_killed_at_any_moment_and_resumed_equals_uninterrupted(
    server: Server, whole: Whole, tmp_path: Path, index: int
) -> None:
    # One moment in each tenth of the run, so that the ten are spread over all stages.
    tenth = (whole.changes - 20) / 10  # the first 20 changes come before there is a run to resume
    moment = 20 + int(random.Random(index).uniform(index, index + 1) * tenth)
    folder = tmp_path / "run"
    killed = server.enas(*begin(whole.text, folder), folder=folder, moment=moment, number=signal.SIGKILL)
    assert killed.code == -signal.SIGKILL
    resumed = server.enas("resume", folder)
    assert resumed.code == 0, resumed.stderr
    assert tiny.content(folder) == tiny.content(whole.folder)


def test_killed_again_and_again_equals_uninterrupted(server: Server, whole: Whole, tmp_path: Path) -> None:
    folder, rng, kills = tmp_path / "run", random.Random(1), 0
    command = begin(whole.text, folder)
    while (
        ended := server.enas(*command, folder=folder, moment=rng.randrange(30, 90), number=signal.SIGKILL)
    ).code:
        assert ended.code == -signal.SIGKILL, ended.stderr
        command, kills = ["resume", folder], kills + 1
        assert kills < 50
    assert kills >= 3
    assert tiny.content(folder) == tiny.content(whole.folder)


@pytest.mark.parametrize(
    ("number", "share"),
    [(signal.SIGTERM, 0.1), (signal.SIGINT, 0.3), (signal.SIGHUP, 0.55), (signal.SIGTERM, 0.8)],
)
def test_stopped_by_a_signal_saves_exits_75_and_resumes_exactly(
    server: Server, whole: Whole, tmp_path: Path, number: signal.Signals, share: float
) -> None:
    folder = tmp_path / "run"
    moment = int(share * whole.changes)
    stopped = server.enas(*begin(whole.text, folder), folder=folder, moment=moment, number=number)
    assert stopped.code == 75, stopped.stderr
    assert f"Stopped by {number.name} after saving. Continue with: enas resume {folder}" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    resumed = server.enas("resume", folder)
    assert resumed.code == 0, resumed.stderr
    assert tiny.content(folder) == tiny.content(whole.folder)


def test_resuming_a_finished_run_changes_no_file_but_what_sums_it_up(server: Server, whole: Whole) -> None:
    def stamps() -> dict[str, int]:
        kept = (path for path in whole.folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        return {
            str(path): path.stat().st_mtime_ns
            for path in kept
            if path.name not in ("comparison.json", "report.html")
        }

    before = stamps()
    ended = server.enas("resume", whole.folder)
    assert ended.code == 0
    assert stamps() == before


@pytest.mark.parametrize("stage", ["search", "retrain"])
def test_truncated_newest_checkpoint_is_named_and_the_one_before_used(
    server: Server, whole: Whole, tmp_path: Path, stage: str
) -> None:
    folder = tmp_path / "run"
    watched = folder / ("checkpoints" if stage == "search" else "retrain")
    moment = 8 if stage == "search" else 15
    assert (
        server.enas(*begin(whole.text, folder), folder=watched, moment=moment, number=signal.SIGTERM).code
        == 75
    )
    (checkpoints,) = [watched] if stage == "search" else watched.glob("*/checkpoints")
    store = CheckpointStore(checkpoints)
    assert len(store.steps()) == 2
    newest = store.path(store.steps()[-1])
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    resumed = server.enas("resume", folder)
    assert resumed.code == 0, resumed.stderr
    lines = [line for line in resumed.stderr.splitlines() if "is damaged" in line]
    assert len(lines) == 1
    assert str(newest) in lines[0]
    assert tiny.content(folder) == tiny.content(whole.folder)


def test_checkpoint_at_the_end_of_a_finished_search_may_be_damaged_too(
    server: Server, whole: Whole, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    argv = ["search", *begin(whole.text, folder)[1:]]
    assert server.enas(*argv).code == 0
    assert (folder / "search.json").exists()
    store = CheckpointStore(folder / "checkpoints")
    newest = store.path(store.steps()[-1])
    newest.write_bytes(newest.read_bytes()[:100])
    refused = server.enas("derive", folder)
    assert "enas resume" in one_line(refused)
    assert server.enas("resume", folder).code == 0
    assert server.enas("derive", folder).code == 0
    expected = tiny.content(whole.folder)
    found = tiny.content(folder)
    for name in ("archive.jsonl", "metrics.jsonl", "checkpoints", "candidates.json", "architecture.json"):
        assert found[name] == expected[name], name


def test_second_process_on_a_folder_is_refused(server: Server, whole: Whole, tmp_path: Path) -> None:
    with run_lock(whole.folder):
        line = one_line(server.enas("resume", whole.folder))
    assert f"{whole.folder} is in use by process {os.getpid()}" in line


@pytest.mark.parametrize("refused", ["checkpoint", "log"])
def test_limit_of_length_stops_in_one_line_and_loses_nothing(
    server: Server, whole: Whole, tmp_path: Path, refused: str
) -> None:
    """The system refuses files above a limit, much as on a full disk: the next checkpoint, or line of the logs."""
    folder = tmp_path / "run"
    first = server.enas(
        *begin(whole.text, folder), folder=folder, moment=whole.changes // 6, number=signal.SIGTERM
    )
    assert first.code == 75
    before = tiny.content(folder)
    files = [folder / "metrics.jsonl"] if refused == "log" else [*folder.glob("checkpoints/step-*.pt")]
    limit = max(path.stat().st_size for path in files) // (1 if refused == "log" else 2)
    line = one_line(server.enas("resume", folder, limit=limit))
    assert ("metrics.jsonl" if refused == "log" else "step-") in line
    assert "Cannot write" in line
    assert "Raise the limit" in line
    after = tiny.content(folder)
    assert after["checkpoints"] == before["checkpoints"]
    assert server.enas("resume", folder).code == 0
    assert tiny.content(folder) == tiny.content(whole.folder)


def test_loss_that_is_not_finite_stops_the_search_and_keeps_the_last_good_checkpoint(
    server: Server, whole: Whole, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    line = one_line(server.enas(*begin(whole.text, folder, "--shared.training.sgd.learning-rate", "1e30")))
    assert "search stopped in epoch 0, weights step" in line
    assert "tanh" in line or "relu" in line or "sigmoid" in line or "identity" in line
    assert "lower learning rate" in line
    assert CheckpointStore(folder / "checkpoints").load_newest() is not None


def test_loss_that_is_not_finite_stops_the_retraining_too(
    server: Server, whole: Whole, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    more = ["--derive.rule", "mode", "--retrain.child.training.sgd.learning-rate", "1e30"]
    line = one_line(server.enas(*begin(whole.text, folder, *more)))
    assert "retraining found" in line
    assert "stopped in step" in line
    assert "Lower the learning rate" in line
    assert (folder / "architecture.json").exists()
    assert read_jsonl(folder / "archive.jsonl")


def test_data_that_changed_since_the_start_are_refused(server: Server, tmp_path: Path) -> None:
    text = tiny.write_text(tmp_path / "text")
    folder = tmp_path / "run"
    assert server.enas(*begin(text, folder), folder=folder, moment=60, number=signal.SIGTERM).code == 75
    train = (text / "train.txt").read_text()
    (text / "train.txt").write_text(train.replace("cat", "dog", 1))
    line = one_line(server.enas("resume", folder))
    assert "the data have changed" in line
    (text / "train.txt").write_text(train)
    assert server.enas("resume", folder).code == 0
