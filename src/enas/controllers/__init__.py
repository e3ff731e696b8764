"""What proposes architectures, `propose(n)`, and learns from their rewards, `feedback(proposals, rewards_N)`.

Controllers know decisions, not networks. `uniform` is the specification, `independent` the default,
`lstm` the paper's, and `evolution` another kind of search to compare with. The settings of each stand in its module.
"""

from enas.controllers.base import Controller, ControllerConfig, Policy, Proposals
from enas.controllers.build import build_controller
from enas.controllers.evolution import EvolutionConfig
from enas.controllers.independent import IndependentConfig
from enas.controllers.lstm_steps import LSTMConfig
from enas.controllers.policy_gradient import ReinforceConfig
from enas.controllers.uniform import UniformConfig

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
