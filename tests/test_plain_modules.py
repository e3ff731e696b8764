"""Found models are ordinary modules: torch traces, exports and compiles them, and in float64 their derivatives are right."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad as fwAD
from torch.func import functional_call, grad, jvp, vmap

from enas.data.images import ImageShape
from enas.runs.recurrent import build_child, build_lstm
from enas.spaces.macro.net import MacroChild, MacroNetConfig
from enas.spaces.macro.space import MacroSpace
from enas.spaces.micro.net import MicroChild, MicroNetConfig
from enas.spaces.micro.space import MicroSpace
from enas.spaces.recurrent.net import CellConfig, SupernetCell
from enas.spaces.recurrent.space import RecurrentSpace
from enas.tasks.language_settings import ChildTrainingConfig, LanguageTrainingConfig
from tests.test_recurrent_net import seeded

SHAPE = ImageShape(3, 8, 8, 2)
CHILD = ChildTrainingConfig(8, training=LanguageTrainingConfig(init_range=0.5))
CELL = RecurrentSpace(3).sample(random.Random(0))


def cell() -> nn.Module:
    return build_child(CELL, 20, CHILD, CellConfig(), 0)


def lstm() -> nn.Module:
    return build_lstm(500, 20, CHILD, 0)


def macro() -> nn.Module:
    return MacroChild(MacroSpace(3).sample(random.Random(0)), MacroNetConfig(filters=2), SHAPE, seeded())


def micro() -> nn.Module:
    config = MicroNetConfig(filters=2, layers=2)
    return MicroChild(MicroSpace(2).sample(random.Random(0)), config, SHAPE, seeded())


def with_input(model: nn.Module) -> tuple[nn.Module, Tensor]:
    """The model in use, no weight of it at a place where a ReLU has two derivatives; and an input."""
    draw = seeded(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    if hasattr(model, "embedding"):
        return model.eval(), torch.randint(20, (4, 2), generator=draw)
    return model.eval(), torch.randn(2, 3, 8, 8, generator=draw)


def first(output: Any) -> Tensor:
    value: Tensor = output[0] if isinstance(output, tuple) else output
    return value


RECORDERS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "trace": lambda model, x: torch.jit.trace(model, (x,)),
    "export": lambda model, x: torch.export.export(model, (x,)).module(),
    "compile": lambda model, x: torch.compile(model, backend="eager", fullgraph=True),
}


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::FutureWarning"
)
@pytest.mark.parametrize("how", RECORDERS)
@pytest.mark.parametrize("make", [cell, macro])
@torch.no_grad()
def test_a_recorded_model_computes_the_same(make: Callable[[], nn.Module], how: str) -> None:
    model, x = with_input(make())
    recorded = RECORDERS[how](model, x)
    torch.testing.assert_close(first(recorded(x)), first(model(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [cell, macro, micro])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, by torch
@pytest.mark.parametrize("graph", [True, False])
def test_functions_of_a_model_are_transformed(make: Callable[[], nn.Module], graph: bool) -> None:
    """By `torch.func` and by forward-mode differentiation, along one direction of all weights."""
    model, x = with_input(make())
    weights = dict(model.named_parameters())
    draw = seeded(2)
    along = {name: torch.randn(weight.shape, generator=draw) for name, weight in weights.items()}

    def output(weights: dict[str, Tensor]) -> Tensor:
        return first(functional_call(model, weights, (x,)))

    def rate() -> Tensor:
        with fwAD.dual_level():
            duals = {name: fwAD.make_dual(weight, along[name]) for name, weight in weights.items()}
            tangent = fwAD.unpack_dual(output(duals)).tangent
        assert tangent is not None
        return tangent

    with torch.set_grad_enabled(graph):
        usual = first(model(x))
        value, expected = jvp(output, (weights,), (along,))
        backward = grad(lambda weights: output(weights).sum())(weights)
        torch.testing.assert_close(rate(), expected)
        each = vmap(output)({name: torch.stack([weight] * 2) for name, weight in weights.items()})
    for one in (value, *each):
        torch.testing.assert_close(one, usual, rtol=1e-4, atol=1e-5)
    along_backward = sum((backward[name] * along[name]).sum() for name in weights)
    torch.testing.assert_close(along_backward, expected.sum(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", [cell, lstm, macro, micro])
def test_derivatives_in_float64_are_right(make: Callable[[], nn.Module]) -> None:
    """Along one direction through all weights; in float32 their error would be a thousand times the tolerance."""
    model, x = with_input(make())
    model.double()
    x = x.double() if x.is_floating_point() else x
    draw = seeded(2)
    along = {
        name: torch.randn(p.shape, generator=draw, dtype=p.dtype) for name, p in model.named_parameters()
    }

    def output(t: Tensor) -> Tensor:
        moved = {name: p + t * along[name] for name, p in model.named_parameters()}
        return first(functional_call(model, moved, (x,)))

    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert output(t).dtype == torch.float64
    assert torch.autograd.gradcheck(output, (t,))


@pytest.mark.parametrize("norm", ["none", "output", "output-and-nodes"])
def test_shared_cells_in_float64_compute_in_float64(norm: Any) -> None:
    space = RecurrentSpace(3)
    shared = SupernetCell(space, 8, CellConfig(norm=norm), 0.5, seeded()).double().eval()
    x_TBD = torch.randn(4, 2, 8, generator=seeded(1), dtype=torch.float64)
    usual = shared(x_TBD, shared.initial_state(2), CELL)[0]
    with torch.autocast("cpu", torch.bfloat16):  # autocast leaves float64 as it is
        cast = shared(x_TBD, shared.initial_state(2), CELL)[0]
    assert usual.dtype == torch.float64
    assert torch.equal(usual, cast)
