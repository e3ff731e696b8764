"""The operations of the paper's networks in plain torch, for any device: the specification.

This is the only place that knows that there may be something faster. On a CPU where the compiled kernels of `enas.cpu` can
be used, an operation first asks the kernel of its name. One that does not take a call returns None, and the plain form runs.
Recurrent cells have forms for GPUs likewise, in `enas.gpu`.
Feature maps travel as tensors; between kernels they may be `Deferred`: whoever reads them next does their norm and ReLU.

Shape letters: B images, C channels in, O channels out, H rows, W columns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn
from torch._C import _are_functorch_transforms_active, _len_torch_dispatch_stack
from torch.autograd import forward_ad
from torch.jit._trace import is_tracing
from torch.nn import functional as F

from enas.cell_plan import ACTIVATIONS, CellPlan, OutputNorm, Recurrence, check_recurrence
from enas.errors import ConfigError, DataError
from enas.plain import PLAIN, hooked

Maps: TypeAlias = Tensor
"""Feature maps [B, C, H, W]: a tensor, or `Deferred` between two kernels, so that only operations may touch them, and only
`shape` may be read. `computed` makes a tensor of them."""

P = ParamSpec("P")
R = TypeVar("R")


@functools.cache
def _kernels() -> Mapping[str, Callable[..., Any]]:
    """The compiled kernels by the names of their operations; none where they cannot be used."""
    from enas.cpu.registry import registered, why_no_kernels

    return registered() if why_no_kernels() is None else {}


def _forms(device: torch.device) -> Mapping[str, Callable[..., Any]]:
    """The forms for this GPU by the names of their operations; none where they cannot be used."""
    from enas.gpu.registry import forms

    return forms(device)


def kernels_report() -> list[tuple[str, bool, str]]:
    """What there is to tell of the kernels: what was looked at, whether it is there, and in words."""
    from enas.cpu.registry import report

    return report()


class Operation(Generic[P, R]):
    """A function in plain torch, which a compiled kernel of the same name may take over."""

    def __init__(
        self, plain: Callable[P, R], check: Callable[P, None] | None = None, *, on_gpus: bool = False
    ) -> None:
        """`check` raises an error for arguments that do not fit together. `on_gpus`: `enas.gpu` has a form of it as well."""
        self.plain = plain
        self.check = check
        self.on_gpus = on_gpus
        self.name = plain.__name__
        functools.update_wrapper(self, plain)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the kernel makes of it, or else the plain form, which is what somebody who looks on has to see."""
        looked_on = torch.compiler.is_compiling() or is_tracing() or _len_torch_dispatch_stack()
        transformed = _are_functorch_transforms_active() or forward_ad._current_level >= 0
        if looked_on or transformed or PLAIN.get():
            return self.plain(*args, **kwargs)
        if self.check is not None:
            self.check(*args, **kwargs)
        faster = self.faster(args[0] if args else next(iter(kwargs.values())))
        result: R | None = None if faster is None else faster(*args, **kwargs)
        if result is not None:
            return result
        given = {name: _computed(argument) for name, argument in kwargs.items()} if kwargs else kwargs
        return self.plain(*map(_computed, args), **given)

    def faster(self, first: Any) -> Callable[..., Any] | None:
        """What may take over a call with this first argument, maps or several: where they are says what is even loaded."""
        maps = first[0] if type(first) in (list, tuple) else first
        if maps.is_cpu if isinstance(maps, Tensor) else True:  # as deferred ones are
            return _kernels().get(self.name)
        return _forms(maps.device).get(self.name) if self.on_gpus else None


def checked(
    check: Callable[P, None], *, on_gpus: bool = False
) -> Callable[[Callable[P, R]], Operation[P, R]]:
    """An operation whose arguments are checked first."""
    return lambda plain: Operation(plain, check, on_gpus=on_gpus)


def _computed(argument: Any) -> Any:
    """An argument as the plain form takes it: deferred maps, which are a tuple, are computed, alone or in a sequence."""
    if not isinstance(argument, (list, tuple)):
        return argument
    deferred = hasattr(argument, "rectified")
    return computed(cast(Maps, argument)) if deferred else [_computed(part) for part in argument]


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
    given = [None] * len(xs) if factors is None else factors
    weighted = [
        x if f_B is None else x * _like(f_B, x)[:, None, None, None] for x, f_B in zip(xs, given, strict=True)
    ]
    x = weighted[0]
    if len(weighted) > 1 and x.is_cpu and (x.is_contiguous() or x.stride(1) > 1):
        return torch.stack(weighted).sum(0)
    return functools.reduce(torch.add, weighted)  # keeps channels together, and is fewer bytes for a GPU


