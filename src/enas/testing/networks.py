"""The contract of a searchable network: a module with choices, or one with `space`, `forward` and `child`."""

from __future__ import annotations

import contextlib
import copy
import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from enas.architecture import Architecture, Space
from enas.choices.modules import Choice
from enas.choices.plan import plan_of
from enas.choices.reading import Example, buffers_kept
from enas.data.batches import copied, tensors_in
from enas.errors import shortened
from enas.masks import masks_from
from enas.norms import batch_statistics, norms_of
from enas.runtime.seeding import generator, global_seed
from enas.searchable import WithChoices, searchable
from enas.testing.rules import rule, same, through_a_file

TRIES = 50
"""Samples in a row that show no new option, after which no more are drawn."""


@global_seed(0)
def check_network(net: nn.Module, example: Example) -> None:
    """Check that a network keeps its contract, on an example of its inputs: one tensor, several in a row, or by name.

    It computes the architecture that it is given, always alike; only what is on the path has a gradient; a child has weights
    of its own, and with shared ones it computes what the path does, bit for bit, if `child` takes `weights="shared"`.
    Architectures are sampled until every option was seen. Raises `ContractError`.
    """
    whose = type(net).__name__
    with rule(
        whose,
        "a network must be a module with choices, or have space, forward(*inputs, architecture=) and child(architecture)",
        "See enas.searchable",
    ):
        model = searchable(net)
    with rule(
        whose,
        "copy.deepcopy must make a network with tensors of its own",
        "Keep what cannot be copied out of its attributes",
    ) as holds:
        copied = copy.deepcopy(model)
        both = common_memory(model, copied)
        holds(not both, f"{first_of(both)} is that of the network")
        model = copied.eval()
    with rule(
        whose, "space must be an enas.Space that can be sampled", "Call enas.testing.check_space on it"
    ):
        tried = covering(space_in(model))
    check_outputs(whose, model, example, tried)
    with torch.no_grad():  # so that no weight is what an initialisation makes of it, and none is zero
        for number, parameter in enumerate(model.parameters()):
            draw = generator(0, "noise", number)
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=draw).to(parameter))
    check_states(whose, model, example, tried)
    check_paths(whose, model, example, tried)
    for architecture in tried:
        check_child(whose, model, example, architecture)


def space_in(model: nn.Module) -> Space:
    """The space of a searchable network."""
    return cast(Space, model.space)


def child_in(model: nn.Module, architecture: Architecture, **weights: str) -> nn.Module:
    """The child of a searchable network."""
    return cast(Callable[..., nn.Module], model.child)(architecture, **weights)


def covering(space: Space) -> list[Architecture]:
    """A few architectures that together take every option that can be taken, but for very rare ones."""
    rng, found, seen, without = random.Random(0), [], set[tuple[int, int]](), 0
    while without < TRIES:
        architecture = space.sample(rng)
        taken = set(enumerate(architecture.choices))
        without += 1
        if not taken <= seen:
            found.append(architecture)
            seen |= taken
            without = 0
    return found


def computed(
    model: nn.Module, example: Example, architecture: Architecture | None = None, seed: int = 0
) -> list[Tensor]:
    """The tensors that a network returns, with random numbers from the seed."""
    path = {} if architecture is None else {"architecture": architecture}
    given = copied(example)
    named = given if isinstance(given, Mapping) else {}
    inputs = (given,) if isinstance(given, Tensor) else () if named else tuple(given)
    with global_seed(seed), masks_from(generator(seed, "masks")):
        return list(tensors_in(model(*inputs, **named, **path)))


def in_training(model: nn.Module, example: Example, architecture: Architecture | None = None) -> list[Tensor]:
    """The same in training mode; the buffers stay as they are."""
    with torch.no_grad(), buffers_kept(model):
        output = computed(model.train(), example, architecture)
        model.eval()
    return output


