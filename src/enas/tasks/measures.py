"""What a user's loss, score and metrics return: called with what helps where they fail, and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from enas.architecture import Architecture
from enas.data.batches import Batch, structure, tensors_in
from enas.errors import ConfigError, NotFiniteError, shown
from enas.runtime.whose import hands_over
from enas.tasks.own import Measure


@hands_over
def called(name: str, measure: Measure, output: Any, batch: Batch) -> Any:
    """A measure of an output. An error that wrong arguments may have gets a note that says which there are."""
    try:
        return measure(output, batch)
    except (TypeError, AttributeError) as error:
        error.add_note(
            f"(the {name} is called as {name}(output, batch), with the whole batch: {structure(batch)})"
        )
        raise


def scalar(name: str, value: Any) -> Tensor:
    """A number, of a tensor or of Python, as a tensor []. Raises `ConfigError` if it is none."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.detach().reshape(()).float()
    try:
        return torch.tensor(float(value))
    except (TypeError, ValueError, RuntimeError):
        found = f"of shape {list(value.shape)}" if isinstance(value, Tensor) else shown(value)
        raise ConfigError(
            f"the {name} must be a number, such as a mean over the batch; it is {found}"
        ) from None


def of(architecture: Architecture | None) -> str:
    """Whose something is, for a message; nothing for a network of its own."""
    return "" if architecture is None else f" of architecture '{architecture}'"


def checked(found: Mapping[str, float], architecture: Architecture | None, output: Any) -> None:
    """Raise `NotFiniteError` if a number is NaN or infinite; it says so if the `output` that it was made of is not."""
    for name, value in found.items():
        if not math.isfinite(value):
            finite = all(bool(tensor.isfinite().all()) for tensor in tensors_in(output))
            why = (
                f", though what the network returned is finite: look at the {name} itself, which may divide by zero there"
                if finite
                else ""
            )
            raise NotFiniteError(
                f"the {name}{of(architecture)} on data that it was not trained on is {value}{why}",
                advised=finite,
            )
