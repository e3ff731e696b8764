"""The methods that a search is compared with, as settings of its own recipe, and what a search has spent.

ENAS, evolution and random search with shared weights are one loop with other settings: the same stages run all of them.
A method may spend what the run's own method spent with the same seed, counted in evaluations: one architecture rewarded
on one validation minibatch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from enas.config import RunConfig
from enas.controllers import EvolutionConfig, ReinforceConfig, UniformConfig

ENAS, EVOLUTION, UNIFORM, SHARED_RANDOM = "enas", "evolution", "uniform", "shared-random"

MOST_PARAMETERS, MOST_MULTIPLY_ADDS, NASWOT, SYNFLOW = (
    "most-parameters",
    "most-multiply-adds",
    "naswot",
    "synflow",
)
BY_PROXY = (MOST_PARAMETERS, MOST_MULTIPLY_ADDS, NASWOT, SYNFLOW)
"""What picks by a number of untrained networks (`enas.evidence.proxies`)."""

ASHA = "asha"
"""What trains random architectures alone, and the best of them longer (`enas.evidence.halving`)."""


@dataclass(frozen=True)
class Spent:
    """The evaluations of a search, and of picking one architecture after it."""

    searching: int
    picking: int

    @property
    def evaluations(self) -> int:
        """Of both."""
        return self.searching + self.picking


Method = Callable[[RunConfig, Spent], RunConfig]


def own_name(config: RunConfig) -> str:
    """What a run's own method is called: `enas` if its controller is a policy that learns by REINFORCE, else as that is."""
    learns = isinstance(getattr(config.controller, "reinforce", None), ReinforceConfig)
    return ENAS if learns else config.controller.kind


def evolution(config: RunConfig, spent: Spent) -> RunConfig:
    """Regularised evolution in the controller's place: it proposes as many architectures as were rewarded.

    The first tenth of them at most is drawn uniformly, to fill the population.
    """
    search, usual = config.search, EvolutionConfig()
    updates = round(spent.searching / (search.proposals * max(1, search.epochs - search.warmup_epochs)))
    population = min(usual.population, max(2, spent.searching // 10))
    tournament = max(1, usual.tournament * population // usual.population)
    return replace(
        config,
        controller=EvolutionConfig(population, tournament),
        search=replace(search, updates=updates, stop_entropy=None),
    )


def shared_random(config: RunConfig, spent: Spent) -> RunConfig:
    """Random search with weight sharing (Li and Talwalkar 2019, arXiv:1902.07638).

    The shared weights are trained by uniformly drawn architectures alone. At the end all evaluations go to architectures
    drawn uniformly, each rewarded once, on the same minibatch, and one of the best is picked as the run picks.
    """
    derive = config.derive
    return replace(
        config,
        controller=UniformConfig(),
        verify=replace(config.verify, trainings=0),
        search=replace(config.search, updates=0, stop_entropy=None),
        derive=replace(
            derive,
            rule="shortlist" if derive.rule == "shortlist" else "reward",
            samples=max(1, spent.evaluations - 1),  # the controller's mode is a candidate too
            minibatches=1,
            shortlist_order="reward",
            ridge_candidate=False,
            checkpoints=1,
            finetune=0,
        ),
    )


RIVALS: Mapping[str, Method] = {SHARED_RANDOM: shared_random, EVOLUTION: evolution}
"""The searches on shared weights that there are to compare with, by name."""


def rivals(config: RunConfig) -> Mapping[str, Method]:
    """Those that are not the run's own method."""
    return {name: method for name, method in RIVALS.items() if name != own_name(config)}
