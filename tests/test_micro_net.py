"""Supernet and child of the micro space against a plain network in float64, their sizes, and what trains in them."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import product
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas import ops
from enas.architecture import Architecture
from enas.data.images import ImageShape
from enas.errors import ConfigError
from enas.masks import masks, masks_from
from enas.norms import batch_statistics, norms_of
from enas.ops import Maps
from enas.runtime.devices import products_in
from enas.spaces.image_network import Outputs
from enas.spaces.micro import cell as cell_module
from enas.spaces.micro.cell import MicroCell, SeparableTwice, drop_paths
from enas.spaces.micro.net import MicroChild, MicroNetConfig, MicroNetwork, MicroSupernet
from enas.spaces.micro.space import OPERATIONS, Cell, MicroSpace, Node
from enas.spaces.recurrent.space import RecurrentSpace

Statistics = Literal["batch", "moving"]
Output = Literal["concat", "convolution"]
Reduction = Literal["stride", "factorized"]
GRAPHS: list[tuple[Output, Reduction, bool]] = [
    (output, reduction, base)
    for output in ("concat", "convolution")
    for reduction in ("stride", "factorized")
    for base in (False, True)
]

B, FILTERS, LAYERS, CLASSES = 6, 4, 3, 3
SMALL = ImageShape(2, 10, 9, CLASSES)
LARGE = ImageShape(2, 18, 21, CLASSES)
CIFAR = ImageShape(3, 32, 32, 10)
SPACE = MicroSpace(3)
PUBLISHED = "0 2 0 0 0 4 0 1 0 4 1 1 1 0 0 1 0 2 1 1 | 1 0 1 0 0 3 0 2 1 1 3 1 1 0 0 4 0 3 1 1"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def images(shape: ImageShape = SMALL, seed: int = 1, count: int = B) -> Tensor:
    return normal(count, shape.channels, shape.height, shape.width, seed=seed)


def architectures(count: int, space: MicroSpace = SPACE, seed: int = 3) -> list[Architecture]:
    rng = random.Random(seed)
    return [space.sample(rng) for _ in range(count)]


def uniform_cell(operation: str, nodes: int = 3) -> Cell:
    """Every node applies the operation to the two nodes before it."""
    return Cell(tuple(Node(n - 2, operation, n - 1, operation) for n in range(2, nodes + 2)))


def config(
    output: Output = "concat",
    reduction: Reduction = "stride",
    base: bool = False,
    *,
    layers: int = LAYERS,
    auxiliary: bool = False,
    drop_path_keep: float = 1.0,
    dropout: float = 0.0,
) -> MicroNetConfig:
    return MicroNetConfig(
        filters=FILTERS,
        layers=layers,
        output=output,
        reduction=reduction,
        base_convolution=base,
        auxiliary=auxiliary,
        drop_path_keep=drop_path_keep,
        dropout=dropout,
        norm_eps=1e-3,
    )


def normalising(network: nn.Module, statistics: Statistics) -> AbstractContextManager[None]:
    """Inside, a network in evaluation mode normalises by these statistics."""
    return batch_statistics(norms_of(network) if statistics == "batch" else [])


def supernet(settings: MicroNetConfig, shape: ImageShape = SMALL, space: MicroSpace = SPACE) -> MicroSupernet:
    """With norms that are not trivial, some of negative scale."""
    network = MicroSupernet(space, settings, shape, seeded(1))
    for k, norm in enumerate(norms_of(network)):
        channels = len(norm.weight)
        with torch.no_grad():
            norm.weight.copy_(1 + 0.6 * normal(channels, seed=10 * k + 1))
            norm.bias.copy_(0.3 * normal(channels, seed=10 * k + 2))
        norm.get_buffer("running_mean").copy_(0.3 * normal(channels, seed=10 * k + 3))
        norm.get_buffer("running_var").copy_(0.5 + normal(channels, seed=10 * k + 4).square())
    return network


def cross_entropy(logits_BK: Tensor) -> Tensor:
    return F.cross_entropy(logits_BK, torch.arange(len(logits_BK), device=logits_BK.device) % CLASSES)


class Plain:
    """The network as the paper and the first code describe it: every concatenation, norm and ReLU written out, in float64.

    Weights are found by what their names say.
    """

    def __init__(self, network: MicroNetwork, cells: tuple[Cell, Cell], statistics: Statistics) -> None:
        self.config = network.config
        self.cells = cells
        self.statistics = statistics
        self.parameters = {
            name: parameter.detach().double().requires_grad_()
            for name, parameter in network.named_parameters()
        }
        self.buffers = {name: buffer.double() for name, buffer in network.named_buffers()}
        self.seen: dict[str, Tensor] = {}

    def norm(self, name: str, x: Tensor) -> Tensor:
        self.seen[name] = x.detach()
        weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        if self.statistics == "batch":
            return F.batch_norm(x, None, None, weight, bias, training=True, eps=self.config.norm_eps)
        mean, variance = self.buffers[f"{name}.running_mean"], self.buffers[f"{name}.running_var"]
        return F.batch_norm(x, mean, variance, weight, bias, eps=self.config.norm_eps)

    def side_by_side(self, name: str, parts: list[str]) -> Tensor:
        """The columns of the parts of a concatenation, as a 1×1 filter."""
        blocks = [self.parameters[f"{name}.{part}.weight"] for part in parts]
        return torch.cat([block.reshape(*block.shape[:2], 1, 1) for block in blocks], 1)

    def reduced(self, x: Tensor, even: Tensor, odd: Tensor) -> Tensor:
        bordered = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        return torch.cat([F.conv2d(x[:, :, ::2, ::2], even), F.conv2d(bordered[:, :, 1::2, 1::2], odd)], 1)

    def separable(self, name: str, x: Tensor, stride: int) -> Tensor:
        for part in ("first", "second"):
            depthwise = self.parameters[f"{name}.{part}.depthwise.weight"]
            x = F.conv2d(
                F.relu(x), depthwise, stride=stride, padding=depthwise.shape[-1] // 2, groups=len(depthwise)
            )
            x = F.conv2d(x, self.parameters[f"{name}.{part}.pointwise.weight"])
            x = self.norm(f"{name}.{part}.norm", x)
            stride = 1
        return x

    def pooled(self, x: Tensor, stride: int, largest: bool) -> Tensor:
        """Over the nine shifted images, those beyond the border left out."""
        padded = F.pad(x, (1, 1, 1, 1), value=math.nan)
        height, width = x.shape[2:]
        shifted = torch.stack(
            [
                padded[:, :, i : i + height : stride, j : j + width : stride]
                for i in range(3)
                for j in range(3)
            ]
        )
        if largest:
            return shifted.nan_to_num(-math.inf).amax(0)
        return shifted.nanmean(0)

    def calibrated(self, name: str, parts: list[str], x: Tensor, channels: int, halve: bool) -> Tensor:
        if halve:
            even = self.side_by_side(f"{name}.reduction.even", parts)
            odd = self.side_by_side(f"{name}.reduction.odd", parts)
            return self.norm(f"{name}.reduction.norm", self.reduced(F.relu(x), even, odd))
        if x.shape[1] != channels:
            weight = self.side_by_side(f"{name}.conv.convs", parts)
            return self.norm(f"{name}.conv.norm", F.conv2d(F.relu(x), weight))
        return x

    def operation(self, name: str, operation: str, x: Tensor, stride: int) -> Tensor:
        if operation in ("avg3x3", "max3x3"):
            return self.pooled(x, stride, operation == "max3x3")
        if operation == "identity":
            return x if stride == 1 else self.halved(name, x)
        return self.separable(name, x, stride)

    def halved(self, name: str, x: Tensor) -> Tensor:
        even, odd = self.parameters[f"{name}.even.weight"], self.parameters[f"{name}.odd.weight"]
        return self.norm(f"{name}.norm", self.reduced(x, even, odd))

    def cell(
        self,
        name: str,
        older: tuple[list[str], Tensor],
        newer: tuple[list[str], Tensor],
        cell: Cell,
        channels: int,
        stride: int,
    ) -> tuple[list[str], Tensor]:
        halve = older[1].shape[2] > newer[1].shape[2]
        nodes = [
            self.calibrated(f"{name}.older", *older, channels, halve),
            self.calibrated(f"{name}.newer", *newer, channels, False),
        ]
        if self.config.base_convolution:
            convolved = F.conv2d(F.relu(nodes[1]), self.parameters[f"{name}.base.conv.weight"])
            nodes[1] = self.norm(f"{name}.base.norm", convolved)
        for number, node in enumerate(cell.nodes, start=2):
            inputs = ((1, node.operation_1, node.source_1), (2, node.operation_2, node.source_2))
            first, second = (
                self.operation(
                    f"{name}.operations.{number}-{slot}-{operation}-{source}",
                    operation,
                    nodes[source],
                    stride if source < 2 else 1,
                )
                for slot, operation, source in inputs
            )
            nodes.append(first + second)
        loose = [
            self.halved(f"{name}.unread.{n}", nodes[n]) if n < 2 and stride == 2 else nodes[n]
            for n in cell.loose_ends
        ]
        parts = [str(n) for n in cell.loose_ends]
        if self.config.output == "concat":
            return parts, torch.cat(loose, 1)
        weight = self.side_by_side(f"{name}.output.convs", parts)
        return ["output"], self.norm(f"{name}.output.norm", F.conv2d(F.relu(torch.cat(loose, 1)), weight))

    def second_classifier(self, parts: list[str], x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(F.relu(x), 5, 3)
        narrow = F.conv2d(pooled, self.side_by_side("auxiliary.narrow.convs", parts))
        narrow = F.relu(self.norm("auxiliary.narrow.norm", narrow))
        wide = F.conv2d(F.pad(narrow, (0, 1, 0, 1)), self.parameters["auxiliary.wide.weight"])
        wide = F.relu(self.norm("auxiliary.wide_norm", wide))
        return wide.mean((2, 3)) @ self.parameters["auxiliary.classifier.linear.weight"].T

    def run(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        x = self.norm(
            "stem.norm", F.conv2d(images_BCHW.double(), self.parameters["stem.conv.weight"], padding=1)
        )
        older = newer = (["stem"], x)
        auxiliary = None
        channels, first, second = FILTERS, self.config.layers // 3, 2 * self.config.layers // 3 + 1
        for number in range(self.config.layers + 2):
            reduces = number in (first, second)
            channels *= 2 if reduces else 1
            if reduces and self.config.reduction == "factorized":
                parts, x = newer
                even = self.side_by_side(f"reductions.{number}.even", parts)
                odd = self.side_by_side(f"reductions.{number}.odd", parts)
                reduced = self.norm(f"reductions.{number}.norm", self.reduced(x, even, odd))
                older, newer = newer, (["reduced"], reduced)
            stride = 2 if reduces and self.config.reduction == "stride" else 1
            out = self.cell(f"cells.{number}", older, newer, self.cells[reduces], channels, stride)
            older, newer = newer, out
            if number == second + 1 and self.config.auxiliary:
                auxiliary = self.second_classifier(*out)
        parts, x = newer
        weight = self.side_by_side("classifier.linears", parts)[:, :, 0, 0]
        return F.relu(x).mean((2, 3)) @ weight.T, auxiliary


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = 1e-3) -> None:
    """In units of the largest value: float32 beside float64."""
    actual, expected = actual.detach().double(), expected.detach()
    scale = max(float(expected.abs().max()), 1e-2)
    assert float((actual - expected).abs().max()) <= tolerance * scale


@pytest.mark.parametrize("statistics", ["batch", "moving"])
@pytest.mark.parametrize(("output", "reduction", "base"), GRAPHS)
def test_the_supernet_computes_what_is_described(
    output: Output, reduction: Reduction, base: bool, statistics: Statistics
) -> None:
    """Outputs and the gradient of every parameter; those that the description does not read get none."""
    shared = supernet(config(output, reduction, base)).eval()
    parameters = dict(shared.network.named_parameters())
    for architecture in architectures(2):
        plain = Plain(shared.network, SPACE.cells(architecture), statistics)
        expected, _ = plain.run(images())
        with normalising(shared, statistics):
            actual = shared(images(), architecture).logits_BK
        assert_near(actual, expected, 1e-4)
        mine = torch.autograd.grad(cross_entropy(actual), list(parameters.values()), allow_unused=True)
        theirs = torch.autograd.grad(
            cross_entropy(expected), list(plain.parameters.values()), allow_unused=True
        )
        assert list(parameters) == list(plain.parameters)
        for gradient, described in zip(mine, theirs, strict=True):
            assert (gradient is None) == (described is None)
            if gradient is not None and described is not None:
                assert_near(gradient, described)


@pytest.mark.parametrize("output", ["concat", "convolution"])
def test_the_auxiliary_head_computes_what_is_described(output: Output) -> None:
    shared = supernet(config(output, auxiliary=True), LARGE).train()
    for architecture in architectures(2):
        plain = Plain(shared.network, SPACE.cells(architecture), "batch")
        expected, auxiliary = plain.run(images(LARGE))
        outputs = shared(images(LARGE), architecture)
        assert auxiliary is not None
        assert outputs.auxiliary_BK is not None
        assert_near(outputs.logits_BK, expected, 1e-4)
        assert_near(outputs.auxiliary_BK, auxiliary, 1e-4)


@pytest.mark.parametrize(("output", "reduction", "base"), GRAPHS)
def test_a_child_with_the_supernet_s_slice_is_the_supernet(
    output: Output, reduction: Reduction, base: bool
) -> None:
    """Bit for bit: outputs, masks and gradients in training, and outputs by the moving statistics."""
    settings = config(output, reduction, base, auxiliary=True, drop_path_keep=0.6, dropout=0.3)
    shared = supernet(settings, LARGE)
    for architecture in architectures(2):
        child = MicroChild(architecture, settings, LARGE, seeded(9))
        before = child.eval()(images(LARGE))
        child.load_slice(shared)
        moving = shared.eval()(images(LARGE), architecture).logits_BK
        assert torch.equal(child.eval()(images(LARGE)), moving)
        assert not torch.equal(before, moving)

        child.train().progress = 0.7
        with masks_from(seeded(5)):
            mine = child.outputs(images(LARGE))
        with masks_from(seeded(5)):
            theirs: Outputs = shared.network.train()(images(LARGE), child.cells, progress=0.7)
        assert torch.equal(mine.logits_BK, theirs.logits_BK)
        assert mine.auxiliary_BK is not None
        assert theirs.auxiliary_BK is not None
        assert torch.equal(mine.auxiliary_BK, theirs.auxiliary_BK)
        for outputs in (mine, theirs):
            (cross_entropy(outputs.logits_BK) + 0.4 * cross_entropy(outputs.auxiliary_BK)).backward()
        for name, parameter in child.network.named_parameters():
            gradient = shared.network.get_parameter(name).grad
            assert parameter.grad is not None, name
            assert gradient is not None, name
            assert torch.equal(parameter.grad, gradient), name
        for name, buffer in child.network.named_buffers():
            assert torch.equal(buffer, shared.network.get_buffer(name)), name

        with torch.no_grad():  # the slice is a copy: training the child leaves the shared weights alone
            child.network.stem.conv.weight.zero_()
        assert shared.network.stem.conv.weight.all()
        shared.zero_grad()


def record_calls(network: MicroNetwork) -> list[str]:
    """The names of the separable convolutions as they are run."""
    called: list[str] = []
    for name, module in network.named_modules():
        if isinstance(module, SeparableTwice):
            module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
    return called


@pytest.mark.parametrize(("output", "reduction", "base"), GRAPHS)
def test_only_the_path_runs_and_gets_gradients(output: Output, reduction: Reduction, base: bool) -> None:
    settings = config(output, reduction, base)
    for architecture in architectures(1, seed=4):
        shared = supernet(settings).train()
        before = {name: buffer.clone() for name, buffer in shared.network.named_buffers()}
        called = record_calls(shared.network)
        cross_entropy(shared(images(), architecture).logits_BK).backward()
        path = dict(MicroChild(architecture, settings, SMALL, seeded()).network.named_parameters())
        separable = [name for name in path if name.endswith(".first.depthwise.weight")]
        assert sorted(called) == sorted(name.removesuffix(".first.depthwise.weight") for name in separable)
        for name, parameter in shared.network.named_parameters():
            if name in path:
                assert parameter.grad is not None, name
                assert parameter.grad.any(), name
            else:
                assert parameter.grad is None, name
        for name, buffer in shared.network.named_buffers():
            moved = not torch.equal(buffer, before[name])
            assert moved == (f"{name.rpartition('.')[0]}.weight" in path), name


@pytest.mark.parametrize(("output", "reduction"), [("concat", "stride"), ("convolution", "factorized")])
def test_each_operation_changes_the_output(output: Output, reduction: Reduction) -> None:
    """Wherever it stands: at either input of every node of both cells."""
    shared = supernet(config(output, reduction))
    chosen = list(architectures(1)[0].choices)
    places = [i for i, decision in enumerate(SPACE.decisions) if decision.kind == "operation"]
    assert len(places) == 12
    for place in places:
        logits = []
        for operation in range(len(OPERATIONS)):
            choices = [*chosen[:place], operation, *chosen[place + 1 :]]
            with torch.no_grad():
                logits.append(shared(images(), SPACE.architecture(choices)).logits_BK)
        for i, j in product(range(len(OPERATIONS)), repeat=2):
            assert i == j or not torch.allclose(logits[i], logits[j], rtol=0, atol=1e-4)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("output", "reduction"), [("concat", "stride"), ("convolution", "factorized")])
def test_each_operation_learns(output: Output, reduction: Reduction, operation: str) -> None:
    """A network of it alone learns six images by heart, and every weight on its path takes part."""
    shared = MicroSupernet(SPACE, config(output, reduction, layers=1), SMALL, seeded(2)).train()
    architecture = SPACE.build(uniform_cell(operation), uniform_cell(operation))
    optimizer = torch.optim.SGD(shared.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    initial = {name: parameter.detach().clone() for name, parameter in shared.named_parameters()}
    losses = []
    for _ in range(15):
        loss = cross_entropy(shared(images(), architecture).logits_BK)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.4 * losses[0]
    moved = {
        name for name, parameter in shared.named_parameters() if not torch.equal(parameter, initial[name])
    }
    own = {name for name in initial if f"-{operation}-" in name and name in moved}
    weightless = {"avg3x3", "max3x3"} | ({"identity"} if reduction == "factorized" else set())
    assert bool(own) == (operation not in weightless)
    assert all(f"-{operation}-" in name for name in moved if ".operations." in name)


def parameters_of(module: nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("layers", "base", "count"), [(18, True, 4_587_372), (15, True, 3_894_372), (18, False, 4_394_700)]
)
def test_the_size_of_the_published_children(layers: int, base: bool, count: int) -> None:
    settings = MicroNetConfig(filters=36, layers=layers, base_convolution=base, auxiliary=True)
    with torch.device("meta"):  # shapes only
        child = MicroChild(MicroSpace().parse(PUBLISHED), settings, CIFAR, seeded())
    assert parameters_of(child.auxiliary) == 494_848
    assert parameters_of(child) - parameters_of(child.auxiliary) == count


def test_the_size_of_the_first_code_s_supernet() -> None:
    settings = MicroNetConfig(20, 6, output="convolution", reduction="factorized", auxiliary=True)
    with torch.device("meta"):
        shared = MicroSupernet(MicroSpace(), settings, CIFAR, seeded())
    assert parameters_of(shared.auxiliary) == 412_928
    assert parameters_of(shared) - parameters_of(shared.auxiliary) == 5_373_140
    without = MicroNetConfig(20, 6, output="convolution", reduction="factorized")
    with torch.device("meta"):
        assert parameters_of(MicroSupernet(MicroSpace(), without, CIFAR, seeded())) == 5_373_140


@pytest.mark.parametrize(
    ("layers", "reductions"),
    [(1, (0, 1)), (2, (0, 2)), (3, (1, 3)), (6, (2, 5)), (15, (5, 11)), (18, (6, 13))],
)
def test_where_the_reductions_are(layers: int, reductions: tuple[int, int]) -> None:
    assert MicroNetConfig(layers=layers).reductions == reductions


@pytest.mark.parametrize(
    ("output", "reduction", "layers"),
    [
        ("concat", "stride", 1),
        ("concat", "factorized", 1),
        ("convolution", "stride", 2),
        ("convolution", "factorized", 4),
    ],
)
def test_sizes_are_halved_and_rounded_up(output: Output, reduction: Reduction, layers: int) -> None:
    """Odd sizes too, by every operation; channels double."""
    shared = supernet(config(output, reduction, layers=layers))
    shapes: list[set[tuple[int, ...]]] = []
    for layer in shared.network.cells:
        layer.register_forward_hook(
            lambda module, inputs, parts: shapes.append({tuple(x.shape[1:]) for x in parts.values()})
        )
    for operation in OPERATIONS:
        shapes.clear()
        shared(images(), SPACE.build(uniform_cell(operation), uniform_cell(operation)))
        expected, (channels, height, width) = [], (FILTERS, SMALL.height, SMALL.width)
        for number in range(layers + 2):
            if number in shared.config.reductions:
                channels, height, width = 2 * channels, math.ceil(height / 2), math.ceil(width / 2)
            expected.append({(channels, height, width)})
        assert (height, width) == (3, 3)
        assert shapes == expected


def test_unread_inputs_are_part_of_the_output() -> None:
    """A cell that reads its newer input only hands on the older one as well, at its own size."""
    lonely = Cell(tuple(Node(1, "max3x3", 1, "sep3x3") for _ in range(3)))
    architecture = SPACE.build(lonely, lonely)
    assert lonely.loose_ends == (0, 2, 3, 4)
    for reduction in ("stride", "factorized"):
        shared = supernet(config("concat", reduction)).train()
        cross_entropy(shared(images(), architecture).logits_BK).backward()
        last = shared.network.classifier.linears.named_parameters()
        trained = {name for name, block in last if block.grad is not None}
        assert trained == {f"{node}.weight" for node in (0, 2, 3, 4)}
        reducing = shared.network.cells[shared.config.reductions[0]]
        assert isinstance(reducing, MicroCell)
        assert (reduction == "stride") == ("0" in reducing.unread)


def test_one_pooling_of_one_node_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pooled: list[int] = []

    def counted(x: Maps, stride: int) -> Maps:
        pooled.append(stride)
        return ops.max_pool(x, stride)

    monkeypatch.setitem(cell_module.POOLS, "max3x3", counted)
    twice = Cell(tuple(Node(1, "max3x3", 1, "max3x3") for _ in range(3)))
    supernet(config())(images(), SPACE.build(twice, twice))
    assert sorted(pooled) == [1] * LAYERS + [2, 2]


def test_the_schedule_of_drop_path() -> None:
    """1 - progress · depth · (1 - keep), with numbers that are exact by hand."""
    settings = MicroNetConfig(layers=6, drop_path_keep=0.6)
    assert settings.keep_at(7, 1.0) == pytest.approx(0.6)
    assert settings.keep_at(3, 1.0) == pytest.approx(0.8)
    assert settings.keep_at(3, 0.5) == pytest.approx(0.9)
    assert settings.keep_at(0, 0.25) == pytest.approx(1 - 0.4 / 32)
    assert settings.keep_at(7, 3.0) == pytest.approx(0.6)
    assert settings.keep_at(7, 0.0) == 1.0


@pytest.mark.parametrize("normed", [False, True])
def test_drop_path_drops_whole_images_and_scales_the_others(normed: bool) -> None:
    count, keep = 4000, 0.7
    x_BCHW = normal(count, 2, 1, 2, seed=1)
    norm = nn.BatchNorm2d(2).eval()
    nn.init.normal_(norm.weight, generator=seeded(2))
    nn.init.normal_(norm.bias, generator=seeded(3))
    x: Maps = x_BCHW
    if normed:
        x, x_BCHW = ops.batch_norm(x_BCHW, norm), norm(x_BCHW).detach()
    with masks_from(seeded(4)):
        ((factor_B,),) = drop_paths([Cell((Node(0, "max3x3", 1, "identity"),))], [keep], x_BCHW)
        y_BCHW = ops.total([x], [factor_B]).detach()
    kept = y_BCHW.flatten(1).any(1)
    torch.testing.assert_close(y_BCHW[kept], x_BCHW[kept] / keep)
    assert not y_BCHW[~kept].any()
    spread = math.sqrt(count * keep * (1 - keep))
    assert abs(int(kept.sum()) - count * keep) < 5 * spread  # fails by chance once in a million seeds


@pytest.mark.parametrize("reduction", ["stride", "factorized"])
def test_drop_path_falls_on_every_operation_but_identity(
    reduction: Reduction, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def recorded(shape: Sequence[int], rates: Sequence[float], like: Tensor) -> list[Tensor]:
        asked.extend(1 - rate for rate in rates)
        return masks(shape, rates, like)

    monkeypatch.setattr(cell_module, "masks", recorded)
    settings = config("concat", reduction, drop_path_keep=0.6)
    shared = supernet(settings).train()
    for architecture in architectures(4):
        asked.clear()
        shared.network(images(), SPACE.cells(architecture), progress=0.5)
        expected = []
        for number in range(LAYERS + 2):
            cell = SPACE.cells(architecture)[number in settings.reductions]
            operations = [name for node in cell.nodes for name in (node.operation_1, node.operation_2)]
            keep = 1 - 0.5 * (number + 1) / (LAYERS + 2) * 0.4
            expected += [keep] * sum(name != "identity" for name in operations)
        assert asked == pytest.approx(expected)
    asked.clear()
    shared.network.eval()(images(), SPACE.cells(architectures(1)[0]), progress=0.5)
    assert asked == []


def test_identity_is_never_dropped() -> None:
    draw = seeded(7)
    before = draw.get_state()
    architecture = SPACE.build(uniform_cell("identity"), uniform_cell("identity"))
    dropping, keeping = supernet(config(drop_path_keep=0.1)), supernet(config())
    with masks_from(draw):
        logits = dropping.train()(images(), architecture).logits_BK
    assert torch.equal(logits, keeping.train()(images(), architecture).logits_BK)
    assert torch.equal(draw.get_state(), before)


@pytest.mark.parametrize(("keep", "dropout"), [(0.5, 0.0), (1.0, 0.5)])
def test_masks_come_from_the_given_generator_in_training_only(keep: float, dropout: float) -> None:
    shared = supernet(config(drop_path_keep=keep, dropout=dropout))
    architecture = SPACE.build(uniform_cell("avg3x3"), uniform_cell("sep3x3"))

    def logits(seed: int | None) -> Tensor:
        with contextlib.nullcontext() if seed is None else masks_from(seeded(seed)):
            outputs_BK: Tensor = shared(images(), architecture).logits_BK
        return outputs_BK

    shared.train()
    before = torch.get_rng_state()
    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))
    assert torch.equal(torch.get_rng_state(), before)
    shared.eval()
    for statistics in ("batch", "moving"):
        with normalising(shared, "batch" if statistics == "batch" else "moving"):
            assert torch.equal(logits(1), logits(2))
            assert torch.equal(logits(1), logits(None))


@pytest.mark.parametrize("output", ["concat", "convolution"])
def test_the_auxiliary_head_is_trained_and_trains_the_trunk_below(output: Output) -> None:
    shared = supernet(config(output, auxiliary=True, layers=5), LARGE).train()
    architecture = architectures(1)[0]
    assert shared.auxiliary is not None
    outputs = shared(images(LARGE), architecture)
    assert outputs.auxiliary_BK is not None
    assert outputs.auxiliary_BK.shape == (B, CLASSES)
    cross_entropy(outputs.auxiliary_BK).backward()
    for name, parameter in shared.auxiliary.named_parameters():
        off_path = name.startswith("narrow.convs") and output == "concat"
        loose = {f"narrow.convs.{n}.weight" for n in SPACE.cells(architecture)[0].loose_ends}
        assert (parameter.grad is not None) == (not off_path or name in loose), name
        assert parameter.grad is None or parameter.grad.any(), name
    assert shared.config.reductions == (1, 4)
    for number, layer in enumerate(shared.network.cells):
        reached = any(parameter.grad is not None for parameter in layer.parameters())
        assert reached == (number <= 5)
    assert all(parameter.grad is None for parameter in shared.network.classifier.parameters())

    optimizer = torch.optim.SGD(shared.auxiliary.parameters(), lr=0.05)
    losses = []
    for _ in range(5):
        scores_BK = shared(images(LARGE), architecture).auxiliary_BK
        loss = cross_entropy(scores_BK)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert shared.eval()(images(LARGE), architecture).auxiliary_BK is None


def test_without_an_auxiliary_head_there_is_none() -> None:
    shared = supernet(config()).train()
    assert shared.auxiliary is None
    assert shared(images(), architectures(1)[0]).auxiliary_BK is None


@pytest.mark.parametrize(("output", "reduction", "base"), GRAPHS)
def test_training_moves_the_statistics_that_it_uses(output: Output, reduction: Reduction, base: bool) -> None:
    architecture = architectures(1, seed=5)[0]
    shared = supernet(config(output, reduction, base)).train()
    plain = Plain(shared.network, SPACE.cells(architecture), "batch")
    plain.run(images())
    shared(images(), architecture)
    norms = set(norms_of(shared))
    for name, norm in shared.network.named_modules():
        if norm not in norms:
            continue
        mean, variance = plain.buffers[f"{name}.running_mean"], plain.buffers[f"{name}.running_var"]
        assert norm.get_buffer("num_batches_tracked") == (name in plain.seen)
        if name in plain.seen:
            z_BCHW = plain.seen[name]
            mean = 0.9 * mean + 0.1 * z_BCHW.mean((0, 2, 3))
            variance = 0.9 * variance + 0.1 * z_BCHW.var((0, 2, 3))
        assert_near(norm.get_buffer("running_mean"), mean, 1e-5)
        assert_near(norm.get_buffer("running_var"), variance, 1e-5)


def test_evaluation_moves_nothing_and_moving_statistics_make_images_independent() -> None:
    shared = supernet(config()).eval()
    architecture = architectures(1)[0]
    before = {name: buffer.clone() for name, buffer in shared.named_buffers()}

    def logits(count: int, statistics: Statistics) -> Tensor:
        with normalising(shared, statistics):
            outputs_BK: Tensor = shared(images()[:count], architecture).logits_BK
        return outputs_BK[:2]

    torch.testing.assert_close(logits(2, "moving"), logits(B, "moving"), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(2, "batch"), logits(B, "batch"), rtol=1e-2)
    for name, buffer in shared.named_buffers():
        assert torch.equal(buffer, before[name])


def test_products_in_bfloat16_leave_the_rest_in_float32() -> None:
    shared = supernet(config(auxiliary=True), LARGE).train()
    architecture = architectures(1)[0]
    exact = shared(images(LARGE), architecture)
    with products_in(torch.bfloat16, torch.device("cpu")):
        rounded = shared(images(LARGE), architecture)
    for one, other in zip(exact, rounded, strict=True):
        assert one.dtype == torch.float32
        assert other.dtype == torch.float32
        assert ops._kernels() or not torch.equal(one, other)  # kernels compute in float32
        torch.testing.assert_close(other, one, rtol=0, atol=0.25 * float(one.detach().std()))
    (cross_entropy(rounded.logits_BK) + cross_entropy(rounded.auxiliary_BK)).backward()
    gradients = [weight.grad for weight in shared.parameters() if weight.grad is not None]
    assert gradients
    averages = [average for norm in norms_of(shared) for average in (norm.running_mean, norm.running_var)]
    for value in (*gradients, *averages, *shared.parameters()):
        assert value is not None
        assert value.dtype == torch.float32


def test_initial_weights_follow_from_the_generator() -> None:
    before = torch.get_rng_state()
    settings = config(auxiliary=True)
    first, again, other = (MicroSupernet(SPACE, settings, LARGE, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
        is_norm = "norm" in name
        assert torch.equal(parameter, other.get_parameter(name)) == is_norm, name


def test_initial_weights_have_the_spread_of_their_fan_in() -> None:
    """√(2 / fan-in) (He et al. 2015) of the filters that are run, over all filters of one kind."""
    space, width = MicroSpace(3), 16
    settings = MicroNetConfig(width, 3, output="convolution", reduction="factorized")
    shared = MicroSupernet(space, settings, CIFAR, seeded(3)).network
    filters: dict[int, list[Tensor]] = {}
    for name, parameter in shared.cells[0].operations.named_parameters():
        if "norm" not in name:
            filters.setdefault(math.prod(parameter.shape[1:]), []).append(parameter.detach().flatten())
    assert sorted(filters) == [9, 16, 25]
    child = MicroChild(
        space.build(uniform_cell("sep3x3"), uniform_cell("sep3x3")), settings, CIFAR, seeded(3)
    )
    filters[width * 1] += [child.network.get_parameter("cells.0.output.convs.4.weight").detach().flatten()]
    filters[width * 3] = [
        child.network.get_parameter("cells.0.older.conv.convs.stem.weight").detach().flatten()
    ]
    for fan_in, drawn in filters.items():
        values = torch.cat(drawn)
        assert float(values.std()) == pytest.approx(math.sqrt(2 / fan_in), rel=5 / math.sqrt(2 * len(values)))


def build_supernet(settings: MicroNetConfig, shape: ImageShape) -> nn.Module:
    return MicroSupernet(SPACE, settings, shape, seeded())


def build_child(settings: MicroNetConfig, shape: ImageShape) -> nn.Module:
    return MicroChild(architectures(1)[0], settings, shape, seeded())


@pytest.mark.parametrize("build", [build_supernet, build_child])
def test_images_that_are_too_small(build: Callable[[MicroNetConfig, ImageShape], nn.Module]) -> None:
    for size in ((3, 8), (8, 3)):
        with pytest.raises(ConfigError, match=r"too small") as caught:
            build(config(), ImageShape(1, *size, 3))
        assert "\n" not in str(caught.value)
    with pytest.raises(
        ConfigError, match=r"16×40 pixels are too small for the auxiliary head.* 17 pixels"
    ) as caught:
        build(config(auxiliary=True), ImageShape(1, 16, 40, 3))
    assert "\n" not in str(caught.value)
    least = build(config(), ImageShape(1, 4, 4, 3))
    assert parameters_of(least) > 0
    assert parameters_of(build(config(auxiliary=True), ImageShape(1, 17, 17, 3))) > parameters_of(least)


@pytest.mark.parametrize("auxiliary", [False, True])
def test_the_smallest_images_run(auxiliary: bool) -> None:
    side = 17 if auxiliary else 4
    shape = ImageShape(1, side, side, CLASSES)
    shared = MicroSupernet(SPACE, config(auxiliary=auxiliary), shape, seeded()).train()
    outputs = shared(images(shape), architectures(1)[0])
    assert outputs.logits_BK.isfinite().all()
    assert (outputs.auxiliary_BK is not None) == auxiliary


def test_images_of_another_shape() -> None:
    with pytest.raises(ConfigError, match=r"6×2×8×9 given"):
        supernet(config())(images(ImageShape(2, 8, 9, CLASSES)), architectures(1)[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("filters", 0),
        ("layers", 0),
        ("stem_multiplier", 0),
        ("drop_path_keep", 0.0),
        ("drop_path_keep", 1.1),
        ("dropout", 1.0),
        ("dropout", -0.1),
    ],
)
def test_settings_that_make_no_sense(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        MicroNetConfig(**{name: value})


def test_a_slice_of_another_graph() -> None:
    shared = supernet(config())
    architecture = architectures(1)[0]
    for settings in (config("convolution"), config("concat", "factorized"), config(layers=4)):
        with pytest.raises(ConfigError, match=r"must agree"):
            MicroChild(architecture, settings, SMALL, seeded()).load_slice(shared)
    with pytest.raises(ConfigError, match=r"image shape"):
        MicroChild(architecture, config(), LARGE, seeded()).load_slice(shared)
    other = architectures(1, MicroSpace(2))[0]
    with pytest.raises(ConfigError, match=r"space"):
        MicroChild(other, config(), SMALL, seeded()).load_slice(shared)
    MicroChild(architecture, config(dropout=0.5, drop_path_keep=0.5), SMALL, seeded()).load_slice(shared)


def test_a_child_of_another_space() -> None:
    recurrent = RecurrentSpace(3)
    with pytest.raises(ConfigError, match=r"not one of the recurrent space"):
        MicroChild(recurrent.sample(random.Random(0)), config(), SMALL, seeded())
