"""Kills: a tiny run that is killed, at random moments or at any change of a file, comes to what it would have come to.

Command:  python benchmarks/kill.py             (about an hour of one core; --help for parts of it)
          python benchmarks/kill.py --every 50 --random 5 --processes 0      (a sample of it, a minute)
          python benchmarks/kill.py --file mine.py --stages --random 0 --processes 0      (one's own search, ten kills)
Prints:   one JSON line a stage; the counts of a whole run stand in docs/results.md. Exit code 1 if anything differed.

Tiny runs of a recurrent and a micro space (tests/tiny.py), or with --file of a network of one's own, are made without
interruption: stage by stage, search, derive, retrain, test and compare, and once more by `run` and `compare`, which must be
equal. Then, always by SIGKILL, so that nothing can be saved at the end:

changes     each stage is killed at its first change of a file in the run folder, at its second, and so on to its last, and
            the same command is given again. Changes are: opening to write, the first and the second half of a write,
            truncating, syncing, renaming, deleting, making a folder. Between two of them nothing happens that a kill could
            leave behind.
in a row    one search is killed so many times, at random moments of the time that it takes, and resumed each time; then the
            other stages follow.
random      `enas run` and `enas compare` are killed at random moments and resumed, again and again, until they are done.
processes   `enas compare` is killed likewise while it trains in processes of their own, which find their parent gone, and
            save. So a checkpoint that is older than the newest may be left beside it.

Equal means: the same files and folders, `.lock` and what processes say (log.txt, worker.json) apart, with the same bytes.
Only times differ, which are the values of the keys in `TIMES` in JSON, and a line in the picture of a comparison;
checkpoints are compared value by value, bit for bit, without the clock and the length of metrics.jsonl, which depends on
the digits of times.

Every attempt is a fork of one process that has imported everything and loaded the compiled kernels; it computes with one
thread, so that no thread is lost by the fork. Trainings of `compare` are done in it, but for `processes`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from killing import ending, fork, kill_after

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from enas import cli
from enas.evidence.compare import PICTURE
from enas.executors.local import LocalExecutor
from enas.report.page import REPORT
from enas.runtime.files import read_json, read_jsonl
from enas.runtime.flat import unpacked
from enas.trainings import LOG, WORKER
from tests import tiny
from tests.test_trainings import InThisProcess

STAGES = ("search", "derive", "retrain", "test", "compare")
KINDS = ("recurrent", "micro")
FLAGS = ("--search.checkpoint-every", "8", "--retrain.checkpoint-every", "6")
"""What differs from tests/tiny.py."""
OF_FILE = (
    *("--search.epochs", "6", "--search.updates", "10", "--search.checkpoint-every", "20"),
    *(
        "--verify.trainings",
        "4",
        "--verify.epochs",
        "1",
        "--derive.shortlist",
        "2",
        "--derive.shortlist-epochs",
        "1",
    ),
    *(
        "--retrain.child.epochs",
        "2",
        "--retrain.checkpoint-every",
        "6",
        "--channels-last",
        "True",
        "--threads",
        "1",
    ),
)
"""What makes a run of a network of one's own short. How images lie in memory is otherwise found by timing it."""
COMPARE = ("--seeds=2", "--samples=2", "--epochs=1", "--rivals=none")
"""As many samples as seeds: the number of trainings of a random search then does not depend on measured times. Rivals are
searched as the run's own method is with another seed."""
TIMES = {
    *tiny.TIMES,
    *("search_seconds", "validate_seconds", "final_seconds", "end_to_end_seconds"),
    *("seconds_ratio", "equal_budget", "random_in_budget", "git_commit"),
}
"""Keys of JSON whose values are measured times, or follow from them; and the checkout's state, which others may change."""
PATIENCE = 120
"""Seconds after which a command that should end has hung."""
START = 8
"""Seconds that a process of its own takes before it trains."""


# ---- what a run holds --------------------------------------------------------------------------------------------------


