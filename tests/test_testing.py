"""The contract tests of `enas.testing`: what this package has passes them, and of every rule a broken example does not."""

from __future__ import annotations

import ast
import copy
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import enas
from enas import Task, Training
from enas.architecture import Architecture, Decision, Graph, Space
from enas.controllers import Proposals
from enas.controllers.base import reward_and_entropy
from enas.controllers.independent import IndependentPolicy
from enas.controllers.policy_gradient import PolicyGradientController, ReinforceConfig
from enas.controllers.uniform import UniformController
from enas.data.images import ImageData, ImageSet, ImageShape
from enas.errors import EnasError, NotFiniteError
from enas.runs.recurrent import build_supernet
from enas.searchable import searchable
from enas.spaces.graph.space import GraphSpace
from enas.spaces.image_network import ImageChild
from enas.spaces.macro.net import MacroChild, MacroNetConfig, MacroSupernet
from enas.spaces.macro.space import MacroSpace
from enas.spaces.micro.net import MicroChild, MicroNetConfig, MicroSupernet
from enas.spaces.micro.space import MicroSpace
from enas.spaces.nasbench201.net import NASBench201Child, NASBench201NetConfig, NASBench201Supernet
from enas.spaces.nasbench201.space import NASBench201Space
from enas.spaces.recurrent.net import CellConfig, ChildCell
from enas.spaces.recurrent.space import RecurrentSpace
from enas.task import BaseTask
from enas.tasks.batches import BatchTask
from enas.tasks.image_settings import ImageRewardConfig, ImageTrainingConfig
from enas.tasks.images import ImageTask
from enas.tasks.language import LanguageTask
from enas.tasks.language_model import LanguageModel
from enas.tasks.language_settings import (
    LanguageTrainingConfig,
    RewardConfig,
    SharedConfig,
    WindowConfig,
)
from enas.testing import ContractError, check_controller, check_network, check_space, check_task
from tests import conditional_space
from tests.own_task import (
    FEATURES,
    OPTIONS,
    SOURCES,
    Supernet,
    ToySpace,
    accuracy,
    batch_task,
    cross_entropy,
    task_of,
)
from tests.test_choice_space import NESTED
from tests.test_choices import WIDTH, Net
from tests.test_language_training import EVERYTHING, corpus

ROOT = Path(__file__).resolve().parent.parent
X = torch.randn(5, FEATURES, generator=torch.Generator().manual_seed(1))
IMAGES = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(2))
SHAPE = ImageShape(2, 8, 8, 4)
CPU = torch.device("cpu")


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn() -> torch.Generator:
    """A generator that follows from torch's own."""
    return seeded(int(torch.randint(2**31, ())))


# ---- what this package has ---------------------------------------------------------------------------------------------

OWN_SPACES: dict[str, Space] = {
    "recurrent": RecurrentSpace(3),
    "recurrent of the paper": RecurrentSpace(12),
    "recurrent of the authors": RecurrentSpace(3, ("tanh", "relu"), "tanh"),
    "macro": MacroSpace(3),
    "macro of the paper": MacroSpace(12),
    "micro": MicroSpace(1, ("sep3x3", "max3x3", "identity")),
    "micro of the paper": MicroSpace(5),
    "one cell": MicroSpace(2, one_cell=True),
    "nasbench201": NASBench201Space(),
    "graph": GraphSpace(),
    "choices": NESTED,
    "choices of a network": enas.space_of(Net()),
    "nested": conditional_space.SPACE,
    "by the contract": ToySpace(),
}


@pytest.mark.parametrize("name", OWN_SPACES)
def test_spaces_keep_their_contract(name: str) -> None:
    # A class is found by its name, the last of that name: others of this one have been broken here.
    check_space(but(ToySpace)() if name == "by the contract" else OWN_SPACES[name])


