"""Files that are whole or not there: atomic writes, JSON, and JSON lines that may be cut off at any byte."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from enas.errors import RunFolderError
from enas.runtime.json_text import parse_json

PART_SUFFIX = ".part"
"""Ends the name of a file that is still being written; if its process is gone, it may be deleted."""
LARGEST_JSON = 2**24
"""Most bytes that are read of a JSON file or a line of JSON. The package writes far less; a file of brackets would take
thirty times its size as memory."""
_DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
AnyPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Digest:
    """Tells whether a file still holds what was written to it."""

    bytes: int
    """Its length."""
    sha256: str
    """In hexadecimal digits."""


def digest_of(data: bytes) -> Digest:
    """The digest of a file that holds `data`."""
    return Digest(len(data), hashlib.sha256(data).hexdigest())


def digest_of_file(path: AnyPath) -> Digest:
    """The digest of a file. Raises `RunFolderError` if it is missing or unreadable."""
    return digest_of(_read(path))


# --- whole files ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_file(path: AnyPath, *, own: bool = False) -> Iterator[BinaryIO]:
    """Open a file, to write and read, that appears at `path`, whole and on the disk, once the block ends without an error.

    Until then, and after any error, `path` is what it was before.

    For a path that a user named, a missing folder is created; a link stays, and what it leads to is replaced; devices, pipes
    and standard output are written into. For a run's `own` file, a missing folder is an error, as someone has deleted it;
    and whatever is in its place is replaced, a link too, so that nothing outside the run is written.

    Raises `RunFolderError` if the disk is full, or the system refuses for another reason; `BrokenPipeError` if the reader
    of a pipe has gone.
    """
    path = Path(path)
    with _explained(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not own:
            stream = _stream_at(path)
            if stream is not None:
                with stream:
                    yield stream
                return
            path = Path(os.path.realpath(path))
            path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}{PART_SUFFIX}")
        try:
            with open(part, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
        _sync_folder(path.parent)


def _stream_at(path: Path) -> BinaryIO | None:
    """The device, pipe or standard stream at `path`, opened for writing; None for a file."""
    if not path.exists():
        return None
    for number in (1, 2):
        with contextlib.suppress(OSError):  # the stream is closed
            if os.path.samestat(path.stat(), os.fstat(number)):
                return open(number, "wb", closefd=False)
    return None if path.is_file() else open(path, "wb")


def write_atomic(path: AnyPath, data: bytes | str, *, own: bool = False) -> None:
    """Write `data` (text as UTF-8) to `path` whole or not at all; see `atomic_file` for links, folders and errors."""
    with atomic_file(path, own=own) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def write_json(path: AnyPath, value: object) -> None:
    """Write `value` as indented JSON, atomically, into a folder that exists.

    Raises `ValueError` if a number is NaN or infinite, which JSON cannot say; `RunFolderError` as `atomic_file`, or if
    the folder is gone.
    """
    write_atomic(path, _json_bytes(value, indent=2), own=True)


def _json_bytes(value: object, indent: int | None = None) -> bytes:
    """JSON as UTF-8, with a newline at its end. Bytes of paths that are not UTF-8 are escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode(errors="backslashreplace") + b"\n"


def read_json(path: AnyPath) -> Any:
    """Return what a JSON file holds, as plain values; `enas.runtime.records` checks what they are.

    Raises `RunFolderError` if the file is missing, unreadable, too large, too deep or not JSON; the line is named.
    """
    text = _read(path, LARGEST_JSON)
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise _not_json(path, error.lineno, error.msg) from error
    except UnicodeDecodeError as error:
        raise _not_json(path, text.count(b"\n", 0, error.start) + 1, "not UTF-8 text") from error
    except ValueError as error:
        raise RunFolderError(f"{path}: {error}. Run the stage that writes the file again.") from error


def clear_parts(folder: Path, locked: str) -> None:
    """Delete the unfinished files below `folder` of processes that were killed while they wrote.

    Folders inside that have a file called `locked` have owners of their own, and are left alone.
    """
    for path, folders, files in os.walk(folder):
        if Path(path) != folder and locked in files:
            folders.clear()
            continue
        for name in files:
            if name.startswith(".") and name.endswith(PART_SUFFIX):
                with contextlib.suppress(OSError):  # it does no harm
                    Path(path, name).unlink()


# --- JSON lines -------------------------------------------------------------------------------------------------------


