"""The command line: commands to stages, nothing else.

The options of every command are a dataclass that tyro reads. What a command needs is imported when it is named: torch takes
seconds, and Ctrl-C may come meanwhile.

Exit codes: 0 done, also where nobody reads the rest of the output; 2 wrong usage or input, said in one line; 75 stopped by
a signal after saving; 130 interrupted without saving. `gate` answers with 0 better, 3 not shown, 4 worse.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence

from enas import __version__
from enas.cli.flags import Command, read, subcommands
from enas.errors import EnasError
from enas.runtime.launch import followers_silent, follows
from enas.runtime.memory import keep_freed_memory
from enas.runtime.progress import say
from enas.runtime.stop import Stopped
from enas.runtime.streams import show_text, standard_streams

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

OWN = "a file of yours, as in 'enas run mine.py', or a function, as mine.py:NAME or package.module:NAME"

COMMANDS = {
    "run": (
        f"Search, derive, retrain and test, into runs/RECIPE. RECIPE may be {OWN}.",
        "enas.cli.stages:run",
    ),
    "search": (f"Only the search of a recipe, which may be {OWN}.", "enas.cli.stages:search"),
    "derive": ("Pick an architecture from a finished search.", "enas.cli.stages:Derive"),
    "retrain": (
        "Train it from scratch, and what it is compared with, then test; or, as 'enas retrain RECIPE --architecture "
        "TEXT', an architecture that you have.",
        "enas.cli.stages:retrain",
    ),
    "test": ("Read the test data, once a network.", "enas.cli.stages:Test"),
    "export": (
        "The found network as plain torch, torch.export and ONNX, each compared with it.",
        "enas.cli.export:Export",
    ),
    "resume": ("Go on after a stop or a crash, exactly.", "enas.cli.stages:Resume"),
    "show": ("Draw an architecture.", "enas.cli.show:Show"),
    "cost": (
        "What an architecture costs: parameters, multiply-adds, latency here; beside random ones.",
        "enas.cli.cost:Cost",
    ),
    "report": ("What runs came to, as one page to look at and to send.", "enas.cli.report:Report"),
    "gate": ("Is B better than A? For scripts: the exit code says.", "enas.cli.report:Gate"),
    "ensemble": ("Many architectures of a search classify together.", "enas.cli.evidence:Ensemble"),
    "rank": (
        "Do the shared weights order architectures as training alone does?",
        "enas.cli.evidence:Rank",
    ),
    "compare": ("A run's method against random ones and evolution.", "enas.cli.evidence:Compare"),
    "table": (
        "The truth about a mini-space: every architecture trained alone.",
        "enas.cli.evidence:table",
    ),
    "ablate": (
        "A recipe against variants of it, and against the paper's figures.",
        "enas.cli.evidence:ablate",
    ),
    "benchmark": (
        "Controllers against random search where every architecture's score is known; nothing is trained.",
        "enas.cli.evidence:Benchmark",
    ),
    "recipes": ("What there is to run.", "enas.cli.about:Recipes"),
    "doctor": ("What this machine has.", "enas.cli.about:Doctor"),
}
"""What every command does, and its options."""

ABOUT = """Efficient neural architecture search by parameter sharing.

'enas run RECIPE --help' lists every setting, 'enas --version' says which version this is. Exit codes: 0 done, 2 wrong usage
or input, 75 stopped after saving."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    keep_freed_memory()
    with standard_streams(), contextlib.ExitStack() as silence:
        try:
            silence.enter_context(followers_silent())
            command = parse(sys.argv[1:] if argv is None else argv)
            return command.follow() if follows() and isinstance(command, Command) else command()
        except Stopped as stopped:
            say(str(stopped))
            return stopped.exit_code
        except EnasError as error:
            say(error.complaint)
            return EXIT_USAGE
        except KeyboardInterrupt as interrupt:
            say("; ".join(["enas: interrupted", *getattr(interrupt, "__notes__", [])]))
            return EXIT_INTERRUPTED


def parse(argv: Sequence[str]) -> Callable[[], int]:
    """What a command line does. Raises `ConfigError` for an unknown command, recipe or setting, and `SystemExit` after
    printing help."""
    words = list(argv) or ["--help"]
    if words == ["--version"]:
        return lambda: show_text(f"enas {__version__}")
    return read(subcommands("command", COMMANDS, words), words, ABOUT).checked()