class WithImageChild:
    """The child of a supernet of images, by the contract of a searchable network."""

    kind: type[ImageChild]

    def child(self: Any, architecture: Architecture, weights: str = "fresh") -> ImageChild:
        child = self.kind(architecture, self.config, self.network.shape, drawn())
        if weights == "shared":
            child.load_slice(self)
        return child


class Macro(WithImageChild, MacroSupernet):
    kind = MacroChild


class Micro(WithImageChild, MicroSupernet):
    kind = MicroChild


class NASBench201(WithImageChild, NASBench201Supernet):
    kind = NASBench201Child


class Recurrent(LanguageModel):
    """A language model around the shared cells."""

    @property
    def space(self) -> Space:
        return self.cell.space

    def child(self, architecture: Architecture, weights: str = "fresh") -> LanguageModel:
        draw = drawn()
        cell = ChildCell(architecture, self.hidden, self.cell.config, 0.1, draw)
        child = LanguageModel(cell, self.vocabulary, 0.1, draw, self.dropout)
        if weights == "shared":
            cell.load_slice(self.cell)
            child.embedding.load_state_dict(self.embedding.state_dict())
        return child


def macro() -> Macro:
    return Macro(MacroSpace(3, ("conv3x3", "sep5x5", "max3x3")), MacroNetConfig(filters=2), SHAPE, seeded())


def micro() -> Micro:
    config = MicroNetConfig(filters=2, layers=1, drop_path_keep=0.8, dropout=0.2)
    return Micro(MicroSpace(1, ("sep3x3", "identity")), config, SHAPE, seeded())


def nasbench201() -> NASBench201:
    return NASBench201(NASBench201Space(), NASBench201NetConfig(filters=2, cells=1), SHAPE, seeded())


TRAINING = LanguageTrainingConfig(WindowConfig(4, 5, True), regularisation=EVERYTHING)


def recurrent(sharing: Any = "source") -> Recurrent:
    config = SharedConfig(hidden=6, training=TRAINING)
    made = build_supernet(RecurrentSpace(3), 20, config, CellConfig(sharing=sharing), seed=0)
    made.__class__ = Recurrent
    assert isinstance(made, Recurrent)
    return made


def choices() -> nn.Module:
    torch.manual_seed(0)
    return Net()


TOKENS = torch.randint(20, (4, 3), generator=seeded())
OWN_NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "macro": (macro, IMAGES),
    "micro": (micro, IMAGES),
    "nasbench201": (nasbench201, IMAGES),
    "recurrent": (recurrent, TOKENS),
    "recurrent of the authors": (lambda: recurrent("function-source"), TOKENS),
    "choices": (choices, (torch.randn(6, WIDTH, generator=seeded()), 1.5)),
    "choices by name": (choices, {"x": torch.randn(6, WIDTH, generator=seeded())}),
    "choices made searchable": (lambda: searchable(choices()), torch.randn(6, WIDTH, generator=seeded())),
    "by the contract": (lambda: Sharing(), X),
    "changes its input in place": (lambda: InPlace(), X),
    "without shared weights": (Supernet, X),
}


@pytest.mark.parametrize("name", OWN_NETWORKS)
def test_networks_keep_their_contract(name: str) -> None:
    make, example = OWN_NETWORKS[name]
    net = make()
    before = copy.deepcopy(net.state_dict())
    check_network(net, example)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.training


class InPlace(Supernet):
    def forward(self, x: Tensor, architecture: Architecture) -> Tensor:
        x *= 0.5
        return super().forward(x, architecture)

    def child(self, architecture: Architecture) -> nn.Module:
        return nn.Sequential(Halved(), super().child(architecture))


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(0.5)


class Sharing(Supernet):
    """By the contract, with a child that may have the shared weights."""

    def child(self, architecture: Architecture, weights: str = "fresh") -> nn.Module:
        layers = [layer[choice] for layer, choice in zip(self.layers, architecture.choices, strict=True)]
        child = copy.deepcopy(nn.Sequential(self.stem, *layers, self.head))
        if weights == "fresh":
            for module in child.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        return child


