"""Compiled kernels on the threads that torch multiplies matrices with.

Torch's OpenMP threads stay awake between two products; a second pool of threads would fight them for the same cores.
So a kernel's rows are handed to that very pool, through `GOMP_parallel` of the OpenMP runtime torch is linked with.
Where there is none, as on Windows, kernels run on one thread.
"""

import contextlib
import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.targetconfig import ConfigStack
from numba.extending import intrinsic

Team = tuple[int, int]
"""Number of threads, address of `GOMP_parallel`."""


_ELEMENTS_THAT_PAY_FOR_THREADS = 8192


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
def split_rows(_typing: Any, team: Any, rows: Any, body: Any, arguments: Any) -> Any:
    """Call `body(first, last, *arguments)` for parts that cover all rows, on the threads of the team.

    Rows must not depend on each other. Which thread takes which part is left to chance, what is computed is not.
    """
    signature = types.void(team, types.intp, body, arguments)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        team, rows, _, arguments = values
        _, _, body_type, arguments_type = signature.args
        call = types.void(body_type, types.intp, types.intp, arguments_type)
        flags = ConfigStack.top_or_none().copy()
        flags.forceinline = True  # see enas.cpu.kernels.inlined
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
        inner.branch(loop)
        inner.position_at_end(loop)
        part = inner.atomic_rmw(
            "add", cgutils.gep_inbounds(inner, own, 0, 0), ir.Constant(word, 1), "monotonic"
        )
        inner.cbranch(inner.icmp_signed("<", part, parts), run, done)
        inner.position_at_end(run)
        bounds = [
            inner.sdiv(inner.mul(total, p), parts) for p in (part, inner.add(part, ir.Constant(word, 1)))
        ]
        body_value = context.get_dummy_value()
        context.call_internal_no_propagate(inner, compiled.fndesc, call, [body_value, *bounds, packed])
        inner.branch(loop)
        inner.position_at_end(done)
        inner.ret_void()

        data = builder.bitcast(shared, byte_pointer)
        with builder.if_else(builder.icmp_signed(">", threads, ir.Constant(word, 1))) as (many, one):
            with many:
                number = ir.IntType(32)
                gomp_type = ir.FunctionType(
                    ir.VoidType(), [work_type.as_pointer(), byte_pointer, number, number]
                )
                gomp = builder.inttoptr(builder.extract_value(team, 1), gomp_type.as_pointer())
                builder.call(gomp, [work, data, builder.trunc(threads, number), ir.Constant(number, 0)])
            with one:
                builder.call(work, [data])
        return context.get_dummy_value()

    return signature, generate
