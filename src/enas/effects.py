"""What each option is worth: ridge regression of a search's logged rewards on one-hot decisions.

The reward of an architecture is taken for the sum of one number for every option it takes. Proposals that were rewarded on
one validation minibatch share that minibatch's difficulty, and those of one time the state of the shared weights; both are
taken out by comparing an architecture with its group only, the proposals rewarded with it (the "within" estimator of panel
data). What is left ranks candidates, and is a table that a person can read.

A decision with one option, and an option that was never rewarded, say nothing: their effect is 0, that of an average
option. A decision that is inactive in an architecture adds 0 to its sum; that a decision is asked at all may be worth
something, too.

Shape letters: N rewarded architectures, L decisions, D columns, one for every option of every decision, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from enas.architecture import Architecture, Space
from enas.errors import ArchitectureError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

Groups = Literal["update", "epoch"]
"""What rewards are compared within: the proposals of an update, if they share a minibatch; otherwise those of an epoch."""

FOLDS = 5
PENALTIES = np.logspace(-4, 2, 13)
"""Ridge penalties α that are tried, as multiples of N."""
CHUNK = 20_000
"""Rows of the design matrix that are held at once."""
DIGITS = 6
"""Digits that are kept, from the first one of the spread of rewards on: the rest may depend on the order of sums."""
BEAM = 64
"""Beginnings of architectures that are kept in the search for the best one of a conditional space."""
NOISE = 1e-10
"""A spread of rewards within groups that is smaller than this share of the rewards themselves is rounding."""


@dataclass(frozen=True)
class Effect:
    """What an option is worth, against the options of its decision as they were taken on average."""

    option: str
    effect: float
    """In units of the reward."""
    standard_error: float
    """Of `effect`, if rewards are a sum of effects and independent noise; the shrinkage towards 0 is not in it."""
    count: int
    """Rewarded architectures that took the option, the decision being active."""


@dataclass(frozen=True)
class Effects:
    """The fitted sum."""

    space: Space
    decisions: tuple[tuple[Effect, ...], ...]
    """For every decision, its options."""
    records: int
    """Rewarded architectures."""
    groups: int
    """Groups that they were compared within."""
    within: Groups
    asked: tuple[float, ...]
    """What a decision's average option is worth against the decision being inactive, in a conditional space; 0 elsewhere."""
    mean_reward: float
    alpha: float
    """The ridge penalty, the best of some by cross-validation."""
    explained: float
    """Share of the variance within groups that is predicted for groups that were held out; not above 0 if nothing is."""

    def predict(self, architecture: Architecture) -> float:
        """The expected reward of an architecture on an average minibatch."""
        choices = architecture.choices
        often = (sum(option.count for option in options) / self.records for options in self.decisions)
        asked = sum(asked * share for asked, share in zip(self.asked, often, strict=True))
        taken = zip(self._worth(), choices, self.space.active(choices), strict=True)
        return self.mean_reward - asked + sum(worth[choice] for worth, choice, active in taken if active)

    def _worth(self) -> list[list[float]]:
        """What each option of each decision adds, against an inactive decision."""
        pairs = zip(self.decisions, self.asked, strict=True)
        return [[option.effect + asked for option in options] for options, asked in pairs]

    def best(self) -> Architecture:
        """The architecture of the highest prediction: at every decision the best option, of equal ones the first.

        In a conditional space the best of those that are found decision by decision, keeping the `BEAM` best beginnings.
        """
        worth = self._worth()
        if not self.space.conditional:
            return self.space.architecture([adds.index(max(adds)) for adds in worth])
        begun: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for adds in worth:
            further = []
            for total, before in begun:
                possible = [choice for choice, weight in enumerate(self.space.weights(before)) if weight > 0]
                for choice in possible:
                    further.append((total + adds[choice] * (len(possible) > 1), (*before, choice)))
            begun = sorted(further, key=lambda path: -path[0])[:BEAM]
        return self.space.architecture(begun[0][1])

    def to_json(self) -> dict[str, Any]:
        """Plain values; options that were never taken have no effect (null)."""
        unknown = {"effect": None, "standard_error": None}
        decisions = [
            {
                "decision": decision.name,
                **({"asked": asked} if self.space.conditional else {}),
                "options": [asdict(option) | ({} if option.count else unknown) for option in options],
            }
            for decision, options, asked in zip(self.space.decisions, self.decisions, self.asked, strict=True)
        ]
        numbers = ("records", "groups", "within", "mean_reward", "alpha", "explained")
        return {**{name: getattr(self, name) for name in numbers}, "decisions": decisions}

    def table(self, most: int = 10) -> str:
        """The decisions on which most depends, a line each, in percent of the mean reward, for a person to read."""
        said = f"{self.records} rewards compared within {self.groups} {self.within}s"
        share = f"cross-validated share explained {self.explained:.2f}"
        if self.explained <= 0:
            return f"effects of single decisions: none that carry over ({said}; {share})"
        percent = 100 / (abs(self.mean_reward) or 1.0)
        spreads = []
        for options in self.decisions:
            taken = [option.effect for option in options if option.count]
            spreads.append(max(taken, default=0.0) - min(taken, default=0.0))
        lines = [
            f"effects of single decisions on the reward, in % of its mean, ± standard error ({said}; {share}):"
        ]
        for position in sorted(range(len(spreads)), key=lambda position: -spreads[position])[:most]:
            best_first = sorted(self.decisions[position], key=lambda option: -option.effect)
            words = [
                f"{o.option} {percent * o.effect:+.1f} ± {percent * o.standard_error:.1f}"
                for o in best_first
                if o.count
            ]
            lines.append(f"  {self.space.decisions[position].name}: {', '.join(words)}")
        if len(spreads) > most:
            lines.append(f"  and {len(spreads) - most} decisions with smaller differences: see effects.json")
        return "\n".join(lines)


