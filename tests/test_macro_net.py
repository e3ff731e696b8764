"""Macro networks against plain loops over the layers, sizes known exactly, and what of them runs and learns."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from typing import Any, Literal, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from enas import ops
from enas.architecture import Architecture
from enas.costs import multiply_adds, parameter_count
from enas.data.images import ImageShape
from enas.errors import ConfigError
from enas.masks import masks_from
from enas.norms import batch_statistics, norms_of
from enas.runtime.devices import products_in
from enas.spaces.macro.net import MacroChild, MacroNetConfig, MacroSupernet
from enas.spaces.macro.space import OPERATIONS, MacroSpace
from enas.spaces.recurrent.space import RecurrentSpace

N = TypeVar("N", bound=nn.Module)
Statistics = Literal["batch", "moving"]
STATISTICS: tuple[Statistics, ...] = ("batch", "moving")
B = 4
SHAPE = ImageShape(3, 9, 8, 5)
"""Small, not square, and odd where it is halved."""
CIFAR = ImageShape(3, 32, 32, 10)
SPACE = MacroSpace(6)
CONFIGS = {
    "paper": MacroNetConfig(4, merge="concat", order="relu-conv-norm", dropout=0.0),
    "authors-search": MacroNetConfig(
        4, merge="sum", order="conv-norm-relu", dropout=0.0, operation_norm_eps=1e-3, norm_decay=0.7
    ),
    "authors-final": MacroNetConfig(
        4, double_channels=True, merge="concat", order="relu-conv-norm", dense_separable=True, dropout=0.0
    ),
    "concat-relu-last": MacroNetConfig(5, merge="concat", order="conv-norm-relu", dropout=0.0, norm_eps=0.1),
    "sum-relu-first": MacroNetConfig(
        4, double_channels=True, merge="sum", order="relu-conv-norm", dropout=0.0
    ),
}
EVERY_CONFIG = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
WIDTHS = {"conv3x3": 3, "conv5x5": 5, "sep3x3": 3, "sep5x5": 5}

PUBLISHED = """
    0
    3 0
    0 1 0
    2 0 0 1
    2 0 0 0 0
    3 1 1 0 1 0
    2 0 0 0 0 0 1
    2 0 1 1 0 1 1 1
    1 0 1 1 1 0 1 0 1
    0 0 0 0 0 0 0 0 0 0
    2 0 0 0 0 0 1 0 0 0 0
    0 1 0 0 1 1 0 0 0 0 1 1
    2 0 1 0 0 0 0 0 1 0 1 1 0
    1 0 0 1 0 0 0 1 1 1 0 1 0 1
    0 1 1 0 1 0 1 0 0 0 0 0 1 0 0
    2 0 0 1 0 0 0 0 0 0 0 1 0 1 0 1
    2 0 1 0 0 0 1 0 0 1 1 1 1 0 0 1 0
    2 0 0 0 0 1 0 1 0 1 0 0 1 0 1 0 0 1
    3 0 1 1 0 1 0 0 0 0 0 1 0 1 0 1 0 0 0
    3 0 1 1 0 0 0 0 0 0 0 0 0 1 1 0 0 0 0 1
    0 1 0 0 1 0 1 1 0 0 0 1 0 0 0 0 0 1 1 0 0
    3 0 1 0 1 1 0 0 1 0 1 1 0 1 1 0 1 0 0 1 0 0
    0 1 0 1 0 1 0 0 0 0 0 0 0 0 1 0 1 0 0 1 0 0 0
    0 1 1 0 0 0 1 1 1 0 1 0 0 0 1 0 1 0 0 1 1 0 0 0
"""
"""The authors' network of 24 layers: each one's operation, then whether it takes T[0], T[1], ..."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def images(seed: int = 0, shape: ImageShape = SHAPE) -> Tensor:
    return normal(B, shape.channels, shape.height, shape.width, seed=seed)


def architectures(count: int) -> list[Architecture]:
    """With each operation once, and about half of the skip connections."""
    rng = random.Random(5)
    return [
        SPACE.build(
            rng.sample(OPERATIONS, 6), [[j for j in range(i) if rng.random() < 0.5] for i in range(6)]
        )
        for _ in range(count)
    ]


