"""The memory of one window of a recurrence on a GPU, and what is launched over it: the same for every cell of as many nodes.

Letters as in `enas.gpu.passes`; T time, S steps that are kept: T, or 1 where no gradient is needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from enas.gpu.passes import LIBRARY
from enas.runtime.devices import as_they_are

assert LIBRARY is not None  # the operators are there
passes = torch.ops.enas


@dataclass(frozen=True)
class Layout:
    """What the launches of a window depend on, apart from the addresses."""

    T: int
    A: int
    N: int
    B: int
    D: int
    real: torch.dtype
    """Of states and weights."""
    operand: torch.dtype
    """Of products."""
    device: torch.device
    shared_input: bool
    """Whether all architectures have the same projected input."""
    masked: bool
    norm: Literal["none", "batch", "given"]
    eps: float
    keep: bool
    """Whether a backward pass follows."""


class Inputs(NamedTuple):
    """What a window reads beside the weights."""

    projected_TABE: Tensor
    """With one A where the input is shared."""
    state_ABD: Tensor
    codes_AN3: Tensor
    mask_BD: Tensor | None
    weight_D: Tensor | None
    """Of the norm, as the next three."""
    bias_D: Tensor | None
    mean_D: Tensor | None
    variance_D: Tensor | None

    def copied(self) -> Inputs:
        """The same in memory of its own."""
        optional = [None if x is None else x.clone() for x in self[3:]]
        return Inputs(self.projected_TABE.clone(), self.state_ABD.clone(), self.codes_AN3.clone(), *optional)


class Window:
    """The memory of one layout. `forward` and `backward` only write to it, so that they can be recorded and repeated."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        T, A, N, B, D = layout.T, layout.A, layout.N, layout.B, layout.D
        S = T if layout.keep else 1

        def empty(*shape: int, dtype: torch.dtype = layout.real) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=layout.device)

        self.weights_NADE = empty(N, A, D, 2 * D, dtype=layout.operand)
        self.output_TABD = empty(T, A, B, D)
        self.states_SNABD = empty(S, N, A, B, D)
        self.operands_NSABD = empty(N, S, A, B, D, dtype=layout.operand)
        self.product_ABE = empty(A, B, 2 * D, dtype=layout.operand)
        normed, by_batch = layout.norm != "none", layout.norm == "batch"
        self.statistics_T2AD = empty(T, 2, A, D) if by_batch else None
        """Mean and variance of the batch."""
        self.inputs: Inputs
        if not layout.keep:
            return
        self.saved_NSABE = empty(N, S, A, B, 2 * D, dtype=layout.operand)
        """Candidates and gates, in the place of which the backward pass puts the gradients of products."""
        self.normal_SABD = empty(S, A, B, D) if normed else None
        self.carries_NABD = empty(N, A, B, D)
        self.d_operands_NABD = empty(N, A, B, D, dtype=layout.operand)
        self.d_mean_ABD = empty(A, B, D)
        self.d_norm_S2AD = empty(S, 2, A, D) if normed else None
        self.d_output_TABD: Tensor

    @torch.no_grad()
    def take(self, inputs: Inputs, weights: Sequence[Tensor]) -> None:
        """Read these; `weights` are those of all architectures for node 0, then for node 1, …: brought together once."""
        self.inputs = inputs
        torch._foreach_copy_(list(self.weights_NADE.flatten(0, 1).unbind(0)), list(weights))

    @torch.no_grad()
    def forward(self) -> None:
        """From inputs and weights to outputs, and what the backward pass needs."""
        layout, given = self.layout, self.inputs
        states, operands = self.states_SNABD.unbind(0), by_step(self.operands_NSABD)
        saved = by_step(self.saved_NSABE) if layout.keep else None
        normal = self.normal_SABD if layout.keep else None
        weights, outputs = self.weights_NADE.unbind(0), self.output_TABD.unbind(0)
        h_ABD, last = given.state_ABD, layout.T - 1
        first_ABD = h_ABD if given.mask_BD is None else h_ABD * given.mask_BD
        with self._alone():
            operands[0][0].copy_(first_ABD)
            for t, projected_ABE in enumerate(given.projected_TABE.unbind(0)):
                s = t if layout.keep else 0
                for k in range(layout.N):
                    torch.bmm(operands[k][s], weights[k], out=self.product_ABE)
                    passes.node_forward(
                        self.product_ABE,
                        projected_ABE if k == 0 else None,
                        h_ABD,
                        states[s],
                        None if saved is None else saved[k][s],
                        operands[k + 1][s] if k + 1 < layout.N else None,
                        given.mask_BD,
                        given.codes_AN3,
                        k,
                    )
                h_ABD = outputs[t]
                passes.output_forward(
                    states[s],
                    given.weight_D,
                    given.bias_D,
                    given.mean_D,
                    given.variance_D,
                    h_ABD,
                    None if t == last else operands[0][s + layout.keep],
                    None if normal is None else normal[t],
                    None if self.statistics_T2AD is None else self.statistics_T2AD[t],
                    given.mask_BD,
                    given.codes_AN3,
                    layout.eps,
                )

    @torch.no_grad()
    def backward(self) -> None:
        """From `d_output_TABD` to the gradients of products and norm in every step, and what is carried before the first."""
        layout, given, by_batch = self.layout, self.inputs, self.layout.norm == "batch"
        states, saved = self.states_SNABD.unbind(0), by_step(self.saved_NSABE)
        backwards = [weights_ADE.mT for weights_ADE in self.weights_NADE.unbind(0)]
        d_operands, before = self.d_operands_NABD.unbind(0), (given.state_ABD, *self.output_TABD.unbind(0))
        with self._alone():
            for t in reversed(range(layout.T)):
                follows = t + 1 < layout.T
                variance = given.variance_D if self.statistics_T2AD is None else self.statistics_T2AD[t, 1]
                passes.output_backward(
                    self.d_output_TABD[t],
                    self.carries_NABD if follows else None,
                    self.d_operands_NABD if follows else None,
                    given.weight_D,
                    variance if variance is None or by_batch else variance[None],
                    None if self.normal_SABD is None else self.normal_SABD[t],
                    None if self.d_norm_S2AD is None else self.d_norm_S2AD[t],
                    self.d_mean_ABD,
                    given.mask_BD,
                    by_batch,
                    layout.eps,
                )
                for k in reversed(range(layout.N)):
                    passes.node_backward(
                        self.d_mean_ABD,
                        self.carries_NABD,
                        self.d_operands_NABD,
                        before[t],
                        states[t],
                        saved[k][t],
                        given.mask_BD,
                        given.codes_AN3,
                        k,
                    )
                    torch.bmm(saved[k][t], backwards[k], out=d_operands[k])

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Products have their types already; kernels are launched on the device of their tensors."""
        device = self.layout.device
        here = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
        with as_they_are(device), here:
            yield


def by_step(x_NS: Tensor) -> list[tuple[Tensor, ...]]:
    """The parts of every node, step by step: x[k][s] without a call for each."""
    return [x_S.unbind(0) for x_S in x_NS.unbind(0)]
