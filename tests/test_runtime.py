"""The runtime keeps its promises: nothing half written, nothing lost, nothing run, the same bits again."""

import contextlib
import errno
import hashlib
import importlib
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from enas.errors import ConfigError, EnasError, RunFolderError
from enas.runtime import devices, memory
from enas.runtime.checkpoint import CheckpointStore
from enas.runtime.devices import check_precision, pick_device, set_threads
from enas.runtime.environment import environment
from enas.runtime.files import (
    JsonlLog,
    append_jsonl,
    atomic_file,
    read_json,
    read_jsonl,
    write_atomic,
    write_json,
)
from enas.runtime.lock import run_lock
from enas.runtime.metrics import Board, Metrics, MetricsState, tensorboard_writer
from enas.runtime.progress import duration, estimate_line, progress, say
from enas.runtime.seeding import derive_seed, generator
from enas.runtime.stop import EXIT_STOPPED, Stopped, StopRequest
from enas.runtime.work import processor_seconds, work_clock, work_of


@contextlib.contextmanager
def file_limit(after: int) -> Iterator[None]:
    """Let the system refuse to make any file longer than `after` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def python(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run `code` in another process, which is dead when the block ends."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class TestFiles:
    def test_write_replaces_the_whole_file_and_leaves_no_other(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "folder" / "file.txt"
        write_atomic(path, "long before")
        write_atomic(path, "ω")
        assert path.read_bytes() == b"\xcf\x89"
        write_atomic(path, b"\x00\xff")
        assert path.read_bytes() == b"\x00\xff"
        assert names(path.parent) == ["file.txt"]

    def test_a_new_file_has_the_permissions_of_any_other(self, tmp_path: Path) -> None:
        write_atomic(tmp_path / "atomic", "")
        (tmp_path / "usual").write_text("")
        assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "usual").stat().st_mode

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_an_error_while_writing_leaves_the_old_file(
        self, tmp_path: Path, error: type[BaseException]
    ) -> None:
        path = tmp_path / "file"
        write_atomic(path, "old")

        def write_half() -> None:
            with atomic_file(path) as file:
                file.write(b"half of the n")
                raise error

        with pytest.raises(error):
            write_half()
        assert path.read_text() == "old"
        assert names(tmp_path) == ["file"]

    def test_nothing_appears_before_the_file_is_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        with atomic_file(path) as file:
            file.write(b"data")
            assert not path.exists()
        assert path.exists()

    def test_a_limit_of_length_leaves_the_old_file_and_says_what_to_do(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        write_atomic(path, "old")
        with file_limit(1000), pytest.raises(RunFolderError) as caught:
            write_atomic(path, b"x" * 100_000)
        assert path.read_text() == "old"
        assert names(tmp_path) == ["file"]
        message = str(caught.value)
        assert str(path) in message
        assert "File too large. No file may be longer, by the system's limit (ulimit -f)." in message
        assert "are free" not in message
        assert "\n" not in message

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
    def test_a_disk_that_reports_late_leaves_the_old_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        path = tmp_path / "file"
        write_atomic(path, "old")

        def refuse(descriptor: int) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(RunFolderError, match=re.escape(os.strerror(code))) as caught:
            write_atomic(path, "new")
        full = re.search(r"[\d,]+ MiB are free on that disk. Free some space", str(caught.value))
        assert (full is not None) == (code != errno.EIO)
        assert path.read_text() == "old"
        assert names(tmp_path) == ["file"]

    def test_nothing_outside_of_a_run_is_written_through_links_in_it(self, tmp_path: Path) -> None:
        outside, run = tmp_path / "outside", tmp_path / "run"
        outside.write_text("theirs")
        run.mkdir()
        for name in ("record.json", "picture.svg", "log.jsonl"):
            (run / name).symlink_to(outside)
        write_json(run / "record.json", {"n": 1})
        write_atomic(run / "picture.svg", "<svg/>", own=True)
        with pytest.raises(RunFolderError, match=r"log\.jsonl.* is a link"):
            append_jsonl(run / "log.jsonl", {"n": 1})
        assert outside.read_text() == "theirs"
        assert [path.is_symlink() for path in sorted(run.iterdir())] == [True, False, False]
        assert names(tmp_path) == ["outside", "run"]

    def test_a_link_stays_and_what_it_leads_to_is_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        target = tmp_path / "elsewhere" / "file"
        for link, there in (
            ("link", target),
            ("link-to-link", "link"),
            ("dangling", tmp_path / "new" / "one"),
        ):
            (tmp_path / link).symlink_to(there)
        for name, text in (("link", "first"), ("link-to-link", "second"), ("dangling", "third")):
            write_atomic(tmp_path / name, text)
            assert (tmp_path / name).is_symlink()
            assert (tmp_path / name).read_text() == text
        assert target.read_text() == "second"
        assert names(target.parent) == ["file"]

        def fail() -> None:
            with atomic_file(tmp_path / "link") as file:
                file.write(b"half")
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert target.read_text() == "second"

    def test_a_pipe_is_written_into_and_stays(self, tmp_path: Path) -> None:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        (tmp_path / "link").symlink_to("pipe")
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            for name in ("pipe", "link"):
                write_atomic(tmp_path / name, "data")
                assert os.read(reader, 100) == b"data"
                assert path.is_fifo()
        finally:
            os.close(reader)
        assert names(tmp_path) == ["link", "pipe"]

    def test_a_device_is_written_into_and_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*paths: object) -> None:
            pytest.fail(f"replaced {paths}")

        monkeypatch.setattr(os, "replace", refuse)
        write_atomic("/dev/null", "nothing")
        with pytest.raises(RunFolderError) as caught:
            write_atomic("/dev/full", "x")
        assert str(caught.value).startswith("Cannot write /dev/full: No space left on device.")
        assert "are free" not in str(caught.value)

    @pytest.mark.parametrize("name", ["", ".", "folder", "folder/"])
    def test_a_folder_is_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.chdir(tmp_path)
        Path("folder").mkdir()
        with pytest.raises(RunFolderError, match=r"Cannot write .*: Is a directory. Name a file."):
            write_atomic(name, "text")
        assert names(tmp_path) == ["folder"]

    def test_a_path_below_a_file_is_one_clear_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(RunFolderError, match=r"Cannot write .*file/below"):
            write_atomic(tmp_path / "file" / "below", "text")

    def test_json_comes_back_equal(self, tmp_path: Path) -> None:
        value = {"text": "ω\n", "list": [1, 2.5, None, True, 0.1 + 0.2], "big": 2**64 - 1}
        write_json(tmp_path / "a.json", value)
        assert read_json(tmp_path / "a.json") == value

    def test_json_refuses_what_it_cannot_say(self, tmp_path: Path) -> None:
        write_json(tmp_path / "a.json", 1)
        with pytest.raises(ValueError, match="JSON"):
            write_json(tmp_path / "a.json", float("nan"))
        assert read_json(tmp_path / "a.json") == 1

    @pytest.mark.parametrize("text", [b'{\n"a": 1,\n"b": }\n', b'{\n"a": 1,\n"b": "\xff"}\n'])
    def test_json_errors_name_file_and_line(self, tmp_path: Path, text: bytes) -> None:
        path = tmp_path / "a.json"
        path.write_bytes(text)
        with pytest.raises(RunFolderError, match=re.escape(f"{path}, line 3:")):
            read_json(path)

    def test_missing_and_unreadable_files_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(RunFolderError, match=r"none\.json is missing"):
            read_json(tmp_path / "none.json")
        with pytest.raises(RunFolderError, match=re.escape(f"Cannot read {tmp_path}")):
            read_jsonl(tmp_path)


class TestJsonLines:
    records = ({"a": 1, "text": "ω"}, {"b": {"c": [1, 2]}}, {"d": -0.125})

    def test_a_file_cut_at_any_byte_holds_all_whole_records_and_takes_more(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        ends = []
        for record in self.records:
            append_jsonl(path, record)
            ends.append(path.stat().st_size)
        data = path.read_bytes()
        assert data.decode() == "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in self.records)
        for cut in range(len(data) + 1):
            path.write_bytes(data[:cut])
            whole = [record for record, end in zip(self.records, ends, strict=True) if cut >= end - 1]
            assert read_jsonl(path) == whole
            append_jsonl(path, {"new": cut})
            assert read_jsonl(path) == [*whole, {"new": cut}]

    @pytest.mark.parametrize("line", [b'{"b": ', b"12", b"\xff"])
    def test_damage_before_the_last_line_is_named(self, tmp_path: Path, line: bytes) -> None:
        path = tmp_path / "log"
        path.write_bytes(b'{"a": 1}\n' + line + b'\n{"c": 3}\n')
        with pytest.raises(RunFolderError, match=re.escape(f"{path}, line 2:")):
            read_jsonl(path)

    def test_two_damaged_lines_are_more_than_a_torn_one(self, tmp_path: Path) -> None:
        (tmp_path / "log").write_bytes(b'{"a": 1}\n{"b": \n{"c": ')
        with pytest.raises(RunFolderError, match="line 2:"):
            read_jsonl(tmp_path / "log")

    def test_a_limit_of_length_keeps_no_part_of_a_record(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        append_jsonl(path, {"a": 1})
        before = path.read_bytes()
        with file_limit(100):
            with pytest.raises(RunFolderError, match="Raise the limit"):
                append_jsonl(path, {"b": "x" * 1000})
            assert path.read_bytes() == before
            append_jsonl(path, {"c": 3})
        assert read_jsonl(path) == [{"a": 1}, {"c": 3}]

    def test_a_rewound_log_goes_on_as_if_never_stopped(self, tmp_path: Path) -> None:
        straight, stopped = JsonlLog(tmp_path / "straight"), JsonlLog(tmp_path / "stopped")
        for step in range(10):
            straight.append({"step": step})
        for step in range(4):
            stopped.append({"step": step})
        position = stopped.position()
        assert position == stopped.path.stat().st_size
        for step in range(4, 7):
            stopped.append({"step": step})
        with stopped.path.open("ab") as file:
            file.write(b'{"step": 7')  # killed here
        stopped.rewind(position)
        for step in range(4, 10):
            stopped.append({"step": step})
        assert stopped.path.read_bytes() == straight.path.read_bytes()

    def test_a_log_that_was_never_written_is_at_zero(self, tmp_path: Path) -> None:
        log = JsonlLog(tmp_path / "log")
        assert log.position() == 0
        log.rewind(0)
        assert read_jsonl(log.path) == []

    @pytest.mark.parametrize("position", [5, 1000])
    def test_another_log_than_the_checkpoints_is_refused_and_kept(
        self, tmp_path: Path, position: int
    ) -> None:
        log = JsonlLog(tmp_path / "log")
        log.append({"a": 1})
        before = log.path.read_bytes()
        with pytest.raises(RunFolderError, match=f"byte {position}"):
            log.rewind(position)
        assert log.path.read_bytes() == before


def small_state() -> dict[str, Any]:
    numbers = generator(0, "state")
    return {
        "weights": {"w": torch.randn(5, 3, generator=numbers), "half": torch.ones(2, dtype=torch.bfloat16)},
        "numbers": [1, -2.5, 2**64 - 1, None, True],
        "pair": (0.9, 0.999),
        "by_index": {0: "ω"},
    }


def same(a: Any, b: Any) -> bool:
    """Equal in type and bits all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


