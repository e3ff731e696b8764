"""The chunked cross-entropy against torch's, finite differences, and itself."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from enas import ops
from enas.errors import ConfigError, DataError
from enas.ops import tied_cross_entropy, tied_nll
from enas.runtime.devices import products_in

pytest.importorskip("numba")

from enas.cpu import products, softmax

CPU = torch.device("cpu")

PRECISIONS = {
    "float64": (torch.float64, torch.float64, 1e-13),
    "float32": (torch.float32, torch.float32, 3e-6),
    "bfloat16": (torch.float32, torch.bfloat16, 1e-2),
}


@pytest.fixture(autouse=True)
def chunks_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "CHUNK_ROWS", 8)


def case(real: torch.dtype, N: int = 53, D: int = 12, V: int = 150) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden, embedding, targets; N is no multiple of the chunk, V none of the vector length."""
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(N, D, generator=generator, dtype=real).requires_grad_()
    embedding_VD = torch.randn(V, D, generator=generator, dtype=real).requires_grad_()
    return hidden_ND, embedding_VD, torch.randint(V, (N,), generator=generator)


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("N", [1, 8, 53])
def test_loss_and_gradients_are_torchs(precision: str, N: int):
    real, dtype, tolerance = PRECISIONS[precision]
    hidden_ND, embedding_VD, targets_N = case(real, N)
    with products_in(dtype, CPU):
        loss = tied_cross_entropy(hidden_ND, embedding_VD, targets_N)
    logits_NV = (hidden_ND.to(dtype) @ embedding_VD.to(dtype).T).to(real)
    expected = F.cross_entropy(logits_NV, targets_N)
    assert loss.dtype == real
    assert relative_error(loss.detach(), expected.detach()) < tolerance
    inputs = (hidden_ND, embedding_VD)
    # The factor stands for a loss that is one term among others.
    actual, truth = (torch.autograd.grad(3 * x, inputs) for x in (loss, expected))
    for a, b in zip(actual, truth, strict=True):
        assert a.dtype == real
        assert relative_error(a, b) < tolerance


