"""Which operations have a form for GPUs, and whether a device uses it: where it comes to what the plain form does there."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from enas import ops
from enas.cell_plan import CellPlan, OutputNorm
from enas.runtime.devices import as_they_are

SWITCH = "ENAS_KERNELS"
"""The environment variable that turns these forms off as well where it is `off`."""
TOLERANCE = 1e-2
"""Of what is tried, relative: TensorFloat-32 rounds to 1e-3."""


def forms(device: torch.device) -> Mapping[str, Callable[..., Any]]:
    """The forms for this device by the names of their operations. Each returns None for a call that it does not take."""
    if why_not(device) is not None:
        return {}
    from enas.gpu import recurrence  # once they can be used

    return {"recurrence": recurrence.recurrence, "recurrences": recurrence.recurrences}


@cache
def why_not(device: torch.device) -> str | None:
    """Why they are not used on a device; None if they are. The first call tries them, and warns if that fails."""
    if os.environ.get(SWITCH, "").lower() == "off":
        return f"{SWITCH} is off"
    if device.type != "cuda":
        return f"{device.type} has none"
    if importlib.util.find_spec("triton") is None:
        return "Triton is missing"  # as on Windows
    from enas.gpu.graphs import GRAPHS

    why = _tried(device)
    if why is not None and GRAPHS.allowed:
        GRAPHS.allowed = False
        recorded, why = why, _tried(device)
        if why is None:
            warnings.warn(
                f"recurrent cells on {device} are not recorded as CUDA graphs: {recorded}", stacklevel=2
            )
    if why is not None:
        warnings.warn(
            f"recurrent cells are computed in plain PyTorch on {device}, more slowly: {why}", stacklevel=2
        )
    return why


def _tried(device: torch.device) -> str | None:
    try:
        return fault(device)
    except Exception as error:  # whatever Triton or a driver says, there is the plain form
        return f"{type(error).__name__}: {str(error).strip()[:200]}"


def fault(device: torch.device) -> str | None:
    """What is wrong with the recurrence on a device: values and gradients of a small cell against those of its plain form.

    Three times, as the second is recorded and the third repeated.
    """
    from enas.gpu.graphs import GRAPHS
    from enas.gpu.recurrence import recurrence

    # whatever the first call is in
    with torch.inference_mode(False), torch.enable_grad(), as_they_are(device):
        try:
            for number in range(3):
                found, expected = (
                    _small_cell(form, device, number) for form in (recurrence, ops.recurrence.plain)
                )
                for place, (mine, plain) in enumerate(zip(found, expected, strict=True)):
                    if not float((mine - plain).norm()) < TOLERANCE * float(plain.norm()):
                        return f"a small cell came to other numbers (result {place}, try {number})"
        finally:
            GRAPHS.forget()  # a record that is wrong as well
    return None


def _small_cell(form: Callable[..., Any], device: torch.device, seed: int) -> list[Tensor]:
    """The output of a cell of four nodes, and all its gradients."""
    plan = CellPlan((0, 0, 1), ("tanh", "relu", "sigmoid", "identity"), (2, 3))
    T, B, D = 3, 4, 24
    draw = torch.Generator().manual_seed(seed)
    shapes = ((T, B, 2 * D), (B, D), *[(D, 2 * D)] * 4, (D,), (D,), (T, B, D))
    *xs, weight_TBD = [torch.randn(*shape, generator=draw).to(device) for shape in shapes]
    for x in xs:
        x.requires_grad_()
    output_TBD = form(xs[0], xs[1], xs[2], xs[3:6], plan, norm=OutputNorm(xs[6], xs[7], 1e-5)).output_TBD
    return [output_TBD.detach(), *torch.autograd.grad((output_TBD * weight_TBD).sum(), xs)]
