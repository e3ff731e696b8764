"""What a step gives a GPU to do, counted at a recipe's real size on tensors without memory: launches, bytes and waits.

A launch is counted for each operation that reads or writes memory on the device. Views and allocations are free, and lists
of tensors are launched in the groups that torch's CUDA kernels take. Bytes are those that operations read and write.
"""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from enas.data.images import ImageData, ImageSet
from enas.data.text import Corpus
from enas.recipes import recipe
from enas.retrain import Network
from enas.shared_weights import SharedWeights
from tests.device.pretended import CPU, DEVICE, as_a_gpu

FREE = {
    *(
        "view",
        "_unsafe_view",
        "t",
        "transpose",
        "detach",
        "expand",
        "slice",
        "select",
        "unsqueeze",
        "squeeze",
        "permute",
    ),
    *(
        "alias",
        "as_strided",
        "split",
        "split_with_sizes",
        "unbind",
        "reshape",
        "lift_fresh",
        "unfold",
        "narrow",
    ),
    *("view_as", "diagonal", "_reshape_alias", "unsafe_split", "unsafe_chunk", "chunk", "is_pinned"),
    *("empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided"),
}
MORE = {"convolution_backward": 2, "constant_pad_nd": 2}
"""Operations that are several launches: two gradients; to fill, and to copy."""
LISTS = {1: 110, 2: 64, 3: 48, 4: 36}
"""How many tensors a launch takes of so many lists of them."""
CHUNK, CHUNKS = 65_536, 320
"""Elements of a piece of a tensor, and pieces of a launch."""
JOINED = 128
"""Tensors that one launch concatenates."""


@dataclass
class Count(TorchDispatchMode):
    """Inside, what is computed on DEVICE is counted, and not done."""

    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    bytes: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        device = kwargs.get("device")
        there = any(x.is_meta for x in given)
        if name == "_local_scalar_dense" and there:
            self.waits[name] += 1
            return False if given[0].dtype == torch.bool else 1.0 if given[0].is_floating_point() else 1
        if name == "_to_copy" and device is not None and (device == DEVICE) != there:
            return self._moved(given[0], device, kwargs)
        if name == "copy_" and args[0].is_meta != args[1].is_meta:
            self.launches["copy_"] += 1
            self.waits["copy_"] += not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            return args[0] if args[0].is_meta else args[0].fill_(1)
        result = None if name.startswith("_fused_") and there else func(*args, **kwargs)
        made = [x for x in tree_flatten(result)[0] if isinstance(x, Tensor)]
        if (there or any(x.is_meta for x in made)) and name not in FREE:
            self.launches[name] += launches(name, args, given)
            of_one = name.startswith(
                "enas::"
            )  # of the stacks of all nodes [N, A, B, D] such a pass reads about one
            self.bytes += sum(
                x.nbytes // (len(x) if of_one and x.dim() == 4 else 1) for x in [*given, *made] if x.is_meta
            )
        return result

    def _moved(self, tensor: Tensor, device: Any, kwargs: dict[str, Any]) -> Tensor:
        self.launches["_to_copy"] += 1
        self.waits["_to_copy"] += not kwargs.get("non_blocking")
        dtype = kwargs.get("dtype") or tensor.dtype
        if torch.device(device) == CPU:
            return torch.ones(tensor.shape, dtype=dtype)
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device=DEVICE)


def launches(name: str, args: Sequence[Any], given: Sequence[Tensor]) -> int:
    """How many launches an operation is."""
    lists = [x for x in args if isinstance(x, list | tuple) and x and isinstance(x[0], Tensor)]
    if name.startswith(("_foreach", "_fused")):
        by_number = math.ceil(len(lists[0]) / LISTS[min(4, len(lists))])
        pieces = sum(math.ceil(x.numel() / CHUNK) for x in lists[0])
        return max(by_number, math.ceil(pieces / CHUNKS)) + (name == "_foreach_norm")
    if name in ("cat", "stack"):
        return math.ceil(len(given) / JOINED)
    return MORE.get(name, 1)


