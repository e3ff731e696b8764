"""The recipe: a kind of run of its own, for the network of this package."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from enas import NetworkConfig
from enas.runs.network_settings import NetworkDeriveConfig, NetworkSearchConfig
from enas_outside.controller import FirstConfig
from enas_outside.network import Supernet
from enas_outside.task import points


@dataclass(frozen=True)
class OutsideConfig(NetworkConfig):
    """A run of this package."""

    kind: ClassVar[str] = "outside"


def quick() -> OutsideConfig:
    """Layers for points on either side of a plane, in a second.

    Command:  enas run outside-quick
    """
    config = OutsideConfig(
        network=Supernet,
        task=points,
        threads=1,
        search=NetworkSearchConfig(epochs=4, updates=3, proposals=4, checkpoint_every=5),
        controller=FirstConfig(),
        derive=NetworkDeriveConfig(samples=4, shortlist=2, shortlist_epochs=1),
    )
    child = replace(config.retrain.child, epochs=3)
    return replace(config, retrain=replace(config.retrain, random=1, child=child, checkpoint_every=5))
