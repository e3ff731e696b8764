"""Several processes of one run compute what one process computes, and end together."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from enas import cli, parallel
from enas.errors import ConfigError
from enas.runtime.checkpoint import CheckpointStore
from enas.runtime.files import read_json, read_jsonl
from enas.runtime.launch import started_as
from enas.runtime.lock import OWNER_FILE
from tests import own_network, tiny
from tests.test_resume import served

# Importing takes seconds, so one process does it, with runs of its own. Those of a run are forks of it, in whose environment
# is what torchrun puts there.
SERVER = """
import json, os, sys, traceback
import enas.cli

for argv in json.loads(sys.argv[1]):
    assert enas.cli.main(argv) == 0
print("READY", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    pids = []
    for rank in range(job["count"]):
        pids.append(os.fork())
        if pids[-1] == 0:
            for descriptor in (1, 2):
                path = f"{job['output']}/{rank}.{descriptor}"
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
            if job["count"] > 1:
                place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["count"], "LOCAL_WORLD_SIZE": job["count"]}
                place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": job["port"]}
                os.environ.update({name: str(value) for name, value in place.items()})
            code = 99
            try:
                exec(job["first"], {"rank": rank})
                code = enas.cli.main(job["argv"])
            except SystemExit as stop:
                code = stop.code or 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)
"""

AT_STEP = """
from enas import parallel
from enas.trainer import Trainer
parallel.POLL_SECONDS = 0.0
real, steps = Trainer.step, 0

def step(trainer, *arguments):
    global steps
    steps += 1
    if rank == {rank} and steps == {step}:
        {what}
    return real(trainer, *arguments)

Trainer.step = step
"""
"""Lets something happen in one of the processes, when it begins a step."""


def signalled(name: str, rank: int, step: int) -> str:
    """The process of this rank gets a signal."""
    what = f"import os, signal; os.kill(os.getpid(), signal.{name})"
    return AT_STEP.format(rank=rank, step=step, what=what)


@dataclass
class Ended:
    codes: list[int]
    out: list[str]
    err: list[str]

    def complaint(self) -> str:
        """The one line that any of the processes complains in."""
        assert not any("Traceback" in err for err in self.err)
        (line,) = [line for err in self.err for line in err.splitlines() if line.startswith("enas: ")]
        return line


@dataclass
class Server:
    """Runs `enas` commands in as many processes as are asked for."""

    process: "subprocess.Popen[str]"
    folder: Path

    def enas(self, count: int, *argv: object, first: str = "") -> Ended:
        """Run a command; each process first executes the code `first`, which knows its `rank`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        job = {
            "count": count,
            "argv": [str(word) for word in argv],
            "first": first,
            "output": str(self.folder),
        }
        print(json.dumps({**job, "port": free_port()}), file=self.process.stdin, flush=True)
        codes = json.loads(self.process.stdout.readline())
        out, err = ([(self.folder / f"{rank}.{of}").read_text() for rank in range(count)] for of in (1, 2))
        return Ended(codes, out, err)

    def whole(self, count: int, *argv: object) -> Ended:
        """Run a command that succeeds."""
        ended = self.enas(count, *argv)
        assert ended.codes == [0] * count, ended.err
        return ended


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


CONVOLUTIONAL = {
    space: ["search", f"{space}-quick", *tiny.image_flags(space, "--search.samples", "2")]
    for space in ("macro", "micro", "nasbench201")
}
OWN = [
    *("search", f"{own_network.__file__}:recipe"),
    *own_network.FLAGS,
    *("--search.samples", "2", "--verify.trainings", "5", "--verify.epochs", "1"),
]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_text(tmp_path_factory.mktemp("data") / "text")


@pytest.fixture(scope="module")
def server(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    source = Path(parallel.__file__).parents[1]
    places = os.pathsep.join(map(str, (source, Path(__file__).parents[1])))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ENAS_KERNELS": "off",
        "PYTHONPATH": places,
        "PYTHONWARNINGS": "error",
    }
    folder = tmp_path_factory.mktemp("server")
    runs = ([*argv, "--run", str(folder / argv[1])] for argv in (recurrent(text), CONVOLUTIONAL["macro"]))
    with served([sys.executable, "-c", SERVER, json.dumps(list(runs))], environment) as process:
        yield Server(process, folder)


