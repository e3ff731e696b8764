"""Supernet and child against a plain loop over the paper's equations, and what shares which weights."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from enas.architecture import Architecture
from enas.norms import batch_statistics, norms_of
from enas.runs.recurrent import build_child, child_parameters
from enas.spaces.recurrent.net import (
    BatchNorm,
    CellConfig,
    ChildCell,
    SupernetCell,
    cell_plan,
)
from enas.spaces.recurrent.space import RecurrentSpace, read_authors_string
from enas.tasks.language_model import LanguageModel
from enas.tasks.language_settings import ChildTrainingConfig

T, B, D = 4, 5, 6
SPACES = {"searched-input": RecurrentSpace(5), "tanh-input": RecurrentSpace(5, input_function="tanh")}
SHARINGS: tuple[Literal["source", "function-source"], ...] = ("source", "function-source")
OUTPUTS: tuple[Literal["loose-ends", "all"], ...] = ("loose-ends", "all")
NORMS: tuple[Literal["none", "output", "output-and-nodes"], ...] = ("none", "output", "output-and-nodes")
PAPER_CELL = "0 0 0 1 1 2 1 2 0 2 0 5 1 1 0 6 1 8 1 8 1 8 1"
AUTHORS_CELL = "0 2 1 0 2 1 2 2 4 0 5 0 3 2 6 2"

PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda x: 2 / (1 + torch.exp(-2 * x)) - 1,
    "relu": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "identity": lambda x: x,
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def architectures(space: RecurrentSpace, count: int) -> list[Architecture]:
    rng = random.Random(3)
    return [space.sample(rng) for _ in range(count)]


def supernet(space: RecurrentSpace, config: CellConfig, init_range: float = 0.8) -> SupernetCell:
    """In float64, with norms that are not trivial."""
    cell = SupernetCell(space, D, config, init_range, seeded(1)).double()
    for k, norm in enumerate(module for module in cell.modules() if isinstance(module, BatchNorm)):
        features = len(norm.weight)
        with torch.no_grad():
            norm.weight.copy_(1 + 0.3 * normal(features, seed=10 * k + 1))
            norm.bias.copy_(0.3 * normal(features, seed=10 * k + 2))
        norm.running_mean.copy_(0.3 * normal(features, seed=10 * k + 3))
        norm.running_var.copy_(0.5 + normal(features, seed=10 * k + 4).square())
    return cell


def normalising(
    cell: SupernetCell, statistics: Literal["batch", "moving"]
) -> contextlib.AbstractContextManager[None]:
    """Inside, a cell in evaluation mode normalises by these statistics."""
    return batch_statistics(norms_of(cell) if statistics == "batch" else [])


@dataclass
class PlainCell:
    """h_t as the paper writes it: separate candidate and gate matrices, one time step after the other."""

    cell: SupernetCell
    architecture: Architecture
    statistics: Literal["batch", "moving"] = "batch"
    mask_BD: Tensor | None = None
    seen: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    """Mean and biased variance of what each norm was given, step by step."""

    def block(self, node: int) -> Tensor:
        """W of a node, found by what the names of the blocks say."""
        space, per_function = self.cell.space, self.cell.config.sharing == "function-source"
        functions = space.node_functions(self.architecture)
        if node == 0:
            own = per_function and space.input_function is None
            return self.cell.get_parameter(f"input_weights.{functions[0] if own else 'shared'}")
        source = space.sources(self.architecture)[node - 1]
        function = functions[node] if per_function else "shared"
        return self.cell.get_parameter(f"node_weights.{node}-{source}-{function}")

    def normed(self, name: str, norm: BatchNorm | None, x_BD: Tensor) -> Tensor:
        if norm is None:
            return x_BD
        statistics = (x_BD.detach().mean(0), x_BD.detach().var(0, correction=0))
        self.seen.setdefault(name, []).append(statistics)
        if self.statistics == "batch":
            return F.batch_norm(x_BD, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
        return F.batch_norm(x_BD, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)

    def run(self, inputs_TBD: Tensor, h_BD: Tensor) -> Tensor:
        space, config = self.cell.space, self.cell.config
        functions, sources = space.node_functions(self.architecture), space.sources(self.architecture)
        node_norms: Sequence[BatchNorm | None] = [None] * len(functions)
        if self.cell.node_norms is not None:
            node_norms = [norm for norm in self.cell.node_norms if isinstance(norm, BatchNorm)]
        mask_BD = torch.ones_like(h_BD) if self.mask_BD is None else self.mask_BD
        outputs = []
        for x_BD in inputs_TBD:
            nodes: list[Tensor] = []
            for node, function in enumerate(functions):
                read_BD = h_BD if node == 0 else nodes[sources[node - 1]]
                entering = torch.cat([x_BD, mask_BD * h_BD], 1) if node == 0 else mask_BD * read_BD
                products_BE = self.normed(str(node), node_norms[node], entering @ self.block(node))
                candidate_BD = PLAIN[function](products_BE[:, :D])
                gate_BD = PLAIN["sigmoid"](products_BE[:, D:])
                nodes.append(gate_BD * candidate_BD + (1 - gate_BD) * read_BD)
            if config.output == "all":
                averaged = nodes if space.input_function is None else nodes[1:]
            else:
                averaged = [s for node, s in enumerate(nodes) if node not in sources]
            h_BD = self.normed(
                "output", self.cell.norm, sum(averaged, torch.zeros_like(h_BD)) / len(averaged)
            )
            outputs.append(h_BD)
        return torch.stack(outputs)


@pytest.mark.parametrize("statistics", ["batch", "moving"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("sharing", "output"), list(product(SHARINGS, OUTPUTS)))
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_supernet_computes_the_paper_s_equations(
    space: RecurrentSpace,
    sharing: Literal["source", "function-source"],
    output: Literal["loose-ends", "all"],
    norm: Literal["none", "output", "output-and-nodes"],
    statistics: Literal["batch", "moving"],
) -> None:
    """Outputs and gradients, with a state mask and without; every norm against torch's batch_norm."""
    cell = supernet(space, CellConfig(sharing, output, norm, norm_eps=1e-3)).eval()
    inputs_TBD, state_BD = normal(T, B, D, seed=1), normal(B, D, seed=2)
    mask_BD = (normal(B, D, seed=3) > -0.5).double() / 0.7
    weight_TBD = normal(T, B, D, seed=4)
    for number, architecture in enumerate(architectures(space, 3)):
        mask = mask_BD if number else None
        with normalising(cell, statistics):
            actual, last = cell(inputs_TBD, state_BD, architecture, state_mask_BD=mask)
        expected = PlainCell(cell, architecture, statistics, mask).run(inputs_TBD, state_BD)
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)
        assert torch.equal(last, actual[-1])

        parameters = list(cell.parameters())
        of_cell = torch.autograd.grad((weight_TBD * actual).sum(), parameters, allow_unused=True)
        of_plain = torch.autograd.grad((weight_TBD * expected).sum(), parameters, allow_unused=True)
        for mine, plain in zip(of_cell, of_plain, strict=True):
            assert (mine is None) == (plain is None)
            if mine is not None:
                torch.testing.assert_close(mine, plain, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("sharing", "output"), list(product(SHARINGS, OUTPUTS)))
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_child_with_the_supernet_s_slice_is_the_supernet(
    space: RecurrentSpace, sharing: Literal["source", "function-source"], output: Literal["loose-ends", "all"]
) -> None:
    config = CellConfig(sharing, output)
    shared = SupernetCell(space, D, config, 0.8, seeded())
    inputs_TBD = normal(T, B, D, seed=1, dtype=torch.float32)
    state_BD = normal(B, D, seed=2, dtype=torch.float32)
    mask_BD = (normal(B, D, seed=3, dtype=torch.float32) > -0.5) / 0.7
    for architecture in architectures(space, 8):
        child = ChildCell(architecture, D, config, 0.8, seeded(9))
        assert not torch.equal(child(inputs_TBD, state_BD)[0], shared(inputs_TBD, state_BD, architecture)[0])
        child.load_slice(shared)
        for mask in (None, mask_BD):
            output_TBD, last_BD = child(inputs_TBD, state_BD, state_mask_BD=mask)
            expected_TBD, expected_BD = shared(inputs_TBD, state_BD, architecture, state_mask_BD=mask)
            torch.testing.assert_close(output_TBD, expected_TBD, rtol=0, atol=1e-6)
            torch.testing.assert_close(last_BD, expected_BD, rtol=0, atol=1e-6)
        with torch.no_grad():  # the slice is a copy: training the child leaves the shared weights alone
            child.input_weight.zero_()
        assert shared.weights(architecture).input_2DE.all()


