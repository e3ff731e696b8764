"""What proposes architectures, `propose(n)`, and learns from their rewards, `feedback(proposals, rewards_N)`.

Controllers know decisions, not networks. `uniform` is the specification, `independent` the default, and
`lstm` the paper's.
"""

from enas.controllers.base import Controller, Policy, Proposals
from enas.controllers.build import build_controller
from enas.controllers.config import (
    ControllerConfig,
    IndependentConfig,
    LSTMConfig,
    ReinforceConfig,
    UniformConfig,
)

__all__ = [
    "Controller",
    "ControllerConfig",
    "IndependentConfig",
    "LSTMConfig",
    "Policy",
    "Proposals",
    "ReinforceConfig",
    "UniformConfig",
    "build_controller",
]
