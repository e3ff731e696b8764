"""Sums, pooling, averages and norms of feature maps in one pass over memory each way, on a CPU in float32.

These are the operations of the same names of `enas.ops`, whose plain form is the specification. The compiled part is
`enas.cpu.map_kernels`.

Shape letters: B images, C channels, H rows, W columns, P = H · W, R = B · C, n parts of a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from enas.cpu import map_kernels as kernels
from enas.cpu.deferred import Deferred, deferred
from enas.cpu.kernels import array
from enas.cpu.node import apply
from enas.cpu.normed import NormInputs, counts, normalised, output_gradient, with_norm
from enas.cpu.parts import addresses
from enas.cpu.registry import takes, takes_over
from enas.cpu.threads import team

Maps = Tensor | Deferred


@takes_over("computed")
def computed(x: Maps) -> Tensor:
    """The feature maps as a tensor."""
    return x.computed() if isinstance(x, Deferred) else x


@takes_over("relu")
def relu(x: Maps) -> Deferred | None:
    """Left to whoever reads the maps."""
    return deferred(x).relu() if takes(x) else None


@takes_over("concatenation")
def concatenation(xs: Sequence[Maps]) -> Maps | None:
    """All parts as one, in memory; their norms are still to come. Either every part is rectified or none."""
    if len(xs) == 1:
        return xs[0]
    parts = list(map(deferred, xs))
    if not takes(*parts) or len({x.rectified for x in parts}) > 1:
        return None
    z_BCHW, rectified = torch.cat([x.z_BCHW for x in parts], 1), parts[0].rectified
    if all(x.scale_C is None for x in parts):
        return Deferred(z_BCHW, rectified=rectified)
    scales, shifts = zip(*(x.affine() for x in parts), strict=True)
    return Deferred(z_BCHW, torch.cat(scales), torch.cat(shifts), rectified)


@takes_over("total")
def total(xs: Sequence[Maps], factors: Sequence[Tensor | None] | None = None) -> Tensor | None:
    """Sums, and single maps on which something is still to be done."""
    factors = [None] * len(xs) if factors is None else factors
    if len(xs) == 1 and isinstance(xs[0], Tensor) and factors[0] is None:
        return xs[0]
    return summed(list(map(deferred, xs)), factors) if takes(*xs) and alike(xs) else None


def alike(xs: Sequence[Maps]) -> bool:
    """Whether all maps are of one shape: kernels read memory without asking."""
    return all(x.shape == xs[0].shape for x in xs)


def summed(xs: Sequence[Deferred], factors: Sequence[Tensor | None]) -> Tensor:
    """Σ factor · x, where each part has a factor [B] of at least 0 for every image, or None for 1."""
    y_BCHW: Tensor = apply(_Total, _Sum.of(xs, factors), *_tensors(xs))
    return y_BCHW


@takes_over("total_norm")
def total_norm(xs: Sequence[Maps], norm: nn.BatchNorm2d) -> Deferred | None:
    """norm(Σ xs) by batch statistics."""
    fitting = alike(xs) and xs[0].shape[1] == norm.num_features
    if not (norm.training and fitting) or not takes(*xs, weights=(norm.weight,)):
        return None
    parts = list(map(deferred, xs))
    sums = _Sum.of(parts, [None] * len(parts))
    return normalised(norm, apply(_TotalNorm, sums, *NormInputs.of(norm), *_tensors(parts)))


@takes_over("batch_norm")
def batch_norm(x: Maps, norm: nn.BatchNorm2d) -> Deferred | None:
    """The statistics; the rest is left to whoever reads the maps."""
    fitting = x.shape[1] == norm.num_features
    if isinstance(x, Deferred) or not fitting or not takes(x, weights=(norm.weight,)):
        return None
    if not norm.training:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale_C = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return Deferred(x, scale_C, norm.bias - norm.running_mean * scale_C)
    return normalised(norm, apply(_Norm, x, *NormInputs.of(norm)))


@takes_over("average_pool")
def average_pool(x: Maps, stride: int = 1) -> Tensor | None:
    """Mean over 3×3 pixels, those beyond the border left out."""
    return _pool(_AVERAGE, x, stride)


@takes_over("max_pool")
def max_pool(x: Maps, stride: int = 1) -> Tensor | None:
    """Largest of 3×3 pixels; of equal ones, the first row by row gets the gradient."""
    return _pool(_MAX, x, stride)


def _pool(pool: _Kernels, x: Maps, stride: int) -> Tensor | None:
    if not takes(x):
        return None
    given = deferred(x)
    y_BCHW: Tensor = apply(_Pool, pool, stride, given.rectified, given.z_BCHW, given.scale_C, given.shift_C)
    return y_BCHW


@takes_over("global_average")
def global_average(x: Maps) -> Tensor | None:
    """Mean over all pixels [B, C]."""
    if not takes(x):
        return None
    given = deferred(x)
    mean_BC: Tensor = apply(_GlobalAverage, given.rectified, given.z_BCHW, given.scale_C, given.shift_C)
    return mean_BC


# ---- what kernels take -------------------------------------------------------------------------------------------------


def _planes(x_BCHW: Tensor) -> Any:
    """[R, P]."""
    B, C, H, W = x_BCHW.shape
    return array(x_BCHW).reshape(B * C, H * W)


_NO_PLANES = np.empty((0, 0), np.float32)
_NO_COLUMNS = np.empty((2, 0), np.float32)


def _affine(scale_C: Tensor | None, shift_C: Tensor | None, channels: int) -> tuple[Any, Any]:
    """(scale, shift), 1 and 0 where there are none."""
    if scale_C is None or shift_C is None:
        return _constants(channels)
    return array(scale_C.contiguous()), array(shift_C.contiguous())


@lru_cache(maxsize=64)
def _constants(channels: int) -> tuple[Any, Any]:
    return np.ones(channels, np.float32), np.zeros(channels, np.float32)


def _over_images(sums: Any, B: int, C: int) -> Any:
    """Sums of planes [..., R] added up to [n, C]."""
    sums_nBC = sums.reshape(-1, B, C)
    total_nC = torch.empty(len(sums_nBC), C)
    kernels.over_images(sums_nBC, array(total_nC))
    return total_nC


# ---- sums --------------------------------------------------------------------------------------------------------------


class _Sum(NamedTuple):
    """What a sum depends on beside the tensors that get a gradient."""

    rectified_n: tuple[bool, ...]
    kept_nB: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, xs: Sequence[Deferred], kept_B: Sequence[Tensor | None]) -> _Sum:
        return cls(tuple(x.rectified for x in xs), tuple(kept_B))

    def is_itself(self, part: int, scale_C: Tensor | None) -> bool:
        """Whether a part is added as it is in memory."""
        return scale_C is None and not self.rectified_n[part] and self.kept_nB[part] is None


def _tensors(xs: Sequence[Deferred]) -> list[Tensor | None]:
    """z of all parts, then their scales, then their shifts."""
    return [*(x.z_BCHW for x in xs), *(x.scale_C for x in xs), *(x.shift_C for x in xs)]


def _pending(
    parts: _Sum,
    which: Sequence[int],
    scales: Sequence[Tensor | None],
    shifts: Sequence[Tensor | None],
    C: int,
) -> tuple[Any, Any, Any, Any]:
    """Scales and shifts [n, C], whether rectified [n], factors of the images [n, B or 0] of some parts."""
    scale_nC, shift_nC = np.empty((2, len(which), C), np.float32)
    for at, i in enumerate(which):
        scale_nC[at], shift_nC[at] = _affine(scales[i], shifts[i], C)
    factors = {at: kept for at, i in enumerate(which) if (kept := parts.kept_nB[i]) is not None}
    images = max((kept.numel() for kept in factors.values()), default=0)
    kept_nB = np.ones((len(which), images), np.float32)
    for at, kept in factors.items():
        kept_nB[at] = array(kept).reshape(-1)
    return scale_nC, shift_nC, np.array([parts.rectified_n[i] for i in which], np.bool_), kept_nB


def _add(parts: _Sum, tensors: Sequence[Any], statistics: bool) -> tuple[Tensor, Tensor]:
    """The sum, and the sums [B, 2, C] of its planes; none, [0, 2, C], unless `statistics` are wanted."""
    n = len(parts.rectified_n)
    zs, scales, shifts = tensors[:n], tensors[n : 2 * n], tensors[2 * n :]
    y_BCHW = torch.empty_like(zs[0])
    B, C = y_BCHW.shape[:2]
    y = _planes(y_BCHW)
    sums_B2C = torch.empty(B if statistics else 0, 2, C)
    kernels.total(
        team(y.size),
        len(y),
        addresses(zs),
        *_pending(parts, range(n), scales, shifts, C),
        y,
        array(sums_B2C),
    )
    return y_BCHW, sums_B2C


def _to_save(parts: _Sum, tensors: Sequence[Any]) -> list[Tensor | None]:
    """What `_add_backward` reads of `tensors`, None for the rest."""
    n = len(parts.rectified_n)
    zs = [None if parts.is_itself(i, tensors[n + i]) else tensors[i] for i in range(n)]
    return [*zs, *tensors[n:]]


def _add_backward(
    parts: _Sum,
    tensors: Sequence[Any],
    needed: Sequence[bool],
    dy_BCHW: Tensor,
    y_BCHW: Tensor | None,
    ab_2C: Any,
) -> list[Tensor | None]:
    """Gradients of `tensors`, where that of the sum is dy + a + b · y, or dy if `ab_2C` has no columns."""
    n = len(parts.rectified_n)
    zs, scales, shifts = tensors[:n], tensors[n : 2 * n], tensors[2 * n :]
    itself = [i for i in range(n) if parts.is_itself(i, scales[i])]
    worked = [i for i in range(n) if i not in itself and (needed[i] or needed[n + i] or needed[2 * n + i])]
    B, C = dy_BCHW.shape[:2]
    dy_BCHW = dy_BCHW.contiguous()
    gradients: list[Tensor | None] = [None] * (3 * n)

    d_BCHW = dy_BCHW
    own = y_BCHW is not None and any(needed[i] for i in itself)
    if own:
        d_BCHW = torch.empty_like(dy_BCHW)
    if own or worked:
        dzs = [torch.empty_like(dy_BCHW) for _ in worked]
        sums = np.empty((len(worked), 2, B * C), np.float32)
        dy = _planes(dy_BCHW)
        kernels.total_backward(
            team(dy.size),
            B * C,
            dy,
            dy if y_BCHW is None else _planes(y_BCHW),
            ab_2C,
            addresses([zs[i] for i in worked]),
            addresses(dzs),
            *_pending(parts, worked, scales, shifts, C),
            _planes(d_BCHW) if own else _NO_PLANES,
            sums,
        )
        if worked:
            d_affine_nC = _over_images(sums, B, C)
        for at, i in enumerate(worked):
            gradients[i] = dzs[at]
            if scales[i] is not None:
                gradients[n + i], gradients[2 * n + i] = d_affine_nC[2 * at], d_affine_nC[2 * at + 1]
    for i in itself:
        gradients[i] = d_BCHW
    return gradients


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: _Sum, *tensors: Any) -> Tensor:
        ctx.parts = parts
        ctx.save_for_backward(*_to_save(parts, tensors))
        return _add(parts, tensors, statistics=False)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BCHW: Tensor) -> Any:
        gradients = _add_backward(
            ctx.parts, ctx.saved_tensors, ctx.needs_input_grad[1:], dy_BCHW, None, _NO_COLUMNS
        )
        return None, *gradients


# ---- norms -------------------------------------------------------------------------------------------------------------


def _counts(y_BCHW: Tensor) -> Any:
    """Values a channel of every image: their sums are those of planes."""
    B, _, H, W = y_BCHW.shape
    return counts(B, 1, H * W)


class _TotalNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: _Sum, *arguments: Any) -> Any:
        norm, tensors = NormInputs.split(arguments)
        y_BCHW, sums_B2C = _add(parts, tensors, statistics=True)
        ctx.parts = parts
        return with_norm(ctx, y_BCHW, sums_B2C, _counts(y_BCHW), norm, *_to_save(parts, tensors))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        out, tensors = output_gradient(ctx, gradients)
        needed = ctx.needs_input_grad[1 + len(out.norm) :]
        return (
            None,
            *out.norm,
            *_add_backward(ctx.parts, tensors, needed, out.dy_BCHW, out.y_BCHW, array(out.ab_2C)),
        )


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z_BCHW: Tensor, *norm: Any) -> Any:
        z = _planes(z_BCHW)
        B, C = z_BCHW.shape[:2]
        sums_B2C = torch.empty(B, 2, C)
        kernels.plane_statistics(team(z.size), len(z), z, array(sums_B2C))
        return with_norm(ctx, z_BCHW.detach(), sums_B2C, _counts(z_BCHW), NormInputs(*norm))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        out, _ = output_gradient(ctx, gradients)
        dz_BCHW = torch.empty_like(out.y_BCHW) if ctx.needs_input_grad[0] else None
        if dz_BCHW is not None:
            dy, y, dz = map(_planes, (out.dy_BCHW, out.y_BCHW, dz_BCHW))
            kernels.whole_gradient(team(y.size), len(y), dy, y, array(out.ab_2C), dz)
        return dz_BCHW, *out.norm


# ---- pooling and averages ----------------------------------------------------------------------------------------------


class _Kernels(NamedTuple):
    forward: Any
    backward: Any


_AVERAGE = _Kernels(kernels.average_pool, kernels.average_pool_backward)
_MAX = _Kernels(kernels.max_pool, kernels.max_pool_backward)


@lru_cache(maxsize=64)
def _border_table(H: int, W: int) -> Any:
    """Of every pixel [4, P]: whether there is one to its left, to its right; 1 / pixels of the 3×3 that there are; 1."""
    table_4HW = np.ones((4, H, W), np.float32)
    table_4HW[0, :, 0] = 0
    table_4HW[1, :, -1] = 0
    rows, columns = (
        np.minimum(np.arange(size) + 1, size - 1) - np.maximum(np.arange(size) - 1, 0) + 1 for size in (H, W)
    )
    table_4HW[2] = 1 / (rows[:, None] * columns)
    return table_4HW.reshape(4, H * W)


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        pool: _Kernels,
        stride: int,
        rectified: bool,
        z_BCHW: Tensor,
        scale_C: Tensor | None,
        shift_C: Tensor | None,
    ) -> Tensor:
        B, C, H, W = z_BCHW.shape
        y_BCHW = z_BCHW.new_empty(B, C, (H + stride - 1) // stride, (W + stride - 1) // stride)
        z = _planes(z_BCHW)
        affine = _affine(scale_C, shift_C, C)
        pool.forward(
            team(z.size), len(z), z, *affine, rectified, W, stride, _border_table(H, W), _planes(y_BCHW)
        )
        ctx.pool, ctx.stride, ctx.rectified, ctx.shape = pool, stride, rectified, z_BCHW.shape
        reads = pool is _MAX or scale_C is not None or rectified
        ctx.save_for_backward(z_BCHW if reads else None, scale_C, shift_C)
        return y_BCHW

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BCHW: Tensor) -> Any:
        z_BCHW, scale_C, shift_C = ctx.saved_tensors
        B, C, H, W = ctx.shape
        dz_BCHW = dy_BCHW.new_empty(B, C, H, W)
        dz = _planes(dz_BCHW)
        sums = np.empty((2, len(dz)), np.float32)
        ctx.pool.backward(
            team(dz.size),
            len(dz),
            _planes(dy_BCHW.contiguous()),
            dz if z_BCHW is None else _planes(z_BCHW),
            *_affine(scale_C, shift_C, C),
            scale_C is not None or ctx.rectified,
            ctx.rectified,
            W,
            ctx.stride,
            _border_table(H, W),
            dz,
            sums,
        )
        d_affine = (None, None) if scale_C is None else _over_images(sums, B, C)
        return None, None, None, dz_BCHW, *d_affine


class _GlobalAverage(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rectified: bool, z_BCHW: Tensor, scale_C: Tensor | None, shift_C: Tensor | None
    ) -> Tensor:
        B, C = z_BCHW.shape[:2]
        mean_BC = z_BCHW.new_empty(B, C)
        z = _planes(z_BCHW)
        kernels.global_average(
            team(z.size), len(z), z, *_affine(scale_C, shift_C, C), rectified, array(mean_BC).reshape(-1)
        )
        ctx.rectified = rectified
        ctx.save_for_backward(z_BCHW, scale_C, shift_C)
        return mean_BC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_mean_BC: Tensor) -> Any:
        z_BCHW, scale_C, shift_C = ctx.saved_tensors
        B, C = d_mean_BC.shape
        dz_BCHW = torch.empty_like(z_BCHW)
        z = _planes(z_BCHW)
        sums = np.empty((2, len(z)), np.float32)
        kernels.global_average_backward(
            team(z.size),
            len(z),
            array(d_mean_BC.contiguous()).reshape(-1),
            z,
            *_affine(scale_C, shift_C, C),
            ctx.rectified,
            _planes(dz_BCHW),
            sums,
        )
        d_affine = (None, None) if scale_C is None else _over_images(sums, B, C)
        return None, dz_BCHW, *d_affine
