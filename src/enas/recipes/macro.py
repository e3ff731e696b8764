"""The recipes of the macro space: whole convolutional networks."""

from __future__ import annotations

from dataclasses import replace

from enas.controllers import IndependentConfig, LSTMConfig
from enas.data.images import ImageConfig
from enas.phases import SearchConfig
from enas.recipes.common import PAPER_REINFORCE, PUBLISHED_DERIVE, shortlisted, verifying
from enas.recipes.images import FIRST_CODE_REINFORCE, on_digits, retraining, training
from enas.runs.images import MacroConfig
from enas.spaces.macro.net import MacroNetConfig
from enas.spaces.macro.space import MacroSpace
from enas.tasks.image_settings import ImageChildConfig, ImageRewardConfig, ImageSharedConfig


def macro_quick() -> MacroConfig:
    """A network of 6 layers on scikit-learn's handwritten digits, in minutes on a laptop. No download.

    Command:  enas run macro-quick
    Expect:   test accuracies of 98.1 % (found network) and 96.1 to 97.5 % (three random ones); n = 1 each, under 2 minutes
              on a core of an AMD EPYC. See docs/results.md.
    Source:   settings of this package, small enough to watch.
    """
    network = MacroNetConfig(filters=12, dropout=0.0)
    default = macro_default()
    return replace(
        default,
        threads=1,  # at this size a second thread gains nothing, and loses much on a busy machine
        data=ImageConfig("digits", valid=0.2),
        space=MacroSpace(layers=6),
        network=network,
        child_network=network,
        shared=ImageSharedConfig(on_digits(24), ImageRewardConfig(batch=128)),
        search=replace(default.search, epochs=24, updates=8, log_every=10, percentile_every=6),
        verify=verifying(16),
        derive=replace(shortlisted(16), samples=16, minibatches=2, shortlist=4),
        retrain=replace(default.retrain, child=ImageChildConfig(16, on_digits(16))),
    )


def macro_default() -> MacroConfig:
    """A network of 12 layers on CIFAR-10, by what today's evidence says makes the search work.

    Uniform warm-up, 8 proposals an update on one minibatch, leave-one-out baseline, independent decisions, batch
    statistics for rewards, trainings of single networks that check and correct these rewards, a search that runs the graph
    that is trained at the end, and a shortlist that is trained for longer before one is taken.

    Command:  enas run macro-default        (meant for a GPU)
    Expect:   not measured at this size. A much smaller one: 54.0 % test accuracy (found network), 49.4 to 52.4 % (three
              random ones); n = 1 each. See docs/results.md.
    Source:   settings of this package.
    """
    child = training(128, 0.05, 0.0001, period=150, decay=3e-4, cutout=16)
    return MacroConfig(
        data=ImageConfig("cifar10"),
        space=MacroSpace(layers=12),
        network=MacroNetConfig(filters=36, dropout=0.1),
        child_network=MacroNetConfig(filters=96, double_channels=True, dropout=0.5),
        shared=ImageSharedConfig(training(128, 0.05, 0.001, period=70), ImageRewardConfig(batch=512)),
        search=SearchConfig(
            epochs=70, warmup=0.25, explore=0.25, updates=20, proposals=8, percentile_every=10
        ),
        controller=IndependentConfig(),
        verify=verifying(150),
        derive=shortlisted(150),
        retrain=replace(retraining(150, child), random=3, short_schedule="squeezed"),
    )


def macro_paper() -> MacroConfig:
    """The paper's search for a whole network on CIFAR-10, setting by setting (§2.3, §3.2).

    What the paper leaves open (filters, dropout, the mini-batch of the reward) is taken from the first code. With
    --child-network.filters 128 it is the paper's wider network, 512 channels in the highest layers.

    Command:  enas run macro-paper        (meant for a GPU)
    Expect:   the paper states a test error of 4.23 % for its network, 3.87 % for the wider one. Not run to the end for
              this project.
    Source:   paper, Table 2.
    """
    trained = training(128, 0.05, 0.001)
    return MacroConfig(
        data=ImageConfig("cifar10"),
        space=MacroSpace(layers=12),
        network=MacroNetConfig(filters=36, merge="concat", order="relu-conv-norm", dropout=0.1),
        child_network=MacroNetConfig(
            filters=96, double_channels=True, merge="concat", order="relu-conv-norm", dropout=0.5
        ),
        shared=ImageSharedConfig(trained, ImageRewardConfig(batch=128, statistics="moving")),
        search=SearchConfig(epochs=310, samples=1, updates=2000, proposals=1),
        controller=LSTMConfig(
            reinforce=replace(
                PAPER_REINFORCE, entropy_weight=0.1, skip_weight=0.8, skip_rate=0.4, skip_penalty="reward"
            )
        ),
        derive=PUBLISHED_DERIVE,
        retrain=retraining(310, trained),
    )


def macro_authors() -> MacroConfig:
    """The search and the retraining of the authors' first code, its defects repaired.

    Repaired: the sampled operation is the one that runs (there: always max pooling); a skip bit and what the controller
    looks at mean the same layer; the skip penalty is on the probability that is sampled; the final network runs
    separable convolutions and pooling (there: dense ones, and none; --child-network.dense-separable True is the former).

    Command:  enas run macro-authors        (meant for a GPU)
    Expect:   users of that code report 3.99 % test error for the network that it comes with. Not run to the end for this
              project.
    Source:   scripts of melodyguan/enas.
    """
    paper = macro_paper()
    return replace(
        paper,
        network=MacroNetConfig(
            filters=36, merge="sum", order="conv-norm-relu", operation_norm_eps=1e-3, dropout=0.1
        ),
        shared=replace(paper.shared, training=training(128, 0.05, 0.0005, decay=5e-4)),
        search=replace(paper.search, updates=50, proposals=20, same_minibatch=False),
        controller=LSTMConfig(
            hidden=64,
            temperature=None,
            tanh_constant=1.5,
            reinforce=replace(
                FIRST_CODE_REINFORCE,
                learning_rate=1e-3,
                entropy="taken-action-in-reward",
                skip_weight=0.8,
                skip_rate=0.4,
                skip_penalty="regulariser",
            ),
        ),
        retrain=retraining(310, training(100, 0.05, 0.001, decay=4e-4)),
    )
