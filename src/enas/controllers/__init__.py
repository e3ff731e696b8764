"""What proposes architectures, `propose(n)`, and learns from their rewards, `feedback(proposals, rewards_N)`.

Controllers know decisions, not networks. `uniform` is the specification, `independent` the default,
`lstm` the paper's, and `evolution` another kind of search to compare with.
"""

from enas.controllers.base import Controller, Policy, Proposals
from enas.controllers.build import build_controller
from enas.controllers.config import (
    ControllerConfig,
    EvolutionConfig,
    IndependentConfig,
    LSTMConfig,
    ReinforceConfig,
    UniformConfig,
)

__all__ = [
    "Controller",
    "ControllerConfig",
    "EvolutionConfig",
    "IndependentConfig",
    "LSTMConfig",
    "Policy",
    "Proposals",
    "ReinforceConfig",
    "UniformConfig",
    "build_controller",
]
