"""Seeds for purposes: a random number is a function of (seed, purpose), so no generator's state is ever saved."""

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a seed in [0, 2^64) for one purpose, such as `derive_seed(seed, "dropout", epoch, step)`.

    Equal on all platforms and Python versions; different purposes give independent seeds. The parts are
    hashed (BLAKE2b, 8 bytes, little-endian) one after the other as kind, length and text, for example
    `s7:dropout` and `i2:10`, so that no two purposes read the same. Of a seed, torch's CPU generator uses
    the low 32 bits only.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *purpose):
        text = str(part).encode()
        kind = "s" if isinstance(part, str) else "i"
        digest.update(f"{kind}{len(text)}:".encode() + text)
    return int.from_bytes(digest.digest(), "little")


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on `device` that starts from `derive_seed(seed, *purpose)`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))


@contextlib.contextmanager
def global_seed(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Inside, the global generators of Python, numpy and torch start from this seed; afterwards those of Python, numpy, the
    CPU and a CUDA `device` are as they were.

    For code that is not this package's, which draws from them.
    """
    before = random.getstate(), np.random.get_state()
    cpu = device is None or device.type == "cpu"
    with torch.random.fork_rng([device] if device is not None and device.type == "cuda" else []):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        # On all devices it takes longer than the rest together.
        (torch.default_generator.manual_seed if cpu else torch.manual_seed)(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
