"""Files that are whole or not there: atomic writes, JSON, and JSON lines that may be cut off at any byte."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, cast

from enas.errors import RunFolderError

PART_SUFFIX = ".part"
"""How the name of a file that is still being written ends; one that outlives its process may be deleted."""

_DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file that appears at `path`, whole and safe on the disk, once the block ends without an error.

    Until then, and after any error, `path` is what it was before. The folder is created when it is missing.

    Raises:
        RunFolderError: the disk is full, or the file cannot be written for another reason of the system's.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}{PART_SUFFIX}")
    with _explained(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
        _sync_folder(path.parent)


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path` whole or not at all; see `atomic_file` for errors."""
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write `value` as indented JSON, atomically.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot say.
        RunFolderError: as `atomic_file`.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, _json_bytes(text) + b"\n")


def _json_bytes(text: str) -> bytes:
    """JSON text as UTF-8. The bytes of a path that is not UTF-8, for which Python has lone surrogates, become escapes that
    JSON reads back."""
    return text.encode(errors="backslashreplace")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return what a JSON file holds.

    Raises:
        RunFolderError: the file is missing, unreadable or not JSON; the line is named.
    """
    text = _read(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _not_json(path, error.lineno, error.msg) from error
    except UnicodeDecodeError as error:
        raise _not_json(path, text.count(b"\n", 0, error.start) + 1, "not UTF-8 text") from error


def append_jsonl(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Append `record` as one line of JSON: the whole line, or nothing when the disk is full.

    A last line that an earlier process was killed in the middle of is removed first.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot say.
        RunFolderError: the file cannot be written.
    """
    line = _json_bytes(json.dumps(record, ensure_ascii=False, allow_nan=False)) + b"\n"
    with _log_file(path) as file:
        whole = _mend(file)
        try:
            while line:  # unbuffered writes may be short
                line = line[file.write(line) :]
        except OSError:
            file.truncate(whole)
            raise


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the records of a file of JSON lines, without a last line that was cut off.

    Raises:
        RunFolderError: the file is missing or unreadable, or a line before the last, which is named, is no
            record.
    """
    records = []
    lines = _read(path).split(b"\n")
    for number, line in enumerate(lines, start=1):
        record = _record(line)
        if record is not None:
            records.append(record)
        elif line.strip() and number < len(lines):
            raise _not_json(path, number, "expected one record in braces")
    return records


@dataclass(frozen=True)
class JsonlLog:
    """A file of JSON lines that can be taken back to where it was when a checkpoint was saved.

    A checkpoint stores `position()`; resuming calls `rewind` with it. What was logged between the checkpoint
    and the stop is then logged again, once, and the file ends up as if the run had never stopped.
    """

    path: Path

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one record; see `append_jsonl`."""
        append_jsonl(self.path, record)

    def position(self) -> int:
        """Return the length in bytes of all records so far, after forcing them onto the disk.

        Raises:
            RunFolderError: the file cannot be written.
        """
        with _log_file(self.path) as file:
            length = _mend(file)
            os.fsync(file.fileno())
        _sync_folder(self.path.parent)
        return length

    def rewind(self, position: int) -> None:
        """Cut the file to its first `position` bytes.

        Raises:
            RunFolderError: the file is shorter, or no record ends there: it is not the log the checkpoint was
                saved with.
        """
        with _log_file(self.path) as file:
            length = file.seek(0, os.SEEK_END)
            if position > length or (position > 0 and _byte(file, position - 1) != b"\n"):
                raise RunFolderError(
                    f"{self.path} is not the log that the checkpoint was saved with: in its {length} bytes "
                    f"no record ends at byte {position}. Put the original file back, or delete the newest "
                    "checkpoint to resume from the one before."
                )
            file.truncate(position)
            os.fsync(file.fileno())


@contextlib.contextmanager
def _log_file(path: str | os.PathLike[str]) -> Iterator[FileIO]:
    """Open `path`, created when missing, to read anywhere and write at its end, unbuffered."""
    with _explained(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0) as file:
            yield file


def _mend(file: FileIO) -> int:
    """End the file after a whole line, and return its length."""
    length = file.seek(0, os.SEEK_END)
    if length == 0 or _byte(file, length - 1) == b"\n":
        return length
    file.seek(0)
    data = file.readall()
    last_line = data.rfind(b"\n") + 1
    if _record(data[last_line:]) is None:
        file.truncate(last_line)
        return last_line
    file.write(b"\n")
    return length + 1


def _byte(file: FileIO, index: int) -> bytes:
    file.seek(index)
    return file.read(1)


def _record(line: bytes) -> dict[str, Any] | None:
    """Return the record that `line` holds, or None. A part of one cannot be one: the brace closes last."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise RunFolderError(
            f"{path} is missing. Check the path, or run the stage that writes it."
        ) from error
    except OSError as error:
        raise RunFolderError(f"Cannot read {path}: {error.strerror}.") from error


def _not_json(path: str | os.PathLike[str], line: int, reason: str) -> RunFolderError:
    return RunFolderError(
        f"{path}, line {line}: not valid JSON ({reason}). Correct the line, or run the stage that writes the "
        "file again."
    )


@contextlib.contextmanager
def _explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the system's errors about writing `path` into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            advice = f"{_free(Path(path))} Free some space or raise the quota, then resume."
        else:
            advice = "Check that the folder exists and may be written to."
        raise RunFolderError(
            f"Cannot write {path}: {error.strerror}. {advice} What was saved before is kept."
        ) from error


def _free(path: Path) -> str:
    """Say how much space is left where `path` was to be written."""
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return ""
    return f"{free / 2**20:,.0f} MiB are free on that disk."


def _sync_folder(folder: Path) -> None:
    """Make a new name in `folder` survive a power failure; Windows, which opens no folders, cannot."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