def append_jsonl(path: AnyPath, record: Mapping[str, Any], *, make_folder: bool = True) -> None:
    """Append `record` as one line of JSON: the whole line, or nothing when the disk is full.

    The beginning of a line, left by a process that was killed while it wrote, is removed first. A missing folder is created,
    unless `make_folder` is false.

    Raises `ValueError` if a number is NaN or infinite, which JSON cannot say; `RunFolderError` if the file cannot be
    written.
    """
    line = _json_bytes(record)
    if make_folder:
        with _explained(path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
    with _log_file(path) as file:
        whole = _mend(file)
        try:
            while line:  # unbuffered writes may be short
                line = line[file.write(line) :]
        except OSError:
            file.truncate(whole)
            raise


def read_jsonl(path: AnyPath) -> list[dict[str, Any]]:
    """Return the records of a file of JSON lines, without a last line that was cut off.

    Raises `RunFolderError` if the file is missing or unreadable, or names the line before the last that is no record.
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


class JsonlLog:
    """A file of JSON lines that can be taken back to where it was when a checkpoint was saved.

    A checkpoint stores `position()`, or `digest()` where every byte counts; resuming calls `rewind` with it. What was
    logged between the checkpoint and the stop is then logged again, once, and the file ends up as if the run had never
    stopped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # The hash of the first bytes, and their number: a digest reads only what has been appended since.
        self._hash, self._hashed = hashlib.sha256(), 0

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one record to a log whose folder exists; see `append_jsonl`."""
        append_jsonl(self.path, record, make_folder=False)

    def position(self) -> int:
        """Return the length in bytes of all records so far, after forcing them onto the disk.

        Raises `RunFolderError` if the file cannot be written.
        """
        with _log_file(self.path) as file:
            length = _mend(file)
            os.fsync(file.fileno())
        _sync_folder(self.path.parent)
        return length

    def digest(self) -> Digest:
        """Return the length and the SHA-256 of all records so far; otherwise as `position`."""
        if self.position() < self._hashed:  # another file is in its place
            self._hash, self._hashed = hashlib.sha256(), 0
        with _log_file(self.path) as file:
            file.seek(self._hashed)
            appended = file.readall()
        self._hash.update(appended)
        self._hashed += len(appended)
        return Digest(self._hashed, self._hash.hexdigest())

    def rewind(self, position: int, sha256: str | None = None) -> None:
        """Cut the file to its first `position` bytes, whose SHA-256 is compared where it is given.

        Raises `RunFolderError` if the file is shorter, no record ends there, or the bytes are others: it is not the log
        that the checkpoint was saved with.
        """
        with _log_file(self.path) as file:
            length = file.seek(0, os.SEEK_END)
            if position > length or (position > 0 and _byte(file, position - 1) != b"\n"):
                raise RunFolderError(
                    f"{self.path} is not the log that the checkpoint was saved with: in its {length} bytes "
                    f"no record ends at byte {position}. Put the original file back, or delete the newest "
                    "checkpoint to resume from the one before."
                )
            file.seek(0)
            self._hash, self._hashed = hashlib.sha256(file.readall()[:position]), position
            if sha256 is not None and self._hash.hexdigest() != sha256:
                raise RunFolderError(
                    f"{self.path} is not the log that the checkpoint was saved with: its first {position} bytes "
                    "have changed. Put the original file back, or begin again in a new folder."
                )
            file.truncate(position)
            os.fsync(file.fileno())


@contextlib.contextmanager
def _log_file(path: AnyPath) -> Iterator[FileIO]:
    """Open `path`, created when missing, to read anywhere and write at its end, unbuffered; a link is refused."""

    def not_through_a_link(path: str, flags: int) -> int:
        return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    with _explained(path), open(path, "a+b", buffering=0, opener=not_through_a_link) as file:
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
    """Return the record that `line` holds, or None. A part of a record is none: its last brace is missing."""
    if len(line) > LARGEST_JSON:
        return None
    try:
        value = parse_json(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


# --- errors -----------------------------------------------------------------------------------------------------------


def _read(path: AnyPath, largest: int | None = None) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read() if largest is None else file.read(largest + 1)
    except FileNotFoundError as error:
        raise RunFolderError(
            f"{path} is missing. Check the path, or run the stage that writes it."
        ) from error
    except OSError as error:
        raise RunFolderError(f"Cannot read {path}: {error.strerror}.") from error
    if largest is not None and len(data) > largest:
        raise RunFolderError(f"{path} has more than {largest:,} bytes, which is no record of a run.")
    return data


def _not_json(path: AnyPath, line: int, reason: str) -> RunFolderError:
    return RunFolderError(
        f"{path}, line {line}: not valid JSON ({reason}). Correct the line, or run the stage that writes the "
        "file again."
    )


@contextlib.contextmanager
def _explained(path: AnyPath) -> Iterator[None]:
    """Turn the system's errors about writing `path` into a `RunFolderError` that says what to do."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise RunFolderError(
                f"Cannot write {path}: its folder is not there. If it was deleted or moved while this ran, nothing more is "
                "written; begin again, or resume where it is now."
            ) from error
        advice = {
            errno.EFBIG: "No file may be longer, by the system's limit (ulimit -f). Raise the limit, then resume.",
            errno.EISDIR: "Name a file.",
            errno.ELOOP: "It is a link, and a log is not written through one: put the file itself in its place.",
        }.get(error.errno or 0, "Check that the folder exists and may be written to.")
        if error.errno in _DISK_FULL:
            advice = f"{_free(Path(path))} Free some space or raise the quota, then resume."
        raise RunFolderError(
            f"Cannot write {path}: {error.strerror}. {advice} What was saved before is kept."
        ) from error


def _free(path: Path) -> str:
    """Say how much space is left where `path` was to be written; nothing for a device."""
    if path.exists() and not path.is_file():
        return ""
    try:
        free = shutil.disk_usage(Path(os.path.realpath(path)).parent).free
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
