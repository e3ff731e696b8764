"""Choices inside a plain module: what they ask, what a path computes and trains, what a child is made of, bad input."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import pickle
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from operator import attrgetter

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import enas
from enas.architecture import Architecture
from enas.choices import Choice, Inputs, SharedDecision, asked_by, child_of, fresh_decisions, space_of, use
from enas.choices.modules import TakenInputs
from enas.errors import ConfigError
from enas.searchable import WithChoices, searchable
from enas.spaces.nasbench201.space import NASBench201Space

WIDTH = 4


def unit(hidden: int = WIDTH) -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, WIDTH))


class Net(nn.Module):
    """Choices three deep, in containers, with tied weights; and sets of tensors with every kind of bound."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(WIDTH, WIDTH)
        deep = Choice({"tanh": nn.Tanh(), "narrow": unit(2)})
        middle = Choice({"plain": unit(3), "deep": nn.Sequential(deep, nn.LayerNorm(WIDTH))})
        self.mix = Choice({"idle": nn.Identity(), "block": nn.Sequential(middle, nn.Linear(WIDTH, WIDTH))})
        self.rows = nn.ModuleList([Choice({"a": unit(), "b": nn.Linear(WIDTH, WIDTH)}) for _ in range(2)])
        self.rows[1].b = self.rows[0].b.__class__(WIDTH, WIDTH)
        self.rows[1].b.weight = self.rows[0].b.weight  # tied across two choices
        self.one = Inputs(3, exactly=1)
        self.some = Inputs(3, at_least=1)
        self.few = Inputs(3, at_most=1)
        self.two = Inputs(3, exactly=2, join=longest)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        x = self.stem(x) * scale
        y = self.mix(x)
        z = self.rows[1](self.rows[0](y))
        xs = [x, y, z]
        return self.head(self.norm(self.one(xs) + self.some(xs) + self.few(xs) + self.two(xs)))


def longest(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors).amax(0)


def built(seed: int = 0, kind: Callable[[], nn.Module] = Net) -> nn.Module:
    torch.manual_seed(seed)
    return kind()


def samples(net: nn.Module, count: int = 30) -> list[Architecture]:
    rng = random.Random(1)
    return [space_of(net).sample(rng) for _ in range(count)]


X = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(9))


# ---- what is asked -----------------------------------------------------------------------------------------------------


def test_decisions_have_the_paths_of_their_modules_parents_first() -> None:
    space = space_of(built(), X)
    names = [decision.name for decision in space.decisions]
    assert names[:5] == ["mix", "mix.block.0", "mix.block.0.deep.0", "rows.0", "rows.1"]
    assert names[5:] == ["one", *(f"{name}.{i}" for name in ("some", "few", "two") for i in range(3))]
    options = {decision.name: decision.options for decision in space.decisions}
    assert options["mix.block.0.deep.0"] == ("tanh", "narrow")
    assert options["one"] == ("0", "1", "2")
    assert options["two.2"] == ("no", "yes")
    # idle, or plain, or deep with tanh or narrow; two rows; 1 of 3; 1 to 3 of 3; 0 or 1 of 3; 2 of 3
    assert space.count() == (1 + 1 + 2) * 2 * 2 * 3 * 7 * 4 * 3


def test_options_without_parameters_are_seen_where_another_one_has_some() -> None:
    net = nn.ModuleDict(
        {
            "mix": Choice({"idle": nn.Identity(), "linear": nn.Linear(2, 2)}),
            "act": Choice({"relu": nn.ReLU(), "tanh": nn.Tanh()}),
            "same": Choice({"relu": nn.ReLU(), "prelu": nn.PReLU()}, shared := SharedDecision()),
            "other": Choice({"relu": nn.PReLU(), "prelu": nn.PReLU()}, shared),
        }
    )
    space = space_of(net)
    assert [space.parameter_free(decision) for decision in space.decisions] == [("idle",), (), ()]


