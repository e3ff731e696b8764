"""Regularised evolution (Real et al. 2019, arXiv:1802.01548): the youngest architectures mutate, the oldest die.

Until the population is full, architectures are drawn uniformly. Then each proposal is a mutant: `tournament` members are
drawn with replacement, the best of them is copied, and one decision, drawn uniformly, takes another of its options. All
proposals of an update enter the population together, and as many of its oldest members leave it.

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
from tyro.conf import Suppress

from enas.architecture import Space
from enas.constraints import SampleSize
from enas.controllers.base import Controller, ControllerConfig, Proposals, check_rewards, reward_and_entropy
from enas.controllers.categorical import sample, uniform_logits
from enas.errors import RunFolderError


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
        self._uniform_LK = uniform_logits(space).double().to(self.device)

    def propose(self, n: int, generator: torch.Generator) -> Proposals:
        if len(self.rewards_P) < self.config.population or not self._mutable:
            choices_NL = sample(self._uniform_LK, n, generator)
            return Proposals.from_logits(choices_NL, self._uniform_LK.unsqueeze(0))
        choices_NL = self._mutants(n, generator)
        return Proposals.from_logits(choices_NL, self._logits(choices_NL))

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
        """The best of the population; before the first reward, the first option of every decision."""
        if not len(self.rewards_P):
            return (0,) * len(self._counts)
        return tuple(self.choices_PL[int(self.rewards_P.argmax())].tolist())

    def state_dict(self) -> dict[str, Any]:
        return {"choices": self.choices_PL.clone(), "rewards": self.rewards_P.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        choices_PL, rewards_P = state.get("choices"), state.get("rewards")
        if (
            choices_PL is None
            or rewards_P is None
            or choices_PL.shape != (len(rewards_P), len(self._counts))
            or (choices_PL.cpu() >= torch.tensor(self._counts)).any()
        ):
            raise RunFolderError(
                f"The saved state of the controller does not fit the evolution of this {self.space.name} space; "
                "resume with the controller and the space of that run."
            )
        self.choices_PL = choices_PL.clone().to(self.device)
        self.rewards_P = rewards_P.clone().to(self.device)

    def parent_probabilities(self) -> Tensor:
        """How probably each member wins a tournament [P]; members of equal reward share what is theirs."""
        reward_P = self.rewards_P
        below_P = (reward_P[:, None] > reward_P).sum(1).double()
        tied_P = (reward_P[:, None] == reward_P).sum(1).double()
        size, drawn = len(reward_P), self.config.tournament
        return (((below_P + tied_P) / size) ** drawn - (below_P / size) ** drawn) / tied_P

    def _mutants(self, n: int, generator: torch.Generator) -> Tensor:
        """`n` mutants of winners [N, L]."""
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

    def _logits(self, choices_NL: Tensor) -> Tensor:
        """log p of every option of every decision of these mutants, given the decisions before it [N, L, K].

        Given its parent, what a mutant has decided so far is either all as in the parent, the mutation being yet to
        come, or differs in one place, where the mutation was. The sum over the parents is the mixture.
        """
        parent_P, places = self.parent_probabilities(), len(self._mutable)
        intact_NP = torch.ones((len(choices_NL), len(parent_P)), dtype=torch.bool, device=self.device)
        mutated_NP = torch.zeros(intact_NP.shape, dtype=torch.float64, device=self.device)
        logits_LNK = []
        left = places
        for place, (count, missing_K) in enumerate(zip(self._counts, self._uniform_LK, strict=True)):
            left -= count > 1
            same_NP = torch.where(intact_NP, parent_P * left / places, mutated_NP)
            other_NP = intact_NP * (parent_P / (places * (count - 1)) if count > 1 else 0 * parent_P)
            option_PK = torch.nn.functional.one_hot(self.choices_PL[:, place], len(missing_K)).double()
            joint_NK = same_NP @ option_PK + other_NP @ (1 - option_PK)
            logits_LNK.append(joint_NK.log() + missing_K)
            agrees_NP = choices_NL[:, place, None] == self.choices_PL[:, place]
            mutated_NP = torch.where(agrees_NP, mutated_NP, other_NP)
            intact_NP = intact_NP & agrees_NP
        return torch.stack(logits_LNK, 1)
