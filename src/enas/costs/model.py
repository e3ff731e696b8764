"""A model of latencies: what a pass takes, predicted from an architecture without measuring it.

Two predictors are fitted to measured architectures, and the one that predicts better is taken. Both are sums of
milliseconds.

table        A number for every option of every decision, not negative (non-negative least squares).
regression   A ridge regression on what a pass has to do: calls, multiplications and bytes by kind of operation.

Errors are relative, so that a fast network counts as much as a slow one. Letters: N architectures, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from enas.architecture import Architecture
from enas.errors import DataError

FOLDS = 10
"""Of the cross-validation."""
PENALTIES = np.logspace(-5, 2, 15)
"""Ridge penalties that are tried."""
ROUNDING = 1e-9
"""A spread below this share is rounding."""

Floats = npt.NDArray[np.float64]
PredictorName = Literal["table", "regression"]
Counted = Callable[[Architecture], Mapping[str, float]]
"""Features of an architecture, by name."""
Fit = Callable[[Floats, Floats], tuple[float, Floats]]
"""From features [N, D] and milliseconds [N] to a constant and weights [D]."""


@dataclass(frozen=True)
class Errors:
    """How far predictions are from what was measured, for architectures that were not fitted to."""

    median_relative: float
    """Half of the architectures are predicted better: |predicted - measured| / measured."""
    spearman: float | None
    """The correlation of the ranks; None where all are equal."""


@dataclass(frozen=True)
class Predictor:
    """A sum of milliseconds, and how well such a sum predicts."""

    constant_ms: float
    weights_ms: dict[str, float]
    """By the name of a feature."""
    errors: Errors


@dataclass(frozen=True)
class LatencyModel:
    """Both predictors, fitted."""

    predictors: dict[PredictorName, Predictor]
    samples: int
    """Measured architectures that it was fitted to."""
    work: Counted
    """What the passes of an architecture have to do."""

    @classmethod
    def fit(
        cls, architectures: Sequence[Architecture], measured_ms: npt.ArrayLike, work: Counted
    ) -> LatencyModel:
        """The model of what was measured. `work` counts what a pass of an architecture has to do.

        Raises `DataError` for fewer than two architectures, and for times that are not above zero.
        """
        ms_N = np.asarray(measured_ms, dtype=np.float64)
        if len(ms_N) < 2 or len(ms_N) != len(architectures) or not (np.isfinite(ms_N) & (ms_N > 0)).all():
            raise DataError(
                f"a model of latencies needs a time above zero of each of at least two architectures; there are "
                f"{len(ms_N)} times of {len(architectures)}"
            )
        fitted: dict[PredictorName, Predictor] = {
            "table": predictor(architectures, ms_N, parts_of, fit_table),
            "regression": predictor(architectures, ms_N, work, fit_regression),
        }
        return cls(fitted, len(ms_N), work)

    @property
    def best(self) -> PredictorName:
        """The predictor with the lower median error."""
        return min(self.predictors, key=lambda name: self.predictors[name].errors.median_relative)

    @property
    def errors(self) -> Errors:
        """Those of the best predictor."""
        return self.predictors[self.best].errors

    def predict(self, architectures: Sequence[Architecture]) -> Floats:
        """Milliseconds [N], never below zero. An option or a kind of operation that was never measured adds nothing."""
        used = self.predictors[self.best]
        features = {"table": parts_of, "regression": self.work}[self.best]
        sums = [
            used.constant_ms + sum(used.weights_ms.get(name, 0.0) * x for name, x in features(one).items())
            for one in architectures
        ]
        return np.maximum(np.array(sums, dtype=np.float64), 0.0)


def parts_of(architecture: Architecture) -> dict[str, float]:
    """The options that an architecture takes; at an inactive decision none."""
    space, choices = architecture.space, architecture.choices
    taken = zip(space.decisions, choices, space.active(choices), strict=True)
    return {
        f"{decision.name}={decision.options[choice]}": 1.0 for decision, choice, active in taken if active
    }


def predictor(architectures: Sequence[Architecture], ms_N: Floats, counted: Counted, fit: Fit) -> Predictor:
    """A sum of features, fitted, with the errors of a cross-validation."""
    found = [counted(architecture) for architecture in architectures]
    names = sorted({name for features in found for name in features})
    features_ND = np.array([[features.get(name, 0.0) for name in names] for features in found])
    features_ND = features_ND.reshape(len(found), len(names))
    constant, weights_D = fit(features_ND, ms_N)
    errors = errors_of(predicted_from_others(features_ND, ms_N, fit), ms_N)
    return Predictor(constant, dict(zip(names, weights_D.tolist(), strict=True)), errors)


def fit_table(features_ND: Floats, ms_N: Floats) -> tuple[float, Floats]:
    """Weights of at least zero that make Σ ((constant + features · weights) / ms - 1)² smallest."""
    from scipy.optimize import nnls  # takes a while to import

    with_constant = np.column_stack([np.ones(len(ms_N)), features_ND])
    weights = nnls(with_constant / ms_N[:, None], np.ones(len(ms_N)), maxiter=100 * with_constant.shape[1])[0]
    return float(weights[0]), weights[1:]


def fit_regression(features_ND: Floats, ms_N: Floats) -> tuple[float, Floats]:
    """The same with weights of any sign, of standardised features, their squares penalised; the penalty is the best of some
    for architectures that are left out one by one."""
    from sklearn.linear_model import RidgeCV  # takes a second to import

    mean_D, spread_D = features_ND.mean(0), features_ND.std(0)
    varies_D = spread_D > ROUNDING * np.maximum(1.0, np.abs(mean_D))
    if not varies_D.any():
        return float(np.median(ms_N)), np.zeros(len(mean_D))
    scale_D = np.where(varies_D, spread_D, np.inf) * np.sqrt(varies_D.sum())
    model = RidgeCV(PENALTIES).fit((features_ND - mean_D) / scale_D, ms_N, sample_weight=ms_N**-2)
    weights_D = model.coef_ / scale_D
    return float(model.intercept_ - mean_D @ weights_D), weights_D


def predicted_from_others(features_ND: Floats, ms_N: Floats, fit: Fit) -> Floats:
    """What is predicted for each architecture by a fit to others [N]: to all but a tenth of them."""
    fold_N = np.arange(len(ms_N)) % min(FOLDS, len(ms_N))
    predicted_N = np.empty_like(ms_N)
    for fold in np.unique(fold_N):
        held_out = fold_N == fold
        constant, weights_D = fit(features_ND[~held_out], ms_N[~held_out])
        predicted_N[held_out] = constant + features_ND[held_out] @ weights_D
    return predicted_N


def errors_of(predicted_N: Floats, ms_N: Floats) -> Errors:
    """How far predictions are from what was measured."""
    from scipy.stats import spearmanr

    orders = all(np.ptp(values_N) > ROUNDING * ms_N.mean() for values_N in (predicted_N, ms_N))
    spearman = float(spearmanr(predicted_N, ms_N).statistic) if orders else None
    return Errors(float(np.median(np.abs(predicted_N - ms_N) / ms_N)), spearman)
