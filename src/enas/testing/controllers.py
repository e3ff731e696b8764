"""The contract of `enas.controllers.Controller`. Letters: N proposals, L decisions."""

from __future__ import annotations

import copy
import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from enas.architecture import Space
from enas.controllers.base import Controller, Proposals
from enas.controllers.categorical import largest_entropy
from enas.errors import ConfigError, EnasError, NotFiniteError, RunFolderError, shown
from enas.runtime.seeding import global_seed
from enas.testing.rules import disturb, rule, same, through_a_file

DRAWS = 5000
"""Proposals whose frequencies are compared with their probabilities."""

Make = Callable[[Space], Controller]


@global_seed(0)
def check_controller(make_controller: Make, space: Space) -> None:
    """Check that a controller keeps its contract: the class, or a function of the space that makes a new one.

    It proposes architectures of the space, as often as their log-probabilities say; it learns from finite rewards alone; and
    it goes on from its state bit for bit. Raises `ContractError`.
    """
    with rule(
        getattr(make_controller, "__name__", "the controller"), "it must make a Controller", "Return one"
    ) as holds:
        controller = make_controller(space)
        holds(isinstance(controller, Controller), f"it is {shown(controller)}")
    whose = type(controller).__name__
    check_proposals(whose, controller, space)
    check_generators(whose, make_controller, space)
    check_mode(whose, controller, space)
    check_feedback(whose, controller, space)
    check_refusals(whose, controller)
    check_resuming(whose, make_controller, space)
    check_frequencies(whose, controller, space)  # which has learnt by now


def seeded(seed: int) -> torch.Generator:
    """A generator of the CPU."""
    return torch.Generator().manual_seed(seed)


def learn(controller: Controller, updates: int, draw: torch.Generator) -> list[Any]:
    """Updates with rewards that follow from the choices; what was proposed and logged."""
    logged = []
    for _ in range(updates):
        proposals = controller.propose(4, draw)
        rewards_N = proposals.choices_NL.double().cpu().std(1, correction=0) + torch.arange(4) / 8
        logged.append((proposals.choices_NL.tolist(), controller.feedback(proposals, rewards_N)))
    return logged


def check_proposals(whose: str, controller: Controller, space: Space) -> None:
    """What is proposed: architectures, their log-probabilities and entropies."""
    with rule(
        whose,
        "propose(n, generator) must return Proposals of n architectures of the space, int64 [N, L]",
        "Take only options that can be taken (Space.weights), and the only possible one at an inactive decision",
    ) as holds:
        proposals, shape = controller.propose(50, seeded(0)), (50, len(space.decisions))
        holds(isinstance(proposals, Proposals), f"it returned {shown(proposals)}")
        for name in ("choices_NL", "log_prob_NL", "entropy_NL"):
            found = getattr(proposals, name)
            holds(found.shape == shape, f"{name} has the shape {list(found.shape)}, not {list(shape)}")
        holds(proposals.choices_NL.dtype == torch.int64, f"choices_NL is of {proposals.choices_NL.dtype}")
        drawn = proposals.choices_NL.tolist()
        for choices, one in zip(drawn, proposals.architectures(space), strict=True):
            holds(
                tuple(choices) == one.choices, f"{choices} are the choices of {one}, which are {one.choices}"
            )
    with rule(
        whose,
        "log-probabilities must be at most 0, entropies at least 0, both finite, and both 0 where a decision is inactive",
        "Compute them by log_softmax of the logits of what can be taken (enas.controllers.Proposals.from_logits)",
    ) as holds:
        log_prob_NL, entropy_NL = proposals.log_prob_NL.detach().cpu(), proposals.entropy_NL.detach().cpu()
        highest, lowest = float(log_prob_NL.max()), float(entropy_NL.min())
        holds(highest <= 1e-6, f"a log-probability is {highest:.4g}")
        holds(lowest >= -1e-6, f"an entropy is {lowest:.4g}")
        holds(bool(log_prob_NL.isfinite().all() and entropy_NL.isfinite().all()), "one is not finite")
        inactive_NL = ~torch.tensor([space.active(choices) for choices in drawn])
        holds(
            not (log_prob_NL[inactive_NL].any() or entropy_NL[inactive_NL].any()),
            "that of an inactive one is not",
        )
    with rule(
        whose,
        "propose must not change the controller's state",
        "Learn in feedback alone, and draw from the generator that is given",
    ) as holds:
        before = copy.deepcopy(controller.state_dict())
        controller.propose(5, seeded(1))
        holds(same(controller.state_dict(), before), "its state_dict is another one")


