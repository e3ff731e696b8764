"""Named variants of a recipe: changes of its settings, or of the architecture that it found (paper, §3.1 to §3.3).

A recipe has those variants that its settings and its space allow.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

from enas.architecture import Architecture, Kind, Space
from enas.config import NO_SETTING, RunConfig
from enas.errors import ConfigError, SettingError, did_you_mean, nearest, shown

ENSEMBLE = 250
"""Architectures of the frozen controller's ensemble (paper, §3.3)."""
CHANGED = 3
"""Decisions that are changed at random in a found architecture; the paper says "some nodes" and "several connections"."""
SKIP_RATE = 0.4
"""The probability of a skip connection in the paper's random network (§3.3)."""

Change = Callable[[RunConfig], RunConfig]


@dataclass(frozen=True)
class OfSettings:
    """Other settings; the run is searched anew, unless its search would be the recipe's own."""

    name: str
    about: str
    """What is changed, in a line."""
    change: Change
    ensemble: int = 0
    """Sample this many architectures at the end of the search and let them classify together, instead of retraining."""

    def fits(self, config: RunConfig) -> bool:
        """Whether the recipe's settings can be so."""
        if self.ensemble:
            return config.metric.name == "accuracy"
        try:
            self.change(config)
        except SettingError:
            return False
        except ConfigError:  # it could, beside other settings; `named` says which
            return True
        return True


@dataclass(frozen=True)
class OfArchitecture:
    """Another architecture than the one found is retrained, with settings that may depend on it."""

    name: str
    about: str
    """What is changed, in a line."""
    change: Callable[[RunConfig, Architecture, random.Random], tuple[RunConfig, Architecture]]
    needs: tuple[Kind, frozenset[str]] | None = None
    """A kind of decision that the space must have, and options of it."""

    def fits(self, config: RunConfig) -> bool:
        """Whether the recipe's space has what is changed."""
        if self.needs is None:
            return True
        kind, options = self.needs
        return any(d.kind == kind and options <= set(d.options) for d in config.searched_space().decisions)


Variant = OfSettings | OfArchitecture


# ---- settings by name --------------------------------------------------------------------------------------------------


def with_settings(config: RunConfig, changes: Mapping[str, object], also: Sequence[str] = ()) -> RunConfig:
    """A copy with other values of settings, which are named with dots.

    Raises `ConfigError` if there is none so called, with the nearest name: a setting's, or one that the caller takes `also`.
    """

    def changed(part: Any, below: Mapping[tuple[str, ...], object], above: str = "") -> Any:
        """What is below one part is changed at once: settings may only be right together."""
        values: dict[str, Any] = {}
        for name in dict.fromkeys(names[0] for names in below):
            if not is_dataclass(part) or name not in {field.name for field in fields(part)}:
                path = next(above + ".".join(names) for names in below if names[0] == name)
                near = nearest_setting(path, [*also, *setting_names(part, above), *setting_names(config)])
                complaint = f"there is no setting {shown(path)}: {type(part).__name__} has no {shown(name)}"
                raise ConfigError(complaint if near is None else f"{complaint}; did you mean {near!r}?")
            inner = {names[1:]: value for names, value in below.items() if names[0] == name}
            whole = inner.pop((), getattr(part, name))
            values[name] = changed(whole, inner, f"{above}{name}.") if inner else whole
        return replace(cast(Any, part), **values)

    found: RunConfig = changed(config, {tuple(path.split(".")): value for path, value in changes.items()})
    return found


def setting_names(part: object, above: str = "") -> Iterator[str]:
    """The settings of a part of a config, those within others with dots; none if it is a value."""
    if not is_dataclass(part):
        return
    for one in fields(part):
        if one.metadata != NO_SETTING:
            value = getattr(part, one.name)
            yield from (
                setting_names(value, f"{above}{one.name}.") if is_dataclass(value) else [above + one.name]
            )


def nearest_setting(path: str, names: Sequence[str]) -> str | None:
    """The name that is nearest as a whole; if none is, that of the nearest last part."""
    last = {name.rpartition(".")[2]: name for name in reversed(names)}  # the first of those that end alike
    return nearest(path, names) or last.get(nearest(path.rpartition(".")[2], last) or "")


def setting(changes: Mapping[str, object]) -> Change:
    """The change that sets these."""
    return lambda config: with_settings(config, changes)


