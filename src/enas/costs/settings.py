"""What a search is asked of the costs of networks: a target, and limits, as amounts with units. No torch in here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from enas.constraints import Settings, Weight
from enas.errors import ConfigError, SettingError, shown

CostMeasure = Literal["parameters", "multiply_adds", "activation_bytes", "latency"]
MEASURES: tuple[CostMeasure, ...] = get_args(CostMeasure)
COUNTS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
UNITS: dict[CostMeasure, dict[str, float]] = {
    "parameters": COUNTS,
    "multiply_adds": COUNTS,
    "activation_bytes": BYTES,
    "latency": TIMES,
}
"""What a unit is worth: of a latency in milliseconds."""


def amount_of(setting: str, text: str, measure: CostMeasure) -> float:
    """The number that an amount such as `5ms`, `500k` or `64MiB` is: a count, bytes, or milliseconds.

    Raises `SettingError`, which begins with the name of the `setting`, for a unit that is missing or not known, and for what
    is no number above 0.
    """
    units = UNITS[measure]
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([A-Za-z]*)", text)
    number, unit = found.groups() if found else ("0", "")
    if unit not in units or float(number) == 0:
        which = f"{'none or ' if '' in units else ''}one of the units {', '.join(filter(None, units))}"
        raise SettingError(f"{setting} must be a number above 0 with {which}, not {shown(text)}")
    return float(number) * units[unit]


WORDS: dict[CostMeasure, tuple[str, str]] = {
    "parameters": ("smallest", "largest"),
    "multiply_adds": ("cheapest", "dearest"),
    "activation_bytes": ("smallest", "largest"),
    "latency": ("fastest", "slowest"),
}
"""What a network that has least of it is called, and one that has most."""


def said(amount: float, measure: CostMeasure) -> str:
    """An amount with a unit, for people: `4.97 ms`, `412,300 parameters`."""
    if measure == "latency":
        return f"{amount:.4g} ms"
    if measure == "activation_bytes":
        return f"{amount / 2**20:.4g} MiB of activations"
    return f"{amount:,.0f} {measure.replace('_', '-')}"


SAME = 0.1
"""By what share of it a cost may be off the target and still count as the same."""


@dataclass(frozen=True)
class CostConfig(Settings):
    """What the network that is searched shall cost: a part of the reward."""

    measure: CostMeasure | None = None
    """What is counted: the parameters of an architecture's own network; the multiply-adds or the bytes of activations of one
    input; or its latency, measured on this machine. None lets the reward alone decide."""
    target: str | None = None
    """How much of that the found network shall have, with a unit: 5ms, 500k, 64MiB."""
    weight: Weight | None = None
    """What is taken off the reward for a cost of twice the target or of none (|β| of TuNAS's absolute reward). None takes it
    from the first rewards: a cost that is a tenth off the target then weighs as much as their standard deviation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.target is None) is not (self.measure is None):
            raise ConfigError(
                f"cost.target says how much and cost.measure of what, one of {', '.join(MEASURES)}: give both, or none"
            )
        if self.weight is not None and self.target is None:
            raise ConfigError("cost.weight weighs how far a cost is off cost.target, which is missing")
        if self.measure is not None:
            _ = self.amount

    @property
    def amount(self) -> float:
        """The target as a number: a count, bytes, or milliseconds."""
        assert self.measure is not None  # it is asked only where there is a target
        assert self.target is not None
        return amount_of("target", self.target, self.measure)


@dataclass(frozen=True)
class LimitConfig(Settings):
    """What no architecture of a search may cost more than: one that does is rejected, and another one drawn."""

    parameters: str | None = None
    """Of an architecture's own network, such as 500k."""
    multiply_adds: str | None = None
    """Of one input, such as 20M."""
    activation_bytes: str | None = None
    """Of one input, such as 64MiB."""
    latency: str | None = None
    """Of its forward pass on this machine, such as 5ms."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.amounts

    @property
    def amounts(self) -> dict[CostMeasure, float]:
        """The limits that there are, as numbers."""
        given = {measure: getattr(self, measure) for measure in MEASURES}
        return {
            measure: amount_of(measure, text, measure) for measure, text in given.items() if text is not None
        }


def asked(cost: CostConfig, limit: LimitConfig) -> str:
    """What both ask, in words; empty if that is nothing."""
    parts = [f"at most {said(most, measure)}" for measure, most in limit.amounts.items()]
    if cost.measure is not None:
        parts.insert(0, f"{said(cost.amount, cost.measure)} within {100 * SAME:.0f} %")
    return ", ".join(parts)
