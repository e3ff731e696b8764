"""A corpus as contiguous rows, and windows of them for truncated back-propagation through time.

A text of n tokens becomes B rows of n // B columns. A window has some columns as inputs and the columns one further as
targets; the hidden state is carried from one window to the next. The windows of a whole pass are listed before it starts: it
depends on the generator's seed alone, and a place in it is an index.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from enas.errors import ConfigError, DataError

# Random lengths of the authors' corrected code (google-research/enas_lm).
FULL_LENGTH_SHARE = 0.95
"""Share of windows around the full length; the others are around half of it."""
LENGTH_SD = 5.0
"""Standard deviation of a length, in steps; lengths are truncated at two of them."""
LENGTH_EXCESS = 20
"""Most steps above the full length."""
END_MARGIN = 3
"""A pass is over once at most this many columns are left."""


class Window(NamedTuple):
    """Columns [start, start + length) as inputs, and [start + 1, start + length + 1) as targets."""

    start: int
    length: int


def batchify(tokens: Tensor, batch: int, name: str = "text") -> Tensor:
    """rows_BT: n tokens as `batch` contiguous rows of n // batch columns, a view; the rest is dropped.

    Raises `DataError`, which calls the text by `name`, if a row would have no input with a target.
    """
    _check_positive("batch", batch)
    columns = len(tokens) // batch
    if columns < 2:
        raise DataError(
            f"The {name} has {len(tokens)} tokens, too few for {batch} rows of at least 2: "
            "lower the batch size or give more text."
        )
    return tokens[: batch * columns].view(batch, columns)


def fixed_windows(columns: int, bptt: int) -> list[Window]:
    """The (columns - 1) // bptt windows of exactly `bptt` steps; what is left at the end is not used.

    Raises `DataError` if there is none.
    """
    _check_lengths(columns, bptt)
    if columns <= bptt:
        raise DataError(
            f"Rows of {columns} tokens hold no window of {bptt} steps and its targets: "
            "lower the BPTT length or the batch size, or give more text."
        )
    return [Window(start, bptt) for start in range(0, columns - bptt, bptt)]


def random_windows(columns: int, bptt: int, generator: Generator) -> list[Window]:
    """Windows of random lengths around `bptt`, one after the other (the authors' corrected code).

    A length is a normal of standard deviation 5, truncated at two of them, around `bptt` (one time in twenty, around
    bptt / 2), rounded down, and at most bptt + 20 and the columns left; the pass ends within 3 columns of the end. For
    bptt = 35 that is 25 to 45, or 7 to 27 steps. The authors multiply the learning rate by length / bptt. A length is at
    least 1, which matters only for bptt <= 21.

    `generator` is on the CPU; seeded from run and epoch, it makes every pass reproducible by itself.
    """
    _check_lengths(columns, bptt)
    windows: list[Window] = []
    start = 0
    while not windows or start < columns - END_MARGIN:
        full = torch.rand((), generator=generator).item() < FULL_LENGTH_SHARE
        mean = bptt if full else bptt / 2
        low, high = mean - 2 * LENGTH_SD, mean + 2 * LENGTH_SD
        drawn = torch.nn.init.trunc_normal_(torch.empty(()), mean, LENGTH_SD, low, high, generator)
        length = min(max(int(drawn), 1), bptt + LENGTH_EXCESS, columns - 1 - start)
        windows.append(Window(start, length))
        start += length
    return windows


def eval_windows(columns: int, bptt: int) -> list[Window]:
    """Windows of `bptt` steps and the shorter remainder: every column but the first is a target exactly once.

    With batch size 1 and the state carried, the perplexity is exact; a text's first token has no context.
    """
    _check_lengths(columns, bptt)
    return [Window(start, min(bptt, columns - 1 - start)) for start in range(0, columns - 1, bptt)]


def _check_lengths(columns: int, bptt: int) -> None:
    _check_positive("bptt", bptt)
    if columns < 2:
        raise DataError(
            f"Rows of {columns} tokens have no input with a target: lower the batch size or give more text."
        )


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} is {value}; set it to 1 or more.")