def image_set(count: int) -> ImageSet:
    images_NCHW = torch.randint(256, (count, 2, 8, 8), generator=seeded(count), dtype=torch.uint8)
    return ImageSet(images_NCHW, torch.arange(count) % 4)


def image_task(statistics: Any) -> ImageTask:
    data = ImageData("made up", tuple("abcd"), image_set(8), image_set(7), image_set(5), {})
    reading = ImageRewardConfig(batch=4, statistics=statistics, recalibration_batches=2)
    training = ImageTrainingConfig(batch=4)
    return ImageTask(data, training, reading, epochs=2, seed=0, device=CPU, dtype=torch.float32)


def language_task() -> LanguageTask:
    reading = RewardConfig(batch=3, bptt=5)
    return LanguageTask(corpus(), TRAINING, reading, seed=0, device=CPU, dtype=torch.float32)


OWN_TASKS: dict[str, tuple[Callable[[], Task | BaseTask], Callable[[], nn.Module]]] = {
    **{
        f"own, of {name}": (lambda name=name: task_of(name), choices if name == "dicts" else Supernet)
        for name in SOURCES
    },
    "own, recalibrated": (lambda: batch_task(task_of("loader"), statistics="recalibrated"), Sharing),
    "own, moving": (lambda: batch_task(task_of("list", test=None), statistics="moving"), Supernet),
    "images": (lambda: image_task("batch"), micro),
    "images, recalibrated": (lambda: image_task("recalibrated"), macro),
    "language": (language_task, recurrent),
}


@pytest.mark.parametrize("name", OWN_TASKS)
def test_tasks_keep_their_contract(name: str) -> None:
    make_task, make_network = OWN_TASKS[name]
    check_task(make_task(), make_network())


