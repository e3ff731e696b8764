"""Progress in a Jupyter kernel: one output a stage, drawn again in place."""

from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


SOURCES = {
    "imports": f"import sys; sys.path.insert(0, {str(ROOT)!r})",
    "begin": "import enas\nfrom tests.own_network import SMALL, Net, task",
    "search": "found = enas.search(Net, task, 'run', **SMALL)",
    "train": "model = enas.train(found, random=1)",
    "many": """
import itertools
from enas.runtime.progress import progress
clock = itertools.count(0, 0.001)
with progress("a < b", 10_000, "steps", clock=clock.__next__) as bar:
    for step in range(10_000):
        bar.advance(1, loss=step)
""",
}
"""The cells of a notebook. In the last one a clock goes on by a thousandth of a second whenever it is asked, which is once
or a few times a step."""


class Watched(NotebookClient):
    """Keeps what each cell is told to draw anew."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.updates: dict[int, list[dict[str, str]]] = {}

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "update_display_data":
            self.updates.setdefault(cell_index, []).append(msg["content"]["data"])
        return super().process_message(msg, cell, cell_index)


class Executed(NamedTuple):
    """The outputs of a cell, and what was drawn anew."""

    outputs: list[Any]
    updates: list[dict[str, str]]


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Executed]:
    """All cells, in one kernel; not to be changed."""
    cells = [nbformat.v4.new_code_cell(source) for source in SOURCES.values()]
    notebook = nbformat.v4.new_notebook(cells=cells)
    place = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    client = Watched(notebook, timeout=300, iopub_timeout=60, resources=place)
    client.execute()
    return {
        name: Executed(cell.outputs, client.updates.get(number, []))
        for number, (name, cell) in enumerate(zip(SOURCES, notebook.cells, strict=True))
    }


@pytest.mark.parametrize(
    ("cell", "stages"), [("search", ["search"]), ("train", ["retrain found", "retrain random"])]
)
def test_a_search_shows_a_bar_and_few_lines(
    executed: dict[str, Executed], cell: str, stages: list[str]
) -> None:
    outputs, updates = executed[cell]
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


def test_ten_thousand_steps_are_one_output(executed: dict[str, Executed]) -> None:
    (output,), updates = executed["many"]
    assert 10 < len(updates) < 200
    assert output["data"] == updates[-1]
    assert output["data"]["text/plain"] == "a < b: 10000/10000 steps, loss 9999"
    assert output["data"]["text/html"].endswith("a &lt; b: 10000/10000 steps, loss 9999")
