"""All decisions of a space as one padded table of categorical distributions.

Shape letters: N proposals, L decisions, K options of the decision that has most. An option that a decision
does not have carries the logit -inf: probability 0, never sampled, no gradient.
"""

from __future__ import annotations

import math

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


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Independent standard Gumbel noise: the argmax of logits + noise is a sample of their softmax.

    Drawn on the generator's device: the same generator gives the same sample whichever device `like` is on.
    """
    exponential = torch.empty(shape, dtype=like.dtype, device=generator.device).exponential_(
        generator=generator
    )
    # An exponential of exactly 0 would give +inf, and a missing option (-inf) then a NaN, which argmax picks.
    return exponential.clamp_(min=torch.finfo(like.dtype).tiny).log_().neg_().to(like.device)


def sample(logits_LK: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """`n` independent choices of an option for every decision [N, L]."""
    noise_NLK = gumbel_noise((n, *logits_LK.shape), generator, like=logits_LK)
    return (logits_LK.detach() + noise_NLK).argmax(-1)


def log_probs(logits_NLK: Tensor, choices_NL: Tensor) -> Tensor:
    """log p of the option taken at every decision [N, L]. `logits_NLK` may have one row for all N."""
    log_p_NLK = logits_NLK.log_softmax(-1).expand(len(choices_NL), -1, -1)
    return log_p_NLK.gather(-1, choices_NL.unsqueeze(-1)).squeeze(-1)


def entropies(logits_NLK: Tensor) -> Tensor:
    """The entropy of every decision in nats [N, L]: -Σ p log p, with 0 log 0 = 0."""
    log_p_NLK = logits_NLK.log_softmax(-1)
    return -(log_p_NLK.exp() * log_p_NLK.masked_fill(log_p_NLK == -math.inf, 0.0)).sum(-1)
