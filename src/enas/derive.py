"""Deriving: from the trained policy and shared weights to one architecture (paper §2.2, "Deriving Architectures").

Three steps, each with settings of its own: candidates are collected, scored, and one of them is picked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from enas.architecture import Architecture, Space
from enas.constraints import Count, Epochs, PositiveInt, SampleSize, Settings, Weight
from enas.controllers.base import Controller
from enas.correction import Floats
from enas.costs.bounds import CostBounds, Range
from enas.costs.settings import said
from enas.effects import Effects
from enas.errors import ConfigError
from enas.runtime.progress import say
from enas.runtime.seeding import generator
from enas.shared_weights import SharedWeights
from enas.verification import Verification

Rule = Literal["reward", "mode", "shortlist", "ridge"]
Order = Literal["drawn", "reward", "ridge", "corrected"]
Train = Callable[[Sequence[Architecture]], Sequence[float]]
"""Trains architectures from scratch for a short while; returns their validation losses."""


@dataclass(frozen=True)
class DeriveConfig(Settings):
    """How an architecture is picked from the trained policy."""

    rule: Rule = "shortlist"
    """`reward`: the sample with the highest reward on validation minibatches, with the shared weights (paper);
    `mode`: the policy's most probable architecture; `ridge`: the candidate of the highest reward predicted from the
    search's logged rewards; `shortlist`: the first candidates are trained from scratch for a short while, and the best
    of them on the validation data is taken."""
    samples: PositiveInt = 10
    """Architectures sampled from the policy and scored with the shared weights, beside its most probable one."""
    minibatches: PositiveInt = 1
    """Validation minibatches a candidate is scored on, the same for all."""
    shortlist: SampleSize = 4
    """Architectures of the shortlist."""
    shortlist_epochs: Epochs = 2
    """Epochs each of the shortlist is trained for, with the recipe of the retraining."""
    shortlist_order: Order = "drawn"
    """Which candidates are the first: the policy's most probable one, then its samples as `drawn`; or those of the
    highest `reward` with the shared weights; or of the highest reward predicted by `ridge` regression. With `corrected`
    the architectures that `verify` trained are candidates too, and three orders take turns: as drawn, by the score that the
    trainings correct, and by an architecture's own training. Without trainings that is as drawn."""
    corrected_weight: Weight = 0.0
    """How much the corrected score counts beside the training of one of the shortlist, each in standard deviations over the
    shortlist. With 0 the training alone counts, as it does without a verification."""
    ridge_candidate: bool = False
    """Whether the architecture of the highest reward predicted by ridge regression, of all in the space, is a candidate
    too, right after the policy's most probable one; without rewards there is none."""
    checkpoints: PositiveInt = 1
    """The checkpoints of the search whose shared weights score the candidates: that at its end, and before it the newest of
    those by steps, `search.checkpoint_every` apart. With more than one, candidates are compared by the mean of their
    ranks."""
    finetune: Count = 0
    """Training minibatches that the shared weights are trained on by a candidate alone before it is scored; the weights
    are put back afterwards."""

    @property
    def needs_ridge(self) -> bool:
        """Whether a setting asks for the ridge regression, which needs rewards to be there."""
        return self.rule == "ridge" or self.shortlist_order == "ridge"


@dataclass
class Candidate:
    """An architecture that may be picked, and what is known of it."""

    architecture: Architecture
    is_mode: bool
    """Whether it is the policy's most probable architecture."""
    log_prob: float | None
    """log π if it was sampled; None if it was not."""
    reward: float = math.nan
    """Mean reward with the shared weights, over minibatches and checkpoints."""
    rank: float | None = None
    """Mean over several checkpoints of its place among the candidates by reward, 1 for the best, equal ones in the
    middle of their places; None with a single checkpoint, whose rewards say the same."""
    predicted: float | None = None
    """Reward predicted by ridge regression of the logged rewards; None without any."""
    corrected: float | None = None
    """Score by the trainings of the search's verification, as a normal score; None without one."""
    verified: float | None = None
    """What its own training in the verification came to, higher is better; None if it had none, or diverged."""
    latency_ms: float | None = None
    """What a pass takes, measured, if the run asks for a latency."""
    trained_loss: float | None = None
    """Validation loss after the short training, if it had one; lower is better, infinite if the training diverged."""

    @property
    def shared_score(self) -> float:
        """What candidates are compared by with the shared weights; higher is better."""
        return self.reward if self.rank is None else -self.rank

    @property
    def ridge_score(self) -> float:
        """What candidates are compared by without the shared weights of the end; higher is better."""
        return -math.inf if self.predicted is None else self.predicted

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        loss = self.trained_loss
        finite = None if loss is None or math.isinf(loss) else loss  # JSON has no infinity
        return {**vars(self), "architecture": self.architecture.to_json(), "trained_loss": finite}


