"""Compiled convolutions against their plain form in float64: values, statistics, and every gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from enas.nn import convolution
from enas.nn import dense as dense_module
from enas.nn.activation import Activation, ChannelNorm, Statistics
from enas.nn.convolution import conv_norm, factorized_reduction_norm, joined_conv_norm
from enas.nn.simd import multiplies_bfloat16

ROUNDING = 3e-5  # of float32, over sums of some thousand terms, relative to the largest value

Convolve = Callable[[Sequence[Activation], Tensor, ChannelNorm, Statistics, torch.dtype], Activation]


def dense(
    xs: Sequence[Activation], weight: Tensor, norm: ChannelNorm, statistics: Statistics, dtype: torch.dtype
) -> Activation:
    (x,) = xs
    return conv_norm(x, weight, norm, statistics=statistics, dtype=dtype)


def joined(
    xs: Sequence[Activation], weight: Tensor, norm: ChannelNorm, statistics: Statistics, dtype: torch.dtype
) -> Activation:
    blocks = weight.split([x.z_BCHW.shape[1] for x in xs], 1)
    return joined_conv_norm(xs, blocks, norm, statistics=statistics, dtype=dtype)


def reduction(
    xs: Sequence[Activation], weight: Tensor, norm: ChannelNorm, statistics: Statistics, dtype: torch.dtype
) -> Activation:
    (x,) = xs
    half = len(weight) // 2
    even, odd = weight[:half], weight[half:]
    return factorized_reduction_norm(x, even, odd, norm, statistics=statistics, dtype=dtype)


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
    statistics: Statistics = "batch"


class Run(NamedTuple):
    """What a case computes: the normalised output, the norm, and the leaves whose gradients are compared."""

    output: Tensor
    norm: ChannelNorm
    leaves: dict[str, Tensor]


def run(case: Case, dtype: torch.dtype, products: torch.dtype | None = None, offset: float = 0.0) -> Run:
    """Forward and backward in `dtype`; every type starts from the same numbers."""
    draw = torch.Generator().manual_seed(0)

    def leaf(*shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        return (shift + scale * torch.randn(shape, generator=draw)).to(dtype).requires_grad_()

    leaves: dict[str, Tensor] = {}
    xs = []
    for number, channels in enumerate(case.channels):
        z = leaves[f"z{number}"] = leaf(case.images, channels, case.height, case.width, shift=offset)
        x = Activation(z, rectified=case.rectified)
        if case.affine:
            scale = leaves[f"scale{number}"] = leaf(channels, scale=0.3, shift=1.0)
            shift = leaves[f"shift{number}"] = leaf(channels)
            x = x._replace(scale_C=scale, shift_C=shift)
        xs.append(x)
    size = (case.outputs, sum(case.channels), case.filter, case.filter)
    leaves["weight"] = leaf(*size, scale=0.3)
    norm = ChannelNorm(case.outputs).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(1 + 0.3 * torch.randn(case.outputs, generator=draw))
        norm.bias.copy_(torch.randn(case.outputs, generator=draw))
        norm.mean_C.copy_(torch.randn(case.outputs, generator=draw))
    leaves["gamma"], leaves["beta"] = norm.weight, norm.bias
    output = case.convolve(xs, leaves["weight"], norm, case.statistics, products or dtype).value()
    # Weights that differ from pixel to pixel, as the mean over a batch norm's output depends on nothing.
    weights = torch.randn(output.shape, generator=draw).to(dtype)
    (output.square() * weights).sum().backward()
    return Run(output.detach(), norm, leaves)


def assert_agree(fused: Run, plain: Run, tolerance: float = ROUNDING) -> None:
    def close(name: str, own: Tensor | None, wanted: Tensor | None) -> None:
        assert own is not None
        assert wanted is not None
        assert own.shape == wanted.shape
        error = (own.double() - wanted).abs().max()
        assert error <= tolerance * max(1, float(wanted.abs().max())), name

    close("output", fused.output, plain.output)
    close("moving mean", fused.norm.mean_C, plain.norm.mean_C)
    close("moving variance", fused.norm.variance_C, plain.norm.variance_C)
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
        ],
    )
] + [
    Case(convolve, 3, channels, 8, 6, 10, filter, affine, rectified, statistics)
    for (convolve, channels, filter), affine, rectified, statistics in product(
        [(dense, (4,), 3), (joined, (4, 4), 1), (reduction, (4,), 1)],
        [False, True],
        [False, True],
        ["batch", "moving"],
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
    torch.testing.assert_close(fused.norm.variance_C.double(), plain.norm.variance_C, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "case",
    [
        *(Case(dense, 3, (C,), O, 7, 9, k) for C, O, k in [(5, 6, 3), (4, 7, 5), (1, 1, 3), (5, 6, 1)]),
        Case(joined, 3, (5, 4), 6, 7, 9),
    ],
    ids=case_name,
)
def test_products_in_bfloat16_equal_those_of_rounded_operands(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = run(case, torch.float32, torch.bfloat16)
    exact = convolution._convolve

    def rounded(x_BCHW: Tensor, weight: Tensor, *others: Any) -> Tensor:
        y_BCHW: Tensor = Rounded.apply(
            exact(Rounded.apply(x_BCHW, True), Rounded.apply(weight, True), *others), False
        )
        return y_BCHW

    if multiplies_bfloat16():
        monkeypatch.setattr(convolution, "_convolve", rounded)
    assert_agree(fused, run(case, torch.float64), tolerance=1e-3)
    assert torch.equal(fused.output, run(case, torch.float32).output) is not multiplies_bfloat16()


def test_a_processor_without_bfloat16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_module, "multiplies_bfloat16", lambda: False)
    case = Case(dense, 3, (5,), 6, 7, 9, 3)
    assert torch.equal(run(case, torch.float32, torch.bfloat16).output, run(case, torch.float32).output)


class Rounded(torch.autograd.Function):
    """To bfloat16 and back: operands on their way forward, the others' gradients on their way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operand: bool) -> Tensor:
        ctx.operand = operand
        return x.bfloat16().to(x.dtype) if operand else x.clone()

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, None]:
        return (dx if ctx.operand else dx.bfloat16().to(dx.dtype)), None


