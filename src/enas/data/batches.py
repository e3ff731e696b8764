"""Batches of a user's own data: of tensors, a list, a loader, a stream. Their order follows from a seed.

A batch is a tensor, or a tuple, list or mapping of tensors and other values. Letters: B examples of a batch, N of all data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from enas.errors import ConfigError, DataError
from enas.runtime.seeding import derive_seed, generator, global_seed
from enas.runtime.transfers import sent
from enas.runtime.whose import hands_over

Batch = Any
"""A tensor, or a tuple, list or mapping of tensors and other values."""

KEPT_BYTES = 2**30
"""Of evaluation batches that are kept in memory."""
_END = object()
"""After the last batch of a pass."""

# ---- what a batch holds ------------------------------------------------------------------------------------------------


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors of a batch, however deep, in its order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | tuple | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(item)


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """The batch with `function` of each tensor, and of whatever else can be moved to a device by a `to` of its own."""
    if hasattr(value, "to"):
        return function(value)
    if isinstance(value, Mapping):
        return {key: mapped(function, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(function, item) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(mapped(function, item) for item in value)
    return value


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device. Floats of 64 bits become 32, as networks have; some devices know no others."""

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            dtype = torch.float32 if value.dtype == torch.float64 else value.dtype
            return sent(value.to(dtype), device)
        return value.to(device)

    return mapped(move, batch)


def copied(batch: Batch) -> Batch:
    """The batch with tensors of its own, as a network may change its inputs in place, and others get the same ones."""
    return mapped(lambda value: value.clone() if isinstance(value, Tensor) else value, batch)


def examples_in(batch: Batch) -> int:
    """B: the length of its first tensor that has one."""
    return next((len(tensor) for tensor in tensors_in(batch) if tensor.ndim), 1)


def bytes_in(batch: Batch) -> int:
    """Of all its tensors."""
    return sum(tensor.nbytes for tensor in tensors_in(batch))


