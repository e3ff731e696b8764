"""What model.json says of a trained network: how to build it again, what goes in, and what comes out, without the data.

Each kind of network is a class here, whose fields are its JSON form.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Discriminator
from torch import nn

from enas.constraints import Width
from enas.data.images import ImageShape, Normalisation
from enas.data.preprocess import ImagePreprocess, WordPreprocess
from enas.errors import ConfigError, MissingDataError, RunFolderError
from enas.retrain import MODEL
from enas.runtime.environment import versions
from enas.runtime.files import Digest, write_json
from enas.runtime.progress import say
from enas.runtime.records import validated
from enas.spaces import architecture_from_json
from enas.spaces.macro.net import MacroChild, MacroNetConfig
from enas.spaces.micro.net import MicroChild, MicroNetConfig
from enas.spaces.nasbench201.net import NASBench201Child, NASBench201NetConfig
from enas.spaces.recurrent.net import CellConfig, ChildCell
from enas.tasks.language_model import LanguageModel, LSTMCell
from enas.tasks.language_settings import DropoutConfig

if TYPE_CHECKING:
    from enas.child_training import ChildTraining
    from enas.config import RunConfig

INIT_RANGE = 1.0
"""Of weights that are replaced at once."""


class Described(ABC):
    """A network, described so that it can be built anew."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The network, its weights drawn anyhow, with what else a user needs of it as attributes.

        Raises `ArchitectureError` if its architecture is none, and `ConfigError` if its settings do not fit together.
        """


@dataclass(frozen=True)
class ImageModel(Described):
    """A network that tells the classes of images."""

    child_class: ClassVar[type[MacroChild | MicroChild | NASBench201Child]]
    """What builds it of an architecture."""

    architecture: dict[str, Any]
    """The JSON form of an `Architecture`."""
    shape: ImageShape
    classes: tuple[str, ...]
    """The name of each class."""
    normalisation: Normalisation
    """Of the images that it was trained on."""

    def __post_init__(self) -> None:
        if len(self.classes) != self.shape.classes:
            raise ConfigError(f"there are {len(self.classes)} names for {self.shape.classes} classes")
        if not len(self.normalisation.mean) == len(self.normalisation.std) == self.shape.channels:
            raise ConfigError(f"normalisation is not that of {self.shape.channels} channels")
        if not all(math.isfinite(std) and std > 0 for std in self.normalisation.std):
            raise ConfigError(f"normalisation has a standard deviation among {self.normalisation.std}")

    def build(self) -> nn.Module:
        """The network, with its `preprocess` and `classes`."""
        own: Any = self  # every kind has a `network`, the settings of the network around an architecture
        architecture = architecture_from_json(self.architecture)
        model = self.child_class(architecture, own.network, self.shape, torch.Generator())
        vars(model).update(preprocess=ImagePreprocess(self.shape, self.normalisation), classes=self.classes)
        return model


@dataclass(frozen=True)
class MacroModel(ImageModel):
    """Of the macro space."""

    child_class = MacroChild
    network: MacroNetConfig
    kind: Literal["macro"] = "macro"


@dataclass(frozen=True)
class MicroModel(ImageModel):
    """Of the micro space."""

    child_class = MicroChild
    network: MicroNetConfig
    kind: Literal["micro"] = "micro"


@dataclass(frozen=True)
class NASBench201Model(ImageModel):
    """Of NAS-Bench-201's space."""

    child_class = NASBench201Child
    network: NASBench201NetConfig
    kind: Literal["nasbench201"] = "nasbench201"


@dataclass(frozen=True)
class WordModel(Described):
    """A language model around a recurrent cell, or around an LSTM, which has no architecture."""

    architecture: dict[str, Any] | None
    """The JSON form of an `Architecture`."""
    hidden: Width
    """The width D of the cell and of the embedding."""
    cell: CellConfig
    dropout: DropoutConfig
    """In training mode."""
    words: tuple[str, ...]
    """The vocabulary: a token is the place of a word in it."""
    kind: Literal["recurrent"] = "recurrent"

    def build(self) -> nn.Module:
        """The network, with its `preprocess` and `words`."""
        draw = torch.Generator()
        cell: ChildCell | LSTMCell = LSTMCell(self.hidden, draw)
        if self.architecture is not None:
            architecture = architecture_from_json(self.architecture)
            cell = ChildCell(architecture, self.hidden, self.cell, INIT_RANGE, draw)
        model = LanguageModel(cell, len(self.words), INIT_RANGE, draw, self.dropout)
        vars(model).update(preprocess=WordPreprocess(self.words), words=self.words)
        return model


Model = Annotated[MacroModel | MicroModel | NASBench201Model | WordModel, Discriminator("kind")]
"""Any kind of network."""


@dataclass(frozen=True)
class DataRecord:
    """The data that a network was trained on."""

    name: str
    """What they are, in words."""
    hash: str
    """Hexadecimal, the same for the same data."""
    source: str
    """The setting that names them."""
    tested: int
    """Images or tokens of the test data."""


@dataclass(frozen=True)
class ModelRecord:
    """What model.json holds."""

    model: Model
    data: DataRecord
    versions: dict[str, str | None]
    """Of the packages that trained it."""
    weights: Digest
    """Of weights.safetensors beside it."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, every one with its name."""
        named = {
            name: value._asdict()
            for name, value in vars(self.model).items()
            if isinstance(value, ImageShape | Normalisation)
        }
        return {**asdict(self), "model": {**asdict(self.model), **named}}


def describe(folder: Path, config: RunConfig, training: ChildTraining, result: Mapping[str, Any]) -> None:
    """Write model.json beside the weights of a finished training, if the network can be described."""
    if not config.describable:
        return
    data: Any = config.load()  # those of every describable kind have a test split
    settings: Any = config  # and a source
    (name,) = in_utf8([str(data)])
    said = DataRecord(name, data.hash, settings.data.source, len(data.test))
    weights = validated(Digest, result["weights"])
    record = ModelRecord(config.described(training), said, versions(), weights)
    write_json(folder / MODEL, record.to_json())


def describe_later(
    folder: Path, config: RunConfig, again: Callable[[], ChildTraining], result: Mapping[str, Any]
) -> None:
    """Write model.json of a training that ended without: the process was killed, or it was an earlier version's.

    `again` is the training at its start. Where the data are not there any more, this is said, and nothing is written.
    """
    if not config.describable or "weights" not in result or (folder / MODEL).exists():
        return
    try:
        training = again()
    except (MissingDataError, RunFolderError) as error:
        say(f"{folder} stays without {MODEL}, which enas.load needs: {error}")
    else:
        describe(folder, config, training, result)


def in_utf8(names: Iterable[str]) -> tuple[str, ...]:
    """Names of files as a record can hold them: bytes that are not UTF-8 are replaced."""
    return tuple(name.encode(errors="surrogateescape").decode(errors="replace") for name in names)
