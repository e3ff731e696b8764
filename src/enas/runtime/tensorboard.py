"""TensorBoard as an optional second place for the metrics."""

import os
from typing import TYPE_CHECKING

from enas.errors import ConfigError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def tensorboard_writer(folder: str | os.PathLike[str], first_step: int | None = None) -> "SummaryWriter":
    """Return a writer of TensorBoard events into `folder`.

    Args:
        folder: created when missing.
        first_step: of a resumed run; what an earlier process wrote from this step on is hidden.

    Raises:
        ConfigError: TensorBoard, an optional dependency, is not installed.
    """
    return summary_writer()(os.fspath(folder), purge_step=first_step)


def summary_writer() -> "type[SummaryWriter]":
    """The class of writers. Raises `ConfigError` if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "TensorBoard is not installed. Install it with: pip install 'enas[tensorboard]', or turn it off."
        ) from error
    return SummaryWriter
