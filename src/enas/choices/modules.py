"""The modules that ask: which of several modules to call, and which of several tensors to take."""

from __future__ import annotations

import functools
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from enas.constraints import LARGEST_SPACE
from enas.errors import ConfigError, shortened, shown
from enas.runtime.whose import hands_over
from enas.spaces.choices.space import OneOf, Question, SomeOf, check_question, check_word

Join = Callable[[list[Tensor]], Tensor]
"""What is made of the tensors that are taken, at least one."""


class SharedDecision:
    """What a module decides by. Modules that are given the same one always take the same: they are one `Decision` of the
    network's space."""

    def __init__(self, name: str | None = None) -> None:
        """`name` stands in architectures; without one it is the path of the first module that asks. Raises `ConfigError` for
        a name with spaces or '='."""
        if name is not None:
            check_word("the name of a SharedDecision", name)
        self.name = name

    def __deepcopy__(self, memo: dict[int, object]) -> SharedDecision:
        """Itself, so that a copy of a block decides as the block does."""
        return self

    def __repr__(self) -> str:
        return "SharedDecision()" if self.name is None else f"SharedDecision({self.name!r})"


class Asking(nn.Module, ABC):
    """A module that computes what a path of the network says (`use`)."""

    taken: Any = None
    """The answer, inside `use`."""

    def __init__(self, decision: SharedDecision | None) -> None:
        super().__init__()
        if not isinstance(decision, SharedDecision | None):
            raise ConfigError(f"decision must be an enas.SharedDecision, not {shown(decision)}")
        self.decision = SharedDecision() if decision is None else decision

    @abstractmethod
    def question(self, name: str) -> Question:
        """What it asks, under this name."""

    @abstractmethod
    def answer(self, choices: Sequence[int]) -> object:
        """What `taken` is for these choices, one a decision of the question."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What it is, for a message."""

    def _not_used(self) -> ConfigError:
        return ConfigError(
            f"{self.words} was called outside `use(net, architecture)`, which says what it takes. One that is called inside "
            "was not found when the space was read: it is in a Python list or dict (use nn.ModuleList or nn.ModuleDict), or "
            "it was put into the network since (read the space again: space_of(net))"
        )

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and saved: a copy is not inside `use`."""
        return {name: value for name, value in vars(self).items() if name != "taken"}


class Choice(Asking):
    """Calls the option that is taken, with the arguments that it is given, and returns what the option returns."""

    taken: str | None

    def __init__(self, options: Mapping[str, nn.Module], decision: SharedDecision | None = None) -> None:
        """`options` are modules by name. All take the same arguments and return the same shapes.

        Raises `ConfigError` for an option that is no module, for one module under two names, and for names that cannot be
        used: those of methods and attributes that a Choice has, and those with a dot, a space or '='.
        """
        super().__init__(decision)
        if not options or not isinstance(options, Mapping):
            raise ConfigError(f"a Choice needs its options, as in {{'name': module}}; got {shown(options)}")
        for name, option in options.items():
            check_word("an option of a Choice", name)
            if not isinstance(option, nn.Module):
                raise ConfigError(
                    f"option {name!r} of a Choice is no module but {shown(option)}; put a function into a module's forward"
                )
            same = next((other for other, module in self.named_children() if module is option), None)
            if same is not None:
                raise ConfigError(
                    f"options {same!r} and {name!r} of a Choice are the same module; copy it, or drop one"
                )
            try:
                self.add_module(name, option)
            except KeyError as error:
                raise ConfigError(
                    f"an option of a Choice cannot have the name {name!r} ({error.args[0]}); choose another"
                ) from error

    def question(self, name: str) -> OneOf:
        """One decision between the options. Those without parameters are `parameter_free`."""
        free = tuple(option for option, module in self.named_children() if not list(module.parameters()))
        return OneOf(name, tuple(self._modules), parameter_free=free)

    def answer(self, choices: Sequence[int]) -> str:
        """The name of the option."""
        return tuple(self._modules)[choices[0]]

    @hands_over
    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the option that is taken makes of the arguments. Raises `ConfigError` outside `use`."""
        if self.taken is None:
            raise self._not_used()
        option: Any = self._modules[self.taken]
        return option(*inputs, **named)

    @property
    def words(self) -> str:
        return f"a Choice of {shortened(', '.join(self._modules))}"


