"""Compiled sums, pooling, averages and norms of feature maps against their plain form in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from enas.nn.activation import Activation, ChannelNorm, kernels_take
from enas.nn.convolution import average_pool, global_average, max_pool, total, total_norm

pytest.importorskip("numba")

Operation = Callable[[Sequence[Activation]], Activation]
Kind = tuple[bool, bool]
"""Whether an affine step is pending, and whether a ReLU is."""

KINDS: list[Kind] = list(product([False, True], [False, True]))
SIZES = [(1, 1), (1, 7), (5, 1), (2, 2), (8, 8), (7, 9), (16, 16), (33, 5), (32, 32)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def activation(shape: Sequence[int], kind: Kind, seed: int) -> Activation:
    """Feature maps whose parts are leaves of the graph; some scales are negative."""
    affine, rectified = kind
    x = Activation(normal(*shape, seed=seed).requires_grad_(), rectified=rectified)
    if not affine:
        return x
    scale_C, shift_C = normal(shape[1], seed=seed + 1), normal(shape[1], seed=seed + 2)
    return x._replace(scale_C=scale_C.requires_grad_(), shift_C=shift_C.requires_grad_())


def leaves(xs: Sequence[Activation]) -> list[Tensor]:
    return [x for part in xs for x in part if isinstance(x, Tensor)]


def in_double(xs: Sequence[Activation]) -> list[Activation]:
    return [
        Activation(
            x.z_BCHW.detach().double().requires_grad_(),
            None if x.scale_C is None else x.scale_C.detach().double().requires_grad_(),
            None if x.shift_C is None else x.shift_C.detach().double().requires_grad_(),
            x.rectified,
        )
        for x in xs
    ]


def lively_norm(channels: int) -> ChannelNorm:
    norm = ChannelNorm(channels, eps=1e-3, decay=0.8)
    with torch.no_grad():
        norm.weight.copy_(normal(channels, seed=101))
        norm.bias.copy_(normal(channels, seed=102))
    norm.mean_C.copy_(normal(channels, seed=103))
    norm.variance_C.copy_(normal(channels, seed=104).square())
    return norm


def results(operation: Operation, xs: Sequence[Activation], others: Sequence[Tensor] = ()) -> list[Tensor]:
    """Output, its scale and shift, and the gradients of a weighted sum of all three."""
    outputs = [x for x in operation(xs) if isinstance(x, Tensor)]
    loss = sum((y * normal(*y.shape, seed=50 + i).to(y.dtype)).sum() for i, y in enumerate(outputs))
    assert isinstance(loss, Tensor)
    return [*outputs, *torch.autograd.grad(loss, [*leaves(xs), *others])]


def agree(
    operation: Operation, xs: Sequence[Activation], norm: ChannelNorm | None = None, tolerance: float = 2e-5
) -> None:
    """The operation does the same in float32 and in plain autograd's float64, by each tensor's largest number."""
    assert kernels_take(*(x.z_BCHW for x in xs))
    before = None if norm is None else {name: x.clone() for name, x in norm.state_dict().items()}
    actual = results(operation, xs, [] if norm is None else list(norm.parameters()))
    moving = [] if norm is None else [x.clone() for x in norm.buffers()]
    if norm is not None and before is not None:
        norm.load_state_dict(before)
        norm.double()
    exact = in_double(xs)
    assert not kernels_take(*(x.z_BCHW for x in exact))
    expected = results(operation, exact, [] if norm is None else list(norm.parameters()))
    expected += [] if norm is None else [x.clone() for x in norm.buffers()]
    for mine, plain in zip([*actual, *moving], expected, strict=True):
        highest = float(plain.detach().abs().max())
        torch.testing.assert_close(mine.double(), plain, rtol=0, atol=tolerance * max(highest, 1))


# ---- pooling and averages -------------------------------------------------------------------------------------------

POOLS: dict[str, Operation] = {
    f"{pool.__name__}-{stride}": lambda xs, pool=pool, stride=stride: Activation(pool(xs[0], stride))
    for pool in (average_pool, max_pool)
    for stride in (1, 2)
} | {"global_average": lambda xs: Activation(global_average(xs[0]))}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pooling_and_averages(pool: str, height: int, width: int, kind: Kind) -> None:
    agree(POOLS[pool], [activation((3, 5, height, width), kind, seed=1)])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_of_equal_pixels_the_one_that_torch_takes_gets_the_gradient(stride: int, kind: Kind) -> None:
    """Maps of a few whole numbers: nearly every maximum is a tie, and float32 is exact."""
    draw = seeded(5)
    x = Activation(torch.randint(-2, 3, (4, 3, 9, 8), generator=draw).float().requires_grad_())
    if kind[0]:
        x = x._replace(
            scale_C=torch.tensor([1.0, -2.0, 0.0], requires_grad=True),
            shift_C=torch.tensor([0.0, 1.0, 2.0], requires_grad=True),
        )
    xs = [x._replace(rectified=kind[1])]

    def operation(xs: Sequence[Activation]) -> Activation:
        return Activation(max_pool(xs[0], stride))

    agree(operation, xs, tolerance=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pool", [average_pool, max_pool])
def test_pooling_keeps_what_is_not_finite_where_it_is(
    pool: Callable[[Activation, int], Tensor], stride: int
) -> None:
    z_BCHW = normal(3, 2, 6, 5)
    z_BCHW[0, 0, 2, 4], z_BCHW[1, 1, 3, 0], z_BCHW[2, 0, 0, 2] = np.inf, np.nan, -np.inf
    plain = pool(Activation(z_BCHW.double()), stride)
    torch.testing.assert_close(pool(Activation(z_BCHW), stride).double(), plain, equal_nan=True)


# ---- sums -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), KINDS, KINDS[::-1] * 3, KINDS[:1] * 14])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (7, 9)])
def test_sums(kinds: list[Kind], height: int, width: int) -> None:
    shape = (3, 5, height, width)
    xs = [activation(shape, kind, seed=10 * i) for i, kind in enumerate(kinds)]
    agree(lambda xs: Activation(total(xs)), xs)


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), KINDS])
def test_sums_of_parts_that_some_images_lack(kinds: list[Kind]) -> None:
    shape = (4, 3, 6, 7)
    xs = [activation(shape, kind, seed=10 * i) for i, kind in enumerate(kinds)]
    kept_B = [torch.tensor([0.0, 1.25, 0.0, 1.25]).roll(i) for i in range(len(xs) - 1)]

    def operation(xs: Sequence[Activation]) -> Activation:
        return Activation(total(xs, [*(kept.to(xs[0].z_BCHW.dtype) for kept in kept_B), None]))

    agree(operation, xs)


def test_a_part_that_is_added_as_it_is_gets_the_gradient_itself() -> None:
    xs = [activation((2, 3, 4, 4), (False, False), seed=i) for i in range(2)]
    dy_BCHW = normal(2, 3, 4, 4)
    gradients = torch.autograd.grad(total(xs), leaves(xs), dy_BCHW)
    assert all(d_BCHW.data_ptr() == dy_BCHW.data_ptr() for d_BCHW in gradients)


def test_only_the_gradients_that_are_asked_for() -> None:
    shape = (2, 3, 4, 4)
    xs = [activation(shape, kind, seed=10 * i) for i, kind in enumerate(KINDS)]
    expected = torch.autograd.grad(total(xs).square().sum(), xs[1].z_BCHW)
    for leaf in leaves([x for i, x in enumerate(xs) if i != 1]):
        leaf.requires_grad_(False)
    assert torch.equal(torch.autograd.grad(total(xs).square().sum(), xs[1].z_BCHW)[0], expected[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_value_of_pending_maps(kind: Kind) -> None:
    agree(lambda xs: Activation(xs[0].value()), [activation((3, 5, 7, 6), kind, seed=1)])


# ---- norms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), KINDS, KINDS[:1] * 3, KINDS[1:]])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (7, 9)])
@pytest.mark.parametrize("training", [True, False])
def test_norms_of_sums(kinds: list[Kind], height: int, width: int, training: bool) -> None:
    norm = lively_norm(5).train(training)
    xs = [activation((3, 5, height, width), kind, seed=10 * i) for i, kind in enumerate(kinds)]
    agree(lambda xs: total_norm(xs, norm), xs, norm, tolerance=5e-5)


@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (1, 3, 5, 5), (4, 7, 8, 8), (3, 5, 7, 9)])
def test_norms_of_given_maps(shape: tuple[int, int, int, int]) -> None:
    norm = lively_norm(shape[1])
    agree(lambda xs: norm(xs[0].z_BCHW), [activation(shape, (False, False), seed=1)], norm, tolerance=5e-5)


def test_moving_statistics_normalise_a_sum() -> None:
    norm = lively_norm(5)
    xs = [activation((3, 5, 4, 6), kind, seed=10 * i) for i, kind in enumerate(KINDS)]
    agree(lambda xs: total_norm(xs, norm, "moving"), xs, norm)


def test_a_mean_of_many_standard_deviations_leaves_the_variance_right() -> None:
    norm = ChannelNorm(4, decay=0.0)
    z_BCHW = 300 + 0.1 * normal(64, 4, 16, 16)
    variance_C, mean_C = torch.var_mean(z_BCHW.double(), dim=(0, 2, 3))
    norm(z_BCHW)
    torch.testing.assert_close(norm.mean_C.double(), mean_C, rtol=1e-6, atol=0)
    torch.testing.assert_close(norm.variance_C.double(), variance_C, rtol=1e-4, atol=0)


# ---- whatever the operation -----------------------------------------------------------------------------------------


def all_operations() -> dict[str, Operation]:
    norm = lively_norm(5)
    return POOLS | {
        "total": lambda xs: Activation(total(xs)),
        "total_norm": lambda xs: total_norm(xs, norm),
        "norm": lambda xs: norm(xs[0].z_BCHW),
    }


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", all_operations())
def test_the_number_of_threads_does_not_change_a_bit(name: str, threads: Callable[[int], None]) -> None:
    operation = all_operations()[name]
    found = []
    for count in (1, 2, 3):
        threads(count)
        xs = [activation((17, 5, 32, 33), (name != "norm", name != "norm"), seed=1)]
        found.append(results(operation, xs))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("name", all_operations())
def test_gradients_that_do_not_lie_in_order_and_a_second_pass_backward(name: str) -> None:
    """An expanded gradient, such as a sum's, and one of transposed maps; the graph may be kept."""
    operation = all_operations()[name]
    xs = [activation((3, 5, 6, 6), (True, True), seed=1)]
    y = operation(xs).z_BCHW
    for dy in (
        torch.ones(1).expand(y.shape),
        normal(*y.shape).transpose(-1, -2).contiguous().transpose(-1, -2),
    ):
        strided = torch.autograd.grad(y, xs[0].z_BCHW, dy, retain_graph=True)[0]
        assert torch.equal(
            strided, torch.autograd.grad(y, xs[0].z_BCHW, dy.contiguous(), retain_graph=True)[0]
        )


def test_maps_in_another_order_take_the_plain_way() -> None:
    x = activation((3, 5, 6, 6), (True, True), seed=1)
    last = x._replace(z_BCHW=x.z_BCHW.detach().contiguous(memory_format=torch.channels_last))
    assert not kernels_take(last.z_BCHW)
    norm = lively_norm(5)
    for operation in (average_pool, max_pool, global_average, Activation.value):
        torch.testing.assert_close(operation(last), operation(x))
    torch.testing.assert_close(total([last, last]), total([x, x]))
    torch.testing.assert_close(total_norm([last, x], norm).value(), total_norm([x, x], norm).value())
