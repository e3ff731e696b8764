"""One process a run folder: a lock that the system releases itself when the process dies."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from enas.errors import FolderInUseError, RunFolderError, shortened
from enas.paths import near_folder
from enas.runtime.files import clear_parts, read_json, write_json

LOCK_FILE = ".lock"
OWNER_FILE = ".lock-owner.json"


@contextlib.contextmanager
def run_lock(folder: str | os.PathLike[str], patience: float = 0.0) -> Iterator[None]:
    """Hold `folder`, which must exist, for this block and this process alone; wait for it up to `patience` seconds.

    The system frees the lock however the process ends, `kill -9` included. A file beside it names the owner, for people to
    read. Unfinished files that a killed process left below the folder are deleted. A KeyboardInterrupt that ends the block
    gets a note if there is a checkpoint to resume from.

    Raises `RunFolderError` if the folder does not exist or cannot be written, and `FolderInUseError`, which names the
    owner, if it is in use.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):  # which says no to a name that is too long
        raise RunFolderError(f"There is no run folder {folder}; {near_folder(folder)}")
    lock = filelock.FileLock(folder / LOCK_FILE, timeout=patience)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise FolderInUseError(f"{folder} is in use by {_owner(folder)}. Wait for it, or stop it.") from None
    except OSError as error:
        raise RunFolderError(
            f"Cannot lock {folder}: {error.strerror}. Check that it may be written to."
        ) from error
    try:
        with contextlib.suppress(RunFolderError):  # the lock holds without the note
            write_json(folder / OWNER_FILE, {"pid": os.getpid(), "host": socket.gethostname()})
        clear_parts(folder, LOCK_FILE)
        yield
    except KeyboardInterrupt as interrupt:
        saved = next(folder.rglob("step-*.pt"), None)  # of `enas.runtime.checkpoint`
        if saved is not None and not hasattr(interrupt, "__notes__"):
            interrupt.add_note("the last checkpoint is kept")
        raise
    finally:
        with contextlib.suppress(OSError):
            (folder / OWNER_FILE).unlink()
        lock.release()


@contextlib.contextmanager
def folder_of_run(folder: Path) -> Iterator[None]:
    """Make a folder if it is not there, and hold it. One that was made here and in which nothing is left is removed.

    Raises `RunFolderError` if it cannot be made, and as `run_lock`.
    """
    made = not os.path.exists(folder)  # which says no to a name that is too long
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"cannot make the folder {shortened(str(folder))}: {error.strerror}; choose another for this run"
        ) from error
    try:
        with run_lock(folder):
            yield
    finally:
        with contextlib.suppress(OSError):
            if made and os.listdir(folder) == [LOCK_FILE]:
                (folder / LOCK_FILE).unlink()
                folder.rmdir()


def _owner(folder: Path) -> str:
    try:
        owner = read_json(folder / OWNER_FILE)
        return f"process {owner['pid']} on {owner['host']}"
    except (RunFolderError, LookupError, TypeError):
        return "another process"