def test_a_copy_of_a_block_shares_its_decisions_and_a_fresh_one_does_not() -> None:
    def block() -> nn.Module:
        shared = SharedDecision()
        pair = [Choice({"a": nn.ReLU(), "b": nn.Linear(2, 2)}, shared) for _ in range(2)]
        return nn.Sequential(*pair, Choice({"x": nn.Tanh(), "y": Choice({"u": nn.ReLU(), "v": nn.GELU()})}))

    first = block()
    second, third = copy.deepcopy(first), fresh_decisions(copy.deepcopy(first))
    net = nn.Sequential(first, second, third)
    space = space_of(net)
    assert [decision.name for decision in space.decisions] == ["0.0", "0.2", "0.2.y", "2.0", "2.2", "2.2.y"]
    assert space.count() == (2 * 3) ** 2
    assert asked_by(net)["0.0"] == ("0.0", "0.1", "1.0", "1.1")
    assert asked_by(net)["2.0"] == ("2.0", "2.1")
    assert asked_by(net)["0.2.y"] == ("0.2.y", "1.2.y")
    assert third is net[2]


def test_a_decision_may_have_a_name_and_be_shared_by_hand() -> None:
    width = SharedDecision("width")
    net = nn.Sequential(*(Choice({"2": unit(2), "8": unit(8)}, width) for _ in range(3)))
    space = space_of(net)
    assert [decision.name for decision in space.decisions] == ["width"]
    wide = space.parse("width=8")
    assert [len(layer[0].weight) for layer in child_of(net, wide)] == [8, 8, 8]
    with use(net, wide):
        assert torch.equal(net(X), child_of(net, wide, "shared")(X))


def test_a_recipe_file_that_has_the_name_of_before_is_imported() -> None:
    from enas.choices import Decision

    assert Decision is SharedDecision


def test_a_shared_decision_is_asked_where_any_of_its_modules_is() -> None:
    shared = SharedDecision("act")
    acts = [Choice({"r": nn.ReLU(), "t": nn.Tanh(), "i": nn.Identity()}, shared) for _ in range(2)]
    net = nn.Sequential(
        Choice({"with": acts[0], "without": nn.Identity()}),
        Choice({"with": acts[1], "without": nn.Identity()}),
    )
    assert space_of(net).count() == 1 + 3 * 3


def test_one_block_in_two_options_is_asked_in_both() -> None:
    block = nn.Sequential(Choice({"r": nn.ReLU(), "t": nn.Tanh()}), nn.Linear(WIDTH, WIDTH))
    net = Choice({"a": nn.Sequential(block), "b": nn.Sequential(block, nn.ReLU()), "c": nn.Identity()})
    space = space_of(net, X)
    assert [decision.name for decision in space.decisions] == ["choice", "a.0.0"]
    assert space.count() == 5
    for architecture in space.enumerate():
        child = child_of(net, architecture, "shared")
        assert not any(isinstance(module, Choice) for module in child.modules())
        with use(net, architecture):
            assert torch.equal(net(X), child(X))


# ---- a path ------------------------------------------------------------------------------------------------------------


def by_hand(net: Net, architecture: Architecture, x: Tensor) -> Tensor:
    """What `Net` computes, by the words of the architecture."""
    said = dict(word.split("=") for word in str(architecture).split())
    x = net.stem(x)
    y = x
    if said["mix"] == "block":
        inner = net.mix.block[0]
        if said["mix.block.0"] == "plain":
            y = inner.plain(x)
        else:
            deep = inner.deep[0]
            y = deep.tanh(x) if said["mix.block.0.deep.0"] == "tanh" else deep.narrow(x)
            y = inner.deep[1](y)
        y = net.mix.block[1](y)
    z = y
    for number, row in enumerate(net.rows):
        z = row.a(z) if said[f"rows.{number}"] == "a" else row.b(z)
    xs = [x, y, z]
    choices = dict(zip((d.name for d in architecture.space.decisions), architecture.choices, strict=True))

    def taken(name: str) -> list[Tensor]:
        return [xs[i] for i in range(3) if choices[f"{name}.{i}"]]

    total = (
        xs[int(said["one"])]
        + sum(taken("some"))
        + sum(taken("few"), torch.zeros_like(x))
        + longest(taken("two"))
    )
    return net.head(net.norm(total))