@pytest.mark.parametrize("channels", [1, 4, 5])
def test_operands_in_bfloat16_are_rounded_as_torch_rounds_them(channels: int) -> None:
    x_BCHW = torch.randn(3, channels, 7, 9, generator=torch.Generator().manual_seed(0))
    x_BCHW[0, 0, 0, :2] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8])  # between two neighbours: to the even one
    identity_CC11 = torch.eye(channels)[:, :, None, None]
    y = conv_norm(Activation(x_BCHW), identity_CC11, ChannelNorm(channels), dtype=torch.bfloat16)
    assert torch.equal(y.z_BCHW, x_BCHW.bfloat16().float() if multiplies_bfloat16() else x_BCHW)


@pytest.mark.parametrize(
    "case",
    [
        Case(dense, 21, (6,), 5, 8, 8, 3),
        Case(joined, 33, (6, 6), 5, 8, 8),
        Case(reduction, 33, (12,), 14, 16, 16),
    ],
    ids=case_name,
)
@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_threads_change_no_bit(case: Case, products: torch.dtype) -> None:
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            runs.append(run(case, torch.float32, products))
    finally:
        torch.set_num_threads(before)
    one, *others = runs
    for other in others:
        assert torch.equal(other.output, one.output)
        assert torch.equal(other.norm.variance_C, one.norm.variance_C)
        for name, leaf in one.leaves.items():
            own, wanted = other.leaves[name].grad, leaf.grad
            assert own is not None
            assert wanted is not None
            assert torch.equal(own, wanted), name


def test_strided_maps_and_maps_without_gradient() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(2, 9, 8, 3, generator=draw).permute(0, 3, 1, 2)  # channels last
    weight = nn.Parameter(torch.randn(4, 3, 3, 3, generator=draw))
    results = []
    for x in (images, images.contiguous()):
        weight.grad = None
        y = conv_norm(Activation(x), weight, ChannelNorm(4)).relu().value()
        y.sum().backward()
        results.append((y, weight.grad))
    for own, wanted in zip(*results, strict=True):
        torch.testing.assert_close(own, wanted, rtol=ROUNDING, atol=ROUNDING)


def test_scale_and_shift_alone_carry_a_gradient_back() -> None:
    """As where a reader needs the statistics of a map and not the map."""
    results = []
    for dtype in (torch.float32, torch.float64):
        draw = torch.Generator().manual_seed(0)
        z = torch.randn(2, 3, 4, 5, generator=draw).to(dtype).requires_grad_()
        weight = torch.randn(6, 3, 1, 1, generator=draw).to(dtype)
        y = conv_norm(Activation(z), weight, ChannelNorm(6).to(dtype), dtype=dtype)
        assert y.scale_C is not None
        (y.scale_C * torch.randn(6, generator=draw)).sum().backward()
        results.append(z.grad)
    fused, plain = results
    assert fused is not None
    assert plain is not None
    assert (fused.double() - plain).abs().max() < ROUNDING * plain.abs().max()
