"""Speed of each operation of `enas.ops`: as the networks call it, against its plain form in torch.

Command:  python benchmarks/operations.py      (about 4 minutes on 2 cores, a minute more where kernels are compiled first)
Prints:   one JSON line a figure, and one for the operations that a kernel takes over though it is slower there.

Every figure is of one operation at one size of the recipes' networks, forward and backward. Three forms of it are measured
in turn in one process. `times_plain` and `times_channels_last` are medians over the turns: the seconds of that form divided
by those of `enas`, so that more than 1 means that the package is faster.

enas           the operation as it is called: a compiled kernel where there is one (`kernel` says so). An operation that
               ends with a norm stands between maps whose norm and ReLU are still to come, as in a network.
plain          the plain form of `ops.py`, and the ReLU after a norm, between tensors.
channels_last  the same with maps and filters in channels_last: a network that is all in this order.

In bf16 all of them run under autocast, and the maps of the plain forms are in bfloat16, as autocast leaves them.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import torch
from convolution_floor import seconds_of
from recurrent import BATCH, DTYPES, PUBLISHED, STEPS, VOCABULARY, print_record
from torch import Tensor, nn

from enas import ops
from enas.cell_plan import Recurrence
from enas.ops import Maps, Operation
from enas.runtime.devices import products_in
from enas.runtime.memory import keep_freed_memory
from enas.spaces.recurrent.net import cell_plan

CPU = torch.device("cpu")
SHORTEST = 0.01
"""Seconds that are measured at once: a quicker operation is called several times."""
TOLERATED = 1.05
"""How many times as long as the plain form a kernel may take."""

Form = Callable[[], object]
"""One pass forward and backward."""


class MapsCase(NamedTuple):
    """An operation on feature maps."""

    operation: Operation[..., Any]
    network: str
    shape: tuple[int, int, int, int]
    """Of one part: images, channels, rows, columns."""
    modules: Callable[[], Sequence[nn.Module]] = list
    """Convolutions, and the norm as the last one."""
    parts: int | None = None
    """How many maps are given in a list; None for a single one that is not in a list."""
    stride: int | None = None
    """Of pooling."""
    pending: bool = True
    """Whether the maps that come in have a norm and a ReLU still to be done."""

    @property
    def size(self) -> str:
        """The size in words."""
        convs = [m for m in self.modules() if isinstance(m, nn.Conv2d)]
        filters = [
            f"{c.kernel_size[0]}x{c.kernel_size[1]} to {c.out_channels}, stride {c.stride[0]}" for c in convs
        ]
        words = ["x".join(map(str, self.shape)), *dict.fromkeys(filters)]
        if self.parts is not None:
            words.append(f"{self.parts} parts")
        if self.stride is not None:
            words.append(f"stride {self.stride}")
        return f"{self.network}: {', '.join(words)}"

    def call(self, operation: Callable[..., Maps], xs: Sequence[Maps], modules: Sequence[Any]) -> Maps:
        """The operation, in one form of it."""
        given: Any = xs[0] if self.parts is None else list(xs)
        *convs, norm = modules or [None]
        half = len(convs) // 2
        more: list[Any] = [*convs, norm] if modules else []
        if self.operation is ops.joined_norm:
            more = [convs, norm]
        elif self.operation is ops.reduction_norm:
            more = [convs[:half], convs[half:], norm]
        elif self.stride is not None:
            more = [self.stride]
        return operation(given, *more)

    def forms(self, dtype: torch.dtype) -> dict[str, Form]:
        """Every form, in one type of the products."""
        zs = [torch.randn(self.shape) for _ in range(self.parts or 1)]
        own, modules = [self._pending(z) for z in zs], self.modules()
        forms = {"enas": self._form(self.operation, own, modules, dtype)}
        for name, order in (("plain", torch.contiguous_format), ("channels_last", torch.channels_last)):
            xs = [
                (z.relu() if self.pending else z).to(dtype).contiguous(memory_format=order).requires_grad_()
                for z in zs
            ]
            ordered = [module.to(memory_format=order) for module in self.modules()]
            forms[name] = self._form(self._plain, xs, ordered, dtype)
        return forms

    def has_kernel(self) -> bool:
        """Whether a kernel takes the call."""
        kernel = ops._kernels().get(self.operation.plain.__name__)
        xs = [self._pending(torch.randn(self.shape)) for _ in range(self.parts or 1)]
        return kernel is not None and self.call(kernel, xs, self.modules()) is not None

    def _plain(self, *arguments: Any) -> Maps:
        with mock.patch.object(ops, "_kernels", dict):  # a plain form is made of operations
            y: Maps = self.operation.plain(*arguments)
        return y.relu() if self.modules() else y

    def _pending(self, z_BCHW: Tensor) -> Maps:
        """Maps as a network's operations hand them on: with a norm and a ReLU to come, where there are kernels."""
        x: Maps = z_BCHW
        if self.pending:
            with torch.no_grad():
                x = ops.relu(ops.batch_norm(x, nn.BatchNorm2d(self.shape[1]).eval()))
        if isinstance(x, Tensor):
            return x.requires_grad_()
        return type(x)(*(part.requires_grad_() if isinstance(part, Tensor) else part for part in x))

    def _form(
        self, operation: Callable[..., Maps], xs: Sequence[Maps], modules: Sequence[Any], dtype: torch.dtype
    ) -> Form:
        leaves = [leaf for x in xs for leaf in tensors_of(x)]
        leaves += [parameter for module in modules for parameter in module.parameters()]
        gradients: list[Tensor] = []

        def run() -> object:
            with products_in(dtype, CPU):
                y = self.call(operation, xs, modules)
            outputs = [part for part in tensors_of(y) if part.requires_grad]
            if not gradients:
                gradients.extend(torch.randn_like(output) for output in outputs)
            return torch.autograd.grad(outputs, leaves, gradients)

        return run


