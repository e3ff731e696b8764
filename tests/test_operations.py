"""What every operation of `enas.ops` promises: by any backend it is its plain form, and its plain form has derivatives."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import enas
from enas import ops
from enas.cell_plan import CellPlan, OutputNorm
from enas.cpu import registry
from enas.norms import batch_statistics
from enas.ops import Maps, Operation

Call = Callable[[Sequence[Maps], Sequence[Any]], Maps]
How = Callable[[Operation[..., Any]], Callable[..., Any]]

KINDS = ["as they are", "rectified", "normed", "normed and rectified", "channels last"]
MODES = ["training", "batch statistics", "evaluation"]

SHAPE = (3, 4, 7, 6)
"""Of one part: images, channels, rows, columns; odd where it is halved."""


class Case(NamedTuple):
    """One way to call an operation."""

    operation: Operation[..., Any]
    modules: Callable[[], list[nn.Module]] = list
    """Convolutions, and the norm as the last one."""
    parts: int | None = None
    """How many maps are given in a list; None for a single one that is not in a list."""
    arguments: tuple[Any, ...] = ()
    """What follows the maps, before the modules."""
    shape: tuple[int, ...] = SHAPE
    plain: bool | frozenset[str] = False
    """Whether there is no kernel; or the kinds of maps for which there is none."""

    def call(self, how: How, xs: Sequence[Maps], modules: Sequence[Any]) -> Maps:
        """The operation in the form that `how` makes of it."""
        given: Any = xs[0] if self.parts is None else list(xs)
        *convs, norm = modules or [None]
        rest: list[Any] = [*convs, norm] if modules else []
        if self.operation is ops.joined_norm:
            rest = [convs, norm]
        elif self.operation is ops.reduction_norm:
            rest = [convs[: len(xs)], convs[len(xs) :], norm]
        y: Maps = how(self.operation)(given, *self.arguments, *rest)
        return y

    def has_kernel(self, kind: str) -> bool:
        """Whether a kernel takes such a call."""
        plain = self.plain if isinstance(self.plain, bool) else kind in self.plain
        return kind != "channels last" and not plain


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def norm(channels: int, seed: int = 1) -> nn.BatchNorm2d:
    """A norm that is not a fresh one."""
    made = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.2)
    made.weight.copy_(normal(channels, seed=seed))
    made.bias.copy_(normal(channels, seed=seed + 1))
    made.get_buffer("running_mean").copy_(normal(channels, seed=seed + 2))
    made.get_buffer("running_var").copy_(0.5 + normal(channels, seed=seed + 3).square())
    made.get_buffer("num_batches_tracked").fill_(5)
    return made


def conv(channels: int, out: int, width: Any = 1, seed: int = 10, **settings: Any) -> nn.Conv2d:
    """A convolution, without bias and of the same size unless the settings say so."""
    if "padding" not in settings:
        settings["padding"] = width // 2
    made = nn.Conv2d(channels, out, width, **{"bias": False, **settings})
    for i, parameter in enumerate(made.parameters()):
        nn.init.normal_(parameter, 0.0, 0.5, generator=torch.Generator().manual_seed(seed + i))
    return made


def dense(width: Any, **settings: Any) -> Callable[[], list[nn.Module]]:
    return lambda: [conv(4, 6, width, **settings), norm(6)]


def separable(width: int, out: int = 5, **settings: Any) -> Callable[[], list[nn.Module]]:
    return lambda: [
        depthwise := conv(4, 4, width, **{"groups": 4, **settings}),
        conv(depthwise.out_channels, out, seed=20),
        norm(out),
    ]


def joined(parts: int) -> Callable[[], list[nn.Module]]:
    return lambda: [*(conv(4, 5, seed=10 * part) for part in range(1, parts + 1)), norm(5)]


def reduction(parts: int) -> Callable[[], list[nn.Module]]:
    return lambda: [
        *(conv(4, 2, seed=10 * part, stride=2) for part in range(1, parts + 1)),
        *(conv(4, 3, seed=10 * part + 5, stride=2) for part in range(1, parts + 1)),
        norm(5),
    ]


def wide_filters() -> bool:
    """Whether kernels take dense filters wider than 1 on this processor."""
    return registry.why_no_kernels() is None and registry.wide_filters_pay()


FACTORS = (torch.tensor([0.0, 1.25, 1.0]), None, torch.tensor([1.25, 0.0, 0.0]))
PENDING = frozenset(["rectified", "normed", "normed and rectified"])

CASES = {
    "computed": Case(ops.computed),
    "relu": Case(ops.relu),
    "total of one": Case(ops.total, parts=1),
    "total": Case(ops.total, parts=3, plain=frozenset(["as they are"])),
    "total with factors": Case(ops.total, parts=3, arguments=(FACTORS,)),
    "concatenation of one": Case(ops.concatenation, parts=1),
    "concatenation": Case(ops.concatenation, parts=3, plain=True),
    **{
        f"{pool.plain.__name__}, stride {stride}": Case(pool, arguments=(stride,), plain=stride > 1)
        for pool in (ops.average_pool, ops.max_pool)
        for stride in (1, 2)
    },
    "global average": Case(ops.global_average, plain=True),
    "batch norm": Case(ops.batch_norm, lambda: [norm(4)], plain=PENDING),
    "total norm": Case(ops.total_norm, lambda: [norm(4)], parts=3, plain=frozenset(["as they are"])),
    "dense 1": Case(ops.conv_norm, dense(1)),
    **{f"dense {width}": Case(ops.conv_norm, dense(width), plain=not wide_filters()) for width in (3, 5)},
    "dense, many channels": Case(ops.conv_norm, lambda: [conv(4, 90, 1), norm(90)], plain=True),
    "dense, stride": Case(ops.conv_norm, dense(3, stride=2), plain=True),
    "dense, other padding": Case(ops.conv_norm, dense(3, padding=0), plain=True),
    "dense, even width": Case(ops.conv_norm, dense(2), plain=True),
    "dense, oblong": Case(ops.conv_norm, dense((3, 1), padding=1), plain=True),
    "dense, bias": Case(ops.conv_norm, dense(3, bias=True), plain=True),
    "dense, groups": Case(ops.conv_norm, dense(3, groups=2), plain=True),
    "dense, dilation": Case(ops.conv_norm, dense(3, dilation=2), plain=True),
    "dense, reflection": Case(ops.conv_norm, dense(3, padding_mode="reflect"), plain=True),
    **{
        f"separable {width}, stride {stride}": Case(
            ops.separable_norm, separable(width, stride=stride), plain=stride > 1
        )
        for width in (3, 5)
        for stride in (1, 2)
    },
    "separable, many channels": Case(ops.separable_norm, separable(3, out=90), plain=True),
    "separable, other padding": Case(ops.separable_norm, separable(3, padding=0), plain=True),
    "separable, bias": Case(ops.separable_norm, separable(3, bias=True), plain=True),
    "separable, groups": Case(ops.separable_norm, separable(3, groups=2), plain=True),
    "joined, one": Case(ops.joined_norm, joined(1), parts=1),
    "joined": Case(ops.joined_norm, joined(3), parts=3),
    "reduction, one": Case(ops.reduction_norm, reduction(1), parts=1, shape=(3, 4, 8, 6)),
    "reduction": Case(ops.reduction_norm, reduction(2), parts=2, shape=(3, 4, 8, 6)),
    "reduction, odd": Case(ops.reduction_norm, reduction(2), parts=2, plain=True),
}


def test_every_operation_on_maps_is_held_to_it() -> None:
    recurrent = {"recurrence", "recurrences", "tied_nll", "tied_cross_entropy"}
    operations = {name for name, value in vars(ops).items() if isinstance(value, Operation)}
    assert {case.operation.plain.__name__ for case in CASES.values()} == operations - recurrent


class Given(NamedTuple):
    """Maps and modules. Each map has a norm of its own, which is done to it if the kind of maps says so."""

    xs: list[Tensor]
    pending: list[nn.BatchNorm2d]
    modules: list[Any]

    @classmethod
    def of(cls, case: Case, shape: tuple[int, ...] | None = None) -> Given:
        """New ones, from fixed seeds."""
        shape = case.shape if shape is None else shape
        parts = range(case.parts or 1)
        xs = [normal(*shape, seed=100 + i).requires_grad_() for i in parts]
        return cls(xs, [norm(shape[1], 200 + 10 * i).eval() for i in parts], case.modules())

    def double(self) -> Given:
        """The same in float64."""
        pending, modules = ([copy.deepcopy(module).double() for module in part] for part in self[1:])
        return Given([x.detach().double().requires_grad_() for x in self.xs], pending, modules)

    def maps(self, kind: str) -> list[Maps]:
        """The maps as operations hand them on."""
        return [
            _as(kind if kind != "mixed" else KINDS[i % 4], x, pending)
            for i, (x, pending) in enumerate(zip(self.xs, self.pending, strict=True))
        ]

    def leaves(self, kind: str) -> list[Tensor]:
        """All that gets a gradient."""
        modules = self.modules + (self.pending if "normed" in kind else [])
        return [*self.xs, *(parameter for module in modules for parameter in module.parameters())]

    def in_mode(self, mode: str) -> Any:
        """A context in which the norm of the operation normalises so."""
        norms = [module for module in self.modules if isinstance(module, nn.BatchNorm2d)]
        for module in norms:
            module.train(mode == "training")
        return batch_statistics(norms if mode == "batch statistics" else [])

    def averages(self) -> list[Tensor]:
        """The norm's, and the number of minibatches in them."""
        return [buffer for module in self.modules for buffer in module.buffers()]


