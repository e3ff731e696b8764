"""Flags into dataclasses, by tyro; and what is wrong with flags, in one line."""

from __future__ import annotations

import contextlib
import operator
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial, reduce
from importlib import import_module
from typing import Annotated, Any, Self, get_type_hints

import tyro

from enas.errors import ConfigError, SettingError, did_you_mean, shortened, shown
from enas.runtime.streams import printing

HELP_FLAGS = ("-h", "--help")

Load = str | Callable[[list[str]], "Chosen"]
"""A place, `module:name`, or what makes of the words after a command what they are read into."""


@dataclass(frozen=True)
class Chosen:
    """What tyro reads the words of a command into."""

    kind: Any
    """A class of options, or subcommands."""
    options: Any = None
    """The class, or an instance with the defaults, whose flags there are."""
    names: tuple[str, ...] = ()
    """The words of the command that say which."""


class Command(ABC):
    """The options of a command, which is called to run it."""

    def checked(self) -> Self:
        """The command itself. Raises an `EnasError` for options that cannot work together."""
        return self

    @abstractmethod
    def __call__(self) -> int:
        """Run the command; returns the exit code."""

    def follow(self) -> int:
        """What the processes do that torchrun started beside the first: nothing, unless a command says what."""
        return 0


@dataclass(frozen=True)
class _Unnamed:
    """A command that is not asked for, and so not imported."""


def subcommands(what: str, commands: Mapping[str, tuple[str, Load]], words: Sequence[str]) -> Chosen:
    """tyro's subcommands, by what they do and where they are; only the one that is named is loaded.

    Raises `ConfigError` if none is, or one that there is not.
    """
    name = words[0] if words else ""
    if name not in commands and name not in HELP_FLAGS:
        known = ", ".join(commands)
        if not name or name.startswith("-"):
            raise ConfigError(f"name a {what}: {known}")
        raise ConfigError(
            f"there is no {what} {shown(name)}; {did_you_mean(name, commands)}There are {known}"
        )
    found, kinds = Chosen(_Unnamed), []
    for each, (about, load) in commands.items():
        kind, default = _Unnamed, tyro.MISSING_NONPROP
        if each == name:
            found = loaded(load, list(words[1:]))
            kind = found.kind
            if is_dataclass(found.options) and not isinstance(found.options, type):
                default = found.options
        kinds.append(Annotated[kind, tyro.conf.subcommand(each, description=about, default=default)])
    return Chosen(
        reduce(operator.or_, kinds),
        found.options,
        (name, *found.names),
    )


def loaded(load: Load, words: list[str]) -> Chosen:
    """What the words after a command are read into."""
    if callable(load):
        return load(words)
    module, _, attribute = load.partition(":")
    place: Any = getattr(import_module(module), attribute)
    if not isinstance(place, type):
        chosen: Chosen = place(words)
        return chosen
    return Chosen(
        Annotated[place, tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalMetavarFromFieldName], place
    )


@dataclass(frozen=True)
class _Controller:
    controller: str | None = None


def controller_in(words: Sequence[str], known: Sequence[str]) -> str | None:
    """The name that `--controller` gives, which changes what other flags there are.

    Raises `ConfigError`, suggesting the nearest, for a name that there is not.
    """
    with refused_in_words(Chosen(_Controller)):
        name = tyro.cli(_Controller, args=words, return_unknown_args=True, add_help=False)[0].controller
    if name is not None and name not in known:
        names = ", ".join(known)
        raise ConfigError(f"{did_you_mean(name, known)}--controller is one of {names}, not {shown(name)}")
    return name


def read(chosen: Chosen, words: Sequence[str], about: str) -> Command:
    """The options that these words set; `--help` prints them with their meaning, and ends with `SystemExit`.

    Raises `ConfigError`, in one line, for a flag that does not exist, with the nearest name, and for a wrong value.
    """
    with printing(), refused_in_words(chosen):
        command: Command = tyro.cli(chosen.kind, prog="enas", description=about, args=words)
    return command


def flag_names(options: Any, prefix: str = "--") -> list[str]:
    """The flags of a class of options or of an instance, those of settings within settings with dots: `--search.epochs`."""
    names = []
    kind = options if isinstance(options, type) else type(options)
    plain, hints = get_type_hints(kind), get_type_hints(kind, include_extras=True)
    for option in fields(options):
        if {tyro.conf.Positional, tyro.conf.Suppress}.isdisjoint(
            getattr(hints[option.name], "__metadata__", ())
        ):
            name = prefix if option.name == "settings" else f"{prefix}{option.name.replace('_', '-')}."
            value = plain[option.name] if options is kind else getattr(options, option.name)
            names += flag_names(value, name) if is_dataclass(value) else [name.removesuffix(".")]
    return names