class Packed:
    """A batch of one's own, which is equal to itself alone."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.names = x, np.array(["row"] * len(x))

    def to(self, device: torch.device) -> Packed:
        return Packed(self.x.to(device))


class OfPacked(Supernet):
    def forward(self, packed: Packed, names: Any, architecture: Architecture | None = None) -> Tensor:
        assert len(names) == len(packed.x)
        return super().forward(packed.x, architecture)

    def child(self, architecture: Architecture) -> nn.Module:
        return OfPackedAlone(super().child(architecture))


class OfPackedAlone(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, packed: Packed, names: Any) -> Any:
        return self.network(packed.x)


def test_a_batch_may_hold_arrays_and_objects() -> None:
    train, valid = (
        [(Packed(x), np.array(["row"] * len(x)), y) for x, y in SOURCES["list"]()[split]]
        for split in ("train", "valid")
    )
    loss, score = (lambda output, batch, of=of: of(output, batch[1:]) for of in (cross_entropy, accuracy))
    check_task(Task(train, valid, loss=loss, score=score), OfPacked())


def test_checks_need_no_test_framework() -> None:
    code = (
        "import sys, enas.testing; from enas.spaces.macro.space import MacroSpace;"
        "enas.testing.check_space(MacroSpace(2)); assert 'pytest' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- what is broken ----------------------------------------------------------------------------------------------------


def but(base: type, **changed: Any) -> Any:
    """The class with something else in it."""
    return type(base.__name__, (base,), changed)


@dataclass(frozen=True)
class Broken:
    """A call that must raise; which rule it breaks, by its first words, and what is found."""

    call: Callable[[], None]
    promise: str
    found: str


def space(promise: str, found: str, **changed: Any) -> Broken:
    return Broken(lambda: check_space(but(ToySpace, **changed)()), promise, found)


FIRST = (Decision("layer.0", "operation", 0, OPTIONS), Decision("layer.1", "skip", 1, OPTIONS))
LOOSE = Graph("", (), (("a", "b"),))
BROKEN_SPACES = {
    "a list of decisions": space(
        "decisions must be a tuple", "they are []", decisions=property(lambda self: [])
    ),
    "changing decisions": space(
        "decisions must be a tuple",
        "they are others",
        decisions=property(lambda self: (Decision(os.urandom(4).hex(), "operation", 0, OPTIONS),)),
    ),
    "one name": space("a decision's name", "the names are ['layer.0', 'l", decisions=FIRST[:1] * 2),
    "a skip of three": space("a decision's name", "layer.1 has the options ('tanh'", decisions=FIRST),
    "an unknown option": space(
        "parameter_free must",
        "of layer.0 it names ('none',)",
        parameter_free=lambda self, decision: ("none",),
    ),
    "samples of its own": space(
        "sample must draw",
        "the same generator gave others",
        sample=lambda self, rng: Space.sample(self, random.Random()),
    ),
    "unequal copies": space(
        "a space must be equal",
        "a copy is another one",
        __eq__=lambda self, other: self is other,
        __hash__=object.__hash__,
    ),
    "weights beyond 1": space(
        "weights(before) must",
        "after () those of layer.0 are (0.5, 0.5, 0.5)",
        weights=lambda self, before: (0.5,) * 3,
    ),
    "an impossible sample": space(
        "weights(before) must", ", and choice 2 was drawn", weights=lambda self, before: (0.5, 0.5, 0.0)
    ),
    "not said to be conditional": space(
        "where options depend",
        "the weights of layer.0 are (0.5, 0.25, 0.25)",
        weights=lambda self, before: (0.5, 0.25, 0.25),
    ),
    "nothing active": space(
        "active(choices) must",
        "it is (False, False), not (True, True)",
        active=lambda self, choices: (False, False),
    ),
    "too small a count": space("count() must", "it is 8, and 9 were sampled", count=lambda self: 8),
    "too large a count": space(
        "count() must", "it is 10, and 9 or more are enumerated", count=lambda self: 10
    ),
    "a count beyond what is enumerated": space(
        "count() must", "it is 5000, and 9 or more are enumerated", count=lambda self: 5000
    ),
    "no count": space(
        "count() must", "NotImplementedError was raised: ToySpace is conditional", conditional=True
    ),
    "one architecture for all": space(
        "enumerate() must", "one comes twice", enumerate=lambda self: iter([self.architecture((0, 0))] * 9)
    ),
    "enumerated backwards": space(
        "enumerate() must", "another order", enumerate=lambda self: reversed([*Space.enumerate(self)])
    ),
    "JSON of tuples": space(
        "space_from_json must", "it is not the same", to_json=lambda self: {"name": "toy", "layers": (1,)}
    ),
    "unknown JSON": space(
        "space_from_json must", "ArchitectureError was raised", to_json=lambda self: {"layers": 1}
    ),
    "one text for all": space(
        "parse must read", "'tanh tanh', of the choices (", format=lambda self, architecture: "tanh tanh"
    ),
    "another error": space(
        "parse must raise enas",
        "ValueError was raised: '?!' is not in list",
        parse=lambda self, text: self.architecture([[*OPTIONS].index(word) for word in text.split()]),
    ),
    "parses anything": space(
        "parse must raise enas",
        "'?!' was read as (0, 0)",
        parse=lambda self, text: self.architecture((0, 0)) if text == "?!" else ToySpace.parse(self, text),
    ),
    "an edge to nowhere": space(
        "graph must", "has the edges [('a', 'b')]", graph=lambda self, architecture: LOOSE
    ),
    "reduced again and again": space(
        "reduced must",
        "was reduced to",
        reduced=lambda self, architecture: self.architecture([(c + 1) % 3 for c in architecture.choices]),
    ),
}


def network(promise: str, found: str, base: type = Sharing, **changed: Any) -> Broken:
    def call() -> None:
        torch.manual_seed(0)
        check_network(but(base, **changed)(), X)

    return Broken(call, promise, found)


class NoFile:
    """What is not read by weights_only=True."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NoFile)


NO_FILE = {"get_extra_state": lambda self: NoFile(), "set_extra_state": lambda self, state: None}


def with_generator(self: Supernet) -> None:
    Supernet.__init__(self)
    self.kept = (number for number in range(3))


