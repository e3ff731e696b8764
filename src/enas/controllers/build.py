"""From a controller's settings to the controller."""

from __future__ import annotations

import torch

from enas.architecture import Space
from enas.controllers.base import Controller
from enas.controllers.config import ControllerConfig, IndependentConfig, UniformConfig
from enas.controllers.independent import IndependentPolicy
from enas.controllers.lstm import LSTMPolicy
from enas.controllers.policy_gradient import PolicyGradientController
from enas.controllers.uniform import UniformController


def build_controller(
    config: ControllerConfig, space: Space, seed: int, device: torch.device | str = "cpu"
) -> Controller:
    """The controller of these settings for this space, its weights drawn from `seed` alike on every device.

    A controller is small: the CPU is usually its fastest place, whatever device the supernet is on. Raises
    `ConfigError` if the controller cannot decide the space.
    """
    if isinstance(config, UniformConfig):
        return UniformController(space, device)
    if isinstance(config, IndependentConfig):
        return PolicyGradientController(IndependentPolicy(space).to(device), config.reinforce)
    policy = LSTMPolicy(space, config, torch.Generator().manual_seed(seed))
    return PolicyGradientController(policy.to(device), config.reinforce)
