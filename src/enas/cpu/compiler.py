"""How kernels are compiled, and how they run on the threads that torch multiplies matrices with.

Torch's OpenMP threads stay awake between two products; a second pool of threads would fight them for the same cores.
So a kernel's rows are handed to that very pool, through `GOMP_parallel` of the OpenMP runtime torch is linked with.
Where there is none, as on Windows, kernels run on one thread.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import numba
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.targetconfig import ConfigStack
from numba.extending import intrinsic

from enas.cpu.kept import KernelCache

# Fused multiply-adds are allowed, reordering of sums only where a kernel says so; division must not check for zero,
# as the check keeps the compiler from vectorising.
_OPTIONS: dict[str, Any] = {"fastmath": {"contract", "nsz"}, "error_model": "numpy"}

# Threads count references to an array at every row that they take of it, and wait for each other: up to half the time of a
# kernel of few rows. Code that counts none cannot make arrays.
UNCOUNTED: dict[str, Any] = _OPTIONS | {"_nrt": False}

Team = tuple[int, int]
"""Number of threads, address of `GOMP_parallel`."""

_ELEMENTS_THAT_PAY_FOR_THREADS = 8192


def array(x: torch.Tensor) -> Any:
    """The tensor's memory as a kernel sees it; bfloat16 as uint16."""
    x = x.detach()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


# ---- compiling ---------------------------------------------------------------------------------------------------------


def inlined(function: Callable[..., Any], options: Mapping[str, Any] = _OPTIONS) -> Any:
    """A function that kernels call; it becomes a part of each of them.

    Otherwise it would be compiled twice, alone and within the kernel. A process that compiles the kernel would run the
    first form, and one that reads the kernel from the disk the second, and the two may round differently.
    """
    return numba.njit(forceinline=True, **options)(function)


def by_type(choose: Callable[..., Callable[..., Any]]) -> Any:
    """A function that kernels call; `choose` returns its form for the numba types of its arguments."""

    def stub(*_: Any) -> None:
        """Never called: numba puts a form in its place."""

    stub.__name__ = stub.__qualname__ = choose.__name__
    numba.extending.overload(stub, jit_options=_OPTIONS | {"forceinline": True}, inline="never")(choose)
    return stub


def kernel(function: Callable[..., None], options: Mapping[str, Any] = _OPTIONS) -> Callable[..., None]:
    """Compile at the first call for each combination of types; kept on disk for the next process if it can be."""
    compiled = numba.njit(nogil=True, **options)(function)
    compiled._cache = KernelCache(function)
    return cast(Callable[..., None], compiled)


def parallel(body: Callable[..., None]) -> Callable[..., None]:
    """Compile `body(first_row, last_row, *arguments)` into `kernel(team, rows, *arguments)`; it cannot make arrays."""
    return _split(body, UNCOUNTED)


def parallel_with_scratch(body: Callable[..., None], **bound: Callable[..., Any]) -> Callable[..., None]:
    """As `parallel`, for a body that makes arrays; `bound` replaces global functions that the body calls."""
    name = "_".join([body.__name__, *(f.__name__ for f in bound.values())])
    return _split(with_globals(body, name, **bound), _OPTIONS)


def _split(body: Callable[..., None], options: Mapping[str, Any]) -> Callable[..., None]:
    return kernel(with_globals(_whole, body.__name__, _part=inlined(body, options)), options)


def with_globals(function: Any, name: str, **globals_: Any) -> FunctionType:
    """The function under another name, with other functions in the place of some that it calls."""
    # Not a closure: numba's cache on disk does not recognise closures again.
    copy = FunctionType(function.__code__, function.__globals__ | globals_, name)
    copy.__qualname__ = name
    return copy


def _part(_first: int, _last: int, *_arguments: Any) -> None:
    """Placeholder for the body that `parallel` binds."""


def _whole(team: Any, rows: int, *arguments: Any) -> None:
    _split_rows(team, rows, _part, arguments)


# ---- threads -----------------------------------------------------------------------------------------------------------