def with_list(self: Supernet) -> None:
    Supernet.__init__(self)
    self.kept = [torch.ones(2)]


def plus(number: Callable[[Any], float]) -> Any:
    """A forward pass that adds a number."""
    return lambda self, x, architecture: Supernet.forward(self, x, architecture) + number(self)


def counted(self: Any) -> float:
    self.calls = getattr(self, "calls", 0) + 1
    return self.calls


def with_buffer(self: Supernet) -> None:
    Supernet.__init__(self)
    self.register_buffer("calls", torch.zeros(()))


def counted_in_a_buffer(self: Any) -> float:
    self.calls += 1
    return 0.0


def first_path(self: Supernet, x: Tensor, architecture: Architecture) -> Tensor:
    return Supernet.forward(self, x, architecture.space.architecture((0, 0)))


def detached(self: Supernet, x: Tensor, architecture: Architecture) -> Tensor:
    return Supernet.forward(self, x, architecture) + self.extra.detach()


def with_extra(self: Supernet) -> None:
    Supernet.__init__(self)
    self.extra = nn.Parameter(torch.ones(2))


def all_paths(self: Supernet, x: Tensor, architecture: Architecture) -> Tensor:
    """Every option, times 0 or 1."""
    x = self.stem(x)
    for layer, choice in zip(self.layers, architecture.choices, strict=True):
        x = sum(option(x) * float(number == choice) for number, option in enumerate(layer))
    return self.head(x)


def with_state(self: Sharing, architecture: Architecture) -> nn.Module:
    return but(nn.Sequential, **NO_FILE)(*Supernet.child(self, architecture))


def without_copy(self: Supernet, architecture: Architecture, weights: str = "fresh") -> nn.Module:
    child = Sharing.child(self, architecture)
    return nn.Sequential(self.stem, *list(child)[1:]) if weights == "shared" else child


def of_other_width(self: Supernet, architecture: Architecture) -> nn.Module:
    return nn.Sequential(*list(Supernet.child(self, architecture))[:-1])


def from_elsewhere(self: Supernet, architecture: Architecture) -> nn.Module:
    child = Supernet.child(self, architecture)
    nn.init.uniform_(child[0].weight, generator=seeded(int.from_bytes(os.urandom(4), "little")))
    return child


class Everywhere(Net):
    """Gives every weight a gradient, as some do for the sake of DistributedDataParallel."""

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return Net.forward(self, x, scale) + 0 * sum(weight.sum() for weight in self.parameters())


