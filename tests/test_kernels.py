"""Kernels read back from the disk against those that have just been compiled; operations without their gradients."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from enas import ops

pytest.importorskip("numba")

from enas.cpu.deferred import Deferred
from tests import needs

pytestmark = needs.KERNELS

# Whether the kernel was read from the disk, and a hash of the gradients of pooled feature maps of many sizes.
PROGRAM = """
import hashlib, torch
from enas import ops
from enas.cpu.deferred import Deferred
from enas.cpu.map_kernels import average_pool_backward

digest = hashlib.sha256()
for height in range(1, 12):
    for width in (7, 8, 9, 16, 33):
        draw = torch.Generator().manual_seed(0)
        maps_BCHW = torch.randn(3, 5, height, width, generator=draw).requires_grad_()
        affine_2C = torch.randn(2, 5, generator=draw).requires_grad_()
        pooled_BCHW = ops.average_pool(Deferred(maps_BCHW, *affine_2C, rectified=True))
        loss = (pooled_BCHW * torch.randn(pooled_BCHW.shape, generator=draw)).sum()
        for gradient in torch.autograd.grad(loss, (maps_BCHW, affine_2C)):
            digest.update(gradient.numpy().tobytes())
print(sum(average_pool_backward.stats.cache_hits.values()), digest.hexdigest())
"""


@pytest.mark.slow
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
    maps_BCHW = torch.randn(2, 5, 9, 7, generator=draw).requires_grad_()
    dense, pointwise, depthwise = (
        nn.Conv2d(5, 5, width, padding=width // 2, groups=groups, bias=False)
        for width, groups in ((3, 1), (1, 1), (3, 5))
    )
    for conv in (dense, pointwise, depthwise):
        nn.init.normal_(conv.weight, generator=draw)
    x, norm, norm_of_both = ops.relu(maps_BCHW), nn.BatchNorm2d(5), nn.BatchNorm2d(10)

    def run() -> list[Tensor]:
        outputs: list[Tensor] = []
        for y in (
            ops.conv_norm(x, dense, norm),
            ops.separable_norm(x, depthwise, pointwise, norm),
            ops.joined_norm([x, x], [pointwise, pointwise], norm),
            ops.reduction_norm([x], [pointwise], [pointwise], norm_of_both),
            ops.total_norm([x, x], norm),
            ops.batch_norm(maps_BCHW, norm),
        ):
            assert isinstance(y, Deferred)
            outputs += [value for value in y if isinstance(value, Tensor)]
        pools = [ops.average_pool(x), ops.max_pool(x), ops.global_average(x), ops.total([x, x])]
        return [*outputs, *(value for value in pools if isinstance(value, Tensor))]

    with_gradients = run()
    with torch.no_grad():
        without = run()
    assert len(without) == 6 * 3 + 4
    assert all(y.requires_grad for y in with_gradients)
    assert not any(y.requires_grad for y in without)
    assert all(map(torch.equal, with_gradients, without))
