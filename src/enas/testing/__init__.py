"""Whether what is yours keeps its contract: one call each, in a test or a notebook; no test framework is needed.

check_space(space)
check_network(net, example)
check_task(task, net)
check_controller(lambda space: MyController(space), space)

Each returns nothing, or raises `ContractError`: which rule is broken, by what, and what to do. They take seconds if what
they are given is small, and leave it as it was.
"""

from enas.errors import ContractError
from enas.testing.controllers import check_controller
from enas.testing.networks import check_network
from enas.testing.spaces import check_space
from enas.testing.tasks import check_task

__all__ = ["ContractError", "check_controller", "check_network", "check_space", "check_task"]
