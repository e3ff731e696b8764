"""Records of a run: what is read is what it should be, or one line says which file and field are wrong."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from enas.errors import ArchitectureError, RunFolderError
from enas.runtime.files import (
    LARGEST_JSON,
    JsonlLog,
    clear_parts,
    digest_of_file,
    read_json,
    read_jsonl,
    write_json,
)
from enas.runtime.records import WrongRecord, check_settings, read_record, read_records, validated
from enas.spaces import architecture_from_json, architecture_in, space_from_json
from enas.spaces.macro.space import MacroSpace
from enas.spaces.micro.space import MicroSpace
from enas.spaces.recurrent.space import RecurrentSpace


@dataclass(frozen=True)
class Inner:
    size: int


@dataclass(frozen=True)
class Example:
    name: str
    share: float
    inner: Inner
    sizes: list[int]
    note: str | None = None


GOOD: dict[str, Any] = {"name": "a", "share": 0.5, "inner": {"size": 3}, "sizes": [1, 2]}

BOMBS = {
    "deep": "[" * 100_000 + "]" * 100_000,
    "a little too deep": "[" * 65 + "]" * 65,
    "deep objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "long number": "1" * 5_000,
    "number of 41 digits": "-" + "1" * 41,
    "infinite": "1e999",
    "negative infinity": "-Infinity",
    "not a number": "NaN",
    "half a character": '"\udc80"',
    "cut": '{"name": "a", ',
    "empty": "",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS.keys())
def test_what_is_no_json_of_a_record_is_one_line_that_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RunFolderError) as caught:
        read_json(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < len(str(path)) + 300
    assert "\n" not in str(caught.value)
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"a": ' + path.read_bytes() + b'}\n{"b": 1}\n')
    with pytest.raises(RunFolderError, match="line 1"):
        read_jsonl(log)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("text", ["NaN", "1e999", "1"])
def test_json_is_utf_8_and_may_have_a_mark_of_it(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(RunFolderError, match=r"a\.json, line 1: not valid JSON"):
        read_json(path)
    path.write_bytes('["é"]'.encode("utf-8-sig"))
    assert read_json(path) == ["é"]


def test_limits_let_through_what_is_just_within_them(tmp_path: Path) -> None:
    for text in ("[" * 64 + "]" * 64, "1" * 40, "1e308", '"NaN, 1e999, ' + "1" * 50 + '"', "[]," * 1000):
        whole = f"[{text}0]" if text.endswith(",") else text
        (tmp_path / "a.json").write_text(whole)
        assert read_json(tmp_path / "a.json") == json.loads(whole)


def test_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(LARGEST_JSON + 1)
    with pytest.raises(RunFolderError, match=r"a\.json has more than 16,777,216 bytes"):
        read_json(path)


def test_record_comes_back_and_more_than_it_is_left_alone(tmp_path: Path) -> None:
    expected = Example("a", 0.5, Inner(3), [1, 2])
    assert validated(Example, {**GOOD, "newer": {"x": 1}}) == expected
    write_json(tmp_path / "a.json", GOOD)
    assert read_record(tmp_path / "a.json", Example, "Delete it") == expected
    log = JsonlLog(tmp_path / "log.jsonl")
    for _ in range(2):
        log.append(GOOD)
    assert read_records(log.path, Example, "Delete it") == [expected] * 2
    with pytest.raises(WrongRecord, match=r"newer is not known"):
        validated(Example, {**GOOD, "newer": 1}, closed=True)
    with pytest.raises(WrongRecord, match=r"inner\.sise is not known; did you mean 'size'\?$"):
        validated(Example, {**GOOD, "inner": {"size": 3, "sise": 1}}, closed=True)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": 1}, "name"),
        ({"share": "0.5"}, "share"),
        ({"share": True}, "share"),
        ({"inner": {}}, "inner.size"),
        ({"inner": [3]}, "inner"),
        ({"inner": {"size": True}}, "inner.size"),
        ({"inner": {"size": 1.5}}, "inner.size"),
        ({"inner": {"size": "3"}}, "inner.size"),
        ({"sizes": [1, 2.0001]}, "sizes.1"),
        ({"sizes": "12"}, "sizes"),
        ({"note": ["x" * 10_000]}, "note"),
    ],
)
def test_wrong_field_is_named_with_its_file(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    write_json(tmp_path / "a.json", {**GOOD, **change})
    with pytest.raises(RunFolderError) as caught:
        read_record(tmp_path / "a.json", Example, "Delete it")
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}: {field} ")
    assert str(caught.value).endswith(". Delete it")
    assert len(str(caught.value)) < len(str(tmp_path)) + 200
    log = JsonlLog(tmp_path / "log.jsonl")
    log.append(GOOD)
    log.append({**GOOD, **change})
    with pytest.raises(RunFolderError, match=f"record 2: {field}"):
        read_records(log.path, Example, "Delete it")


@pytest.mark.parametrize("values", [[], [1], 1, None, "a", {}])
def test_what_is_no_record_at_all_is_refused(tmp_path: Path, values: object) -> None:
    write_json(tmp_path / "a.json", values)
    with pytest.raises(RunFolderError, match=r"a\.json: "):
        read_record(tmp_path / "a.json", Example, "Delete it")


def test_setting_that_differs_is_named_with_both_values() -> None:
    then = {"seed": 0, "search.epochs": 4, "search.gone": 1}
    check_settings(then, {"seed": 0, "search.epochs": 4, "search.new": 2}, "x.pt", "begin again")
    check_settings(None, {"seed": 1}, "x.pt", "begin again")
    with pytest.raises(RunFolderError) as caught:
        check_settings(then, {"seed": 0, "search.epochs": 2}, "x.pt", "begin again")
    assert str(caught.value) == (
        "search.epochs is 2 in config.json, but x.pt was made with 4: put 4 back, or begin again"
    )


# ---- architectures -----------------------------------------------------------------------------------------------------

RECURRENT = RecurrentSpace(3).architecture([0, 0, 1, 1, 2])


@pytest.mark.parametrize(
    "choices", [[0.9, 0, 0, 0, 0], [True, 0, 0, 0, 0], "00000", [0, 0, "0", 0, 0], [None] * 5, 3]
)
def test_choices_are_whole_numbers(choices: Any) -> None:
    with pytest.raises(ArchitectureError, match="choices"):
        architecture_from_json({"space": RECURRENT.space.to_json(), "choices": choices})


@pytest.mark.parametrize("choices", [[0.9, 0, 0, 0, 0], [True, 0, 0, 0, 0], "00000", [0, 0, 0, 0, None]])
def test_a_space_takes_whole_numbers_only(choices: Any) -> None:
    with pytest.raises(ArchitectureError, match="is no whole number"):
        RECURRENT.space.architecture(choices)


def test_id_belongs_to_the_choices(tmp_path: Path) -> None:
    record = RECURRENT.to_json()
    assert architecture_from_json(record) == RECURRENT
    without = {key: value for key, value in record.items() if key in ("space", "choices")}
    assert architecture_from_json(without) == RECURRENT
    for wrong in (
        {"choices": [1, 0, 1, 1, 2]},
        {"id": "../../x"},
        {"space": RecurrentSpace(3, ("tanh", "relu", "identity")).to_json()},
    ):
        with pytest.raises(ArchitectureError, match=r"its id is '.*', but the choices are those of"):
            architecture_from_json({**record, **wrong})
    write_json(tmp_path / "architecture.json", {**record, "id": "00000000"})
    with pytest.raises(RunFolderError, match=r"architecture\.json: its id is '00000000'"):
        architecture_in(tmp_path / "architecture.json")


@pytest.mark.parametrize(
    "space",
    [
        {"name": "recurrent", "nodes": 3.0, "functions": ["tanh"], "input_function": None},
        {"name": "recurrent", "nodes": "3", "functions": ["tanh"], "input_function": None},
        {"name": "recurrent", "nodes": 3, "functions": "tanh", "input_function": None},
        {"name": "recurrent", "nodes": 3, "functions": ["tanh"], "input_function": None, "colour": 1},
        {"name": "recurrent", "nodes": 3},
        {"name": "macro", "layers": True, "operations": ["conv3x3"]},
        {"name": "micro", "nodes": 1, "operations": [1], "one_cell": False},
        {"name": "micro", "nodes": 0, "operations": ["identity"]},
        {"name": ["macro"]},
        {"name": "x" * 10_000},
        {},
        [],
        None,
    ],
)
def test_wrong_space_is_one_short_line(space: Any) -> None:
    with pytest.raises(ArchitectureError) as caught:
        space_from_json(space)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "space", [RecurrentSpace(2, input_function="tanh"), MacroSpace(2), MicroSpace(1, one_cell=True)]
)
def test_spaces_survive_json(space: Any) -> None:
    assert space_from_json(json.loads(json.dumps(space.to_json()))) == space


# ---- logs and folders --------------------------------------------------------------------------------------------------


def test_digest_of_a_log_is_that_of_its_bytes_however_it_came_about(tmp_path: Path) -> None:
    log = JsonlLog(tmp_path / "log")
    empty = log.digest()
    for step in range(3):
        log.append({"step": step})
    three = log.digest()
    log.append({"step": 3})
    four = log.digest()
    assert len({empty, three, four}) == 3
    assert JsonlLog(log.path).digest() == four
    log.rewind(three.bytes, three.sha256)
    assert log.digest() == three
    log.append({"step": 3})
    assert log.digest() == four == JsonlLog(log.path).digest() == digest_of_file(log.path)
    with log.path.open("ab") as file:
        file.write(b'{"step": 4')  # a process was killed here
    assert log.digest() == four == digest_of_file(log.path)
    log.path.write_bytes(b"{}\n")  # another file is in its place
    assert log.digest() == digest_of_file(log.path)


def test_a_digest_is_of_what_was_logged_and_reads_only_what_is_new(tmp_path: Path) -> None:
    log, same = JsonlLog(tmp_path / "log"), JsonlLog(tmp_path / "same")
    for each in (log, same):
        each.append({"step": 0})
        each.digest()
    log.path.write_bytes(log.path.read_bytes().replace(b"0", b"7"))  # while the run goes on
    for each in (log, same):
        each.append({"step": 1})
    assert log.digest() == same.digest()
    with pytest.raises(RunFolderError, match="have changed"):
        JsonlLog(log.path).rewind(log.digest().bytes, log.digest().sha256)


def test_log_with_other_bytes_is_refused_and_kept(tmp_path: Path) -> None:
    log = JsonlLog(tmp_path / "log")
    for step in range(3):
        log.append({"step": step})
    then = log.digest()
    log.append({"step": 3})
    changed = log.path.read_bytes().replace(b"1", b"7", 1)
    log.path.write_bytes(changed)
    with pytest.raises(RunFolderError, match="have changed"):
        JsonlLog(log.path).rewind(then.bytes, then.sha256)
    assert log.path.read_bytes() == changed


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_json(folder / "a.json", 1),
        lambda folder: JsonlLog(folder / "log").append({}),
        lambda folder: JsonlLog(folder / "log").position(),
    ],
)
def test_records_make_no_folder(tmp_path: Path, write: Callable[[Path], None]) -> None:
    with pytest.raises(RunFolderError, match=r"its folder is not there"):
        write(tmp_path / "gone")
    assert list(tmp_path.iterdir()) == []


def test_unfinished_files_are_cleared_but_those_of_another_lock_are_not(tmp_path: Path) -> None:
    kept = ["retrain/a/weights.safetensors", "notes.part", "rank/b/.lock", "rank/b/.result.json.7.part"]
    gone = [
        ".config.json.7.part",
        "retrain/a/.weights.safetensors.7.part",
        "checkpoints/.step-00000001.pt.7.part",
    ]
    for name in kept + gone:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".lock").touch()
    clear_parts(tmp_path, ".lock")
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*kept, ".lock"}