def _as(kind: str, x: Tensor, pending: nn.BatchNorm2d) -> Maps:
    if kind == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    y: Maps = ops.batch_norm(x, pending) if "normed" in kind else x
    return ops.relu(y) if "rectified" in kind else y


def plain(operation: Operation[..., Any]) -> Callable[..., Any]:
    return operation.plain


def dispatched(operation: Operation[..., Any]) -> Callable[..., Any]:
    return operation


def by_kernel(operation: Operation[..., Any]) -> Callable[..., Any]:
    """The operation, which fails where it is left to the plain form."""

    def unused(*_: Any, **__: Any) -> Any:
        raise AssertionError(f"no kernel took {operation.plain.__name__}")

    unused.__name__ = operation.plain.__name__
    return Operation(unused, operation.check)


@pytest.fixture(params=["kernels", "plain"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether kernels are used."""
    if request.param == "kernels":
        if (why_not := registry.why_no_kernels()) is not None:
            pytest.skip(why_not)
    else:
        monkeypatch.setattr(ops, "_kernels", dict)
    return bool(request.param == "kernels")


def kinds_of(case: Case) -> list[str]:
    return KINDS if case.parts in (None, 1) else [*KINDS, "mixed"]


@pytest.mark.parametrize(
    ("name", "kind", "mode"),
    [
        (name, kind, mode)
        for name, case in CASES.items()
        for kind in kinds_of(case)
        for mode in (MODES if case.modules() else ["training"])
    ],
)
def test_an_operation_is_its_plain_form(name: str, kind: str, mode: str, kernels: bool) -> None:
    """In float32 what the plain form is in float64: values, every gradient, and the moving averages."""
    case = CASES[name]
    given = Given.of(case)
    exact = given.double()

    def run(given: Given, how: How) -> list[Tensor]:
        with given.in_mode(mode):
            y = ops.computed(case.call(how, given.maps(kind), given.modules))
        weights = normal(*y.shape, seed=300).to(y.dtype)
        gradients = torch.autograd.grad((y * weights).sum(), given.leaves(kind), allow_unused=kind == "mixed")
        unused = [torch.zeros(()) if gradient is None else gradient for gradient in gradients]
        return [y, *unused, *given.averages()]

    fused = kernels and case.has_kernel(kind)
    before = [average.clone() for average in given.averages()]
    actual, expected = run(given, by_kernel if fused else dispatched), run(exact, plain)
    for own, wanted in zip(actual, expected, strict=True):
        largest = max(1.0, float(wanted.detach().abs().max()))
        torch.testing.assert_close(own.double(), wanted.double(), rtol=0, atol=5e-5 * largest)
    moved = [not torch.equal(own, old) for own, old in zip(given.averages(), before, strict=True)]
    assert all(moved) if mode == "training" else not any(moved)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (name, mode)
        for name, case in CASES.items()
        for mode in (["training", "evaluation"] if case.modules() else ["training"])
    ],
)
def test_in_double_precision_an_operation_passes_gradcheck(name: str, mode: str) -> None:
    case = CASES[name]
    given = Given.of(case, (3, 4, 3, 3)).double()
    kind = "normed and rectified"

    def values(*_: Tensor) -> Tensor:
        y = case.call(dispatched, given.maps(kind), given.modules)
        assert isinstance(y, Tensor)
        assert y.dtype == torch.float64
        return y

    with given.in_mode(mode):
        assert torch.autograd.gradcheck(values, given.leaves(kind), eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    [name for name, case in CASES.items() if case.modules() and ", " not in name.replace(", stride", "")],
)
def test_a_norm_of_one_value_a_channel_gives_its_bias(name: str, kernels: bool) -> None:
    """What does not vary is its own mean."""
    case = CASES[name]
    single = Given.of(case, (1, 4, 1, 1))
    (norm,) = (module for module in single.modules if isinstance(module, nn.BatchNorm2d))
    for mode in ("training", "batch statistics"):
        with single.in_mode(mode):
            y = ops.computed(case.call(dispatched, single.maps("rectified"), single.modules))
        torch.testing.assert_close(y.flatten(), norm.bias, rtol=0, atol=1e-3)
    with single.in_mode("evaluation"):
        y = ops.computed(case.call(dispatched, single.maps("rectified"), single.modules))
    assert y.isfinite().all()


PLAN = CellPlan((0, 1, 1), ("sigmoid", "tanh", "relu", "identity"), (2, 3))


def states(name: str, dtype: torch.dtype, how: How) -> list[Tensor]:
    """What an operation on recurrent states returns, and every gradient; in fixed numbers of this type."""

    def leaf(*shape: int, seed: int) -> Tensor:
        return normal(*shape, seed=seed).to(dtype).requires_grad_()

    if name == "recurrence":
        norm = OutputNorm(leaf(6, seed=20), leaf(6, seed=21), 1e-2)
        weights = [leaf(6, 12, seed=seed) for seed in range(4)]
        leaves = [leaf(5, 4, 12, seed=22), leaf(4, 6, seed=23), *weights, norm.weight_D, norm.bias_D]
        mask_BD = (normal(4, 6, seed=24) > 0).to(dtype)
        result = how(ops.recurrence)(
            leaves[0], leaves[1], weights[0], weights[1:], PLAN, state_mask_BD=mask_BD, norm=norm
        )
        values = [value for value in result if value is not None]
    else:
        leaves = [leaf(7, 6, seed=1), leaf(11, 6, seed=2)]
        operation = ops.tied_nll if name == "tied_nll" else ops.tied_cross_entropy
        with torch.set_grad_enabled(name != "tied_nll"):  # its kernel is for rewards
            values = [how(operation)(*leaves, torch.arange(7))]
    if not values[0].requires_grad:
        return values
    return [*values, *torch.autograd.grad(values[0].square().sum(), leaves)]


@pytest.mark.parametrize("name", ["recurrence", "tied_cross_entropy", "tied_nll"])
def test_an_operation_on_states_is_its_plain_form(name: str, kernels: bool) -> None:
    actual = states(name, torch.float32, by_kernel if kernels else dispatched)
    for own, wanted in zip(actual, states(name, torch.float64, plain), strict=True):
        largest = max(1.0, float(wanted.detach().abs().max()))
        torch.testing.assert_close(own.double(), wanted, rtol=0, atol=5e-5 * largest)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.has_kernel("mixed")])
def test_what_is_kept_for_the_backward_pass_may_be_moved(name: str, kernels: bool) -> None:
    """As activation checkpointing does: nothing is read where it was in the forward pass."""
    case = CASES[name]._replace(arguments=copy.deepcopy(CASES[name].arguments))
    given = Given.of(case)

    def gradients(kept: list[tuple[Tensor, Tensor]] | None) -> list[Tensor]:
        def keep(x: Tensor) -> Tensor:
            if kept is not None:
                kept.append((x.detach(), x.detach().clone()))
            return x if kept is None else kept[-1][1]

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), given.in_mode("training"):
            y = ops.computed(case.call(dispatched, given.maps("normed and rectified"), given.modules))
            loss = (y * normal(*y.shape, seed=300)).sum()
        for x, _ in kept or []:
            x.fill_(torch.nan if x.is_floating_point() else 0)
        return list(torch.autograd.grad(loss, given.leaves("normed and rectified")))

    usual = gradients(None)
    assert all(map(torch.equal, gradients([]), usual))


@pytest.mark.parametrize("default", [torch.device("meta"), torch.float64])
def test_torch_s_defaults_are_for_new_tensors_alone(default: Any, kernels: bool) -> None:
    """Where new tensors are, and of what type, changes nothing about those that are given."""
    cases = {name: (case, Given.of(case)) for name, case in CASES.items() if case.has_kernel("mixed")}

    shapes = ((5, 4, 12), (4, 6), *[(6, 12)] * 4)
    leaves = [normal(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]
    targets_N = torch.arange(4)

    def run() -> list[Tensor]:
        cell = ops.recurrence(leaves[0], leaves[1], leaves[2], leaves[3:], PLAN)
        loss = ops.tied_cross_entropy(cell.output_TBD[-1], leaves[2].T, targets_N)
        found = [[cell.output_TBD, loss, *torch.autograd.grad(loss, leaves)]]
        for case, given in cases.values():
            with given.in_mode("batch statistics"):
                y = ops.computed(case.call(dispatched, given.maps("normed and rectified"), given.modules))
            found.append([y, *torch.autograd.grad(y.square().sum(), given.leaves("normed and rectified"))])
        return [x for xs in found for x in xs]

    usual, before = run(), torch.get_default_dtype()
    with default if isinstance(default, torch.device) else contextlib.nullcontext():
        torch.set_default_dtype(default if isinstance(default, torch.dtype) else before)
        try:
            why_not = registry.why_no_kernels.__wrapped__()
            found = run()
        finally:
            torch.set_default_dtype(before)
    assert why_not == registry.why_no_kernels()
    assert all(map(torch.equal, found, usual))


def test_maps_that_do_not_fit_together_are_refused(kernels: bool) -> None:
    """Kernels read memory without asking; the plain forms say what is wrong."""
    x, small, fewer = normal(4, 6, 8, 8, seed=1), normal(4, 6, 4, 4, seed=2), normal(2, 6, 8, 8, seed=3)
    for other in (small, fewer):
        for name in ("joined", "reduction"):
            case = CASES[name]._replace(parts=2)
            modules = joined(2)() if name == "joined" else case.modules()
            with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
                case.call(dispatched, [normal(4, 4, 8, 8, seed=1), other[:, :4].contiguous()], modules)
        with pytest.raises(RuntimeError):
            ops.total([ops.relu(x), ops.relu(other)])
    with pytest.raises(ValueError, match="zip"):
        ops.total([x, x], [torch.ones(4)])
    with pytest.raises(RuntimeError, match="must match"):
        ops.total([x, x], [torch.ones(2), None])


def test_factors_may_have_a_gradient(kernels: bool) -> None:
    x, factor_B = normal(4, 6, 8, 8, seed=1), torch.ones(4, requires_grad=True)
    ops.total([ops.relu(x), x], [factor_B, None]).sum().backward()
    torch.testing.assert_close(factor_B.grad, x.relu().sum((1, 2, 3)))


def test_maps_that_no_kernel_takes_are_computed_wherever_they_are_given(kernels: bool) -> None:
    first, second = (normal(*SHAPE, seed=seed) for seed in (1, 2))
    last, pending = first.contiguous(memory_format=torch.channels_last), ops.relu(second)
    assert isinstance(pending, Tensor) is not kernels
    expected = first + second.relu()
    for given in ([last, pending], (last, pending)):
        torch.testing.assert_close(ops.total(given), expected)
        torch.testing.assert_close(ops.total(xs=given, factors=None), expected)
    half = ops.max_pool(x=ops.relu(second.double()), stride=2)
    torch.testing.assert_close(half, ops.max_pool.plain(second.double().relu(), 2))


@pytest.mark.parametrize("name", ["dense 3", "separable 3, stride 1", "joined", "reduction", "batch norm"])
def test_autocast_to_float16_is_the_plain_form_s(name: str) -> None:
    case = CASES[name]
    given = Given.of(case)
    expected = case.call(plain, given.double().maps("as they are"), given.double().modules)
    with torch.autocast("cpu", torch.float16):
        y = case.call(dispatched, given.maps("as they are"), given.modules)
    assert isinstance(expected, Tensor)
    assert isinstance(y, Tensor)
    assert y.dtype == (torch.float32 if name == "batch norm" else torch.float16)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-2 * float(expected.detach().abs().max()))


def test_without_numba_the_plain_forms_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    for module in [name for name in sys.modules if name.startswith("enas.cpu")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(enas, "cpu", None, raising=False)
    found = ops._kernels.__wrapped__
    monkeypatch.setattr(ops, "_kernels", found)
    assert found() == {}
    x = normal(*SHAPE, seed=1).requires_grad_()
    y = ops.relu(ops.conv_norm(x, conv(4, 6, 3), norm(6)))
    assert isinstance(y, Tensor)
    y.sum().backward()
    assert x.grad is not None
