"""What all checks have in common: how a broken rule is said, and what is equal bit for bit."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from enas.errors import ContractError, shortened

BY_IDENTITY: Any = object.__eq__
"""How objects compare whose class does not say it."""
Holds = Callable[[bool, str], None]
"""Raises `ContractError` unless the first is true; the second says what was found."""


@contextlib.contextmanager
def rule(whose: str, promise: str, advice: str) -> Iterator[Holds]:
    """Inside, a rule is checked by the function that is given. Whatever else is raised breaks it too."""

    def broken(found: str) -> ContractError:
        return ContractError(f"{whose}: {promise}, but {found}. {advice}.")

    def holds(is_so: bool, found: str) -> None:
        if not is_so:
            raise broken(found)

    try:
        yield holds
    except ContractError:
        raise
    except Exception as error:
        said = shortened(" ".join(str(error).split()), 300)
        raise broken(f"{type(error).__name__} was raised: {said}") from error


def same(a: Any, b: Any) -> bool:
    """Whether both are equal bit for bit, the tensors and arrays in them too, and what objects hold that compare by identity
    alone."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if type(a) is type(b) and type(a).__eq__ is BY_IDENTITY and hasattr(a, "__dict__"):
        return a is b or same(vars(a), vars(b))
    return bool(a == b)


def through_a_file(state: Any) -> Any:
    """A state written and read again, without running anything that could be in it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def disturb(seed: int) -> None:
    """The global generators as another program leaves them."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
