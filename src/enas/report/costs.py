"""What an architecture's network costs, beside those of random architectures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from statistics import median
from typing import Any

from enas.architecture import Architecture
from enas.costs.counting import Costs
from enas.costs.latency import Latency
from enas.costs.measuring import RunCosts
from enas.evidence.runs import aligned
from enas.retrain import uniform_architectures
from enas.runtime.progress import progress
from enas.runtime.seeding import derive_seed


@dataclass(frozen=True)
class Measured:
    """What one network costs."""

    costs: Costs
    latency: Latency | None
    """None if it was not measured."""


@dataclass(frozen=True)
class CostReport:
    """The costs of an architecture's network, and of random ones."""

    unit: str
    """What multiply-adds and activation bytes are of: one image, word or example."""
    machine: dict[str, Any]
    """Where latencies were measured."""
    architecture: Architecture | None
    own: Measured | None
    random: tuple[Measured, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values. `lower` are the random architectures that cost less, `samples` all of them."""
        return {
            "architecture": None if self.architecture is None else self.architecture.to_json(),
            "unit": self.unit,
            "samples": len(self.random),
            "machine": self.machine,
            **{name: self._row(value) for name, value, _ in self._rows()},
            **({} if self.own is None or self.own.latency is None else {"latency": asdict(self.own.latency)}),
        }

    def _row(self, value: Callable[[Measured], float]) -> dict[str, Any]:
        values = [value(one) for one in self.random]
        found = {"random_low": min(values), "random_median": median(values), "random_high": max(values)}
        if self.own is None:
            return found
        own = value(self.own)
        return {"own": own, "lower": sum(other < own for other in values), **found}

    def _rows(self) -> list[tuple[str, Callable[[Measured], float], str]]:
        """The name in JSON, the number, and how it is called."""
        rows: list[tuple[str, Callable[[Measured], float], str]] = [
            ("parameters", lambda one: one.costs.parameters, "parameters"),
            ("multiply_adds", lambda one: one.costs.multiply_adds, f"multiply-adds of one {self.unit}"),
            (
                "activation_bytes",
                lambda one: one.costs.activation_bytes,
                f"activation bytes of one {self.unit}",
            ),
        ]
        if self.random[0].latency is not None:
            rows.append(("latency_ms", milliseconds, "latency, ms"))
        return rows

    def __str__(self) -> str:
        """A table, and how latencies were measured."""
        own = [] if self.own is None else ["it", "costs more than"]
        table = [["", *own[:1], "lowest", "median", "highest", *own[1:]]]
        for name, value, words in self._rows():
            found = self._row(value)
            numbers = [
                found[key] for key in ("own", "random_low", "random_median", "random_high") if key in found
            ]
            said = [f"{number:.3g}" if name == "latency_ms" else f"{number:,.0f}" for number in numbers]
            table.append([words, *said, *([f"{found['lower']} of {len(self.random)}"] if own else [])])
        return "\n".join([*self._heading(), *aligned(table), *self._measuring()])

    def _heading(self) -> list[str]:
        others = f"{len(self.random)} random architectures"
        return [others if self.architecture is None else f"{self.architecture}\nbeside {others}", ""]

    def _measuring(self) -> list[str]:
        latency = self.random[0].latency
        if latency is None:
            return []
        own = None if self.own is None else self.own.latency
        spread = "" if own is None else f"; its turns from {own.low_ms:.3g} to {own.high_ms:.3g} ms"
        threads = f"{latency.threads} thread{'s' * (latency.threads > 1)}"
        return [
            "",
            f"latency: {self.machine['processor']} ({latency.device}), {threads}, batch {latency.batch}, plain torch, the "
            f"median of {latency.repeats} turns{spread}",
        ]


def milliseconds(one: Measured) -> float:
    """The latency. Only of what was measured."""
    assert one.latency is not None
    return one.latency.median_ms


def cost_report(
    costs: RunCosts, architecture: Architecture | None, samples: int, latency: bool
) -> CostReport:
    """The costs of a run's network of an architecture, and of `samples` random ones, or as many as there are.

    None for an architecture says only what random ones cost. Latencies are measured in turns, all on the run's device.
    """
    config = costs.config
    drawn = uniform_architectures(config.searched_space(), derive_seed(config.seed, "costs"))
    asked = [*([] if architecture is None else [architecture]), *islice(drawn, samples)]
    counted = [costs.costs(one) for one in asked]
    measured: Sequence[Latency | None] = [None] * len(asked)
    if latency:
        with progress("latency", len(asked) * costs.settings.repeats, "turns") as bar:
            measured = costs.latencies(asked, bar.advance)
    found = [Measured(*pair) for pair in zip(counted, measured, strict=True)]
    own = None if architecture is None else found.pop(0)
    return CostReport(costs.task.unit, costs.machine(), architecture, own, tuple(found))
