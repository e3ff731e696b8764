"""A searchable network: a module with `space`, `forward(*inputs, architecture)` and `child(architecture)`."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from enas.architecture import Architecture, Space
from enas.choices.child import Weights, child_of
from enas.choices.plan import use
from enas.choices.reading import space_of
from enas.errors import ConfigError, shown
from enas.runtime.whose import hands_over


class Searchable(Protocol):
    """What every searchable network has, beside what an `nn.Module` has."""

    space: Space

    def child(self, architecture: Architecture) -> nn.Module:
        """The network of one architecture with weights of its own, drawn anew."""


class WithChoices(nn.Module):
    """A module with choices as a searchable network. It has the module's weights under `network`."""

    def __init__(self, network: nn.Module) -> None:
        """Raises `ConfigError` as `space_of`."""
        super().__init__()
        self.network = network
        self.space: Space = space_of(network)

    @hands_over
    def forward(self, *inputs: Any, architecture: Architecture, **named: Any) -> Any:
        """What the network makes of the inputs where it computes this architecture."""
        with use(self.network, architecture):
            return self.network(*inputs, **named)

    def child(self, architecture: Architecture, weights: Weights = "fresh") -> nn.Module:
        """The network of one architecture with weights of its own, as `child_of`."""
        return child_of(self.network, architecture, weights)


def searchable(net: nn.Module) -> nn.Module:
    """The module itself if it has a `space` and a method `child`; otherwise one that has both, from the choices in it.

    Raises `ConfigError` if it is no module, or has neither; and as `space_of`.
    """
    if not isinstance(net, nn.Module):
        raise ConfigError(f"a network must be a torch.nn.Module, not {shown(net)}")
    if isinstance(getattr(net, "space", None), Space) and callable(getattr(net, "child", None)):
        return net
    return WithChoices(net)
