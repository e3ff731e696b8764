"""Kernels that cannot be used mean plain torch and one line that says why; damaged or unsafe files of theirs mean none."""

import errno
import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enas import doctor, ops, search_loop
from enas.architecture import Space
from enas.cpu import registry
from enas.runtime.compiling import announce, compiling_told
from enas.runtime.stop import Stopped, StopRequest
from enas.search_loop import run_search
from enas.shared_weights import with_every_operation
from enas.spaces.macro.space import MacroSpace
from enas.spaces.micro.space import MicroSpace
from enas.stages import Run, search_of
from tests import needs, tiny

pytest.importorskip("numba")

from numba.core import caching, config

from enas.cpu import kept, probe
from enas.cpu.compiler import kernel

pytestmark = needs.KERNELS

# ---- whether they can be used ------------------------------------------------------------------------------------------


def wrong_value() -> str:
    return "a kernel that was tried gave wrong values"


def broken() -> str:
    raise RuntimeError("no such intrinsic\nand more")


REASONS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "switched off": (lambda m: m.setenv("ENAS_KERNELS", "off"), "ENAS_KERNELS is off"),
    "no numba": (
        lambda m: m.setitem(sys.modules, "numba", None),
        "numba cannot be imported (ModuleNotFoundError",
    ),
    "no compiler": (lambda m: m.setattr(config, "DISABLE_JIT", 1), "NUMBA_DISABLE_JIT is set"),
    "no FMA": (
        lambda m: (
            m.setattr(registry.platform, "machine", lambda: "AMD64"),
            m.setattr(registry, "instructions", frozenset),
        )[0],
        "the processor has no fused multiply-add (FMA)",
    ),
    "another numba": (
        lambda m: m.setitem(sys.modules, "enas.cpu.maps", None),
        "does not compile them (ModuleNotFoundError",
    ),
    "wrong value": (
        lambda m: m.setattr(probe, "fault", wrong_value),
        "a kernel that was tried gave wrong values",
    ),
    "error": (
        lambda m: m.setattr(probe, "fault", broken),
        "does not compile them (RuntimeError: no such intrinsic)",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_each_reason_against_kernels_is_told_in_one_line(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, expected = REASONS[case]
    make(monkeypatch)
    why_not = registry.why_no_kernels.__wrapped__()
    assert why_not is not None
    assert expected in why_not
    assert "\n" not in why_not
    monkeypatch.setattr(registry, "why_no_kernels", lambda: why_not)
    assert ops._kernels.__wrapped__() == {}
    (check,) = [check for check in doctor.checks() if check.name == "kernels"]
    assert (check.ok, check.needed) == (False, False)
    assert check.detail == f"plain PyTorch instead, slower: {why_not}"


def test_a_kernel_that_computes_something_else_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe.fault() is None
    monkeypatch.setattr(probe, "_probe", lambda team, rows, x, sums, rounded: sums.fill(0))
    assert probe.fault() == wrong_value()


# Without a compiler, numba's decorators leave plain functions, and its overloads are not there.
WITHOUT_COMPILER = """
import torch
from torch import nn
from enas import cli, ops
from enas.ops import tied_cross_entropy

x = torch.randn(2, 4, 5, 5)
depthwise, pointwise = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 1)
y = ops.relu(ops.separable_norm(x, depthwise, pointwise, nn.BatchNorm2d(4)))
assert isinstance(y, torch.Tensor)
loss = tied_cross_entropy(torch.randn(6, 4).requires_grad_(), torch.randn(9, 4), torch.arange(6))
loss.backward()
assert y.isfinite().all() and loss.isfinite()
raise SystemExit(cli.main(["doctor", "--json"]))
"""


def test_without_a_compiler_everything_works_and_doctor_says_so() -> None:
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    (check,) = [check for check in json.loads(done.stdout) if check["name"] == "kernels"]
    assert check["detail"] == "plain PyTorch instead, slower: NUMBA_DISABLE_JIT is set"


def test_doctor_says_where_kernels_are_kept_and_on_how_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def detail() -> str:
        (check,) = [check for check in doctor.checks() if check.name == "kernels"]
        assert check.ok
        return check.detail

    assert detail().endswith(probe.kept())
    monkeypatch.setattr("enas.cpu.compiler.shares_threads", lambda: False)
    assert "on one thread, as PyTorch's OpenMP cannot be shared" in detail()


# ---- kernels on the disk -----------------------------------------------------------------------------------------------


def _doubled(x: Any, y: Any) -> None:
    for i in range(len(x)):
        y[i] = 2 * x[i]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the kernels of a test are kept."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    return Path(str(kernel(_doubled)._cache._files.cache_path))


def use() -> tuple[int, Any]:
    """Whether a new process's kernel is read from the disk (1) or compiled (0), and that kernel."""
    made: Any = kernel(_doubled)
    y = np.empty(3)
    made(np.arange(3.0), y)
    assert y.tolist() == [0, 2, 4]
    return sum(made.stats.cache_hits.values()), made


def test_kernels_are_kept_in_a_folder_that_is_the_users_alone(folder: Path) -> None:
    assert (use()[0], use()[0]) == (0, 1)
    assert {path.suffix for path in folder.iterdir()} == {".nbi", ".nbc"}
    if os.name == "posix":
        assert folder.stat().st_mode & 0o777 == 0o700


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other(path: Path) -> None:
    path.write_bytes(pickle.dumps("0.0") + pickle.dumps(["something", "else"]))


def unreadable(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)  # as for a user without permission: OSError, also for root


@pytest.mark.parametrize("damage", [cut, empty, other, unreadable])
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_damaged_files_are_replaced(suffix: str, damage: Callable[[Path], None], folder: Path) -> None:
    use()
    (path,) = folder.glob(f"*{suffix}")
    damage(path)
    assert (use()[0], use()[0]) == (0, 1)


def test_a_full_disk_leaves_kernels_unkept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "_save_data", full)
    assert (use()[0], use()[0]) == (0, 0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders have no owner and mode there")
@pytest.mark.parametrize("case", ["group", "others", "owner", "link", "file"])
def test_files_that_others_could_have_written_are_not_read(
    case: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use()
    assert use()[0] == 1
    kept.why_not_safe.cache_clear()
    if case in ("group", "others"):
        folder.chmod(0o770 if case == "group" else 0o707)
        expected = f"other users can write to {folder}"
    elif case == "owner":
        other_user = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other_user)
        expected = f"{folder} belongs to another user"
    else:
        folder.rename(tmp_path / "elsewhere")
        if case == "link":
            folder.symlink_to(tmp_path / "elsewhere")
        else:
            folder.write_text("")
        expected = f"{folder} is no folder"
    reads, made = use()
    assert reads == 0
    assert made._cache.where == f"not kept: {expected}"
    kept.why_not_safe.cache_clear()


def test_without_any_folder_kernels_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(function: Any) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(kept, "_Files", none)
    reads, made = use()
    assert reads == 0
    assert made._cache.where == "not kept: cannot cache function: no locator available"


# ---- what is said while they are compiled ------------------------------------------------------------------------------


def test_compiling_is_said_with_its_progress_and_only_where_it_happens(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def halved(x: Any, y: Any) -> None:
        for i in range(len(x)):
            y[i] = x[i] / 2

    times = iter([0.0, 25.0, 61.0])
    x, y = np.arange(3.0), np.empty(3)
    with StopRequest() as stop, compiling_told(stop, tmp_path, clock=lambda: next(times)):
        use()
        kernel(halved)(x, y)
    assert y.tolist() == [0, 0.5, 1]
    assert capsys.readouterr().err.splitlines() == [
        f"compiling kernels for this processor (once; kept in {folder}) …",
        "compiling kernels: 1 done in 25 s, now halved",
        "compiling kernels: 2 done in 1 min 1 s",
    ]
    with StopRequest() as stop, compiling_told(stop, tmp_path):
        assert use()[0] == 1
    assert capsys.readouterr().err == ""


def test_a_stop_is_answered_before_the_next_kernel(folder: Path, tmp_path: Path) -> None:
    with StopRequest() as stop, compiling_told(stop, tmp_path / "run"):
        stop.request("SIGTERM")
        with pytest.raises(Stopped, match=r"Stopped by SIGTERM .* enas resume .*run"):
            use()
    assert use()[0] == 0  # it was not compiled


def test_a_stop_during_the_estimate_of_a_search_ends_it_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path / "run", tiny.config(tiny.write_text(tmp_path / "text")), ("search",))
    monkeypatch.setattr(search_loop, "estimate", lambda search, watch: announce("a kernel", "kept"))
    with StopRequest() as stop:
        stop.request("SIGTERM")
        with pytest.raises(Stopped):
            run_search(*search_of(run, lambda architectures: []), run.search_checkpoints(), stop, run.folder)
    assert run.search_checkpoints().steps() == []
    monkeypatch.undo()
    with StopRequest() as stop:  # and it can be gone on with
        run_search(*search_of(run, lambda architectures: []), run.search_checkpoints(), stop, run.folder)
    assert run.search_end() is not None


@pytest.mark.parametrize("space", [MacroSpace(3), MicroSpace(2)], ids=["macro", "micro"])
def test_a_few_architectures_have_every_operation(space: Space) -> None:
    few = with_every_operation(space, random.Random(0))
    taken = [
        {d.options[c] for d, c in zip(space.decisions, a.choices, strict=True) if d.kind == "operation"}
        for a in few
    ]
    assert set().union(*taken) == {o for d in space.decisions if d.kind == "operation" for o in d.options}
    assert all(one - set().union(*taken[:i]) for i, one in enumerate(taken))


# How many combinations of types are compiled or read after the estimate, and after steps with random architectures.
PROGRAM = """
import gc, random, sys
from pathlib import Path
from numba.core.dispatcher import Dispatcher
from enas.cpu.kept import KernelCache
from tests import needs, tiny

def compiled():
    gc.collect()
    found = [x for x in gc.get_objects() if isinstance(x, Dispatcher) and isinstance(x._cache, KernelCache)]
    return sorted((x.__name__, len(x.signatures)) for x in found if x.signatures)

task = tiny.image_config(sys.argv[1]).shared_weights()
task.estimate()
before = compiled()
rng = random.Random(1)
for step in range(8):
    architecture = task.space.sample(rng)
    task.train_step(0, 0, [architecture])
    task.rewards([architecture], "controller", step)
print(len(before), compiled() == before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("space", ["macro", "micro"])
def test_an_estimate_compiles_all_that_the_search_needs(space: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, space],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    count, none_came_later = done.stdout.split()
    assert int(count) > 10
    assert none_came_later == "True"
