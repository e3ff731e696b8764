"""Kernels on the disk, for the next process.

numba keeps a kernel as a pickle, and reading a pickle can run any code. So the files are in a folder of their own, to which
only the user can write. Whatever is wrong with a file, the kernel is compiled and work goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache

from enas.runtime.compiling import announce


@cache
def _sources() -> str:
    """A hash of this package's kernels and of all that they may call."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def why_not_safe(folder: Path) -> str | None:
    """Why files of this folder cannot be trusted; None if they can. Makes a missing folder."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(0o700)
        found = folder.lstat()
    except OSError as error:
        return f"{folder}: {error.strerror}"
    if not stat.S_ISDIR(found.st_mode):
        return f"{folder} is no folder"
    if hasattr(os, "geteuid"):
        if found.st_uid != os.geteuid():
            return f"{folder} belongs to another user"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return f"other users can write to {folder}"
    return None


class _Files(FunctionCache):
    """numba's cache on disk, in a folder of its own.

    By itself it notices only changes of the file that a kernel is in. So the names of its files hold a hash of the whole
    package of kernels, and those of other versions are never read.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        super().__init__(function)
        self._cache_path = os.path.join(self._cache_path, "kernels")
        self._cache_file = IndexDataCacheFile(
            self._cache_path,
            f"{self._impl.filename_base}-{_sources()[:16]}",
            self._impl.locator.get_source_stamp(),
        )


class KernelCache(NullCache):
    """A kernel's dispatcher reads compiled code from it, and gives it compiled code to keep. Problems with files raise
    nothing."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._name = function.__name__
        self._files: _Files | None = None
        self.why_not: str | None = None
        """Why nothing is kept."""
        try:
            files = _Files(function)
            self.why_not = why_not_safe(Path(files.cache_path))
        except Exception as error:  # no folder that can be written to, or another numba
            self.why_not = str(error) or type(error).__name__
        if self.why_not is None:
            self._files = files

    @property
    def where(self) -> str:
        """Whether and where compiled code is kept, in words."""
        return f"kept in {self.cache_path}" if self.why_not is None else f"not kept: {self.why_not}"

    @property
    def cache_path(self) -> str | None:
        """The folder; None where nothing is kept."""
        return None if self._files is None else str(self._files.cache_path)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled code of a combination of types; None if it has to be compiled, which is announced."""
        found = None
        if self._files is not None:
            with contextlib.suppress(Exception):  # damaged, cut or unreadable files
                found = self._files.load_overload(sig, target_context)
        if found is None:
            announce(self._name, self.where)
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep compiled code; an index that cannot be read is begun anew."""
        if self._files is None:
            return
        try:
            self._files.save_overload(sig, data)
        except Exception:
            with contextlib.suppress(Exception):  # a full disk
                self._files.flush()
                self._files.save_overload(sig, data)
