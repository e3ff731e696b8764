"""What the records of a run folder hold that its stages leave, and read again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from enas.runtime.files import Digest


@dataclass(frozen=True)
class EnvironmentRecord:
    """What a resumed run reads of environment.json."""

    data_hash: str
    enas: str | None = None
    torch: str | None = None
    numba: str | None = None


@dataclass(frozen=True)
class SearchRecord:
    """What search.json holds."""

    steps: int
    seconds: float
    archive: Digest
    """Of archive.jsonl."""
    settings: dict[str, Any]


@dataclass(frozen=True)
class DeriveRecord:
    """What derive.json holds."""

    candidates: int
    seconds: float
    settings: dict[str, Any]
