"""Random recurrent cells with their arguments, and how far two results are apart."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from enas.cell_plan import ACTIVATIONS, CellPlan, OutputNorm, Recurrence
from enas.ops import recurrence
from enas.runtime.devices import products_in

CPU = torch.device("cpu")

PRECISIONS = {
    "float64": (torch.float64, torch.float64, 1e-13),
    "float32": (torch.float32, torch.float32, 3e-6),
    "bfloat16": (torch.float32, torch.bfloat16, 3e-2),
}
# All functions; nodes with one, two and no reader; an output that is read; state 0 read by one node only.
PLAN = CellPlan((0, 1, 1, 0, 3), ("sigmoid", "tanh", "relu", "identity", "tanh", "sigmoid"), (2, 4, 5, 1))


def random_plan(nodes: int, generator: torch.Generator) -> CellPlan:
    def draw(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    sources = tuple(draw(k) for k in range(1, nodes))
    functions = tuple(list(ACTIVATIONS)[draw(4)] for _ in range(nodes))
    return CellPlan(sources, functions, tuple(k for k in range(nodes) if k not in sources))


@dataclasses.dataclass
class Case:
    """Arguments of one call; `tensors` is everything that can have a gradient."""

    projected_TBE: Tensor
    state_BD: Tensor
    weights_DE: list[Tensor]
    plan: CellPlan
    mask_BD: Tensor | None
    norm: OutputNorm | None
    dtype: torch.dtype

    @property
    def tensors(self) -> list[Tensor]:
        norm = [] if self.norm is None else [self.norm.weight_D, self.norm.bias_D]
        return [self.projected_TBE, self.state_BD, *self.weights_DE, *norm]

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> Case:
        n = 2 + len(self.weights_DE)
        norm = self.norm
        if norm is not None:
            norm = dataclasses.replace(norm, weight_D=tensors[n], bias_D=tensors[n + 1])
        return dataclasses.replace(
            self, projected_TBE=tensors[0], state_BD=tensors[1], weights_DE=list(tensors[2:n]), norm=norm
        )

    def run(self, function: Callable[..., Any] = recurrence) -> Recurrence:
        with products_in(self.dtype, CPU):
            return function(
                self.projected_TBE,
                self.state_BD,
                self.weights_DE[0],
                self.weights_DE[1:],
                self.plan,
                state_mask_BD=self.mask_BD,
                norm=self.norm,
            )

    def output_and_gradients(self, function: Callable[..., Any] = recurrence) -> list[Tensor]:
        result = self.run(function)
        generator = torch.Generator().manual_seed(99)
        weight = torch.randn(result.output_TBD.shape, generator=generator, dtype=self.state_BD.dtype)
        needing = [x for x in self.tensors if x.requires_grad]
        return [result.output_TBD.detach(), *torch.autograd.grad((result.output_TBD * weight).sum(), needing)]


def case(
    precision: str = "float64",
    *,
    plan: CellPlan = PLAN,
    mask: bool = True,
    norm: str | None = None,
    T: int = 7,
    B: int = 5,
    D: int = 19,
    seed: int = 0,
) -> Case:
    real, dtype, _ = PRECISIONS[precision]
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=real)

    kept = torch.rand(B, D, generator=generator) < 0.75
    fixed = (0.1 * normal(D), 0.5 + normal(D) ** 2) if norm == "given" else (None, None)
    built = Case(
        normal(T, B, 2 * D),
        normal(B, D),
        [normal(D, 2 * D) / math.sqrt(D) for _ in plan.functions],
        plan,
        kept.to(real) / 0.75 if mask else None,
        None if norm is None else OutputNorm(1 + 0.1 * normal(D), 0.1 * normal(D), 1e-2, *fixed),
        dtype,
    )
    for x in built.tensors:
        x.requires_grad_()
    return built


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def worst(actual: list[Tensor], expected: list[Tensor]) -> float:
    return max(relative_error(a, b) for a, b in zip(actual, expected, strict=True))
