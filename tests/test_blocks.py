"""The blocks of convolutional networks against torch's own layers, their initialisation and their masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas.errors import ConfigError
from enas.nn.activation import Activation, ChannelNorm
from enas.nn.blocks import (
    Classifier,
    DenseConv,
    FactorizedReduction,
    JoinedConv,
    NormConfig,
    SeparableConv,
    check_images,
    check_shape,
    dropout_mask,
    he_normal,
)
from enas.nn.counting import multiply_adds, on_meta, parameter_count
from enas.nn.image_network import ImageShape, Pass
from enas.nn.simd import multiplies_bfloat16

B, C, OUT, H, W = 3, 4, 6, 7, 8
NORM = NormConfig(eps=1e-3, decay=0.8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def pending() -> Activation:
    """Feature maps with a norm and a ReLU still to come."""
    return Activation(
        normal(B, C, H, W, seed=1), 1 + 0.3 * normal(C, seed=2), normal(C, seed=3), rectified=True
    )


def with_lively_norm(norm: ChannelNorm) -> nn.BatchNorm2d:
    """Give the norm values of its own; returns torch's with the same, in training mode."""
    channels = len(norm.weight)
    with torch.no_grad():
        norm.weight.copy_(1 + 0.3 * normal(channels, seed=4))
        norm.bias.copy_(normal(channels, seed=5))
    norm.mean_C.copy_(normal(channels, seed=6))
    norm.variance_C.copy_(0.5 + normal(channels, seed=7).square())
    theirs = nn.BatchNorm2d(channels, eps=norm.eps, momentum=1 - norm.decay)
    theirs.load_state_dict(
        {
            "weight": norm.weight,
            "bias": norm.bias,
            "running_mean": norm.mean_C,
            "running_var": norm.variance_C,
            "num_batches_tracked": torch.tensor(0),
        }
    )
    return theirs