def recurrent(text: Path, *more: str) -> list[str]:
    """A tiny run of two architectures a step, without norms: their moving averages are a process's own."""
    return [
        "run",
        "recurrent-quick",
        *tiny.flags(text, "--search.samples", "2", "--cell.norm", "none", *more),
    ]


@pytest.fixture(scope="module")
def one(server: Server, text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a whole run in one process leaves."""
    folder = tmp_path_factory.mktemp("one") / "run"
    server.whole(1, *recurrent(text), "--run", folder)
    return tiny.content(folder)


DROPS_NOTHING = [
    word
    for of in ("shared", "retrain.child")
    for rate in ("cell-input", "output")
    for word in (f"--{of}.training.regularisation.dropout.{rate}", "0")
]


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """The same files, bit for bit."""
    assert [name for name in expected if found.get(name) != expected[name]] == []
    assert found.keys() == expected.keys()


def weights(folder: Path) -> dict[str, Tensor]:
    """The shared weights at the end of a search, without what norms have averaged."""
    found = CheckpointStore(folder / "checkpoints").load_newest()
    assert found is not None
    model = found[1]["weights"]["model"]
    return {name: one for name, one in model.items() if "running_" not in name and "num_batches" not in name}


# ---- as one process ----------------------------------------------------------------------------------------------------


def test_two_processes_come_to_what_one_does_with_two_architectures_a_step(
    server: Server, text: Path, one: dict[str, Any], tmp_path: Path
) -> None:
    """Searches, a shortlist that is split over the processes, retrainings likewise, tests."""
    ended = server.whole(2, *recurrent(text), "--run", tmp_path / "run")
    same(tiny.content(tmp_path / "run"), one)
    assert "found" in ended.out[0]
    assert (ended.out[1], ended.err[1]) == ("", "")


@pytest.mark.parametrize("argv", [*CONVOLUTIONAL.values(), OWN], ids=[*CONVOLUTIONAL, "own"])
def test_so_they_do_for_networks_with_norms_and_choices(
    server: Server, argv: list[str], tmp_path: Path
) -> None:
    """With a verification whose trainings are split over the processes."""
    for count in (1, 2):
        server.whole(count, *argv, "--run", tmp_path / f"{count}")
    a, b = (weights(tmp_path / count) for count in ("1", "2"))
    assert tiny.plain(a) == tiny.plain(b)
    for name in ("archive.jsonl", "metrics.jsonl"):
        assert tiny.without_times(tmp_path / "1" / name) == tiny.without_times(tmp_path / "2" / name)


def test_norms_by_moving_averages_are_those_of_process_0(server: Server, tmp_path: Path) -> None:
    """And so two runs come to the same, with a stop between them or not."""
    argv = [*CONVOLUTIONAL["macro"], "--shared.reward.statistics", "moving"]
    server.whole(2, *argv, "--run", tmp_path / "whole")
    stopped = server.enas(2, *argv, "--run", tmp_path / "stopped", first=signalled("SIGTERM", 0, 3))
    assert stopped.codes == [75, 75], stopped.err
    server.whole(2, "resume", tmp_path / "stopped")
    same(tiny.content(tmp_path / "stopped"), tiny.content(tmp_path / "whole"))


def test_four_processes_differ_from_one_by_rounding(server: Server, text: Path, tmp_path: Path) -> None:
    argv = ["search", *recurrent(text, "--search.samples", "5", "--search.warmup", "1")[1:]]
    for count in (1, 4):
        server.whole(count, *argv, "--run", tmp_path / f"{count}")
    a, b = (weights(tmp_path / count) for count in ("1", "4"))
    for name, expected in a.items():
        torch.testing.assert_close(b[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3])
def test_the_same_path_on_parts_of_a_minibatch_has_the_gradient_of_the_whole(
    server: Server, text: Path, tmp_path: Path, count: int
) -> None:
    """Rows of text, which carry a state; with three processes one of them has two rows of four."""
    more = ["--search.samples", "1", "--search.same-path", "True", "--search.warmup", "1"]
    argv = ["search", *recurrent(text, *more, *DROPS_NOTHING)[1:]]
    for several in (1, count):
        server.whole(several, *argv, "--run", tmp_path / f"{several}")
    a, b = (weights(tmp_path / f"{several}") for several in (1, count))
    for name, expected in a.items():
        torch.testing.assert_close(b[name], expected, rtol=1e-4, atol=1e-6)
    a, b = (read_jsonl(tmp_path / f"{several}" / "metrics.jsonl") for several in (1, count))
    for then, now in zip(a, b, strict=True):
        assert now.keys() == then.keys()
        assert all(
            now[key] == pytest.approx(then[key], rel=1e-4) for key in now.keys() - {"stage", *tiny.TIMES}
        )


@pytest.mark.parametrize("kind", ["recurrent", "own"])
def test_one_network_is_trained_by_all_processes(
    server: Server, text: Path, tmp_path: Path, kind: str
) -> None:
    """On parts of each minibatch; after a stop too, by another number of processes."""
    if kind == "own":
        architecture = str(next(own_network.recipe().searched_space().enumerate()))
        argv = ["retrain", f"{own_network.__file__}:without_norms", *own_network.FLAGS]
    else:
        architecture = "identity tanh(1) identity(1)"
        alone = ["--retrain.lstm", "False", "--retrain.random", "0"]
        argv = ["retrain", *recurrent(text, *alone, *DROPS_NOTHING)[1:]]
    argv += ["--architecture", architecture]
    server.whole(1, *argv, "--run", tmp_path / "one")
    stopped = server.enas(2, *argv, "--run", tmp_path / "two", first=signalled("SIGTERM", 1, 9))
    assert stopped.codes == [75, 75], stopped.err
    server.whole(3, "resume", tmp_path / "two")
    (a, b) = (read_json(next((tmp_path / run).glob("retrain/*/result.json"))) for run in ("one", "two"))
    assert b["valid_loss"] == pytest.approx(a["valid_loss"], rel=1e-3)
    assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-3)


# ---- their end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
def test_killed_processes_end_the_others_and_any_number_goes_on(
    server: Server, text: Path, one: dict[str, Any], tmp_path: Path, rank: int
) -> None:
    argv = [*recurrent(text), "--run", tmp_path / "run"]
    ended = server.enas(2, *argv, first=signalled("SIGKILL", rank, 8))
    assert (ended.codes[rank], ended.codes[1 - rank]) == (-9, 2)
    assert "another process of this run has ended" in ended.complaint()
    server.whole(rank + 1, "resume", tmp_path / "run")
    same(tiny.content(tmp_path / "run"), one)


@pytest.mark.slow
def test_started_by_torchrun_and_killed_the_others_end_with_one_line(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        f"--master-port={free_port()}",
    ]
    argv = recurrent(text, "--search.epochs", "100000")
    environment = {**os.environ, "ENAS_KERNELS": "off"}
    started = [*command, "-m", "--", "enas", *argv, "--run", str(folder)]
    with subprocess.Popen(started, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("search: 1/"):
                break
        owner = read_json(folder / OWNER_FILE)["pid"]
        os.kill(owner, signal.SIGKILL)
        err = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    (said,) = [line for line in err.splitlines() if "another process of this run has ended" in line]
    assert said.startswith("enas: ")
    assert CheckpointStore(folder / "checkpoints").load_newest() is not None


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stop_of_any_process_stops_all_after_saving_once(
    server: Server, text: Path, one: dict[str, Any], tmp_path: Path, rank: int
) -> None:
    ended = server.enas(2, *recurrent(text), "--run", tmp_path / "run", first=signalled("SIGTERM", rank, 7))
    assert ended.codes == [75, 75]
    assert len(re.findall("Stopped by SIGTERM after saving", "".join(ended.err))) == 1
    assert CheckpointStore(tmp_path / "run" / "checkpoints").steps()[-1] in (7, 8)
    server.whole(2, "resume", tmp_path / "run")
    same(tiny.content(tmp_path / "run"), one)


def test_a_loss_that_is_not_finite_in_one_process_stops_all_with_its_architecture(
    server: Server, text: Path, tmp_path: Path
) -> None:
    argv = recurrent(text, "--shared.training.sgd.learning-rate", "1e30", "--shared.training.sgd.clip", "1e9")
    said = []
    for count in (1, 2):
        ended = server.enas(count, *argv, "--run", tmp_path / f"{count}")
        assert ended.codes == [2] * count
        said.append(ended.complaint())
    assert said[0] == said[1]
    assert "of architecture" in said[0]


def test_different_weights_are_an_error(server: Server, text: Path, tmp_path: Path) -> None:
    spoil = "next(trainer.model.parameters()).data.flatten()[0] += 1"
    ended = server.enas(
        2, *recurrent(text), "--run", tmp_path / "run", first=AT_STEP.format(rank=1, step=3, what=spoil)
    )
    assert ended.codes == [2, 2]
    assert "after epoch 1 the processes have different weights" in ended.complaint()


def test_an_error_of_one_process_is_said_by_it(server: Server, text: Path, tmp_path: Path) -> None:
    fails = "raise enas.errors.DataError('its disk has gone')"
    first = "import enas.errors\n" + AT_STEP.format(rank=1, step=3, what=fails)
    ended = server.enas(2, *recurrent(text), "--run", tmp_path / "run", first=first)
    assert ended.codes == [2, 2]
    assert ended.complaint() == "enas: its disk has gone"
    assert "its disk" in ended.err[1]


FAILS = """
calls = 0

def loss(output, batch):
    global calls
    calls += 1
    if os.environ.get("RANK") == "1" and calls == 9:
        raise {error}
    return F.cross_entropy(output, batch[1])
"""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            "torch.OutOfMemoryError('CUDA out of memory')",
            "enas: the networks and their minibatches do not fit",
        ),
        ("KeyError('planted')", "enas: your own code has failed with architecture mix="),
    ],
)
def test_what_goes_wrong_in_another_process_is_said_as_in_process_0(
    server: Server, tmp_path: Path, error: str, says: str
) -> None:
    """A loss of the user's that only process 1 fails to compute."""
    text = Path(own_network.__file__).read_text()
    before, _, after = text.partition("def loss(")
    own = f"import os\n{before}{FAILS.format(error=error)}\n\ndef score({after.partition('def score(')[2]}"
    (tmp_path / "mine.py").write_text(own.replace("from __future__ import annotations\n", ""))
    argv = ["search", tmp_path / "mine.py", *own_network.FLAGS, "--search.samples", "2"]
    ended = server.enas(2, *argv, "--run", tmp_path / "run")
    assert ended.codes == [2, 2]
    assert ended.complaint().startswith(says)
    assert ("lower the size of the minibatches" in ended.err[1]) == ("Memory" in error)
    assert ("KeyError: 'planted'\nenas: " in ended.err[1]) == ("KeyError" in error)
    assert CheckpointStore(tmp_path / "run" / "checkpoints").steps()


# ---- what is refused, and what needs no other process ------------------------------------------------------------------


def test_what_is_wrong_is_said_once(server: Server, tmp_path: Path) -> None:
    ended = server.enas(2, "resume", tmp_path)
    assert ended.codes == [2, 2]
    assert "is not a run folder" in ended.complaint()
    ended = server.enas(2, "run", "recurrent-quick", "--sed", "3")
    assert ended.codes == [2, 2]
    assert "--seed" in ended.complaint()


def test_other_commands_are_process_0_s_alone(server: Server) -> None:
    ended = server.whole(2, "recipes")
    assert "recurrent-quick" in ended.out[0]
    assert ended.out[1] == ended.err[1] == ""


def test_synchronised_norms_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.SyncBatchNorm(2))
    parallel.check_norms(model)
    monkeypatch.setattr(parallel, "processes", lambda: 2)
    with pytest.raises(ConfigError, match="SyncBatchNorm"):
        parallel.check_norms(model)
    parallel.check_norms(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))


def test_only_torchrun_s_whole_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert started_as() == (0, 1)
    for name, value in {"RANK": "3", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert started_as() == (3, 4)


@pytest.mark.parametrize(("rank", "count"), [("first", "2"), ("0", ""), ("-1", "2"), ("2", "2"), ("٣", "4")])
def test_another_environment_than_torchrun_s_is_refused(
    rank: str, count: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = {"RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["recipes"]) == cli.EXIT_USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert f"RANK={rank!r} and WORLD_SIZE={count!r}" in said.err
