"""The contract of `enas.Space`."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Sequence
from itertools import islice
from typing import get_args

from enas.architecture import Architecture, Decision, Kind, Space
from enas.errors import ArchitectureError, shown
from enas.spaces import architecture_from_json, space_from_json
from enas.testing.rules import rule

SMALL = 1000
"""Architectures of a space that is enumerated; a larger one is sampled."""
SAMPLES = 50
NONSENSE = "?!"
"""What no space writes."""


def check_space(space: Space) -> None:
    """Check that a space keeps its contract.

    Its decisions, samples, weights, count and enumeration fit each other; its JSON and its text read back. A space of more
    than 1000 architectures is sampled, a smaller one enumerated as well. Raises `ContractError`.
    """
    whose = type(space).__name__
    check_decisions(whose, space)
    samples = check_samples(whose, space)
    check_weights(whose, space, samples)
    check_count(whose, space, samples)
    check_json(whose, space, samples)
    check_text(whose, space, samples)


def check_decisions(whose: str, space: Space) -> None:
    """Decisions, and which of their options have no parameters."""
    with rule(
        whose,
        "decisions must be a tuple of enas.Decision, at least one, and always the same",
        "Make them of the space's fields alone",
    ) as holds:
        decisions = space.decisions
        plain = type(decisions) is tuple and all(type(one) is Decision for one in decisions)
        holds(plain and len(decisions) > 0, f"they are {shown(decisions)}")
        holds(space.decisions == decisions, "they are others when asked for again")
    with rule(
        whose,
        "a decision's name and options must tell it and them apart",
        "Give every decision a name of its own, a known kind, and distinct options; a skip has two: no, yes",
    ) as holds:
        names = [decision.name for decision in decisions]
        holds(len(set(names)) == len(names), f"the names are {shown(names)}")
        for decision in decisions:
            options, kind = decision.options, decision.kind
            holds(0 < len(set(options)) == len(options), f"{decision.name} has the options {shown(options)}")
            holds(kind in get_args(Kind), f"{decision.name} is of the kind {shown(kind)}")
            holds(kind != "skip" or len(options) == 2, f"{decision.name} has the options {shown(options)}")
    with rule(
        whose, "parameter_free must name options of the decision", "Return some of decision.options"
    ) as holds:
        for decision in decisions:
            free = space.parameter_free(decision)
            holds(set(free) <= set(decision.options), f"of {decision.name} it names {shown(free)}")


def check_samples(whose: str, space: Space) -> list[Architecture]:
    """Samples, and what they have in common with those of an equal space."""
    with rule(
        whose,
        "sample must draw architectures of the space from the generator it is given, and from nothing else",
        "Use no other random numbers, or leave sample as enas.Space has it",
    ) as holds:
        drawn, again = ([space.sample(rng) for _ in range(SAMPLES)] for rng in map(random.Random, (0, 0)))
        for one in drawn:
            holds(type(one) is Architecture and one.space == space, f"{shown(one)} was drawn")
        holds(drawn == again, "the same generator gave others")
    with rule(
        whose,
        "a space must be equal to its copies and have their hash, and so must its architectures",
        "Make it a frozen dataclass, with fields that are tuples, text and numbers",
    ) as holds:
        copied = copy.deepcopy(space)
        holds(copied == space and hash(copied) == hash(space), "a copy is another one")
        for one in drawn:
            twin = copied.architecture(one.choices)
            holds(twin == one and twin.id == one.id, f"the copy of {one.id} has the id {twin.id}")
    return drawn


def check_weights(whose: str, space: Space, samples: Sequence[Architecture]) -> None:
    """What can be taken after the choices before it."""
    with rule(
        whose,
        "weights(before) must be the probability of every option: none negative, and their sum 1",
        "Return one number for every option of decision number len(before)",
    ) as holds:
        weights_NL = [
            [space.weights(one.choices[:place]) for place in range(len(one.choices))] for one in samples
        ]
        for one, weights_L in zip(samples, weights_NL, strict=True):
            for place, (decision, weights) in enumerate(zip(space.decisions, weights_L, strict=True)):
                found = f"after {one.choices[:place]} those of {decision.name} are {shown(weights)}"
                holds(len(weights) == len(decision.options) and min(weights) >= 0, found)
                holds(math.isclose(sum(weights), 1, abs_tol=1e-9), found)
                holds(weights[one.choices[place]] > 0, f"{found}, and choice {one.choices[place]} was drawn")
    with rule(
        whose,
        "where options depend on earlier choices, the space must say so by its property conditional",
        "Let conditional be true, and write a count() that follows",
    ) as holds:
        for weights_L in [] if space.conditional else weights_NL:
            for decision, weights in zip(space.decisions, weights_L, strict=True):
                holds(len(set(weights)) == 1, f"the weights of {decision.name} are {shown(weights)}")
    with rule(
        whose,
        "active(choices) must be true exactly where more than one option can be taken",
        "Leave it as enas.Space has it",
    ) as holds:
        for one, weights_L in zip(samples, weights_NL, strict=True):
            asked = tuple(not space.conditional or sum(w > 0 for w in weights) > 1 for weights in weights_L)
            said = space.active(one.choices)
            holds(said == asked, f"of {one.choices} it is {shown(said)}, not {shown(asked)}")


def check_count(whose: str, space: Space, samples: Sequence[Architecture]) -> None:
    """Count and enumeration."""
    with rule(
        whose,
        "count() must be the number of architectures",
        "Count what weights lets through, each architecture once",
    ) as holds:
        count, distinct = space.count(), len(set(samples))
        holds(type(count) is int and count >= 1, f"it is {shown(count)}")
        holds(count >= distinct, f"it is {count}, and {distinct} were sampled")
        every = list(islice(space.enumerate(), min(count, SMALL) + 1))
        found = f"it is {count}, and {len(every)} or more are enumerated"
        holds(len(every) == min(count, SMALL + 1), found)
    with rule(
        whose,
        "enumerate() must give each architecture once, the last decision varying fastest",
        "Leave it as enas.Space has it",
    ) as holds:
        choices = [one.choices for one in every]
        holds(len({one.id for one in every}) == len(set(every)) == len(every), "one comes twice")
        holds(choices == sorted(choices), "they come in another order")
        if len(every) <= SMALL:
            missing = set(samples) - set(every)
            holds(not missing, f"{', '.join(map(str, missing))} is sampled and not enumerated")
            total = sum(
                math.prod(space.weights(one.choices[:i])[c] for i, c in enumerate(one.choices))
                for one in every
            )
            holds(math.isclose(total, 1, abs_tol=1e-6), f"by weights they come to {total:.6f} of 1")


def check_json(whose: str, space: Space, samples: Sequence[Architecture]) -> None:
    """The space and its architectures as plain values."""
    with rule(
        whose,
        "space_from_json must read what to_json writes",
        "Use fields of plain values, with their types, and let the name lead to the space: by the entry point "
        "'enas.spaces'",
    ) as holds:
        record = json.loads(json.dumps(space.to_json()))
        holds(record == space.to_json(), "after json.dumps and json.loads it is not the same")
        again = space_from_json(record)
        holds(again == space and again.decisions == space.decisions, f"it read {shown(again)}")
        for one in samples[:20]:
            read = architecture_from_json(json.loads(json.dumps(one.to_json())))
            holds(read == one, f"{one} was read as {read}")


def check_text(whose: str, space: Space, samples: Sequence[Architecture]) -> None:
    """Architectures as lines, and as drawings."""
    with rule(
        whose,
        "parse must read what format writes, in one line",
        "Write every decision that is asked",
    ) as holds:
        for one in samples:
            line = space.format(one)
            holds(type(line) is str and len(line.splitlines()) <= 1, f"{one.choices} is {shown(line)}")
            read = space.parse(line)
            holds(read == one, f"{shown(line)}, of the choices {one.choices}, was read as {read.choices}")
    with rule(
        whose,
        "parse must raise enas.errors.ArchitectureError for what is no architecture",
        "Say what is wrong with the text, and what can stand there",
    ) as holds:
        try:
            read = space.parse(NONSENSE)
        except ArchitectureError:
            pass
        else:
            holds(False, f"{NONSENSE!r} was read as {read.choices}")
    with rule(
        whose,
        "graph must have arrows between boxes of its own",
        "Give every box a key of its own, and use the keys in the edges",
    ) as holds:
        for one in samples:
            graph = space.graph(one)
            keys = [node.key for node in graph.nodes]
            holds(len(set(keys)) == len(keys), f"that of {one} has the keys {shown(keys)}")
            loose = [edge for edge in graph.edges if not set(edge) <= set(keys)]
            holds(not loose, f"that of {one} has the edges {shown(loose)} beside the keys {shown(keys)}")
    with rule(
        whose,
        "reduced must give an architecture of the space from which nothing more can be left out",
        "Leave it as enas.Space has it",
    ) as holds:
        for one in samples:
            less = space.reduced(one)
            holds(
                less.space == space and space.reduced(less) == less,
                f"{one} was reduced to {less}, and further",
            )