@pytest.mark.parametrize(("sharing", "norm"), list(product(SHARINGS, NORMS)))
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_only_the_path_gets_gradients(
    space: RecurrentSpace,
    sharing: Literal["source", "function-source"],
    norm: Literal["none", "output", "output-and-nodes"],
) -> None:
    for architecture in architectures(space, 4):
        cell = supernet(space, CellConfig(sharing, "loose-ends", norm))
        output_TBD, _ = cell(normal(T, B, D, seed=1), normal(B, D, seed=2), architecture)
        (output_TBD * normal(T, B, D, seed=3)).sum().backward()
        weights = cell.weights(architecture)
        path = {id(weights.input_2DE), *map(id, weights.nodes_DE)}
        path |= {id(p) for m in cell.modules() if isinstance(m, BatchNorm) for p in m.parameters()}
        assert len(weights.nodes_DE) == space.total_nodes - 1
        for name, parameter in cell.named_parameters():
            if id(parameter) not in path:
                assert parameter.grad is None, name
            else:
                assert parameter.grad is not None, name
                assert parameter.grad.any(), name


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_what_shares_a_block(space: RecurrentSpace) -> None:
    """The paper: who reads the same source; the authors: who also applies the same function."""
    cells = architectures(space, 12)
    by_source = SupernetCell(space, D, CellConfig("source"), 0.1, seeded())
    by_both = SupernetCell(space, D, CellConfig("function-source"), 0.1, seeded())
    for first, second in product(cells, cells):
        functions = list(zip(space.node_functions(first), space.node_functions(second), strict=True))
        sources = zip(space.sources(first), space.sources(second), strict=True)
        assert by_source.weights(first).input_2DE is by_source.weights(second).input_2DE
        same_input = by_both.weights(first).input_2DE is by_both.weights(second).input_2DE
        assert same_input == (functions[0][0] == functions[0][1])
        for node, (source, other) in enumerate(sources):
            same_source, same_function = source == other, functions[node + 1][0] == functions[node + 1][1]
            shared = by_source.weights(first).nodes_DE[node] is by_source.weights(second).nodes_DE[node]
            assert shared == same_source
            shared = by_both.weights(first).nodes_DE[node] is by_both.weights(second).nodes_DE[node]
            assert shared == (same_source and same_function)