BROKEN_NETWORKS = {
    "no choice": Broken(
        lambda: check_network(nn.Linear(2, 2), X), "a network must be a module", "there is no Choice and no"
    ),
    "not to be copied": network(
        "copy.deepcopy must", "TypeError was raised: cannot p", __init__=with_generator
    ),
    "copied by name": network(
        "copy.deepcopy must", "stem.weight, stem.bias", __deepcopy__=lambda self, memo: self
    ),
    "no samples": network(
        "space must be an enas.Space", "TypeError was raised", space=but(ToySpace, sample=None)()
    ),
    "random in evaluation": network(
        "in evaluation,", "is another one", forward=plus(lambda self: float(torch.rand(())))
    ),
    "counts its calls": network("in evaluation,", "is another one", forward=plus(counted)),
    "returns nothing": network("in evaluation,", "has none", forward=lambda self, x, architecture: None),
    "counts in a buffer": network(
        "in evaluation,", "calls has changed", __init__=with_buffer, forward=plus(counted_in_a_buffer)
    ),
    "one path for all": network("forward must compute", "have the same output", forward=first_path),
    "random whatever the seed": network(
        "in training, outputs must",
        "are others",
        forward=plus(lambda self: self.training * int.from_bytes(os.urandom(2), "little")),
    ),
    "tensors in a list": network("a network that loads", "kept is neither a parameter", __init__=with_list),
    "more than tensors": network("a network that loads", "UnpicklingError was raised", **NO_FILE),
    "state that is not taken": network(
        "a network that loads", "its output of", load_state_dict=lambda self, state: None
    ),
    "weights without gradient": network(
        "weights that a path", "': extra", __init__=with_extra, forward=detached, child=Supernet.child
    ),
    "all paths at once": network("a path must train", "gets a gradient of zeros", forward=all_paths),
    "all options at once": Broken(
        lambda: check_network(Everywhere(), torch.randn(6, WIDTH, generator=seeded())),
        "a path must train",
        "of an option that is not taken in",
    ),
    "the child is no module": network(
        "child(architecture) must", "is function", child=lambda self, a: lambda x: x
    ),
    "the child is the network": network(
        "child(architecture) must",
        "0.weight, 0.bias",
        child=lambda self, a: nn.Sequential(self.stem, self.head),
    ),
    "the child is a copy": network(
        "child(architecture) must", "is a copy", child=lambda self, a: Sharing.child(self, a, "shared")
    ),
    "a child without seed": network(
        "child(architecture) must", "differ after the same", child=from_elsewhere
    ),
    "a child of other outputs": network(
        "child(architecture) must", "returns [[5, 6]], and", child=of_other_width
    ),
    "a child of more than tensors": network(
        "a child must load", "UnpicklingError was raised", child=with_state
    ),
    "other weights as shared ones": network(
        "child(architecture, weights='shared')",
        "returns something else",
        child=lambda self, architecture, weights="fresh": Supernet.child(self, architecture),
    ),
    "shared weights themselves": network(
        "child(architecture, weights='shared')", "0.weight, 0.bias of", child=without_copy
    ),
}


def task(promise: str, found: str, **changed: Any) -> Broken:
    def call() -> None:
        kind = but(BatchTask, **changed)
        check_task(kind(task_of("list"), epochs=2, seed=0, device=CPU, dtype=torch.float32), Supernet())

    return Broken(call, promise, found)


def own(promise: str, found: str, **changed: Any) -> Broken:
    return Broken(lambda: check_task(task_of("list", **changed), Supernet()), promise, found)


def noise() -> float:
    """Other than the time before."""
    return int.from_bytes(os.urandom(4), "little") / 2**32


def noisy(minibatch: Any) -> Any:
    return minibatch._replace(batch=(minibatch.batch[0] + torch.randn(FEATURES), minibatch.batch[1]))


def slowed(self: BatchTask, minibatch: Any) -> float:
    """By how often it was called."""
    self.calls = getattr(self, "calls", 0) + 1
    return 1 / self.calls


def trained_in_evaluation(self: BatchTask, model: nn.Module, *given: Any) -> Any:
    next(model.parameters()).mul_(1.5)
    return BatchTask.measure(self, model, *given)


