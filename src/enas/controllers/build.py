"""From a controller's settings to the controller."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Discriminator

from enas.architecture import Space
from enas.controllers.base import Controller
from enas.controllers.evolution import EvolutionConfig, EvolutionController
from enas.controllers.independent import IndependentConfig, IndependentPolicy
from enas.controllers.lstm import LSTMPolicy
from enas.controllers.lstm_macro import MacroLSTMPolicy
from enas.controllers.lstm_micro import MicroLSTMPolicy
from enas.controllers.lstm_sequence import SequenceLSTMPolicy
from enas.controllers.lstm_steps import LSTMConfig, StepsDiffer, StepwisePolicy
from enas.controllers.policy_gradient import PolicyGradientController
from enas.controllers.uniform import UniformConfig, UniformController
from enas.errors import ConfigError

ControllerConfig = Annotated[
    UniformConfig | EvolutionConfig | IndependentConfig | LSTMConfig, Discriminator("kind")
]
"""The settings of any controller; which one, says `kind` in config.json and `--controller` on the command line."""


def build_controller(
    config: ControllerConfig, space: Space, seed: int, device: torch.device | str = "cpu"
) -> Controller:
    """The controller of these settings for this space, its weights drawn from `seed` alike on every device.

    A controller is small: the CPU is usually its fastest place, whatever device the supernet is on. Raises
    `ConfigError` if the controller has settings that mean nothing there.
    """
    match config:
        case UniformConfig():
            return UniformController(space, device)
        case EvolutionConfig():
            return EvolutionController(space, config, device)
        case IndependentConfig():
            if config.reinforce.skip_weight and config.reinforce.skip_penalty == "reward":
                raise ConfigError(
                    "The skip penalty of an independent policy is the same for every proposal, so as part of the "
                    "reward it teaches nothing; set skip_penalty to regulariser."
                )
            return PolicyGradientController(IndependentPolicy(space).to(device), config.reinforce)
        case LSTMConfig():
            policy = lstm_policy(space, config, torch.Generator().manual_seed(seed))
            return PolicyGradientController(policy.to(device), config.reinforce)


def lstm_policy(space: Space, config: LSTMConfig, generator: torch.Generator) -> StepwisePolicy:
    """The paper's policy for the kinds of decisions that the space has; where they are not what its steps take, in their
    order, one that takes any decisions as a plain sequence. A single layer is a whole network.

    Raises `ConfigError` if a setting means nothing there.
    """
    kinds = {decision.kind for decision in space.decisions}
    sets = {d.options for d in space.decisions if d.kind in ("function", "operation")}
    row = kinds == {"operation"} and len(space.decisions) > 1
    if space.conditional or row or "structure" in kinds or len(sets) > 1:
        return SequenceLSTMPolicy(space, config, generator)
    kind: type[LSTMPolicy | MacroLSTMPolicy | MicroLSTMPolicy] = LSTMPolicy
    if kinds <= {"operation", "skip"}:
        kind = MacroLSTMPolicy
    elif kinds <= {"source", "operation"} and "operation" in kinds:
        kind = MicroLSTMPolicy
    try:
        policy = kind(space, config, generator)
        policy.mode()  # takes its steps
    except StepsDiffer:
        return SequenceLSTMPolicy(space, config, generator)
    return policy
