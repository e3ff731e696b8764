"""What the modules of a network ask, read off the network once; and one path of it."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from enas.architecture import Architecture
from enas.choices.modules import Asking, Choice, SharedDecision
from enas.errors import ConfigError
from enas.spaces.choices.space import ChoiceSpace, OneOf, Question

Taken = tuple[tuple[SharedDecision, str], ...]
"""The options that all must be taken for a module to be called, the outermost first."""


@dataclass(frozen=True, slots=True)
class Site:
    """A place of the network at which a module asks."""

    path: str
    module: Asking
    taken: Taken


class Plan:
    """The space of a network, and which of its decisions each module asks."""

    def __init__(self, net: nn.Module) -> None:
        """Raises `ConfigError` if nothing asks, or if what is asked makes no sense."""
        sites = list(sites_of(net))
        if not sites:
            raise ConfigError(
                f"there is no Choice and no Inputs in {type(net).__name__}, so there is nothing to search; choices that are "
                "kept in a plain list or dict are not found: use nn.ModuleList or nn.ModuleDict"
            )
        check_options(sites)
        of_decision: dict[SharedDecision, list[Site]] = {}
        for site in sites:
            of_decision.setdefault(site.module.decision, []).append(site)
        names = {decision: decision.name or asking[0].path for decision, asking in of_decision.items()}
        questions = {
            decision: shared_question(names[decision], of_decision[decision]) for decision in of_decision
        }
        when = {decision: distinct(site.taken for site in asking) for decision, asking in of_decision.items()}
        order = in_order(when, names)
        self.space = ChoiceSpace(
            tuple(
                replace(
                    questions[decision],
                    when=tuple(tuple((names[d], option) for d, option in taken) for taken in when[decision]),
                )
                for decision in order
            )
        )
        self.asked_by = {
            names[decision]: tuple(dict.fromkeys(site.path for site in of_decision[decision]))
            for decision in order
        }
        place = {
            decision: slice(first, first + len(question.decisions))
            for decision, question, first in zip(order, self.space.questions, self.space.firsts, strict=True)
        }
        modules = {site.module: place[site.module.decision] for site in sites}
        self._modules = [(weakref.ref(module), decisions) for module, decisions in modules.items()]
        """Not by references that would keep the network alive, as plans are kept beside networks."""

    def answers(self, architecture: Architecture) -> list[tuple[Asking, object]]:
        """What every module answers. Raises `ConfigError` for an architecture of another network."""
        space = ChoiceSpace.of(architecture)
        if space is not self.space and not space.asks_as(self.space):
            raise ConfigError(
                f"the architecture {architecture} is of another network: it answers {described(space)}, and this one asks "
                f"{described(self.space)}"
            )
        choices = architecture.choices
        found = ((module(), decisions) for module, decisions in self._modules)
        return [
            (module, module.answer(choices[decisions])) for module, decisions in found if module is not None
        ]


_PLANS: weakref.WeakKeyDictionary[nn.Module, Plan] = weakref.WeakKeyDictionary()


def plan_of(net: nn.Module, *, anew: bool = False) -> Plan:
    """The plan of a network, from when it was last read. Raises `ConfigError` as `Plan`."""
    if anew or net not in _PLANS:
        _PLANS[net] = Plan(net)
    return _PLANS[net]


def asked_by(net: nn.Module) -> dict[str, tuple[str, ...]]:
    """The paths of the modules that ask each question, by the question's name. Raises `ConfigError` if nothing asks."""
    return dict(plan_of(net).asked_by)


@contextlib.contextmanager
def use(net: nn.Module, architecture: Architecture) -> Iterator[None]:
    """Inside, the network computes one architecture: what is not taken is not called, and gets no gradient.

    Contexts of one network may stand in each other; the inner one holds. Several threads need a network each. Raises
    `ConfigError` for an architecture of another network.
    """
    answers = plan_of(net).answers(architecture)
    before = [module.taken for module, _ in answers]
    try:
        for module, answer in answers:
            vars(module)["taken"] = answer  # a module's own way to set an attribute takes ten times as long
        yield
    finally:
        for (module, _), answer in zip(answers, before, strict=True):
            vars(module)["taken"] = answer


