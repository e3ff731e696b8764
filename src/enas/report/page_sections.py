"""The parts of a page, each a function of a run's numbers: words, charts, tables, and the same numbers as plain values.

A part is None where the run has nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from enas.errors import enas_command
from enas.report.charts import (
    Line,
    Span,
    bars,
    intervals,
    lines,
    points_in_plane,
)
from enas.report.marks import Chart, Colour
from enas.report.page_numbers import Numbers
from enas.report.page_others import against_others, agreement
from enas.report.page_parts import Section, Table, thinned
from enas.report.page_policy import policy
from enas.report.page_verdict import verdict
from enas.report.summary import next_commands
from enas.runtime.progress import duration
from enas.scores import front

Z = 1.96
"""Standard errors on either side of an estimate that hold it in 95 of 100 cases."""
MOST_DECISIONS = 6
"""Of those whose options differ most."""
MOST_SETTINGS = 60

COLOURS: Mapping[str, Colour] = {"found": "own", "lstm": "third"}
"""Of curves, by the role of the network; others have that of others."""


# ---- the architecture --------------------------------------------------------------------------------------------------


def architecture(run: Numbers, most: int) -> Section | None:
    """The found architecture, drawn, and as text to copy."""
    if run.architecture is None:
        return None
    found = next((one for one in run.of_part("retrain") if one.role == "found"), None)
    sizes: tuple[str, ...] = ()
    if found is not None:
        costs = (("parameters", "parameters"), ("multiply_adds", "multiply-adds an image"))
        said = [f"{cost:,} {what}" for key, what in costs if (cost := found.cost(key)) is not None]
        sizes = (", ".join(said) + ".",)
    return Section(
        sizes,
        text=str(run.architecture),
        drawing=run.architecture.graph(),
        numbers=run.architecture.to_json(),
    )


# ---- options, trainings, costs -----------------------------------------------------------------------------------------


def options(run: Numbers, most: int) -> Section | None:
    """What each option is worth by a regression of the rewards, for the decisions on which most depends."""
    found = run.effects
    if found is None:
        return None
    said = (
        f"{found.records:,} rewards compared within {found.groups:,} {found.within}s; cross-validated share explained: "
        f"{round(found.explained, 2) + 0.0:.2f}."
    )
    numbers = asdict(found)
    if found.explained <= 0:
        return Section((f"No effect of a single decision carries over. {said}",), numbers=numbers)
    percent = 100 / (abs(found.mean_reward) or 1.0)
    taken = []
    for decision in found.decisions:
        known = [(o.option, o.effect, o.standard_error) for o in decision.options]
        kept = [(o, percent * e, percent * s) for o, e, s in known if e is not None and s is not None]
        taken.append((decision.decision, kept))
    spread = {name: np.ptp([e for _, e, _ in kept]) if kept else 0.0 for name, kept in taken}
    groups = []
    for name, kept in sorted(taken, key=lambda pair: -spread[pair[0]])[:MOST_DECISIONS]:
        rows = []
        for option, effect, error in sorted(kept, key=lambda one: -one[1]):
            hint = f"{name}, {option}: {effect:+.2f} ± {error:.2f} %"
            rows.append(Span(option, effect, effect - Z * error, effect + Z * error, hint))
        if rows:
            groups.append((name, rows))
    if not groups:
        return None
    if len(taken) > MOST_DECISIONS:
        said += f" The {MOST_DECISIONS} decisions whose options differ most are shown, of {len(taken)}."
    label = "% of the mean reward, 95 % intervals"
    room = [end for _, rows in groups for row in rows for end in (row.low, row.high)]
    charts = tuple(
        intervals(f"options-{place}", name, label, rows, 0.0, room)
        for place, (name, rows) in enumerate(groups, start=1)
    )
    return Section((said,), charts, numbers=numbers)


def training(run: Numbers, most: int) -> Section | None:
    """How the networks learnt, epoch by epoch, and how the shared weights did."""
    charts: list[Chart] = []
    numbers: dict[str, Any] = {}
    part = next((part for part in ("retrain", "derive") if run.of_part(part)), None)
    drawn = [one for one in run.of_part(part) if one.curve] if part else []
    if drawn:
        label = f"valid {run.metric.name}"
        ordered = sorted(drawn, key=lambda one: one.role == "found")
        named: set[str] = set()
        places = max(10, most // len(ordered))
        shown = [(one, thinned(one.curve, places)) for one in thinned(ordered, 24)]
        curves = []
        for one, curve in shown:
            word = "" if one.role in named else one.role
            named.add(one.role)
            curves.append(Line(word, curve, COLOURS.get(one.role, "other")))
        title = f"Training from scratch: {label}"
        charts.append(lines("training", title, "epoch", curves, scores=run.metric.lower_is_better))
        numbers["networks"] = {one.id: curve for one, curve in shown}
    if loss := thinned(run.over_time("search/weights", "loss"), most):
        numbers["shared_loss"] = loss
        title = "Training loss of the shared weights"
        charts.append(lines("shared-loss", title, "step", [Line("", loss, "other")]))
    return Section(charts=tuple(charts), numbers=numbers) if charts else None


def costs(run: Numbers, most: int) -> Section | None:
    """What was asked, and score against cost of networks that were trained alike, with the front."""
    words, numbers = asked_for(run)
    for part in ("compare", "retrain", "verify", "derive"):
        for cost in (*numbers, *(one for one in ("multiply_adds", "parameters") if one not in numbers)):
            known = [
                (float(paid), scored, one)
                for one in run.of_part(part)
                if (paid := one.cost(cost)) is not None and (scored := one.score(run.metric)) is not None
            ]
            if len({paid for paid, _, _ in known}) < 3 or len({label for _, (label, _), _ in known}) != 1:
                continue
            ends = front([(paid, score) for paid, (_, score), _ in known], run.metric.better)
            points = [(paid, score, f"{one.id}: {one.architecture}") for paid, (_, score), one in known]
            shown = thinned(range(len(known)), most)
            own = {
                place for place, k in enumerate(shown) if known[k][2].architecture == str(run.architecture)
            }
            label, name = known[0][1][0], "latency, ms" if cost == "latency" else cost.replace("_", "-")
            drawn = [points[k] for k in shown]
            title = f"Score against {name}, and the front"
            chart = points_in_plane("costs", title, name, f"{label}, {run.order}", drawn, own, ends)
            words.append(f"{len(known)} networks trained alike ({part}).")
            plane = {"cost": cost, "score": label, "networks": [list(p[:2]) for p in drawn], "front": ends}
            return Section(tuple(words), (chart,), numbers={**plane, "asked": numbers} if numbers else plane)
    return Section(tuple(words), numbers={"asked": numbers}) if words else None


def asked_for(run: Numbers) -> tuple[list[str], dict[str, Any]]:
    """What was picked, beside what was asked for, and how much was rejected; in words, and by measure."""
    derived, searched = run.run.derive_record(), run.run.search_record()
    asked = {} if derived is None else derived.costs
    words = [f"What was picked has {cost.text(name)}." for name, cost in asked.items()]
    if searched is not None and searched.drawn and searched.rejected is not None:
        share = 100 * searched.rejected / searched.drawn
        words.append(
            f"{share:.0f} % of the architectures that the search drew were over a limit, and rejected."
        )
    return words, {name: asdict(cost) for name, cost in asked.items()}


# ---- where it came from ------------------------------------------------------------------------------------------------


def budget(run: Numbers, most: int) -> Section | None:
    """Where the time went."""
    if not run.spent:
        return None
    total = sum(run.spent.values())
    rows = [(part, seconds, duration(seconds)) for part, seconds in run.spent.items()]
    numbers = {"seconds": dict(run.spent), "total": total, "rewarded": len(run.archive)}
    said = f"{duration(total)} of work in all."
    if run.archive:
        said += f" {len(run.archive):,} architectures were rewarded with the shared weights."
    return Section((said,), (bars("time", "Where the time went", rows),), numbers=numbers)


def settings(run: Numbers, most: int) -> Section | None:
    """The settings that differ from the nearest recipe of the same kind."""
    if run.recipe is None:
        return None
    said = f"The settings are those of {run.recipe}."
    numbers = {"recipe": run.recipe, "changed": {name: list(pair) for name, pair in run.changed.items()}}
    if not run.changed:
        return Section((said,), numbers=numbers)
    said = f"Of the recipes, {run.recipe} is the nearest; {len(run.changed)} settings differ from it."
    shown = list(run.changed.items())[:MOST_SETTINGS]
    table = Table(("setting", run.recipe, "here"), tuple((name, str(a), str(b)) for name, (a, b) in shown))
    return Section((said,), tables=(table,), numbers=numbers)


def origin(run: Numbers, most: int) -> Section | None:
    """Seed, data, versions and hardware."""
    rows = [("seed", str(run.run.config.seed))]
    names = {
        "data_hash": "hash of the data",
        "memory_mib": "memory, MiB",
        "time": "begun",
        "git_commit": "commit",
    }
    for key, value in run.environment.items():
        if value not in (None, [], ""):
            words = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            rows.append((names.get(key, key.replace("_", " ")), words))
    numbers = {"seed": run.run.config.seed, **run.environment}
    return Section(tables=(Table((), tuple(rows)),), numbers=numbers)


def following(run: Numbers, most: int) -> Section:
    """The commands to type next."""
    lines_ = next_commands(run.run).splitlines()[1:]
    folder = run.run.folder
    if run.finished and run.rank is None and "search" in run.run.stages:
        lines_.append(enas_command("rank", folder))
    return Section(text="\n".join(line.strip() for line in lines_))


Part = Callable[[Numbers, int], Section | None]

PARTS: Mapping[str, tuple[str, Part]] = {
    "verdict": ("Verdict", verdict),
    "architecture": ("The found architecture", architecture),
    "others": ("Against random ones and other methods", against_others),
    "agreement": ("Shared weights against trainings alone", agreement),
    "policy": ("The policy over time", policy),
    "options": ("Which option is worth what", options),
    "training": ("Training", training),
    "costs": ("Score against cost", costs),
    "budget": ("Where the time went", budget),
    "settings": ("Settings that differ from the recipe", settings),
    "origin": ("Seeds, versions, hardware, data", origin),
    "next": ("What next", following),
}
"""The parts of a page, in order: what each is called, and what makes it."""
