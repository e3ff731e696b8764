"""The blocks of convolutional networks against torch's own layers, their initialisation and their masks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas import ops
from enas.costs import multiply_adds, on_meta, parameter_count
from enas.data.images import ImageShape
from enas.errors import ConfigError
from enas.masks import Dropout, mask, masks, masks_from
from enas.norms import batch_statistics
from enas.ops import Maps
from enas.runtime.devices import products_in
from enas.spaces.blocks import (
    Classifier,
    DenseConv,
    FactorizedReduction,
    JoinedConv,
    NormConfig,
    SeparableConv,
    check_images,
    check_shape,
    he_normal_,
)

B, C, OUT, H, W = 3, 4, 6, 7, 8
NORM = NormConfig(eps=1e-3, decay=0.8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def affine() -> nn.BatchNorm2d:
    """A norm that is a scale and a shift of each channel."""
    norm = nn.BatchNorm2d(C, eps=0.0).eval()
    with torch.no_grad():
        norm.weight.copy_(1 + 0.3 * normal(C, seed=2))
        norm.bias.copy_(normal(C, seed=3))
    return norm


def pending(seed: int = 1) -> Maps:
    """Feature maps whose norm and ReLU are left to the reader, where there are kernels."""
    return ops.relu(ops.batch_norm(normal(B, C, H, W, seed=seed), affine()))


def value(seed: int = 1) -> Tensor:
    """Those feature maps by torch's own functions."""
    x_BCHW: Tensor = affine()(normal(B, C, H, W, seed=seed)).relu()
    return x_BCHW.detach()


def with_lively_norm(norm: nn.Module) -> nn.BatchNorm2d:
    """Give the norm values of its own; returns another with the same."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    channels = len(norm.weight)
    with torch.no_grad():
        norm.weight.copy_(1 + 0.3 * normal(channels, seed=4))
        norm.bias.copy_(normal(channels, seed=5))
    norm.running_mean.copy_(normal(channels, seed=6))
    norm.running_var.copy_(0.5 + normal(channels, seed=7).square())
    assert (norm.eps, norm.momentum) == (1e-3, pytest.approx(0.2))
    return copy.deepcopy(norm)


def dense(width: int, stride: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    assert stride == 1
    block = DenseConv(C, OUT, width, seeded(), NORM)
    return block, lambda x: F.conv2d(x, block.conv.weight, None, stride, width // 2)


def separable(width: int, stride: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    block = SeparableConv(C, OUT, width, seeded(), NORM, stride)

    def plain(x: Tensor) -> Tensor:
        y = F.conv2d(x, block.depthwise.weight, None, stride, width // 2, groups=C)
        return F.conv2d(y, block.pointwise.weight)

    return block, plain


@pytest.mark.parametrize(
    ("kind", "width", "stride"),
    [
        *((dense, width, 1) for width in (1, 3, 5)),
        *((separable, width, stride) for width in (3, 5) for stride in (1, 2)),
    ],
)
def test_convolutions_are_torch_s_followed_by_torch_s_norm(
    kind: Callable[[int, int], tuple[nn.Module, Callable[[Tensor], Tensor]]], width: int, stride: int
) -> None:
    """Values by both kinds of statistics, gradients, and the moving averages after a minibatch."""
    block, plain = kind(width, stride)
    norm = block.get_submodule("norm")
    theirs = with_lively_norm(norm)
    before = copy.deepcopy(norm.state_dict())

    def compare() -> None:
        agree(block, lambda: ops.computed(block(pending())), lambda: theirs(plain(value())))

    theirs.eval()
    block.eval()
    compare()
    theirs.train()
    with batch_statistics([theirs]), batch_statistics([norm]):
        compare()
    assert all(torch.equal(buffer, before[name]) for name, buffer in norm.state_dict().items())
    block.train()
    compare()
    for (name, mine), buffer in zip(norm.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, buffer, rtol=1e-5, atol=1e-5)
        assert not torch.equal(mine, before[name])


def agree(block: nn.Module, ours: Callable[[], Tensor], theirs: Callable[[], Tensor]) -> None:
    """Both return the same and have the same gradient with respect to the block's filters."""
    actual, expected = ours(), theirs()
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
    seeds = {"0": 0, "2": 1, "own": 2}
    actual = ops.computed(block({name: pending(seed) for name, seed in seeds.items()}))
    weight = torch.cat([block.convs.get_submodule(name).get_parameter("weight") for name in seeds], 1)
    expected = theirs(F.conv2d(torch.cat([value(seed) for seed in seeds.values()], 1), weight))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    actual.square().sum().backward()
    trained = {name for name, weight in block.convs.named_parameters() if weight.grad is not None}
    assert trained == {"0.weight", "2.weight", "own.weight"}


