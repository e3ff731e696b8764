"""The recurrence for GPUs, its passes computed on the CPU: against the plain one, recorded and not, one cell and several."""

from __future__ import annotations

import dataclasses
import gc
import random
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import MethodType
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from enas import ops
from enas.cell_plan import ACTIVATIONS, CellPlan, Recurrence
from enas.gpu import graphs, registry
from enas.gpu.recurrence import recurrence, recurrences
from enas.gpu.window import Window
from enas.spaces.recurrent.net import CellConfig
from enas.tasks.language import LanguageTask
from tests import tiny
from tests.recurrent_cases import CPU, PLAN, PRECISIONS, Case, case, random_plan, worst

reference = ops.recurrence.plain
Work = Callable[[], None]


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """What was recorded is forgotten."""
    yield
    graphs.GRAPHS = graphs.Graphs()


def repeated(works: Sequence[Work], device: torch.device) -> list[Work]:
    """In the place of CUDA's graphs: the same calls again, if all that they read and write is where it was."""
    window: Any = cast(MethodType, works[0]).__self__

    def places() -> list[int]:
        found = [x.data_ptr() for x in vars(window).values() if isinstance(x, Tensor)]
        return found + [x.data_ptr() for x in window.inputs if x is not None]

    for work in works:
        work()
    then = places()

    def checked(work: Work) -> Work:
        def repeat() -> None:
            assert places() == then
            work()

        return repeat

    return [checked(work) for work in works]


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> graphs.Graphs:
    monkeypatch.setattr(graphs, "can_record", lambda device: True)
    monkeypatch.setattr(graphs, "recorded", repeated)
    fresh = graphs.Graphs()
    monkeypatch.setattr("enas.gpu.recurrence.GRAPHS", fresh)
    return fresh


# ---- against the plain form --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("norm", [None, "batch", "given"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_equal_to_the_reference(precision: str, norm: str | None, mask: bool) -> None:
    tolerance = PRECISIONS[precision][2]
    draw = torch.Generator().manual_seed(4)
    plans = [PLAN, CellPlan((), ("tanh",), (0,)), *(random_plan(9, draw) for _ in range(3))]
    for seed, plan in enumerate(plans):
        given = case(precision, plan=plan, mask=mask, norm=norm, seed=seed, B=16 + seed, T=1 + 2 * seed)
        expected = given.output_and_gradients(reference)
        assert worst(given.output_and_gradients(recurrence), expected) < tolerance
        found, plain = given.run(recurrence), given.run(reference)
        for mine, other in ((found.mean_TD, plain.mean_TD), (found.variance_TD, plain.variance_TD)):
            assert (mine is None) == (other is None) == (norm != "batch")
            if mine is not None and other is not None:
                assert not mine.requires_grad
                assert float((mine - other).norm() / other.norm()) < tolerance


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_every_function(function: str) -> None:
    given = case(plan=CellPlan((0, 0), (function,) * 3, (1, 2)))
    assert worst(given.output_and_gradients(recurrence), given.output_and_gradients(reference)) < 1e-13


def test_without_gradient_the_same_output_bit_for_bit() -> None:
    given = case("float32", norm="batch")
    kept = given.run(recurrence)
    with torch.no_grad():
        free = given.run(recurrence)
    assert kept.output_TBD.requires_grad
    assert not free.output_TBD.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(kept, free, strict=True))


def test_what_needs_no_gradient_gets_none() -> None:
    everything = case(norm="batch").output_and_gradients(recurrence)[1:]
    for needing in ([0], [1], [2], [4, 6], [8, 9]):
        part = case(norm="batch")
        for i, x in enumerate(part.tensors):
            x.requires_grad_(i in needing)
        found = part.output_and_gradients(recurrence)[1:]
        assert all(map(torch.equal, found, [everything[i] for i in needing]))


