"""The fused recurrence against the plain one, finite differences, and itself."""

import dataclasses
import math
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from enas import ops
from enas.cell_plan import ACTIVATIONS, CellPlan, OutputNorm
from enas.errors import ConfigError
from enas.ops import recurrence
from tests.recurrent_cases import PLAN, PRECISIONS, case, random_plan, relative_error, worst

pytest.importorskip("numba")

from enas.cpu import compiler, products
from enas.cpu import recurrence as recurrence_fused
from enas.cpu.registry import takes_products


def test_the_reference_is_the_papers_equations():
    c = case(plan=CellPlan((0, 0), ("tanh", "relu", "sigmoid"), (1, 2)), T=1)
    h, m, (x,) = c.state_BD, c.mask_BD, c.projected_TBE
    D = h.shape[1]
    a0, g0 = (x + (h * m) @ c.weights_DE[0]).split(D, dim=1)
    s0 = torch.sigmoid(g0) * torch.tanh(a0) + (1 - torch.sigmoid(g0)) * h
    a1, g1 = ((s0 * m) @ c.weights_DE[1]).split(D, dim=1)
    s1 = torch.sigmoid(g1) * torch.relu(a1) + (1 - torch.sigmoid(g1)) * s0
    a2, g2 = ((s0 * m) @ c.weights_DE[2]).split(D, dim=1)
    s2 = torch.sigmoid(g2) * torch.sigmoid(a2) + (1 - torch.sigmoid(g2)) * s0
    torch.testing.assert_close(c.run(recurrence.plain).output_TBD[0], (s1 + s2) / 2)


