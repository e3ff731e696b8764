"""The compiled separable convolution against its plain form in float64: values, statistics, gradients, threads."""

from __future__ import annotations

import copy
from typing import Literal, NamedTuple

import pytest
import torch
from torch import Tensor

from enas.nn.activation import Activation, ChannelNorm, kernels_take
from enas.nn.convolution import separable_norm

Statistics = Literal["batch", "moving"]


class Case(NamedTuple):
    shape: tuple[int, int, int, int]
    out: int
    width: int = 3
    stride: int = 1
    affine: bool = True
    rectified: bool = True
    statistics: Statistics = "batch"


class Operands(NamedTuple):
    x: Activation
    depthwise: Tensor
    pointwise: Tensor
    norm: ChannelNorm

    def double(self) -> Operands:
        z, scale, shift = (None if v is None else v.detach().double() for v in self.x[:3])
        assert z is not None
        x = Activation(z, scale, shift, self.x.rectified)
        depthwise, pointwise = (w.detach().double() for w in (self.depthwise, self.pointwise))
        return Operands(x, depthwise, pointwise, copy.deepcopy(self.norm).double())

    def leaves(self) -> list[Tensor]:
        tensors = [*self.x[:3], self.depthwise, self.pointwise, self.norm.weight, self.norm.bias]
        return [tensor.requires_grad_() for tensor in tensors if tensor is not None]


def operands(case: Case, seed: int = 0, mean: float = 0.3) -> Operands:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    B, C, H, W = case.shape
    scale_C, shift_C = (normal(C) + 0.5, 0.5 * normal(C)) if case.affine else (None, None)
    x = Activation(normal(B, C, H, W) + mean, scale_C, shift_C, case.rectified)
    depthwise_C1kk = normal(C, 1, case.width, case.width) / case.width
    pointwise_OC11 = normal(case.out, C, 1, 1) / C**0.5
    norm = ChannelNorm(case.out, eps=1e-3)
    with torch.no_grad():
        for values_O, deviation in ((norm.weight, 0.4), (norm.bias, 0.3), (norm.mean_C, 0.2)):
            values_O.add_(deviation * normal(case.out))
        norm.variance_C.add_(normal(case.out).square())
    return Operands(x, depthwise_C1kk, pointwise_OC11, norm)


def run(ops: Operands, case: Case) -> tuple[Activation, list[Tensor]]:
    """The convolution, and the gradient of a random function of everything that it returns."""
    leaves = ops.leaves()
    y = separable_norm(
        ops.x, ops.depthwise, ops.pointwise, ops.norm, stride=case.stride, statistics=case.statistics
    )
    assert y.scale_C is not None
    assert y.shift_C is not None
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(v.shape, generator=generator).to(v.dtype) for v in (y.value(), y.z_BCHW)]
    loss = (y.relu().value() * weights[0]).sum() + (y.z_BCHW * weights[1]).mean()
    return y, list(torch.autograd.grad(loss, leaves))


def close(actual: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    """Equal to rounding of sums in float32, measured against the largest of the values."""
    largest = float(expected.detach().abs().max()) + 1e-30
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance * largest)


CASES = [
    Case((2, 20, 32, 32), 20),
    Case((2, 20, 32, 32), 20, width=5),
    Case((6, 5, 16, 16), 7, width=5),
    Case((21, 3, 8, 8), 4, width=5),
    Case((40, 80, 8, 8), 80),
    Case((2, 6, 32, 32), 5, stride=2),
    Case((3, 6, 16, 16), 9, width=5, stride=2),
    Case((19, 3, 8, 8), 2, width=3, stride=2),
    Case((3, 4, 7, 9), 3, width=5),
    Case((3, 4, 7, 9), 3, width=5, stride=2),
    Case((2, 2, 33, 33), 3),
    Case((2, 2, 33, 17), 1, width=5, stride=2),
    Case((7, 3, 1, 1), 2, width=5),
    Case((5, 3, 1, 1), 2, width=5, stride=2),
    Case((4, 3, 2, 40), 17),
    Case((4, 2, 19, 2), 3, width=5),
    Case((3, 2, 12, 10), 3, width=7),
    Case((3, 2, 12, 10), 3, width=7, stride=2),
    Case((3, 4, 6, 8), 5, width=1),
    Case((3, 4, 6, 5), 5, width=1, stride=2),
]