def without_times(value: Any) -> Any:
    """A JSON value without the keys in `TIMES`."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def checkpoint(path: Path) -> Any:
    """All that a checkpoint holds, without the clock and what depends on its digits."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    state = unpacked(saved["state"], saved.pop("tensors"))
    return tiny.plain({**saved, "state": {key: value for key, value in state.items() if key != "metrics"}})


READERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda path: without_times(read_json(path)),
    ".jsonl": lambda path: without_times(read_jsonl(path)),
    ".pt": checkpoint,
}


def content(run: Path) -> dict[str, Any]:
    """What is in a run folder, hidden files and empty folders included, apart from times."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_dir():
            found[name] = "a folder"
        elif path.name == PICTURE:
            found[name] = "a picture, with a line at the seconds of a run"
        elif path.name == REPORT:
            found[name] = "a page, with times and the folder's name"
        elif path.name not in (".lock", LOG, WORKER):
            found[name] = READERS.get(path.suffix, Path.read_bytes)(path)
    return found


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """The names of files that differ, are missing or should not be there."""
    return [
        *(f"{name} is missing" for name in sorted(expected.keys() - found.keys())),
        *(f"{name} is left" for name in sorted(found.keys() - expected.keys())),
        *(
            f"{name} differs"
            for name in sorted(expected.keys() & found.keys())
            if found[name] != expected[name]
        ),
    ]


# ---- the runs ----------------------------------------------------------------------------------------------------------


@dataclass
class Reference:
    """A run that nobody interrupted, as it was before and after each stage."""

    recipe: str
    folder: Path
    """Holds what is made here."""
    flags: list[str]
    commands: tuple[str, ...] = STAGES
    """The stages, or `run`, which is all but the last, and the last."""
    content: dict[str, dict[str, Any]] = field(default_factory=dict)
    operations: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each stage takes."""

    @property
    def run(self) -> Path:
        """Where the run is that is killed: always there, as logs and messages have its name."""
        return self.folder / "live"

    @property
    def log(self) -> Path:
        """What the newest command said."""
        return self.folder / "log.txt"

    def command(self, stage: str) -> list[str]:
        """The command of a stage, or `run` for all but `compare`; going on is the same one, but for a run that exists."""
        begun = (self.run / "config.json").exists()
        if stage in ("search", "run") and not begun:
            return [stage, self.recipe, *self.flags, "--run", str(self.run)]
        word = "resume" if stage in ("search", "run") else stage
        return [word, str(self.run), *(COMPARE if stage == "compare" else ())]

    def put_back(self, stage: str) -> None:
        """Make the run folder what it was before a stage."""
        shutil.rmtree(self.run, ignore_errors=True)
        number = self.commands.index(stage)
        if number:
            shutil.copytree(self.folder / self.commands[number - 1], self.run)

    def said(self) -> str:
        """What the newest command said."""
        return self.log.read_text(errors="replace").rstrip()

    def finish(self, stage: str) -> str | None:
        """Give the command of a stage until it is done; what is wrong, if anything, with how it ended."""
        code, end = 2, time.monotonic() + PATIENCE
        while code == 2 and time.monotonic() < end:
            code = kill_after(fork(self.command(stage), self.log, self.run), PATIENCE)
            if code != 2 or "in use" not in self.said():  # a process that was orphaned may still be saving
                break
            time.sleep(0.2)
        return None if code == 0 else f"{stage} ended with {code}: {self.said()[-1500:]}"

    def make(self) -> Reference:
        """Run every stage, and keep what it was before and after. Raises `SystemExit` if one fails."""
        self.folder.mkdir(parents=True)
        for stage in self.commands:
            began = time.monotonic()
            code = ending(fork(self.command(stage), self.log, self.run, at=0))
            if code:
                raise SystemExit(f"{stage} of an uninterrupted run ended with {code}: {self.said()}")
            self.seconds[stage] = time.monotonic() - began
            self.operations[stage] = int(self.said().split()[-1])
            self.content[stage] = content(self.run)
            shutil.copytree(self.run, self.folder / stage)
        return self