# ---- changes of settings -----------------------------------------------------------------------------------------------


def leave_one_out(config: RunConfig) -> RunConfig:
    """The baseline that needs other rewards in the update. Raises `ConfigError` if there are none."""
    if config.search.proposals < 2:
        raise ConfigError(
            "baseline-leave-one-out needs two proposals an update or more; set --search.proposals"
        )
    return with_settings(config, {"controller.reinforce.baseline": "leave-one-out"})


def entropy_tenfold(config: RunConfig) -> RunConfig:
    """Ten times the weight of the entropy."""
    weight = getattr(getattr(config.controller, "reinforce", None), "entropy_weight", 0.0)
    return with_settings(config, {"controller.reinforce.entropy_weight": 10 * weight})


def proposing(count: int) -> Change:
    """So many proposals an update, and as many rewards in all: a baseline and a scale that need several of them are
    replaced where there is one."""

    def changed(config: RunConfig) -> RunConfig:
        rewards = config.search.updates * config.search.proposals
        changes: dict[str, object] = {
            "search.proposals": count,
            "search.updates": max(1, round(rewards / count)),
        }
        if count == 1:
            changes |= {
                "controller.reinforce.baseline": "ema",
                "controller.reinforce.normalise_advantages": False,
            }
        return with_settings(config, changes)

    return changed


# ---- changes of the architecture ---------------------------------------------------------------------------------------


def along(space: Space, wanted: Iterable[int | None], rng: random.Random) -> Architecture:
    """The architecture with the choices that are wanted, where they can be taken after those before them; the others are
    drawn uniformly."""
    choices: list[int] = []
    for choice in wanted:
        if choice is None or not possible(space, choices, choice):
            (choice,) = rng.choices(range(len(space.weights(choices))), space.weights(choices))
        choices.append(choice)
    return space.architecture(choices)


def possible(space: Space, before: Sequence[int], choice: int) -> bool:
    """Whether this can be taken after the choices before it."""
    return not space.conditional or space.weights(before)[choice] > 0


def at_random(config: RunConfig, found: Architecture, rng: random.Random) -> tuple[RunConfig, Architecture]:
    """Every decision uniform; skip connections with the paper's rate, where they can be taken and left."""
    wanted = [
        int(rng.random() < SKIP_RATE) if decision.kind == "skip" else rng.randrange(len(decision.options))
        for decision in found.space.decisions
    ]
    return config, along(found.space, wanted, rng)


def switched(name: str, about: str, kind: Kind, to: Mapping[str, Sequence[str]]) -> OfArchitecture:
    """Some of the decisions of a kind take another option: of those in `to` one that it lists; any, if it is empty."""

    def changed(config: RunConfig, found: Architecture, rng: random.Random) -> tuple[RunConfig, Architecture]:
        space, asked, places = found.space, found.space.active(found.choices), []
        for position, (choice, decision) in enumerate(zip(found.choices, space.decisions, strict=True)):
            taken, before = decision.options[choice], found.choices[:position]
            wanted = to.get(taken, ()) if to else decision.options
            others = [k for k, option in enumerate(decision.options) if option in wanted and k != choice]
            others = [k for k in others if decision.kind == kind and possible(space, before, k)]
            if asked[position] and others:
                places.append((position, others))
        if not places:
            raise ConfigError(
                f"the found architecture '{found}' has no {kind} that this variant could change"
            )
        choices = [choice if asked[position] else None for position, choice in enumerate(found.choices)]
        for position, others in rng.sample(places, min(CHANGED, len(places))):
            choices[position] = rng.choice(others)
        return config, along(space, choices, rng)

    return OfArchitecture(name, about, changed, (kind, frozenset(to)))


def plain_convolutions(
    config: RunConfig, found: Architecture, rng: random.Random
) -> tuple[RunConfig, Architecture]:
    """Dense convolutions for separable ones, in a network whose width gives it the parameters of the found one."""
    dense = {"sep3x3": "conv3x3", "sep5x5": "conv5x5"}
    choices = list(found.choices)
    for position, decision in enumerate(found.space.decisions):
        taken = decision.options[choices[position]]
        if decision.kind == "operation" and taken in dense:
            choices[position] = decision.options.index(dense[taken])
    plain = along(found.space, choices, rng)
    return config.as_large(plain, found), plain


# ---- all of them -------------------------------------------------------------------------------------------------------