def tensors_of(x: Maps) -> list[Tensor]:
    """The maps, or the parts of maps on which something is still to be done."""
    return [x] if isinstance(x, Tensor) else [part for part in x if isinstance(part, Tensor)]


class RecurrentCase(NamedTuple):
    """The paper's published cell over a window, or the loss after it."""

    operation: Operation[..., Any]
    hidden: int

    @property
    def size(self) -> str:
        """The size in words."""
        return f"recurrent, hidden {self.hidden}: {STEPS} steps of {BATCH}"

    def has_kernel(self) -> bool:
        """Whether a kernel takes the call."""
        return self.operation.plain.__name__ in ops._kernels()

    def forms(self, dtype: torch.dtype) -> dict[str, Form]:
        """The kernel's and the plain form."""

        def normal(*shape: int) -> Tensor:
            return (torch.randn(shape) / math.sqrt(shape[-2])).requires_grad_()

        D = self.hidden
        if self.operation is ops.recurrence:
            plan = cell_plan(PUBLISHED, "loose-ends")
            weights = [normal(D, 2 * D) for _ in plan.functions]
            leaves = [normal(STEPS, BATCH, 2 * D), normal(BATCH, D), *weights]
            arguments: tuple[Any, ...] = (*leaves[:2], weights[0], weights[1:], plan)
        else:
            leaves = [normal(STEPS * BATCH, D), normal(VOCABULARY, D)]
            arguments = (*leaves, torch.randint(VOCABULARY, (STEPS * BATCH,)))

        def form(operation: Callable[..., Any]) -> Form:
            def run() -> object:
                with products_in(dtype, CPU):
                    y = operation(*arguments)
                y = y.output_TBD if isinstance(y, Recurrence) else y
                return torch.autograd.grad(y.sum(), leaves)

            return run

        return {"enas": form(self.operation), "plain": form(self.operation.plain)}


Case = MapsCase | RecurrentCase


# ---- the sizes of the recipes' networks --------------------------------------------------------------------------------


