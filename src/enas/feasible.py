"""Whether the settings of a run can work, stage by stage, asked before the first step: a search takes hours, and what comes
after it takes no other settings.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch

from enas.config import RunConfig
from enas.controllers import ReinforceConfig, build_controller
from enas.controllers.reinforce import leave_one_out_baseline
from enas.costs.goals import CostGoals
from enas.errors import ConfigError
from enas.retrain import Network, every_one, random_architectures
from enas.runtime.metrics import summary_writer


def check_stages(config: RunConfig, stages: Sequence[str]) -> None:
    """Build what the stages of a run work with, and train nothing.

    Raises an `EnasError` that says which setting cannot work with these data or this space.
    """
    if "search" in stages:
        with config.refusals_explained("search"):
            check_search(config)
    with config.refusals_explained("training"):
        config.tried()
        architecture = config.searched_space().sample(random.Random(0))
        goals = CostGoals(config, Path())
        measured = "latency" in goals.measures  # which takes a while: the search begins with it
        if not measured:
            goals.check()
        allowed = every_one if measured else goals.comparable
        random_architectures(architecture.space, config.retrain.random, config.seed, {architecture}, allowed)
        for network in (Network("found", architecture, config.seed), *config.references()):
            config.child_training(network)


def check_search(config: RunConfig) -> None:
    """Shared weights, controller and rewards, as far as the search and the picking after it need them."""
    if config.tensorboard:
        summary_writer()
    search, controller = config.search, config.controller
    build_controller(controller, config.shared_weights().space, config.seed)
    learns = search.updates > 0 and search.warmup_epochs < search.epochs
    reinforce = getattr(controller, "reinforce", None)
    if learns and isinstance(reinforce, ReinforceConfig) and reinforce.baseline == "leave-one-out":
        leave_one_out_baseline(torch.zeros(search.proposals))
    compared = (
        search.proposals
        if search.same_minibatch and search.proposals > 1
        else search.updates * search.proposals
    )
    if config.derive.needs_ridge and (not learns or compared < 2):
        raise ConfigError(
            "the ridge regression of derive.rule or derive.shortlist_order needs rewards to compare, and this search gives "
            "none; raise search.updates or search.proposals, or choose another derive.rule and derive.shortlist_order"
        )
