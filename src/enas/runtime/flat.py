"""A nested state as text and a few flat tensors, one for each role: the weights, their momentum, their average.

A supernet has tens of thousands of small tensors. Written one by one they take seconds, and on a GPU each waits for it.
Large ones stay alone: to join them would take their memory once more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

LARGE = 2**20
"""Bytes of a tensor from which on it stays alone."""
Groups = dict[tuple[Any, ...], tuple[int, list[Tensor]]]
"""The number and the parts of each flat tensor, by what they have in common: a role, which is the names above their own, a
type and a device."""


def packed(state: Mapping[str, Any]) -> tuple[str, list[Tensor]]:
    """A state as JSON and flat tensors on the CPU. Those of one role are joined where they are, and fetched at once.

    Raises `TypeError`, naming the place, if the state holds something other than tensors and plain values.
    """
    groups: Groups = {}
    text = json.dumps(_described(state, "state", (), groups))
    return text, [_joined(parts).cpu() for _, parts in groups.values()]


def unpacked(text: str, flat: Sequence[Tensor]) -> Any:
    """What `packed` was given, each tensor with memory of its own. Raises anything if `packed` did not write this."""
    return _restored(json.loads(text), flat, [0] * len(flat))


def _described(value: Any, where: str, names: tuple[str, ...], groups: Groups) -> Any:
    """A value for JSON: what has parts, but for a list, is an object that says what it is."""
    if isinstance(value, Tensor):
        x = value.detach()
        channels_last = x.ndim == 4 and not x.is_contiguous()
        role = where if x.nbytes >= LARGE else names[:-1]
        number, parts = groups.setdefault((role, x.dtype, x.device), (len(groups), []))
        parts.append((x.permute(0, 2, 3, 1) if channels_last else x).reshape(-1))
        return {"tensor": [number, channels_last, *x.shape]}
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(
                    f"{where} has the key {key!r}; keys of a checkpoint are strings and integers."
                )
        return {
            "mapping": [
                [
                    key,
                    _described(
                        item, f"{where}[{key!r}]", (*names, key) if type(key) is str else names, groups
                    ),
                ]
                for key, item in value.items()
            ]
        }
    if type(value) in (list, tuple):
        items = [_described(item, f"{where}[{index}]", names, groups) for index, item in enumerate(value)]
        return items if type(value) is list else {"tuple": items}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(
        f"{where} is a {type(value).__name__}; a checkpoint holds tensors and plain Python values only."
    )


def _joined(parts: list[Tensor]) -> Tensor:
    """One tensor, which is not the part of a larger one, as that would be written whole."""
    (first, *others) = parts
    alone = not others and first.nbytes == first.untyped_storage().nbytes()
    return first if alone else torch.cat(parts)


def _restored(described: Any, flat: Sequence[Tensor], taken: list[int]) -> Any:
    """The value; `taken` counts what of each flat tensor has been used, in the order in which it was joined."""
    if isinstance(described, list):
        return [_restored(item, flat, taken) for item in described]
    if not isinstance(described, dict):
        return described
    ((kind, content),) = described.items()
    if kind == "mapping":
        return {key: _restored(item, flat, taken) for key, item in content}
    if kind == "tuple":
        return tuple(_restored(item, flat, taken) for item in content)
    number, channels_last, *shape = content
    if channels_last:
        shape = [shape[dim] for dim in (0, 2, 3, 1)]
    length = math.prod(shape)
    part = flat[number][taken[number] : taken[number] + length].clone().view(shape)
    taken[number] += length
    return part.permute(0, 3, 1, 2) if channels_last else part
