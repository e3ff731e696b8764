"""Compiled convolutions against their plain form in float64: values, statistics, and every gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas import ops
from enas.ops import Maps, Operation
from enas.runtime.devices import products_in

pytest.importorskip("numba")

from enas.cpu.deferred import Deferred
from enas.cpu.registry import takes, wide_filters_pay
from tests import needs

pytestmark = needs.KERNELS

ROUNDING = 3e-5  # of float32, over sums of some thousand terms, relative to the largest value
CPU = torch.device("cpu")

How = Callable[[Operation[..., Any]], Callable[..., Any]]
Convolve = Callable[[Sequence[Maps], Tensor, nn.BatchNorm2d, How], Maps]
"""A convolution and its norm, in the form that the last argument makes of the operation."""


def dispatched(operation: Operation[..., Any]) -> Callable[..., Any]:
    return operation


def plain(operation: Operation[..., Any]) -> Callable[..., Any]:
    return operation.plain


def convolution(weight: Tensor, stride: int = 1) -> nn.Conv2d:
    """A convolution by this very tensor, so that it gets the gradient."""
    outputs, channels, width, _ = weight.shape
    conv = nn.Conv2d(channels, outputs, width, stride, width // 2 if stride == 1 else 0, bias=False)
    del conv.weight
    conv.weight = weight
    return conv


def dense(xs: Sequence[Maps], weight: Tensor, norm: nn.BatchNorm2d, how: How) -> Maps:
    (x,) = xs
    y: Maps = how(ops.conv_norm)(x, convolution(weight), norm)
    return y


def joined(xs: Sequence[Maps], weight: Tensor, norm: nn.BatchNorm2d, how: How) -> Maps:
    blocks = weight.split([x.shape[1] for x in xs], 1)
    y: Maps = how(ops.joined_norm)(xs, [convolution(block) for block in blocks], norm)
    return y


def reduction(xs: Sequence[Maps], weight: Tensor, norm: nn.BatchNorm2d, how: How) -> Maps:
    blocks = weight.split([x.shape[1] for x in xs], 1)
    half = len(weight) // 2
    evens, odds = (
        [convolution(block, stride=2) for block in halves]
        for halves in zip(*((block[:half], block[half:]) for block in blocks), strict=True)
    )
    y: Maps = how(ops.reduction_norm)(xs, evens, odds, norm)
    return y


class Case(NamedTuple):
    convolve: Convolve
    images: int
    channels: tuple[int, ...]
    outputs: int
    height: int
    width: int
    filter: int = 1
    affine: bool = True
    rectified: bool = True
    training: bool = True


class Run(NamedTuple):
    """What a case computes: the normalised output, the norm, and the leaves whose gradients are compared."""

    output: Tensor
    norm: nn.BatchNorm2d
    leaves: dict[str, Tensor]


def value(x: Deferred) -> Tensor:
    """The feature maps, as they are defined."""
    y_BCHW = x.z_BCHW
    if x.scale_C is not None and x.shift_C is not None:
        y_BCHW = y_BCHW * x.scale_C[:, None, None] + x.shift_C[:, None, None]
    return y_BCHW.relu() if x.rectified else y_BCHW


def run(case: Case, dtype: torch.dtype, products: torch.dtype = torch.float32, offset: float = 0.0) -> Run:
    """Forward and backward: by the kernels in float32, by the plain form in float64. Both start from the same numbers."""
    draw = torch.Generator().manual_seed(0)

    def leaf(*shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        return (shift + scale * torch.randn(shape, generator=draw)).to(dtype).requires_grad_()

    leaves: dict[str, Tensor] = {}
    xs = []
    for number, channels in enumerate(case.channels):
        z = leaves[f"z{number}"] = leaf(case.images, channels, case.height, case.width, shift=offset)
        x = Deferred(z, rectified=case.rectified)
        if case.affine:
            scale = leaves[f"scale{number}"] = leaf(channels, scale=0.3, shift=1.0)
            shift = leaves[f"shift{number}"] = leaf(channels)
            x = x._replace(scale_C=scale, shift_C=shift)
        xs.append(x)
    size = (case.outputs, sum(case.channels), case.filter, case.filter)
    weight = leaves["weight"] = leaf(*size, scale=0.3)
    norm = nn.BatchNorm2d(case.outputs).to(dtype).train(case.training)
    with torch.no_grad():
        norm.weight.copy_(1 + 0.3 * torch.randn(case.outputs, generator=draw))
        norm.bias.copy_(torch.randn(case.outputs, generator=draw))
        average(norm, "mean").copy_(torch.randn(case.outputs, generator=draw))
    leaves["gamma"], leaves["beta"] = norm.weight, norm.bias
    assert takes(*xs, weights=(weight, norm.weight)) == (dtype is torch.float32)
    if dtype is torch.float32:
        with products_in(products, CPU):
            y = case.convolve(xs, weight, norm, dispatched)
        assert isinstance(y, Deferred)
        output = ops.computed(y)
    else:
        output = ops.computed(case.convolve([value(x) for x in xs], weight, norm, plain))
    # Weights that differ from pixel to pixel, as the mean over a batch norm's output depends on nothing.
    weights = torch.randn(output.shape, generator=draw).to(dtype)
    (output.square() * weights).sum().backward()
    return Run(output.detach(), norm, leaves)


def average(norm: nn.BatchNorm2d, name: str) -> Tensor:
    """The moving mean or variance."""
    return norm.get_buffer(f"running_{name}")


def assert_agree(fused: Run, plain: Run, tolerance: float = ROUNDING) -> None:
    def close(name: str, own: Tensor | None, wanted: Tensor | None) -> None:
        assert own is not None
        assert wanted is not None
        assert own.shape == wanted.shape
        error = (own.double() - wanted).abs().max()
        assert error <= tolerance * max(1, float(wanted.abs().max())), name

    close("output", fused.output, plain.output)
    close("moving mean", average(fused.norm, "mean"), average(plain.norm, "mean"))
    close("moving variance", average(fused.norm, "var"), average(plain.norm, "var"))
    assert fused.norm.num_batches_tracked == plain.norm.num_batches_tracked == plain.norm.training
    for name, own in fused.leaves.items():
        close(f"gradient of {name}", own.grad, plain.leaves[name].grad)


SIZES = [(1, 1, 6), (3, 5, 4), (2, 7, 9), (2, 32, 32), (3, 33, 1), (37, 4, 4), (20, 8, 8)]
CASES = [
    Case(convolve, images, channels, outputs, height, width, filter)
    for (images, height, width), (convolve, channels, outputs, filter) in product(
        SIZES,
        [
            (dense, (5,), 7, 1),
            (dense, (3,), 13, 3),
            (dense, (6,), 2, 5),
            (joined, (4, 1, 6), 9, 1),
            (joined, (20,) * 7, 20, 1),
            (reduction, (5,), 7, 1),
            (reduction, (20,), 40, 1),
            (reduction, (4, 1, 6), 9, 1),
        ],
    )
] + [
    Case(convolve, 3, channels, 8, 6, 10, filter, affine, rectified, training)
    for (convolve, channels, filter), affine, rectified, training in product(
        [(dense, (4,), 3), (joined, (4, 4), 1), (reduction, (4,), 1)],
        [False, True],
        [False, True],
        [True, False],
    )
]


def case_name(case: Case) -> str:
    values = (getattr(value, "__name__", value) for value in case)
    return "-".join(str(value).replace(" ", "") for value in values)


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_fused_equals_plain(case: Case) -> None:
    assert_agree(run(case, torch.float32), run(case, torch.float64))


def test_statistics_of_maps_far_from_zero() -> None:
    case = Case(dense, 4, (3,), 5, 16, 16, 3, affine=False, rectified=False)
    fused, plain = run(case, torch.float32, offset=100.0), run(case, torch.float64, offset=100.0)
    actual, expected = average(fused.norm, "var"), average(plain.norm, "var")
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "case", [Case(dense, 3, (5,), 6, 7, 9), Case(joined, 3, (5, 4), 6, 7, 9)], ids=case_name
)
def test_kernels_compute_in_float32_whatever_autocast_says(case: Case) -> None:
    rounded, exact = run(case, torch.float32, torch.bfloat16), run(case, torch.float32)
    assert torch.equal(rounded.output, exact.output)


@pytest.mark.parametrize(
    "case", [Case(dense, 3, (70,), 6, 7, 9, 3), Case(reduction, 3, (5, 4), 6, 7, 9)], ids=case_name
)
def test_what_the_library_does_in_bfloat16_goes_on_in_float32(case: Case) -> None:
    assert_agree(run(case, torch.float32, torch.bfloat16), run(case, torch.float64), tolerance=0.1)


@pytest.mark.parametrize(
    "case",
    [
        Case(dense, 21, (6,), 5, 8, 8, 3 if wide_filters_pay() else 1),
        Case(joined, 33, (6, 6), 5, 8, 8),
    ],
    ids=case_name,
)
def test_threads_change_no_bit(case: Case) -> None:
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            runs.append(run(case, torch.float32))
    finally:
        torch.set_num_threads(before)
    one, *others = runs
    for other in others:
        assert torch.equal(other.output, one.output)
        assert torch.equal(average(other.norm, "var"), average(one.norm, "var"))
        for name, leaf in one.leaves.items():
            own, wanted = other.leaves[name].grad, leaf.grad
            assert own is not None
            assert wanted is not None
            assert torch.equal(own, wanted), name


def test_strided_maps_and_maps_without_gradient() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(2, 9, 8, 3, generator=draw).permute(0, 3, 1, 2)  # channels last
    weight = torch.randn(4, 3, 3, 3, generator=draw).requires_grad_()
    conv = convolution(weight)
    results = []
    for x in (images, images.contiguous()):
        weight.grad = None
        y = ops.computed(ops.relu(ops.conv_norm(x, conv, nn.BatchNorm2d(4))))
        y.sum().backward()
        results.append((y, weight.grad))
    for own, wanted in zip(*results, strict=True):
        torch.testing.assert_close(own, wanted, rtol=ROUNDING, atol=ROUNDING)


def test_scale_and_shift_alone_carry_a_gradient_back() -> None:
    """As where a reader needs the statistics of a map and not the map."""

    def scale(z: Tensor, weight: Tensor) -> Tensor:
        norm = nn.BatchNorm2d(6)
        if z.dtype == torch.float64:  # as it is defined, with a weight of 1
            return torch.rsqrt(F.conv2d(z, weight).var((0, 2, 3), correction=0) + norm.eps)
        y = ops.conv_norm(z, convolution(weight), norm)
        assert isinstance(y, Deferred)
        assert y.scale_C is not None
        return y.scale_C

    results = []
    for dtype in (torch.float32, torch.float64):
        draw = torch.Generator().manual_seed(0)
        z = torch.randn(2, 3, 4, 5, generator=draw).to(dtype).requires_grad_()
        weight = torch.randn(6, 3, 1, 1, generator=draw).to(dtype)
        (scale(z, weight) * torch.randn(6, generator=draw)).sum().backward()
        results.append(z.grad)
    fused, plain = results
    assert fused is not None
    assert plain is not None
    assert (fused.double() - plain).abs().max() < ROUNDING * plain.abs().max()