def check(case: Case) -> None:
    """Values, gradients and moving averages are those of the plain form."""
    ops = operands(case)
    exact = ops.double()
    assert kernels_take(ops.x.z_BCHW, ops.depthwise, ops.pointwise)
    assert not kernels_take(exact.x.z_BCHW, exact.depthwise, exact.pointwise)
    (actual, gradients), (expected, exact_gradients) = run(ops, case), run(exact, case)
    close(actual.value(), expected.value())
    for gradient, exact_gradient in zip(gradients, exact_gradients, strict=True):
        close(gradient, exact_gradient, 1e-4)
    close(ops.norm.mean_C, exact.norm.mean_C)
    close(ops.norm.variance_C, exact.norm.variance_C)


@pytest.mark.parametrize("statistics", ["batch", "moving"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_those_of_the_plain_form(case: Case, statistics: Statistics) -> None:
    check(case._replace(statistics=statistics))


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("statistics", ["batch", "moving"])
def test_maps_with_less_pending(affine: bool, rectified: bool, stride: int, statistics: Statistics) -> None:
    check(Case((3, 4, 6, 10), 8, 3, stride, affine, rectified, statistics))


def test_statistics_of_maps_far_from_zero() -> None:
    case = Case((4, 3, 16, 16), 5, affine=False, rectified=False)
    ops = operands(case, mean=100.0)
    exact = ops.double()
    run(ops, case)
    run(exact, case)
    torch.testing.assert_close(ops.norm.variance_C.double(), exact.norm.variance_C, rtol=1e-4, atol=0)


@pytest.mark.parametrize("stride", [1, 2])
def test_threads_change_no_bit(stride: int) -> None:
    case = Case((21, 6, 16, 16), 5, 5, stride)
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            ops = operands(case)
            y, gradients = run(ops, case)
            runs.append([y.value(), ops.norm.mean_C, ops.norm.variance_C, *gradients])
    finally:
        torch.set_num_threads(before)
    one, *others = runs
    for other in others:
        assert all(map(torch.equal, other, one))


@pytest.mark.parametrize("stride", [1, 2])
def test_maps_without_gradient_leave_those_of_the_weights_the_same(stride: int) -> None:
    case = Case((3, 4, 6, 10), 8, 3, stride)
    gradients = []
    for learnt in (False, True):
        ops = operands(case)
        weights = ops.leaves()[3:]
        for tensor in ops.x[:3]:
            assert isinstance(tensor, Tensor)
            tensor.requires_grad_(learnt)
        y = separable_norm(ops.x, ops.depthwise, ops.pointwise, ops.norm, stride=stride)
        gradients.append(torch.autograd.grad(y.relu().value().square().sum(), weights))
    assert all(map(torch.equal, *gradients))


def test_scale_and_shift_alone_carry_a_gradient_back() -> None:
    """As where a reader needs the statistics of a map and not the map."""
    case = Case((2, 3, 4, 5), 6)
    ops = operands(case)
    found = []
    for each in (ops.double(), ops):
        leaves = each.leaves()
        y = separable_norm(each.x, each.depthwise, each.pointwise, each.norm)
        assert y.scale_C is not None
        weight_O = torch.arange(1.0, 7.0).to(y.scale_C.dtype)
        found.append(torch.autograd.grad((y.scale_C * weight_O).sum(), leaves[:-1]))
    for exact, actual in zip(*found, strict=True):
        close(actual, exact, 1e-4)