class TestCheckpoints:
    def store(self, folder: Path, keep: int = 3) -> tuple[CheckpointStore, list[str]]:
        warnings: list[str] = []
        return CheckpointStore(folder, keep, warnings.append), warnings

    def test_a_state_comes_back_in_type_and_bits(self, tmp_path: Path) -> None:
        store, warnings = self.store(tmp_path)
        assert store.load_newest() is None
        path = store.save(123, small_state())
        assert path.name == "step-00000123.pt"
        loaded = store.load_newest()
        assert loaded is not None
        assert loaded[0] == 123
        assert same(loaded[1], small_state())
        assert warnings == []

    def test_parameters_come_back_as_tensors_without_gradient(self, tmp_path: Path) -> None:
        store, _ = self.store(tmp_path)
        store.save(1, {"weight": torch.nn.Parameter(torch.ones(2))})
        _, state = store.load_newest() or pytest.fail("no checkpoint")
        assert same(state, {"weight": torch.ones(2)})
        assert not state["weight"].requires_grad

    def test_training_resumed_from_one_equals_training_straight_on(self, tmp_path: Path) -> None:
        def build() -> tuple[torch.nn.Linear, torch.optim.Adam]:
            layer = torch.nn.Linear(4, 2)
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter.uniform_(-1, 1, generator=generator(1, "init"))
            return layer, torch.optim.Adam(layer.parameters(), lr=0.1)

        def train(layer: torch.nn.Linear, optimizer: torch.optim.Adam, steps: range) -> None:
            for step in steps:
                optimizer.zero_grad()
                layer(torch.randn(8, 4, generator=generator(1, "data", step))).square().sum().backward()
                optimizer.step()

        straight, straight_optimizer = build()
        train(straight, straight_optimizer, range(6))

        first, first_optimizer = build()
        train(first, first_optimizer, range(3))
        store, _ = self.store(tmp_path)
        store.save(3, {"weights": first.state_dict(), "optimizer": first_optimizer.state_dict()})
        second, second_optimizer = build()
        step, state = store.load_newest() or pytest.fail("no checkpoint")
        second.load_state_dict(state["weights"])
        second_optimizer.load_state_dict(state["optimizer"])
        train(second, second_optimizer, range(step, 6))
        assert torch.equal(second.weight, straight.weight)
        assert torch.equal(second.bias, straight.bias)

    def test_the_newest_few_are_kept(self, tmp_path: Path) -> None:
        store, _ = self.store(tmp_path, keep=2)
        (tmp_path / ".step-00000001.pt.99999.part").write_text("left by a killed process")
        (tmp_path / "step-notes.txt").write_text("not ours")
        for step in (5, 9, 10, 123_456_789):
            store.save(step, {"step": step})
        assert store.steps() == [10, 123_456_789]
        assert names(tmp_path) == ["step-00000010.pt", "step-123456789.pt", "step-notes.txt"]

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
    def test_after_a_truncated_one_the_one_before_is_used(self, tmp_path: Path, share: float) -> None:
        store, warnings = self.store(tmp_path)
        store.save(1, {"step": 1})
        path = store.save(2, small_state())
        os.truncate(path, int(share * path.stat().st_size))
        assert store.load_newest() == (1, {"step": 1})
        assert len(warnings) == 1
        assert str(path) in warnings[0]
        assert "\n" not in warnings[0]

    def test_every_flipped_bit_is_noticed_or_harmless(self, tmp_path: Path) -> None:
        store, warnings = self.store(tmp_path)
        store.save(1, {"step": 1})
        path = store.save(2, small_state())
        data = path.read_bytes()
        for index in range(0, len(data), 3):
            flipped = bytearray(data)
            flipped[index] ^= 1 << (index % 8)
            path.write_bytes(flipped)
            warnings.clear()
            step, state = store.load_newest() or pytest.fail("no checkpoint")
            assert len(warnings) == (step == 1)
            assert step == 1 or same(state, small_state())

    def test_every_flipped_bit_of_the_weights_is_noticed(self, tmp_path: Path) -> None:
        store, warnings = self.store(tmp_path)
        store.save(1, {"step": 1})
        weights = torch.arange(1, 17, dtype=torch.float64)
        path = store.save(2, {"weights": weights})
        data = path.read_bytes()
        start = data.index(weights.numpy().tobytes())
        for bit in range(8 * weights.nbytes):
            flipped = bytearray(data)
            flipped[start + bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(flipped)
            assert store.load_newest() == (1, {"step": 1})
        assert len(warnings) == 8 * weights.nbytes
        assert "checksum" in warnings[0]

    def test_without_a_whole_one_there_is_an_error_and_nothing_is_deleted(self, tmp_path: Path) -> None:
        store, warnings = self.store(tmp_path)
        for step in (1, 2):
            os.truncate(store.save(step, small_state()), 100)
        with pytest.raises(RunFolderError, match=r"All 2 checkpoints .* are damaged"):
            store.load_newest()
        assert len(warnings) == 2
        assert store.steps() == [1, 2]

    def test_code_in_a_checkpoint_is_not_run(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return (os.mkdir, (str(tmp_path / "sprung"),))

        store, warnings = self.store(tmp_path)
        store.save(1, {"step": 1})
        torch.save({"step": 2, "settings": {}, "state": Trap()}, store.path(2))
        assert store.load_newest() == (1, {"step": 1})
        assert "its end is missing" in warnings[0]
        with store.path(2).open("ab") as file:
            file.write(b"\nenas sha256 " + hashlib.sha256(store.path(2).read_bytes()).digest())
        assert store.load_newest() == (1, {"step": 1})
        assert "other than tensors" in warnings[1]
        assert not (tmp_path / "sprung").exists()
        torch.load(store.path(2), weights_only=False)
        assert (tmp_path / "sprung").exists()  # the trap works: it was the store that did not spring it

    @pytest.mark.parametrize(
        ("state", "where"),
        [
            ({"a": {"b": [0, Path()]}}, r"state\['a'\]\['b'\]\[1\] is a PosixPath"),
            ({"a": torch.zeros(1).numpy()}, r"state\['a'\] is a ndarray"),
            ({("a", 1): 0}, r"key \('a', 1\)"),
            ({signal.SIGTERM: 0}, r"key <Signals.SIGTERM"),
        ],
    )
    def test_what_is_not_data_is_refused_by_name(
        self, tmp_path: Path, state: dict[str, Any], where: str
    ) -> None:
        store, _ = self.store(tmp_path)
        with pytest.raises(TypeError, match=where):
            store.save(1, state)
        assert names(tmp_path) == []

    def test_a_limit_of_length_keeps_the_checkpoints_before(self, tmp_path: Path) -> None:
        store, _ = self.store(tmp_path, keep=1)
        store.save(1, {"step": 1})
        with file_limit(20_000), pytest.raises(RunFolderError, match="Raise the limit"):
            store.save(2, {"weights": torch.zeros(100_000)})
        assert names(tmp_path) == ["step-00000001.pt"]
        assert store.load_newest() == (1, {"step": 1})

    def test_the_last_saved_one_is_the_newest_after_going_back(self, tmp_path: Path) -> None:
        store, _ = self.store(tmp_path, keep=2)
        store.save(200, {"step": 200})
        os.truncate(store.save(300, {"step": 300}), 100)
        assert store.load_newest() == (200, {"step": 200})
        store.save(250, {"step": 250})
        assert store.steps() == [200, 250]

    def test_keeping_none_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="Cannot keep 0"):
            CheckpointStore(tmp_path, keep=0)


HOLD_LOCK = """
import sys, time
from enas.runtime.lock import run_lock
with run_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


class TestLock:
    def test_a_second_process_is_refused_until_the_first_is_killed(self, tmp_path: Path) -> None:
        with python(HOLD_LOCK, tmp_path) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            refusal = rf"{re.escape(str(tmp_path))} is in use by process {holder.pid} on "
            with pytest.raises(RunFolderError, match=refusal), run_lock(tmp_path):
                pytest.fail("two processes hold the folder")
            holder.kill()
            assert holder.wait() == -signal.SIGKILL
            with run_lock(tmp_path):
                owner = read_json(tmp_path / ".lock-owner.json")
                assert owner["pid"] == os.getpid()

    def test_it_is_free_after_the_block_and_after_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError), run_lock(tmp_path):
            raise KeyError
        with run_lock(tmp_path):
            with pytest.raises(RunFolderError, match=f"process {os.getpid()}"), run_lock(tmp_path):
                pytest.fail("held twice")
            (tmp_path / ".lock-owner.json").write_text("[")
            with pytest.raises(RunFolderError, match="another process"), run_lock(tmp_path):
                pytest.fail("held twice")
        with run_lock(tmp_path):
            pass

    def test_a_folder_that_is_not_there_is_not_made(self, tmp_path: Path) -> None:
        with pytest.raises(RunFolderError, match="no run folder"), run_lock(tmp_path / "typo"):
            pytest.fail("locked nothing")
        assert names(tmp_path) == []


TRAIN_UNTIL_STOPPED = """
import sys, time
from enas.runtime.stop import StopRequest, Stopped
with StopRequest() as stop:
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.01)
    print("saved", flush=True)
    stopped = stop.stopped("runs/my run")
