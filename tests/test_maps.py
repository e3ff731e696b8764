"""Compiled sums, pooling, averages and norms of feature maps against their plain form in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from enas import ops
from enas.norms import batch_statistics
from enas.ops import Maps, Operation

pytest.importorskip("numba")

from enas.cpu.deferred import Deferred
from enas.cpu.registry import takes
from tests import needs

pytestmark = needs.KERNELS

How = Callable[[Operation[..., Any]], Callable[..., Any]]
Function = Callable[[Sequence[Maps], How], Maps]
"""An operation of these maps, in the form that the second argument makes of it."""
Kind = tuple[bool, bool]
"""Whether an affine step is pending, and whether a ReLU is."""

KINDS: list[Kind] = list(product([False, True], [False, True]))
SIZES = [(1, 1), (1, 7), (5, 1), (2, 2), (8, 8), (7, 9), (16, 16), (33, 5), (32, 32)]


def dispatched(operation: Operation[..., Any]) -> Callable[..., Any]:
    return operation


def plain(operation: Operation[..., Any]) -> Callable[..., Any]:
    return operation.plain


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def deferred(shape: Sequence[int], kind: Kind, seed: int) -> Deferred:
    """Feature maps whose parts are leaves of the graph; some scales are negative."""
    affine, rectified = kind
    x = Deferred(normal(*shape, seed=seed).requires_grad_(), rectified=rectified)
    if not affine:
        return x
    scale_C, shift_C = normal(shape[1], seed=seed + 1), normal(shape[1], seed=seed + 2)
    return x._replace(scale_C=scale_C.requires_grad_(), shift_C=shift_C.requires_grad_())


def value(x: Deferred) -> Tensor:
    """The feature maps, as they are defined."""
    y_BCHW = x.z_BCHW
    if x.scale_C is not None and x.shift_C is not None:
        y_BCHW = y_BCHW * x.scale_C[:, None, None] + x.shift_C[:, None, None]
    return y_BCHW.relu() if x.rectified else y_BCHW


def leaves(xs: Sequence[Deferred]) -> list[Tensor]:
    return [x for part in xs for x in part if isinstance(x, Tensor)]


def in_double(xs: Sequence[Deferred]) -> list[Deferred]:
    return [
        Deferred(
            x.z_BCHW.detach().double().requires_grad_(),
            None if x.scale_C is None else x.scale_C.detach().double().requires_grad_(),
            None if x.shift_C is None else x.shift_C.detach().double().requires_grad_(),
            x.rectified,
        )
        for x in xs
    ]


def lively_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.2)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.weight.copy_(normal(channels, seed=101))
        norm.bias.copy_(normal(channels, seed=102))
    norm.running_mean.copy_(normal(channels, seed=103))
    norm.running_var.copy_(normal(channels, seed=104).square())
    return norm


def norm_as_defined(z_BCHW: Tensor, norm: nn.BatchNorm2d) -> Deferred:
    """By the mean and the biased variance of each channel, or by the moving averages."""
    if norm.training:
        variance_C, mean_C = torch.var_mean(z_BCHW, dim=(0, 2, 3), correction=0)
        norm(z_BCHW.detach())  # torch's own moves the averages
    else:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean_C, variance_C = norm.running_mean, norm.running_var
    scale_C = norm.weight / torch.sqrt(variance_C + norm.eps)
    return Deferred(z_BCHW, scale_C, norm.bias - mean_C * scale_C)


def results(y: Maps, wanted: Sequence[Tensor]) -> list[Tensor]:
    """Output, its scale and shift where they are pending, and the gradients of a weighted sum of all three."""
    outputs = [y] if isinstance(y, Tensor) else [x for x in y if isinstance(x, Tensor)]
    loss = sum((y * normal(*y.shape, seed=50 + i).to(y.dtype)).sum() for i, y in enumerate(outputs))
    assert isinstance(loss, Tensor)
    return [*outputs, *torch.autograd.grad(loss, wanted)]


def agree(
    function: Function,
    xs: Sequence[Deferred],
    norm: nn.BatchNorm2d | None = None,
    expected: Callable[[Sequence[Tensor]], Maps] | None = None,
    tolerance: float = 2e-5,
) -> None:
    """The operation does the same in float32 and in its plain form in float64, by each tensor's largest number.

    `expected` stands in for the plain form where scale and shift are to be compared.
    """
    assert takes(*xs)
    parameters = [] if norm is None else list(norm.parameters())
    before = None if norm is None else {name: x.clone() for name, x in norm.state_dict().items()}
    y = function(xs, dispatched)
    actual = results(y, [*leaves(xs), *parameters])
    actual += [] if norm is None else [x.clone() for x in norm.buffers()]
    if norm is not None and before is not None:
        norm.load_state_dict(before)
        norm.double()
    exact = in_double(xs)
    assert not takes(*exact)
    values = [value(x) for x in exact]
    reference = function(values, plain) if expected is None else expected(values)
    wanted = results(reference, [*leaves(exact), *parameters])
    wanted += [] if norm is None else [x.clone() for x in norm.buffers()]
    for mine, theirs in zip(actual, wanted, strict=True):
        highest = float(theirs.detach().abs().max())
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=0, atol=tolerance * max(highest, 1))


# ---- pooling and averages -------------------------------------------------------------------------------------------

POOLS: dict[str, Function] = {
    f"{pool.plain.__name__}-{stride}": lambda xs, how, pool=pool, stride=stride: how(pool)(xs[0], stride)
    for pool in (ops.average_pool, ops.max_pool)
    for stride in (1, 2)
} | {"global_average": lambda xs, how: how(ops.global_average)(xs[0])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pooling_and_averages(pool: str, height: int, width: int, kind: Kind) -> None:
    agree(POOLS[pool], [deferred((3, 5, height, width), kind, seed=1)])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_of_equal_pixels_the_one_that_torch_takes_gets_the_gradient(stride: int, kind: Kind) -> None:
    """Maps of a few whole numbers: nearly every maximum is a tie, and float32 is exact."""
    draw = seeded(5)
    x = Deferred(torch.randint(-2, 3, (4, 3, 9, 8), generator=draw).float().requires_grad_())
    if kind[0]:
        x = x._replace(
            scale_C=torch.tensor([1.0, -2.0, 0.0], requires_grad=True),
            shift_C=torch.tensor([0.0, 1.0, 2.0], requires_grad=True),
        )
    agree(POOLS[f"max_pool-{stride}"], [x._replace(rectified=kind[1])], tolerance=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pool", [ops.average_pool, ops.max_pool])
def test_pooling_keeps_what_is_not_finite_where_it_is(pool: Operation[..., Any], stride: int) -> None:
    z_BCHW = normal(3, 2, 6, 5)
    z_BCHW[0, 0, 2, 4], z_BCHW[1, 1, 3, 0], z_BCHW[2, 0, 0, 2] = np.inf, np.nan, -np.inf
    expected = pool.plain(z_BCHW.double(), stride)
    torch.testing.assert_close(pool(z_BCHW, stride).double(), expected, equal_nan=True)


# ---- sums -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), KINDS, KINDS[::-1] * 3, KINDS[:1] * 14])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (7, 9)])
def test_sums(kinds: list[Kind], height: int, width: int) -> None:
    shape = (3, 5, height, width)
    xs = [deferred(shape, kind, seed=10 * i) for i, kind in enumerate(kinds)]
    agree(lambda xs, how: how(ops.total)(xs), xs)


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), KINDS])
def test_sums_of_parts_that_some_images_lack(kinds: list[Kind]) -> None:
    shape = (4, 3, 6, 7)
    xs = [deferred(shape, kind, seed=10 * i) for i, kind in enumerate(kinds)]
    kept_B = [torch.tensor([0.0, 1.25, 0.0, 1.25]).roll(i) for i in range(len(xs) - 1)]

    agree(lambda xs, how: how(ops.total)(xs, [*kept_B, None]), xs)


def test_a_part_that_is_added_as_it_is_gets_the_gradient_itself() -> None:
    xs = [deferred((2, 3, 4, 4), (False, False), seed=i) for i in range(2)]
    dy_BCHW = normal(2, 3, 4, 4)
    gradients = torch.autograd.grad(ops.total(xs), leaves(xs), dy_BCHW)
    assert all(d_BCHW.data_ptr() == dy_BCHW.data_ptr() for d_BCHW in gradients)


def test_only_the_gradients_that_are_asked_for() -> None:
    shape = (2, 3, 4, 4)
    xs = [deferred(shape, kind, seed=10 * i) for i, kind in enumerate(KINDS)]
    expected = torch.autograd.grad(ops.total(xs).square().sum(), xs[1].z_BCHW)
    for leaf in leaves([x for i, x in enumerate(xs) if i != 1]):
        leaf.requires_grad_(False)
    assert torch.equal(torch.autograd.grad(ops.total(xs).square().sum(), xs[1].z_BCHW)[0], expected[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_value_of_pending_maps(kind: Kind) -> None:
    agree(lambda xs, how: how(ops.computed)(xs[0]), [deferred((3, 5, 7, 6), kind, seed=1)])


# ---- norms ----------------------------------------------------------------------------------------------------------

MODES = ["training", "batch statistics", "evaluation"]


def agree_on_norm(function: Function, xs: Sequence[Deferred], norm: nn.BatchNorm2d, mode: str) -> None:
    """The norm of a sum is what it is defined to be: the sum, scale and shift, and the moving averages afterwards."""
    norm.train(mode == "training")
    with batch_statistics([norm] if mode == "batch statistics" else []):
        agree(function, xs, norm, lambda values: norm_as_defined(sum_of(values), norm), tolerance=5e-5)


def sum_of(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum(0)


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), KINDS, KINDS[:1] * 3, KINDS[1:]])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (7, 9), (4, 6)])
@pytest.mark.parametrize("mode", MODES)
def test_norms_of_sums(kinds: list[Kind], height: int, width: int, mode: str) -> None:
    norm = lively_norm(5)
    xs = [deferred((3, 5, height, width), kind, seed=10 * i) for i, kind in enumerate(kinds)]
    agree_on_norm(lambda xs, how: how(ops.total_norm)(xs, norm), xs, norm, mode)


@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (1, 3, 5, 5), (4, 7, 8, 8), (3, 5, 7, 9)])
@pytest.mark.parametrize("mode", MODES)
def test_norms_of_given_maps(shape: tuple[int, int, int, int], mode: str) -> None:
    norm = lively_norm(shape[1])
    xs = [deferred(shape, (False, False), seed=1)]
    agree_on_norm(lambda xs, how: how(ops.batch_norm)(in_memory(xs[0]), norm), xs, norm, mode)


def in_memory(x: Maps) -> Tensor:
    return x if isinstance(x, Tensor) else x.z_BCHW


def test_a_mean_of_many_standard_deviations_leaves_the_variance_right() -> None:
    norm = nn.BatchNorm2d(4, momentum=1.0)
    z_BCHW = 300 + 0.1 * normal(64, 4, 16, 16)
    variance_C, mean_C = torch.var_mean(z_BCHW.double(), dim=(0, 2, 3))
    assert isinstance(ops.batch_norm(z_BCHW, norm), Deferred)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean.double(), mean_C, rtol=1e-6, atol=0)
    torch.testing.assert_close(norm.running_var.double(), variance_C, rtol=1e-4, atol=0)


# ---- whatever the operation -----------------------------------------------------------------------------------------


def all_operations() -> dict[str, Function]:
    norm = lively_norm(5)
    return POOLS | {
        "total": lambda xs, how: how(ops.total)(xs),
        "total_norm": lambda xs, how: how(ops.total_norm)(xs, norm),
        "norm": lambda xs, how: how(ops.batch_norm)(in_memory(xs[0]), norm),
    }


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", all_operations())
def test_the_number_of_threads_does_not_change_a_bit(name: str, threads: Callable[[int], None]) -> None:
    function = all_operations()[name]
    found = []
    for count in (1, 2, 3):
        threads(count)
        xs = [deferred((17, 5, 32, 33), (name != "norm", name != "norm"), seed=1)]
        found.append(results(function(xs, dispatched), leaves(xs)))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("name", all_operations())
def test_gradients_that_do_not_lie_in_order_and_a_second_pass_backward(name: str) -> None:
    """An expanded gradient, such as a sum's, and one of transposed maps; the graph may be kept."""
    function = all_operations()[name]
    xs = [deferred((3, 5, 6, 6), (True, True), seed=1)]
    y = in_memory(function(xs, dispatched))
    for dy in (
        torch.ones(1).expand(y.shape),
        normal(*y.shape).transpose(-1, -2).contiguous().transpose(-1, -2),
    ):
        strided = torch.autograd.grad(y, xs[0].z_BCHW, dy, retain_graph=True)[0]
        assert torch.equal(
            strided, torch.autograd.grad(y, xs[0].z_BCHW, dy.contiguous(), retain_graph=True)[0]
        )


def test_maps_in_another_order_take_the_plain_way() -> None:
    x = deferred((3, 5, 6, 6), (True, True), seed=1)
    last = value(x).detach().contiguous(memory_format=torch.channels_last)
    assert takes(x)
    assert not takes(last)
    norm = lively_norm(5)
    for operation in (ops.average_pool, ops.max_pool, ops.global_average, ops.computed):
        torch.testing.assert_close(operation(last), operation(x))
    torch.testing.assert_close(ops.total([last, last]), ops.total([x, x]))
    mixed, alike = (ops.computed(ops.total_norm(xs, norm)) for xs in ([last, x], [x, x]))
    torch.testing.assert_close(mixed, alike)