def test_a_path_computes_what_is_written_by_hand_and_trains_nothing_else() -> None:
    net, written = built(), built()
    for architecture in samples(net):
        net.zero_grad()
        written.zero_grad()
        with use(net, architecture):
            output = net(X)
        output.square().sum().backward()
        expected = by_hand(written, architecture, X)
        expected.square().sum().backward()
        assert torch.allclose(output, expected, atol=1e-6)
        gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
        for name, parameter in written.named_parameters():
            if parameter.grad is None:
                assert gradients[name] is None
            else:
                assert torch.allclose(gradients[name], parameter.grad, atol=1e-5)
        assert any(gradient is None for gradient in gradients.values())


def test_contexts_stand_in_each_other_and_end_with_an_exception() -> None:
    net = built().eval()
    outer, inner = samples(net, 2)
    with use(net, outer):
        y_outer = net(X)
    with use(net, inner):
        y_inner = net(X)
    assert not torch.equal(y_outer, y_inner)
    with use(net, outer):
        with contextlib.suppress(ZeroDivisionError), use(net, inner):
            assert torch.equal(net(X), y_inner)
            raise ZeroDivisionError
        assert torch.equal(net(X), y_outer)
    with pytest.raises(ConfigError, match=r"outside `use\(net, architecture\)`"):
        net(X)


def test_a_choice_takes_named_arguments_and_returns_what_its_option_returns() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, *, scale: float) -> dict[str, Tensor]:
            return {"y": x * scale}

    choice = Choice({"two": Two(), "other": Two()})
    with use(choice, next(space_of(choice).enumerate())):
        assert torch.equal(choice(X, scale=3.0)["y"], X * 3)
    assert space_of(choice, {"x": X, "scale": 2.0}).count() == 2


def test_copies_and_averages_of_a_network_compute_its_architectures() -> None:
    net = built().eval()
    averaged = AveragedModel(net)
    (architecture,) = samples(net, 1)
    with use(net, architecture):
        expected = net(X)
        copied = copy.deepcopy(net)  # a copy is not inside the context
    with pytest.raises(ConfigError, match="outside"):
        copied(X)
    for other in (copied, averaged, pickle.loads(pickle.dumps(net))):
        with use(other, architecture):
            assert torch.equal(other(X), expected)
    averaged.update_parameters(net)
    with use(averaged.module, architecture):
        assert torch.equal(averaged(X), expected)


def test_a_state_dict_and_a_saved_network_read_back() -> None:
    net, other = built(0), built(1)
    other.load_state_dict(net.state_dict())
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for architecture in samples(net, 5):
        outputs = []
        for each in (net.eval(), other.eval(), loaded.eval()):
            with use(each, architecture):
                outputs.append(each(X))
        assert torch.equal(outputs[0], outputs[1])
        assert torch.equal(outputs[0], outputs[2])
    assert space_of(loaded) == space_of(net)


def test_choices_work_under_autocast_and_in_containers() -> None:
    net = nn.Sequential(
        nn.Linear(WIDTH, WIDTH),
        Choice({"a": nn.Linear(WIDTH, WIDTH), "b": nn.Sequential(nn.Linear(WIDTH, WIDTH))}),
    )
    for architecture in space_of(net).enumerate():
        with use(net, architecture), torch.autocast("cpu", torch.bfloat16):
            y = net(X)
            assert y.dtype == torch.bfloat16
            assert torch.equal(y, child_of(net, architecture, "shared")(X))


def test_what_is_computed_again_for_the_backward_pass_is_the_same_path() -> None:
    net = built()
    for architecture in samples(net, 5):
        gradients = []
        for again in (False, True):
            net.zero_grad()
            with use(net, architecture):
                y = checkpoint(net.mix, X, use_reentrant=False) if again else net.mix(X)
                (y * X + net.stem(X)).sum().backward()
            gradients.append([p.grad for p in net.parameters() if p.grad is not None])
        assert all(map(torch.equal, *gradients))
    with use(net, next(space_of(net).enumerate())):
        y = checkpoint(net.rows[0], X, use_reentrant=False)
    with pytest.raises(ConfigError, match="outside"):  # and not some other path
        y.sum().backward()


