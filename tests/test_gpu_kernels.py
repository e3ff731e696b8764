"""The Triton kernels of the recurrent cell: run by Triton's interpreter on the CPU, and compiled for GPUs that are not here.

Triton comes with a torch that is built for GPUs, or with `pip install triton`; without it these tests are left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from enas import ops
from enas.cell_plan import ACTIVATIONS, CellPlan
from enas.gpu import window
from enas.gpu.recurrence import recurrence, recurrences
from tests.recurrent_cases import PLAN, PRECISIONS, case, random_plan

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="Triton is not installed: pip install triton"
    ),
    pytest.mark.filterwarnings("ignore:overflow encountered in exp"),  # as on a GPU, where nobody says so
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset"),  # of Triton 3.9
]


@pytest.fixture(scope="module")
def interpreted() -> Iterator[ModuleType]:
    """The kernels, as Triton's interpreter runs them: it asks the environment while it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec = importlib.util.find_spec("enas.gpu.kernels")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("norm", [None, "batch", "given"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_equal_to_the_reference(
    precision: str, norm: str | None, mask: bool, interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "passes", interpreted)
    # float64: the kernels' tanh has the digits of float32. bfloat16: the interpreter cuts digits off, a GPU rounds.
    tolerance = {"float64": 1e-8, "float32": 3e-6, "bfloat16": 4e-2}[precision]
    for plan, (T, D) in ((PLAN, (2, 19)), (CellPlan((0, 0), ("tanh", "relu", "sigmoid"), (1, 2)), (1, 300))):
        given = case(precision, plan=plan, mask=mask, norm=norm, T=T, B=2, D=D)
        expected = given.output_and_gradients(ops.recurrence.plain)
        for found, reference in zip(given.output_and_gradients(recurrence), expected, strict=True):
            assert float((found - reference).norm() / reference.norm()) < tolerance


def test_several_side_by_side(interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(6)
    cases = [case(plan=random_plan(4, draw), norm="given", T=2, B=2, D=7, seed=seed) for seed in range(3)]
    first = cases[0]
    with torch.no_grad():
        for inputs in ([first.projected_TBE] * 3, [one.projected_TBE for one in cases]):
            arguments: Any = (
                inputs,
                first.state_BD,
                [one.weights_DE[0] for one in cases],
                [one.weights_DE[1:] for one in cases],
                [one.plan for one in cases],
            )
            options: Any = {"state_mask_BD": first.mask_BD, "norm": first.norm}
            expected = ops.recurrences.plain(*arguments, **options)
            monkeypatch.setattr(window, "passes", interpreted)
            found = recurrences(*arguments, **options)
            monkeypatch.undo()
            assert found is not None
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a.output_TBD, b.output_TBD, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("number", range(len(ACTIVATIONS)))
def test_functions_have_their_digits(number: int, interpreted: ModuleType) -> None:
    """Also where a value is small, or far out, or no number: seen through a gate that is open, with nothing before it."""
    x_D = torch.tensor([1e-6, -3e-3, 0.1999, 0.2001, -0.7, 5.0, -90.0, 200.0, 0.0, torch.nan])
    product_ABE = torch.cat([x_D, torch.full_like(x_D, 200.0)]).view(1, 1, -1)
    nothing_ABD = torch.zeros(1, 1, len(x_D))
    states_NABD = torch.empty(1, 1, 1, len(x_D))
    codes_AN3 = torch.tensor([[[0, number, 1]]], dtype=torch.int32)
    interpreted.node_forward(product_ABE, None, nothing_ABD, states_NABD, None, None, None, codes_AN3, 0)
    expected = list(ACTIVATIONS.values())[number](x_D)
    torch.testing.assert_close(states_NABD.flatten(), expected, rtol=3e-7, atol=1e-12, equal_nan=True)


PROGRAM = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from enas.gpu import kernels

def compiled(kernel, types, constants, capability):
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    print(kernel.__name__, len(triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]))

for real, product in (("*fp32", "*fp32"), ("*fp32", "*bf16")):
    products = ("product_p", "saved_p", "operand_p", "d_operands_p")
    numbers = {"codes_p": "*i32", "node": "i32", "N": "i32", "B": "i32", "D": "i32", "eps": "fp32"}
    for capability in (80, 90):
        for kernel, constants in (
            (kernels._node_forward, {"FIRST": True, "SHARED": False, "BLOCK": 256}),
            (kernels._node_forward, {"projected_p": None, "mask_p": None, "FIRST": False, "SHARED": True, "BLOCK": 256}),
            (kernels._node_backward, {"FIRST": False, "BLOCK": 256}),
            (kernels._output_forward, {"ROWS": 64, "COLUMNS": 16, "mean_p": None, "variance_p": None}),
            (kernels._output_backward, {"ROWS": 64, "COLUMNS": 16, "BY_BATCH": True}),
        ):
            types = {
                name: numbers.get(name) or (product if name in products else real)
                for name in kernel.arg_names if name not in constants
            }
            compiled(kernel, types, constants, capability)
"""


@pytest.mark.slow
def test_they_compile_for_gpus(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    lines = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(lines) == 20
    assert all(int(line.split()[1]) > 1000 for line in lines)
