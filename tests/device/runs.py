"""A tiny run of every space, and what its steps come to: on the CPU, on a pretended device, on a GPU."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from enas import NetworkConfig
from enas.config import RunConfig
from enas.evidence.variants import with_settings
from enas.retrain import Network
from enas.run import Run
from enas.stages import search_of
from tests import own_network, tiny

SPACES = ("recurrent", "macro", "micro", "nasbench201", "network")


def config_of(space: str, folder: Path) -> RunConfig:
    """A tiny run with everything that draws: dropout, drop-path, augmentation, averaged weights."""
    config: Any
    if space == "recurrent":
        config = tiny.config(tiny.write_text(folder / "text"))
        dropout = replace(
            config.shared.training.regularisation.dropout, words=0.1, embeddings=0.1, state=0.1, output=0.1
        )
        regularisation = replace(config.shared.training.regularisation, dropout=dropout)
        training = replace(config.shared.training, regularisation=regularisation)
        child = replace(config.retrain.child, training=training)
        config = replace(config, retrain=replace(config.retrain, child=child))
        return replace(config, shared=replace(config.shared, training=training, average=0.9))
    if space == "network":
        return with_settings(NetworkConfig(network=own_network.Net, task=own_network.task), own_network.SMALL)
    config = replace(tiny.image_config(space), channels_last=False)  # not as is faster at the moment
    augmentation = replace(config.shared.training.augmentation, flip=True, cutout=2)
    training = replace(config.shared.training, augmentation=augmentation)
    if space == "micro":
        config = replace(config, child_network=replace(config.child_network, drop_path_keep=0.6))
    child = replace(
        config.retrain.child, training=replace(config.retrain.child.training, augmentation=augmentation)
    )
    config = replace(config, retrain=replace(config.retrain, child=child))
    return replace(config, shared=replace(config.shared, training=training, average=0.9))


def numbers(run: Run, device: Any = None) -> tuple[list[dict[str, float]], dict[str, int]]:
    """What the steps of a search and of a training log, resumed in between; and how often one of each kind waits."""
    search, _ = search_of(run, lambda architectures: [])
    waits: dict[str, int] = {}

    def counted(kind: str) -> None:
        if device is not None:
            waits[kind] = device.waits.total()
            device.waits.clear()

    def rewarded(step: int) -> None:
        # The policy learns from differences of rewards, in which rounding is large.
        log = search.train_controller(1, step)
        found.append({key: log[key] for key in log if key == "reward" or key.startswith("valid_")})

    found = [dict(search.train_weights(0, step)) for step in (0, 1)]
    rewarded(0)
    run.search_checkpoints().save(1, {"weights": search.weights.state_dict()})
    newest = run.search_checkpoints().load_newest()
    assert newest is not None
    search, _ = search_of(run, lambda architectures: [])
    search.weights.load_state_dict(newest[1]["weights"])
    logs = [search.train_weights(0, 2)]
    counted("before")
    logs.append(search.train_weights(0, 3))
    counted("weights")
    found += map(dict, logs)
    rewarded(1)
    counted("before")
    rewarded(2)
    counted("reward")
    # Not the policy's mode: rounding decides between options that are all but alike.
    found_one = search.weights.space.sample(random.Random(1))
    training = run.child_training(Network("found", found_one, 0), None)
    training.estimate()
    training.step()
    counted("before")
    training.step()
    counted("child")
    found.append(training.end_epoch())
    counted("epoch")
    state = training.state_dict()
    again = run.child_training(Network("found", found_one, 0), None)
    again.load_state_dict(state)
    again.step()
    found.append(again.end_epoch())
    return found, waits