# ---- collecting -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def collect(
    space: Space,
    controller: Controller,
    config: DeriveConfig,
    seed: int,
    effects: Effects | None,
    bounds: CostBounds | None = None,
) -> list[Candidate]:
    """The policy's mode, the best by ridge regression if asked for and within the `bounds`, then distinct samples of the
    policy as drawn."""
    proposals = controller.propose(config.samples, generator(seed, "derive"))
    sampled = dict(zip(proposals.architectures(space), proposals.log_prob_N.tolist(), strict=True))
    mode = space.architecture(controller.mode())
    best = [effects.best()] if config.ridge_candidate and effects is not None else []
    architectures = dict.fromkeys([mode, *within(bounds, best), *sampled])
    return [Candidate(one, one == mode, sampled.get(one)) for one in architectures]


def within(bounds: CostBounds | None, architectures: Iterable[Architecture]) -> list[Architecture]:
    """The architectures that cost what may be picked."""
    return [one for one in architectures if bounds is None or bounds.hold(one)]


# ---- scoring ----------------------------------------------------------------------------------------------------------


def shared_rewards(
    weights: SharedWeights, architectures: Sequence[Architecture], config: DeriveConfig, epoch: int
) -> Tensor:
    """Mean rewards [N] with the shared weights as they are, each fine-tuned for a moment if asked for."""
    draws = range(config.minibatches)
    if not config.finetune:
        return torch.stack([weights.rewards(architectures, "derive", draw) for draw in draws]).mean(0)
    means = []
    for architecture in architectures:
        with weights.finetuned(architecture, config.finetune, epoch):
            rewards = [weights.rewards([architecture], "derive", draw) for draw in draws]
        means.append(torch.cat(rewards).mean())
    return torch.stack(means)


def ranks(scores_N: Tensor) -> Tensor:
    """The place of every score, 1 for the highest; equal ones share the middle of their places."""
    scores_N = scores_N.cpu()  # not every device has float64
    above_NN = scores_N[None, :] > scores_N[:, None]
    equal_NN = scores_N[None, :] == scores_N[:, None]
    return above_NN.sum(1) + (equal_NN.sum(1).double() + 1) / 2


def candidates(
    weights: SharedWeights,
    controller: Controller,
    config: DeriveConfig,
    seed: int,
    *,
    effects: Effects | None = None,
    verification: Verification | None = None,
    earlier: Iterable[dict[str, Any]] = (),
    epoch: int = 0,
    bounds: CostBounds | None = None,
) -> list[Candidate]:
    """Collect the candidates and score them.

    `earlier` are states of the weights at the checkpoints before the newest, which they have now; they are left in the
    last of them. `epoch` is the one whose minibatches and learning rate a fine-tuning takes. All candidates are within the
    `bounds`, those of the `controller` by itself.
    """
    found = collect(weights.space, controller, config, seed, effects, bounds)
    trained: dict[Architecture, float | None] = {}
    if verification is not None:
        own = (record.score for record in verification.records)
        trained = dict(zip(verification.architectures, own, strict=True))
        known = {candidate.architecture for candidate in found}
        found += [Candidate(one, False, None) for one in within(bounds, trained) if one not in known]
    found = distinct(weights.space, found)
    reduced = {weights.space.reduced(one): score for one, score in trained.items()}
    for candidate in found:
        candidate.verified = reduced.get(weights.space.reduced(candidate.architecture))
    architectures = [candidate.architecture for candidate in found]
    corrected_N = None if verification is None else verification.predicted(architectures)
    scores = [shared_rewards(weights, architectures, config, epoch)]
    for state in earlier:
        weights.load_state_dict(state)
        scores.append(shared_rewards(weights, architectures, config, epoch))
    reward_N = torch.stack(scores).mean(0)
    rank_N = torch.stack([ranks(score_N) for score_N in scores]).mean(0)
    for candidate, reward, rank in zip(found, reward_N.tolist(), rank_N.tolist(), strict=True):
        candidate.reward = reward
        candidate.rank = rank if len(scores) > 1 else None
        candidate.predicted = None if effects is None else effects.predict(candidate.architecture)
    if corrected_N is not None:
        for candidate, corrected in zip(found, corrected_N.tolist(), strict=True):
            candidate.corrected = corrected
    return found