def _like(factors_B: Tensor, x: Tensor) -> Tensor:
    """The factors of images in the type of the images: on a GPU a longer one would go on to all that follows."""
    return factors_B if x.is_cpu else factors_B.to(x.dtype)


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
    """norm(x) (Ioffe & Szegedy 2015)."""
    if norm.training and x.shape.numel() == x.shape[1]:
        # Torch refuses statistics of a single value. Twice the same value has the same mean, and varies as little.
        single: Tensor = norm(torch.cat([x, x]))[:1]
        return single
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
    return batch_norm(_joined(xs, convs), norm)


def _joined(xs: Sequence[Tensor], convs: Sequence[nn.Conv2d]) -> Tensor:
    """One 1×1 convolution of the concatenation; with hooks one of each part, so that they are called."""
    if hooked(convs):
        return total([conv(x) for x, conv in zip(xs, convs, strict=True)])
    x = torch.cat(list(xs), 1) if len(xs) > 1 else xs[0]
    return F.conv2d(x, torch.cat([conv.weight for conv in convs], 1), stride=convs[0].stride)


@Operation
def reduction_norm(
    xs: Sequence[Maps], evens: Sequence[nn.Conv2d], odds: Sequence[nn.Conv2d], norm: nn.BatchNorm2d
) -> Maps:
    """Half the size: a 1×1 convolution of the even rows and columns of the concatenation beside one of the odd ones.

    For an odd size the image is continued by one row and column of zeros.
    """
    parts = xs if hooked([*evens, *odds]) else [torch.cat(list(xs), 1)]
    # Not in channels_last on a CPU: with AVX2 alone, oneDNN's gradient of such a convolution is wrong, and destroys what
    # else is in memory (torch 2.13).
    apart = [x.contiguous() if x.is_cpu else x for x in parts]
    shifted = [F.pad(x, (-1, 1, -1, 1)) for x in apart]
    halves = torch.cat([_joined(apart, evens), _joined(shifted, odds)], 1)
    if parts[0].is_cpu and not parts[0].is_contiguous():
        halves = halves.contiguous(memory_format=torch.channels_last)
    return batch_norm(halves, norm)


@Operation
def total_norm(xs: Sequence[Maps], norm: nn.BatchNorm2d) -> Maps:
    """norm(Σ xs)."""
    return batch_norm(total(xs), norm)


# ---- the recurrent cell ------------------------------------------------------------------------------------------------


@checked(check_recurrence, on_gpus=True)
def recurrence(
    projected_TBE: Tensor,
    state_BD: Tensor,
    recurrent_weight_DE: Tensor,
    node_weights_DE: Sequence[Tensor],
    plan: CellPlan,
    *,
    state_mask_BD: Tensor | None = None,
    norm: OutputNorm | None = None,
) -> Recurrence:
    """Run a recurrent cell over T steps: one architecture (paper, appendix A, equations 2-5).

    Node 0: `(a, g) = projected_t + (m * h_{t-1}) W_h`, `s_0 = h_{t-1} + sigmoid(g) * (f_0(a) - h_{t-1})`;
    node k with source j: `(a, g) = (m * s_j) W_k`, `s_k = s_j + sigmoid(g) * (f_k(a) - s_j)`;
    `h_t` is the mean of `s` over the plan's outputs, normalised if there is a `norm`.
    Letters: T time, B batch, D hidden, E = 2D (candidate columns, then gate columns).

    Args:
        projected_TBE: input times input weight at every step, `x_t W_x`.
        state_BD: h before the first step.
        recurrent_weight_DE: W_h; columns of the candidate, then of the gate.
        node_weights_DE: W_k of nodes 1 .. N-1.
        state_mask_BD: dropout mask m, already scaled, the same at every step; it multiplies only what enters a product.
        norm: batch norm applied to the mean of the outputs; its result is the output and the next state.

    States keep the type of `state_BD`, also where autocast gives products another. Raises `ConfigError` if shapes do not
    fit together or with the plan.
    """

    def product(s_BD: Tensor, weight_DE: Tensor) -> Tensor:
        masked_BD = s_BD if state_mask_BD is None else s_BD * state_mask_BD
        return (masked_BD @ weight_DE).to(s_BD.dtype)

    def highway(s_BD: Tensor, product_BE: Tensor, function: str) -> Tensor:
        # c·f(a) + (1 - c)·s with c = sigmoid(g), as the paper writes it
        candidate_BD, gate_BD = product_BE.chunk(2, dim=-1)
        return s_BD + torch.sigmoid(gate_BD) * (ACTIVATIONS[function](candidate_BD) - s_BD)

    outputs, means, variances = [], [], []
    for projected_BE in projected_TBE:
        nodes = [highway(state_BD, projected_BE + product(state_BD, recurrent_weight_DE), plan.functions[0])]
        later = zip(plan.sources, plan.functions[1:], node_weights_DE, strict=True)
        for source, function, weight_DE in later:
            nodes.append(highway(nodes[source], product(nodes[source], weight_DE), function))
        state_BD = torch.stack([nodes[k] for k in plan.outputs]).mean(0)
        if norm is not None:
            if norm.mean_D is None or norm.variance_D is None:
                variance_D, mean_D = torch.var_mean(state_BD, dim=0, correction=0)
                means.append(mean_D.detach())
                variances.append(variance_D.detach())
            else:
                mean_D, variance_D = norm.mean_D.detach(), norm.variance_D.detach()
            state_BD = (state_BD - mean_D) * torch.rsqrt(variance_D + norm.eps) * norm.weight_D + norm.bias_D
        outputs.append(state_BD)
    if means:
        return Recurrence(torch.stack(outputs), torch.stack(means), torch.stack(variances))
    return Recurrence(torch.stack(outputs))


