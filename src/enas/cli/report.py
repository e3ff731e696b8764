"""The commands that show what runs came to: one page, and one verdict."""

from __future__ import annotations

import json as as_json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from enas.cli.flags import Command
from enas.constraints import Settings
from enas.errors import ConfigError, SettingError, shown
from enas.paths import OptionalPath, UserPath
from enas.runtime.progress import say
from enas.runtime.streams import show_text

_A = Annotated[UserPath, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
_B = Annotated[UserPath, tyro.conf.Positional, tyro.conf.arg(metavar="B")]


@dataclass(frozen=True)
class Report(Command, Settings):
    """Write what runs came to as one page to look at and to send: report.html."""

    runs: Annotated[tuple[UserPath, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Folders of runs; several are set side by side."""
    page: OptionalPath = None
    """Write the page here; by default into the run's folder, or of several runs as report.html here."""
    watch: bool = False
    """Write it again every few seconds until the runs are finished; an open page follows."""
    pictures: OptionalPath = None
    """Also write the charts as SVG and PNG files into this folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.page is not None and os.path.isdir(self.page):  # which says no to a name that is too long
            raise SettingError(f"page must be a file, not the folder {shown(str(self.page))}")

    def checked(self) -> Report:
        """Raises `ConfigError` without a run."""
        if not self.runs:
            raise ConfigError("name the folder of a run: enas report RUN")
        return self

    def __call__(self) -> int:
        """Write the page, and the pictures if asked; say where they are."""
        from enas.report.page import REPORT, watch, write_page, write_pictures
        from enas.stages import Run

        runs = [Run.open(folder) for folder in self.runs]
        own = runs[0].folder / REPORT if len(runs) == 1 else Path(REPORT)
        page = own if self.page is None else self.page
        if self.watch:
            watch(runs, page)
        else:
            write_page(runs, page)
        if self.pictures is not None:
            say(f"pictures: {write_pictures(runs, self.pictures)} in {self.pictures}")
        return show_text(str(page))


@dataclass(frozen=True)
class Gate(Command, Settings):
    """Is B better than A? Exit code 0 better, 3 not shown, 4 worse."""

    a: _A
    """A run folder, a folder of run folders with several seeds, or a file of scores: one number a line, or JSON."""
    b: _B
    """The same; its runs are paired with those of A by their seeds."""
    lower_is_better: bool = False
    """Of scores in files: the lower, the better."""
    json: bool = False
    """Print JSON instead of sentences."""

    def __call__(self) -> int:
        """Compare, and say what the runs allow to say."""
        from enas.evidence.gate import describe, gate

        found = gate(self.a, self.b, self.lower_is_better or None)
        show_text(as_json.dumps(found.to_json(), indent=2) if self.json else describe(found))
        return found.exit_code
