"""The recipes of the micro space: a normal and a reduction cell."""

from __future__ import annotations

from dataclasses import replace

from enas.controllers import LSTMConfig
from enas.data.images import ImageConfig
from enas.phases import SearchConfig
from enas.recipes.common import PAPER_REINFORCE, PATIENT, PUBLISHED_DERIVE, shortlisted, verifying
from enas.recipes.images import FIRST_CODE_REINFORCE, on_digits, retraining, training
from enas.runs.images import MicroConfig
from enas.spaces.micro.net import MicroNetConfig
from enas.spaces.micro.space import MicroSpace
from enas.tasks.image_settings import ImageChildConfig, ImageRewardConfig, ImageSharedConfig


def micro_quick() -> MicroConfig:
    """A pair of cells of 3 nodes on scikit-learn's handwritten digits, in minutes on a laptop. No download.

    Command:  enas run micro-quick
    Expect:   test accuracies of 97.2 % (found cells) and 96.1 to 96.4 % (three random pairs); n = 1 each, 3 to 4 minutes on
              a core of an AMD EPYC. See docs/results.md.
    Source:   settings of this package, small enough to watch.
    """
    network = MicroNetConfig(filters=8, layers=3, stem_multiplier=1, output="convolution", dropout=0.0)
    default = micro_default()
    return replace(
        default,
        threads=1,  # at this size a second thread gains nothing, and loses much on a busy machine
        data=ImageConfig("digits", valid=0.2),
        space=MicroSpace(nodes=3),
        network=network,
        child_network=network,
        shared=ImageSharedConfig(on_digits(24), ImageRewardConfig(batch=128), average=0.99),
        search=replace(default.search, epochs=24, updates=12, log_every=10, percentile_every=6),
        verify=verifying(16),
        derive=replace(shortlisted(16), samples=16, minibatches=2, shortlist=4),
        retrain=replace(default.retrain, child=ImageChildConfig(16, on_digits(16))),
    )


def micro_default() -> MicroConfig:
    """A pair of cells of 5 nodes on CIFAR-10, by what today's evidence says makes the search work.

    Shared weights that are trained by uniform samples alone, for half of the search before the controller learns, and whose
    moving average is rewarded with; 8 proposals an update on one minibatch, leave-one-out baseline, independent decisions
    that are learnt slowly, batch statistics for rewards, trainings of single cells that check and correct these rewards, and
    a shortlist that is trained for longer before one is taken. In the search the output of a cell passes a 1×1 convolution
    and a norm: with the bare concatenation, shared weights did not learn.

    Command:  enas run micro-default        (meant for a GPU)
    Expect:   not measured at this size. Two much smaller ones: 43.5 and 46.5 % test accuracy (cells of five searches,
              mean), 42.9 and 45.8 % (20 random pairs), no difference shown. See docs/results.md.
    Source:   settings of this package.
    """
    child = training(144, 0.05, 0.0001, period=300, decay=3e-4, cutout=16)
    return MicroConfig(
        data=ImageConfig("cifar10"),
        space=MicroSpace(nodes=5),
        network=MicroNetConfig(filters=20, layers=6, output="convolution", dropout=0.1),
        child_network=MicroNetConfig(filters=36, layers=18, auxiliary=True, drop_path_keep=0.7, dropout=0.2),
        shared=ImageSharedConfig(
            training(160, 0.05, 0.001, period=70), ImageRewardConfig(batch=512), average=0.99
        ),
        search=SearchConfig(epochs=70, warmup=0.5, explore=1.0, updates=30, proposals=8, percentile_every=10),
        controller=PATIENT,
        verify=verifying(300),
        derive=shortlisted(300),
        retrain=replace(retraining(300, child), random=3, short_schedule="squeezed"),
    )


def micro_paper() -> MicroConfig:
    """The paper's search for convolutional cells on CIFAR-10, setting by setting (§2.4, §3.2).

    What the paper leaves open is taken from the first code: filters, dropout, drop-path, auxiliary head, batch statistics
    for rewards, and the 1×1 convolution of a cell's output in the search.
    --retrain.child.training.augmentation.cutout 16 is the paper's row with CutOut.

    Command:  enas run micro-paper        (meant for a GPU)
    Expect:   the paper states a test error of 3.54 % (4.6 M parameters), 2.89 % with CutOut. Not run to the end for this
              project.
    Source:   paper, Table 2.
    """
    trained = training(128, 0.05, 0.001)
    return MicroConfig(
        data=ImageConfig("cifar10"),
        space=MicroSpace(nodes=5),
        network=MicroNetConfig(filters=20, layers=6, output="convolution", dropout=0.1),
        child_network=MicroNetConfig(
            filters=36, layers=18, base_convolution=True, auxiliary=True, drop_path_keep=0.6, dropout=0.2
        ),
        shared=ImageSharedConfig(trained, ImageRewardConfig(batch=128)),
        search=SearchConfig(epochs=310, samples=1, updates=2000, proposals=1),
        controller=LSTMConfig(reinforce=replace(PAPER_REINFORCE, entropy_weight=0.1)),
        derive=PUBLISHED_DERIVE,
        retrain=retraining(310, trained),
    )


def micro_authors() -> MicroConfig:
    """The search and the retraining of the authors' first code, its defects repaired.

    Repaired: the auxiliary head of the search is trained; the controller's preference for separable convolutions at the
    start stands outside the tanh, so that it can be unlearnt; weights are initialised for the fan-in of the real filter;
    dropout is off for rewards.

    Command:  enas run micro-authors        (meant for a GPU)
    Expect:   users of that code report 3.88 % test error for the cells that it comes with. Not run to the end for this
              project.
    Source:   scripts of melodyguan/enas.
    """
    paper = micro_paper()
    return replace(
        paper,
        network=replace(paper.network, reduction="factorized", auxiliary=True),
        child_network=replace(paper.child_network, layers=15),
        shared=ImageSharedConfig(training(160, 0.05, 0.0005, decay=2e-4), ImageRewardConfig(batch=160)),
        search=replace(paper.search, epochs=150, updates=30, proposals=10, same_minibatch=False),
        controller=LSTMConfig(
            hidden=64,
            temperature=None,
            tanh_constant=1.10,
            operation_tanh_reduce=2.5,
            operation_prior="authors",
            reinforce=FIRST_CODE_REINFORCE,
        ),
        retrain=retraining(630, training(144, 0.05, 0.0001, decay=4e-4)),
    )