def parameters_of(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("string", "hidden", "count"),
    [(PAPER_CELL, 748, 22_027_104), (AUTHORS_CELL, 800, 20_800_000), (AUTHORS_CELL, 850, 22_950_000)],
)
def test_the_size_of_the_published_children(string: str, hidden: int, count: int) -> None:
    architecture = read_authors_string(string)
    with torch.device("meta"):  # shapes only
        child = build_child(architecture, 10_000, ChildTrainingConfig(hidden), CellConfig(), seed=0)
    assert parameters_of(child) == child_parameters(RecurrentSpace.of(architecture), 10_000, hidden) == count


def test_the_size_of_the_first_code_s_supernet() -> None:
    """12 nodes, width 720: 289,245,600, of which 36,000 belong to norms."""
    config = CellConfig("function-source", norm="output-and-nodes")
    with torch.device("meta"):
        cell = SupernetCell(RecurrentSpace(12), 720, config, 0.04, seeded())
        model = LanguageModel(cell, 10_000, 0.04, seeded())
    assert parameters_of(model) == 289_245_600
    assert sum(parameters_of(m) for m in model.modules() if isinstance(m, BatchNorm)) == 36_000


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_size_of_a_supernet(space: RecurrentSpace) -> None:
    """One block of D × 2D for each ordered pair of nodes, or for each function of each of them."""
    pairs = space.total_nodes * (space.total_nodes - 1) // 2
    by_source = SupernetCell(space, D, CellConfig("source"), 0.1, seeded())
    assert parameters_of(by_source) == 4 * D * D + pairs * 2 * D * D
    by_both = SupernetCell(space, D, CellConfig("function-source"), 0.1, seeded())
    inputs = 4 if space.input_function is None else 1
    assert parameters_of(by_both) == inputs * 4 * D * D + 4 * pairs * 2 * D * D