print(stopped)
sys.exit(stopped.exit_code)
"""


class TestStop:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_a_signal_from_outside_lets_the_process_save(self, number: signal.Signals) -> None:
        with python(TRAIN_UNTIL_STOPPED) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(number)
            output, errors = process.communicate()
        assert output == (
            f"saved\nStopped by {number.name} after saving. Continue with: enas resume 'runs/my run'\n"
        )
        assert process.returncode == EXIT_STOPPED == 75
        assert errors.strip().startswith("Stopping once")

    def test_who_ignores_the_loss_of_the_terminal_goes_on(self) -> None:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        try:
            with StopRequest() as stop:
                signal.raise_signal(signal.SIGHUP)
                assert not stop.requested
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_the_second_ctrl_c_stops_at_once(self) -> None:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            assert stop.requested
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    def test_the_handlers_from_before_come_back(self) -> None:
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        with StopRequest() as stop:
            assert signal.getsignal(signal.SIGTERM) != before[1]
            assert not stop.requested
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

    def test_outside_the_main_thread_only_a_call_asks(self) -> None:
        seen: list[object] = []

        def work() -> None:
            with StopRequest() as stop:
                seen.append(signal.getsignal(signal.SIGTERM))
                stop.request("the scheduler")
                seen.append(str(stop.stopped("runs/a")))

        before = signal.getsignal(signal.SIGTERM)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert seen == [before, "Stopped by the scheduler after saving. Continue with: enas resume runs/a"]

    def test_stopping_is_an_error_the_command_line_shows(self) -> None:
        assert issubclass(Stopped, EnasError)


class TestSeeding:
    def test_seeds_are_blake2b_of_the_spelled_out_purpose(self) -> None:
        digest = hashlib.blake2b("i2:42s7:dropouti1:3i3:-17s2:ω".encode(), digest_size=8).digest()
        assert derive_seed(42, "dropout", 3, -17, "ω") == int.from_bytes(digest, "little")

    def test_known_seeds(self) -> None:
        # printf 'i2:42s7:dropouti1:3i3:-17' | b2sum -l 64, and printf 'i1:0' | b2sum -l 64
        assert derive_seed(42, "dropout", 3, -17) == int.from_bytes(
            bytes.fromhex("cc7dee9408355e93"), "little"
        )
        assert derive_seed(0) == int.from_bytes(bytes.fromhex("aaa9a94ba7fb8484"), "little")

    def test_no_two_purposes_read_the_same(self) -> None:
        purposes: list[tuple[int | str, ...]] = [
            *[(1,), (1, "a", "bc"), (1, "ab", "c"), (1, "abc"), (1, "a", "b", "c"), (1, "")],
            *[(1, "", ""), (1, 1), (1, "1"), (11,), (11, 1), (1, 11), (1, 1, 1), (-1, 1), (1, -1)],
            *[(1, "a", 1), (1, "a1"), (1, "as1:b"), (1, "a", "b"), (1, "s1:a"), (1, "1:a"), (1, "i1:1")],
        ]
        seeds = {derive_seed(*purpose) for purpose in purposes}
        assert len(seeds) == len(purposes)
        assert all(0 <= seed < 2**64 for seed in seeds)

    def test_a_generator_is_a_function_of_its_purpose_alone(self) -> None:
        global_state = torch.get_rng_state()
        a = torch.rand(1000, generator=generator(1, "mask", 2))
        again = torch.rand(1000, generator=generator(1, "mask", 2))
        other = torch.rand(1000, generator=generator(1, "mask", 3))
        assert torch.equal(a, again)
        assert not torch.equal(a, other)
        assert torch.equal(torch.get_rng_state(), global_state)


class TestDevices:
    def test_auto_is_a_device_that_computes(self) -> None:
        assert torch.ones(2, device=pick_device("auto")).sum().item() == 2.0
        assert pick_device("cpu") == torch.device("cpu")

    def test_each_reason_against_cuda_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(torch.version, "cuda", None)
        with pytest.raises(ConfigError, match=r"'cuda' cannot be used: .* built without CUDA"):
            pick_device("cuda")
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        with pytest.raises(ConfigError, match="no working CUDA driver"):
            pick_device("cuda:0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        with pytest.raises(ConfigError, match=r"'cuda:2' .* has 2 CUDA device"):
            pick_device("cuda:2")
        assert pick_device("cuda:1") == torch.device("cuda", 1)
        assert pick_device("auto") == torch.device("cuda")

    @pytest.mark.parametrize("number", ["100", "256", "9" * 20, "007", "٣", "-1", ""])
    def test_a_number_that_is_none_of_a_gpu_is_refused_before_torch_reads_it(
        self, number: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        with pytest.raises(ConfigError, match="Unknown device"):
            pick_device(f"cuda:{number}")

    def test_mps_is_used_or_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        assert pick_device("auto") == torch.device("cpu")
        with pytest.raises(ConfigError, match="'mps' cannot be used: it needs a Mac"):
            pick_device("mps")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        assert pick_device("mps") == torch.device("mps")
        assert pick_device("auto") == torch.device("cpu")

    @pytest.mark.parametrize(("times", "refused"), [(0.3, False), (1.4, False), (40.0, True)])
    def test_bf16_is_refused_where_the_processor_emulates_it(
        self, times: float, refused: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cpu = torch.device("cpu")
        monkeypatch.setattr(devices, "slowness_of_bfloat16", lambda: times)
        check_precision(cpu, "fp32", False)
        check_precision(cpu, "bf16", True)
        said = pytest.raises(ConfigError, match=f"takes {times:.0f} times as long .* --allow-slow")
        with said if refused else contextlib.nullcontext():
            check_precision(cpu, "bf16", False)

    def test_on_a_gpu_the_processor_does_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu = torch.device("cuda")
        monkeypatch.setattr(devices, "slowness_of_bfloat16", lambda: 40.0)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
        check_precision(gpu, "bf16", False)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
        with pytest.raises(ConfigError, match="this GPU has no instructions for it"):
            check_precision(gpu, "bf16", False)

    def test_products_in_bf16_are_timed(self) -> None:
        assert 0 < devices.slowness_of_bfloat16() < math.inf

    @pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:x", "cpu:1"])
    def test_unknown_devices_are_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match=f"Unknown device '{name}'"):
            pick_device(name)

    def test_threads_are_set_and_zero_is_refused(self) -> None:
        before = torch.get_num_threads()
        try:
            assert set_threads(1) == torch.get_num_threads() == 1
            assert set_threads(None) == 1
        finally:
            set_threads(before)
        with pytest.raises(ConfigError, match="0 threads"):
            set_threads(0)


class TestEnvironment:
    def test_it_names_what_a_result_depends_on(self) -> None:
        found = environment()
        assert json.loads(json.dumps(found)) == found
        assert found["torch"] == torch.__version__
        assert found["numpy"] == importlib.metadata.version("numpy")
        assert found["python"] == platform.python_version()
        assert found["threads"] == torch.get_num_threads()
        assert 1 <= found["cores"] <= (os.cpu_count() or 1)
        assert found["memory_mib"] == round(memory.total_memory_mib())
        assert found["cpu"]
        assert (found["devices"] == []) == (not torch.accelerator.is_available())
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["time"])
        assert found["git_commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found["git_commit"])
        assert {"enas", "numba", "platform", "cpu_capability"} <= set(found)

    def test_memory_left_is_part_of_all(self) -> None:
        available = memory.available_memory_mib()
        assert available is not None
        assert 0 < available <= memory.total_memory_mib()

    def test_the_tightest_control_group_counts(self, tmp_path: Path) -> None:
        membership = tmp_path / "cgroup"
        membership.write_text("1:cpu:/\n0::/jobs/one\n")
        mib = 2**20
        for group, limit in (("jobs", f"{900 * mib}"), ("jobs/one", "max")):
            (tmp_path / group).mkdir()
            (tmp_path / group / "memory.max").write_text(f"{limit}\n")
            (tmp_path / group / "memory.current").write_text(f"{500 * mib}\n")
            (tmp_path / group / "memory.stat").write_text(f"anon 1\ninactive_file {100 * mib}\n")
        assert memory._left_in_cgroups(membership, tmp_path) == 500.0
        (tmp_path / "jobs/one/memory.max").write_text(f"{600 * mib}\n")
        assert memory._left_in_cgroups(membership, tmp_path) == 200.0
        assert memory._left_in_cgroups(tmp_path / "none", tmp_path) is None


class Terminal(io.StringIO):
    """A terminal to write to."""

    def isatty(self) -> bool:
        return True


class TestProgress:
    def test_off_a_terminal_there_is_a_plain_line_an_interval_and_the_last(self) -> None:
        stream, clock = io.StringIO(), Clock()
        with progress("search", 5, "steps", interval=10, stream=stream, clock=clock) as bar:
            for step in range(5):
                clock.now += 4
                bar.advance(1, loss=5 - step / 3, ppl=20_000 / (step + 1), epoch=step)
        assert stream.getvalue().splitlines() == [
            "search: 1/5 steps, loss 5, ppl 20000, epoch 0",
            "search: 4/5 steps, about 4 s left, loss 4, ppl 5000, epoch 3",
            "search: 5/5 steps, loss 3.667, ppl 4000, epoch 4",
        ]

    def test_no_line_is_said_twice_and_none_without_progress(self) -> None:
        stream = io.StringIO()
        with progress("derive", 1, "samples", stream=stream) as bar:
            bar.advance()
        with progress("derive", 1, "samples", stream=stream):
            pass
        assert stream.getvalue() == "derive: 1/1 samples\n"

    def test_a_stopped_stage_says_where_it_stopped(self) -> None:
        stream = io.StringIO()

        def retrain() -> None:
            with progress("retrain", 9, "epochs", stream=stream, clock=Clock()) as bar:
                for _ in range(3):
                    bar.advance(ppl=70.0)
                raise Stopped("runs/a", "SIGTERM")

        with pytest.raises(Stopped):
            retrain()
        assert stream.getvalue().splitlines()[-1].startswith("retrain: 3/9 epochs")

    def test_the_time_left_counts_neither_what_was_done_before_nor_the_start(self) -> None:
        stream, clock = io.StringIO(), Clock()
        with progress("search", 100, "steps", done=90, interval=0, stream=stream, clock=clock) as bar:
            bar.advance(0)
            clock.now = 600
            bar.advance(2)
            clock.now = 630
            bar.advance(1)
        assert stream.getvalue().splitlines() == [
            "search: 90/100 steps",
            "search: 92/100 steps",
            "search: 93/100 steps, about 3 min 30 s left",
        ]

    @pytest.mark.parametrize("dumb", [False, True])
    def test_a_terminal_gets_a_bar_unless_it_cannot_draw_one(
        self, monkeypatch: pytest.MonkeyPatch, dumb: bool
    ) -> None:
        monkeypatch.setenv("TERM", "dumb" if dumb else "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        terminal = Terminal()
        with progress("search", 2, "steps", stream=terminal) as bar:
            bar.advance(1, loss=5.0)
            bar.advance(1, loss=4.5)
        text = terminal.getvalue()
        assert "2/2 steps, loss 4.5" in text
        assert ("\x1b[" in text) == ("━" in text) == (not dumb)

    def test_a_bar_says_where_it_starts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm-256color")
        terminal = Terminal()
        with progress("search", 9, "steps", done=4, stream=terminal):
            pass
        assert "4/9 steps" in terminal.getvalue()

    def test_no_color_leaves_the_bar_without_colours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        colour = re.compile(r"\x1b\[[\d;]*(?:3[0-8]|9[0-7])[\d;]*m")
        found = []
        monkeypatch.setenv("TERM", "xterm-256color")
        for no_color in ("", "1"):
            monkeypatch.setenv("NO_COLOR", no_color)
            terminal = Terminal()
            with progress("search", 2, "steps", stream=terminal) as bar:
                bar.advance()
            assert "━" in terminal.getvalue()
            found.append(colour.search(terminal.getvalue()) is not None)
        assert found == [True, False]

    def test_a_line_said_goes_to_standard_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        say("search: begins")
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("", "search: begins\n")

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            *[(0.2, "0 s"), (8.4, "8 s"), (59.6, "1 min"), (200, "3 min 20 s"), (599.4, "9 min 59 s")],
            *[(599.6, "10 min"), (740, "12 min"), (3_599, "1 h"), (7_520, "2 h 5 min"), (86_380, "1 d")],
            *[(86_400, "1 d"), (3 * 86_400 + 4 * 3_600, "3 d 4 h"), (86_400 + 86_000, "2 d")],
        ],
    )
    def test_durations_have_two_units_at_most(self, seconds: float, text: str) -> None:
        assert duration(seconds) == text

    def test_an_estimate_is_one_line(self) -> None:
        assert estimate_line("search", 730, "9 MiB of memory") == "search: about 12 min, 9 MiB of memory"


class Remembering:
    """A board that remembers."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.taken.append((tag, scalar_value, global_step))


