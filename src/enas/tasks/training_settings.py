"""The settings of training on a user's own data: optimiser, learning rate, clipping."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from enas.constraints import PartialShare, PositiveFloat, Settings, Weight

DEFAULT_RATES = {"sgd": 0.05, "adamw": 0.001}


@dataclass(frozen=True)
class Training(Settings):
    """How the weights of a network are trained."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum; or Adam with a decay of the weights that is apart from the gradient (Loshchilov & Hutter 2019)."""
    learning_rate: PositiveFloat | None = None
    """The highest rate of the schedule. None is 0.05 for SGD and 0.001 for AdamW."""
    momentum: PartialShare = 0.9
    """Share of the earlier steps that SGD keeps, and the first beta of AdamW."""
    nesterov: bool = True
    """Whether SGD's momentum is Nesterov's."""
    weight_decay: Weight = 1e-4
    """Of SGD, what weights are multiplied by and added to their gradient; of AdamW, the share of the learning rate by which
    weights shrink in a step."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Half a cosine from the highest rate down to almost 0, epoch by epoch; or the same rate throughout."""
    warmup: Weight = 0.0
    """Epochs at the start in which the rate grows linearly, step by step; 0.5 is half an epoch."""
    clip: PositiveFloat | None = None
    """Bound on the global norm of the gradient; None for no bound."""

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return DEFAULT_RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    def factor(self, epoch: int, epochs: int) -> float:
        """What the highest rate is multiplied by in an epoch counted from 0."""
        return 1.0 if self.schedule == "constant" else (1 + math.cos(math.pi * epoch / epochs)) / 2

    def warmth(self, done: int, steps: int) -> float:
        """What the rate is multiplied by after `done` steps of the training, with `steps` an epoch."""
        return min(1.0, (done + 1) / max(1.0, self.warmup * steps))

    def stretched(self, factor: float) -> Training:
        """The recipe with a warm-up that is `factor` times as long; the schedule follows the number of epochs by itself."""
        return replace(self, warmup=factor * self.warmup)
