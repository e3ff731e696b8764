"""Kernels read back from the disk against those that have just been compiled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