class TestMetrics:
    def test_a_record_has_its_stage_step_time_and_numbers(self, tmp_path: Path) -> None:
        clock, board = Clock(), Remembering()
        worked = Clock()
        metrics = Metrics(JsonlLog(tmp_path / "metrics.jsonl"), lambda first_step: board, clock, worked)
        clock.now, worked.now = 1.23456, 2.34567
        metrics.record("search", 7, loss=5.5, epoch=1)
        metrics.record("search", 8, loss=float("inf"))
        assert read_jsonl(tmp_path / "metrics.jsonl") == [
            {"stage": "search", "step": 7, "time": 1.235, "work": 2.346, "loss": 5.5, "epoch": 1},
            {"stage": "search", "step": 8, "time": 1.235, "work": 2.346, "loss": None},
        ]
        infinity = float("inf")
        assert board.taken == [("search/loss", 5.5, 7), ("search/epoch", 1, 7), ("search/loss", infinity, 8)]

    @pytest.mark.parametrize("name", ["time", "work"])
    def test_no_number_can_take_the_place_of_the_time(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=f"'{name}'"):
            Metrics(JsonlLog(tmp_path / "metrics.jsonl")).record("search", 1, **{name: 3.0})

    def test_resumed_metrics_equal_those_of_a_run_never_stopped(self, tmp_path: Path) -> None:
        clock, worked = Clock(), Clock()

        def metrics_in(name: str) -> Metrics:
            return Metrics(JsonlLog(tmp_path / name), clock=clock, worked=worked)

        def work(metrics: Metrics, steps: range) -> None:
            for step in steps:
                clock.now, worked.now = clock.now + 2, worked.now + 3
                metrics.record("search", step, loss=1 / (step + 1))

        work(metrics_in("straight"), range(9))

        first = metrics_in("stopped")
        work(first, range(4))
        state = first.state()
        work(first, range(4, 6))
        clock.now = worked.now = 5000
        second = metrics_in("stopped")
        second.restore(state)
        work(second, range(4, 9))
        assert (tmp_path / "stopped").read_bytes() == (tmp_path / "straight").read_bytes()

    def test_work_goes_on_from_the_clock_of_a_checkpoint_that_does_not_tell_it(self, tmp_path: Path) -> None:
        worked = Clock()
        metrics = Metrics(JsonlLog(tmp_path / "metrics.jsonl"), worked=worked)
        metrics.restore(MetricsState(seconds=20.0))
        worked.now += 3
        assert metrics.work() == 23.0