BROKEN_TASKS = {
    "no network": Broken(
        lambda: check_task(task_of("list"), nn.Linear(2, 2)), "the network must be one", "there is no Choice"
    ),
    "no task": Broken(
        lambda: check_task(cross_entropy, Supernet()), "it must be an enas.Task", "<function cross_ent"
    ),
    "no data": own("its training data must", "DataError was raised: train has no batch", train=[]),
    "no steps": task("steps(epoch) must", "that of epoch 0 is 0", steps=lambda self, epoch: 0),
    "changing steps": task(
        "steps(epoch) must", "another one when", steps=lambda self, epoch: 1 + int(1e6 * noise())
    ),
    "changing minibatches": task(
        "minibatch(epoch, step) must",
        "that of (1, 1) is",
        minibatch=lambda *given: noisy(BatchTask.minibatch(*given)),
    ),
    "two groups": own(
        "optimizer must",
        "ConfigError was raised: the optimiser has 2 groups",
        training=Training(),
        optimizer=lambda own: torch.optim.SGD([{"params": own[:2]}, {"params": own[2:]}], 0.1),
    ),
    "no optimiser": task("optimizer must", "it made None", optimizer=lambda self, parameters: None),
    "a negative rate": task("learning rates must", "that of (0, 0) is -1", rate=lambda self, epoch: -1),
    "a loss that is NaN": own("loss must", "it is nan", loss=lambda *given: cross_entropy(*given) * math.nan),
    "a loss without gradient": own(
        "loss must", "ConfigError was raised: the loss of", loss=lambda output, batch: output.detach().sum()
    ),
    "a loss of nothing": own(
        "loss must", "none of the network's", loss=lambda output, batch: torch.ones((), requires_grad=True)
    ),
    "an infinite gradient": own(
        "loss must", "gets one that is not finite", loss=lambda output, batch: (0 * output.sum()).abs().sqrt()
    ),
    "a log without the loss": task(
        "loss must", "accuracy is not logged, only loss", reported=("loss", "accuracy")
    ),
    "a random loss": own(
        "the loss of a minibatch", "it is ", loss=lambda *given: cross_entropy(*given) * noise()
    ),
    "changing rewards' minibatches": task(
        "reward_minibatch(",
        "is another one",
        reward_minibatch=lambda *given: noisy(BatchTask.reward_minibatch(*given)),
    ),
    "a random reward": own("measure and rewards_from", ", and then [", score=lambda output, batch: noise()),
    "a reward that is NaN": own(
        "measure and rewards_from", "NotFiniteError was raised", score=lambda output, batch: math.nan
    ),
    "training by rewards": task(
        "measure and rewards_from", "weights or buffers", measure=trained_in_evaluation
    ),
    "random scores": own("evaluate must", ", and then {", metrics={"r2": lambda output, batch: noise()}),
    "no metric": task("evaluate must", "accuracy is not among loss, score", metric="accuracy"),
    "state that is not kept": task("a training that loads", "at (0, 1) it logged {", rate_factor=slowed),
    "no size": task("size(child) and", "the sizes are {}", size=lambda self, model: {}),
}


def controller(promise: str, found: str, base: type = UniformController, **changed: Any) -> Broken:
    return Broken(lambda: check_controller(but(base, **changed), conditional_space.SPACE), promise, found)


def proposing(change: Callable[[Proposals], Proposals]) -> Any:
    return lambda self, n, generator: change(UniformController.propose(self, n, generator))


def inactive_ones(proposals: Proposals) -> Proposals:
    choices_NL = proposals.choices_NL
    return replace(proposals, choices_NL=torch.where(proposals.log_prob_NL == 0, 1 - choices_NL, choices_NL))


def counting(self: Any, n: int, generator: torch.Generator) -> Proposals:
    self.calls = getattr(self, "calls", 0) + 1
    return UniformController.propose(self, n, generator)


def globally(self: UniformController, n: int, generator: torch.Generator) -> Proposals:
    return UniformController.propose(self, n, torch.default_generator)


def also_globally(self: UniformController, *given: Any) -> dict[str, float]:
    torch.rand(())
    return UniformController.feedback(self, *given)


class Learning(PolicyGradientController):
    """One that learns."""

    def __init__(self, space: Space) -> None:
        super().__init__(IndependentPolicy(space), ReinforceConfig())


def learning_anyway(self: Learning, proposals: Proposals, rewards_N: Tensor) -> dict[str, float]:
    try:
        return PolicyGradientController.feedback(self, proposals, rewards_N)
    except NotFiniteError:
        PolicyGradientController.feedback(self, proposals, torch.arange(len(proposals)) / 2)
        raise


def without_check(self: UniformController, proposals: Proposals, rewards_N: Tensor) -> dict[str, float]:
    return reward_and_entropy(self.space, proposals, rewards_N)


def without_moments(self: Learning) -> dict[str, Any]:
    return {
        **PolicyGradientController.state_dict(self),
        "optimiser": Learning(self.space).optimiser.state_dict(),
    }


def live(self: Learning) -> dict[str, Any]:
    return {**PolicyGradientController.state_dict(self), "policy": self.policy.state_dict()}


