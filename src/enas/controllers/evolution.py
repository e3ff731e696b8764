"""Regularised evolution (Real et al. 2019, arXiv:1802.01548): the youngest architectures mutate, the oldest die.

Until the population is full, architectures are drawn uniformly. Then each proposal is a mutant: `tournament` members are
drawn with replacement, the best of them is copied, and one decision, drawn uniformly among the active ones, takes another
of its options. What the parent cannot answer any more after that is drawn as for a random architecture: decisions that have
become active, and options that cannot be taken now. All proposals of an update enter the population together, and as many
of its oldest members leave it.

That is a distribution over the space like any other policy's, a mixture over parents and decisions, so that proposals
have exact log-probabilities and entropies.

Shape letters: N proposals, L decisions, K options, P members of the population.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from tyro.conf import Suppress

from enas.architecture import Space
from enas.constraints import SampleSize
from enas.controllers.base import Controller, ControllerConfig, Proposals, check_rewards, reward_and_entropy
from enas.controllers.categorical import along, gumbel_noise, sample, uniform_logits, weighted
from enas.errors import ArchitectureError, RunFolderError


@dataclass(frozen=True)
class EvolutionConfig(ControllerConfig):
    """Regularised evolution (Real et al. 2019)."""

    kind: Suppress[Literal["evolution"]] = field(default="evolution", kw_only=True)

    population: SampleSize = 50
    """Architectures alive. At first this many are drawn uniformly."""
    tournament: SampleSize = 10
    """Members drawn, with replacement, of which the best is mutated."""

    def build(self, space: Space, seed: int, device: torch.device | str = "cpu") -> EvolutionController:
        return EvolutionController(space, self, device)


class EvolutionController(Controller):
    """Proposes mutants of the best of its population."""

    def __init__(self, space: Space, config: EvolutionConfig, device: torch.device | str = "cpu") -> None:
        self.space = space
        self.config = config
        self.device = torch.device(device)
        self.choices_PL = torch.zeros((0, len(space.decisions)), dtype=torch.int64, device=self.device)
        """The population, the oldest first."""
        self.rewards_P = torch.zeros(0, dtype=torch.float64, device=self.device)
        self._counts = [len(decision.options) for decision in space.decisions]
        self._mutable = [place for place, count in enumerate(self._counts) if count > 1]
        self._single = space.count() == 1
        self._uniform_LK = uniform_logits(space).double().to(self.device)

    def propose(self, n: int, generator: torch.Generator) -> Proposals:
        if len(self.rewards_P) < self.config.population or self._single:
            return Proposals.from_logits(*sample(self.space, self._uniform_LK, n, generator))
        if not self.space.conditional:
            choices_NL = self._mutants(n, generator)
            return Proposals.from_logits(choices_NL, self._logits(choices_NL))
        choices_NL = torch.zeros((n, len(self._counts)), dtype=torch.int64, device=self.device)
        noise_NLK = gumbel_noise((n, *self._uniform_LK.shape), generator, like=self._uniform_LK)
        logits_NLK = self._logits(choices_NL, noise_NLK)
        return Proposals.from_logits(choices_NL, logits_NLK)

    def feedback(self, proposals: Proposals, rewards_N: Tensor) -> dict[str, float]:
        """Take the proposals into the population. Also logs `best_reward`, of its members."""
        check_rewards(self.space, proposals, rewards_N)
        size = self.config.population
        choices_PL = torch.cat((self.choices_PL, proposals.choices_NL.to(self.device)))
        rewards_P = torch.cat((self.rewards_P, rewards_N.detach().cpu().double().to(self.device)))
        self.choices_PL, self.rewards_P = choices_PL[-size:], rewards_P[-size:]
        return {
            **reward_and_entropy(self.space, proposals, rewards_N),
            "best_reward": float(self.rewards_P.max()),
        }

    def mode(self) -> tuple[int, ...]:
        """The best of the population; before the first reward, the space's first architecture."""
        if not len(self.rewards_P):
            return next(self.space.enumerate()).choices
        return tuple(self.choices_PL[int(self.rewards_P.argmax())].tolist())

    def state_dict(self) -> dict[str, Any]:
        return {"choices": self.choices_PL.clone(), "rewards": self.rewards_P.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        choices_PL, rewards_P = state.get("choices"), state.get("rewards")
        if choices_PL is None or rewards_P is None or not self._is_population(choices_PL, rewards_P):
            raise RunFolderError(
                f"The saved state of the controller does not fit the evolution of this {self.space.name} space; "
                "resume with the controller and the space of that run."
            )
        self.choices_PL = choices_PL.clone().to(self.device)
        self.rewards_P = rewards_P.clone().to(self.device)

    def _is_population(self, choices_PL: Tensor, rewards_P: Tensor) -> bool:
        """Whether these are architectures of the space with a reward each."""
        if choices_PL.shape != (len(rewards_P), len(self._counts)):
            return False
        try:
            return all(
                self.space.architecture(choices).choices == tuple(choices) for choices in choices_PL.tolist()
            )
        except ArchitectureError:
            return False

    def parent_probabilities(self) -> Tensor:
        """How probably each member wins a tournament [P]; members of equal reward share what is theirs."""
        reward_P = self.rewards_P
        below_P = (reward_P[:, None] > reward_P).sum(1).double()
        tied_P = (reward_P[:, None] == reward_P).sum(1).double()
        size, drawn = len(reward_P), self.config.tournament
        return (((below_P + tied_P) / size) ** drawn - (below_P / size) ** drawn) / tied_P

    def _mutants(self, n: int, generator: torch.Generator) -> Tensor:
        """`n` mutants of winners [N, L], in a space that is a product."""
        parent_N = torch.multinomial(
            self.parent_probabilities().to(generator.device), n, replacement=True, generator=generator
        )
        mutable = torch.tensor(self._mutable, device=generator.device)
        place_N = mutable[torch.randint(len(mutable), (n,), generator=generator, device=generator.device)]
        others_N = torch.tensor(self._counts, device=generator.device)[place_N] - 1
        u_N = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64)
        other_N = (u_N * others_N).long()  # the number of the new option among those that are not the old one
        choices_NL = self.choices_PL[parent_N.to(self.device)]
        at_N1, other_N1 = place_N.unsqueeze(1).to(self.device), other_N.unsqueeze(1).to(self.device)
        old_N1 = choices_NL.gather(1, at_N1)
        return choices_NL.scatter(1, at_N1, other_N1 + (other_N1 >= old_N1))

    def _logits(self, choices_NL: Tensor, noise_NLK: Tensor | None = None) -> Tensor:
        """log p of every option of every decision of these mutants, given the decisions before it [N, L, K].

        With noise the mutants are drawn first: each choice is written into `choices_NL` when its decision is reached.

        Given its parent, what a mutant has decided so far is either all as in the parent, the mutation being yet to
        come, or differs, and the mutation was at the first place that does. The sum over the parents is the mixture.
        """
        conditional, uniform_LK, parents_PL = self.space.conditional, self._uniform_LK, self.choices_PL
        option_PLK = F.one_hot(parents_PL, uniform_LK.shape[1]).double()
        weight_PLK = along(self.space, uniform_LK, parents_PL).exp().expand(len(parents_PL), -1, -1)
        others_PLK = weight_PLK * (1 - option_PLK)
        rest_PL1 = others_PLK.sum(-1, keepdim=True)
        active_PL = rest_PL1.squeeze(-1) > 0
        places_P1 = active_PL.sum(1, keepdim=True)
        parent_P1 = self.parent_probabilities().unsqueeze(1)
        # The probability to win and to mutate after this place; and to win, to mutate here, and to take this option then.
        later_PL = parent_P1 * (places_P1 - active_PL.cumsum(1)) / places_P1
        each_PL1 = parent_P1[..., None] / (places_P1[..., None] * rest_PL1)
        here_PLK = others_PLK * each_PL1.nan_to_num(posinf=0.0)

        n = len(choices_NL)
        intact_NP = torch.ones((n, len(parents_PL)), dtype=torch.float64, device=self.device)
        mutated_NP = torch.zeros_like(intact_NP)
        joint_LNK = []
        for place, uniform_K in enumerate(uniform_LK):
            kept_NP, here_PK = mutated_NP, here_PLK[:, place]
            if conditional:
                weight_NK = weighted(self.space, uniform_K.expand(n, -1), choices_NL[:, :place]).softmax(-1)
                kept_NP = mutated_NP * (active_PL[:, place] & (weight_NK[:, parents_PL[:, place]] > 0))
            same_NP = torch.addcmul(kept_NP, intact_NP, later_PL[:, place])
            joint_NK = same_NP @ option_PLK[:, place] + intact_NP @ here_PK
            if conditional:
                drawn_NP = mutated_NP - kept_NP
                joint_NK = joint_NK + drawn_NP.sum(1, keepdim=True) * weight_NK
            joint_LNK.append(joint_NK)
            if noise_NLK is not None:
                choices_NL[:, place] = (joint_NK.log() + noise_NLK[:, place]).argmax(-1)
            choice_N = choices_NL[:, place]
            agrees_NP = choice_N[:, None] == parents_PL[:, place]
            mutated_NP = torch.addcmul(kept_NP * agrees_NP, intact_NP, here_PK.T[choice_N])
            if conditional:
                mutated_NP = mutated_NP + drawn_NP * weight_NK.gather(1, choice_N[:, None])
            intact_NP = intact_NP * agrees_NP
        return torch.stack(joint_LNK, 1).log()