def with_lively_norms(network: N) -> N:
    """With scales, shifts and moving statistics that are not those of a fresh network."""
    for k, norm in enumerate(norms_of(network)):
        channels = len(norm.weight)
        with torch.no_grad():
            norm.weight.copy_(1 + 0.3 * normal(channels, seed=10 * k + 1))
            norm.bias.copy_(0.3 * normal(channels, seed=10 * k + 2))
        norm.get_buffer("running_mean").copy_(0.3 * normal(channels, seed=10 * k + 3))
        norm.get_buffer("running_var").copy_(0.5 + normal(channels, seed=10 * k + 4).square())
    return network


def supernet(config: MacroNetConfig) -> MacroSupernet:
    return with_lively_norms(MacroSupernet(SPACE, config, SHAPE, seeded(1)))


def normalising(network: nn.Module, statistics: Statistics) -> AbstractContextManager[None]:
    """Inside, a network in evaluation mode normalises by these statistics."""
    return batch_statistics(norms_of(network) if statistics == "batch" else [])


def buffers_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in network.named_buffers()}


@dataclass
class Plain:
    """The network as recipes describe it, in torch's own functions: every tensor halved, read or not."""

    network: MacroSupernet | MacroChild
    statistics: Statistics = "batch"
    moving: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.moving = buffers_of(self.network)

    def weight(self, name: str) -> Tensor:
        return self.network.get_parameter(f"network.{name}")

    def norm(self, name: str, x: Tensor) -> Tensor:
        config = self.network.config
        self.moving[f"network.{name}.num_batches_tracked"] += 1
        return F.batch_norm(
            x,
            self.moving[f"network.{name}.running_mean"],
            self.moving[f"network.{name}.running_var"],
            self.weight(f"{name}.weight"),
            self.weight(f"{name}.bias"),
            training=self.statistics == "batch",
            momentum=1 - config.norm_decay,
            eps=config.operation_norm_eps if ".operation." in name else config.norm_eps,
        )

    def conv_norm(self, name: str, x: Tensor, weight: Tensor | None = None) -> Tensor:
        weight = self.weight(f"{name}.conv.weight") if weight is None else weight
        return self.norm(f"{name}.norm", F.conv2d(x, weight, padding=weight.shape[-1] // 2))

    def reduced(self, name: str, x: Tensor) -> Tensor:
        even = F.conv2d(x[:, :, ::2, ::2], self.weight(f"{name}.even.weight"))
        odd = F.conv2d(F.pad(x, (0, 1, 0, 1))[:, :, 1::2, 1::2], self.weight(f"{name}.odd.weight"))
        height, width = even.shape[2:]
        return self.norm(f"{name}.norm", torch.cat([even, odd[:, :, :height, :width]], 1))

    def branch(self, layer: int, operation: str, x: Tensor) -> Tensor:
        config, name = self.network.config, f"layers.{layer}.branches.{operation}"
        relu_first = config.order == "relu-conv-norm"
        y = self.conv_norm(f"{name}.entry", x.relu() if relu_first else x)
        y = y if relu_first else y.relu()
        if operation == "avg3x3":
            return F.avg_pool2d(y, 3, 1, padding=1, count_include_pad=False)
        if operation == "max3x3":
            return F.max_pool2d(y, 3, 1, padding=1)
        y = y.relu() if relu_first else y
        if operation.startswith("sep") and not config.dense_separable:
            depthwise = self.weight(f"{name}.operation.depthwise.weight")
            y = F.conv2d(y, depthwise, padding=depthwise.shape[-1] // 2, groups=len(depthwise))
            y = self.conv_norm(f"{name}.operation", y, self.weight(f"{name}.operation.pointwise.weight"))
        else:
            y = self.conv_norm(f"{name}.operation", y)
        return y if relu_first else y.relu()

    def merged(self, layer: int, y: Tensor, taken: dict[int, Tensor]) -> Tensor:
        config, name = self.network.config, f"layers.{layer}.merge"
        if config.merge == "sum":
            return self.norm(f"{name}.norm", sum(taken.values(), y))
        blocks = [self.weight(f"{name}.conv.convs.{j}.weight") for j in [*taken, "own"]]
        x = torch.cat([*taken.values(), y], 1)
        if config.order == "relu-conv-norm":
            return self.conv_norm(f"{name}.conv", x.relu(), torch.cat(blocks, 1))
        return self.conv_norm(f"{name}.conv", x, torch.cat(blocks, 1)).relu()

    def run(self, images_BCHW: Tensor, architecture: Architecture) -> Tensor:
        tensors = [self.conv_norm("stem", images_BCHW)]
        operations, skips = SPACE.operations_of(architecture), SPACE.skips_of(architecture)
        for i, (operation, taken) in enumerate(zip(operations, skips, strict=True)):
            y = self.branch(i, operation, tensors[i])
            tensors.append(self.merged(i, y, {j: tensors[j] for j in taken}) if i > 0 else y)
            if i in (1, 3):
                tensors = [self.reduced(f"reductions.{i}-{j}", x) for j, x in enumerate(tensors)]
        return tensors[-1].mean((2, 3)) @ self.weight("classifier.linear.weight").T


@pytest.mark.parametrize("statistics", STATISTICS)
@EVERY_CONFIG
def test_the_supernet_computes_what_the_layers_say(config: MacroNetConfig, statistics: Statistics) -> None:
    """Scores and gradients of every parameter; those off the path have none in either."""
    network = supernet(config).eval()
    weight_BK = normal(B, SHAPE.classes, seed=7)
    for architecture in architectures(3):
        with normalising(network, statistics):
            actual = network(images(), architecture).logits_BK
        expected = Plain(network, statistics).run(images(), architecture)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)

        parameters = dict(network.named_parameters())
        ours = torch.autograd.grad((actual * weight_BK).sum(), list(parameters.values()), allow_unused=True)
        plain = torch.autograd.grad(
            (expected * weight_BK).sum(), list(parameters.values()), allow_unused=True
        )
        largest = max(float(gradient.abs().max()) for gradient in plain if gradient is not None)
        for name, mine, theirs in zip(parameters, ours, plain, strict=True):
            assert (mine is None) == (theirs is None), name
            if mine is not None:
                torch.testing.assert_close(mine, theirs, rtol=2e-3, atol=1e-5 * largest)


def both(child: MacroChild, shared: MacroSupernet, statistics: Statistics) -> tuple[Tensor, Tensor]:
    """The class scores of the child's architecture with its own weights, and with the shared ones."""
    with normalising(child, statistics), normalising(shared, statistics):
        outputs, expected = child.outputs(images()), shared(images(), child.architecture)
    return outputs.logits_BK, expected.logits_BK


@EVERY_CONFIG
def test_a_child_with_the_supernet_s_slice_is_the_supernet(config: MacroNetConfig) -> None:
    shared = supernet(config).eval()
    for architecture in architectures(4):
        child = MacroChild(architecture, replace(config, dropout=0.5), SHAPE, seeded(9)).eval()
        assert not any(torch.allclose(*both(child, shared, statistics)) for statistics in STATISTICS)
        child.load_slice(shared)
        assert all(torch.equal(*both(child, shared, statistics)) for statistics in STATISTICS)
        expected = shared(images(), architecture).logits_BK
        assert torch.equal(child(images()), expected)
        with torch.no_grad():  # the slice is a copy: training the child leaves the shared weights alone
            for parameter in child.parameters():
                parameter.zero_()
        assert torch.equal(shared(images(), architecture).logits_BK, expected)


@EVERY_CONFIG
def test_only_what_the_path_reads_gets_gradients(config: MacroNetConfig) -> None:
    network = supernet(config)
    architecture = SPACE.build(
        ["sep3x3", "conv3x3", "sep5x5", "max3x3", "conv5x5", "avg3x3"], [[], [0], [1], [1], [0], [2, 4]]
    )
    network(images(), architecture).logits_BK.square().sum().backward()
    path = {f"layers.{i}.branches.{name}" for i, name in enumerate(SPACE.operations_of(architecture))}
    path |= {"stem", "classifier"} | {
        f"layers.{i}.merge.{part}" for i in range(6) for part in ("norm", "conv.norm")
    }
    path |= {f"layers.{i}.merge.conv.convs.own" for i in range(6)}
    path |= {f"layers.{i}.merge.conv.convs.{j}" for i, j in [(1, 0), (2, 1), (3, 1), (4, 0), (5, 2), (5, 4)]}
    path |= {f"reductions.1-{j}" for j in (0, 1, 2)} | {f"reductions.3-{j}" for j in (0, 2, 4)}
    seen = 0
    for name, parameter in network.named_parameters():
        on_path = any(name.startswith(f"network.{start}.") for start in path)
        assert (parameter.grad is not None) == on_path, name
        seen += on_path
        if parameter.grad is not None and not name.endswith(
            "norm.bias"
        ):  # a shift before a norm moves nothing
            assert parameter.grad.any(), name
    assert 0 < seen < len(list(network.parameters()))


@EVERY_CONFIG
@pytest.mark.parametrize("layer", [0, 3])
def test_each_operation_changes_the_output_and_learns(layer: int, config: MacroNetConfig) -> None:
    network = supernet(config)
    base = architectures(1)[0]
    operations = list(SPACE.operations_of(base))
    scores = {}
    for operation in OPERATIONS:
        operations[layer] = operation
        architecture = SPACE.build(operations, SPACE.skips_of(base))
        network.zero_grad()
        scores[operation] = network(images(), architecture).logits_BK
        F.cross_entropy(scores[operation], torch.arange(B)).backward()
        branch = network.get_submodule(f"network.layers.{layer}.branches.{operation}")
        assert len(list(branch.parameters())) == (3 if operation in ("avg3x3", "max3x3") else 7) - (
            operation in WIDTHS and (operation.startswith("conv") or config.dense_separable)
        )
        for name, weight in branch.named_parameters():
            assert weight.grad is not None, name
            if weight.dim() == 4:
                assert weight.grad.norm() > 1e-5, (operation, name)
    for first, second in combinations(OPERATIONS, 2):
        assert not torch.allclose(scores[first], scores[second], atol=1e-3), (first, second)


@EVERY_CONFIG
def test_each_skip_connection_changes_the_output(config: MacroNetConfig) -> None:
    network = supernet(config)
    operations = ["conv3x3"] * 6
    without = network(images(), SPACE.build(operations, [[]] * 6)).logits_BK
    seen = [without]
    for i in range(6):
        for j in range(i):
            skips = [[j] if layer == i else [] for layer in range(6)]
            scores = network(images(), SPACE.build(operations, skips)).logits_BK
            assert all(not torch.allclose(scores, other, atol=1e-3) for other in seen), (i, j)
            seen.append(scores)


@pytest.mark.parametrize("config", [CONFIGS["paper"], CONFIGS["authors-search"]])
def test_training_moves_the_statistics_of_the_path(config: MacroNetConfig) -> None:
    """As torch's batch norm does, which takes the unbiased variance; those off the path stay."""
    for architecture in architectures(2):
        network = supernet(config).train()
        before, plain = buffers_of(network), Plain(network)
        plain.run(images(), architecture)
        for statistics in STATISTICS:
            with normalising(network.eval(), statistics):
                network(images(), architecture)
        for name, buffer in network.named_buffers():
            assert torch.equal(buffer, before[name])
        network.train()(images(), architecture)
        read = {name for name, buffer in network.named_buffers() if not torch.equal(buffer, before[name])}
        for name, buffer in network.named_buffers():
            if name in read or "reductions" not in name:  # the plain network halves unread tensors, too
                torch.testing.assert_close(buffer, plain.moving[name], rtol=1e-4, atol=1e-5)
        assert 0 < len(read) < len(before)


def test_evaluation_is_deterministic_and_moves_nothing() -> None:
    architecture = architectures(1)[0]
    config = replace(CONFIGS["paper"], dropout=0.5)
    child = with_lively_norms(MacroChild(architecture, config, SHAPE, seeded())).eval()
    before = buffers_of(child)
    for statistics in STATISTICS:
        outputs = []
        for seed in (1, 2):
            with normalising(child, statistics), masks_from(seeded(seed)):
                outputs.append(child.outputs(images()))
        first, second = outputs
        assert torch.equal(first.logits_BK, second.logits_BK)
        assert first.auxiliary_BK is None
    for name, buffer in child.named_buffers():
        assert torch.equal(buffer, before[name])


def test_moving_statistics_make_images_independent() -> None:
    architecture = architectures(1)[0]
    child = with_lively_norms(MacroChild(architecture, CONFIGS["authors-search"], SHAPE, seeded())).eval()
    for statistics in STATISTICS:
        with normalising(child, statistics):
            alone = child.outputs(images()[:2]).logits_BK
            among = child.outputs(images()).logits_BK[:2]
        assert torch.allclose(alone, among, atol=1e-4) == (statistics == "moving")


def test_dropout_follows_from_the_generator() -> None:
    architecture = architectures(1)[0]
    network = MacroSupernet(SPACE, replace(CONFIGS["paper"], dropout=0.5), SHAPE, seeded())

    def scores(seed: int) -> Tensor:
        with masks_from(seeded(seed)):
            scores_BK: Tensor = network(images(), architecture).logits_BK
        return scores_BK

    assert torch.equal(scores(1), scores(1))
    assert not torch.equal(scores(1), scores(2))
    dropped = scores(1)
    with normalising(network.eval(), "batch"):
        assert not torch.equal(dropped, scores(1))
        assert torch.equal(scores(1), scores(2))


def test_products_in_bfloat16_leave_the_rest_in_float32() -> None:
    for config, architecture in product(CONFIGS.values(), architectures(1)):
        network = supernet(config)
        exact = network(images(), architecture).logits_BK
        with products_in(torch.bfloat16, torch.device("cpu")):
            rounded = network(images(), architecture).logits_BK
        assert exact.dtype == torch.float32
        assert rounded.dtype == torch.float32
        assert ops._kernels() or not torch.equal(rounded, exact)  # kernels compute in float32
        assert (rounded - exact).norm() < 0.1 * exact.norm()
        rounded.square().sum().backward()
        gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
        assert gradients
        averages = [
            average for norm in norms_of(network) for average in (norm.running_mean, norm.running_var)
        ]
        for value in (*gradients, *averages, *network.parameters()):
            assert value is not None
            assert value.dtype == torch.float32


def test_initial_weights_follow_from_the_generator() -> None:
    first, again, other = (MacroSupernet(SPACE, CONFIGS["paper"], SHAPE, seeded(seed)) for seed in (1, 1, 2))
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
        if "norm" not in name:
            assert not torch.equal(parameter, other.get_parameter(name))


def test_a_state_dict_restores_a_child() -> None:
    architecture = architectures(1)[0]
    saved = with_lively_norms(MacroChild(architecture, CONFIGS["authors-final"], SHAPE, seeded(1)))
    other = MacroChild(architecture, CONFIGS["authors-final"], SHAPE, seeded(2))
    other.load_state_dict(saved.state_dict())
    assert torch.equal(saved.eval()(images()), other.eval()(images()))


def published() -> Architecture:
    return MacroSpace(24).architecture([int(word) for word in PUBLISHED.split()])


@pytest.mark.parametrize(
    ("filters", "dense", "count"),
    [(96, True, 42_559_392), (128, True, 75_636_608), (96, False, 30_947_424), (128, False, 54_976_640)],
)
def test_the_size_of_the_published_network(filters: int, dense: bool, count: int) -> None:
    """Read densely, the sizes are those of the authors' final network."""
    config = MacroNetConfig(filters, double_channels=True, dense_separable=dense)
    with torch.device("meta"):  # shapes only
        child = MacroChild(published(), config, CIFAR, seeded())
    assert parameter_count(child) == count


def test_the_size_of_the_first_code_s_supernet() -> None:
    config = MacroNetConfig(36, merge="sum", order="conv-norm-relu")
    with torch.device("meta"):
        network = MacroSupernet(MacroSpace(12), config, CIFAR, seeded())
    assert parameter_count(network) == 697_860


def counted_by_hand(architecture: Architecture, config: MacroNetConfig) -> int:
    """Multiply-adds of one image: pixels × inputs × outputs × filter, convolution by convolution."""
    height, width, channels = SHAPE.height, SHAPE.width, config.filters
    count = height * width * SHAPE.channels * channels * 9
    operations, skips = SPACE.operations_of(architecture), SPACE.skips_of(architecture)
    for i, (operation, taken) in enumerate(zip(operations, skips, strict=True)):
        pixels = height * width
        count += pixels * channels * channels
        if operation in WIDTHS:
            area = WIDTHS[operation] ** 2
            separable = operation.startswith("sep") and not config.dense_separable
            count += pixels * channels * (area + channels if separable else area * channels)
        if i > 0 and config.merge == "concat":
            count += pixels * (len(taken) + 1) * channels * channels
        if i in (1, 3):
            height, width = (height + 1) // 2, (width + 1) // 2
            read_later = {i + 1} | {j for later in skips[i + 1 :] for j in later if j <= i + 1}
            wider = 2 * channels if config.double_channels else channels
            count += len(read_later) * height * width * channels * wider
            channels = wider
    return count + channels * SHAPE.classes


@EVERY_CONFIG
def test_multiply_adds_are_those_of_the_path_alone(config: MacroNetConfig) -> None:
    """The child's by formula, and the supernet's no more than the child's."""
    network = supernet(config).eval().to("meta")
    last_read_where_halved = SPACE.build(OPERATIONS, [[], [0], [1], [1], [], [2, 4]])
    for architecture in (*architectures(1), last_read_where_halved):
        child = MacroChild(architecture, config, SHAPE, seeded())
        expected = counted_by_hand(architecture, config)
        assert multiply_adds(child, SHAPE) == expected
        with FlopCounterMode(display=False) as counter:
            network(images().to("meta"), architecture)
        assert counter.get_total_flops() == 2 * B * expected


@pytest.mark.parametrize(
    ("layers", "after"), [(3, (0, 1)), (4, (0, 1)), (5, (0, 2)), (12, (3, 7)), (24, (7, 15))]
)
def test_where_the_size_is_halved(layers: int, after: tuple[int, int]) -> None:
    space = MacroSpace(layers)
    with torch.device("meta"):
        network = MacroSupernet(space, CONFIGS["paper"], SHAPE, seeded())
    named = [name for name, _ in network.get_submodule("network.reductions").named_children()]
    assert named == [f"{layer}-{tensor}" for layer in after for tensor in range(layer + 2)]


@pytest.mark.parametrize("layers", [1, 2])
def test_too_few_layers_for_three_stages(layers: int) -> None:
    with pytest.raises(ConfigError, match=f"at least 3 layers, not {layers}"):
        MacroSupernet(MacroSpace(layers), MacroNetConfig(), SHAPE, seeded())


def test_images_that_cannot_be_halved_twice() -> None:
    with pytest.raises(ConfigError, match="3×32 pixels are too small"):
        MacroSupernet(SPACE, MacroNetConfig(), ImageShape(3, 3, 32, 10), seeded())
    smallest = MacroSupernet(SPACE, MacroNetConfig(4), ImageShape(1, 4, 4, 2), seeded())
    assert smallest(normal(B, 1, 4, 4), architectures(1)[0]).logits_BK.shape == (B, 2)


def test_images_of_another_shape() -> None:
    network = MacroSupernet(SPACE, MacroNetConfig(4), SHAPE, seeded())
    for shape in [(B, 1, 9, 8), (B, 3, 8, 9), (3, 9, 8)]:
        with pytest.raises(ConfigError, match="batches of 3×9×8"):
            network(normal(*shape), architectures(1)[0])


def test_architectures_of_other_spaces_are_refused() -> None:
    architecture = RecurrentSpace(2).architecture([0, 0, 0])
    with pytest.raises(ConfigError, match="macro space is needed here, not one of the recurrent space"):
        MacroChild(architecture, MacroNetConfig(), SHAPE, seeded())
    shorter = MacroSpace(5).build(["conv3x3"] * 5, [[]] * 5)
    network = MacroSupernet(SPACE, MacroNetConfig(4), SHAPE, seeded())
    with pytest.raises(ConfigError, match="of another space than the supernet"):
        network(images(), shorter)


@pytest.mark.parametrize(
    ("setting", "change"),
    [("merge", {"merge": "sum"}), ("order", {"order": "conv-norm-relu"}), ("filters", {"filters": 5})],
)
def test_a_slice_of_another_graph_is_refused(setting: str, change: dict[str, Any]) -> None:
    config = CONFIGS["paper"]
    child = MacroChild(architectures(1)[0], config, SHAPE, seeded())
    other = MacroSupernet(SPACE, replace(config, **change), SHAPE, seeded())
    with pytest.raises(ConfigError, match=f"the child's {setting} is"):
        child.load_slice(other)


@pytest.mark.parametrize(("change", "message"), [({"filters": 1}, "filters"), ({"dropout": 1.0}, "dropout")])
def test_settings_that_make_no_sense(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(MacroNetConfig(), **change)
