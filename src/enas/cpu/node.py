"""Compiled operations as nodes of autograd's graph, or as plain functions where no gradient is asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import Function


class _NoContext:
    """Takes what a forward pass keeps for its backward pass, which there will not be."""

    def save_for_backward(self, *_: Any) -> None:
        pass

    def mark_non_differentiable(self, *_: Any) -> None:
        pass

    def set_materialize_grads(self, _: bool) -> None:
        pass


def apply(function: type[Function], *arguments: Any) -> Any:
    """function.apply(*arguments), without autograd's share of the time where gradients are disabled."""
    if torch.is_grad_enabled():
        return function.apply(*arguments)
    return function.forward(_NoContext(), *arguments)