@pytest.mark.parametrize(
    ("bounds", "sizes"),
    [
        ({}, {0, 1, 2, 3}),
        ({"exactly": 1}, {1}),
        ({"exactly": 2}, {2}),
        ({"exactly": 3}, {3}),
        ({"exactly": 0}, {0}),
        ({"at_least": 2}, {2, 3}),
        ({"at_most": 2}, {0, 1, 2}),
        ({"at_least": 1, "at_most": 2}, {1, 2}),
    ],
)
def test_inputs_take_every_set_that_their_bounds_allow(bounds: dict[str, int], sizes: set[int]) -> None:
    net = Inputs(3, **bounds)
    space = space_of(net)
    tensors = [torch.tensor([1.0]), torch.tensor([10.0]), torch.tensor([100.0])]
    sums = []
    for architecture in space.enumerate():
        with use(net, architecture):
            sums.append(net(tensors).item())
        assert child_of(net, architecture)(tensors).item() == sums[-1]
    expected = [sum(part) for size in sizes for part in itertools.combinations((1.0, 10.0, 100.0), size)]
    assert sorted(sums) == sorted(expected)
    assert space.count() == len(expected)


# ---- a child -------------------------------------------------------------------------------------------------------------


def test_a_child_with_shared_weights_equals_the_path_bit_for_bit() -> None:
    net = built()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    for architecture in samples(net):
        child = child_of(net, architecture, "shared")
        for training in (True, False):
            net.train(training)
            child.train(training)
            ours = copy.deepcopy(net)
            with use(ours, architecture):
                expected = ours(X)
            output = child(X)
            assert torch.equal(output, expected)
            if training:  # and so do the gradients and the running statistics
                expected.square().sum().backward()
                output.square().sum().backward()
                assert torch.equal(child.norm.running_mean, ours.norm.running_mean)
                assert torch.equal(child.stem.weight.grad, ours.stem.weight.grad)
                child.load_state_dict(child_of(net, architecture, "shared").state_dict())


def test_a_child_is_a_plain_module() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = Choice(
                {"a": unit(), "b": nn.Sequential(Choice({"c": nn.Linear(4, 4), "d": nn.ReLU()}))}
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(x)

    net = Plain()
    for architecture in space_of(net).enumerate():
        child = child_of(net, architecture)
        assert type(child) is Plain
        assert {type(module).__module__.split(".")[0] for module in child.mix.modules()} == {"torch"}
        assert "Choice" not in str(child)
    with_inputs = child_of(built(), samples(built(), 1)[0])
    ours = {type(m) for m in with_inputs.modules() if type(m).__module__.startswith("enas")}
    assert ours == {TakenInputs}


def test_keys_of_a_child_are_those_of_the_network_without_the_options() -> None:
    net = built()
    for architecture in samples(net):
        said = dict(word.split("=") for word in str(architecture).split())
        expected = set()
        for key in net.state_dict():
            words, kept, taken = key.split("."), [], True
            for end, word in enumerate(words):
                choice = ".".join(words[:end])
                if choice in said and choice != "one":  # the word after a choice's path is its option
                    taken = taken and word == said[choice]
                else:
                    kept.append(word)
                if not taken:
                    break
            if taken and all(said.get(".".join(words[:i])) in (None, words[i]) for i in range(len(words))):
                expected.add(".".join(kept))
        assert set(child_of(net, architecture).state_dict()) == expected


def test_keys_do_not_depend_on_what_was_not_taken() -> None:
    class One(nn.Module):
        def __init__(self, options: dict[str, nn.Module]) -> None:
            super().__init__()
            self.mix = Choice(options)

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(x)

    keys = []
    for others in ({}, {"x": nn.ReLU()}, {"x": Choice({"u": unit(), "v": nn.Tanh()}), "y": unit(7)}):
        net = One({**others, "this": unit()})
        space = space_of(net)
        keys.append(list(child_of(net, space.parse("mix=this")).state_dict()))
    assert keys == [["mix.0.weight", "mix.0.bias", "mix.2.weight", "mix.2.bias"]] * 3


def test_tied_weights_stay_tied_in_a_child() -> None:
    net = built()
    space = space_of(net)
    tied = next(a for a in space.enumerate() if "rows.0=b rows.1=b" in str(a))
    for weights in ("fresh", "shared"):
        child = child_of(net, tied, weights)
        assert child.rows[0].weight is child.rows[1].weight
        assert child.rows[0].weight is not net.rows[0].b.weight
    halved = next(a for a in space.enumerate() if "rows.0=a rows.1=b" in str(a))
    assert torch.equal(child_of(net, halved, "shared").rows[1].weight, net.rows[0].b.weight)


def test_an_option_that_two_places_share_is_one_module_of_the_child() -> None:
    decision, linear = SharedDecision(), nn.Linear(WIDTH, WIDTH)
    net = nn.Sequential(*(Choice({"same": linear, "own": unit()}, decision) for _ in range(2)))
    same, own = space_of(net).enumerate()
    child = child_of(net, same, "shared")
    assert child[0] is child[1]
    assert torch.equal(child(X), linear(linear(X)))
    assert child_of(net, own)[0] is not child_of(net, own)[1]


def test_a_child_copies_little_more_than_its_own_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    side = 316  # 10^5 parameters an option
    options = {str(number): lambda: nn.Linear(side, side, bias=False) for number in range(4)}
    net = nn.Sequential(*(Choice({name: make() for name, make in options.items()}) for _ in range(3)))
    architecture = samples(net, 1)[0]
    copied: list[int] = []
    clone = Tensor.clone

    def counted(tensor: Tensor, *args: object, **kwargs: object) -> Tensor:
        copied.append(tensor.numel() * tensor.element_size())
        return clone(tensor, *args, **kwargs)

    for weights in ("fresh", "shared"):
        copied.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Tensor, "clone", counted)
            child = child_of(net, architecture, weights)
        own = sum(parameter.numel() * parameter.element_size() for parameter in child.parameters())
        assert own == 3 * 4 * side**2
        assert own <= sum(copied) < 1.2 * own