def distinct(space: Space, found: Sequence[Candidate]) -> list[Candidate]:
    """The first of the candidates that compute the same."""
    first: dict[Architecture, Candidate] = {}
    for candidate in found:
        first.setdefault(space.reduced(candidate.architecture), candidate)
    return list(first.values())


def in_time(found: Sequence[Candidate], wanted: Range, limit: float, most: int) -> list[Candidate]:
    """The candidates whose measured latency is in the range; if there are none, which is said, at most so many of the
    nearest that keep the limit, in milliseconds.

    Raises `ConfigError` if none keeps it.
    """
    timed = [(one, one.latency_ms) for one in found if one.latency_ms is not None]
    kept = [one for one, latency in timed if wanted.low <= latency <= wanted.high]
    if kept:
        return kept
    off = {
        id(one): max(wanted.low - latency, latency - wanted.high)
        for one, latency in timed
        if latency <= limit
    }
    fastest = said(min(latency for _, latency in timed), "latency")
    if not off:
        raise ConfigError(
            f"the latency of none of {len(timed)} candidates is at most {said(limit, 'latency')}, as it was predicted: the "
            f"fastest takes {fastest}. Raise derive.samples; or, if the machine was busy, delete latencies.json, and "
            "derive again"
        )
    say(
        f"derive: the latency of none of {len(timed)} candidates is between {said(wanted.low, 'latency')} and "
        f"{said(wanted.high, 'latency')}, as it was predicted; the nearest are taken"
    )
    return sorted((one for one in found if id(one) in off), key=lambda one: off[id(one)])[:most]


# ---- picking ----------------------------------------------------------------------------------------------------------


ORDERS: dict[Order, Callable[[Sequence[Candidate]], list[Candidate]]] = {
    "drawn": list,
    "reward": lambda found: sorted(found, key=lambda candidate: -candidate.shared_score),
    "ridge": lambda found: sorted(found, key=lambda candidate: -candidate.ridge_score),
    "corrected": lambda found: in_turn(found, best_of(found, "corrected"), best_of(found, "verified")),
}
"""Who is trained first; equal ones stay in the order they were collected in."""


def best_of(found: Sequence[Candidate], score: Literal["corrected", "verified"]) -> list[Candidate]:
    """The candidates that have this score, the best first."""
    known = [(value, one) for one in found if (value := getattr(one, score)) is not None]
    return [one for _, one in sorted(known, key=lambda pair: -pair[0])]


def in_turn(*orders: Sequence[Candidate]) -> list[Candidate]:
    """The first of each order, then the second of each, and so on, each candidate once."""
    turns = (one for turn in zip_longest(*orders) for one in turn if one is not None)
    return list({id(one): one for one in turns}.values())


def pick(found: Sequence[Candidate], config: DeriveConfig, train: Train) -> Candidate:
    """The candidate that the rule picks, of equal ones the first."""
    if config.rule == "mode":
        return max(found, key=lambda one: (one.is_mode, -math.inf if one.log_prob is None else one.log_prob))
    if config.rule == "ridge":
        return max(found, key=lambda candidate: candidate.ridge_score)
    if config.rule == "reward":  # not a mode that was not sampled, as in the paper
        drawn = [candidate for candidate in found if candidate.log_prob is not None or not candidate.is_mode]
        return max(drawn or found, key=lambda candidate: candidate.shared_score)
    shortlist = ORDERS[config.shortlist_order](found)[: config.shortlist]
    losses = list(train([candidate.architecture for candidate in shortlist]))
    for candidate, loss in zip(shortlist, losses, strict=True):
        candidate.trained_loss = loss
    return best_of_shortlist(shortlist, config.corrected_weight)


def best_of_shortlist(shortlist: Sequence[Candidate], corrected_weight: float) -> Candidate:
    """The best of those that were trained, by training and corrected score; of equal ones the first. One that diverged is
    not taken, unless all did."""
    loss_N = np.array([candidate.trained_loss for candidate in shortlist], dtype=np.float64)
    corrected = [candidate.corrected for candidate in shortlist]
    finite_N = np.isfinite(loss_N)
    if not corrected_weight or None in corrected or not finite_N.any():
        return shortlist[int(loss_N.argmin())]
    score_N = np.full(len(shortlist), -math.inf)
    corrected_N = np.array(corrected, dtype=np.float64)[finite_N]
    score_N[finite_N] = standardised(-loss_N[finite_N]) + corrected_weight * standardised(corrected_N)
    return shortlist[int(score_N.argmax())]


def standardised(score_N: Floats) -> Floats:
    """In standard deviations from the mean; zeros where all are equal."""
    spread = float(score_N.std())
    found: Floats = (score_N - score_N.mean()) / (spread or 1.0)
    return found
