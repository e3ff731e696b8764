"""A device that is not there: its tensors say that they are on it, and are computed on the CPU.

What a GPU refuses, it refuses: operands on two devices, a generator of another device, and float64 where it is asked to.
Every wait for it is counted. What it copies to the CPU on its own time holds NaN until somebody has waited for it. Values,
checkpoints and control flow are real.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from enas.runtime import transfers

DEVICE, CPU = torch.device("meta"), torch.device("cpu")  # autograd knows no device that is absent but meta
aten = torch.ops.aten

COPIES = (aten._to_copy.default, aten.copy_.default, aten._foreach_copy_.default)
INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)
OF_UNKNOWN_SHAPE = (aten.nonzero.default, aten.masked_select.default, aten._unique2.default)
"""The CPU has to know their shape, and so waits."""


class There(torch.Tensor):
    """A tensor that says it is on DEVICE, and holds one of the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls: type, held: Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), dtype=held.dtype, device=DEVICE
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of the mode")

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # how a checkpoint has it

    def __deepcopy__(self, memo: dict[int, Any]) -> There:
        if id(self) not in memo:
            copied = There(self.held.clone())
            if isinstance(self, torch.nn.Parameter):
                copied = torch.nn.Parameter(copied, self.requires_grad)
            memo[id(self)] = copied
        found: There = memo[id(self)]
        return found

    def tolist(self) -> Any:
        return self.cpu().tolist()


