"""The operations of the paper's networks in plain torch, for any device: the specification.

This is the only place that knows that there may be something faster. Where the compiled kernels of `enas.cpu` can be used,
an operation first asks the kernel of its name. A kernel that does not take a call returns `NotImplemented`, and the plain
form below runs. Feature maps travel as tensors; between kernels they may travel as `Deferred`, whose batch norm and ReLU
are done by whoever reads them next.

Shape letters: B images, C channels in, O channels out, H rows, W columns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.jit._trace import is_tracing
from torch.nn import functional as F

from enas.errors import ConfigError

if TYPE_CHECKING:
    from enas.cpu.deferred import Deferred

Maps: TypeAlias = "Tensor | Deferred"
"""Feature maps [B, C, H, W]."""

P = ParamSpec("P")
R = TypeVar("R")


@functools.cache
def _kernels() -> Mapping[str, Callable[..., Any]]:
    """The compiled kernels by the names of their operations; none where they cannot be used."""
    from enas.cpu.installed import has_numba

    if not has_numba():
        return {}
    from enas.cpu import KERNELS

    return KERNELS


class Operation(Generic[P, R]):
    """A function in plain torch, which a compiled kernel of the same name may take over."""

    def __init__(self, plain: Callable[P, R]) -> None:
        self.plain = plain
        functools.update_wrapper(self, plain)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the kernel makes of it, or else the plain form."""
        if torch.compiler.is_compiling() or is_tracing() or not (kernels := _kernels()):
            return self.plain(*args, **kwargs)
        kernel = kernels.get(self.plain.__name__)
        result = NotImplemented if kernel is None else kernel(*args, **kwargs)
        if result is NotImplemented:
            return self.plain(*(_computed(argument) for argument in args), **kwargs)
        taken: R = result
        return taken


def _computed(argument: Any) -> Any:
    """An argument as the plain form takes it: deferred maps, alone or in a sequence, are computed."""
    if hasattr(argument, "computed"):
        return argument.computed()
    return [_computed(part) for part in argument] if isinstance(argument, list) else argument


# ---- maps without weights ----------------------------------------------------------------------------------------------


@Operation
def computed(x: Maps) -> Tensor:
    """The feature maps as a tensor: what is deferred is done."""
    return x


@Operation
def relu(x: Maps) -> Maps:
    """max(x, 0)."""
    return F.relu(x)


@Operation
def total(xs: Sequence[Maps], factors: Sequence[Tensor | None] | None = None) -> Tensor:
    """The sum of feature maps of one shape; `factors` [B] has one for each image of a part, at least 0, or None for 1."""
    weighted = [
        x if factor_B is None else x * factor_B[:, None, None, None]
        for x, factor_B in zip(xs, [None] * len(xs) if factors is None else factors, strict=True)
    ]
    return weighted[0] if len(weighted) == 1 else torch.stack(weighted).sum(0)


@Operation
def concatenation(xs: Sequence[Maps]) -> Maps:
    """All parts as one, channel after channel."""
    return xs[0] if len(xs) == 1 else torch.cat(list(xs), 1)


@Operation
def average_pool(x: Maps, stride: int = 1) -> Maps:
    """Mean over 3×3 pixels, those beyond the border left out."""
    return F.avg_pool2d(x, 3, stride, padding=1, count_include_pad=False)


@Operation
def max_pool(x: Maps, stride: int = 1) -> Maps:
    """Largest of 3×3 pixels; of equal ones, the first row by row gets the gradient."""
    return F.max_pool2d(x, 3, stride, padding=1)


@Operation
def global_average(x: Maps) -> Tensor:
    """Mean over all pixels [B, C]."""
    return x.mean((2, 3))


# ---- convolutions, each with its norm ----------------------------------------------------------------------------------


@Operation
def batch_norm(x: Maps, norm: nn.BatchNorm2d) -> Maps:
    """norm(x) (Ioffe & Szegedy 2015). Raises `ConfigError` where a minibatch has one value a channel, as nothing varies."""
    _check_varies(x, norm)
    normalised: Tensor = norm(x)
    return normalised


@Operation
def conv_norm(x: Maps, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Maps:
    """norm(conv(x)) [B, O, H / stride, W / stride]."""
    return batch_norm(conv(x), norm)


@Operation
def separable_norm(x: Maps, depthwise: nn.Conv2d, pointwise: nn.Conv2d, norm: nn.BatchNorm2d) -> Maps:
    """norm(pointwise(depthwise(x))): a depthwise-separable convolution, the stride in its depthwise part."""
    return batch_norm(pointwise(depthwise(x)), norm)


@Operation
def joined_norm(xs: Sequence[Maps], convs: Sequence[nn.Conv2d], norm: nn.BatchNorm2d) -> Maps:
    """norm(Σ conv(x)) of 1×1 convolutions: one convolution of the concatenation, in blocks of columns."""
    weight_OC11 = torch.cat([conv.weight for conv in convs], 1)
    return batch_norm(F.conv2d(torch.cat(list(xs), 1), weight_OC11), norm)


@Operation
def reduction_norm(
    xs: Sequence[Maps], evens: Sequence[nn.Conv2d], odds: Sequence[nn.Conv2d], norm: nn.BatchNorm2d
) -> Maps:
    """Half the size: a 1×1 convolution of the even rows and columns of the concatenation beside one of the odd ones.

    For an odd size the image is continued by one row and column of zeros.
    """
    x_BCHW = torch.cat(list(xs), 1)
    shifted_BCHW = F.pad(x_BCHW, (0, 1, 0, 1))[:, :, 1:, 1:]
    halves = [
        F.conv2d(half_BCHW, torch.cat([conv.weight for conv in convs], 1), stride=2)
        for half_BCHW, convs in ((x_BCHW, evens), (shifted_BCHW, odds))
    ]
    return batch_norm(torch.cat(halves, 1), norm)


@Operation
def total_norm(xs: Sequence[Maps], norm: nn.BatchNorm2d) -> Maps:
    """norm(Σ xs)."""
    return batch_norm(total(xs), norm)


def _check_varies(x: Maps, norm: nn.BatchNorm2d) -> None:
    B, _, H, W = x.shape
    if norm.training and B * H * W == 1:
        raise ConfigError(
            "a batch norm needs more than one value a channel, and this minibatch is one image of one pixel: "
            "take larger images, or minibatches that leave no single image over"
        )