@dataclass(frozen=True)
class ArchiveRecord:
    """A line of archive.jsonl: an architecture that was rewarded in an update, `step`, of an epoch."""

    epoch: int
    step: int
    choices: list[int]
    reward: float


def archive_effects(space: Space, archive: Sequence[ArchiveRecord], within: Groups) -> Effects | None:
    """Fit the records of archive.jsonl. None if no two of them can be compared, or all that can are equal.

    Raises `ArchitectureError` if the choices of a record are not in the space.
    """
    if not archive:
        return None
    options_L = [len(decision.options) for decision in space.decisions]
    for number, record in enumerate(archive, start=1):
        choices = record.choices
        if len(choices) != len(options_L) or not all(
            0 <= c < k for c, k in zip(choices, options_L, strict=True)
        ):
            raise ArchitectureError(f"the choices of record {number} are not in the {space.name} space")
    choices_NL = np.array([record.choices for record in archive], dtype=np.int64)
    reward_N = np.array([record.reward for record in archive], dtype=np.float64)
    keys = [(r.epoch, r.step) if within == "update" else (r.epoch, 0) for r in archive]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    group_N = np.array([numbers[key] for key in keys], dtype=np.int64)
    return fit_effects(space, choices_NL, reward_N, group_N, within)


def fit_effects(
    space: Space, choices_NL: Integers, reward_N: Floats, group_N: Integers, within: Groups
) -> Effects | None:
    """Ridge regression within groups, its penalty chosen by cross-validation over whole groups (over architectures, where
    there is one group). None if no two rewards can be compared, or all that can are equal."""
    n, groups = len(reward_N), int(group_N.max()) + 1
    counts_G = np.bincount(group_N, minlength=groups)
    if counts_G.max() < 2:
        return None
    options_L = [len(decision.options) for decision in space.decisions]
    start_L = np.cumsum([0, *options_L])
    width = int(start_L[-1])
    active_NL = _active(space, choices_NL)
    column_NL = choices_NL + start_L[:-1]
    cell_NL = group_N[:, None] * width + column_NL
    taken_GD = np.bincount(cell_NL.ravel(), active_NL.ravel(), groups * width).reshape(groups, width)
    mean_GD, taken_D = taken_GD / counts_G[:, None], taken_GD.sum(0)
    share_D = taken_D / np.repeat(np.maximum(active_NL.sum(0), 1), options_L)  # where the decision is active
    centred_N = reward_N - (np.bincount(group_N, reward_N, groups) / counts_G)[group_N]

    fold_N = (group_N if groups > 1 else np.arange(n)) % FOLDS
    gram_FDD, moment_FD, sum_FD = np.zeros((FOLDS, width, width)), *np.zeros((2, FOLDS, width))
    power_F: Floats = np.bincount(fold_N, centred_N**2, FOLDS).astype(np.float64)
    for fold in range(FOLDS):
        rows = np.flatnonzero(fold_N == fold)
        for begin in range(0, len(rows), CHUNK):
            part = rows[begin : begin + CHUNK]
            x_ND = -mean_GD[group_N[part]]
            x_ND[np.arange(len(part))[:, None], column_NL[part]] += active_NL[part]
            gram_FDD[fold] += x_ND.T @ x_ND
            moment_FD[fold] += x_ND.T @ centred_N[part]
            sum_FD[fold] += x_ND.sum(0)
    gram_DD: Floats = gram_FDD.sum(0)
    moment_D: Floats = moment_FD.sum(0)
    power = float(power_F.sum())
    spread = math.sqrt(power / n)
    if spread <= NOISE * float(np.abs(reward_N).max()):
        return None
    rest_FDD, rest_FD = gram_DD - gram_FDD, moment_D - moment_FD
    if groups == 1:  # the rest alone makes the mean that it and what is held out are compared with
        square_FDD = sum_FD[:, :, None] * sum_FD[:, None]
        total_F = np.bincount(fold_N, centred_N, FOLDS)
        rest_F = n - np.bincount(fold_N, minlength=FOLDS)
        moved_F = (n + rest_F) / rest_F**2
        rest_FDD -= square_FDD / rest_F[:, None, None]
        rest_FD -= sum_FD * (total_F / rest_F)[:, None]
        gram_FDD += square_FDD * moved_F[:, None, None]
        moment_FD += sum_FD * (total_F * moved_F)[:, None]
        power_F += total_F**2 * moved_F
    held_power = float(power_F.sum())

    def solved(gram_DD: Floats, moment_D: Floats, alpha: float) -> Floats:
        return np.asarray(np.linalg.solve(gram_DD + alpha * np.eye(width), moment_D), dtype=np.float64)

    def held_out(alpha: float) -> float:
        """Share of the variance that is not predicted; to digits that do not depend on the order of sums."""
        error = 0.0
        for fold in range(FOLDS):
            w_D = solved(rest_FDD[fold], rest_FD[fold], alpha)
            error += power_F[fold] - 2 * w_D @ moment_FD[fold] + w_D @ gram_FDD[fold] @ w_D
        return round(float(error) / held_power, DIGITS)

    alphas = sorted((n * PENALTIES).tolist(), reverse=True)  # of equally good ones the largest
    alpha = min(alphas, key=held_out)
    w_D = solved(gram_DD, moment_D, alpha)
    inverse_DD = np.linalg.inv(gram_DD + alpha * np.eye(width))
    residual = max(float(power - 2 * w_D @ moment_D + w_D @ gram_DD @ w_D), 0.0)
    freedom = max(n - groups - float(np.trace(inverse_DD @ gram_DD)), 1.0)
    covariance_DD = inverse_DD @ gram_DD @ inverse_DD * (residual / freedom)
    decimals = DIGITS - 1 - math.floor(math.log10(spread))

    decisions = []
    for start, decision in zip(start_L, space.decisions, strict=False):
        here = slice(int(start), int(start) + len(decision.options))
        share_K = share_D[here]
        contrast_KK = np.eye(len(share_K)) - share_K  # row k: option k minus the average one
        effect_K = np.where(taken_D[here] > 0, contrast_KK @ w_D[here], 0.0)
        variance_K = (contrast_KK @ covariance_DD[here, here] * contrast_KK).sum(1)
        decisions.append(
            tuple(
                Effect(
                    name, rounded(effect, decimals), rounded(max(variance, 0.0) ** 0.5, decimals), int(count)
                )
                for name, effect, variance, count in zip(
                    decision.options, effect_K.tolist(), variance_K.tolist(), taken_D[here], strict=True
                )
            )
        )
    asked_L = np.add.reduceat(share_D * w_D, start_L[:-1]) * space.conditional
    return Effects(
        space=space,
        asked=tuple(rounded(asked, decimals) for asked in asked_L.tolist()),
        decisions=tuple(decisions),
        records=n,
        groups=groups,
        within=within,
        mean_reward=round(float(reward_N.mean()), decimals),
        alpha=alpha,
        explained=rounded(1 - held_out(alpha), DIGITS),
    )


def rounded(value: float, decimals: int) -> float:
    """Rounded to `decimals`, and never -0."""
    return round(value, decimals) + 0.0


def _active(space: Space, choices_NL: Integers) -> Floats:
    """1 where a decision is active, otherwise 0 [N, L]."""
    if not space.conditional:
        return np.ones(choices_NL.shape)
    paths, path_N = np.unique(choices_NL, axis=0, return_inverse=True)
    active_PL = [space.active(space.architecture(path).choices) for path in paths.tolist()]
    return np.array(active_PL, dtype=np.float64)[path_N.ravel()]
