"""The verdict of a page, in a sentence with its interval: by a comparison over seeds, or of one run alone."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from enas.config import Metric
from enas.errors import enas_command
from enas.evidence.comparison import RANDOM_SEARCH, Comparison
from enas.evidence.comparison import verdict as worth
from enas.evidence.statistics import Interval, probability_better_paired
from enas.report.page_numbers import Numbers
from enas.report.page_parts import Section


def verdict(run: Numbers, most: int) -> Section:
    """What may be said, in a sentence: by a comparison over seeds, or of this run alone."""
    if run.comparison is not None:
        return of_comparison(run.comparison)
    return of_one(run)


def of_comparison(found: Comparison) -> Section:
    """The claim against random search, or else the first one, and whether shared weights were worth it."""
    contest = next((one for one in found.contests if one.rival == RANDOM_SEARCH), found.contests[0])
    said = [f"{found.method}: {contest.claim}."]
    more = [f"{line}." for line in worth(found)]
    more.append(
        f"P is the probability that a run of {found.method} comes out better by test {found.metric} than one of the "
        f"other, with the interval that holds it in {100 * contest.better.level:.0f} of 100 cases."
    )
    claims = {one.rival: one.claim for one in found.contests}
    return Section((*said, *more), numbers={"sentence": said[0], "claims": claims})


def of_one(run: Numbers) -> Section:
    """How many random networks, trained alike, the found one is better than; of one search, no more can be said."""
    name = run.metric.name
    networks = run.of_part("retrain")
    own = next((one.tested(run.metric) for one in networks if one.role == "found"), None)
    if own is None:
        return Section(("No network of this run is tested yet, so that there is no verdict.",))
    others = {
        one.role: score
        for one in networks
        if one.role not in ("found", "random") and (score := one.tested(run.metric)) is not None
    }
    beside = tuple(
        f"Trained alike, the {role} ({score:.4g}) is {than(score, own, run.metric)} the found network."
        for role, score in others.items()
    )
    tested = [(one, one.tested(run.metric)) for one in networks if one.role == "random"]
    scores = [score for one, score in tested if one.diverged or score is not None]
    if not scores:
        said = f"The found network has a test {name} of {own:.4g}. No random one was trained alike, so that this says "
        said += "nothing about the search."
        return Section((said, *beside), numbers={"sentence": said, "found": own, "others": others})
    sign = -1.0 if run.metric.lower_is_better else 1.0
    worst = sign * own - 1  # what diverged is worse than any score
    score_N = np.array([worst if score is None else sign * score for score in scores])
    wins, ties = int((score_N < sign * own).sum()), int((score_N == sign * own).sum())
    said = f"By test {name} the found network ({own:.4g}) is better than {wins} of {len(scores)} random ones"
    said += f" and equal to {ties}" if ties else ""
    share: Interval | None = None
    if len(scores) > 1:
        share = probability_better_paired(np.full(len(score_N), sign * own), score_N)
        said += f" that were trained alike: it would beat another random one with P = {share}."
    else:
        said += ", which may be chance: one random network shows nothing."
    more = (
        "Each was trained once. Whether the search is better than random search, other seeds have to show: "
        f"{enas_command('compare', run.run.folder)}"
    )
    numbers = {
        "sentence": said,
        "found": own,
        "random": scores,
        "others": others,
        "better": None if share is None else asdict(share),
    }
    return Section((said, *beside, more), numbers=numbers)


def than(score: float, own: float, metric: Metric) -> str:
    """How a score compares with the found network's."""
    if metric.better(score, own):
        return "better than"
    return "worse than" if metric.better(own, score) else "as good as"