def test_fresh_weights_are_those_of_a_network_that_is_built_anew() -> None:
    """In distribution: nothing is left of the shared ones, and norms begin as they do."""
    net = built()
    with torch.no_grad():
        for tensor in itertools.chain(net.parameters(), net.buffers()):
            tensor.fill_(77)
    for architecture in samples(net, 10):
        child = child_of(net, architecture)
        assert not any((tensor == 77).any() for tensor in child.state_dict().values())
        assert torch.equal(child.norm.running_var, torch.ones(WIDTH))
        again = child_of(net, architecture)
        assert not torch.equal(again.stem.weight, child.stem.weight)
        torch.manual_seed(5)
        one = child_of(net, architecture).state_dict()
        torch.manual_seed(5)
        two = child_of(net, architecture).state_dict()
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_fresh_weights_of_attention_begin_as_torch_begins_them() -> None:
    net = nn.Sequential(Choice({"attention": nn.MultiheadAttention(4, 2), "other": nn.Identity()}))
    torch.nn.init.ones_(net[0].attention.out_proj.bias)
    child = child_of(net, space_of(net).parse("0=attention"))[0]
    assert torch.equal(child.out_proj.bias, torch.zeros(4))
    assert child.in_proj_weight.isfinite().all()


def test_frozen_weights_are_kept() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), Choice({"a": nn.Linear(4, 4), "b": nn.ReLU()}))
    with torch.no_grad():
        net[1].running_mean.fill_(3)
    for frozen in (net[0], net[1]):
        frozen.requires_grad_(False)
    child = child_of(net, space_of(net).parse("2=a"))
    assert torch.equal(child[0].weight, net[0].weight)
    assert torch.equal(child[1].running_mean, net[1].running_mean)
    assert not torch.equal(child[2].weight, net[2].a.weight)


