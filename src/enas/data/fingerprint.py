"""What batches of a user's own data hold, as a hash: whether a run that goes on has the data that it was begun with."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from enas.data.batches import Batch, EvaluationBatches, Examples, Listed, Source, tensors_in


class BatchData:
    """The training and the validation batches of a task."""

    def __init__(self, train: Source, steps: int, valid: EvaluationBatches) -> None:
        """`steps` are those of an epoch."""
        self.steps = steps
        self.valid = len(valid.kept())
        batches: list[Batch] = valid.kept()
        # What a loader reads may be drawn anew at every pass, and be more than fits.
        if isinstance(train, Examples):
            batches = [*batches, train.tensors]
        elif isinstance(train, Listed):
            batches = [*batches, *train.listed]
        digest = hashlib.sha256()
        for tensor in tensors_in(batches):
            digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(bytes_of(tensor))
        self.hash = digest.hexdigest()
        """The SHA-256 of all tensors of the batches, their types and shapes."""

    def __str__(self) -> str:
        return f"{self.steps} training batches an epoch, {self.valid} validation batches in memory, hash {self.hash[:8]}"


def bytes_of(tensor: Tensor) -> bytes:
    """Its values in memory; those of a sparse tensor as a dense one has them."""
    plain = tensor.detach().cpu()
    plain = plain if plain.layout == torch.strided else plain.to_dense()
    return plain.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
