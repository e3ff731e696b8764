"""Building a table: every training of a mini-space's plan, side by side, resumable."""

from __future__ import annotations

from dataclasses import dataclass

from enas.constraints import PositiveInt, Settings, Threads
from enas.evidence.runs import command_line, run_in, train_networks
from enas.evidence.tables.minispaces import MiniSpace
from enas.evidence.tables.table import Row, Table
from enas.paths import UserPath
from enas.runtime.files import read_json
from enas.runtime.lock import run_lock
from enas.runtime.progress import say
from enas.runtime.stop import StopRequest

TABLE = "table.jsonl"


@dataclass(frozen=True)
class BuildOptions(Settings):
    """Train the architectures of a mini-space, and write their table.jsonl into the run folder."""

    run: UserPath
    """Folder of the trainings. What is finished there is not repeated."""
    first: PositiveInt | None = None
    """Only so many of the first rows."""
    workers: Threads | None = None
    """Processes that train at the same time; by default as many as there are cores for."""


def build(space: MiniSpace, options: BuildOptions) -> Table:
    """Train the rows of a mini-space's table that the run folder lacks, and write the table of those it has.

    Raises `Stopped`, after saving, on SIGTERM or Ctrl-C, and `RunFolderError` if the folder is of other trainings.
    """
    options.run.mkdir(parents=True, exist_ok=True)
    with run_lock(options.run), StopRequest() as stop:
        run = run_in(options.run, space.config(), ("retrain",))
        plan = space.plan()[: options.first]
        command = f"{command_line(f'enas table build {space.name}', options)} --run"
        results = train_networks(run, "table", plan, stop, command, workers=options.workers, test=True)
        rows = [
            Row.of(network.architecture.choices, run.config.metric.name, results[network])
            for network in plan
            if network in results and network.architecture is not None
        ]
        # The threads of this process are not those of the workers.
        made = {**read_json(run.folder / "environment.json"), "threads": run.config.threads}
        table = Table(space.name, run.config, run.workshop.data_hash, made, tuple(rows))
        table.write(run.folder / TABLE)
    missing = len(plan) - len(table.rows)
    if missing:
        say(f"{missing} trainings died and are not in the table; the same command takes them up again")
    return table