def sharper(proposals: Proposals) -> Proposals:
    """As if they were drawn at another temperature."""
    return replace(proposals, log_prob_NL=1.2 * proposals.log_prob_NL)


BROKEN_CONTROLLERS = {
    "no controller": Broken(
        lambda: check_controller(lambda space: None, ToySpace()), "it must make a Controller", "it is None"
    ),
    "too few proposals": controller(
        "propose(n, generator)",
        "choices_NL has the shape [1, 9], not [50, 9]",
        propose=proposing(lambda found: found.rows([0])),
    ),
    "choices at inactive decisions": controller(
        "propose(n, generator)", ", which are (", propose=proposing(inactive_ones)
    ),
    "small numbers": controller(
        "propose(n, generator)",
        "choices_NL is of torch.int32",
        propose=proposing(lambda found: replace(found, choices_NL=found.choices_NL.int())),
    ),
    "negative entropies": controller(
        "log-probabilities must",
        "an entropy is -1.",
        propose=proposing(lambda found: replace(found, entropy_NL=-found.entropy_NL)),
    ),
    "entropies of inactive decisions": controller(
        "log-probabilities must",
        "that of an inactive one is not",
        propose=proposing(lambda found: replace(found, entropy_NL=found.entropy_NL + 0.1)),
    ),
    "state that proposals change": controller(
        "propose must not",
        "another one",
        propose=counting,
        state_dict=lambda self: {"calls": getattr(self, "calls", 0)},
    ),
    "another generator": controller("proposals must follow", "proposed others", propose=globally),
    "the global generator": controller(
        "proposals must follow", "it drew from the global", feedback=also_globally
    ),
    "a mode in a list": controller("mode() must", "it is [0, 0", mode=lambda self: [0] * 9),
    "a prior that is NaN": controller(
        "prior must", "{'smallest': nan}", prior=lambda self, draw: {"smallest": math.nan}
    ),
    "nothing logged": controller(
        "feedback must return", "reward is nan, not 3", feedback=lambda self, *given: {}
    ),
    "rewards of any kind": controller(
        "feedback must refuse a reward of nan", "it took it", feedback=without_check
    ),
    "learning from NaN": controller(
        "feedback must refuse", "another one afterwards", Learning, feedback=learning_anyway
    ),
    "any state": controller(
        "load_state_dict must refuse", "it took it", load_state_dict=lambda self, state: None
    ),
    "no moments in the state": controller(
        "a controller that loads", "something else", Learning, state_dict=without_moments
    ),
    "a live state": controller("a controller that loads", "changed when", Learning, state_dict=live),
    "probabilities beyond 1": controller(
        "log_prob_N must",
        "come to ",
        propose=proposing(lambda found: replace(found, log_prob_NL=found.log_prob_NL / 2)),
    ),
    "probabilities below 1": controller("log_prob_N must", "come to 0.", propose=proposing(sharper)),
}

BROKEN = {**BROKEN_SPACES, **BROKEN_NETWORKS, **BROKEN_TASKS, **BROKEN_CONTROLLERS}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_a_rule_is_told_in_one_line(name: str) -> None:
    broken = BROKEN[name]
    with pytest.raises(ContractError) as raised:
        broken.call()
    message = str(raised.value)
    _, promise = message.split(": ", 1)
    assert promise.startswith(broken.promise), message
    assert broken.found in promise, message
    assert "\n" not in message
    assert isinstance(raised.value, EnasError)


def rules() -> Iterator[str]:
    """The beginning of every promise in the source."""
    for file in (ROOT / "src" / "enas" / "testing").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "rule":
                promise = node.args[1]
                yield ast.literal_eval(promise.values[0] if isinstance(promise, ast.JoinedStr) else promise)


def test_every_rule_has_a_broken_example() -> None:
    tried = {broken.promise for broken in BROKEN.values()}
    promises = list(rules())
    assert len(promises) > 40
    missing = [one for one in promises if not any(one.startswith(p) or p.startswith(one) for p in tried)]
    assert missing == []
