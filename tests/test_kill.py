"""Runs that are killed by benchmarks/kill.py: at a few changes of files in every stage, and at a few random moments."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

KILL = Path(__file__).resolve().parents[1] / "benchmarks" / "kill.py"
EVERY = 120
"""All changes take an hour."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["recurrent", "micro"])
def test_killed_at_changes_of_files_and_at_random_moments_a_run_comes_to_the_same(kind: str) -> None:
    asked = ["--kinds", kind, "--every", str(EVERY), "--in-a-row", "3", "--random", "3", "--processes", "0"]
    ended = subprocess.run([sys.executable, KILL, *asked], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    whole, *lines = (json.loads(line) for line in ended.stdout.splitlines())
    assert whole["equal"] == 1
    stages = ["search", "derive", "retrain", "test", "compare"]
    assert [line["killed"].partition(",")[0] for line in lines] == [*stages, "search", "run and compare"]
    assert all(line["equal"] == line["finished"] for line in lines)
    assert [line["kills"] for line in lines] == [*(-(-line["changes"] // EVERY) for line in lines[:-2]), 3, 3]
