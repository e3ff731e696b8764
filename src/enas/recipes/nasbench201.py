"""The recipes of the cells of NAS-Bench-201."""

from __future__ import annotations

from dataclasses import replace

from enas.data.images import ImageConfig
from enas.recipes.common import shortlisted, verifying
from enas.recipes.images import training
from enas.recipes.micro import micro_default, micro_quick
from enas.runs.images import ImageRetrainConfig, NASBench201Config
from enas.spaces.nasbench201.net import NASBench201NetConfig
from enas.tasks.image_settings import ImageChildConfig, ImageRewardConfig, ImageSharedConfig


def nasbench201_quick() -> NASBench201Config:
    """A cell of NAS-Bench-201 on scikit-learn's handwritten digits, in minutes on a laptop. No download.

    Command:  enas run nasbench201-quick
    Expect:   not measured.
    Source:   settings of this package, small enough to watch.
    """
    quick = micro_quick()
    network = NASBench201NetConfig(filters=8, cells=1)
    return NASBench201Config(
        threads=1,
        data=quick.data,
        network=network,
        child_network=network,
        shared=quick.shared,
        search=quick.search,
        controller=quick.controller,
        verify=quick.verify,
        derive=quick.derive,
        retrain=quick.retrain,
    )


def nasbench201_default() -> NASBench201Config:
    """A cell of NAS-Bench-201 on CIFAR-10, in a network that is small enough for a search on two cores.

    Command:  enas run nasbench201-default
    Expect:   cells that have 93.3 to 93.8 % in the benchmark, better than 96 to 99 % of all cells; n = 5. What they reach
              when they are trained here, and the time on an idle machine, were not measured. See docs/results.md.
    Source:   settings of this package.
    """
    default = micro_default()
    network = NASBench201NetConfig(filters=8, cells=1)
    alone = training(64, 0.1, 0.001, period=30, decay=5e-4)
    return NASBench201Config(
        threads=1,
        data=ImageConfig("cifar10", valid=4_000, max_train=14_000),
        network=network,
        child_network=network,
        shared=ImageSharedConfig(
            training(64, 0.05, 0.001, period=12, decay=5e-4), ImageRewardConfig(batch=256), average=0.99
        ),
        search=replace(default.search, epochs=12, percentile_every=3),
        controller=default.controller,
        verify=replace(verifying(30), trainings=32),
        derive=replace(shortlisted(30), shortlist=4),
        retrain=ImageRetrainConfig(
            random=3, child=ImageChildConfig(30, alone, evaluation="recalibrated"), short_schedule="squeezed"
        ),
    )
