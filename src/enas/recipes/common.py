"""Settings that several recipes share.

Sources: "paper" is Pham et al. 2018; "authors" is their corrected recurrent code, google-research/enas_lm; "first code" is
melodyguan/enas, whose language model its authors withdrew in 2019 and whose convolutional searches are the only ones that
they published.
"""

from __future__ import annotations

from enas.controllers import IndependentConfig, ReinforceConfig
from enas.derive import DeriveConfig
from enas.verification import VerifyConfig

PATIENT = IndependentConfig(ReinforceConfig(learning_rate=0.05, entropy_weight=0.1))
"""For searches of several hundred updates, whose rewards change with the shared weights: takes the mean over some hundred
updates, where a faster policy would settle on what the weights favour at the moment."""

PAPER_REINFORCE = ReinforceConfig(
    learning_rate=3.5e-4,
    baseline="ema",
    decay=0.99,
    baseline_start="zero",
    normalise_advantages=False,
    entropy_weight=1e-4,
    entropy="reward",
)
"""The paper's; where it is silent (decay and start of the moving average) the first code's."""

PUBLISHED_DERIVE = DeriveConfig("reward", samples=10, minibatches=1)
"""How the paper and the authors pick an architecture."""


def verifying(child_epochs: int) -> VerifyConfig:
    """How a search verifies itself whose networks are then trained for so many epochs: 24 trainings in 4 rounds, each a
    thirtieth as long as the retraining, so that all take less time than it; but of 3 epochs at least, as fewer hardly tell
    architectures apart. With 12 trainings the corrected score was no better than the shared weights where those inform.
    """
    return VerifyConfig(trainings=24, rounds=4, epochs=max(3, round(child_epochs / 30)))


def shortlisted(child_epochs: int) -> DeriveConfig:
    """How such a search picks: five are trained three times as long as for the verification, and the best of them is taken,
    by these trainings and half as much by the corrected score. They are the policy's most probable, those that the
    trainings hold best, and the best trained."""
    return DeriveConfig(
        "shortlist",
        samples=32,
        minibatches=4,
        shortlist=5,
        shortlist_epochs=3 * verifying(child_epochs).epochs,
        shortlist_order="corrected",
        corrected_weight=0.5,
    )