def conv(channels: int, out: int, width: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution as networks have it."""
    return nn.Conv2d(channels, out, width, stride, width // 2, groups=groups, bias=False)


def dense(network: str, images: int, channels: int, out: int, pixels: int, width: int) -> MapsCase:
    """A dense convolution."""
    return MapsCase(
        ops.conv_norm,
        network,
        (images, channels, pixels, pixels),
        lambda: [conv(channels, out, width), nn.BatchNorm2d(out)],
    )


def separable(network: str, images: int, channels: int, pixels: int, width: int, stride: int = 1) -> MapsCase:
    """A separable convolution."""
    return MapsCase(
        ops.separable_norm,
        network,
        (images, channels, pixels, pixels),
        lambda: [
            conv(channels, channels, width, stride, channels),
            conv(channels, channels, 1),
            nn.BatchNorm2d(channels),
        ],
    )


def joined(network: str, images: int, channels: int, pixels: int, parts: int) -> MapsCase:
    """A convolution of a concatenation."""
    return MapsCase(
        ops.joined_norm,
        network,
        (images, channels, pixels, pixels),
        lambda: [*(conv(channels, channels, 1) for _ in range(parts)), nn.BatchNorm2d(channels)],
        parts,
    )


def reduction(network: str, images: int, channels: int, out: int, pixels: int, parts: int = 1) -> MapsCase:
    """A factorized reduction."""
    return MapsCase(
        ops.reduction_norm,
        network,
        (images, channels, pixels, pixels),
        lambda: [*(conv(channels, out // 2, 1, 2) for _ in range(2 * parts)), nn.BatchNorm2d(out)],
        parts,
    )


def weightless(network: str, images: int, channels: int, pixels: int, stride: int = 1) -> Iterator[MapsCase]:
    """Pools, sums and means."""
    shape = (images, channels, pixels, pixels)
    for pool in (ops.average_pool, ops.max_pool):
        yield MapsCase(pool, network, shape, stride=stride, pending=False)
    if stride == 1:
        yield MapsCase(ops.total, network, shape, parts=2, pending=False)
        yield MapsCase(ops.global_average, network, shape, pending=False)


def cases() -> Iterator[Case]:
    """Every operation at the sizes of the recipes' networks."""
    for pixels in (32, 16, 8):
        where = "macro search"
        yield from (dense(where, 128, 36, 36, pixels, width) for width in (1, 3, 5))
        yield from (separable(where, 128, 36, pixels, width) for width in (3, 5))
        yield joined(where, 128, 36, pixels, 3)
        yield from weightless(where, 128, 36, pixels)
        shape = (128, 36, pixels, pixels)
        yield MapsCase(ops.total_norm, where, shape, lambda: [nn.BatchNorm2d(36)], 3)
    yield dense("macro search", 128, 3, 36, 32, 3)
    yield reduction("macro search", 128, 36, 36, 32)
    for channels, pixels in ((20, 32), (40, 16), (80, 8)):
        where = "micro search"
        yield from (separable(where, 160, channels, pixels, width) for width in (3, 5))
        yield joined(where, 160, channels, pixels, 4)
        yield from weightless(where, 160, channels, pixels)
        if pixels > 8:
            yield from (separable(where, 160, 2 * channels, pixels, width, 2) for width in (3, 5))
            yield reduction(where, 160, channels, 2 * channels, pixels)
            yield reduction(where, 160, channels, 2 * channels, pixels, 3)
            yield from weightless(where, 160, 2 * channels, pixels, 2)
    yield dense("micro search", 160, 3, 60, 32, 3)
    yield dense("micro search", 160, 60, 20, 32, 1)
    for channels, pixels in ((96, 32), (192, 16), (384, 8)):
        where = "macro child"
        yield from (dense(where, 16, channels, channels, pixels, width) for width in (1, 3, 5))
        yield from (separable(where, 16, channels, pixels, width) for width in (3, 5))
        yield joined(where, 16, channels, pixels, 3)
    for channels, pixels in ((36, 32), (72, 16), (144, 8)):
        where = "micro child"
        yield from (separable(where, 36, channels, pixels, width) for width in (3, 5))
        yield joined(where, 36, channels, pixels, 4)
    for channels in (12, 32, 56):
        where = "digits"
        yield from (dense(where, 64, channels, channels, 8, width) for width in (1, 3, 5))
        yield from (separable(where, 64, channels, 8, width) for width in (3, 5))
        yield joined(where, 64, channels, 8, 3)
    for operation in (ops.recurrence, ops.tied_cross_entropy):
        yield from (RecurrentCase(operation, hidden) for hidden in (200, 1000))


# ---- figures -----------------------------------------------------------------------------------------------------------


def resized(case: Case, batch: int | None) -> Case:
    """The case with so many images; a recurrent one, or without a number, as it is."""
    if batch is None or isinstance(case, RecurrentCase):
        return case
    return case._replace(shape=(batch, *case.shape[1:]))


def measure(case: Case, dtype: str, rounds: int) -> dict[str, float]:
    """Print the figure of a case; returns how many times as long each plain form takes."""
    forms = case.forms(DTYPES[dtype])
    for form in forms.values():  # kernels are compiled at their first call
        form()
    calls = {name: math.ceil(SHORTEST / seconds_of(form)) for name, form in forms.items()}

    def seconds(name: str) -> float:
        return seconds_of(lambda: [forms[name]() for _ in range(calls[name])]) / calls[name]

    turns = [{name: seconds(name) for name in forms} for _ in range(rounds)]
    times = {
        name: statistics.median(turn[name] / turn["enas"] for turn in turns)
        for name in forms
        if name != "enas"
    }
    print_record(
        {
            "operation": case.operation.plain.__name__,
            "size": case.size,
            "dtype": dtype,
            "threads": torch.get_num_threads(),
            "kernel": case.has_kernel(),
            "milliseconds": 1000 * statistics.median(turn["enas"] for turn in turns),
            **{f"times_{name}": ratio for name, ratio in times.items()},
        }
    )
    return times


def main() -> None:
    """Measure what the flags ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(dict.fromkeys(case.operation.plain.__name__ for case in cases()))
    parser.add_argument("--operation", choices=names, nargs="+", default=names)
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=["fp32"])
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--batch", type=int, help="images; by default those of the recipes' steps")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each operation")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    keep_freed_memory()  # as the command line does
    slower = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for dtype in arguments.dtype:
            for case in (resized(case, arguments.batch) for case in cases()):
                if case.operation.plain.__name__ in arguments.operation:
                    times = measure(case, dtype, arguments.rounds)
                    if case.has_kernel() and times["plain"] < 1 / TOLERATED:
                        slower.append(
                            f"{case.operation.plain.__name__}, {case.size}, {dtype}, {threads} threads"
                        )
    print_record({"slower": slower})


if __name__ == "__main__":
    main()