def check_outputs(whose: str, model: nn.Module, example: Example, tried: Sequence[Architecture]) -> None:
    """What is computed, and that nothing else follows from it."""
    with (
        torch.no_grad(),
        rule(
            whose,
            "in evaluation, forward(*inputs, architecture=) must return tensors that follow from weights, inputs and "
            "architecture alone",
            "Let nothing be random in evaluation, and keep nothing from one call to the next",
        ) as holds,
    ):
        before = copy.deepcopy(model.state_dict())
        first = [computed(model, example, one) for one in tried]
        again = [computed(model, example, one, seed=1) for one in reversed(tried)][::-1]
        for one, a, b in zip(tried, first, again, strict=True):
            holds(len(a) > 0, f"that of '{one}' has none")
            holds(not any(tensor.isnan().any() for tensor in a), f"that of '{one}' has NaN in it")
            holds(same(a, b), f"that of '{one}' is another one after others were computed")
        changed = [name for name, value in model.state_dict().items() if not same(value, before[name])]
        holds(not changed, f"{shortened(', '.join(changed))} has changed")
    with rule(
        whose,
        "forward must compute the architecture that it is given",
        "Read architecture.choices in forward",
    ) as holds:
        differ = any(not same(first[0], other) for other in first[1:])
        holds(differ or len(tried) == 1, f"all {len(tried)} that were tried have the same output")
    with rule(
        whose,
        "in training, outputs must be the same for the same seed",
        "Draw random numbers from torch's, numpy's or Python's own generators",
    ) as holds:
        for one in tried:
            a, b = (in_training(model, example, one) for _ in range(2))
            holds(same(a, b), f"those of '{one}' are others")


def check_states(whose: str, model: nn.Module, example: Example, tried: Sequence[Architecture]) -> None:
    """That all of a network is in its copies and in its state."""
    with (
        torch.no_grad(),
        rule(
            whose,
            "a network that loads its state_dict, read from a file by weights_only=True, must compute the same",
            "Keep weights in parameters, and other tensors in buffers (register_buffer)",
        ) as holds,
    ):
        known = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
        plain = [
            f"{path}.{name}".lstrip(".")
            for path, module in model.named_modules()
            for name, value in vars(module).items()
            if any(id(tensor) not in known for tensor in tensors_in(value))
        ]
        holds(not plain, f"{first_of(plain)} is neither a parameter nor a buffer")
        other = copy.deepcopy(model)
        for parameter in other.parameters():
            parameter.fill_(0.5)
        other.load_state_dict(through_a_file(model.state_dict()))
        for one in tried:
            output, expected = (computed(each, example, one) for each in (other, model))
            holds(same(output, expected), f"its output of '{one}' is another one")


def check_paths(whose: str, model: nn.Module, example: Example, tried: Sequence[Architecture]) -> None:
    """That what has a gradient is what a path computes with."""
    trained: set[str] = set()
    idle: dict[str, Architecture] = {}
    beside: dict[str, Architecture] = {}
    with (
        batch_statistics(norms_of(model)),  # of which no features are negative throughout, and then cut off
        rule(
            whose,
            "weights that a path computes with must get a gradient",
            "Use them without detach(), .data and torch.no_grad(), and let them require a gradient",
        ) as holds,
    ):
        for one in tried:
            model.zero_grad(set_to_none=True)
            output = computed(model, example, one)
            sum(map(weighted, output), torch.zeros((), requires_grad=True)).backward()
            without = {n: p for n, p in model.named_parameters() if p.grad is None and p.requires_grad}
            with changed(without.values(), torch.nan):
                is_used = not same(computed(model, example, one), output)
            holds(not is_used, f"one of these gets none along '{one}': {first_of(without)}")
            taken = parameters_taken(model.network, one) if isinstance(model, WithChoices) else None
            for name, parameter in model.named_parameters():
                if parameter.grad is None:
                    continue
                if taken is not None:
                    # A gradient of zeros is of what computes with zeros then, as after a `none`.
                    if parameter not in taken:
                        beside.setdefault(name, one)
                elif parameter.grad.any():
                    trained.add(name)
                elif name not in idle:
                    outputs = []
                    for by in (1.0, -1.0, 100.0, -100.0):
                        with changed([parameter], by):
                            outputs.append(computed(model, example, one))
                    if all(same(other, output) for other in outputs):
                        idle[name] = one
        model.zero_grad(set_to_none=True)
    with rule(
        whose,
        "a path must train nothing but what it computes with",
        "Call only the modules that are taken: an optimiser moves what has a gradient, even one of zeros",
    ) as holds:
        for name, one in beside.items():
            holds(False, f"{name}, of an option that is not taken in '{one}', gets a gradient there")
        for name, one in idle.items():
            found = f"{name}, which has no part in '{one}', gets a gradient of zeros there"
            holds(name not in trained, found)


