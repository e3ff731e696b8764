"""The network of one architecture: a copy without choices, of what is taken alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from enas.architecture import Architecture
from enas.choices.modules import Asking, Choice, Inputs, TakenInputs
from enas.choices.plan import plan_of
from enas.errors import ConfigError, shortened
from enas.runtime.whose import hands_over

Weights = Literal["fresh", "shared"]
"""Drawn anew, or copied."""


def child_of(net: nn.Module, architecture: Architecture, weights: Weights = "fresh") -> nn.Module:
    """A network that computes one architecture with weights of its own, made of the modules that are taken.

    The option that is taken stands where its `Choice` stood. So the key of a tensor in the child's state dict is its key in
    the network without the names of the options that lead to it: `mix.conv3.weight` becomes `mix.weight`. A small module
    stands where an `Inputs` stood. What is not taken is not copied; tied weights are tied in the child too.

    `weights`: "shared" ones are copied, and the child computes what the path does, bit for bit. "fresh" ones are drawn by
    `reset_parameters()` of every module that has it, inner ones first, from torch's own random numbers; modules whose
    parameters are all frozen (`requires_grad` is False) keep theirs. Buffers that it does not reset are copied.

    Raises `ConfigError` for an architecture of another network, and, with fresh weights, for parameters that nothing resets.
    """
    if weights not in ("fresh", "shared"):
        raise ConfigError(f"weights must be 'fresh' or 'shared', not {weights!r}")
    child = copied(net, dict(plan_of(net).answers(architecture)))
    if weights == "fresh":
        reset(child)
    return child


@hands_over
def copied(net: nn.Module, answers: Mapping[Asking, Any]) -> nn.Module:
    """A deep copy of the network in which what is taken stands in the place of the modules that ask."""
    memo: dict[int, object] = {}
    """What is to be taken for the copy of the thing that has this id; `copy.deepcopy` adds to it."""
    seen: set[nn.Module] = set()

    @hands_over
    def prepare(module: nn.Module) -> None:
        if module in seen:
            return
        seen.add(module)
        option = module._modules[answers[module]] if isinstance(module, Choice) else None
        for inner in module.children() if option is None else (option,):
            prepare(inner)
        if option is not None:
            memo[id(module)] = copy.deepcopy(option, memo)
        elif isinstance(module, Inputs):
            memo[id(module)] = TakenInputs(answers[module], copy.deepcopy(module.join, memo))

    prepare(net)
    return copy.deepcopy(net, memo)


@torch.no_grad()
def reset(network: nn.Module) -> None:
    """Draw all weights that are not frozen anew. Raises `ConfigError` naming those that no module resets."""
    trained = {
        name: parameter
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and not is_lazy(parameter)
    }
    for parameter in trained.values():
        parameter.fill_(torch.nan)  # what nothing resets is found by it
    for module in reversed(list(network.modules())):
        own = list(module.parameters(recurse=False))
        if not own or any(parameter.requires_grad for parameter in own):
            # nn.MultiheadAttention and nn.Transformer have theirs by another name.
            for name in ("reset_parameters", "_reset_parameters"):
                method = getattr(module, name, None)
                if method is not None:
                    method()
    kept = [name for name, parameter in trained.items() if not parameter.is_meta and parameter.isnan().any()]
    if kept:
        raise ConfigError(
            f"fresh weights: nothing resets {shortened(', '.join(kept), 200)}; the module that has them needs a method "
            "reset_parameters(), as torch's own modules have it"
        )
