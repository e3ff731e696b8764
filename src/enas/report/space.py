"""What a recipe would search, in words: its decisions, who shares them, how many architectures, and how large they are."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch

from enas.choices import asked_by
from enas.config import RunConfig
from enas.errors import shortened
from enas.evidence.runs import aligned
from enas.report.text import in_digits
from enas.retrain import Network
from enas.runs.network import NetworkConfig
from enas.runtime.seeding import derive_seed
from enas.searchable import WithChoices

SAMPLED = 100
"""Random architectures whose sizes are shown."""
WIDEST = 60
"""Characters of a column."""


def described(config: RunConfig) -> str:
    """The space of a recipe, and the sizes of the smallest, the mean and the largest of `SAMPLED` random architectures.

    Nothing is trained. Loads the data, whose shapes the networks have, and tries the user's code on a batch as a run does.
    Raises as `RunConfig.load` and `RunConfig.tried`.
    """
    config.load()
    config.tried()
    with config.told():
        space, askers, of_sizes = config.searched_space(), modules_that_ask(config), sizes(config)
    rows = [["decision", "options", *(["asked by"] if askers else [])]]
    for decision in space.decisions:
        row = [decision.name, ", ".join(decision.options)]
        if askers:  # one of several decisions of a question has its number after the question's name
            question = decision.name if decision.name in askers else decision.name.rpartition(".")[0]
            row.append(", ".join(askers[question]))
        rows.append(row)
    asked = "" if not space.conditional else ", some of them only after certain choices"
    heading = f"{len(space.decisions)} decisions{asked}; {in_digits(space.count())} architectures"
    return "\n\n".join([heading, table(rows), of_sizes])


def modules_that_ask(config: RunConfig) -> Mapping[str, Sequence[str]]:
    """The paths of the modules that ask each question, of a network with choices; empty for other networks."""
    if not isinstance(config, NetworkConfig):
        return {}
    supernet = config.supernet()
    return asked_by(supernet.network) if isinstance(supernet, WithChoices) else {}


def sizes(config: RunConfig) -> str:
    """What random architectures' networks cost."""
    space = config.searched_space()
    rng = random.Random(derive_seed(config.seed, "sizes"))
    drawn = [space.sample(rng) for _ in range(SAMPLED)]
    networks = [Network("candidate", one, config.seed) for one in dict.fromkeys(drawn)]
    task = config.child_training(networks[0]).task
    with torch.device("meta"):
        known = {network.architecture: task.size(config.model(network)) for network in networks}
    names = [name for name in ("parameters", "multiply_adds") if name in known[drawn[0]]]
    found = sorted(drawn, key=lambda one: [known[one][name] for name in names])
    rows = [("", *(name.replace("_", "-") for name in names), "architecture")]
    for label, one in (("smallest", found[0]), ("largest", found[-1])):
        rows.append((label, *(f"{known[one][name]:,}" for name in names), str(one)))
    means = (sum(known[one][name] for one in drawn) / SAMPLED for name in names)
    rows.insert(2, ("mean", *(f"{round(mean):,}" for mean in means), ""))
    return f"of {SAMPLED} random architectures:\n{table(rows)}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns, the first line their names; what is long is cut."""
    return "\n".join(aligned([[shortened(cell, WIDEST) for cell in row] for row in rows]))