def test_the_moving_statistics_of_many_steps_at_once_are_those_step_by_step() -> None:
    mean_TD, variance_TD = normal(7, D, seed=1), normal(7, D, seed=2).square()
    at_once = BatchNorm(D, 1e-5, 0.9).double()
    at_once.running_mean.copy_(normal(D, seed=3))
    mean_D, variance_D = at_once.running_mean.clone(), at_once.running_var.clone()
    at_once.update(mean_TD, variance_TD)
    for t in range(7):
        mean_D = 0.9 * mean_D + (1 - 0.9) * mean_TD[t]
        variance_D = 0.9 * variance_D + (1 - 0.9) * variance_TD[t]
    torch.testing.assert_close(at_once.running_mean, mean_D, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(at_once.running_var, variance_D, rtol=1e-12, atol=1e-12)


def statistics_of(cell: SupernetCell) -> dict[str, Tensor]:
    averages = {name: buffer for name, buffer in cell.named_buffers() if "running" in name}
    return {name: buffer.clone() for name, buffer in averages.items()}


@pytest.mark.parametrize("norm", ["output", "output-and-nodes"])
def test_training_moves_the_statistics_at_every_step(norm: Literal["output", "output-and-nodes"]) -> None:
    space = SPACES["searched-input"]
    architecture = architectures(space, 1)[0]
    cell = supernet(space, CellConfig("source", "loose-ends", norm, norm_decay=0.9)).train()
    before = statistics_of(cell)
    inputs_TBD, state_BD = normal(T, B, D, seed=1), normal(B, D, seed=2)
    plain = PlainCell(cell, architecture)
    plain.run(inputs_TBD, state_BD)
    cell(inputs_TBD, state_BD, architecture)
    after = statistics_of(cell)
    assert len(after) == (2 if norm == "output" else 2 + 2 * space.total_nodes)
    assert len(after) == 2 * len(plain.seen)
    for key, steps in plain.seen.items():
        name = "norm" if key == "output" else f"node_norms.{key}"
        mean_D, variance_D = before[f"{name}.running_mean"], before[f"{name}.running_var"]
        assert len(steps) == T
        for step_mean_D, step_variance_D in steps:
            mean_D = 0.9 * mean_D + 0.1 * step_mean_D
            variance_D = 0.9 * variance_D + 0.1 * step_variance_D
        torch.testing.assert_close(after[f"{name}.running_mean"], mean_D, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(after[f"{name}.running_var"], variance_D, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("norm", ["output", "output-and-nodes"])
def test_evaluation_moves_nothing(norm: Literal["output", "output-and-nodes"]) -> None:
    space = SPACES["tanh-input"]
    cell = supernet(space, CellConfig("source", "loose-ends", norm)).eval()
    before = statistics_of(cell)
    outputs = []
    for kind in ("batch", "moving"):
        with normalising(cell, kind):
            outputs.append(cell(normal(T, B, D), normal(B, D), space.architecture([0] * 10))[0])
    assert not torch.allclose(outputs[0], outputs[1])
    for name, buffer in statistics_of(cell).items():
        assert torch.equal(buffer, before[name])


def test_moving_statistics_make_rows_independent() -> None:
    """A row's output depends on the other rows by batch statistics only."""
    space = SPACES["searched-input"]
    cell = supernet(space, CellConfig("source", "loose-ends", "output-and-nodes")).eval()
    architecture = architectures(space, 1)[0]
    inputs_TBD, state_BD = normal(T, B, D, seed=1), normal(B, D, seed=2)

    def run(rows: slice, statistics: Literal["batch", "moving"]) -> Tensor:
        part = inputs_TBD[:, rows], state_BD[rows]
        with normalising(cell, statistics):
            output_TBD: Tensor = cell(*part, architecture)[0]
        return output_TBD

    two = slice(0, 2)
    torch.testing.assert_close(run(two, "moving"), run(slice(None), "moving")[:, two], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(run(two, "batch"), run(slice(None), "batch")[:, two])


def test_products_in_bfloat16_leave_states_in_float32() -> None:
    space = SPACES["tanh-input"]
    for norm in NORMS:
        cell = SupernetCell(space, D, CellConfig("source", "loose-ends", norm), 0.5, seeded()).eval()
        inputs_TBD = normal(T, B, D, seed=1, dtype=torch.float32)
        architecture = architectures(space, 1)[0]
        exact = cell(inputs_TBD, cell.initial_state(B), architecture)[0]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = cell(inputs_TBD, cell.initial_state(B), architecture)[0]
        assert rounded.dtype == torch.float32
        assert not torch.equal(rounded, exact)
        torch.testing.assert_close(rounded, exact, rtol=0, atol=0.2 if norm != "none" else 0.03)


def test_initial_weights_follow_from_the_generator_and_fill_the_range() -> None:
    space = SPACES["searched-input"]
    first, again, other = (SupernetCell(space, 32, CellConfig(), 0.04, seeded(seed)) for seed in (1, 1, 2))
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
        assert not torch.equal(parameter, other.get_parameter(name))
        assert parameter.abs().max() <= 0.04
        assert parameter.abs().max() > 0.039  # 2048 draws or more: this fails by chance once in 10^22
        assert abs(float(parameter.detach().mean())) < 0.04 / 3**0.5 / parameter.numel() ** 0.5 * 5


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_outputs_of_a_plan(space: RecurrentSpace) -> None:
    for architecture in architectures(space, 10):
        assert cell_plan(architecture, "loose-ends").outputs == space.loose_ends(architecture)
        first = 0 if space.input_function is None else 1
        assert cell_plan(architecture, "all").outputs == tuple(range(first, space.total_nodes))


def test_a_child_has_no_norm() -> None:
    architecture = architectures(SPACES["searched-input"], 1)[0]
    child = ChildCell(architecture, D, CellConfig(norm="output-and-nodes"), 0.1, seeded())
    assert parameters_of(child) == 4 * D * D + 4 * 2 * D * D
    assert not list(child.buffers())


def test_the_state_starts_at_zero() -> None:
    space = SPACES["searched-input"]
    cells = (
        SupernetCell(space, D, CellConfig(), 0.1, seeded()),
        ChildCell(architectures(space, 1)[0], D, CellConfig(), 0.1, seeded()),
    )
    for cell in cells:
        assert torch.equal(cell.initial_state(3), torch.zeros(3, D))
