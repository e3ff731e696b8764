"""The compiled separable convolution against its plain form in float64: values, statistics, gradients, threads."""

from __future__ import annotations

import copy
from typing import Literal, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from enas import ops

pytest.importorskip("numba")

from enas.cpu.deferred import Deferred
from enas.cpu.registry import takes
from tests import needs

pytestmark = needs.KERNELS

Mode = Literal["training", "evaluation"]


class Case(NamedTuple):
    shape: tuple[int, int, int, int]
    out: int
    width: int = 3
    stride: int = 1
    affine: bool = True
    rectified: bool = True
    mode: Mode = "training"


class Operands(NamedTuple):
    x: Deferred
    depthwise: nn.Conv2d
    pointwise: nn.Conv2d
    norm: nn.BatchNorm2d

    def double(self) -> Operands:
        z, scale, shift = (None if v is None else v.detach().double().requires_grad_() for v in self.x[:3])
        assert z is not None
        depthwise, pointwise, norm = (copy.deepcopy(module).double() for module in self[1:])
        return Operands(Deferred(z, scale, shift, self.x.rectified), depthwise, pointwise, norm)

    def leaves(self) -> list[Tensor]:
        weights = [self.depthwise.weight, self.pointwise.weight, self.norm.weight, self.norm.bias]
        return [tensor for tensor in (*self.x[:3], *weights) if tensor is not None]

    def fused(self) -> Deferred:
        """The convolution by the kernel."""
        assert takes(self.x, weights=(self.depthwise.weight, self.pointwise.weight, self.norm.weight))
        y = ops.separable_norm(self.x, self.depthwise, self.pointwise, self.norm)
        assert isinstance(y, Deferred)
        return y

    def as_defined(self) -> Deferred:
        """The convolution by torch, with the mean and biased variance of each channel or the moving averages."""
        x_BCHW = self.x.z_BCHW
        if self.x.scale_C is not None and self.x.shift_C is not None:
            x_BCHW = x_BCHW * self.x.scale_C[:, None, None] + self.x.shift_C[:, None, None]
        x_BCHW = x_BCHW.relu() if self.x.rectified else x_BCHW
        z_BOHW, norm = self.pointwise(self.depthwise(x_BCHW)), self.norm
        if norm.training:
            variance_O, mean_O = torch.var_mean(z_BOHW, dim=(0, 2, 3), correction=0)
            norm(z_BOHW.detach())  # torch's own moves the averages
        else:
            mean_O, variance_O = averages(norm)
        scale_O = norm.weight / torch.sqrt(variance_O + norm.eps)
        return Deferred(z_BOHW, scale_O, norm.bias - mean_O * scale_O)


def averages(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The moving mean and variance."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def value(y: Deferred) -> Tensor:
    """The feature maps, as they are defined."""
    assert y.scale_C is not None
    assert y.shift_C is not None
    return y.z_BCHW * y.scale_C[:, None, None] + y.shift_C[:, None, None]


def operands(case: Case, seed: int = 0, mean: float = 0.3) -> Operands:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    B, C, H, W = case.shape
    scale_C, shift_C = (normal(C) + 0.5, 0.5 * normal(C)) if case.affine else (None, None)
    if scale_C is not None and shift_C is not None:
        scale_C, shift_C = scale_C.requires_grad_(), shift_C.requires_grad_()
    x = Deferred((normal(B, C, H, W) + mean).requires_grad_(), scale_C, shift_C, case.rectified)
    depthwise = nn.Conv2d(C, C, case.width, case.stride, case.width // 2, groups=C, bias=False)
    pointwise = nn.Conv2d(C, case.out, 1, bias=False)
    norm = nn.BatchNorm2d(case.out, eps=1e-3).train(case.mode == "training")
    mean_O, variance_O = averages(norm)
    with torch.no_grad():
        depthwise.weight.copy_(normal(C, 1, case.width, case.width) / case.width)
        pointwise.weight.copy_(normal(case.out, C, 1, 1) / C**0.5)
        for values_O, deviation in ((norm.weight, 0.4), (norm.bias, 0.3), (mean_O, 0.2)):
            values_O.add_(deviation * normal(case.out))
        variance_O.add_(normal(case.out).square())
    return Operands(x, depthwise, pointwise, norm)


def gradients_of(given: Operands, y: Deferred) -> list[Tensor]:
    """Of a random function of everything that the convolution returns."""
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(y.shape, generator=generator).to(y.z_BCHW.dtype) for _ in range(2)]
    rectified = ops.computed(ops.relu(y)) if takes(y) else value(y).relu()
    loss = (rectified * weights[0]).sum() + (y.z_BCHW * weights[1]).mean()
    return list(torch.autograd.grad(loss, given.leaves()))


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
    given = operands(case)
    exact = given.double()
    actual, expected = given.fused(), exact.as_defined()
    close(ops.computed(actual), value(expected))
    for gradient, exact_gradient in zip(
        gradients_of(given, actual), gradients_of(exact, expected), strict=True
    ):
        close(gradient, exact_gradient, 1e-4)
    for average, exact_average in zip(averages(given.norm), averages(exact.norm), strict=True):
        close(average, exact_average)
    assert given.norm.num_batches_tracked == exact.norm.num_batches_tracked == (case.mode == "training")


@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_those_of_the_plain_form(case: Case, mode: Mode) -> None:
    check(case._replace(mode=mode))


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_maps_with_less_pending(affine: bool, rectified: bool, stride: int, mode: Mode) -> None:
    check(Case((3, 4, 6, 10), 8, 3, stride, affine, rectified, mode))


def test_statistics_of_maps_far_from_zero() -> None:
    case = Case((4, 3, 16, 16), 5, affine=False, rectified=False)
    given = operands(case, mean=100.0)
    exact = given.double()
    given.fused()
    exact.as_defined()
    (_, actual), (_, expected) = averages(given.norm), averages(exact.norm)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=0)


def test_threads_change_no_bit() -> None:
    case = Case((21, 6, 16, 16), 5, 5)
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            given = operands(case)
            y = given.fused()
            runs.append([ops.computed(y), *averages(given.norm), *gradients_of(given, y)])
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
        given = operands(case)
        weights = given.leaves()[3:]
        for tensor in given.x[:3]:
            assert isinstance(tensor, Tensor)
            tensor.requires_grad_(learnt)
        y = ops.computed(ops.relu(given.fused()))
        gradients.append(torch.autograd.grad(y.square().sum(), weights))
    assert all(map(torch.equal, *gradients))


def test_scale_and_shift_alone_carry_a_gradient_back() -> None:
    """As where a reader needs the statistics of a map and not the map."""
    case = Case((2, 3, 4, 5), 6)
    given = operands(case)
    exact = given.double()
    found = []
    for each, run in ((exact, exact.as_defined), (given, given.fused)):
        leaves = each.leaves()
        y = run()
        assert y.scale_C is not None
        weight_O = torch.arange(1.0, 7.0).to(y.scale_C.dtype)
        found.append(torch.autograd.grad((y.scale_C * weight_O).sum(), leaves[:-1]))
    for expected, actual in zip(*found, strict=True):
        close(actual, expected, 1e-4)
