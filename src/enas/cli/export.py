"""`enas export`: the found network of a run in formats that need no enas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from enas.cli.flags import Command
from enas.cli.stages import RunFolder
from enas.exporting.card import times
from enas.exporting.exports import FormatName
from enas.exporting.runs import export_run
from enas.runtime.lock import run_lock
from enas.runtime.streams import show_text


@dataclass(frozen=True)
class Export(Command):
    """The found network in formats that need no enas, each compared with it, into RUN/export."""

    run: RunFolder
    to: tuple[FormatName, ...] = get_args(FormatName)
    """The formats: weights, code in plain torch, the graph of torch.export, ONNX (needs `pip install 'enas[onnx]'`)."""

    def __call__(self) -> int:
        """Write the files, and say what they are."""
        with run_lock(self.run):
            place, checks = export_run(self.run, self.to)
        lines = [
            f"{place / check.file}: {check.digest.bytes:,} bytes, differs by {check.largest_difference:.1e}, "
            f"milliseconds: {times(check)}"
            for check in checks
        ]
        return show_text("\n".join([*lines, f"{place / 'README.md'}: the model card"]))