@pytest.mark.parametrize("out", [6, 5])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 8), (8, 7), (7, 7)])
def test_a_factorized_reduction_sees_even_pixels_beside_odd_ones(out: int, height: int, width: int) -> None:
    block = FactorizedReduction(C, out, seeded(), NORM)
    theirs = with_lively_norm(block.norm)
    z_BCHW = normal(B, C, height, width)
    even_CP, odd_CQ = (conv.weight.flatten(1).T for conv in (block.even, block.odd))
    halves = torch.zeros(B, out, (height + 1) // 2, (width + 1) // 2)
    for row in range(halves.shape[2]):
        for column in range(halves.shape[3]):
            halves[:, : out // 2, row, column] = z_BCHW[:, :, 2 * row, 2 * column] @ even_CP
            if 2 * row + 1 < height and 2 * column + 1 < width:
                odd_BC = z_BCHW[:, :, 2 * row + 1, 2 * column + 1]
                halves[:, out // 2 :, row, column] = odd_BC @ odd_CQ
    actual = ops.computed(block(z_BCHW))
    torch.testing.assert_close(actual, theirs(halves), rtol=1e-4, atol=1e-5)


def he_normal(shape: tuple[int, ...], generator: torch.Generator, fan_in: int | None = None) -> Tensor:
    weight = torch.empty(shape)
    he_normal_(weight, generator, fan_in)
    return weight


@pytest.mark.parametrize(
    ("shape", "fan_in"), [((64, 32, 3, 3), 288), ((4096, 1, 5, 5), 25), ((50, 400), 400)]
)
def test_he_normal_has_the_variance_of_the_real_filter_s_fan_in(shape: tuple[int, ...], fan_in: int) -> None:
    """N(0, 2 / fan-in) cut off at two of its own standard deviations, then widened to that variance again."""
    weight = he_normal(shape, seeded())
    deviation = math.sqrt(2 / fan_in)
    standard_error = deviation / math.sqrt(weight.numel())
    assert abs(float(weight.std()) - deviation) < 5 * standard_error
    assert abs(float(weight.mean())) < 5 * standard_error
    cut = 2 * deviation / 0.87962566
    assert 0.98 * cut < float(weight.abs().max()) <= cut * (1 + 1e-6)
    assert torch.equal(weight, he_normal(shape, seeded()))
    assert not torch.equal(weight, he_normal(shape, seeded(1)))


def test_parts_of_a_wider_filter_have_its_fan_in() -> None:
    part = he_normal((64, 32, 1, 1), seeded(), fan_in=4 * 32)
    torch.testing.assert_close(2 * part, he_normal((64, 32, 1, 1), seeded()))
    block = JoinedConv("abcd", 32, 64, seeded(), NORM)
    torch.testing.assert_close(block.convs.get_parameter("a.weight").detach(), part)
    assert all(parameter.requires_grad for parameter in block.parameters())


def drawn(shape: tuple[int, ...], rate: float, draw: torch.Generator) -> Tensor:
    with masks_from(draw):
        return mask(shape, rate, torch.empty(1))


def test_dropout_masks_keep_the_mean() -> None:
    first = drawn((200, 100), 0.25, seeded())
    assert set(first.unique().tolist()) == {0.0, float(torch.tensor(4 / 3))}
    assert abs(float(first.mean()) - 1) < 5 * math.sqrt(0.25 / 0.75 / first.numel())
    assert torch.equal(first, drawn((200, 100), 0.25, seeded()))
    assert not torch.equal(first, drawn((200, 100), 0.25, seeded(1)))
    assert torch.equal(drawn((2, 3), 0.0, seeded()), torch.ones(2, 3))


def test_masks_drawn_together_are_those_drawn_one_by_one() -> None:
    rates = [0.1, 0.1, 1 / 3, 0.0, 0.7, *(0.4 * n / 17 for n in range(1, 18))]
    for shape in ((3,), (17,), (160,), (5, 7)):
        together, one_by_one = seeded(4), seeded(4)
        with masks_from(together):
            found = masks(shape, rates, torch.empty(1))
        for rate, factor in zip(rates, found, strict=True):
            assert torch.equal(factor, drawn(shape, rate, one_by_one))
        assert torch.equal(together.get_state(), one_by_one.get_state())


def test_dropout_masks_without_a_generator_come_from_torch_s_own() -> None:
    def drawn() -> Tensor:
        return mask((50, 50), 0.5, torch.empty(1))

    with torch.random.fork_rng():
        torch.manual_seed(3)
        first, second = drawn(), drawn()
        torch.manual_seed(3)
        assert torch.equal(drawn(), first)
        with masks_from(seeded()):
            drawn()
        assert torch.equal(drawn(), second)  # the given one is used inside alone, and torch's own outside
    assert not torch.equal(first, second)


def test_the_generator_of_masks_is_the_innermost_one_also_after_an_error() -> None:
    with masks_from(seeded(1)):
        with pytest.raises(KeyboardInterrupt), masks_from(seeded(2)):
            raise KeyboardInterrupt
        with masks_from(seeded(3)):
            inner = mask((9, 9), 0.5, torch.empty(1))
        outer = mask((9, 9), 0.5, torch.empty(1))
    assert torch.equal(inner, drawn((9, 9), 0.5, seeded(3)))
    assert torch.equal(outer, drawn((9, 9), 0.5, seeded(1)))


def test_dropout_is_torch_s_own_without_a_generator() -> None:
    x_BC = normal(50, 40)
    for module in (Dropout(0.3), Dropout(0.3).eval(), Dropout(0.0)):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            mine = module(x_BC)
            torch.manual_seed(3)
            assert torch.equal(mine, F.dropout(x_BC, module.p, module.training))


def test_a_classifier_drops_in_training_only() -> None:
    classifier = Classifier(C, 5, 0.5, seeded())
    weight_KC = classifier.linear.weight
    assert classifier.linear.bias is None
    features_BC = value().mean((2, 3))
    expected = features_BC @ weight_KC.T
    with masks_from(seeded()):
        torch.testing.assert_close(classifier.eval()(pending()), expected)
    dropped = (features_BC * drawn((B, C), 0.5, seeded(9))) @ weight_KC.T
    with masks_from(seeded(9)):
        torch.testing.assert_close(classifier.train()(pending()), dropped)
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


@pytest.mark.parametrize("training", [True, False])
def test_blocks_follow_the_type_of_the_products(training: bool) -> None:
    """Kernels compute in float32 whatever autocast says; the plain form returns what autocast does."""
    for block in (DenseConv(C, OUT, 1, seeded(), NORM), SeparableConv(C, OUT, 3, seeded(), NORM)):
        block.train(training)
        exact = ops.computed(block(pending()))
        with products_in(torch.bfloat16, torch.device("cpu")):
            y = block(pending())
        rounded = ops.computed(y)
        assert rounded.dtype == (torch.bfloat16 if isinstance(y, Tensor) else torch.float32)
        assert (rounded - exact).norm() < 0.02 * exact.norm()
        assert torch.equal(rounded, exact) is not isinstance(y, Tensor)