def joined(values: Sequence[Any]) -> Any:
    """Batches, or what networks made of them, as one, part by part: tensors one below the other, other things in a list."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat([value if value.ndim else value[None] for value in values])
    if isinstance(first, Mapping):
        return {key: joined([value[key] for value in values]) for key in first}
    if isinstance(first, tuple | list):
        parts = [joined(part) for part in zip(*values, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    return list(values)


def structure(batch: Batch) -> str:
    """What a batch is made of, such as `(Tensor, Tensor)`; shapes may differ from batch to batch."""
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{key}: {type(item).__name__}" for key, item in batch.items()) + "}"
    if isinstance(batch, tuple | list):
        return "(" + ", ".join(type(item).__name__ for item in batch) + ")"
    return type(batch).__name__


# ---- where batches come from -------------------------------------------------------------------------------------------


class Source(ABC):
    """The batches of one split, passed over as often as is asked for."""

    def __init__(self, name: str, length: int | None) -> None:
        self.name = name
        """Of the split, for messages."""
        self.length = length
        """Batches of a pass; None if only a pass can tell."""
        self._structure: str | None = None

    @abstractmethod
    def read(self, seed: int, first: int) -> Iterator[Batch]:
        """The batches of the pass that follows from the seed, from number `first` on."""

    def batches(self, seed: int, first: int = 0) -> Iterator[Batch]:
        """The same, checked. Raises `DataError` if a batch is no batch, or made of other things than the first one."""
        for number, batch in enumerate(self.read(seed, first), first):
            if (
                not isinstance(batch, Tensor | Mapping | tuple | list)
                or next(tensors_in(batch), None) is None
            ):
                raise DataError(
                    f"batch {number + 1} of {self.name} is {structure(batch)}; a batch is a tensor, or a tuple, list or "
                    "dict with tensors in it"
                )
            found = structure(batch)
            self._structure = self._structure or found
            if found != self._structure:
                raise DataError(
                    f"batch {number + 1} of {self.name} is {found}, one before it was {self._structure}: all need the same "
                    "parts"
                )
            yield batch


class Examples(Source):
    """Tensors whose first dimension counts examples. Every pass mixes them anew."""

    def __init__(self, name: str, tensors: Batch, size: int) -> None:
        """`size` is B, the most examples of a batch; all batches are of that size, or one less than each other. Raises
        `DataError` if the tensors are of different length."""
        lengths = [len(tensor) if tensor.ndim else 0 for tensor in tensors_in(tensors)]
        if len(set(lengths)) > 1:
            raise DataError(
                f"{name} has tensors of {', '.join(map(str, lengths))} examples: all need as many, one a row"
            )
        self.tensors = tensors
        self.examples = lengths[0]
        self.count = ceil(self.examples / size)
        super().__init__(name, self.count)

    def read(self, seed: int, first: int) -> Iterator[Batch]:
        order_N = torch.randperm(self.examples, generator=generator(seed, "order"))
        for chosen_B in order_N.tensor_split(self.count)[first:]:
            yield mapped(partial(_rows, chosen_B), self.tensors)


def _rows(chosen_B: Tensor, tensor: Tensor) -> Tensor:
    return tensor[chosen_B.to(tensor.device)]


class Listed(Source):
    """A list of batches, in a new order at every pass."""

    def __init__(self, name: str, listed: list[Batch]) -> None:
        super().__init__(name, len(listed))
        self.listed = listed

    def read(self, seed: int, first: int) -> Iterator[Batch]:
        order = torch.randperm(len(self.listed), generator=generator(seed, "order")).tolist()
        return (self.listed[position] for position in order[first:])


class Passed(Source):
    """What can only be passed over from its beginning, a `DataLoader` above all. It draws the order itself.

    For a pass to be repeated exactly, its generators, its workers' and the global ones of Python, numpy and torch start from
    the seed. A generator that it keeps elsewhere is out of reach, as are workers that live on from pass to pass
    (`persistent_workers`): what these draw is not repeated after resuming.
    """

    def __init__(self, name: str, begin: Callable[[], Iterable[Batch]], length: int | None) -> None:
        """`begin` returns what is passed over."""
        super().__init__(name, length)
        self.begin = begin

    @hands_over
    def read(self, seed: int, first: int) -> Iterator[Batch]:
        # A sampler draws the order when it is first asked: by a loader with workers as its pass begins, by one without as it
        # reads its first batch. Both draw from one seed, so that the order is the same for any number of workers.
        with global_seed(derive_seed(seed, "pass")):
            passed = self.begin()
            _start_from(seed, passed)
            iterator = iter(passed)
            batch = next(iterator, _END)
        for number in count():
            if batch is _END:
                return
            # The batches before `first` are read as well: workers draw from where the ones before have left them.
            if number >= first:
                yield batch
            with global_seed(derive_seed(seed, number + 1)):
                batch = next(iterator, _END)


@hands_over
def _start_from(seed: int, passed: Any) -> None:
    """Let what a loader and its samplers draw from start from the seed."""
    batches = getattr(passed, "batch_sampler", None)
    parts = (passed, getattr(passed, "dataset", None), getattr(passed, "sampler", None), batches)
    for part in (*parts, getattr(batches, "sampler", None)):
        if isinstance(drawn := getattr(part, "generator", None), torch.Generator):
            drawn.manual_seed(derive_seed(seed, "order"))
        # Some samplers and streams order by the number of the epoch.
        if callable(set_epoch := getattr(part, "set_epoch", None)):
            set_epoch(derive_seed(seed, "order") % 2**31)


@hands_over
def source_of(name: str, given: Any, size: int | None = None) -> Source:
    """The batches of what a user gives as a split.

    A tensor, or a tuple or mapping of tensors, has one example a row, of which `size` make a batch; a `Dataset` of torch, or
    what has examples by their number, likewise. Everything else is passed over for its batches. A function is called for
    it: for every pass if it returns an iterator or generator, else once. Raises `DataError` if there are no batches in it,
    and `ConfigError` if `size` is needed.
    """
    if callable(given) and not isinstance(given, Iterable):
        made = given()
        return Passed(name, given, None) if isinstance(made, Iterator) else source_of(name, made, size)
    if isinstance(given, Iterator):
        raise DataError(
            f"{name} can be passed over only once: give the function that makes the {type(given).__name__}"
        )
    parts = list(given.values()) if isinstance(given, Mapping) else given
    in_memory = isinstance(parts, Tensor) or (
        isinstance(parts, tuple if parts is given else list)
        and len(parts) > 0
        and all(isinstance(part, Tensor) for part in parts)
    )
    single = isinstance(given, Dataset) and not isinstance(given, IterableDataset)
    if (in_memory or single) and size is None:
        raise ConfigError(
            f"{name} is {type(given).__name__} of single examples: say with batch= how many make a step"
        )
    source: Source
    if in_memory:
        assert size is not None
        source = Examples(name, dict(given) if isinstance(given, Mapping) else given, size)
    elif isinstance(given, list | tuple):
        _check_alike(name, given)
        source = Listed(name, list(given))
    elif size is not None and (isinstance(given, Dataset) or hasattr(given, "__getitem__")):
        loader: DataLoader[Any] = DataLoader(given, size, shuffle=not isinstance(given, IterableDataset))
        source = Passed(name, lambda: loader, _length(loader))
    elif isinstance(given, Iterable):
        source = Passed(name, lambda: given, _length(given))
    else:
        raise DataError(
            f"{name} is of type {type(given).__name__}; batches come from a DataLoader, a list, tensors, or whatever can be "
            "passed over again and again"
        )
    if source.length == 0:
        raise DataError(
            f"{name} has no batch: it is empty, or smaller than a batch of a loader that drops the last one"
        )
    return source


def _check_alike(name: str, batches: Sequence[Batch]) -> None:
    """Raise `DataError` for [x, y], meant as the parts of examples, which would be two batches."""
    kinds = {(one.dtype, one.ndim): one for one in batches if isinstance(one, Tensor)}
    if len(kinds) > 1:
        shown = " and ".join(f"{one.dtype} of shape {list(one.shape)}" for one in list(kinds.values())[:2])
        raise DataError(
            f"{name} is a {type(batches).__name__} of batches, and these differ: {shown}. Tensors that belong together, one "
            "row an example, come as a tuple"
        )


@hands_over
def _length(given: Any) -> int | None:
    try:
        return len(given)
    except (TypeError, NotImplementedError):  # a stream
        return None


# ---- passes over them --------------------------------------------------------------------------------------------------


class TrainingBatches:
    """The batches of a training, one after the other. The pass of an epoch stays open from step to step."""

    def __init__(self, source: Source, steps: int | None, seed: int) -> None:
        """`steps` are the batches of an epoch, by default all. Raises `ConfigError` if there are not as many, or their
        number is not known."""
        if source.length is None and steps is None:
            raise ConfigError(
                f"the length of {source.name} is not known: say with steps= how many batches an epoch has"
            )
        if source.length is not None and steps is not None and steps > source.length:
            raise ConfigError(f"steps = {steps} is more than the {source.length} batches of {source.name}")
        self.source = source
        self.steps = steps or source.length or 0
        self.seed = seed
        self._open: Iterator[Batch] | None = None
        self._place: tuple[int, int] | None = None
        self._batch: Batch = None

    def batch(self, epoch: int, step: int) -> Batch:
        """The batch of a step. Raises `DataError` if the pass ends before it."""
        if self._place == (epoch, step):
            return self._batch
        if self._open is None or self._place != (epoch, step - 1):
            self._open = self.source.batches(derive_seed(self.seed, "batches", epoch), first=step)
        found = next(self._open, None)
        if found is None:
            self._open = self._place = None
            raise DataError(
                f"{self.source.name} has ended before step {step + 1} of epoch {epoch + 1}, which should have {self.steps}: "
                "set steps= to the batches that every pass has"
            )
        self._place, self._batch = (epoch, step), found
        if step + 1 == self.steps:
            self._open = None  # which ends a loader's workers
        return found


class EvaluationBatches:
    """The batches that networks are evaluated on: always the same. What they take up to `most` bytes is kept in memory."""

    def __init__(self, source: Source, most: int = KEPT_BYTES) -> None:
        self.source = source
        self.most = most
        self._kept: list[Batch] = []
        self._every = 1
        """Of every so many batches, one is kept."""

    def __iter__(self) -> Iterator[Batch]:
        """All of them. Raises `DataError` if there is none."""
        kept = self.kept()
        return iter(kept) if self._every == 1 else self.source.batches(0)

    def sample(self, draw: torch.Generator) -> Batch:
        """One of those that are kept."""
        kept = self.kept()
        return kept[int(torch.randint(len(kept), (), generator=draw))]

    def kept(self) -> list[Batch]:
        """All batches, or as many as there is room for, spread evenly over the pass. They are read at the first call."""
        if self._kept:
            return self._kept
        kept: list[Batch] = []
        taken = 0
        for number, batch in enumerate(self.source.batches(0)):
            if number % self._every == 0:
                kept.append(mapped(_own, batch))
                taken += bytes_in(batch)
            while len(kept) > 1 and taken > self.most:
                kept, self._every = kept[::2], 2 * self._every
                taken = bytes_in(kept)
        if not kept:
            raise DataError(f"{self.source.name} has no batch: there is nothing to evaluate networks on")
        self._kept = kept
        return kept


def _own(value: Any) -> Any:
    """A tensor in memory of its own: a worker's takes an open file for as long as it is kept."""
    return value.clone() if isinstance(value, Tensor) and value.is_shared() else value
