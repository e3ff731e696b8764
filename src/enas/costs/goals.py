"""What a run asks of the costs of its networks: a target and limits; and which architectures meet it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from enas.architecture import Architecture
from enas.config import RunConfig
from enas.costs.bounds import CostBounds, Range
from enas.costs.latency import Latency
from enas.costs.measuring import LATENCY, RunCosts
from enas.costs.model import LatencyModel
from enas.costs.reward import CostTarget
from enas.costs.settings import MEASURES, SAME, CostMeasure
from enas.errors import ConfigError, enas_command
from enas.retrain import Network, uniform_architectures
from enas.run_records import CostRecord
from enas.runtime.files import write_json
from enas.runtime.progress import say
from enas.runtime.records import read_record
from enas.runtime.seeding import derive_seed
from enas.runtime.stop import StopRequest

NEAR = 0.05
"""By what share the cost of what is picked may be off the target: less than what counts as the same, as it is predicted, and
a machine is not always as fast."""
CHECKED = 200
"""Random architectures among which at least one has to cost what a run asks."""
MEASURED = "latencies.json"
"""The file in a run's folder that keeps what was measured of single architectures."""


@dataclass(frozen=True)
class MeasuredRecord:
    """What latencies.json holds."""

    latencies: dict[str, Latency]
    """By the id of the architecture."""


