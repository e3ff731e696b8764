"""Files that are whole or not there: atomic writes, JSON, and JSON lines that may be cut off at any byte."""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, cast

from enas.errors import RunFolderError

PART_SUFFIX = ".part"
"""How the name of a file that is still being written ends; one that outlives its process may be deleted."""

LARGEST_JSON = 2**24
"""Bytes of a JSON file, or of one line of JSON, that are read. What the package writes is far smaller; a file of brackets
would take thirty times its size as memory."""
DEEPEST_JSON = 64
"""Braces and brackets inside one another that are read."""
LONGEST_NUMBER = 40
"""Digits of an integer that are read."""

_SUSPECT = re.compile(rb"\d{%d}|[eE]\+?\d{3}|NaN|Infinity" % (LONGEST_NUMBER + 1))
"""What a number that is too long or not finite cannot do without: only then is every number looked at."""

_DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


@dataclass(frozen=True)
class Digest:
    """What a file holds, to be compared with what it held when it was written."""

    bytes: int
    """Its length."""
    sha256: str
    """In hexadecimal digits."""


def digest_of(data: bytes) -> Digest:
    """The digest of a file that holds `data`."""
    return Digest(len(data), hashlib.sha256(data).hexdigest())


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str], *, own: bool = False) -> Iterator[BinaryIO]:
    """Open a file that appears at `path`, whole and safe on the disk, once the block ends without an error.

    Until then, and after any error, `path` is what it was before.

    A path that a person named may be anything: its folder is created when it is missing; a link stays, and what it leads
    to is replaced; devices, pipes and standard output cannot be replaced, and are written into. A run's `own` file is in a
    folder that is there, or somebody has deleted it, which is an error; and whatever stands at its place is replaced, a
    link too, so that nothing outside of the run is written.

    Raises:
        RunFolderError: the disk is full, or the file cannot be written for another reason of the system's.
        BrokenPipeError: the reader of a pipe has gone.
    """
    path = Path(path)
    with _explained(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not own:
            flowing = _flowing(path)
            if flowing is not None:
                with flowing:
                    yield flowing
                return
            path = Path(os.path.realpath(path))
            path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}{PART_SUFFIX}")
        try:
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


def _flowing(path: Path) -> BinaryIO | None:
    """What `path` is, opened for writing, if bytes flow on from there: a device, a pipe, a standard stream."""
    if not path.exists():
        return None
    for number in (1, 2):
        with contextlib.suppress(OSError):  # the stream is closed
            if os.path.samestat(path.stat(), os.fstat(number)):
                return open(number, "wb", closefd=False)
    return None if path.is_file() else open(path, "wb")


def write_atomic(path: str | os.PathLike[str], data: bytes | str, *, own: bool = False) -> None:
    """Write `data` (text as UTF-8) to `path` whole or not at all; see `atomic_file` for links, folders and errors."""
    with atomic_file(path, own=own) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write `value` as indented JSON, atomically, into a folder that is there.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot say.
        RunFolderError: as `atomic_file`, or the folder is gone.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, _json_bytes(text) + b"\n", own=True)


def digest_of_file(path: str | os.PathLike[str]) -> Digest:
    """The digest of a file. Raises `RunFolderError` if it is missing or unreadable."""
    return digest_of(_read(path))


def _json_bytes(text: str) -> bytes:
    """JSON text as UTF-8. The bytes of a path that is not UTF-8, for which Python has lone surrogates, become escapes that
    JSON reads back."""
    return text.encode(errors="backslashreplace")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return what a JSON file holds, as plain values; `enas.runtime.records` checks what they are.

    Raises:
        RunFolderError: the file is missing, unreadable, too large, too deep or not JSON; the line is named.
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


def parse_json(text: bytes) -> Any:
    """Return what JSON text says.

    Raises:
        ValueError: it is no JSON, nests deeper than `DEEPEST_JSON`, or has a number that is infinite, NaN or longer
            than `LONGEST_NUMBER` digits.
    """
    guards: dict[str, Any] = {}
    if _SUSPECT.search(text):
        guards = {"parse_int": _short, "parse_float": _finite, "parse_constant": _finite}
    try:
        value = json.loads(text, **guards)
    except RecursionError:
        raise _too_deep() from None
    if text.count(b"{") + text.count(b"[") > DEEPEST_JSON and _depth(value) > DEEPEST_JSON:
        raise _too_deep()
    return value


def _too_deep() -> ValueError:
    return ValueError(f"braces and brackets are nested more than {DEEPEST_JSON} deep")


def _depth(value: Any) -> int:
    """How many lists and dictionaries are inside one another."""
    depth, inner = 0, [value]
    while inner := [one for one in inner if isinstance(one, dict | list)]:
        depth += 1
        inner = [part for one in inner for part in (one.values() if isinstance(one, dict) else one)]
    return depth


def _short(digits: str) -> int:
    if len(digits.lstrip("-")) > LONGEST_NUMBER:
        raise ValueError(
            f"a number of {len(digits)} digits, {digits[:10]}..., where {LONGEST_NUMBER} are the most"
        )
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:20]} is not finite")
    return number


