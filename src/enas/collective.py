"""How processes share the work of a call: they take turns with architectures, and add up gradients (`enas.parallel`).

Every function is to be called by all of them at the same place. In a process that is alone, it does what one would do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from enas.data.batches import mapped
from enas.errors import NotFiniteError, ProcessError
from enas.parallel import division, loss_noticed

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(items: Sequence[Item], compute: Callable[[Item], Result]) -> list[Result]:
    """What `compute` makes of each item: the processes take turns. What they send has its tensors on the CPU.

    Raises the first item's `NotFiniteError`, in all processes, if there are some.
    """
    rank, count = division()
    if count == 1:
        return [compute(item) for item in items]
    results: list[Result] = []
    failure: tuple[int, str, bool] | None = None
    for place in range(rank, len(items), count):
        try:
            results.append(compute(items[place]))
        except NotFiniteError as error:
            failure = place, str(error), error.advised
            break
    found = gathered((mapped(Tensor.cpu, results), failure))
    failures = [failure for _, failure in found if failure is not None]
    if failures:
        _, message, advised = min(failures)
        raise NotFiniteError(message, advised)
    return [found[place % count][0][place // count] for place in range(len(items))]


def gathered(value: Result) -> list[Result]:
    """The value of every process that shares the work, by their numbers."""
    count = division()[1]
    if count == 1:
        return [value]
    values: list[Any] = [None] * count
    with loss_noticed():
        dist.all_gather_object(values, value)
    return values


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of all processes, in one message. A parameter that none of them used keeps none.

    Of two addends the sum is the same in either order, so two processes add as one does. More may round differently.
    """
    if division()[1] == 1:
        return
    every = list(parameters)
    used = torch.tensor([parameter.grad is not None for parameter in every], dtype=torch.uint8)
    with loss_noticed():
        dist.all_reduce(used, dist.ReduceOp.MAX)
        chosen = [one for one, is_used in zip(every, used.tolist(), strict=True) if is_used]
        for one in chosen:
            if one.grad is None:
                one.grad = torch.full_like(one, -0.0)  # which changes no addend, not even its sign
        for gradients in by_kind([one.grad for one in chosen if one.grad is not None]):
            sum_D = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(sum_D)
            torch._foreach_copy_(gradients, views(sum_D, gradients))


@torch.no_grad()
def as_in_first(tensors: Iterable[Tensor]) -> None:
    """Give the tensors the values that they have in process 0."""
    if division()[1] == 1:
        return
    with loss_noticed():
        for alike in by_kind(list(tensors)):
            flat_D = torch.cat([tensor.flatten() for tensor in alike])
            dist.broadcast(flat_D, 0)
            torch._foreach_copy_(alike, views(flat_D, alike))


def by_kind(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The tensors by their type of number and their device."""
    found: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(found.values())


def views(flat_D: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The parts of a flat tensor in the shapes of others."""
    parts = flat_D.split([tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]


def check_alike(tensors: Iterable[Tensor], when: str) -> None:
    """Raise `ProcessError` unless all processes have the same bits."""
    if division()[1] == 1:
        return
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    found = gathered(digest.hexdigest())
    if len(set(found)) > 1:
        raise ProcessError(
            f"{when} the processes have different weights ({', '.join(found)}): something that they compute is not the same "
            "in all of them, such as a network or a task that draws numbers of its own. Go on in one process"
        )