FLAT = tyro.conf.arg(name="")
"""Marks the option `settings`, whose own flags have no prefix."""


# ---- what is wrong -----------------------------------------------------------------------------------------------------

NEEDS = (
    (r"invalid literal for int\(\) with base 10: (.*)", "a whole number"),
    (r"Exceeds the limit .* value has (\d+ digits)", "a smaller number"),
    (r"could not convert string to float: (.*)", "a number"),
    (r"no type matching INT\|FLOAT could be instantiated from \[(.*?)\]", "a number"),
    (r"no type matching \{None\}\|INT could be instantiated from \[(.*?)\]", "a whole number or None"),
    (r"no type matching \{None\}\|FLOAT could be instantiated from \[(.*?)\]", "a number or None"),
)
"""Messages of Python's and tyro's about a value, and what it must be."""


@contextlib.contextmanager
def refused_in_words(chosen: Chosen) -> Iterator[None]:
    """Inside, what tyro refuses is a `ConfigError`.

    Its hook is not public. Without it, the box that tyro itself prints says what is wrong, with the same exit code.
    """
    hook = getattr(getattr(tyro, "_errors", None), "on_parse_error", None)
    with hook(partial(refuse, chosen)) if hook else contextlib.nullcontext():
        try:
            yield
        except SettingError as error:
            raise ConfigError(f"{_of_setting(str(error))}; {_see(chosen)}") from error


def _see(chosen: Chosen) -> str:
    return f"see '{' '.join(('enas', *chosen.names))} --help'"


def refuse(chosen: Chosen, event: Any) -> None:
    """Raise `ConfigError` for what tyro has found."""
    match type(event).__name__:
        case "UnrecognizedArgs":
            word = event.tokens[0].partition("=")[0]
            near = did_you_mean(word.replace("_", "-"), flag_names(chosen.options))
            what = "there is no flag" if word.startswith("-") else "unexpected"
            complaint = f"{what} {shortened(word)}; {near}"
        case "MissingArgs":
            complaint = f"{' and '.join(_name(each.arg) for each in event.missing_arguments)} is missing; "
        case "BadValue":
            complaint = f"{_name(event.argument)} needs a value; "
        case "InvalidChoice":
            known = ", ".join(_choices(event))
            complaint = f"{_name(event.argument)} must be one of {known}, not {shown(event.value)}; "
        case "InstantiationFailure":
            complaint = f"{_of_values(event) if event.argument is None else _of_value(event)}; "
        case _:
            return
    raise ConfigError(complaint + _see(chosen))


def _name(argument: Any) -> str:
    """The flag of an argument, or how a word without one is called."""
    lowered = argument.lowered
    return str(lowered.metavar if argument.is_positional() else lowered.name_or_flags[-1])


def _choices(event: Any) -> list[str]:
    """What may be given, in the order of the help. `None` is last, and left out where it is the default anyway."""
    # Where one of them is None, tyro's list is in no order.
    in_help = event.argument.lowered.metavar.strip("{}").split(",")
    known = in_help if set(in_help) == set(event.choices) else list(event.choices)
    or_none = ["None"] if "None" in known and event.argument.field.default is not None else []
    return [name for name in known if name != "None"] + or_none


def _of_value(event: Any) -> str:
    """What is wrong with a value."""
    for pattern, needs in NEEDS:
        if found := re.match(pattern, event.message):
            return f"{_name(event.argument)} must be {needs}, not {shortened(found[1])}"
    return f"{_name(event.argument)}: {shortened(' '.join(event.message.split()), 200)}"


def _of_values(event: Any) -> str:
    """What is wrong with the values of settings, each of which could be read."""
    error = sys.exc_info()[1]  # tyro's own, with the place, or the setting's
    if isinstance(error, SettingError) or isinstance(getattr(error, "__context__", None), SettingError):
        return _of_setting(event.message, str(getattr(error, "arg", "")).partition("settings.")[2])
    return str(event.message)


def _of_setting(complaint: str, place: str = "") -> str:
    """The complaint of a `SettingError`, with the flag in place of the setting's name."""
    name, _, needs = complaint.partition(" ")
    name = ".".join(filter(None, (place, name.partition(".")[0])))  # without the place in a tuple
    return f"--{name.replace('_', '-')} {needs}"
