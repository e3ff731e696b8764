"""A comparison as a table to read."""

from __future__ import annotations

import io

from rich import box
from rich.console import Console
from rich.table import Table

from enas.evidence.comparison import Comparison, Contest, MethodSummary
from enas.runtime.progress import duration
from enas.runtime.streams import can_show

CURVE = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""The numbers of random architectures whose expected best is shown."""


def comparison_text(comparison: Comparison, width: int = 100) -> str:
    """The methods, what random architectures reach, and what may be said of each pair of methods."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=False)
    console.print(_methods(comparison))
    if comparison.best_of_random:
        curve = comparison.best_of_random
        shown = [f"{k}: {curve[k - 1]:.2f}" for k in CURVE if k <= len(curve)]
        console.print(f"expected best {comparison.metric} of k random architectures: {', '.join(shown)}")
    if comparison.random_in_budget is not None:
        console.print(
            f"in the seconds of one run of {comparison.method} {comparison.random_in_budget:.1f} random architectures "
            "are trained",
            highlight=False,
            soft_wrap=True,
        )
    for contest in comparison.contests:
        console.print(f"{comparison.method}: {contest.claim}", highlight=False, soft_wrap=True)
        if contest.difference is not None:
            console.print(
                f"  mean difference {contest.difference} over {contest.difference.n} pairs, above 0 where "
                f"{comparison.method} is better",
                highlight=False,
                soft_wrap=True,
            )
        console.print(f"  {_budget(contest)}", highlight=False, soft_wrap=True)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _budget(contest: Contest) -> str:
    """What the rival had, by both counts."""
    ratios = {"evaluations": contest.evaluations_ratio, "seconds": contest.seconds_ratio}
    times = [f"{ratio:.2f} times the {what}" for what, ratio in ratios.items() if ratio is not None]
    counts = f"{contest.rival} had {' and '.join(times) or 'a budget that is too small to be compared'}"
    return counts if contest.equal_budget else f"at another budget: {counts}"


def _methods(comparison: Comparison) -> Table:
    look = box.SIMPLE_HEAD if can_show(str(box.SIMPLE_HEAD)) else box.MARKDOWN
    table = Table(box=look, padding=(0, 1))
    for heading in (
        "method",
        "runs",
        comparison.metric,
        "best",
        "worst",
        "evaluations",
        "a run",
        "in all",
        "k*",
    ):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for summary in comparison.summaries:
        table.add_row(*_cells(summary))
    return table


def _cells(summary: MethodSummary) -> tuple[str, ...]:
    diverged = f" ({summary.diverged} diverged)" if summary.diverged else ""
    scores = (
        "-" if score is None else f"{score:.2f}" for score in (summary.score, summary.best, summary.worst)
    )
    equivalents = summary.random_equivalents
    return (
        summary.method,
        f"{summary.runs}{diverged}",
        *scores,
        f"{summary.evaluations:,.0f}",
        duration(summary.seconds),
        duration(summary.end_to_end_seconds),
        "-" if equivalents is None else f"{equivalents:,.0f}",
    )