class Inputs(Asking):
    """The sum of those of n tensors that are taken; zeros like the first tensor if none is."""

    taken: tuple[int, ...] | None

    def __init__(
        self,
        n: int,
        *,
        exactly: int | None = None,
        at_least: int | None = None,
        at_most: int | None = None,
        join: Join | None = None,
        decision: SharedDecision | None = None,
    ) -> None:
        """How many of the n tensors may be taken: any number, if nothing is said.

        `join` makes one tensor of the list of those that are taken, in their order; a function or a module. `exactly=1` is
        one decision with the options "0" to "n-1"; otherwise every tensor is a decision, no or yes. Raises `ConfigError` for
        bounds that make no sense.
        """
        super().__init__(decision)
        bounds = (n, exactly, at_least, at_most)
        if not all(type(bound) is int for bound in bounds if bound is not None):
            raise ConfigError(f"the numbers of Inputs must be whole; got {bounds}")
        if not 1 <= n <= LARGEST_SPACE:
            raise ConfigError(f"Inputs chooses among 1 to {LARGEST_SPACE} tensors, not {n}")
        if exactly is not None and (at_least, at_most) != (None, None):
            raise ConfigError("Inputs takes either exactly, or at_least and at_most")
        self.n = n
        self.at_least = exactly if exactly is not None else at_least or 0
        self.at_most = exactly if exactly is not None else n if at_most is None else at_most
        self.join = total if join is None else join
        check_question(SomeOf("Inputs", n, self.at_least, self.at_most), {})

    def question(self, name: str) -> Question:
        """One decision if exactly one tensor is taken, n decisions that bound each other otherwise."""
        if self.at_least == self.at_most == 1:
            return OneOf(name, tuple(map(str, range(self.n))), kind="source")
        return SomeOf(name, self.n, self.at_least, self.at_most)

    def answer(self, choices: Sequence[int]) -> tuple[int, ...]:
        """The numbers of the tensors that are taken."""
        if self.at_least == self.at_most == 1:
            return tuple(choices)
        return tuple(number for number, yes in enumerate(choices) if yes)

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        """The sum of the tensors that are taken, or what `join` makes of them. Raises `ConfigError` outside `use`, and for
        another number of tensors."""
        if self.taken is None:
            raise self._not_used()
        if len(tensors) != self.n:
            raise ConfigError(f"{self.words} was called with {len(tensors)}")
        return joined(tensors, self.taken, self.join)

    @property
    def words(self) -> str:
        return f"an Inputs of {self.n} tensors"

    def extra_repr(self) -> str:
        return f"{self.n}, at_least={self.at_least}, at_most={self.at_most}"


class TakenInputs(nn.Module):
    """What stands in a child in the place of an `Inputs`: the same tensors, always."""

    def __init__(self, taken: tuple[int, ...], join: Join) -> None:
        super().__init__()
        self.taken, self.join = taken, join

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        """Their sum, or what `join` makes of them; zeros if none is taken."""
        return joined(tensors, self.taken, self.join)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.taken))


@hands_over
def joined(tensors: Sequence[Tensor], taken: tuple[int, ...], join: Join) -> Tensor:
    """What becomes of the tensors that are taken."""
    return join([tensors[number] for number in taken]) if taken else torch.zeros_like(tensors[0])


@hands_over
def total(tensors: list[Tensor]) -> Tensor:
    """The sum."""
    return functools.reduce(operator.add, tensors)


def fresh_decisions(block: nn.Module) -> nn.Module:
    """The block itself, after its choices were given decisions of their own.

    What copies of a block share, they no longer share then. What modules inside the block share, they go on sharing.
    """
    fresh: dict[SharedDecision, SharedDecision] = {}
    for module in block.modules():
        if isinstance(module, Asking):
            module.decision = fresh.setdefault(module.decision, SharedDecision())
    return block
