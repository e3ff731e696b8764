"""A package outside this one, `tests/outside`, adds a recipe, a kind of run, a space, a controller and a task."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from enas.runtime.files import read_json
from tests import tiny
from tests.test_resume import SERVER, Server, served

OUTSIDE = Path(__file__).with_name("outside")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as pip would put it there."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "enas_outside").symlink_to(OUTSIDE / "enas_outside", target_is_directory=True)
    project = tomllib.loads((OUTSIDE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    information = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    information.mkdir()
    said = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (information / "METADATA").write_text(said)
    sections = [
        "\n".join([f"[{group}]", *(f"{name} = {place}" for name, place in entries.items())])
        for group, entries in project["entry-points"].items()
    ]
    (information / "entry_points.txt").write_text("\n\n".join(sections) + "\n")
    return folder


@pytest.fixture(scope="module")
def server(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A process that has the package, and has run its recipe; commands are forks of it."""
    folder = tmp_path_factory.mktemp("server")
    first = ["run", "outside-quick", "--run", str(folder / "run")]
    program = f"import os; os.chdir({str(installed)!r})\n{SERVER}"
    with served([sys.executable, "-c", program, *first], with_packages_of(installed)) as process:
        yield Server(process, folder)


@pytest.fixture(scope="module")
def whole(server: Server) -> Path:
    """A run of its recipe."""
    return server.folder / "run"


def with_packages_of(folder: Path) -> Mapping[str, str]:
    """The environment of a process that finds the packages of this folder."""
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def enas(server: Server, *words: str, fails: bool = False) -> str:
    """What a command prints, or what it complains of."""
    ended = server.enas(*words)
    assert ended.code == (2 if fails else 0), ended.stdout + ended.stderr
    return ended.stderr if fails else ended.stdout


def test_its_things_are_found(server: Server) -> None:
    listed = json.loads(enas(server, "recipes", "--json"))
    assert listed["outside-quick"].startswith("Layers for points on either side of a plane")
    assert listed["outside-quick"].endswith("Package:  enas-outside 1.0")
    assert "--controller.change FLOAT" in enas(server, "run", "outside-quick", "--help")
    assert "--controller.change FLOAT" in enas(
        server, "run", "macro-quick", "--controller", "first", "--help"
    )
    complaint = enas(server, "run", "macro-quick", "--controller", "frst", fails=True)
    assert "did you mean 'first'?" in complaint


def test_its_recipe_is_run(whole: Path) -> None:
    record = read_json(whole / "config.json")
    assert record["kind"] == "outside"
    assert record["recipe"] == {
        "from": "PackageRecipe",
        "name": "outside-quick",
        "package": "enas-outside 1.0",
    }
    assert record["settings"]["controller"] == {"kind": "first", "change": 0.5}
    results = read_json(whole / "comparison.json")
    assert [result["role"] for result in results] == ["found", "random"]
    assert all(0 <= result["test"]["test_score"] <= 1 for result in results)


def test_a_run_that_was_stopped_goes_on_to_the_same(server: Server, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    enas(server, "search", "outside-quick", "--run", str(folder))
    newest = max((folder / "checkpoints").glob("*.pt"))
    newest.unlink()  # as if it had been killed before the end
    (folder / "search.json").unlink()
    record = {**read_json(folder / "config.json"), "stages": read_json(whole / "config.json")["stages"]}
    (folder / "config.json").write_text(json.dumps(record))
    enas(server, "resume", str(folder))
    assert tiny.content(folder) == tiny.content(whole)


def test_its_architectures_are_shown_and_trained(server: Server, whole: Path, tmp_path: Path) -> None:
    text = read_json(whole / "architecture.json")["text"]
    assert text in enas(server, "show", str(whole))
    assert text in enas(server, "show", str(whole / "architecture.json"))
    words = ["retrain", "outside-quick", "--architecture", "8 relu 16 tanh", "--run", str(tmp_path / "run")]
    assert "8 relu 16 tanh" in enas(server, *words)
    assert "'9' is none of 4, 8, 16" in enas(
        server, "retrain", "outside-quick", "--architecture", "9 relu", fails=True
    )


def test_it_is_compared_and_ranked(server: Server, whole: Path) -> None:
    compared = [
        "compare",
        str(whole),
        "--seeds",
        "2",
        "--samples",
        "4",
        "--workers",
        "1",
        "--rivals",
        "shared-random",
        "--json",
    ]
    comparison = json.loads(enas(server, *compared))
    assert comparison["method"] == "first"
    assert {one["rival"] for one in comparison["contests"]} == {"shared-random", "random-search", "sampling"}
    ranked = json.loads(enas(server, "rank", str(whole), "--architectures", "6", "--repeats", "2", "--json"))
    assert (ranked["architectures"], ranked["repeats"], ranked["score"]) == (6, 2, "score")


def test_its_task_is_found_by_name(installed: Path, tmp_path: Path) -> None:
    program = (
        "import enas\nfrom enas_outside.network import Supernet\n"
        f"found = enas.search(Supernet, 'outside-points', run={str(tmp_path / 'run')!r}, epochs=2, threads=1,\n"
        "    **{'search.updates': 2, 'derive.shortlist_epochs': 1, 'retrain.child.epochs': 1})\n"
        "print(found.space)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=with_packages_of(installed),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "OutsideSpace(layers=2)\n", done.stderr


def test_without_the_package_its_run_says_what_is_missing(whole: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "enas", "resume", str(whole)]
    done = subprocess.run(
        command, env=with_packages_of(tmp_path), capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.startswith(
        "enas: there is no recipe 'outside-quick' any more: install the package enas-outside 1.0"
    )
