"""What a run came to, in words: the drawing, the table of networks, the next commands to type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enas.report.drawing import text_for
from enas.runtime.progress import duration

if TYPE_CHECKING:
    from enas.stages import Run


def summary(run: Run) -> str:
    """The run as far as it got."""
    parts = []
    if (run.folder / "architecture.json").exists():
        architecture = run.architecture()
        parts += [text_for(architecture.graph()), str(architecture)]
    results = run.results()
    if results:
        parts.append(table(results))
    parts.append(next_commands(run))
    return "\n\n".join(parts)


def table(results: list[dict[str, Any]]) -> str:
    """One line a network: same recipe, same budget."""
    rows = [("network", "parameters", "valid ppl", "test ppl", "time")]
    for result in results:
        test = result.get("test", {}).get("test_ppl")
        rows.append(
            (
                f"{result['role']} {result['id']}",
                f"{result['parameters']:,}",
                f"{result['valid_ppl']:.2f}",
                "-" if test is None else f"{test:.2f}",
                duration(result["seconds"]),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]
    epochs = {result["epochs"] for result in results}
    caption = (
        f"trained from scratch with one recipe, {', '.join(map(str, sorted(epochs)))} epochs each, one seed:"
    )
    return "\n".join([caption, *lines, verdict(results)]).rstrip()


def verdict(results: list[dict[str, Any]]) -> str:
    """Where the found architecture stands, as far as one seed can say."""
    tested = {result["id"]: result["test"]["test_ppl"] for result in results if "test" in result}
    found = next((result["id"] for result in results if result["role"] == "found"), None)
    others = [result for result in results if result["id"] in tested and result["id"] != found]
    if found not in tested or not others:
        return ""
    better = sum(tested[found] < tested[result["id"]] for result in others)
    return f"the found cell is better than {better} of the {len(others)} others; one seed each shows no more than that"


def next_commands(run: Run) -> str:
    """What can be done from here."""
    folder = run.folder
    lines = [f"enas show {folder} --png cell.png", "enas recipes"]
    if not (folder / "search.json").exists() and "search" in run.stages:
        lines = [f"enas resume {folder}"]
    elif not (folder / "architecture.json").exists():
        lines = [f"enas derive {folder}"]
    elif not run.results():
        lines = [f"enas show {folder}", f"enas retrain {folder}"]
    else:
        lines.append(
            "enas run recurrent-quick --data.source FOLDER   # train.txt, valid.txt, test.txt of your own"
        )
    return "next:\n" + "\n".join(f"  {line}" for line in lines)
