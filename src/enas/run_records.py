"""What the records of a run folder hold that its stages leave, and read again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from enas.costs.settings import CostMeasure, said
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
    """By the clock."""
    archive: Digest
    """Of archive.jsonl."""
    settings: dict[str, Any]
    work: float | None = None
    """Seconds of work; None in a record from before they were counted."""
    drawn: int | None = None
    """Architectures that were drawn within limits, those that were over one among them; None without limits."""
    rejected: int | None = None
    """Of these, the ones that were."""


@dataclass(frozen=True)
class CostRecord:
    """What the picked architecture costs by one measure: a count, bytes, or milliseconds."""

    predicted: float
    """By what the search knew. What is counted is counted exactly."""
    measured: float
    target: float | None = None
    limit: float | None = None

    def text(self, measure: CostMeasure) -> str:
        """That in words."""
        asked = [f"a target of {said(self.target, measure)}"] if self.target is not None else []
        asked += [f"at most {said(self.limit, measure)}"] if self.limit is not None else []
        counted = self.predicted == self.measured
        found = said(self.measured, measure) + (
            "" if counted else f" measured, {said(self.predicted, measure)} predicted"
        )
        return f"{found} (asked for: {', '.join(asked)})"


@dataclass(frozen=True)
class DeriveRecord:
    """What derive.json holds."""

    candidates: int
    seconds: float
    settings: dict[str, Any]
    work: float | None = None
    """Seconds of work; None in a record from before they were counted."""
    costs: dict[CostMeasure, CostRecord] = field(default_factory=dict)
    """By the measures that the run asks for."""