class Names(TorchDispatchMode):
    """Writes down what is called, and with which shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, list[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append((str(func), tree_map_only(Tensor, lambda x: x.shape, list(args))))
        return func(*args, **(kwargs or {}))


def test_all_cells_are_one_sequence_of_launches() -> None:
    draw = torch.Generator().manual_seed(9)
    seen = []
    for _ in range(3):
        given = case(plan=random_plan(6, draw), norm="batch")
        with Names() as names:
            given.output_and_gradients(recurrence)
        seen.append(names.seen)
    assert len(seen[0]) > 100
    assert seen[0] == seen[1] == seen[2]


# ---- several side by side ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [None, "batch", "given"])
@pytest.mark.parametrize("shared", [False, True])
def test_several_side_by_side_are_each_of_them(shared: bool, norm: str | None) -> None:
    draw = torch.Generator().manual_seed(6)
    cases = [case(plan=random_plan(6, draw), norm=norm, seed=seed) for seed in range(3)]
    first = cases[0]
    inputs = [first.projected_TBE if shared else one.projected_TBE for one in cases]
    weights = [weight for one in cases for weight in one.weights_DE]
    needing = [first.state_BD, *weights, *(inputs[:1] if shared else inputs)]
    needing += [] if first.norm is None else [first.norm.weight_D, first.norm.bias_D]
    found: list[list[Tensor]] = []
    for function in (recurrences, ops.recurrences.plain):
        results = function(
            inputs,
            first.state_BD,
            [one.weights_DE[0] for one in cases],
            [one.weights_DE[1:] for one in cases],
            [one.plan for one in cases],
            state_mask_BD=first.mask_BD,
            norm=first.norm,
        )
        assert results is not None
        outputs = torch.stack([result.output_TBD for result in results])
        assert all((result.mean_TD is None) == (norm != "batch") for result in results)
        weight = torch.randn(outputs.shape, generator=draw.manual_seed(1), dtype=torch.float64)
        statistics = [x for result in results for x in result[1:] if x is not None]
        found.append([outputs.detach(), *statistics, *torch.autograd.grad((outputs * weight).sum(), needing)])
    assert worst(*found) < 1e-13


def test_what_it_does_not_take() -> None:
    other = case("float32")
    assert (
        dataclasses.replace(other, weights_DE=[x.double() for x in other.weights_DE]).run(recurrence) is None
    )
    halves = [x.detach().bfloat16() for x in other.tensors]
    assert recurrence(halves[0], halves[1], halves[2], halves[3:], PLAN) is None
    small = CellPlan((), ("tanh",), (0,))
    weights: Any = [other.weights_DE[1:], []]
    inputs, recurrent = [other.projected_TBE] * 2, other.weights_DE[:1] * 2
    assert recurrences(inputs, other.state_BD, recurrent, weights, [PLAN, small]) is None


# ---- recorded ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("norm", [None, "batch", "given"])
def test_recorded_windows_have_the_same_bits(
    norm: str | None, precision: str, recording: graphs.Graphs
) -> None:
    draw = torch.Generator().manual_seed(7)
    for seed in range(4):
        given = case(precision, plan=random_plan(5, draw), norm=norm, seed=seed)
        assert len(recording.recorded) == (seed > 1)
        found = given.output_and_gradients(recurrence)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("enas.gpu.recurrence.GRAPHS", graphs.Graphs())
            assert all(map(torch.equal, found, given.output_and_gradients(recurrence)))


def test_windows_that_are_alive_together_do_not_share_results(recording: graphs.Graphs) -> None:
    cases = [case(seed=seed, norm="batch") for seed in range(4)]
    results = [given.run(recurrence) for given in cases]
    assert len(recording.recorded) == 1
    for given, result in zip(cases, results, strict=True):
        expected = given.output_and_gradients(reference)
        weight = torch.randn(
            result.output_TBD.shape, generator=torch.Generator().manual_seed(99), dtype=torch.float64
        )
        loss = (result.output_TBD * weight).sum()
        first = torch.autograd.grad(loss, given.tensors, retain_graph=True)
        second = torch.autograd.grad(loss, given.tensors)
        assert all(map(torch.equal, first, second))
        assert worst([result.output_TBD.detach(), *first], expected) < 1e-13


def test_a_window_that_was_recorded_in_inference_mode_is_used_outside_of_it(recording: graphs.Graphs) -> None:
    given = case()
    expected = given.run(reference).output_TBD
    for mode in (torch.inference_mode, torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(given.run(recurrence).output_TBD, expected)
    assert len(recording.recorded) == 1


def test_few_layouts_are_recorded(recording: graphs.Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "LONG", 12)

    def window(T: int) -> None:
        with torch.no_grad():
            case(T=T, B=1, D=2).run(recurrence)

    def lengths() -> list[int]:
        return [layout.T for layout in recording.recorded]

    for T in (1, 2, 3, 4, 5) * 2:
        window(T)
    assert lengths() == [1, 2, 3, 4]
    for T in (5, 2, 3, 4) * 3:
        window(T)
    assert lengths() == [2, 3, 4, 5]  # 1 did not come for long


def test_memory_is_given_back_without_the_garbage_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    windows: list[weakref.ref[Window]] = []
    real = Window.__init__

    def noted(self: Window, layout: Any) -> None:
        windows.append(weakref.ref(self))
        real(self, layout)

    monkeypatch.setattr(Window, "__init__", noted)
    gc.disable()
    try:
        given = case()
        loss = given.run(recurrence).output_TBD.sum()
        assert windows[0]() is not None
        loss.backward()
        assert windows[0]() is None  # the loss is there
        del loss
        given.run(recurrence)  # dropped without a backward pass
        assert windows[1]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "cell",
    [
        CellConfig(),
        CellConfig(norm="output", sharing="function-source"),
        CellConfig(norm="output-and-nodes", output="all"),
    ],
)
@pytest.mark.parametrize("statistics", ["batch", "moving"])
def test_rewards_side_by_side_are_each_of_them(
    cell: CellConfig, statistics: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five architectures, two and two and one."""
    config = tiny.config(tiny.write_text(tmp_path / "text"))
    reward = dataclasses.replace(config.shared.reward, statistics=statistics)
    config = dataclasses.replace(config, cell=cell, shared=dataclasses.replace(config.shared, reward=reward))
    weights = config.shared_weights()
    draw = random.Random(2)
    architectures = [weights.space.sample(draw) for _ in range(5)]
    buffers = [buffer.clone() for buffer in weights.trainer.model.buffers()]
    alone = weights.rewards(architectures, "compared", 0)
    monkeypatch.setattr(LanguageTask, "at_once", 2)
    assert [len(group) for group in weights.groups(architectures)] == [2, 2, 1]
    together = weights.rewards(architectures, "compared", 0)
    assert len(set(alone.tolist())) > 1
    assert torch.equal(together, alone)
    assert all(map(torch.equal, weights.trainer.model.buffers(), buffers))