def sites_of(net: nn.Module) -> Iterator[Site]:
    """Every place at which a module asks, parents before what is nested in their options."""
    seen: set[tuple[nn.Module, Taken]] = set()

    def walk(module: nn.Module, path: str, taken: Taken) -> Iterator[Site]:
        if (module, taken) in seen:
            return
        seen.add((module, taken))
        if isinstance(module, Asking):
            yield Site(path or "choice", module, taken)
        for name, child in module._modules.items():
            inner = with_option(taken, module.decision, name) if isinstance(module, Choice) else taken
            if child is not None and inner is not None:
                yield from walk(child, f"{path}.{name}".lstrip("."), inner)

    return walk(net, "", ())


def with_option(taken: Taken, decision: SharedDecision, option: str) -> Taken | None:
    """With one option more; None if that decision has taken another one."""
    before = dict(taken).get(decision)
    if before is None:
        return (*taken, (decision, option))
    return taken if before == option else None


def check_options(sites: Iterable[Site]) -> None:
    """Raise `ConfigError` if one module is an option of two choices that do not share a decision."""
    owners: dict[nn.Module, tuple[Site, str]] = {}
    for site in sites:
        if not isinstance(site.module, Choice):
            continue
        for name, option in site.module.named_children():
            other, other_name = owners.setdefault(option, (site, name))
            if (other.module.decision, other_name) != (site.module.decision, name):
                raise ConfigError(
                    f"{other.path}, option {other_name!r}, and {site.path}, option {name!r}, are the same module, but two "
                    "decisions: copy it with copy.deepcopy, or give both choices one SharedDecision and the option one name"
                )


def shared_question(name: str, sites: Sequence[Site]) -> Question:
    """What all of these sites ask. Raises `ConfigError` if they do not ask the same."""
    question, *others = (site.module.question(name) for site in sites)
    for site, other in zip(sites[1:], others, strict=True):
        if described_question(other) != described_question(question):
            raise ConfigError(
                f"{sites[0].path} and {site.path} share a decision, but the one asks for {described_question(question)}, "
                f"the other for {described_question(other)}"
            )
    if isinstance(question, OneOf):
        free = [
            option
            for option in question.parameter_free
            if all(isinstance(other, OneOf) and option in other.parameter_free for other in others)
        ]
        if len(free) == len(question.options):
            free = []  # where nothing has parameters, nothing is favoured
        return replace(question, parameter_free=tuple(free))
    return question


def described_question(question: Question) -> str:
    """What is asked, in words."""
    if not isinstance(question, OneOf):
        return f"{question.at_least} to {question.at_most} of {question.inputs} tensors"
    of = "one of the tensors" if question.kind == "source" else "one of"
    return f"{of} {', '.join(question.options)}"


def described(space: ChoiceSpace) -> str:
    """The decisions of a space, in short."""
    names = [question.name for question in space.questions]
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''} ({len(space.decisions)} decisions)"


def distinct(every: Iterable[Taken]) -> tuple[Taken, ...]:
    """Without those that say more than another one, as any of them is enough."""
    kept: list[Taken] = []
    for taken in sorted(dict.fromkeys(every), key=len):
        if not any(set(other) <= set(taken) for other in kept):
            kept.append(taken)
    return tuple(kept)


def in_order(
    when: dict[SharedDecision, tuple[Taken, ...]], names: dict[SharedDecision, str]
) -> list[SharedDecision]:
    """The decisions in the order of the modules, but each after all that it depends on.

    Raises `ConfigError` if two depend on each other.
    """
    order: list[SharedDecision] = []
    waiting = list(when)
    while waiting:
        ready = (
            decision
            for decision in waiting
            if all(other in order for taken in when[decision] for other, _ in taken)
        )
        decision = next(ready, None)
        if decision is None:
            raise ConfigError(
                f"the decisions {', '.join(names[each] for each in waiting[:3])} each depend on another of them, as choices "
                "that share them are nested the other way round; give one of the choices a SharedDecision of its own"
            )
        order.append(decision)
        waiting.remove(decision)
    return order