class TestWork:
    def test_the_work_of_a_cpu_is_that_of_all_threads_and_ended_processes(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(time, "process_time", lambda: 5.0)
        monkeypatch.setattr(time, "monotonic", lambda: 100.0)
        times = SimpleNamespace(children_user=2.0, children_system=0.5)
        monkeypatch.setattr(os, "times", lambda: times)
        assert work_clock(torch.device("cpu"))() == 7.5
        assert work_clock(torch.device("cpu"), processes=2)() == 15.0
        assert work_clock(torch.device("cuda"))() == 100.0
        assert work_clock(torch.device("mps"), processes=3)() == 300.0

    def test_what_another_thread_computes_is_counted(self) -> None:
        def spin() -> None:
            before = time.thread_time()
            while time.thread_time() - before < 0.02:
                pass

        before = processor_seconds()
        thread = threading.Thread(target=spin)
        thread.start()
        thread.join()
        assert processor_seconds() - before >= 0.02

    def test_work_of_a_record_is_its_seconds_where_it_is_older(self) -> None:
        assert work_of({"seconds": 3.0, "work": 5.5}) == 5.5
        assert work_of({"seconds": 3.0, "work": 0.0}) == 0.0
        assert work_of({"seconds": 3.0}) == work_of({"seconds": 3.0, "work": None}) == 3.0
        assert work_of({"diverged": "nan"}) == 0.0


class TestTensorboard:
    def test_numbers_arrive_and_a_resume_hides_what_it_repeats(self, tmp_path: Path) -> None:
        log = JsonlLog(tmp_path / "metrics.jsonl")
        for steps in (range(4), range(2, 6)):  # the second process goes on at a checkpoint after step 1
            with contextlib.ExitStack() as stack:

                def opened(first_step: int, stack: contextlib.ExitStack = stack) -> Board:
                    return stack.enter_context(
                        contextlib.closing(tensorboard_writer(tmp_path / "board", first_step))
                    )

                metrics = Metrics(log, opened)
                for step in steps:
                    metrics.record("search", step, loss=step + len(steps) / 100)
        reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
        events = reader.EventAccumulator(str(tmp_path / "board"))
        events.Reload()
        assert [event.step for event in events.Scalars("search/loss")] == [0, 1, 2, 3, 4, 5]

    def test_without_tensorboard_the_command_that_installs_it_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        with pytest.raises(ConfigError, match=r"pip install 'enas\[tensorboard\]'"):
            tensorboard_writer(tmp_path, 0)