def dense(width: int, stride: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    block = DenseConv(C, OUT, width, seeded(), NORM)
    return block, lambda x: F.conv2d(x, block.weight, None, stride, width // 2)


def separable(width: int, stride: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    block = SeparableConv(C, OUT, width, seeded(), NORM)

    def plain(x: Tensor) -> Tensor:
        y = F.conv2d(x, block.depthwise, None, stride, width // 2, groups=C)
        return F.conv2d(y, block.pointwise)

    return block, plain


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("kind", "width"), [(dense, 1), (dense, 3), (dense, 5), (separable, 3), (separable, 5)]
)
def test_convolutions_are_torch_s_followed_by_torch_s_norm(
    kind: Callable[[int, int], tuple[nn.Module, Callable[[Tensor], Tensor]]], width: int, stride: int
) -> None:
    """Values by both kinds of statistics, gradients, and the moving averages after a minibatch."""
    block, plain = kind(width, stride)
    norm = block.get_submodule("norm")
    assert isinstance(norm, ChannelNorm)
    theirs = with_lively_norm(norm)
    agree(
        block,
        lambda: block(pending(), Pass("moving"), stride),
        lambda: theirs.eval()(plain(pending().value())),
    )
    agree(
        block,
        lambda: block(pending(), Pass("batch"), stride),
        lambda: theirs.train()(plain(pending().value())),
    )
    torch.testing.assert_close(norm.mean_C, theirs.running_mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.variance_C, theirs.running_var, rtol=1e-5, atol=1e-5)


def agree(block: nn.Module, ours: Callable[[], Activation], theirs: Callable[[], Tensor]) -> None:
    """Both return the same and have the same gradient with respect to the block's filters."""
    actual, expected = ours().value(), theirs()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    filters = [weight for weight in block.parameters() if weight.dim() == 4]
    by_ours, by_theirs = (
        torch.autograd.grad((y * normal(*y.shape, seed=8)).sum(), filters) for y in (actual, expected)
    )
    for mine, plain in zip(by_ours, by_theirs, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-3, atol=1e-4)


def test_a_joined_convolution_is_one_of_the_concatenation() -> None:
    block = JoinedConv(["0", "1", "2", "own"], C, OUT, seeded(), NORM)
    theirs = with_lively_norm(block.norm)
    xs = {
        name: pending()._replace(z_BCHW=normal(B, C, H, W, seed=k))
        for k, name in enumerate(["0", "2", "own"])
    }
    actual = block(xs, Pass()).value()
    weight = torch.cat([block.blocks[name] for name in xs], 1)
    expected = theirs(F.conv2d(torch.cat([x.value() for x in xs.values()], 1), weight))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    actual.square().sum().backward()
    assert {name for name, weight in block.blocks.items() if weight.grad is not None} == {"0", "2", "own"}


@pytest.mark.parametrize("out", [6, 5])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 8), (8, 7), (7, 7)])
def test_a_factorized_reduction_sees_even_pixels_beside_odd_ones(out: int, height: int, width: int) -> None:
    block = FactorizedReduction(C, out, seeded(), NORM)
    theirs = with_lively_norm(block.norm)
    z_BCHW = normal(B, C, height, width)
    halves = torch.zeros(B, out, (height + 1) // 2, (width + 1) // 2)
    for row in range(halves.shape[2]):
        for column in range(halves.shape[3]):
            halves[:, : out // 2, row, column] = z_BCHW[:, :, 2 * row, 2 * column] @ block.even[:, :, 0, 0].T
            if 2 * row + 1 < height and 2 * column + 1 < width:
                odd_BC = z_BCHW[:, :, 2 * row + 1, 2 * column + 1]
                halves[:, out // 2 :, row, column] = odd_BC @ block.odd[:, :, 0, 0].T
    actual = block(Activation(z_BCHW), Pass()).value()
    torch.testing.assert_close(actual, theirs(halves), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "fan_in"), [((64, 32, 3, 3), 288), ((4096, 1, 5, 5), 25), ((50, 400), 400)]
)
def test_he_normal_has_the_variance_of_the_real_filter_s_fan_in(shape: tuple[int, ...], fan_in: int) -> None:
    """N(0, 2 / fan-in) cut off at two of its own standard deviations, then widened to that variance again."""
    weight = he_normal(shape, seeded())
    assert weight.requires_grad
    values, deviation = weight.detach(), math.sqrt(2 / fan_in)
    standard_error = deviation / math.sqrt(values.numel())
    assert abs(float(values.std()) - deviation) < 5 * standard_error
    assert abs(float(values.mean())) < 5 * standard_error
    cut = 2 * deviation / 0.87962566
    assert 0.98 * cut < float(values.abs().max()) <= cut * (1 + 1e-6)
    assert torch.equal(weight, he_normal(shape, seeded()))
    assert not torch.equal(weight, he_normal(shape, seeded(1)))


def test_parts_of_a_wider_filter_have_its_fan_in() -> None:
    part = he_normal((64, 32, 1, 1), seeded(), fan_in=4 * 32)
    torch.testing.assert_close(2 * part, he_normal((64, 32, 1, 1), seeded()))
    block = JoinedConv("abcd", 32, 64, seeded(), NORM)
    torch.testing.assert_close(block.blocks["a"], part)


def test_dropout_masks_keep_the_mean() -> None:
    mask = dropout_mask((200, 100), 0.25, seeded(), torch.empty(1))
    assert set(mask.unique().tolist()) == {0.0, float(torch.tensor(4 / 3))}
    assert abs(float(mask.mean()) - 1) < 5 * math.sqrt(0.25 / 0.75 / mask.numel())
    assert torch.equal(mask, dropout_mask((200, 100), 0.25, seeded(), torch.empty(1)))
    assert not torch.equal(mask, dropout_mask((200, 100), 0.25, seeded(1), torch.empty(1)))
    assert torch.equal(dropout_mask((2, 3), 0.0, seeded(), torch.empty(1)), torch.ones(2, 3))


def test_dropout_masks_without_a_generator_come_from_torch_s_own() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = dropout_mask((50, 50), 0.5, None, torch.empty(1))
        second = dropout_mask((50, 50), 0.5, None, torch.empty(1))
        torch.manual_seed(3)
        assert torch.equal(dropout_mask((50, 50), 0.5, None, torch.empty(1)), first)
    assert not torch.equal(first, second)


def test_a_classifier_drops_in_training_only() -> None:
    classifier = Classifier(C, 5, 0.5, seeded())
    features_BC = pending().value().mean((2, 3))
    expected = features_BC @ classifier.weight.T
    torch.testing.assert_close(classifier.eval()(pending(), Pass(draw=seeded())), expected)
    dropped = (features_BC * dropout_mask((B, C), 0.5, seeded(9), features_BC)) @ classifier.weight.T
    torch.testing.assert_close(classifier.train()(pending(), Pass(draw=seeded(9))), dropped)
    assert not torch.allclose(dropped, expected)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (ImageShape(3, 8, 7, 10), "8×7 pixels are too small: the network halves them 3 times.* at least 8"),
        (ImageShape(0, 8, 8, 10), "one channel, not 0"),
        (ImageShape(3, 8, 8, 1), "two classes, not 1"),
    ],
)
def test_shapes_that_no_network_can_be_built_for(shape: ImageShape, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_shape(shape, halvings=3)
    check_shape(ImageShape(1, 8, 8, 2), halvings=3)


@pytest.mark.parametrize("sizes", [(2, 3, 8), (2, 1, 8, 9), (2, 3, 9, 8)])
def test_batches_of_other_images(sizes: tuple[int, ...]) -> None:
    given = "×".join(map(str, sizes))
    with pytest.raises(ConfigError, match=f"shape {given} given, but the network takes batches of 3×8×9"):
        check_images(torch.empty(sizes), ImageShape(3, 8, 9, 10))
    check_images(torch.empty(2, 3, 8, 9), ImageShape(3, 8, 9, 10))


class Counted(nn.Module):
    """Convolutions of every kind, with a norm and dropout between, and one that runs in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 8, 5, padding=2, groups=2, bias=False)
        self.auxiliary = nn.Conv2d(8, 8, 1, bias=False)
        self.last = nn.Linear(8, 5, bias=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        y = self.second(F.dropout(self.norm(self.first(images_BCHW)).relu(), 0.5, self.training))
        y = y + self.auxiliary(y) if self.training else y
        scores_BK: Tensor = self.last(y.mean((2, 3)))
        return scores_BK


def test_counts_of_a_network_known_by_hand() -> None:
    network = Counted()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert parameter_count(network) == 3 * 4 * 9 + 2 * 4 + 2 * 8 * 25 + 8 * 8 + 8 * 5
    pixels = 5 * 4  # of 9×8, halved and rounded up
    assert multiply_adds(network, ImageShape(3, 9, 8, 5)) == pixels * (3 * 4 * 9 + 2 * 8 * 25) + 8 * 5
    assert network.training  # counting leaves the network as it was
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_copy_on_meta_has_the_shapes_alone() -> None:
    network = Counted()
    copied = on_meta(network)
    for (name, value), (other, empty) in zip(
        network.state_dict().items(), copied.state_dict().items(), strict=True
    ):
        assert name == other
        assert (empty.shape, empty.dtype, empty.device.type) == (value.shape, value.dtype, "meta")
        assert value.device.type == "cpu"
    assert all(isinstance(parameter, nn.Parameter) for parameter in copied.parameters())


@pytest.mark.parametrize("statistics", ["batch", "moving"])
def test_blocks_follow_the_type_of_the_products(statistics: Literal["batch", "moving"]) -> None:
    for block in (DenseConv(C, OUT, 3, seeded(), NORM), SeparableConv(C, OUT, 3, seeded(), NORM)):
        exact = block(pending(), Pass(statistics)).value()
        rounded = block(pending(), Pass(statistics, torch.bfloat16)).value()
        assert rounded.dtype == torch.float32
        assert (rounded - exact).norm() < 0.02 * exact.norm()
        # Each operation runs in the type that is fastest for it: of bf16, dense convolutions, where it can be multiplied.
        dense = isinstance(block, DenseConv)
        assert torch.equal(rounded, exact) is not (dense and multiplies_bfloat16())