class PretendedDevice(TorchDispatchMode):
    """Inside, what is sent to DEVICE is there."""

    def __init__(self, float64: bool = True) -> None:
        """`float64` says whether it has numbers of 64 bits."""
        super().__init__()
        self.float64 = float64
        self.waits: Counter[str] = Counter()
        """What was waited for: operations, and `late` for what had been under way."""
        self.pinned: set[int] = set()
        """Where pinned memory begins. It is never given back, so that no other tensor lies there."""
        self.under_way: list[tuple[Tensor, Tensor]] = []
        """What is still to be copied, and to where."""
        self._kept: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat, spec = tree_flatten((args, kwargs or {}))
        there = {id(x.held): x for x in flat if isinstance(x, There)}
        here = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, There) and x.dim()]
        to = next((x for x in flat if isinstance(x, torch.device)), DEVICE if there else CPU)
        later = bool((kwargs or {}).get("non_blocking"))
        if func is aten.copy_.default:
            later = later or (len(args) > 2 and bool(args[2]))
        self._check(func, flat, there, here, to)
        self._count(func, args, there, here, to, later)
        bare = [x.held if isinstance(x, There) else CPU if isinstance(x, torch.device) else x for x in flat]
        bare_args, bare_kwargs = tree_unflatten(bare, spec)
        if there and to == CPU and later:  # into memory that torch has pinned by itself
            found: Tensor = func(*bare_args, **bare_kwargs)
            return self._send(found.clone(), torch.empty_like(found))
        if func is aten.copy_.default and later and not isinstance(args[0], There) and there:
            return self._send(args[1].held.clone(), args[0])

        def wrap(x: Any) -> Any:
            if id(x) in there:
                return there[id(x)]
            if to != DEVICE or not isinstance(x, Tensor):
                return x
            if x.dtype == torch.float64 and not self.float64:
                raise TypeError(f"{func}: this device has no float64")
            return There(x)

        return tree_map(wrap, func(*bare_args, **bare_kwargs))

    def _check(self, func: Any, flat: list[Any], there: Any, here: list[Tensor], to: torch.device) -> None:
        if there and here and func not in (*COPIES, *INDEXING):
            raise RuntimeError(f"{func} mixes devices: {[tuple(x.shape) for x in here]} on the CPU")
        if to == DEVICE and any(isinstance(x, torch.Generator) for x in flat):
            raise RuntimeError(f"{func}: a generator of the CPU draws nothing on another device")
        if there and to == CPU and torch.float64 in flat and not self.float64:
            raise TypeError(f"{func}: this device has no float64")  # copies convert before they leave

    def _count(
        self, func: Any, args: Any, there: Any, here: list[Tensor], to: torch.device, later: bool
    ) -> None:
        name = func._schema.name.removeprefix("aten::")
        fetches = (to == CPU and func in COPIES) or (
            func is aten.copy_.default and not isinstance(args[0], There)
        )
        if there and (func is aten._local_scalar_dense.default or func in OF_UNKNOWN_SHAPE):
            self.waits[name] += 1
        elif there and fetches:
            self.waits[f"{name} to the CPU"] += not later
        elif func in COPIES and to == DEVICE and not (later and all(self._is_pinned(x) for x in here)):
            self.waits[f"{name} from the CPU"] += bool(here) or not there
        elif func in INDEXING and there:
            indices = [x for x in tree_flatten(args[1])[0] if isinstance(x, Tensor)]
            known = bool(here) or any(x.dtype in (torch.bool, torch.uint8) for x in indices)
            self.waits[f"{name} by what the CPU has to know"] += known

    def _is_pinned(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self.pinned

    def _send(self, value: Tensor, place: Tensor) -> Tensor:
        if place.is_floating_point():
            place.fill_(torch.nan)
        self.under_way.append((value, place))
        return place

    # ---- what stands in for CUDA's -------------------------------------------------------------------------------------

    def pin(self, tensor: Tensor) -> Tensor:
        """A copy in pinned memory."""
        copied = tensor.clone()
        self._kept.append(copied)
        self.pinned.add(copied.untyped_storage().data_ptr())
        return copied

    def mark(self, device: torch.device) -> Mark:
        """An event after what is under way."""
        return Mark(self, list(self.under_way))

    def wait(self) -> None:
        """Wait for all that is under way."""
        for value, place in self.under_way:
            place.copy_(value)
        self.under_way.clear()


class Mark:
    """An event of the pretended device."""

    def __init__(self, device: PretendedDevice, before: list[tuple[Tensor, Tensor]]) -> None:
        self.device = device
        self.before = before

    def synchronize(self) -> None:
        """Wait until what was under way is there."""
        self.device.waits["late"] += 1
        for value, place in self.before:
            place.copy_(value)


@contextmanager
def pretended(patch: pytest.MonkeyPatch, float64: bool = True) -> Iterator[PretendedDevice]:
    """Inside, runs compute on the pretended device, which takes work ahead of what it does."""
    device = PretendedDevice(float64)
    for module in ("config", "run"):
        patch.setattr(f"enas.{module}.pick_device", lambda name: DEVICE)
    patch.setattr("torch.accelerator.synchronize", lambda where: device.wait())
    patch.setattr("enas.ops._len_torch_dispatch_stack", lambda: 0)  # checks and kernels as without this mode
    for name in ("sgd", "adam"):  # which ask whether DEVICE has such a kernel
        patch.setattr(
            sys.modules[f"torch.optim.{name}"], "_device_dtype_check_for_fused", lambda parameter: None
        )
    as_a_gpu(patch, pin=device.pin, mark=device.mark)
    with device:
        yield device


def as_a_gpu(
    patch: pytest.MonkeyPatch, pin: Callable[[Tensor], Tensor], mark: Callable[[torch.device], Any]
) -> None:
    """DEVICE is one that takes work ahead; `pin` and `mark` stand in for CUDA's pinned memory and events."""
    for module in ("enas.runtime.transfers", "enas.trainer", "enas.task", "enas.tasks.language"):
        patch.setattr(f"{module}.queues", lambda device: device == DEVICE)
    patch.setattr("enas.gpu.registry.why_not", lambda device: None if device == DEVICE else "another device")
    patch.setattr(transfers, "pinned", pin)
    patch.setattr(transfers, "marked", mark)