# ---- where it is used --------------------------------------------------------------------------------------------------


def test_a_small_cell_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*args: Any, **kwargs: Any) -> Recurrence:
        return Recurrence(reference(*args, **kwargs).output_TBD * 1.1)

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # as in a reward
        assert registry.fault(CPU) is None
    with torch.inference_mode():
        assert registry.fault(CPU) is None
    monkeypatch.setattr("enas.gpu.recurrence.recurrence", wrong)
    assert registry.fault(CPU) == "a small cell came to other numbers (result 0, try 0)"


def test_why_it_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    why_not = registry.why_not.__wrapped__
    gpu = torch.device("cuda")
    assert why_not(CPU) == "cpu has none"
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    assert why_not(gpu) == "Triton is missing"
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(registry, "fault", lambda device: None)
    assert why_not(gpu) is None
    monkeypatch.setattr(graphs, "GRAPHS", graphs.Graphs())
    monkeypatch.setattr(registry, "fault", lambda device: "of graphs" if graphs.GRAPHS.allowed else None)
    with pytest.warns(
        UserWarning, match="recurrent cells on cuda are not recorded as CUDA graphs: of graphs"
    ):
        assert why_not(gpu) is None
    assert not graphs.GRAPHS.allowed
    monkeypatch.setattr(registry, "fault", lambda device: 1 / 0)
    with pytest.warns(
        UserWarning, match="plain PyTorch on cuda, more slowly: ZeroDivisionError: division by zero"
    ):
        assert why_not(gpu) == "ZeroDivisionError: division by zero"
    monkeypatch.setenv("ENAS_KERNELS", "off")
    assert why_not(gpu) == "ENAS_KERNELS is off"


def test_wrong_records_are_given_up_and_nothing_else(
    recording: graphs.Graphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(works: Sequence[Work], device: torch.device) -> list[Work]:
        return [lambda: None for _ in works]

    monkeypatch.setattr(graphs, "GRAPHS", recording)
    monkeypatch.setattr(graphs, "recorded", lost)
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: object())
    fault = registry.fault
    monkeypatch.setattr(registry, "fault", lambda device: fault(CPU))
    with pytest.warns(
        UserWarning, match="not recorded as CUDA graphs: a small cell came to other numbers .* try 1"
    ):
        assert registry.why_not.__wrapped__(torch.device("cuda")) is None
    assert (recording.allowed, recording.recorded) == (False, {})


def test_recording_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert graphs.can_record(torch.device("cuda"))
    assert not graphs.can_record(CPU)
    monkeypatch.setenv("ENAS_GRAPHS", "off")
    assert not graphs.can_record(torch.device("cuda"))


def test_a_call_that_it_does_not_take_is_computed_in_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Case] = []
    given = case()
    monkeypatch.setattr(
        ops, "_forms", lambda device: {"recurrence": lambda *args, **kwargs: called.append(given)}
    )
    with torch.device("meta"):
        there = dataclasses.replace(
            given.with_tensors(tuple(x.detach().to("meta") for x in given.tensors)), mask_BD=None
        )
    assert there.run().output_TBD.shape == (7, 5, 19)
    assert called == [given]
