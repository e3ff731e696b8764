"""A model of what an architecture scores when it is trained alone, from its shared score, its costs and its decisions.

A Bayesian ridge regression. Rewards with shared weights are one of its features, so that they count as far as trainings bear
them out: with a negative weight where the two disagree, with none where the shared weights know nothing.

Letters: N architectures, D features.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

from enas.architecture import Architecture, Space
from enas.runtime.seeding import derive_seed

Floats = npt.NDArray[np.float64]
Costs = Callable[[Architecture], Sequence[float]]
"""What an architecture's own network costs, such as its parameters and its multiply-adds; always as many numbers."""

REFERENCES = 128
"""Uniformly random architectures whose features are the scale of all others'."""
SHARED, COSTS, COUNTS, DECISIONS = 0.5, 1.0, 0.5, 0.1
"""Prior variances of what the groups of features contribute, relative to one another. Costs order architectures well in many
spaces; single decisions are many, and a few trainings cannot tell them apart."""


class Features:
    """What is known of an architecture before it is trained: the logarithms of its costs, how often it takes an option of
    each name, and which option it takes at each decision.

    What has no part in an architecture's output is not looked at, and an inactive decision takes no option. Features are
    standardised over uniformly random architectures, and scaled so that each group has its prior variance, spread evenly
    over those of its features that vary.
    """

    def __init__(self, space: Space, costs: Costs, seed: int) -> None:
        self.space = space
        self.costs = costs
        self.names = sorted({(d.kind, option) for d in space.decisions for option in d.options})
        self._known: dict[Architecture, Floats] = {}
        rng = random.Random(derive_seed(seed, "features"))
        reference_ND = np.stack([self._raw(space.sample(rng)) for _ in range(REFERENCES)])
        self._mean_D = reference_ND.mean(0)
        spread_D = reference_ND.std(0)
        varies_D = spread_D > 1e-9 * np.maximum(1.0, np.abs(self._mean_D))
        self._scale_D = np.zeros_like(spread_D)
        start = 0
        for width, variance in zip(self._widths, (COSTS, COUNTS, DECISIONS), strict=True):
            here = slice(start, start + width)
            used = varies_D[here]
            self._scale_D[here][used] = np.sqrt(variance / max(1, used.sum())) / spread_D[here][used]
            start += width

    def __call__(self, architectures: Sequence[Architecture]) -> Floats:
        """The features [N, D]."""
        raw_ND = np.stack([self._raw(one) for one in architectures])
        found: Floats = (raw_ND - self._mean_D) * self._scale_D
        return found

    @cached_property
    def _widths(self) -> tuple[int, int, int]:
        example = next(iter(self._known))
        decisions = sum(len(decision.options) for decision in self.space.decisions)
        return len(self.costs(example)), len(self.names), decisions

    def _raw(self, architecture: Architecture) -> Floats:
        architecture = self.space.reduced(architecture)
        found = self._known.get(architecture)
        if found is None:
            decisions = self.space.decisions
            choices = architecture.choices
            taken = list(zip(decisions, choices, self.space.active(choices), strict=True))
            counts = Counter((d.kind, d.options[choice]) for d, choice, active in taken if active)
            one_hot = [
                float(active and option == choice)
                for d, choice, active in taken
                for option in range(len(d.options))
            ]
            costs = np.log1p(self.costs(architecture))
            found = np.array([*costs, *(counts[name] for name in self.names), *one_hot])
            self._known[architecture] = found
        return found


def normal_scores(scores: npt.ArrayLike) -> Floats:
    """What a standard normal sample of that size has at these places in the order; equal scores share theirs.

    Scores of trainings are skewed, and a few that fail would decide a regression.
    """
    ranks = scipy.stats.rankdata(scores)
    found: Floats = scipy.stats.norm.ppf((ranks - 0.5) / len(ranks))
    return found


