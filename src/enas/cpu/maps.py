"""Sums, pooling and norms of feature maps in one pass over memory each way, on a CPU in float32.

These are the operations of the same names of `enas.ops`, whose plain form is the specification. The compiled part is
`enas.cpu.map_kernels`.

Shape letters: B images, C channels, H rows, W columns, P = H · W, R = B · C, n parts of a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from enas.cpu import map_kernels as kernels
from enas.cpu.compiler import array, team
from enas.cpu.deferred import (
    Deferred,
    Maps,
    addresses,
    affine_gradients,
    apply,
    deferred,
    numbers,
    rectified,
    tensors,
)
from enas.cpu.normed import averaged, normalised, output_gradient, with_norm
from enas.cpu.registry import operand_type, takes, takes_over

_NO_PLANES = np.empty((0, 0), np.float32)
_MANY = 1_000_000
"""Maps with nothing deferred are added by a kernel if they have at least this many numbers, smaller ones by torch."""


@takes_over("computed")
def computed(x: Maps) -> Tensor:
    """The feature maps as a tensor."""
    return x if isinstance(x, Tensor) else _summed([x], [None])


@takes_over("relu")
def relu(x: Maps) -> Deferred | None:
    """Left to the next reader of the maps."""
    return deferred(x)._replace(rectified=True) if takes(x) else None


@takes_over("concatenation")
def concatenation(xs: Sequence[Maps]) -> Maps | None:
    """A single part, as it is."""
    return xs[0] if len(xs) == 1 else None


@takes_over("total")
def total(xs: Sequence[Maps], factors: Sequence[Tensor | None] | None = None) -> Tensor | None:
    """Sums, and single maps with something deferred."""
    factors = [None] * len(xs) if factors is None else factors
    given, shape = [factor_B for factor_B in factors if factor_B is not None], xs[0].shape
    if not given and all(isinstance(x, Tensor) for x in xs) and (len(xs) == 1 or shape.numel() < _MANY):
        return cast(Tensor, xs[0]) if len(xs) == 1 else None
    # Kernels read memory without asking.
    alike = len(xs) == len(factors) and all(x.shape == shape for x in xs)
    fitting = alike and all(f_B.shape == shape[:1] and not f_B.requires_grad for f_B in given)
    return _summed(list(map(deferred, xs)), factors) if fitting and takes(*xs) else None


@takes_over("batch_norm")
def batch_norm(x: Maps, norm: nn.BatchNorm2d) -> Deferred | None:
    """The statistics; the rest is left to the next reader of the maps. Maps that autocast made bfloat16 become float32."""
    if isinstance(x, Deferred):
        return None
    x = x.float() if x.dtype == operand_type() == torch.bfloat16 else x
    fitting = x.shape[1] == norm.num_features
    if not fitting or not takes(x, weights=(norm.weight,)):
        return None
    return normalised(_Norm, norm, x) if norm.training else averaged(x, norm)


@takes_over("total_norm")
def total_norm(xs: Sequence[Maps], norm: nn.BatchNorm2d) -> Deferred | None:
    """A sum, and its norm."""
    y_BCHW = total(xs)
    return None if y_BCHW is None else batch_norm(y_BCHW, norm)


@takes_over("average_pool")
def average_pool(x: Maps, stride: int = 1) -> Tensor | None:
    """Mean over 3×3 pixels, those beyond the border left out."""
    return _pool(_AVERAGE, x) if stride == 1 else None


@takes_over("max_pool")
def max_pool(x: Maps, stride: int = 1) -> Tensor | None:
    """Largest of 3×3 pixels; of equal ones, the first row by row gets the gradient."""
    return _pool(_MAX, x) if stride == 1 else None


# ---- what kernels take -------------------------------------------------------------------------------------------------


def _planes(x_BCHW: Tensor) -> Any:
    """[R, P]."""
    B, C, H, W = x_BCHW.shape
    return array(x_BCHW).reshape(B * C, H * W)


def _over_images(sums: Any, B: int) -> Tensor:
    """The gradients of scale and shift [2, n C] from what each of the n · B · C planes adds to them [2, n R]."""
    sums_nBC = sums.reshape(-1, B, sums.shape[-1] // B)
    total_nC = np.empty((len(sums_nBC), sums_nBC.shape[-1]), np.float32)
    kernels.over_images(sums_nBC, total_nC)
    return torch.from_numpy(total_nC).view(2, -1)


# ---- sums --------------------------------------------------------------------------------------------------------------

Factors = Sequence[Tensor | None]
"""Of each part: a factor [B] of at least 0 for every image, or None for 1."""


def _summed(xs: Sequence[Deferred], factors: Factors) -> Tensor:
    """Σ factor · x."""
    y_BCHW: Tensor = apply(_Total, rectified(xs), factors, *tensors(xs))
    return y_BCHW


def _factors(factors: Factors) -> Any:
    """The factors as kernels take them: [n, B], or [n, 0] if all are 1."""
    given = {part: factor_B for part, factor_B in enumerate(factors) if factor_B is not None}
    factor_nB = np.ones((len(factors), max((f.numel() for f in given.values()), default=0)), np.float32)
    for part, factor_B in given.items():
        factor_nB[part] = array(factor_B).reshape(-1)
    return factor_nB


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rectified: tuple[bool, ...], factors: Factors, *given: Any) -> Tensor:
        n = len(rectified)
        zs, y_BCHW = given[:n], torch.empty_like(given[0])
        y, factor_nB = _planes(y_BCHW), _factors(factors)
        numbers_nC3 = numbers(rectified, given).reshape(n, -1, 3)
        kernels.total(team(y.size), len(y), addresses(zs), numbers_nC3, factor_nB, y)
        # A part that is added as it is in memory gets the gradient of the sum, and z is not read again.
        itself = [
            given[n + i] is None and not rectified[i] and factor_B is None
            for i, factor_B in enumerate(factors)
        ]
        ctx.itself, ctx.numbers_nC3, ctx.factor_nB = itself, numbers_nC3, factor_nB
        ctx.save_for_backward(*(None if own else z for own, z in zip(itself, zs, strict=True)))
        return y_BCHW

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BCHW: Tensor) -> Any:
        n, needed, zs = len(ctx.itself), ctx.needs_input_grad[2:], ctx.saved_tensors
        dy_BCHW = dy_BCHW.contiguous()
        B, C, _, _ = dy_BCHW.shape
        d_zs = [dy_BCHW if own else None for own in ctx.itself]
        d_affine: list[Tensor | None] = [None] * (2 * n)
        worked = [
            i for i in range(n) if not ctx.itself[i] and (needed[i] or needed[n + i] or needed[2 * n + i])
        ]
        if worked:
            sums_2nR = np.empty((2, len(worked), B * C), np.float32)
            for i in worked:
                d_zs[i] = torch.empty_like(dy_BCHW)
            dy = _planes(dy_BCHW)
            kernels.total_backward(
                team(dy.size), B * C, dy, addresses([zs[i] for i in worked]), addresses([d_zs[i] for i in worked]),
                ctx.numbers_nC3[worked], ctx.factor_nB[worked], sums_2nR,
            )  # fmt: skip
            wanted = [needed[row * n + i] for row in (1, 2) for i in worked]
            gradients = affine_gradients(_over_images(sums_2nR, B), [C] * len(worked), wanted)
            for at, i in enumerate(worked):
                d_affine[i], d_affine[n + i] = gradients[at], gradients[len(worked) + at]
        return None, None, *d_zs, *d_affine


# ---- norms -------------------------------------------------------------------------------------------------------------


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight_C: Tensor, bias_C: Tensor, eps: float, z_BCHW: Tensor) -> Any:
        z, sums_B2C = _planes(z_BCHW), z_BCHW.new_empty(z_BCHW.shape[0], 2, z_BCHW.shape[1])
        kernels.plane_statistics(team(z.size), len(z), z, array(sums_B2C))
        return with_norm(ctx, z_BCHW.detach(), sums_B2C, 1, weight_C, bias_C, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        out, _ = output_gradient(ctx, gradients)
        dz_BCHW = torch.empty_like(out.y_BCHW) if ctx.needs_input_grad[3] else None
        if dz_BCHW is not None:
            dy, y, dz = map(_planes, (out.dy_BCHW, out.y_BCHW, dz_BCHW))
            kernels.norm_backward(team(y.size), len(y), dy, y, array(out.ab_2C), dz)
        return *out.norm, dz_BCHW


# ---- pooling -----------------------------------------------------------------------------------------------------------


class _Kernels(NamedTuple):
    forward: Any
    backward: Any


_AVERAGE = _Kernels(kernels.average_pool, kernels.average_pool_backward)
_MAX = _Kernels(kernels.max_pool, kernels.max_pool_backward)


def _pool(pool: _Kernels, x: Maps) -> Tensor | None:
    if not takes(x):
        return None
    y_BCHW: Tensor = apply(_Pool, pool, deferred(x).rectified, *deferred(x)[:3])
    return y_BCHW


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
    def forward(ctx: Any, pool: _Kernels, rectified: bool, z_BCHW: Tensor, *affine: Any) -> Tensor:
        _, _, H, W = z_BCHW.shape
        y_BCHW = torch.empty_like(z_BCHW)
        z, numbers_C3 = _planes(z_BCHW), numbers([rectified], [z_BCHW, *affine])
        table_4P = _border_table(H, W)
        pool.forward(team(z.size), len(z), z, numbers_C3, W, table_4P, _planes(y_BCHW))
        ctx.pool, ctx.numbers_C3 = pool, numbers_C3
        reads = pool is _MAX or rectified or affine[0] is not None
        ctx.save_for_backward(z_BCHW if reads else None)
        return y_BCHW

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BCHW: Tensor) -> Any:
        (z_BCHW,), (B, C, H, W) = ctx.saved_tensors, dy_BCHW.shape
        dz_BCHW = dy_BCHW.new_empty(B, C, H, W)
        dz, sums_2R = _planes(dz_BCHW), np.empty((2, B * C), np.float32)
        z = _NO_PLANES if z_BCHW is None else _planes(z_BCHW)
        ctx.pool.backward(
            team(dz.size), len(dz), _planes(dy_BCHW.contiguous()), z, ctx.numbers_C3, W, _border_table(H, W),
            dz, sums_2R,
        )  # fmt: skip
        affine = ctx.needs_input_grad[3:]
        d_affine = affine_gradients(_over_images(sums_2R, B), [C], affine) if any(affine) else (None, None)
        return None, None, dz_BCHW, *d_affine