@dataclass
class Count:
    """What came out of killing."""

    kills: int = 0
    finished: int = 0
    equal: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    example: dict[str, str] = field(default_factory=dict)
    """For each kind of difference, the first place where it was seen."""

    def add(self, wrong: Sequence[str], where: str) -> None:
        """Count a run that was finished."""
        self.finished += 1
        self.equal += not wrong
        for what in wrong:
            kind = re.sub(r"\.\d+\.part\b", ".PID.part", what)
            self.wrong[kind] += 1
            self.example.setdefault(kind, where)

    def print(self, **about: Any) -> bool:
        """Print a line; whether all were equal."""
        numbers = {"kills": self.kills, "finished": self.finished, "equal": self.equal}
        print(json.dumps({**about, **numbers}), flush=True)
        for what, times in self.wrong.most_common():
            print(f"  {times} times: {what}; first {self.example[what]}", flush=True)
        return self.equal == self.finished


def judged(reference: Reference, stage: str, *, saved: bool = False) -> list[str]:
    """Finish a stage that was killed; what is then wrong with the run folder. With `saved`, older checkpoints are not."""
    wrong = reference.finish(stage)
    if wrong is not None:
        return [wrong]
    try:
        found = content(reference.run)
        newest = {str(Path(name).parent): name for name in sorted(found) if name.endswith(".pt")}
        older = {name for name in found if name.endswith(".pt") and name not in newest.values()}
        expected = reference.content[stage]
        if saved:
            found = {name: value for name, value in found.items() if name in expected or name not in older}
        return differences(found, expected)
    except Exception as error:  # a file that cannot be read is a difference, too
        return [f"{type(error).__name__}: {error}"]


def at_operations(reference: Reference, stage: str, every: int) -> Count:
    """Kill a stage at each of its changes of files, or at every so manyth, and finish it."""
    count = Count()
    for at in range(1, reference.operations[stage] + 1, every):
        reference.put_back(stage)
        code = ending(fork(reference.command(stage), reference.log, reference.run, at))
        place = reference.said().rpartition("\n")[2]
        count.kills += code == -signal.SIGKILL
        wrong = (
            judged(reference, stage) if code == -signal.SIGKILL else [f"not killed, but ended with {code}"]
        )
        count.add(wrong, f"at operation {at}, {place}")
    return count


def at_random(
    reference: Reference, stages: Sequence[str], kills: int, seed: int, *, saved: bool = False
) -> Count:
    """Kill these at random moments, and go on, run after run, until that many kills are done and the last run is, too."""
    count, rng = Count(), random.Random(f"{reference.recipe} {stages} {seed}")
    while count.kills < kills:
        reference.put_back(stages[0])
        wrong: list[str] = []
        for stage in stages:
            killed = True
            while killed and count.kills < kills:
                pid = fork(reference.command(stage), reference.log, reference.run)
                killed = kill_after(pid, rng.uniform(0, 1.2 * reference.seconds[stage])) == -signal.SIGKILL
                count.kills += killed
            wrong = wrong or judged(reference, stage, saved=saved)
        count.add(wrong, f"after {count.kills} kills in all")
    return count


def in_a_row(reference: Reference, kills: int, seed: int) -> Count:
    """Kill one search that often, at moments drawn from the time that it takes, and go on through the stages until all is
    tested. A search that is done before its last kill is counted, and another one is begun."""
    count, rng = Count(), random.Random(f"{reference.recipe} in a row {seed}")
    while count.kills < kills:
        reference.put_back("search")
        moments = sorted(rng.uniform(0, reference.seconds["search"]) for _ in range(kills))
        for before, moment in zip([0.0, *moments], moments, strict=False):
            if count.kills == kills:
                break
            pid = fork(reference.command("search"), reference.log, reference.run)
            if kill_after(pid, moment - before) != -signal.SIGKILL:
                break
            count.kills += 1
        wrong = judged(reference, "search")
        for stage in ("derive", "retrain", "test"):
            wrong = wrong or judged(reference, stage)
        count.add(wrong, f"after {count.kills} kills in all")
    return count