def test_gradients_are_those_of_finite_differences():
    hidden_ND, embedding_VD, targets_N = case(torch.float64, N=11, D=3, V=7)
    assert torch.autograd.gradcheck(
        lambda h, e: tied_cross_entropy(h, e, targets_N), (hidden_ND, embedding_VD)
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nll_of_every_row(precision: str):
    real, dtype, tolerance = PRECISIONS[precision]
    hidden_ND, embedding_VD, targets_N = case(real)
    with products_in(dtype, CPU):
        with torch.no_grad():
            nll_N = tied_nll(hidden_ND, embedding_VD, targets_N)
            free = tied_cross_entropy(hidden_ND, embedding_VD, targets_N)
        expected = tied_nll.plain(hidden_ND, embedding_VD, targets_N).detach()
        loss = tied_cross_entropy(hidden_ND, embedding_VD, targets_N)
    assert not nll_N.requires_grad
    assert relative_error(nll_N, expected) < tolerance
    assert torch.equal(loss.detach(), nll_N.mean())
    assert torch.equal(free, nll_N.mean())


def test_only_what_is_needed_gets_a_gradient():
    hidden_ND, embedding_VD, targets_N = case(torch.float64)
    both = torch.autograd.grad(
        tied_cross_entropy(hidden_ND, embedding_VD, targets_N), (hidden_ND, embedding_VD)
    )
    for i, needing in enumerate((hidden_ND, embedding_VD)):
        inputs = [hidden_ND.detach(), embedding_VD.detach()]
        inputs[i] = needing
        loss = tied_cross_entropy(*inputs, targets_N)
        assert torch.equal(torch.autograd.grad(loss, needing)[0], both[i])


def test_backward_twice_through_a_retained_graph():
    hidden_ND, embedding_VD, targets_N = case(torch.float64)
    loss = 2 * tied_cross_entropy(hidden_ND, embedding_VD, targets_N)
    first = torch.autograd.grad(loss, (hidden_ND, embedding_VD), retain_graph=True)
    second = torch.autograd.grad(loss, (hidden_ND, embedding_VD))
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_bits_every_time(precision: str):
    real, dtype, _ = PRECISIONS[precision]

    def loss_and_gradients() -> list[Tensor]:
        hidden_ND, embedding_VD, targets_N = case(real)
        with products_in(dtype, CPU):
            loss = tied_cross_entropy(hidden_ND, embedding_VD, targets_N)
        return [loss.detach(), *torch.autograd.grad(loss, (hidden_ND, embedding_VD))]

    first = loss_and_gradients()
    for _ in range(3):
        assert all(map(torch.equal, first, loss_and_gradients()))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_without_packed_weights_the_same_numbers(precision: str, monkeypatch: pytest.MonkeyPatch):
    real, dtype, tolerance = PRECISIONS[precision]
    hidden_ND, embedding_VD, targets_N = case(real)
    with products_in(dtype, CPU):
        packed = tied_cross_entropy(hidden_ND, embedding_VD, targets_N)
    d_packed = torch.autograd.grad(packed, (hidden_ND, embedding_VD))
    monkeypatch.setattr(products, "packs", lambda dtype: False)
    with products_in(dtype, CPU):
        plain = tied_cross_entropy(hidden_ND, embedding_VD, targets_N)
    d_plain = torch.autograd.grad(plain, (hidden_ND, embedding_VD))
    assert relative_error(packed.detach(), plain.detach()) < tolerance
    assert all(relative_error(a, b) < tolerance for a, b in zip(d_packed, d_plain, strict=True))


def test_logits_of_any_size():
    hidden_ND, embedding_VD, targets_N = case(torch.float32)
    with torch.no_grad():
        for scale in (1e-4, 1.0, 30.0, 300.0):
            nll_N = tied_nll(hidden_ND * scale, embedding_VD, targets_N)
            expected = tied_nll.plain(hidden_ND.double() * scale, embedding_VD.double(), targets_N)
            torch.testing.assert_close(nll_N.double(), expected, rtol=2e-6, atol=1e-3 * scale * 1e-3 + 1e-5)


def test_not_a_number_is_not_hidden():
    hidden_ND, embedding_VD, targets_N = case(torch.float32)
    with torch.no_grad():
        hidden_ND[20, 3] = float("nan")
        nll_N = tied_nll(hidden_ND, embedding_VD, targets_N)
    assert torch.isnan(nll_N).nonzero().flatten().tolist() == [20]


@pytest.mark.parametrize("target", [-1, 150])
def test_a_target_outside_the_vocabulary_is_refused(target: int):
    hidden_ND, embedding_VD, targets_N = case(torch.float32)
    targets_N[5] = target
    with pytest.raises(DataError, match=f"{target}"):
        tied_cross_entropy(hidden_ND, embedding_VD, targets_N)


def test_shapes_that_do_not_fit_are_refused():
    hidden_ND, embedding_VD, targets_N = case(torch.float32)
    with pytest.raises(ConfigError, match="53 targets"):
        tied_cross_entropy(hidden_ND, embedding_VD, targets_N[:-1])
    with pytest.raises(ConfigError, match="embedding"):
        tied_nll(hidden_ND[:, 1:], embedding_VD, targets_N)
    with pytest.raises(DataError, match="no targets"):
        tied_nll(hidden_ND[:0], embedding_VD, targets_N[:0])


def test_without_kernels_the_plain_form_runs(monkeypatch: pytest.MonkeyPatch):
    hidden_ND, embedding_VD, targets_N = case(torch.float32)
    fused = tied_cross_entropy(hidden_ND, embedding_VD, targets_N)
    monkeypatch.setattr(ops, "_kernels", dict)
    plain = tied_cross_entropy(hidden_ND, embedding_VD, targets_N)
    assert torch.equal(plain, tied_nll.plain(hidden_ND, embedding_VD, targets_N).mean())
    assert relative_error(fused.detach(), plain.detach()) < 3e-6