class Scale(nn.Module):
    """Parameters that nothing resets."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.by


def test_fresh_weights_that_nothing_can_draw_are_refused_by_their_path() -> None:
    class Parent(nn.Module):
        """Draws what is in it."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = Scale()

        def reset_parameters(self) -> None:
            nn.init.ones_(self.scale.by)

    net = nn.Sequential(Choice({"scale": nn.Sequential(Scale()), "parent": Parent(), "idle": nn.Identity()}))
    space = space_of(net)
    with pytest.raises(ConfigError, match=r"nothing resets 0\.0\.by"):
        child_of(net, space.parse("0=scale"))
    assert torch.equal(child_of(net, space.parse("0=scale"), "shared")[0][0].by, torch.ones(WIDTH))
    assert torch.equal(child_of(net, space.parse("0=parent"))[0].scale.by, torch.ones(WIDTH))
    child_of(net, space.parse("0=idle"))


def test_a_join_that_is_a_module_is_copied_and_trained() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.after = Choice({"linear": nn.Linear(WIDTH, WIDTH), "idle": nn.Identity()})

        def forward(self, tensors: list[Tensor]) -> Tensor:
            return self.after(torch.stack(tensors).mean(0))

    net = Inputs(2, at_least=1, join=Mean())
    space = space_of(net, ([X, X],))
    assert space.count() == 3 * 2
    for architecture in space.enumerate():
        child = child_of(net, architecture, "shared")
        with use(net, architecture):
            assert torch.equal(net([X, 2 * X]), child([X, 2 * X]))


# ---- an example --------------------------------------------------------------------------------------------------------