def test_the_norm_is_batch_normalisation_of_the_mean_of_the_outputs():
    c = case(norm="batch", T=1)
    plain = dataclasses.replace(c, norm=None).run(recurrence.plain).output_TBD[0]
    normal = torch.nn.functional.batch_norm(
        plain, None, None, c.norm.weight_D, c.norm.bias_D, training=True, eps=c.norm.eps
    )
    result = c.run(recurrence.plain)
    torch.testing.assert_close(result.output_TBD[0], normal)
    torch.testing.assert_close(result.mean_TD[0], plain.mean(0))
    torch.testing.assert_close(result.variance_TD[0], plain.var(0, correction=0))


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("norm", [None, "batch", "given"])
def test_gradients_are_those_of_finite_differences(mask: bool, norm: str | None):
    generator = torch.Generator().manual_seed(3)
    for plan in (PLAN, random_plan(4, generator)):
        c = case(plan=plan, mask=mask, norm=norm, T=2, B=3, D=2)
        assert torch.autograd.gradcheck(
            lambda *tensors, c=c: c.with_tensors(tensors).run().output_TBD, c.tensors, fast_mode=True
        )


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("norm", [None, "batch", "given"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_equal_to_the_reference(precision: str, norm: str | None, mask: bool):
    tolerance = PRECISIONS[precision][2]
    generator = torch.Generator().manual_seed(4)
    for seed, plan in enumerate(
        [PLAN, CellPlan((), ("tanh",), (0,)), *(random_plan(9, generator) for _ in range(3))]
    ):
        c = case(precision, plan=plan, mask=mask, norm=norm, seed=seed, B=16)
        assert worst(c.output_and_gradients(), c.output_and_gradients(recurrence.plain)) < tolerance
        fused, plain = c.run(), c.run(recurrence.plain)
        assert (fused.mean_TD is None) == (norm != "batch")
        if norm == "batch":
            assert relative_error(fused.mean_TD, plain.mean_TD) < tolerance
            assert relative_error(fused.variance_TD, plain.variance_TD) < tolerance
            assert not fused.mean_TD.requires_grad
            assert not fused.variance_TD.requires_grad


@pytest.mark.parametrize("precision", PRECISIONS)
def test_without_gradient_the_same_output_bit_for_bit(precision: str):
    c = case(precision, norm="batch")
    kept = c.run()
    with torch.no_grad():
        free = c.run()
    assert kept.output_TBD.requires_grad
    assert not free.output_TBD.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(kept, free, strict=True))


def test_without_gradient_only_the_output_grows_with_time():
    with torch.no_grad():
        fixed = recurrence_fused._Fixed(PLAN, torch.float32, None, None)
        tensors = [
            [c.projected_TBE, c.state_BD, *c.weights_DE]
            for c in (case("float32", T=5), case("float32", T=50))
        ]
        sizes = []
        for xs in tensors:
            _, kept = recurrence_fused._forward(fixed, xs, keep=False)
            sizes.append([kept.states_MSBD.numel(), *(x.numel() for x in kept.saved_SBmE.values())])
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_bits_every_time(precision: str):
    first = case(precision, norm="batch", D=64).output_and_gradients()
    for _ in range(3):
        assert all(map(torch.equal, first, case(precision, norm="batch", D=64).output_and_gradients()))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_number_of_threads_does_not_change_what_kernels_compute(
    precision: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(compiler, "_ELEMENTS_THAT_PAY_FOR_THREADS", 0)
    address = compiler._gomp_parallel()

    def gradients(team: compiler.Team) -> list[Tensor]:
        for module in (recurrence_fused, compiler):
            monkeypatch.setattr(module, "team", lambda _elements: team)
        return case(precision, norm="batch", B=13).output_and_gradients()

    one = gradients((1, 0))
    if address:  # not on every system; one thread is then all there is
        for number in (2, 3):
            assert all(map(torch.equal, one, gradients((number, address))))


def test_few_elements_get_one_thread_and_many_those_of_torch():
    assert compiler.team(100) == (1, 0)
    assert compiler.team(10**6)[0] in (1, torch.get_num_threads())


def test_weights_that_need_no_gradient_get_none(monkeypatch: pytest.MonkeyPatch):
    c = case()
    everything = c.output_and_gradients()[1:]
    # Of the tensors (projected, state, W_0 .. W_5) only these need a gradient.
    for needing in ([0], [1], [2], [4, 6], [5]):
        part = case()
        for i, x in enumerate(part.tensors):
            x.requires_grad_(i in needing)
        gradients = part.output_and_gradients()[1:]
        assert worst(gradients, [everything[i] for i in needing]) < 1e-13


def test_no_product_is_computed_for_a_weight_that_needs_no_gradient(monkeypatch: pytest.MonkeyPatch):
    c = case(plan=CellPlan((0, 0), ("tanh", "relu", "tanh"), (1, 2)))
    c.weights_DE[1].requires_grad_(False)
    fixed = recurrence_fused._Fixed(c.plan, c.dtype, c.mask_BD, None)
    tensors = [c.projected_TBE, c.state_BD, *c.weights_DE]
    _, kept = recurrence_fused._forward(fixed, tensors, keep=True)
    needed = [x.requires_grad for x in tensors]
    gradients = recurrence_fused._backward(
        fixed, tensors, kept, torch.ones(7, 5, 19, dtype=torch.float64), needed
    )
    assert [gradient is not None for gradient in gradients] == needed


def test_backward_twice_through_a_retained_graph():
    c = case(norm="batch")
    loss = (c.run().output_TBD ** 2).sum()
    first = torch.autograd.grad(loss, c.tensors, retain_graph=True)
    second = torch.autograd.grad(loss, c.tensors)
    assert all(map(torch.equal, first, second))


def test_graphs_that_are_alive_together_do_not_share_memory():
    cases = [case(seed=seed) for seed in range(3)]
    alone = [c.output_and_gradients() for c in cases]
    losses = [c.run().output_TBD.sum() for c in cases]
    together = [torch.autograd.grad(loss, c.tensors) for loss, c in zip(losses, cases, strict=True)]
    for c, gradients in zip(cases, together, strict=True):
        assert all(map(torch.equal, gradients, torch.autograd.grad(c.run().output_TBD.sum(), c.tensors)))
    assert all(torch.equal(a[0], c.output_and_gradients()[0]) for a, c in zip(alone, cases, strict=True))


def test_shorter_and_longer_windows_in_turn():
    for T in (9, 2, 30, 1):
        c = case("float32", T=T)
        assert worst(c.output_and_gradients(), c.output_and_gradients(recurrence.plain)) < 3e-6


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_without_packed_weights_the_same_numbers(precision: str, monkeypatch: pytest.MonkeyPatch):
    packed = case(precision).output_and_gradients()
    monkeypatch.setattr(products, "packs", lambda dtype: False)
    assert worst(case(precision).output_and_gradients(), packed) < PRECISIONS[precision][2]


def test_a_build_of_torch_without_the_operators_is_found_out(monkeypatch: pytest.MonkeyPatch):
    def missing(*_: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(products, "_packed", missing)
    products.packs.cache_clear()
    try:
        assert not products.packs(torch.float32)
    finally:
        products.packs.cache_clear()


def test_openmp_is_found_by_the_name_that_the_library_has_on_a_mac(tmp_path: Path):
    assert compiler._gomp_parallel(tmp_path) == 0
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if library.exists():
        (tmp_path / "libtorch_cpu.dylib").symlink_to(library)
        compiler._gomp_parallel.cache_clear()
        assert compiler._gomp_parallel(tmp_path) == compiler._gomp_parallel() != 0
        assert compiler.shares_threads()


def test_an_openmp_that_cannot_be_found_leaves_one_thread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiler, "_gomp_parallel", lambda: 0)
    assert compiler.team(10**6) == (1, 0)


def test_without_kernels_the_plain_form_runs(monkeypatch: pytest.MonkeyPatch):
    fused = case("float32").output_and_gradients()
    monkeypatch.setattr(ops, "_kernels", dict)
    plain = case("float32").output_and_gradients()
    assert worst(fused, plain) < 3e-6
    assert all(map(torch.equal, plain, case("float32").output_and_gradients(recurrence.plain)))


def test_what_the_kernels_take():
    x = torch.zeros(1)
    assert takes_products(x, x)
    assert takes_products(x.double(), x.double())
    assert not takes_products(x, x.double())
    assert not takes_products(x.bfloat16(), x.bfloat16())
    assert not takes_products(x.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert takes_products(x, x)
        assert takes_products(x.double(), x.double())  # stays float64
    with torch.autocast("cpu", torch.float16):
        assert not takes_products(x, x)


def test_freed_memory_is_kept_where_the_system_can():
    # In a process of its own: what is set holds until its end.
    program = "from enas.runtime.memory import keep_freed_memory; print(keep_freed_memory())"
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert answer.strip() == str(sys.platform == "linux" and platform.libc_ver()[0] == "glibc")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_not_a_number_is_not_hidden(precision: str):
    for plan in (CellPlan((0,), (f, "identity"), (1,)) for f in ACTIVATIONS):
        c = case(precision, plan=plan)
        with torch.no_grad():
            c.projected_TBE[3, 2, 4] = math.nan
            output_TBD = c.run().output_TBD
        assert torch.isfinite(output_TBD[:3]).all()
        assert torch.isnan(output_TBD[3, 2]).any()


def test_large_values_saturate():
    c = case("float32", plan=CellPlan((0,), ("tanh", "sigmoid"), (1,)))
    with torch.no_grad():
        c.projected_TBE *= 1e4
        torch.testing.assert_close(
            c.run().output_TBD, c.run(recurrence.plain).output_TBD, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    ("sources", "functions", "outputs", "message"),
    [
        ((0,), ("tanh",), (0,), "1 functions needs 0 sources"),
        ((0, 2), ("tanh", "tanh", "tanh"), (2,), "Node 2 reads node 2"),
        ((0,), ("tanh", "cos"), (1,), "'cos'"),
        ((0,), ("tanh", "tanh"), (), "outputs"),
        ((0,), ("tanh", "tanh"), (1, 1), "outputs"),
        ((0,), ("tanh", "tanh"), (2,), "outputs"),
    ],
)
def test_impossible_plans_are_refused(sources, functions, outputs, message: str):
    with pytest.raises(ConfigError, match=message):
        CellPlan(sources, functions, outputs)


def test_half_given_statistics_are_refused():
    with pytest.raises(ConfigError, match="both"):
        OutputNorm(torch.ones(3), torch.zeros(3), 1e-5, mean_D=torch.zeros(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state_BD": torch.zeros(4, 19, dtype=torch.float64)}, "projected input"),
        ({"state_BD": torch.zeros(5, 18, dtype=torch.float64)}, "projected input"),
        ({"weights_DE": [torch.zeros(19, 38, dtype=torch.float64)] * 5}, "5 nodes"),
        ({"weights_DE": [torch.zeros(19, 19, dtype=torch.float64)] * 6}, "weight of node 0"),
        ({"norm": OutputNorm(torch.ones(3), torch.zeros(19), 1e-5)}, "norm"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(case(), **change).run()
    broadcast = dataclasses.replace(case(), mask_BD=torch.full((1, 19), 0.5, dtype=torch.float64))
    full = dataclasses.replace(case(), mask_BD=torch.full((5, 19), 0.5, dtype=torch.float64))
    assert torch.equal(broadcast.run().output_TBD, full.run().output_TBD)
