"""The commands that tell what there is: recipes, and this machine."""

from __future__ import annotations

import json as as_json
from dataclasses import dataclass
from textwrap import indent

from enas.cli.flags import Command
from enas.recipes import RECIPES
from enas.runtime.streams import show_text


@dataclass(frozen=True)
class Recipes(Command):
    """What there is to run."""

    json: bool = False
    """Print JSON."""

    def __call__(self) -> int:
        """List the recipes with what they say about themselves."""
        if self.json:
            return show_text(as_json.dumps(RECIPES, indent=2))
        return show_text("\n\n".join(f"{name}\n{indent(text, '  ')}" for name, text in RECIPES.items()))


@dataclass(frozen=True)
class Doctor(Command):
    """What this machine has, by using it; exit code 2 if something needed is missing."""

    json: bool = False
    """Print JSON."""

    def __call__(self) -> int:
        """Print the checks; the exit code is 2 if something needed is missing."""
        from enas.doctor import checks

        found = checks()
        if self.json:
            show_text(as_json.dumps([vars(check) for check in found], indent=2))
        else:
            marks = ("ok  " if check.ok else "MISS" if check.needed else "none" for check in found)
            show_text("\n".join(f"{mark}  {check}" for mark, check in zip(marks, found, strict=True)))
        return 2 if any(check.needed and not check.ok for check in found) else 0
