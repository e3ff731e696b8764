"""Kernels read back from the disk against those that have just been compiled; operations without their gradients."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from enas.nn.activation import Activation, ChannelNorm
from enas.nn.convolution import average_pool, conv_norm, separable_norm, total, total_norm

pytest.importorskip("numba")

# Whether the kernel was read from the disk, and a hash of the gradients of pooled feature maps of many sizes.
PROGRAM = """
import hashlib, torch
from enas.nn.activation import Activation
from enas.nn.convolution import average_pool
from enas.nn.map_kernels import average_pool_backward

digest = hashlib.sha256()
for height in range(1, 12):
    for width in (7, 8, 9, 16, 33):
        draw = torch.Generator().manual_seed(0)
        maps_BCHW = torch.randn(3, 5, height, width, generator=draw).requires_grad_()
        affine_2C = torch.randn(2, 5, generator=draw).requires_grad_()
        pooled_BCHW = average_pool(Activation(maps_BCHW, *affine_2C, rectified=True))
        loss = (pooled_BCHW * torch.randn(pooled_BCHW.shape, generator=draw)).sum()
        for gradient in torch.autograd.grad(loss, (maps_BCHW, affine_2C)):
            digest.update(gradient.numpy().tobytes())
print(sum(average_pool_backward.stats.cache_hits.values()), digest.hexdigest())
"""


def test_a_kernel_read_back_from_the_disk_rounds_as_one_just_compiled(tmp_path: Path) -> None:
    def run() -> list[str]:
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        return subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()

    (reads, compiled), (reads_again, read_back) = run(), run()
    assert (reads, reads_again) == ("0", "1")
    assert read_back == compiled


def test_operations_without_gradients_are_the_same() -> None:
    draw = torch.Generator().manual_seed(0)
    maps_BCHW, dense_CCkk, pointwise_CC11, depthwise_C1kk = (
        torch.randn(shape, generator=draw).requires_grad_()
        for shape in ((2, 5, 9, 7), (5, 5, 3, 3), (5, 5, 1, 1), (5, 1, 3, 3))
    )
    x, norm = Activation(maps_BCHW, rectified=True), ChannelNorm(5)

    def run() -> list[Tensor]:
        normed = [
            conv_norm(x, dense_CCkk, norm),
            separable_norm(x, depthwise_C1kk, pointwise_CC11, norm),
            total_norm([x, x], norm),
        ]
        outputs = [value for y in normed for value in y if isinstance(value, Tensor)]
        return [*outputs, average_pool(x), total([x, x])]

    with_gradients = run()
    with torch.no_grad():
        without = run()
    assert all(y.requires_grad for y in with_gradients)
    assert not any(y.requires_grad for y in without)
    assert all(map(torch.equal, with_gradients, without))
