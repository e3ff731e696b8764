"""How a policy went: what it proposed over time, its entropy and advantages, and whether it collapsed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from enas.architecture import Space
from enas.report.charts import Line, lines, shares_over_time
from enas.report.marks import Chart
from enas.report.page_numbers import Numbers, as_number
from enas.report.page_parts import Section, thinned

COLUMNS = 32
"""Spans of time whose proposals are counted together."""
ROUNDING = 1e-9
"""A row of numbers that moves by less is one of zeros: advantages against the mean of an update."""
EACH = 8
"""Proposals of such a span at least."""
ROWS = 90
"""Options that are shown at most."""


def policy(run: Numbers, most: int) -> Section | None:
    """The share of the proposals that took each option, over time; entropy, advantage, reward; collapses."""
    charts: list[Chart] = []
    words: list[str] = []
    numbers: dict[str, Any] = {}
    space = run.run.config.searched_space()
    decisions = space.decisions
    if run.archive:
        choices_NL = np.array([record.choices for record in run.archive])
        asked_NL = asked(space, choices_NL)
        shares_LK = proposed(choices_NL, [len(d.options) for d in decisions], asked_NL)
        order = [
            place for place, d in enumerate(decisions) if len(d.options) > 1 and asked_NL[:, place].any()
        ]
        kept: list[int] = []
        count = 0
        for place in sorted(order, key=lambda place: -moved(shares_LK[place])):
            count += len(decisions[place].options)
            if count > ROWS and kept:
                break
            kept.append(place)
        groups = []
        for place in sorted(kept):
            options = decisions[place].options
            yes_alone = decisions[place].kind == "skip"  # whose other option is no
            shown = range(1 if yes_alone else 0, len(options))
            groups.append((decisions[place].name, [(options[k], shares_LK[place][k]) for k in shown]))
        shown_as = "shares of those asked" if space.conditional else "strong: most took it"
        label = f"{len(run.archive):,} proposals in order; {shown_as}"
        charts.append(shares_over_time("policy", "Which options were proposed", label, groups))
        if len(kept) < len(order):
            words.append(
                f"The {len(kept)} of {len(order)} decisions are shown whose proposals came to differ most."
            )
        numbers["shares"] = {
            decisions[place].name: dict(zip(decisions[place].options, shares_LK[place], strict=True))
            for place in kept
        }
    titles = {
        "entropy_share": "Entropy of the policy, of the largest possible",
        "advantage": "Advantage, mean over an update",
        "reward": "Reward, mean over an update",
    }
    for key, title in titles.items():
        points = run.over_time("search/controller", key)
        if len(points) > 1 and np.ptp([value for _, value in points]) > ROUNDING:
            numbers[key] = thinned(points, most)
            name = key.replace("_", "-")
            charts.append(lines(name, title, "step of the search", [Line("", numbers[key], "other")]))
    health = run.log.get("search/health", ())
    alarms = [as_number(record.get("epoch")) for record in health if record.get("collapsed") == 1]
    if alarms:
        epoch = (alarms[0] or 0) + 1
        words.append(
            f"Warning: from epoch {epoch:.0f} on the policy's mode took parameter-free options nearly everywhere. It may "
            "have collapsed: shared weights favour what has nothing to learn."
        )
    numbers["collapsed_in_epochs"] = alarms
    return Section(tuple(words), tuple(charts), numbers=numbers) if charts else None


def asked(space: Space, choices_NL: np.ndarray) -> np.ndarray:
    """Which decisions each of these architectures was asked [N, L]."""
    if not space.conditional:
        return np.ones(choices_NL.shape, dtype=bool)
    active = {choices: space.active(choices) for choices in set(map(tuple, choices_NL.tolist()))}
    return np.array([active[tuple(choices)] for choices in choices_NL.tolist()])


def proposed(
    choices_NL: np.ndarray, counts: Sequence[int], asked_NL: np.ndarray
) -> list[list[list[float | None]]]:
    """For every decision and option, the share of the proposals that took it, of those that were asked, in spans of equal
    numbers of proposals; None where none was asked."""
    pieces = max(1, min(COLUMNS, len(choices_NL) // EACH))
    spans = list(zip(*(np.array_split(each_NL, pieces) for each_NL in (choices_NL, asked_NL)), strict=True))
    taken = [[choices[asked[:, place], place] for choices, asked in spans] for place in range(len(counts))]
    return [
        [
            [round(float((span == option).mean()), 3) if len(span) else None for span in row]
            for option in range(count)
        ]
        for row, count in zip(taken, counts, strict=True)
    ]


def moved(shares_K: Sequence[Sequence[float | None]]) -> float:
    """How far a decision's last quarter of shares is from uniform: the largest possible entropy less theirs, in nats."""
    known_K = [[share for share in shares if share is not None] for shares in shares_K]
    last = [float(np.mean(shares[-max(1, len(shares) // 4) :])) for shares in known_K]
    return math.log(len(last)) + sum(share * math.log(share) for share in last if share > 0)
