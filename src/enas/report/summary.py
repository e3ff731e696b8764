"""A run for its user: the drawing, the table of networks, the next commands to type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enas.errors import enas_command
from enas.report.drawing import text_for
from enas.retrain import score_in
from enas.runtime.progress import duration
from enas.scores import decimals

if TYPE_CHECKING:
    from enas.config import Metric
    from enas.stages import Run


def summary(run: Run) -> str:
    """All that there is of a run so far."""
    parts = []
    if (run.folder / "architecture.json").exists():
        architecture = run.architecture()
        parts += [text_for(architecture.graph()), str(architecture)]
        picture = run.folder / "architecture.svg"
        if picture.exists():
            parts.append(f"its picture: {picture}")
    results = run.results()
    if results:
        parts.append(table(results, run.config.metric))
    parts.append(next_commands(run))
    return "\n\n".join(parts)


def table(results: list[dict[str, Any]], metric: Metric) -> str:
    """One line a network; all were trained with one recipe."""
    valid, test = f"valid_{metric.name}", f"test_{metric.name}"
    tests = [score_in(r, test) if "test" in r else None for r in results]
    places = decimals([*tests, *(r.get(valid) for r in results)])
    rows = [("network", "parameters", f"valid {metric.name}", f"test {metric.name}", "time")]
    for result, tested in zip(results, tests, strict=True):
        rows.append(
            (
                f"{result['role']} {result['id']}",
                f"{result['parameters']:,}",
                "diverged" if "diverged" in result else number(result.get(valid), places),
                number(tested, places),
                duration(result["seconds"]) if "seconds" in result else "-",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        name, *cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([name.lstrip().ljust(widths[0]), *cells]))
    epochs = {result["epochs"] for result in results}
    best = (
        "; scores are of the epoch with the best valid one"
        if any(r.get(valid) is not None for r in results)
        else ""
    )
    caption = f"trained from scratch with one recipe, {', '.join(map(str, sorted(epochs)))} epochs each, one seed{best}:"
    return "\n".join([caption, *lines, verdict(results, metric)]).rstrip()


def number(value: float | None, places: int) -> str:
    """A score with so many decimals; a dash if it was not measured."""
    return "-" if value is None else f"{value:.{places}f}"


def verdict(results: list[dict[str, Any]], metric: Metric) -> str:
    """How many of the others the found architecture is better than; empty if that is not known."""
    tested = {r["id"]: score_in(r, f"test_{metric.name}") for r in results if "test" in r}
    found = next((result["id"] for result in results if result["role"] == "found"), None)
    others = [r for r in results if (r["id"] in tested or "diverged" in r) and r["id"] != found]
    if found not in tested or not others:
        return ""
    better = sum("diverged" in r or metric.better(tested[found], tested[r["id"]]) for r in others)
    return (
        f"the found architecture is better than {better} of the {len(others)} others; with one seed each, the order may be "
        "chance"
    )


def next_commands(run: Run) -> str:
    """The commands that continue from here, and how to load a network that is trained."""
    folder, lines, load = run.folder, [], ""
    if not (folder / "search.json").exists() and "search" in run.stages:
        lines = [enas_command("resume", folder)]
    elif not (folder / "architecture.json").exists():
        lines = [enas_command("derive", folder)]
    elif not run.results():
        lines = [enas_command("show", folder), enas_command("retrain", folder)]
    else:
        load = f"\nin Python:\n  model = enas.load({str(folder)!r})"
        if "search" in run.stages and not (folder / "compare" / "comparison.json").exists():
            lines.append(f"{enas_command('compare', folder)}   # was the search worth its time?")
        lines.append(enas_command("show", folder, "--png", "architecture.png"))
        if run.config.on_own_data:
            lines += [enas_command("recipes"), run.config.on_own_data]
    return "next:\n" + "\n".join(f"  {line}" for line in lines) + load