def main() -> int:
    """Run what the flags ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="runs to kill")
    parser.add_argument(
        "--file", help="instead of them, a run of a network of one's own: the file of its recipe"
    )
    parser.add_argument(
        "--stages", nargs="*", choices=STAGES, default=STAGES, help="stages to kill at changes of files"
    )
    parser.add_argument("--every", type=int, default=1, help="kill at every so manyth change of a file only")
    parser.add_argument("--in-a-row", type=int, default=10, help="kills of one search at random moments")
    parser.add_argument("--random", type=int, default=100, help="kills at random moments, a kind of run")
    parser.add_argument(
        "--processes", type=int, default=10, help="such kills of `compare` with processes of their own"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument(
        "--flags",
        nargs=argparse.REMAINDER,
        default=[],
        help="flags of `enas run` for --file; the last of all",
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        text = tiny.write_text(Path(scratch) / "text")
        kinds = {
            "recurrent": ("recurrent-quick", tiny.flags(text, *FLAGS)),
            "micro": ("micro-quick", tiny.image_flags("micro", *FLAGS)),
            "file": (asked.file, tiny.words([*OF_FILE, *asked.flags])),
        }
        chosen = ["file"] if asked.file else asked.kinds
        equal = [all(kill(kind, *kinds[kind], Path(scratch), asked)) for kind in chosen]
    return 0 if all(equal) else 1


def kill(kind: str, recipe: str, flags: list[str], folder: Path, asked: argparse.Namespace) -> list[bool]:
    """Do what is asked to one kind of run: for each thing done, whether all came out equal."""
    processes = LocalExecutor.for_run
    in_this_process: Any = InThisProcess
    LocalExecutor.for_run = lambda config, workers=None: in_this_process()
    warm = ["run", recipe, *flags, "--run", str(folder / f"warm-{kind}")]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        if cli.main(warm) != 0:  # in this process: every fork then has what this loads and compiles
            raise SystemExit(said.getvalue())
    compares = "compare" in asked.stages or asked.random > 0 or asked.processes > 0
    reference = Reference(recipe, folder / kind, flags, STAGES if compares else STAGES[:-1]).make()
    whole = ("run", "compare") if compares else ("run",)
    at_once = Reference(recipe, folder / f"{kind}-at-once", flags, whole).make()
    twice = Count()
    found, expected = (one.content[one.commands[-1]] for one in (at_once, reference))
    twice.add(
        differences({**found, "config.json": expected["config.json"]}, expected), ""
    )  # it names the stages
    equal = [twice.print(kind=kind, killed="never, twice")]
    for stage in asked.stages:
        began = time.monotonic()
        count = at_operations(reference, stage, asked.every)
        about = {
            "kind": kind,
            "killed": f"{stage}, at changes of files",
            "changes": reference.operations[stage],
        }
        equal.append(count.print(**about, minutes=round((time.monotonic() - began) / 60, 1)))
    if asked.in_a_row:
        count = in_a_row(reference, asked.in_a_row, asked.seed)
        equal.append(count.print(kind=kind, killed="search, in a row"))
    if asked.random:
        count = at_random(at_once, at_once.commands, asked.random, asked.seed)
        equal.append(count.print(kind=kind, killed="run and compare, at random moments"))
    if asked.processes:
        LocalExecutor.for_run = processes
        reference.seconds["compare"] += START
        count = at_random(reference, ("compare",), asked.processes, asked.seed, saved=True)
        equal.append(count.print(kind=kind, killed="compare in processes, at random moments"))
    return equal


if __name__ == "__main__":
    sys.exit(main())