def append_jsonl(
    path: str | os.PathLike[str], record: Mapping[str, Any], *, make_folder: bool = True
) -> None:
    """Append `record` as one line of JSON: the whole line, or nothing when the disk is full.

    A last line that an earlier process was killed in the middle of is removed first. A folder that is missing is created,
    unless `make_folder` is false.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot say.
        RunFolderError: the file cannot be written.
    """
    line = _json_bytes(json.dumps(record, ensure_ascii=False, allow_nan=False)) + b"\n"
    with _log_file(path, make_folder=make_folder) as file:
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


@dataclass
class JsonlLog:
    """A file of JSON lines that can be taken back to where it was when a checkpoint was saved.

    A checkpoint stores `position()`, or `digest()` where every byte counts; resuming calls `rewind` with it. What was
    logged between the checkpoint and the stop is then logged again, once, and the file ends up as if the run had never
    stopped.
    """

    path: Path
    _hash: Any = field(default_factory=hashlib.sha256, init=False, repr=False, compare=False)
    """Of the first `_hashed` bytes: the log only grows, so that a checkpoint need not read all of it."""
    _hashed: int = field(default=0, init=False, repr=False, compare=False)

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one record to a log whose folder is there; see `append_jsonl`."""
        append_jsonl(self.path, record, make_folder=False)

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

    def digest(self) -> Digest:
        """Return the length and the SHA-256 of all records so far, after forcing them onto the disk.

        Raises:
            RunFolderError: the file cannot be written.
        """
        length = self.position()
        with _log_file(self.path) as file:
            self._hash_up_to(file, length)
        return Digest(length, self._hash.hexdigest())

    def rewind(self, position: int, sha256: str | None = None) -> None:
        """Cut the file to its first `position` bytes, whose SHA-256 is compared where it is given.

        Raises:
            RunFolderError: the file is shorter, no record ends there, or the bytes are others: it is not the log the
                checkpoint was saved with.
        """
        self._hash, self._hashed = hashlib.sha256(), 0
        with _log_file(self.path) as file:
            length = file.seek(0, os.SEEK_END)
            if position > length or (position > 0 and _byte(file, position - 1) != b"\n"):
                raise RunFolderError(
                    f"{self.path} is not the log that the checkpoint was saved with: in its {length} bytes "
                    f"no record ends at byte {position}. Put the original file back, or delete the newest "
                    "checkpoint to resume from the one before."
                )
            if sha256 is not None:
                self._hash_up_to(file, position)
                if self._hash.hexdigest() != sha256:
                    raise RunFolderError(
                        f"{self.path} is not the log that the checkpoint was saved with: its first {position} bytes "
                        "have changed. Put the original file back, or begin again in a new folder."
                    )
            file.truncate(position)
            os.fsync(file.fileno())

    def _hash_up_to(self, file: FileIO, length: int) -> None:
        """Hash what has been added since the last time, up to this length of the file."""
        file.seek(self._hashed)
        while self._hashed < length and (part := file.read(min(2**20, length - self._hashed))):
            self._hash.update(part)
            self._hashed += len(part)


@contextlib.contextmanager
def _log_file(path: str | os.PathLike[str], *, make_folder: bool = False) -> Iterator[FileIO]:
    """Open `path`, created when missing, to read anywhere and write at its end, unbuffered; a link is refused."""
    with _explained(path):
        if make_folder:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0, opener=_not_through_a_link) as file:
            yield file


def _not_through_a_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


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
    if len(line) > LARGEST_JSON:
        return None
    try:
        value = parse_json(line)
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _read(path: str | os.PathLike[str], largest: int | None = None) -> bytes:
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
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in _DISK_FULL:
            advice = f"{_free(Path(path))} Free some space or raise the quota, then resume."
        elif error.errno == errno.EFBIG:
            advice = "No file may be longer, by the system's limit (ulimit -f). Raise the limit, then resume."
        elif error.errno == errno.EISDIR:
            advice = "Name a file."
        elif error.errno == errno.ELOOP:
            advice = "It is a link, and a log is not written through one: put the file itself in its place."
        elif error.errno == errno.ENOENT:
            raise RunFolderError(
                f"Cannot write {path}: its folder is not there. If it was deleted or moved while this ran, nothing more is "
                "written; begin again, or resume where it is now."
            ) from error
        else:
            advice = "Check that the folder exists and may be written to."
        raise RunFolderError(
            f"Cannot write {path}: {error.strerror}. {advice} What was saved before is kept."
        ) from error


def _free(path: Path) -> str:
    """Say how much space is left where `path` was to be written; nothing of what is no file of a disk."""
    if path.exists() and not path.is_file():
        return ""
    try:
        free = shutil.disk_usage(Path(os.path.realpath(path)).parent).free
    except OSError:
        return ""
    return f"{free / 2**20:,.0f} MiB are free on that disk."


def clear_parts(folder: Path, locked: str) -> None:
    """Delete the unfinished files below `folder` that processes left which were killed while they wrote.

    Folders with a file called `locked` have an owner of their own, and are left alone.
    """
    for path, folders, files in os.walk(folder):
        if Path(path) != folder and locked in files:
            folders.clear()
            continue
        for name in files:
            if name.startswith(".") and name.endswith(PART_SUFFIX):
                with contextlib.suppress(OSError):  # what cannot be deleted is in nobody's way
                    Path(path, name).unlink()


def _sync_folder(folder: Path) -> None:
    """Make a new name in `folder` survive a power failure; Windows, which opens no folders, cannot."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