def team(elements: int) -> Team:
    """The threads that torch uses now (`torch.get_num_threads`), or one for few elements, some microseconds of work."""
    address = _gomp_parallel()
    if not address or elements < _ELEMENTS_THAT_PAY_FOR_THREADS:
        return 1, 0
    return torch.get_num_threads(), address


def shares_threads() -> bool:
    """Whether kernels can use more than one thread."""
    return _gomp_parallel() != 0


@cache
def _gomp_parallel(folder: Path = Path(torch.__file__).parent / "lib") -> int:
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):  # Linux, macOS
        with contextlib.suppress(OSError, AttributeError):
            function = ctypes.CDLL(str(folder / name)).GOMP_parallel
            return ctypes.cast(function, ctypes.c_void_p).value or 0
    return 0


def _run(body: Any, first: Any, last: Any, arguments: Any) -> None:
    body(first, last, *arguments)


@intrinsic
def _split_rows(_typing: Any, team: Any, rows: Any, body: Any, arguments: Any) -> Any:
    """Call `body(first, last, *arguments)` for parts that cover all rows, on the threads of the team.

    Rows must not depend on each other. Which thread takes which part is left to chance; the results do not depend on it.
    """
    signature = types.void(team, types.intp, body, arguments)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        team, rows, _, arguments = values
        _, _, body_type, arguments_type = signature.args
        call = types.void(body_type, types.intp, types.intp, arguments_type)
        flags = ConfigStack.top_or_none().copy()
        flags.forceinline = True  # see `inlined`
        compiled = context.compile_subroutine(builder, _run, call, flags=flags)

        # struct {next part; number of parts; rows; arguments}
        word, byte_pointer = ir.IntType(64), ir.IntType(8).as_pointer()
        shared_type = ir.LiteralStructType([word, word, word, arguments.type])
        threads = builder.extract_value(team, 0)
        shared = cgutils.alloca_once(builder, shared_type)
        for i, value in enumerate((ir.Constant(word, 0), threads, rows, arguments)):
            builder.store(value, cgutils.gep_inbounds(builder, shared, 0, i))

        # void work(shared): while (part = next++) < parts: run rows [rows * part / parts, rows * (part + 1) / parts)
        work_type = ir.FunctionType(ir.VoidType(), [byte_pointer])
        work = ir.Function(builder.module, work_type, builder.module.get_unique_name("work"))
        work.linkage = "internal"
        inner = ir.IRBuilder(work.append_basic_block("entry"))
        own = inner.bitcast(work.args[0], shared_type.as_pointer())
        parts, total, packed = (inner.load(cgutils.gep_inbounds(inner, own, 0, i)) for i in (1, 2, 3))
        loop, run, done = (work.append_basic_block(name) for name in ("loop", "run", "done"))
        one = ir.Constant(word, 1)
        inner.branch(loop)
        inner.position_at_end(loop)
        part = inner.atomic_rmw("add", cgutils.gep_inbounds(inner, own, 0, 0), one, "monotonic")
        inner.cbranch(inner.icmp_signed("<", part, parts), run, done)
        inner.position_at_end(run)
        bounds = [inner.sdiv(inner.mul(total, p), parts) for p in (part, inner.add(part, one))]
        body_value = context.get_dummy_value()
        context.call_internal_no_propagate(inner, compiled.fndesc, call, [body_value, *bounds, packed])
        inner.branch(loop)
        inner.position_at_end(done)
        inner.ret_void()

        data = builder.bitcast(shared, byte_pointer)
        with builder.if_else(builder.icmp_signed(">", threads, one)) as (by_many, by_one):
            with by_many:
                number = ir.IntType(32)
                gomp_type = ir.FunctionType(
                    ir.VoidType(), [work_type.as_pointer(), byte_pointer, number, number]
                )
                gomp = builder.inttoptr(builder.extract_value(team, 1), gomp_type.as_pointer())
                builder.call(gomp, [work, data, builder.trunc(threads, number), ir.Constant(number, 0)])
            with by_one:
                builder.call(work, [data])
        return context.get_dummy_value()

    return signature, generate