class CostGoals:
    """The target and the limits of a run, and what architectures cost by these measures: counted, or predicted."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        """`folder` is that of the run, which keeps latencies."""
        self.config = config
        self.folder = folder
        self.costs = RunCosts(config)

    @property
    def file(self) -> Path:
        """What latencies are predicted by."""
        return self.folder / LATENCY

    @property
    def measures(self) -> list[CostMeasure]:
        """What the run asks for."""
        return [
            name for name in MEASURES if name == self.config.cost.measure or name in self.config.limit.amounts
        ]

    def cost_of(self, measure: CostMeasure, architecture: Architecture) -> float:
        """A count, bytes, or milliseconds as they are predicted."""
        if measure == "latency":
            return float(self.latencies.predict([architecture])[0])
        return float(getattr(self.costs.costs(architecture), measure))

    @cached_property
    def latencies(self) -> LatencyModel:
        """What latencies are predicted by: latency.json, which the search has made."""
        return self.costs.latency_model(self.folder, self.folder / "config.json", StopRequest())

    def prepare(self, stop: StopRequest) -> None:
        """Measure what latencies are predicted by, if the run asks for latencies and that is not done yet.

        Raises `ConfigError` if no random architecture is as fast as the run asks, and `Stopped`.
        """
        if "latency" in self.measures:
            vars(self)["latencies"] = self.costs.latency_model(self.folder, self.folder / "config.json", stop)
            self.check()

    # ---- what the run asks ---------------------------------------------------------------------------------------------

    @cached_property
    def limits(self) -> CostBounds | None:
        """The bounds of the whole search, which count what it draws; None if it has none."""
        ranges = {name: Range(0.0, most) for name, most in self.config.limit.amounts.items()}
        return CostBounds(ranges, self.cost_of, self.advice) if ranges else None

    def advice(self) -> str:
        """What to do where a policy presses against a limit until the search draws nothing else: the share of random
        architectures that keep the limits tells whether there is room."""
        limits = self.limits
        assert limits is not None
        held = [limits.hold(one) for one in islice(self.uniform(), CHECKED)]
        return (
            f"Of {len(held)} random architectures {sum(held)} keep the limits. Raise them in {self.folder / 'config.json'}: "
            f"{enas_command('resume', self.folder)!r} then goes on from the last checkpoint"
        )

    def uniform(self) -> Iterator[Architecture]:
        """Distinct random architectures of the space, by which what the run asks is judged."""
        return uniform_architectures(self.config.searched_space(), derive_seed(self.config.seed, "costs"))

    def target(self) -> CostTarget | None:
        """The target, at the start of a search; None if it has none."""
        return None if self.config.cost.measure is None else CostTarget(self.config.cost, self.cost_of)

    def around(self, share: float) -> CostBounds | None:
        """The bounds of what may be picked, or be compared with it: the limits, and costs that are at most this share off
        the target; None if the run asks nothing."""
        ranges = {name: Range(0.0, most) for name, most in self.config.limit.amounts.items()}
        if (name := self.config.cost.measure) is not None:
            target, most = self.config.cost.amount, ranges.get(name, Range(0.0, math.inf)).high
            ranges[name] = Range((1 - share) * target, min((1 + share) * target, most))
        return CostBounds(ranges, self.cost_of) if ranges else None

    def check(self) -> None:
        """Raise `ConfigError`, saying what was found, if no random architecture costs what the run asks."""
        bounds = self.around(SAME)
        if bounds is None:
            return
        found = []
        for architecture in islice(self.uniform(), CHECKED):
            if bounds.hold(architecture):
                return
            found.append(architecture)
        raise ConfigError(bounds.missed(found))

    # ---- what the found one is compared with ---------------------------------------------------------------------------

    def comparable(self, architecture: Architecture) -> bool:
        """Whether an architecture costs what the found one may cost: the run is judged by such ones."""
        bounds = self.around(SAME)
        return bounds is None or bounds.hold(architecture)

    def random(self, seed: int) -> Iterator[Architecture]:
        """Distinct uniformly random ones of these, the same for the same seed, until there are no more."""
        return filter(self.comparable, uniform_architectures(self.config.searched_space(), seed))

    # ---- measured ------------------------------------------------------------------------------------------------------

    def measured(self, architectures: Sequence[Architecture]) -> list[float]:
        """The latencies of architectures, in milliseconds: each measured once, in turns with the others, and kept as long as
        the run computes on the same device with as many threads and as large a batch."""
        kept = self.kept
        known = {number: latency for number, latency in kept.items() if self.costs.measures_like(latency)}
        missing = [one for one in dict.fromkeys(architectures) if one.id not in known]
        if missing:
            path = self.folder / MEASURED
            if len(known) < len(kept):
                others = len(kept) - len(known)
                say(f"{path}: {others} of {len(kept)} have another device, batch or threads: dropped")
            known |= zip((one.id for one in missing), self.costs.latencies(missing), strict=True)
            write_json(path, asdict(MeasuredRecord(known)))
        return [known[one.id].median_ms for one in architectures]

    def measure_trained(self, networks: Iterable[Network]) -> None:
        """Measure networks that were trained, if the run asks for latencies: what their scores are set against."""
        if "latency" in self.measures:
            self.measured([one.architecture for one in networks if one.architecture is not None])

    @property
    def kept(self) -> Mapping[str, Latency]:
        """What has been measured, by the ids of architectures."""
        path = self.folder / MEASURED
        return (
            read_record(path, MeasuredRecord, "Delete it to measure again").latencies if path.exists() else {}
        )

    def again(self, architecture: Architecture) -> dict[CostMeasure, CostRecord]:
        """What an architecture costs by every measure that the run asks for, as predicted and as measured."""
        cost, found = self.config.cost, {}
        for name in self.measures:
            predicted = self.cost_of(name, architecture)
            measured = self.measured([architecture])[0] if name == "latency" else predicted
            target = cost.amount if name == cost.measure else None
            found[name] = CostRecord(predicted, measured, target, self.config.limit.amounts.get(name))
        return found

    def paid(self, result: Mapping[str, Any] | None) -> dict[CostMeasure, float]:
        """What a trained network costs, as far as its result says or it was measured."""
        if result is None:
            return {}
        counts = {name: result.get(name) for name in MEASURES}
        found: dict[CostMeasure, float] = {
            name: count for name, count in counts.items() if type(count) is int
        }
        architecture = result["architecture"]
        if architecture is not None and (latency := self.kept.get(architecture["id"])) is not None:
            found["latency"] = latency.median_ms
        return found