def check_generators(whose: str, make_controller: Make, space: Space) -> None:
    """What random numbers are used."""
    with rule(
        whose,
        "proposals must follow from the controller's state and the given generator alone",
        "Draw from the generator that is given; initial weights from a seed of the controller's settings",
    ) as holds:
        disturb(1)
        controller, draw = make_controller(space), seeded(5)
        first, second = (controller.propose(50, draw).choices_NL for _ in range(2))
        disturb(2)
        twin = make_controller(space)
        holds(same(twin.propose(50, seeded(5)).choices_NL, first), "an equal controller proposed others")
        holds(
            same(controller.propose(50, seeded(5)).choices_NL, first), "the same controller proposed others"
        )
        if space.count() > 1:
            holds(not same(first, second), "a generator that has gone on gave the same")
        disturb(3)
        expected = random.random(), float(np.random.random()), float(torch.rand(()))
        disturb(3)
        learn(make_controller(space), 1, seeded(0))
        found = random.random(), float(np.random.random()), float(torch.rand(()))
        holds(found == expected, "it drew from the global generators")


def check_mode(whose: str, controller: Controller, space: Space) -> None:
    """What it believes in, and what it says of itself at the start."""
    with rule(
        whose,
        "mode() must be the choices of an architecture of the space",
        "Return a tuple of whole numbers, with the only possible option at inactive decisions",
    ) as holds:
        mode = controller.mode()
        holds(space.architecture(mode).choices == mode == controller.mode(), f"it is {shown(mode)}")
    with rule(
        whose, "prior must return finite numbers by name", "Leave it as enas.controllers.Controller has it"
    ) as holds:
        prior = controller.prior(seeded(0))
        holds(all(map(math.isfinite, prior.values())), f"it returned {shown(prior)}")


def check_feedback(whose: str, controller: Controller, space: Space) -> None:
    """What is logged of learning."""
    with rule(
        whose,
        "feedback must return finite numbers by name, and among them the mean reward, the mean entropy of the proposals in "
        "nats, and entropy_share, that entropy divided by the largest that is possible along their paths",
        "Return enas.controllers.base.reward_and_entropy(space, proposals, rewards_N), and more if you like",
    ) as holds:
        proposals = controller.propose(3, seeded(0))
        entropy = float(proposals.entropy_N.detach().mean())
        largest = largest_entropy(space, proposals.choices_NL)
        logged = controller.feedback(proposals, torch.tensor([1.0, 2.0, 6.0]))
        plain = all(type(value) is float and math.isfinite(value) for value in logged.values())
        holds(plain, f"it returned {shown(logged, 200)}")
        share = entropy / largest if largest else 1.0
        for key, value in (("reward", 3.0), ("entropy", entropy), ("entropy_share", share)):
            found = logged.get(key, math.nan)
            holds(
                math.isclose(found, value, rel_tol=1e-4, abs_tol=1e-5), f"{key} is {found}, not {value:.6g}"
            )


