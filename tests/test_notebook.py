"""Progress in a Jupyter kernel: one output a stage, drawn again in place."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


class Watched(NotebookClient):
    """Keeps what cells are told to draw anew."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.updates: list[dict[str, str]] = []

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "update_display_data":
            self.updates.append(msg["content"]["data"])
        return super().process_message(msg, cell, cell_index)


def executed(folder: Path, *sources: str) -> tuple[list[list[Any]], list[dict[str, str]]]:
    """The outputs of cells, and what was drawn anew."""
    imports = f"import sys; sys.path.insert(0, {str(ROOT)!r})"
    cells = [nbformat.v4.new_code_cell(source) for source in (imports, *sources)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = Watched(notebook, timeout=300, iopub_timeout=60, resources={"metadata": {"path": str(folder)}})
    client.execute()
    return [cell.outputs for cell in notebook.cells[1:]], client.updates


def test_a_search_shows_a_bar_and_few_lines(tmp_path: Path) -> None:
    begin = "import enas\nfrom tests.own_network import SMALL, Net, task"
    search = "found = enas.search(Net, task, 'run', **SMALL)"
    train = "model = enas.train(found, random=1)"
    (_, searched, trained), updates = executed(tmp_path, begin, search, train)
    for outputs, stages in ((searched, ["search"]), (trained, ["retrain found", "retrain random"])):
        bars = [output["data"] for output in outputs if output.output_type == "display_data"]
        last = {data["text/plain"].split(":")[0]: data for data in bars}
        for stage in stages:
            (name,) = [name for name in last if name.startswith(stage)]
            steps = "15/15 steps" if stage == "search" else "12/12 steps"
            assert steps in last[name]["text/plain"]
            assert last[name]["text/html"].startswith(f'<progress value="{steps[:2]}" max="{steps[:2]}">')
            assert last[name] in updates
        said = "".join(output["text"] for output in outputs if output.output_type == "stream").splitlines()
        assert 0 < len(said) < 20
        assert not any("steps, " in line for line in said)


def test_ten_thousand_steps_are_one_output(tmp_path: Path) -> None:
    """By a clock that goes on by a thousandth of a second whenever it is asked: one or a few times a step."""
    source = """
import itertools
from enas.runtime.progress import progress
clock = itertools.count(0, 0.001)
with progress("a < b", 10_000, "steps", clock=clock.__next__) as bar:
    for step in range(10_000):
        bar.advance(1, loss=step)
"""
    (((output,),)), updates = executed(tmp_path, source)
    assert 10 < len(updates) < 200
    assert output["data"] == updates[-1]
    assert output["data"]["text/plain"] == "a < b: 10000/10000 steps, loss 9999"
    assert output["data"]["text/html"].endswith("a &lt; b: 10000/10000 steps, loss 9999")