def _check_recurrences(
    projected_TBE: Sequence[Tensor],
    state_BD: Tensor,
    recurrent_weights_DE: Sequence[Tensor],
    node_weights_DE: Sequence[Sequence[Tensor]],
    plans: Sequence[CellPlan],
    *,
    state_mask_BD: Tensor | None = None,
    norm: OutputNorm | None = None,
) -> None:
    cells = zip(projected_TBE, recurrent_weights_DE, node_weights_DE, plans, strict=True)
    for projected, recurrent_weight, node_weights, plan in cells:
        check_recurrence(projected, state_BD, recurrent_weight, node_weights, plan, norm=norm)


@checked(_check_recurrences, on_gpus=True)
def recurrences(
    projected_TBE: Sequence[Tensor],
    state_BD: Tensor,
    recurrent_weights_DE: Sequence[Tensor],
    node_weights_DE: Sequence[Sequence[Tensor]],
    plans: Sequence[CellPlan],
    *,
    state_mask_BD: Tensor | None = None,
    norm: OutputNorm | None = None,
) -> list[Recurrence]:
    """`recurrence` of several cells from one state, with a projected input, weights and a plan for each.

    Those whose projected input is the same tensor share it.
    """
    cells = zip(projected_TBE, recurrent_weights_DE, node_weights_DE, plans, strict=True)
    return [
        recurrence(projected, state_BD, weight, nodes, plan, state_mask_BD=state_mask_BD, norm=norm)
        for projected, weight, nodes, plan in cells
    ]


# ---- the softmax whose weights are the embedding ------------------------------------------------------------------------


def _check_targets(hidden_ND: Tensor, embedding_VD: Tensor, targets_N: Tensor) -> None:
    (N, D), V = hidden_ND.shape, len(embedding_VD)
    if embedding_VD.shape != (V, D) or targets_N.shape != (N,):
        raise ConfigError(
            f"Hidden states {[N, D]} need an embedding [V, {D}] and {N} targets, not {list(embedding_VD.shape)} and "
            f"{list(targets_N.shape)}."
        )
    if N == 0:
        raise DataError("There are no targets: give at least one row.")
    if targets_N.is_cpu and not 0 <= int(targets_N.min()) <= int(targets_N.max()) < V:
        raise DataError(
            f"Targets must be words 0 to {V - 1} of the vocabulary; they reach from {int(targets_N.min())} "
            f"to {int(targets_N.max())}."
        )


@checked(_check_targets)
def tied_nll(hidden_ND: Tensor, embedding_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Negative log-likelihood (nats) [N] of the targets under softmax(hidden embeddingᵀ); V words in the vocabulary.

    It has the type of `hidden_ND`, also where autocast gives products another. Raises `ConfigError` if shapes do not fit
    together, and on the CPU `DataError` if a target is not in the vocabulary; a GPU's answer would be waited for.
    """
    logits_NV = (hidden_ND @ embedding_VD.T).to(hidden_ND.dtype)
    return F.cross_entropy(logits_NV, targets_N, reduction="none")


@checked(_check_targets)
def tied_cross_entropy(hidden_ND: Tensor, embedding_VD: Tensor, targets_N: Tensor) -> Tensor:
    """The mean of `tied_nll`, nats a token."""
    return tied_nll(hidden_ND, embedding_VD, targets_N).mean()
