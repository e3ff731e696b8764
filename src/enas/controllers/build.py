"""From a controller's settings to the controller."""

from __future__ import annotations

import torch

from enas.architecture import Space
from enas.controllers.base import Controller, ControllerConfig
from enas.controllers.lstm import LSTMPolicy
from enas.controllers.lstm_macro import MacroLSTMPolicy
from enas.controllers.lstm_micro import MicroLSTMPolicy
from enas.controllers.lstm_sequence import SequenceLSTMPolicy
from enas.controllers.lstm_steps import LSTMConfig, StepsDiffer, StepwisePolicy


def build_controller(
    config: ControllerConfig, space: Space, seed: int, device: torch.device | str = "cpu"
) -> Controller:
    """The controller of these settings for this space, its weights drawn from `seed` alike on every device.

    A controller is small: the CPU is usually its fastest place, whatever device the supernet is on. Raises
    `ConfigError` if the controller has settings that mean nothing there.
    """
    return config.build(space, seed, device)


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