def parameters_taken(net: nn.Module, architecture: Architecture) -> set[nn.Parameter]:
    """The parameters of a network with choices that are in no option that is not taken."""
    answers = dict(plan_of(net).answers(architecture))
    found: set[nn.Parameter] = set()
    left, seen = [net], set[nn.Module]()
    while left:
        module = left.pop()
        if module not in seen:
            seen.add(module)
            found |= set(module.parameters(recurse=False))
            inner = dict(module.named_children())
            left += [inner[str(answers[module])]] if isinstance(module, Choice) else inner.values()
    return found


def weighted(output: Tensor) -> Tensor:
    """A scalar that every element of an output has a part in, each with a weight of its own."""
    draw = generator(0, "weights of the output")
    weights = torch.randn(output.shape, generator=draw).to(output.device)
    return (output.float() * weights).sum() if output.requires_grad else torch.zeros(())


@contextlib.contextmanager
def changed(parameters: Iterable[nn.Parameter], by: float) -> Iterator[None]:
    """Inside, so much is added to the parameters, and there is no gradient."""
    kept = [(parameter, parameter.detach().clone()) for parameter in parameters]
    with torch.no_grad():
        for parameter, _ in kept:
            parameter.add_(by)
        yield
        for parameter, value in kept:
            parameter.copy_(value)


def first_of(names: Iterable[str]) -> str:
    """A few names, for a message."""
    return shortened(", ".join(names), 120)


def common_memory(a: nn.Module, b: nn.Module) -> list[str]:
    """The names in the first network of tensors whose memory is the second one's too."""
    own, other = (
        {tensor.untyped_storage().data_ptr(): name for name, tensor in named if tensor.numel()}
        for named in ([*each.named_parameters(), *each.named_buffers()] for each in (a, b))
    )
    return [name for place, name in own.items() if place in other]


def check_child(whose: str, model: nn.Module, example: Example, architecture: Architecture) -> None:
    """A child with fresh weights, and one with shared ones."""
    with (
        torch.no_grad(),
        rule(
            whose,
            "child(architecture) must be a module with fresh weights of its own, which computes model(*inputs)",
            "Build the modules that are taken anew, or copy them and draw their weights (enas.child_of)",
        ) as holds,
    ):
        with global_seed(0):
            child = child_in(model, architecture)
        with global_seed(0):
            twin = child_in(model, architecture)
        holds(isinstance(child, nn.Module), f"that of '{architecture}' is {type(child).__name__}")
        both = common_memory(child, model)
        holds(not both, f"{first_of(both)} of the child of '{architecture}' is the network's")
        holds(
            same(child.state_dict(), twin.state_dict()),
            f"two children of '{architecture}' differ after the same torch.manual_seed",
        )
        own, of_network = (
            {
                name: (p.shape, p.double().sum().item())
                for name, p in each.named_parameters()
                if p.requires_grad
            }
            for each in (child, model)
        )
        copied = [name for name, values in own.items() if values in of_network.values()]
        holds(not copied, f"{first_of(copied)} of the child of '{architecture}' is a copy of the network's")
        expected = computed(model, example, architecture)
        output = computed(child.eval(), example)
        shapes, theirs = ([list(tensor.shape) for tensor in tensors] for tensors in (output, expected))
        holds(shapes == theirs, f"that of '{architecture}' returns {shapes}, and its path {theirs}")
    with (
        torch.no_grad(),
        rule(
            whose,
            "a child must load its state_dict, read from a file by weights_only=True, and compute the same",
            "Keep weights in parameters, and other tensors in buffers (register_buffer)",
        ) as holds,
    ):
        with global_seed(1):
            twin = child_in(model, architecture).eval()
        twin.load_state_dict(through_a_file(child.state_dict()))
        holds(same(computed(twin, example), output), f"that of '{architecture}' does not")
    if "weights" in inspect.signature(cast(Callable[..., nn.Module], model.child)).parameters:
        check_shared(whose, model, example, architecture)


def check_shared(whose: str, model: nn.Module, example: Example, architecture: Architecture) -> None:
    """A child with shared weights against the path."""
    with (
        torch.no_grad(),
        rule(
            whose,
            "child(architecture, weights='shared') must compute what the path does, bit for bit, with a copy of its weights",
            "Copy the weights and buffers that are taken, and compute in the same order",
        ) as holds,
    ):
        child = child_in(model, architecture, weights="shared")
        both = common_memory(child, model)
        holds(not both, f"{first_of(both)} of that of '{architecture}' is the network's")
        for mode, outputs in (("evaluation", computed), ("training", in_training)):
            output, expected = outputs(child.eval(), example), outputs(model, example, architecture)
            holds(same(output, expected), f"in {mode} that of '{architecture}' returns something else")