def test_trying_an_example_changes_nothing() -> None:
    net = built()
    net.mix.block.append(nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Dropout(0.5)))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        space = space_of(net, (X, 2.0))
    assert space == space_of(net)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(module.training and not module._forward_pre_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_options_of_other_shapes_are_refused_with_both_shapes() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            odd = Choice({"same": nn.Identity(), "wide": nn.Linear(WIDTH, 7)})
            self.mix = Choice({"idle": nn.Identity(), "block": nn.Sequential(odd)})

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(x)

    with pytest.raises(
        ConfigError, match=r"mix\.block\.0, option 'wide', gives the shape \[6, 7\].*'same' gives \[6, 4\]"
    ):
        space_of(Odd(), X)
    with pytest.raises(ConfigError, match=r"choice, option 'b', cannot take what the choice is called with"):
        space_of(Choice({"a": nn.Identity(), "b": nn.Linear(3, 3)}), X)


class Calls(nn.Module):
    """Calls its choice so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.mix = Choice({"a": nn.ReLU(), "b": nn.Tanh()})
        self.used = Choice({"a": nn.ReLU(), "b": nn.Tanh()})

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.mix(x)
        return self.used(x)


def test_a_choice_that_is_never_called_is_warned_of_and_one_called_twice_is_refused() -> None:
    with pytest.warns(UserWarning, match="^mix: never called"):
        space_of(Calls(0), X)
    space_of(Calls(1), X)
    with pytest.raises(ConfigError, match="mix was called twice in one pass"):
        space_of(Calls(2), X)
    with pytest.raises(ConfigError, match=r"a\.mix was called twice"):
        space_of(Choice({"a": Calls(2), "b": nn.ReLU()}), X)


# ---- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Choice({}), "needs its options"),
        (lambda: Choice([nn.ReLU()]), "needs its options"),
        (lambda: Choice({"a": torch.relu}), "option 'a' of a Choice is no module"),
        (lambda: Choice({"a b": nn.ReLU()}), "word without spaces"),
        (lambda: Choice({3: nn.ReLU()}), "word without spaces"),
        (lambda: Choice({"a.b": nn.ReLU()}), "cannot have the name 'a.b'"),
        (lambda: Choice({"half": nn.ReLU()}), "cannot have the name 'half'"),
        (lambda: Choice({"a": (m := nn.ReLU()), "b": m}), "'a' and 'b' of a Choice are the same module"),
        (
            lambda: Choice({"a": nn.ReLU()}, enas.Decision("a", "operation", 0, ("a",))),
            "enas.SharedDecision",
        ),
        (lambda: SharedDecision("a=b"), "word without spaces"),
        (lambda: Inputs(0), "1 to 256 tensors"),
        (lambda: Inputs(257), "1 to 256 tensors"),
        (lambda: Inputs(2.0), "whole"),
        (lambda: Inputs(2, exactly=3), "cannot be taken"),
        (lambda: Inputs(2, at_least=2, at_most=1), "cannot be taken"),
        (lambda: Inputs(2, at_least=-1), "cannot be taken"),
        (lambda: Inputs(2, exactly=1, at_least=1), "either exactly"),
    ],
)
def test_choices_that_make_no_sense_are_refused(make: Callable[[], object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make()


def test_networks_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="no Choice and no Inputs in Linear"):
        space_of(nn.Linear(2, 2))
    same = nn.ReLU()
    with pytest.raises(ConfigError, match="0, option 'a', and 1, option 'b', are the same module"):
        space_of(nn.Sequential(Choice({"a": same}), Choice({"b": same})))
    shared = SharedDecision()
    with pytest.raises(
        ConfigError, match="0 and 1 share a decision, but the one asks for one of a, b, the other"
    ):
        space_of(
            nn.Sequential(Choice({"a": nn.ReLU(), "b": nn.ReLU()}, shared), Choice({"a": nn.ReLU()}, shared))
        )
    with pytest.raises(ConfigError, match="share a decision"):
        space_of(nn.Sequential(Inputs(2, at_least=1, decision=shared), Inputs(2, decision=shared)))
    with pytest.raises(ConfigError, match="two decisions have the name 'x'"):
        space_of(nn.Sequential(*(Choice({"a": nn.ReLU()}, SharedDecision("x")) for _ in range(2))))
    a, b = SharedDecision("a"), SharedDecision("b")

    def nested(outer: SharedDecision, inner: SharedDecision) -> Choice:
        return Choice({"x": Choice({"x": nn.ReLU(), "y": nn.Tanh()}, inner), "y": nn.ReLU()}, outer)

    with pytest.raises(ConfigError, match="a, b each depend on another"):
        space_of(Choice({"ab": nested(a, b), "ba": nested(b, a)}, SharedDecision("top")))


def in_context(net: nn.Module, architecture: Architecture) -> None:
    with use(net, architecture):
        pass


def test_architectures_of_other_networks_are_refused() -> None:
    net, other = built(), nn.Sequential(Choice({"a": nn.ReLU(), "b": nn.Tanh()}))
    for call in (in_context, child_of):
        for wrong in (space_of(other), NASBench201Space()):
            architecture = wrong.sample(random.Random(0))
            with pytest.raises(ConfigError, match=r"of another network|choices space is needed"):
                call(net, architecture)
    renamed = nn.ModuleDict({"other": Choice({"a": nn.ReLU(), "b": nn.Tanh()})})
    with (
        pytest.raises(ConfigError, match="of another network"),
        use(renamed, next(space_of(other).enumerate())),
    ):
        pass
    with pytest.raises(ConfigError, match="weights must be"):
        child_of(other, next(space_of(other).enumerate()), "none")


def test_inputs_that_are_called_with_too_few_tensors_are_refused() -> None:
    net = Inputs(3, at_least=1)
    with (
        use(net, space_of(net).sample(random.Random(0))),
        pytest.raises(ConfigError, match="3 tensors was called with 2"),
    ):
        net([X, X])


# ---- the package -----------------------------------------------------------------------------------------------------


def test_public_names_are_imported_when_they_are_first_used() -> None:
    program = "import sys, enas; print('torch' in sys.modules); enas.Choice; print('torch' in sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == ["False", "True"]
    assert enas.Choice is Choice
    assert enas.child_of is child_of
    with pytest.raises(AttributeError, match="no attribute 'choice'"):
        attrgetter("choice")(enas)


def test_a_searchable_network_is_taken_as_it_is_or_made_of_choices() -> None:
    net = built().eval()
    made = searchable(net)
    assert isinstance(made, WithChoices)
    assert made.space == space_of(net)
    assert searchable(made) is made
    for architecture in samples(net, 5):
        with use(net, architecture):
            expected = net(X, scale=2.0)
        assert torch.equal(made(X, scale=2.0, architecture=architecture), expected)
        assert torch.equal(made.child(architecture, "shared")(X, 2.0), expected)
        assert torch.equal(copy.deepcopy(made)(X, 2.0, architecture=architecture), expected)
    with pytest.raises(ConfigError, match="no Choice"):
        searchable(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="must be a torch"):
        searchable(len)
