"""All decisions of a space as one padded table of categorical distributions.

Shape letters: N proposals, L decisions, K options of the decision that has most. An option that a decision
does not have carries the logit -inf: probability 0, never sampled, no gradient. In a conditional space so does an option
that cannot be taken after the choices before it: an inactive decision has log p = 0 and entropy 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from enas.architecture import Space


def uniform_logits(space: Space) -> Tensor:
    """Logits [L, K] that make the options of a decision equally probable: 0, and -inf where there is none."""
    counts = [len(decision.options) for decision in space.decisions]
    logits_LK = torch.full((len(counts), max(counts)), -math.inf)
    for logits_K, count in zip(logits_LK, counts, strict=True):
        logits_K[:count] = 0.0
    return logits_LK


def maximum_entropy(space: Space) -> float:
    """The entropy in nats of the uniform distribution over the space."""
    return math.log(space.count())


def largest_entropy(space: Space, choices_NL: Tensor) -> float:
    """The largest mean entropy in nats that these proposals can have: at every decision that of equal probabilities of what
    can be taken after the choices before it. That of the whole space, where all decisions are always asked."""
    if not space.conditional:
        return maximum_entropy(space)
    ways = [
        math.prod(sum(weight > 0 for weight in space.weights(path[:place])) for place in range(len(path)))
        for path in choices_NL.tolist()
    ]
    return sum(map(math.log, ways)) / len(ways)


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Independent standard Gumbel noise: the argmax of logits + noise is a sample of their softmax.

    Drawn on the generator's device: the same generator gives the same sample whichever device `like` is on.
    """
    exponential = torch.empty(shape, dtype=like.dtype, device=generator.device).exponential_(
        generator=generator
    )
    # An exponential of exactly 0 would give +inf, and a missing option (-inf) then a NaN, which argmax picks.
    return exponential.clamp_(min=torch.finfo(like.dtype).tiny).log_().neg_().to(like.device)


def weighted(space: Space, logits_NK: Tensor, before_Nl: Tensor) -> Tensor:
    """The logits [N, K] of the decision after these choices in a conditional space, -inf for what cannot be taken.

    log(weight · number of options that can be taken) is added to those given, which is 0 where all are equally probable:
    equal logits make uniform sampling.
    """
    options = logits_NK.shape[-1]
    rows = [_weights(space, before, options) for before in before_Nl.tolist()]
    return _plus_log(logits_NK, torch.tensor(rows, dtype=torch.float64))


def _weights(space: Space, before: Sequence[int], options: int) -> tuple[float, ...]:
    """The weights after these choices, 0 for options that the decision does not have."""
    weights = space.weights(before)
    return weights + (0.0,) * (options - len(weights))


def _plus_log(logits: Tensor, weights: Tensor) -> Tensor:
    """What `weighted` says, for weights of any shape [..., K]."""
    offsets = (weights * (weights > 0).sum(-1, keepdim=True)).log().to(logits)
    return (logits + offsets).masked_fill(offsets.isneginf(), -math.inf)


def largest(space: Space, logits_LK: Tensor, noise_NLK: Tensor) -> tuple[Tensor, Tensor]:
    """The option of the largest logit after adding noise at every decision [N, L], and the logits [N or 1, L, K]."""
    if not space.conditional:
        return (logits_LK.detach() + noise_NLK).argmax(-1), logits_LK.unsqueeze(0)
    choices_NL = torch.zeros((len(noise_NLK), 0), dtype=torch.int64, device=logits_LK.device)
    steps = []
    for logits_K, noise_NK in zip(logits_LK, noise_NLK.unbind(1), strict=True):
        steps.append(weighted(space, logits_K.expand_as(noise_NK), choices_NL))
        choice_N1 = (steps[-1].detach() + noise_NK).argmax(-1, keepdim=True)
        choices_NL = torch.cat((choices_NL, choice_N1), 1)
    return choices_NL, torch.stack(steps, 1)


def sample(space: Space, logits_LK: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`n` independent choices of an option for every decision [N, L], and the logits they come from [N or 1, L, K]."""
    return largest(space, logits_LK, gumbel_noise((n, *logits_LK.shape), generator, like=logits_LK))


def along(space: Space, logits_LK: Tensor, choices_NL: Tensor) -> Tensor:
    """The logits of all decisions along these paths [N or 1, L, K]."""
    if not space.conditional:
        return logits_LK.unsqueeze(0)
    length, options = logits_LK.shape
    rows = [
        [_weights(space, path[:place], options) for place in range(length)] for path in choices_NL.tolist()
    ]
    return _plus_log(logits_LK, torch.tensor(rows, dtype=torch.float64))


def log_probs(logits_NLK: Tensor, choices_NL: Tensor) -> Tensor:
    """log p of the option taken at every decision [N, L]. `logits_NLK` may have one row for all N."""
    log_p_NLK = logits_NLK.log_softmax(-1).expand(len(choices_NL), -1, -1)
    return log_p_NLK.gather(-1, choices_NL.unsqueeze(-1)).squeeze(-1)


def entropies(logits_NLK: Tensor) -> Tensor:
    """The entropy of every decision in nats [N, L]: -Σ p log p, with 0 log 0 = 0."""
    log_p_NLK = logits_NLK.log_softmax(-1)
    return -(log_p_NLK.exp() * log_p_NLK.masked_fill(log_p_NLK == -math.inf, 0.0)).sum(-1)
