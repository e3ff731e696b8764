"""The parts of a page that set a run against others: other methods, and trainings alone against shared weights."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from enas.evidence.agreement import top
from enas.evidence.comparison import Comparison
from enas.evidence.rank import COMPARED
from enas.report.charts import Line, Row, Span, dots_in_rows, intervals, lines, points_in_plane
from enas.report.marks import Chart
from enas.report.page_numbers import Numbers, as_number
from enas.report.page_parts import Section, Table, thinned
from enas.report.summary import number
from enas.runtime.progress import duration
from enas.scores import decimals

# ---- against others ----------------------------------------------------------------------------------------------------


def against_others(run: Numbers, most: int) -> Section | None:
    """Every run of every method as a dot; without a comparison, every network that was trained with the found one."""
    if run.comparison is not None:
        return compared(run, run.comparison, most)
    rows: dict[str, list[tuple[float, str]]] = {}
    labels = set()
    for one in run.of_part("retrain"):
        scored = one.score(run.metric)
        if scored is not None:
            labels.add(scored[0])
            rows.setdefault(one.role, []).append(
                (scored[1], f"{one.id}: {scored[1]:.4g}, {one.architecture}")
            )
    if len(labels) != 1:
        return None
    label = labels.pop()
    chart = dots_in_rows(
        "others",
        "Networks trained alike, one seed each",
        f"{label}, {run.order}",
        [Row(role, thinned(points, most), own=role == "found") for role, points in rows.items()],
    )
    return Section(charts=(chart,), numbers={"score": label, "networks": rows})


def compared(run: Numbers, found: Comparison, most: int) -> Section:
    """The runs of a comparison, P(better) against each rival, and what random architectures reach."""
    rows = []
    for summary in found.summaries:
        points = [
            (record.score, f"{record.method}, seed {record.seed}: {record.score:.4g}, {record.architecture}")
            for record in run.records
            if record.method == summary.method and record.score is not None
        ]
        shown = thinned(sorted(points), most)
        rows.append(Row(summary.method, shown, summary.score, summary.method == found.method))
    charts = []
    if any(row.points for row in rows):
        title = "Every run of every method, and its mean"
        charts.append(dots_in_rows("others", title, f"test {found.metric}, {run.order}", rows))
    spans = [Span(c.rival, c.better.value, c.better.low, c.better.high, c.claim) for c in found.contests]
    title = f"How often {found.method} is better"
    charts.append(intervals("better", title, f"P({found.method} is better), one half is chance", spans, 0.5))
    if len(found.best_of_random) > 1:
        curve = [(float(k), best) for k, best in enumerate(found.best_of_random, start=1)]
        drawn = [Line("expected best of k random ones", thinned(curve, most), "other")]
        mean = next(one.score for one in found.summaries if one.method == found.method)
        if mean is not None:
            drawn.append(Line(f"mean of {found.method}", [(1.0, mean), (float(len(curve)), mean)], "own"))
        charts.append(
            lines("random", "What random architectures reach", "k architectures trained", drawn, scores=True)
        )
    places = decimals(score for s in found.summaries for score in (s.score, s.best, s.worst))
    table = Table(
        ("method", "runs", "diverged", "mean", "best", "worst", "evaluations", "a run"),
        tuple(
            (
                s.method,
                str(s.runs),
                str(s.diverged),
                *(number(score, places) for score in (s.score, s.best, s.worst)),
                f"{s.evaluations:,.0f}",
                duration(s.seconds),
            )
            for s in found.summaries
        ),
    )
    claims = tuple(
        f"{found.method}: {one.claim}." + ("" if one.equal_budget else " Budgets differ by more than 10 %.")
        for one in found.contests
    )
    records = [[r.method, r.seed, r.score] for r in thinned(run.records, 3 * most)]
    numbers = {**asdict(found), "best_of_random": thinned(found.best_of_random, most), "records": records}
    return Section(claims, tuple(charts), (table,), numbers=numbers)


# ---- shared weights against trainings alone ----------------------------------------------------------------------------


def agreement(run: Numbers, most: int) -> Section | None:
    """Whether the shared weights order architectures as trainings alone do: rank.json, and what a verification logged."""
    words: list[str] = []
    charts: list[Chart] = []
    numbers: dict[str, Any] = {}
    if run.rank is not None:
        places = thinned(run.rank.scores, most)
        charts.append(
            points_in_plane(
                "shared-trained",
                "Scores with shared weights and trained alone",
                f"with shared weights: {run.rank.score}",
                f"trained alone: {run.rank.score}",
                [(one.shared, one.trained, one.text) for one in places],
                set(top([one.trained for one in places]).tolist()),
            )
        )
        known = ((name, one.kendall) for name, one in run.rank.agreement.items() if one and name in COMPARED)
        rows = [Span(name, t.value, t.low, t.high, f"{COMPARED[name]}: {t}, n = {t.n}") for name, t in known]
        if rows:
            title = "Kendall's tau, and how far two trainings agree"
            charts.append(intervals("tau", title, "tau: 1 the same order, 0 chance", rows, 0.0))
        words += [f"{warning[:1].upper()}{warning[1:]}." for warning in run.rank.warnings]
        numbers["rank"] = {
            "agreement": {
                name: None if one is None else asdict(one) for name, one in run.rank.agreement.items()
            },
            "scores": [[one.shared, one.trained, one.trained_again] for one in places],
        }
    verified = run.log.get("search/verification", ())
    rows, kept = [], []
    for record in verified:
        for which in ("shared", "corrected"):
            found = (as_number(record.get(f"{which}_kendall{end}")) for end in ("", "_low", "_high"))
            three = [value for value in found if value is not None]
            if len(three) == 3:
                heading = f"after {as_number(record.get('trained')) or 0:.0f} trainings"
                heading = "" if any(row.heading == heading for row in rows) else heading
                rows.append(Span(which, three[0], three[1], three[2], heading=heading))
                kept.append([record.get("trained"), which, *three])
    if rows:
        title = "Tau of rewards and trainings during the search"
        charts.append(intervals("verification", title, "tau: 1 the same order, 0 chance", rows, 0.0))
        numbers["verification"] = kept
    return Section(tuple(words), tuple(charts), numbers=numbers) if charts else None