IN_SHORT = {
    *(torch.mm, torch.bmm, torch.matmul, torch.addmm, torch.conv2d, F.conv2d, F.linear),
    *(Tensor.mm, Tensor.bmm, Tensor.matmul, Tensor.__matmul__),
}
IN_FULL = {
    *(
        F.cross_entropy,
        F.nll_loss,
        F.log_softmax,
        F.softmax,
        torch.pow,
        torch.rsqrt,
        torch.exp,
        torch.log,
        torch.sum,
    ),
    *(
        Tensor.pow,
        Tensor.__pow__,
        Tensor.rsqrt,
        Tensor.exp,
        Tensor.log,
        Tensor.sum,
        Tensor.softmax,
        Tensor.log_softmax,
    ),
}
"""What CUDA's autocast computes in the short type, and what in float32, as far as the package calls it."""


class Autocast(TorchFunctionMode):
    """CUDA's autocast, which torch does not have for DEVICE: the weights are converted once inside, as there."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.converted: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        dtype = self.dtype if func in IN_SHORT else torch.float32 if func in IN_FULL else None
        if dtype is not None:
            args, kwargs = tree_map_only(Tensor, lambda x: self._as(x, dtype), (args, kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _as(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        if x.dtype == dtype or not x.is_floating_point() or x.dtype == torch.float64:
            return x
        if not (x.is_leaf and x.requires_grad):
            return x.to(dtype)
        if id(x) not in self.converted:
            self.converted[id(x)] = x.to(dtype)
        return self.converted[id(x)]


class Done:
    """An event that has come."""

    def synchronize(self) -> None:
        """There is nothing to wait for."""


def config_on_the_device(name: str, patch: pytest.MonkeyPatch, **changes: Any) -> Any:
    """A recipe with random data, whose networks are on DEVICE."""
    as_a_gpu(patch, pin=lambda tensor: tensor, mark=lambda device: Done())
    patch.setattr("enas.config.pick_device", lambda name: DEVICE)
    patch.setattr("enas.ops._len_torch_dispatch_stack", lambda: 0)
    patch.setattr(sys.modules["torch.optim.sgd"], "_device_dtype_check_for_fused", lambda parameter: None)
    patch.setattr(torch.nn.init, "trunc_normal_", lambda weight, *args, **kwargs: weight)  # takes its time
    patch.setattr("enas.spaces.recurrent.net.uniform_", lambda weight, *args, **kwargs: weight)
    if changes.get("precision") == "bf16":
        patch.setattr("enas.task.products_in", lambda dtype, device: Autocast(dtype))
        patch.setattr("enas.gpu.recurrence.type_of_products", lambda x: torch.bfloat16)
    config: Any = replace(recipe(name), **changes)
    vars(config).update(images=images(), corpus=corpus())  # in the place of data that are loaded once
    return config


def weights_of(name: str, patch: pytest.MonkeyPatch, **changes: Any) -> SharedWeights:
    """The shared weights of a recipe."""
    with Count():
        weights: SharedWeights = config_on_the_device(name, patch, **changes).shared_weights()
    return weights


def steps_of(name: str, patch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Count]:
    """What a weight step, a reward and a step of a child cost with a recipe, along one random architecture."""
    config = config_on_the_device(name, patch, **changes)
    with Count():
        weights = config.shared_weights()
        architecture = weights.space.sample(random.Random(1))
        training = config.child_training(Network("found", architecture, 0))
    return {
        "weights": of_the_second(lambda step: weights.train_step(0, step, [architecture])),
        "reward": of_the_second(lambda step: weights.rewards([architecture], "counted", step)),
        "child": of_the_second(lambda step: training.step()),
    }


def of_the_second(step: Callable[[int], object]) -> Count:
    """What a step costs after another, which makes what is made once."""
    with Count():
        step(0)
    with Count() as count:
        step(1)
    return count


def images(size: int = 32, classes: int = 10) -> ImageData:
    """As many random images as the recipes' steps need."""
    draw = torch.Generator().manual_seed(0)

    def some() -> ImageSet:
        pixels = torch.randint(256, (600, 3, size, size), generator=draw, dtype=torch.uint8)
        return ImageSet(pixels, torch.arange(len(pixels)) % classes)

    return ImageData("random", tuple("abcdefghij"[:classes]), some(), some(), some(), {})


def corpus(words: int = 10_000) -> Corpus:
    """A random text."""
    draw = torch.Generator().manual_seed(0)
    train, valid, test = (torch.randint(words, (128 * n,), generator=draw) for n in (200, 100, 60))
    return Corpus("random", tuple(f"w{number}" for number in range(words)), train, valid, test, {})