@dataclass(frozen=True, eq=False)
class Correction:
    """The fitted model. What it predicts is the normal score of a training among those that it was fitted to."""

    features: Features
    mean_shared: float
    spread_shared: float
    intercept: float
    weight_D: Floats
    """Of the shared score, then of the features."""
    covariance_DD: Floats
    """Of the weights, given the trainings."""
    noise: float
    """Variance of a training about what the model says."""

    @classmethod
    def fit(
        cls, features: Features, architectures: Sequence[Architecture], shared_N: Floats, trained_N: Floats
    ) -> Correction:
        """Fit architectures that were rewarded with shared weights and trained alone. `trained_N` may hold -infinity for a
        training that diverged."""
        from sklearn.linear_model import BayesianRidge  # takes a second to import

        mean, spread = float(shared_N.mean()), float(shared_N.std())
        inputs_ND = np.column_stack([_standard(shared_N, mean, spread), features(architectures)])
        model = BayesianRidge().fit(inputs_ND, normal_scores(trained_N))
        return cls(
            features,
            mean,
            spread,
            float(model.intercept_),
            model.coef_,
            model.sigma_,
            1 / float(model.alpha_),
        )

    def inputs(self, architectures: Sequence[Architecture], shared_N: Floats) -> Floats:
        """What the model is a linear function of [N, D]: the shared score first."""
        standard_N = _standard(shared_N, self.mean_shared, self.spread_shared)
        return np.column_stack([standard_N, self.features(architectures)])

    def predict(self, architectures: Sequence[Architecture], shared_N: Floats) -> Floats:
        """The expected normal scores [N]."""
        return self.inputs(architectures, shared_N) @ self.weight_D + self.intercept

    def drawn(self, inputs_ND: Floats, rng: np.random.Generator) -> Floats:
        """Normal scores [N] by weights drawn from their distribution, for Thompson sampling (Thompson 1933)."""
        return inputs_ND @ rng.multivariate_normal(self.weight_D, self.covariance_DD) + self.intercept

    def posterior(self, architectures: Sequence[Architecture], shared_N: Floats, trained_N: Floats) -> Floats:
        """The expected normal scores [N] of the architectures that it was fitted to, their own trainings counted.

        Half of what the model leaves unexplained is taken for noise of the trainings, the other half for what is particular
        to an architecture.
        """
        inputs_ND = self.inputs(architectures, shared_N)
        predicted_N = inputs_ND @ self.weight_D + self.intercept
        variance_N = (inputs_ND @ self.covariance_DD * inputs_ND).sum(1)
        trust_N = (variance_N + self.noise / 2) / (variance_N + self.noise)
        found: Floats = predicted_N + trust_N * (normal_scores(trained_N) - predicted_N)
        return found

    @property
    def shared_weight(self) -> float:
        """What one standard deviation of the shared score adds to the normal score."""
        return float(np.sqrt(SHARED) * self.weight_D[0])

    def state_dict(self) -> dict[str, Any]:
        """The numbers, as plain values."""
        arrays = {"weight_D": self.weight_D.tolist(), "covariance_DD": self.covariance_DD.tolist()}
        names = ("mean_shared", "spread_shared", "intercept", "noise")
        return {**{name: getattr(self, name) for name in names}, **arrays}

    @classmethod
    def from_state(cls, features: Features, state: Mapping[str, Any]) -> Correction:
        """What `state_dict` returned, with the features of its space."""
        arrays = {name: np.array(state[name]) for name in ("weight_D", "covariance_DD")}
        return cls(features, **{**state, **arrays})


def _standard(shared_N: Floats, mean: float, spread: float) -> Floats:
    """The shared score as a feature of its prior variance; 0 where all are equal."""
    return np.zeros_like(shared_N) if spread == 0 else np.sqrt(SHARED) * (shared_N - mean) / spread


def predicted_from_others(
    features: Features, architectures: Sequence[Architecture], shared_N: Floats, trained_N: Floats
) -> Floats:
    """What the model predicts for each architecture when it is fitted to the others [N]."""
    found = np.empty(len(architectures))
    for place, architecture in enumerate(architectures):
        others = [index for index in range(len(architectures)) if index != place]
        model = Correction.fit(
            features, [architectures[o] for o in others], shared_N[others], trained_N[others]
        )
        found[place] = model.predict([architecture], shared_N[[place]])[0]
    return found