def check_refusals(whose: str, controller: Controller) -> None:
    """What is refused, and that nothing was learnt then."""
    advice = "Call enas.controllers.base.check_rewards first"
    one = torch.ones(2)
    refused: list[tuple[str, Tensor, type[EnasError]]] = [
        (f"a reward of {bad}", torch.tensor([1.0, bad]), NotFiniteError)
        for bad in (math.nan, math.inf, -math.inf)
    ]
    refused.append(("another number of rewards than of proposals", one, ConfigError))
    for what, rewards_N, error in refused:
        with rule(
            whose, f"feedback must refuse {what} by {error.__name__}, and learn nothing", advice
        ) as holds:
            before = copy.deepcopy(controller.state_dict())
            proposals = controller.propose(3 if rewards_N is one else 2, seeded(0))
            try:
                controller.feedback(proposals, rewards_N)
            except error:
                holds(same(controller.state_dict(), before), "its state_dict is another one afterwards")
            else:
                holds(False, "it took it")
    with rule(
        whose,
        "load_state_dict must refuse the state of another controller by RunFolderError",
        "Look for the keys that state_dict writes, and turn KeyError and the like into it",
    ) as holds:
        before = copy.deepcopy(controller.state_dict())
        try:
            controller.load_state_dict({"of another controller": torch.zeros(1)})
        except RunFolderError:
            holds(same(controller.state_dict(), before), "its state_dict is another one afterwards")
        else:
            holds(False, "it took it")


def check_resuming(whose: str, make_controller: Make, space: Space) -> None:
    """That all of a controller is in its state."""
    with rule(
        whose,
        "a controller that loads a state_dict, read from a file by weights_only=True, must go on bit for bit",
        "Put all that changes into state_dict, as copies of tensors and plain values",
    ) as holds:
        whole, draw = make_controller(space), seeded(2)
        learn(whole, 3, draw)
        state, place = whole.state_dict(), draw.get_state()
        saved = through_a_file(state)
        expected = learn(whole, 3, draw)
        holds(same(state, saved), "a state_dict changed when the controller learnt further")
        resumed = make_controller(space)
        resumed.load_state_dict(through_a_file(saved))
        draw.set_state(place)
        holds(learn(resumed, 3, draw) == expected, "it proposed or logged something else")
        holds(same(resumed.state_dict(), whole.state_dict()), "its state_dict is another one in the end")


def check_frequencies(whose: str, controller: Controller, space: Space) -> None:
    """That architectures come as often as their log-probabilities say, all of which come to 1."""
    with rule(
        whose,
        "log_prob_N must be the log-probability of an architecture under the distribution that it was drawn from",
        "Compute it of what was drawn, given the choices before, from the very logits that it was drawn from",
    ) as holds:
        with torch.no_grad():
            proposals = controller.propose(DRAWS, seeded(3))
        drawn = list(zip(proposals.architectures(space), proposals.log_prob_N.tolist(), strict=True))
        p_of, counts = {one: math.exp(log_p) for one, log_p in drawn}, Counter(one for one, _ in drawn)
        for one, log_p in drawn:
            known, p = p_of[one], math.exp(log_p)
            holds(
                math.isclose(known, p, rel_tol=1e-3), f"'{one}' has the probabilities {p:.4g} and {known:.4g}"
            )
        total, once = sum(p_of.values()), sum(times == 1 for times in counts.values())
        # About as much probability has not been drawn as what was drawn once (Good 1953).
        unseen = 0.0 if len(p_of) == space.count() else (once + 8 * math.sqrt(once + 1) + 10) / DRAWS
        holds(
            1 - unseen - 1e-3 < total < 1 + 1e-3,
            f"of {DRAWS} draws, the probabilities of the {len(p_of)} different ones come to {total:.4g}",
        )
        often = {
            one: (counts[one] - DRAWS * p) ** 2 / (DRAWS * p) for one, p in p_of.items() if DRAWS * p >= 5
        }
        if often:  # chi-square, of about this mean and twice this variance
            worst = max(often, key=lambda one: often[one])
            holds(
                sum(often.values()) < len(often) + 8 * math.sqrt(2 * len(often)) + 20,
                f"of {DRAWS} draws, {counts[worst]} are '{worst}', whose probability is {p_of[worst]:.4g}",
            )