SINGLE: tuple[tuple[str, str, object, str], ...] = (
    ("no-warmup", "search.warmup", 0.0, "the controller learns from the first epoch on"),
    ("statistics-batch", "shared.reward.statistics", "batch", "rewards by batch statistics"),
    ("statistics-moving", "shared.reward.statistics", "moving", "rewards by the norms' moving averages"),
    ("statistics-recalibrated", "shared.reward.statistics", "recalibrated", "rewards by new statistics"),
    ("average-none", "shared.average", 0.0, "rewards with the shared weights as they are"),
    ("average-99", "shared.average", 0.99, "rewards with a moving average of the shared weights"),
    ("baseline-ema", "controller.reinforce.baseline", "ema", "a moving average as baseline"),
    ("no-entropy", "controller.reinforce.entropy_weight", 0.0, "no entropy term"),
    ("stop-entropy", "search.stop_entropy", 0.9, "updates end at 90 % of the largest entropy"),
    ("sampler-policy", "search.explore", 0.0, "after the warm-up weights are trained by the policy alone"),
    ("sampler-mixed", "search.explore", 0.25, "a quarter of the weight steps takes uniform samples"),
    ("sampler-uniform", "search.explore", 1.0, "weights are trained by uniform samples alone"),
    ("sampler-fair", "search.exploration", "fair", "fair samples instead of uniform ones"),
    ("derive-reward", "derive.rule", "reward", "the sample of the highest reward with the shared weights"),
    ("derive-mode", "derive.rule", "mode", "the policy's most probable architecture"),
    ("derive-shortlist", "derive.rule", "shortlist", "the best of a shortlist trained for a while"),
)
"""Variants of one setting: name, setting, value, and what is changed."""

VARIANTS: tuple[Variant, ...] = (
    OfArchitecture("random", "an architecture drawn at random, no search", at_random),
    OfSettings(
        "frozen",
        f"the controller never learns; {ENSEMBLE} of its architectures together",
        setting({"search.updates": 0}),
        ENSEMBLE,
    ),
    OfArchitecture(
        "plain-convolutions",
        "dense convolutions for the separable ones found, at equal parameters",
        plain_convolutions,
        ("operation", frozenset({"conv3x3", "conv5x5"})),
    ),
    switched("random-connections", f"{CHANGED} sources of the found cells changed at random", "source", {}),
    switched(
        "identity-or-sigmoid",
        f"{CHANGED} functions of the found cell switched to identity or sigmoid",
        "function",
        dict.fromkeys(("tanh", "relu"), ("identity", "sigmoid")),
    ),
    switched(
        "relu-and-tanh-switched",
        f"{CHANGED} functions of the found cell switched, relu to tanh or tanh to relu",
        "function",
        {"tanh": ("relu",), "relu": ("tanh",)},
    ),
    *(OfSettings(name, about, setting({path: value})) for name, path, value, about in SINGLE),
    OfSettings(
        "derive-ridge",
        "the best by ridge regression",
        setting({"derive.rule": "ridge", "derive.ridge_candidate": True}),
    ),
    OfSettings("baseline-leave-one-out", "the mean of the update's other rewards as baseline", leave_one_out),
    OfSettings(
        "proposals-1", "one proposal an update, a moving average as baseline, equal rewards", proposing(1)
    ),
    OfSettings("proposals-4", "four proposals an update, equal rewards", proposing(4)),
    OfSettings("proposals-8", "eight proposals an update, equal rewards", proposing(8)),
    OfSettings("entropy-tenfold", "ten times the weight of the entropy", entropy_tenfold),
)


def variants_of(config: RunConfig) -> dict[str, Variant]:
    """The variants that there are of a recipe, by name."""
    return {variant.name: variant for variant in VARIANTS if variant.fits(config)}


def named(config: RunConfig, names: Sequence[str]) -> list[Variant]:
    """The variants called so, each once. Raises `ConfigError` for an unknown name, and for one that changes nothing."""
    known = variants_of(config)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"there is no variant {shown(name)}; {did_you_mean(name, known)}of this recipe there are {', '.join(known)}"
            )
        variant = known[name]
        if isinstance(variant, OfSettings) and variant.change(config) == config:
            raise ConfigError(f"the variant {name!r} changes nothing: the recipe is like that already")
    return [known[name] for name in dict.fromkeys(names)]
