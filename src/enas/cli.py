"""The command line: commands to stages, nothing else.

What a command needs is imported by its function: torch takes seconds, and Ctrl-C may come meanwhile.

Exit codes: 0 done, also where nobody reads the rest of the output; 2 wrong usage or input, said in one line; 75 stopped by
a signal after saving; 130 interrupted without saving.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import math
import mimetypes
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from enas import __version__
from enas.constraints import Settings
from enas.errors import (
    ArchitectureError,
    ConfigError,
    EnasError,
    FolderInUseError,
    RunFolderError,
    SettingError,
    did_you_mean,
    shortened,
    shown,
)
from enas.paths import OptionalPath, user_path
from enas.runtime.allocator import keep_freed_memory
from enas.runtime.lock import run_lock
from enas.runtime.progress import say
from enas.runtime.stop import Stopped
from enas.runtime.streams import printing, reader_may_go, standard_streams

if TYPE_CHECKING:
    from enas.architecture import Architecture
    from enas.compare_run import CompareConfig
    from enas.config import RunConfig
    from enas.ensemble import EnsembleConfig
    from enas.ground_truth.benchmark import BenchmarkConfig
    from enas.ground_truth.build import ShowOptions as TableOptions
    from enas.ground_truth.scoring import ScoreOptions
    from enas.rank import RankConfig
    from enas.stages import Run, StageName

LONGEST_COMPLAINT = 2000
"""Characters of a message: whatever it repeats, a person can read it."""

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

HELP_FLAGS = ("-h", "--help")

Action = Callable[[], int]
Parser = Callable[[list[str]], Action]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    keep_freed_memory()
    with standard_streams():
        try:
            return parse(sys.argv[1:] if argv is None else argv)()
        except Stopped as stopped:
            say(str(stopped))
            return stopped.exit_code
        except EnasError as error:
            say(f"enas: {shortened(str(error), LONGEST_COMPLAINT)}")
            return EXIT_USAGE
        except KeyboardInterrupt as interrupt:
            say("; ".join(["enas: interrupted", *getattr(interrupt, "__notes__", [])]))
            return EXIT_INTERRUPTED


def check_command(argv: Sequence[str]) -> None:
    """Parse a command without running it. Raises `SystemExit` or `EnasError` if it is not valid."""
    parse(argv)


def parse(argv: Sequence[str]) -> Action:
    """The action of a command line. Raises `ConfigError` for an unknown command, recipe or setting."""
    if not argv or argv[0] in HELP_FLAGS:
        return lambda: show_text(help_text())
    if argv[0] == "--version":
        return lambda: show_text(f"enas {__version__}")
    command, rest = argv[0], list(argv[1:])
    if command not in COMMANDS:
        raise ConfigError(
            f"there is no command {shown(command)}; {did_you_mean(command, COMMANDS)}see 'enas --help'"
        )
    if asks_help(rest[: NAMES_FIRST.get(command, 0)]):
        return lambda: show_text(command_help(command))
    return COMMANDS[command](rest)


def asks_help(argv: Sequence[str]) -> bool:
    """Whether the words of a command ask what it does."""
    return not set(argv).isdisjoint(HELP_FLAGS)


def show_text(text: str) -> int:
    """Print to standard output; see `printing`."""
    with printing():
        print(text)
    return 0


# ---- run, search, retrain: from a recipe -------------------------------------------------------------------------------


def settings(name: str, argv: Sequence[str]) -> tuple[RunConfig, Path | None, str | None]:
    """A recipe's settings with the flags applied, the run folder asked for, and an architecture given by hand."""
    from enas.recipes import CONTROLLERS, RECIPES, named_controllers, recipe

    default = recipe(name)
    rest, chosen = take_controller(argv)
    if chosen is not None:
        default = replace(default, controller=named_controllers(default.searched_space().name)[chosen])
    options = make_dataclass(
        "Options",
        [
            (
                "run",
                Annotated[OptionalPath, tyro.conf.arg(help="folder of the run; by default runs/RECIPE")],
                field(default=None),
            ),
            (
                "architecture",
                Annotated[
                    str | None, tyro.conf.arg(help="only 'retrain': the architecture, instead of a search")
                ],
                field(default=None),
            ),
            ("settings", Annotated[type(default), tyro.conf.arg(name="")], field(default=default)),
        ],
    )
    known = ["--run", "--architecture", *setting_names(default)]
    other = f"--controller {{{','.join(CONTROLLERS)}}} puts another controller in the recipe's place."
    description = f"{RECIPES[name]}\n\n{other}"
    markers = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
    flags = read_flags(options, rest, f"enas run {name}", known, description, markers)
    return flags.settings, flags.run, flags.architecture


def take_controller(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """Take `--controller NAME` out of the flags, since it changes which other flags there are."""
    from enas.recipes import CONTROLLERS

    rest, chosen = list(argv), None
    for index, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name == "--controller":
            given = value if equals else "".join(argv[index + 1 : index + 2])
            if given not in CONTROLLERS:
                known = ", ".join(CONTROLLERS)
                raise ConfigError(
                    f"{did_you_mean(given, CONTROLLERS)}--controller is one of {known}, not {shown(given)}"
                )
            chosen = given
            del rest[index : index + (1 if equals else 2)]
    return rest, chosen


def setting_names(config: Any, prefix: str = "--") -> list[str]:
    """The flag of every setting of a config, nested ones with dots: `--search.epochs`."""
    names = []
    for setting in fields(config):
        name, value = prefix + setting.name.replace("_", "-"), getattr(config, setting.name)
        names += setting_names(value, f"{name}.") if is_dataclass(value) else [name]
    return names


def read_flags(
    options: type[Any],
    argv: Sequence[str],
    command: str,
    known: list[str],
    description: str | None,
    markers: Any,
) -> Any:
    """The options that these flags set; `--help` prints the `known` ones with their meaning, and exits.

    Raises `ConfigError`, in one line, for a flag that does not exist, with the nearest name, and for a wrong value.
    """
    parse_flags = functools.partial(tyro.cli, options, prog=command, description=description, config=markers)
    if asks_help(argv):
        with printing():
            return parse_flags(args=argv)
    for word in argv:
        name = word.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name not in known:
            near = did_you_mean(name, known)
            raise ConfigError(f"there is no flag {shortened(name)}; {near}see '{command} --help'")

    def attempt(words: Sequence[str]) -> tuple[Any, str]:
        """The options, and what is wrong with these words; one of them is nothing."""
        complaint = io.StringIO()
        try:
            with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(complaint):
                return parse_flags(args=words), ""
        except SystemExit:
            return None, in_one_line(complaint.getvalue())
        except SettingError as error:
            return None, in_words(str(error))

    found, wrong = attempt(argv)
    if wrong:
        short = [shortened(word) for word in argv]
        raise ConfigError(f"{attempt(short)[1] or wrong if short != argv else wrong}; see '{command} --help'")
    return found


def in_one_line(box: str) -> str:
    """What a message of tyro's says: the text between the rule below its title and the next one."""
    rows = [line.strip("│ ") for line in box.splitlines()[1:]]
    rules = [index for index, row in enumerate(rows) if not row.strip("─-╰╯")]
    said = (
        rows[rules[0] + 1 : rules[1]] if rules[0] == 0 else rows[: rules[0]]
    )  # the title of a box is in its rule
    return in_words(" ".join(said).rstrip("."))


IN_WORDS = (
    (r"Error parsing (?=--)", ""),
    (r"(--\S+): invalid literal for int\(\) with base 10: (.*)", r"\1 must be a whole number, not \2"),
    (r"(--\S+): could not convert string to float: (.*)", r"\1 must be a number, not \2"),
    (r"(--\S+): no type matching (\S+) could be instantiated from \[(.*?)\].*", r"\1 must be \2, not \3"),
)
"""Messages of Python's and tyro's, and how they are said here."""


def in_words(message: str) -> str:
    """A complaint of tyro's, of Python's or of a setting's own, naming the flag that is wrong."""
    setting = re.fullmatch(r"(?:Error parsing \w+(?:\.(\S+))?: )?(\w+) (must be .*)", message)
    if setting:
        place, name, needs = setting.groups()
        return f"--{'.'.join(filter(None, (place, name))).replace('_', '-')} {needs}"
    for pattern, words in IN_WORDS:
        message = re.sub(pattern, words, message)
    return re.sub(r"^Error parsing (\w[\w.-]*: )?", "", message)


def from_recipe(stages: tuple[StageName, ...] | None) -> Parser:
    """The parser of a command that begins a run from a recipe; without stages, of all of them."""

    def parse_recipe(argv: list[str]) -> Action:
        from enas.recipes import RECIPES
        from enas.stages import ALL_STAGES

        if not argv or argv[0].startswith("-"):
            raise ConfigError(f"name a recipe: {', '.join(RECIPES)}")
        config, folder, text = settings(argv[0], argv[1:])
        if text is not None:
            raise ConfigError("--architecture goes with 'enas retrain RECIPE'")
        return lambda: begin(argv[0], config, folder, stages or ALL_STAGES, None)

    return parse_recipe


def begin(
    name: str,
    config: RunConfig,
    folder: Path | None,
    stages: tuple[StageName, ...],
    given: Architecture | None,
) -> int:
    """Begin a run in a new folder and run its stages."""
    from enas.report.summary import summary
    from enas.stages import Run, execute, put_architecture

    with contextlib.ExitStack() as held:
        taken = (
            take_folder(held, folder) if folder is not None else take_free_folder(held, Path("runs") / name)
        )
        run = Run.create(taken, config, stages)
        if given is not None:
            put_architecture(taken, given)
        say(f"run folder: {taken}")
        execute(run, stages)
    return show_text(summary(run))


def take_folder(held: contextlib.ExitStack, folder: Path) -> Path:
    """Make a folder and hold its lock. Raises `RunFolderError` if it cannot be made, and `FolderInUseError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"cannot make the folder {shortened(str(folder))}: {error.strerror}; choose another with --run"
        ) from error
    held.enter_context(run_lock(folder))
    return folder


def take_free_folder(held: contextlib.ExitStack, wanted: Path) -> Path:
    """Hold the first of NAME, NAME-2, NAME-3, … that holds no run, and that no other process has just taken."""
    for number in itertools.count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if (folder / "config.json").exists():
            continue
        with contextlib.ExitStack() as lock:
            try:
                take_folder(lock, folder)
            except FolderInUseError:
                continue
            if not (folder / "config.json").exists():  # another process may have begun, and ended, since
                held.enter_context(lock.pop_all())
                return folder
    raise AssertionError("numbers do not end")


# ---- the stages alone, and going on ------------------------------------------------------------------------------------


def on_run(stages: tuple[StageName, ...] | None) -> Parser:
    """The parser of a command on an existing run; without stages, of those that the run was begun with."""

    def parse_run(argv: list[str]) -> Action:
        if len(argv) != 1 or argv[0].startswith("-"):
            raise ConfigError("give one run folder, for example runs/recurrent-quick")
        folder = user_path(argv[0])
        return lambda: go_on(folder, stages)

    return parse_run


def go_on(folder: Path, stages: tuple[StageName, ...] | None) -> int:
    """Run stages of an existing run."""
    from enas.report.summary import summary
    from enas.stages import Run, execute

    run = Run.open(folder)
    with run_lock(folder):
        execute(run, run.stages if stages is None else stages)
    return show_text(summary(run))


def parse_retrain(argv: list[str]) -> Action:
    """`retrain RUN`, or `retrain RECIPE --architecture STRING`: no search, an architecture from elsewhere."""
    from enas.recipes import RECIPES

    if argv[:1] and argv[0] not in RECIPES and asks_help(argv):
        return lambda: show_text(command_help("retrain"))
    if not argv or argv[0] not in RECIPES:
        return on_run(("retrain", "test"))(argv)
    config, folder, text = settings(argv[0], argv[1:])
    if text is None:
        raise ConfigError(
            f"'enas retrain {argv[0]}' needs --architecture; to search for one, use 'enas run {argv[0]}'"
        )
    given = config.searched_space().parse(text)
    return lambda: begin(argv[0], config, folder, ("retrain", "test"), given)


# ---- ablations ---------------------------------------------------------------------------------------------------------


def parse_ablate(argv: list[str]) -> Action:
    """`ablate RECIPE --variant NAME ... [--seeds N] [--SETTING VALUE ...]`."""
    from enas.ablations import named, variants_of
    from enas.recipes import RECIPES
    from enas.spaces.notation import MOST_DIGITS

    if not argv or argv[0].startswith("-"):
        raise ConfigError(f"name a recipe: {', '.join(RECIPES)}")
    name, rest = argv[0], argv[1:]
    if "--help" in rest or "-h" in rest:
        return lambda: show_text(ablate_help(name))
    rest, names = take_words(rest, "--variant")
    rest, counts = take_words(rest, "--seeds")
    config, folder, text = settings(name, rest)
    if text is not None:
        raise ConfigError("--architecture goes with 'enas retrain RECIPE'")
    if not names:
        raise ConfigError(
            f"name variants: --variant {' '.join(variants_of(config))}; see 'enas ablate {name} --help'"
        )
    if len(counts) > 1 or not all(count.isdecimal() and len(count) <= MOST_DIGITS for count in counts):
        raise ConfigError(f"--seeds takes one number, not {shown(' '.join(counts))}")
    named(config, names)
    folder = Path("runs") / f"{name}-ablation" if folder is None else folder
    return lambda: run_ablation(config, names, int(counts[0]) if counts else 1, folder)


def take_words(argv: Sequence[str], flag: str) -> tuple[list[str], list[str]]:
    """Take `FLAG WORD ...`, which may be there several times, out of the flags: (the rest, the words)."""
    rest: list[str] = []
    words: list[str] = []
    taking = False
    for word in argv:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            taking = name == flag
            if not taking:
                rest.append(word)
            elif equals:
                words.append(value)
        else:
            (words if taking else rest).append(word)
    return rest, words


def run_ablation(config: RunConfig, names: Sequence[str], seeds: int, folder: Path) -> int:
    """Run a recipe and variants of it, and print the table."""
    from enas.ablations import ablate, table

    return show_text(table(ablate(config, names, seeds, folder), config.metric))


def ablate_help(name: str) -> str:
    """What `enas ablate RECIPE --help` prints."""
    from enas.ablations import list_variants
    from enas.recipes import recipe

    return f"""enas ablate {name} --variant NAME ... [--seeds N] [--run FOLDER] [--SETTING VALUE ...]

Runs the recipe as it is and each variant with N seeds (1), each in a folder of its own below FOLDER, by default
runs/{name}-ablation, and prints a table with the paper's figures beside what was measured. The same command goes on
after a stop. Settings are those of 'enas run {name} --help'. Variants:

{list_variants(recipe(name))}"""


# ---- show, recipes, doctor ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShowOptions(Settings):
    """Draw an architecture."""

    source: tyro.conf.Positional[str]
    """A run folder, an architecture.json, or an architecture string in quotes, such as 'tanh tanh(1) relu(2)' or the
    authors' numbers."""
    svg: OptionalPath = None
    """Write a vector drawing here."""
    png: OptionalPath = None
    """Write a picture here."""
    json: bool = False
    """Print the architecture as JSON instead of a drawing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, path, kind in (("svg", self.svg, "image/svg+xml"), ("png", self.png, "image/png")):
            if path is not None and path.is_dir():
                raise SettingError(f"{name} must be a file, not the folder {shown(str(path))}")
            if path is not None and mimetypes.guess_type(path) not in ((kind, None), (None, None)):
                raise SettingError(f"{name} must be a path that ends in .{name}, not {shown(str(path))}")


def parse_show(argv: list[str]) -> Action:
    """`show RUN-OR-ARCHITECTURE`."""
    if not argv:
        raise ConfigError(
            "give a run folder, an architecture.json or an architecture string; see 'enas show --help'"
        )
    known = ["--svg", "--png", "--json"]
    options = read_flags(
        ShowOptions, argv, "enas show", known, ShowOptions.__doc__, (tyro.conf.FlagCreatePairsOff,)
    )
    return lambda: show(options)


def show(options: ShowOptions) -> int:
    """Draw an architecture in the terminal, and to files if asked."""
    from enas.report.drawing import text_for, write_png, write_svg

    architecture = read_architecture(options.source)
    with reader_may_go():
        if options.svg is not None:
            write_svg(architecture.graph(), options.svg)
        if options.png is not None:
            write_png(architecture.graph(), options.png)
    if options.json:
        return show_text(json.dumps(architecture.to_json(), indent=2))
    count = f"one of {in_digits(architecture.space.count())} in its space"
    return show_text(f"{text_for(architecture.graph())}\n\n{architecture}\n{count}")


def in_digits(count: int) -> str:
    """A number in full, or as a power of ten if nobody could read it."""
    return f"{count:,}" if count < 10**60 else f"about 10^{math.floor(math.log10(count))}"


def read_architecture(source: str) -> Architecture:
    """The architecture of a run folder, of a JSON file, or of a string."""
    from enas.spaces import architecture_in
    from enas.spaces.reading import read_text

    path = user_path(source)
    with contextlib.suppress(OSError):  # a long string is no path for the system
        if path.is_dir():
            from enas.stages import Run

            return Run.open(path).architecture()
    if path.suffix == ".json":
        return architecture_in(path)
    try:
        return read_text(source)
    except (ArchitectureError, ConfigError) as error:
        raise ArchitectureError(
            f"{shown(source)} is no run folder, and as an architecture: {error}"
        ) from error


def parse_ensemble(argv: list[str]) -> Action:
    """`ensemble RUN`."""
    from enas.ensemble import EnsembleConfig, ensemble

    return of_search("ensemble", argv, EnsembleConfig, ensemble.__doc__, score_ensemble)


def parse_rank(argv: list[str]) -> Action:
    """`rank RUN`."""
    from enas.rank import RankConfig

    return of_search("rank", argv, RankConfig, RankConfig.__doc__, score_order)


def parse_compare(argv: list[str]) -> Action:
    """`compare RUN`."""
    from enas.compare_run import CompareConfig

    return of_search("compare", argv, CompareConfig, CompareConfig.__doc__, score_against_rivals)


def of_search(
    command: str, argv: list[str], options: Any, description: str | None, say: Callable[[Run, Any], str]
) -> Action:
    """The action of `COMMAND RUN [--OPTION VALUE …]` on a finished search; `say` does it and says what is printed."""
    if not argv or (argv[0].startswith("-") and not asks_help(argv)):
        raise ConfigError(f"give the run folder of a finished search; see 'enas {command} RUN --help'")
    known, markers = setting_names(options()), (tyro.conf.FlagCreatePairsOff,)
    rest = argv if argv[0] in HELP_FLAGS else argv[1:]
    config = read_flags(options, rest, f"enas {command} RUN", known, description, markers)
    folder = user_path(argv[0])
    return lambda: on_search(folder, config, say)


def on_search(folder: Path, config: Any, say: Callable[[Run, Any], str]) -> int:
    """Do what `say` does to a run that nobody else works on, and print what it says."""
    from enas.runtime.devices import set_threads
    from enas.stages import Run

    run = Run.open(folder)
    with run_lock(folder):
        set_threads(run.config.threads)
        text = say(run, config)
    return show_text(text)


def score_ensemble(run: Run, config: EnsembleConfig) -> str:
    """Score an ensemble of sampled architectures with a search's shared weights."""
    from enas.ensemble import ensemble

    record = ensemble(run, config)
    if config.json:
        return json.dumps(record, indent=2)
    return (
        f"{record['samples']} architectures with the shared weights, {record['split']} images: together "
        f"{record['accuracy']:.2f} %; one alone {record['mean_accuracy_of_members']:.2f} % on average, "
        f"{record['worst_member']:.2f} to {record['best_member']:.2f} %"
    )


def score_order(run: Run, config: RankConfig) -> str:
    """Compare shared-weight scores of architectures with what they reach trained alone."""
    from enas.rank import describe, rank

    record = rank(run, config)
    return json.dumps(record, indent=2) if config.json else describe(record)


def score_against_rivals(run: Run, config: CompareConfig) -> str:
    """Compare a run's method with random ones and with evolution, at equal budget."""
    from enas.compare_run import compare_run
    from enas.report.comparison import comparison_text

    comparison = compare_run(run, config)
    return json.dumps(comparison.to_json(), indent=2) if config.json else comparison_text(comparison)


def parse_benchmark(argv: list[str]) -> Action:
    """`benchmark NAME [--controllers … --seeds N …]`."""
    from enas.ground_truth.benchmark import BenchmarkConfig

    if not argv:
        raise ConfigError("name a benchmark: nas-bench-graph; see 'enas benchmark --help'")
    known = [name for name in setting_names(BenchmarkConfig("nas-bench-graph")) if name != "--name"]
    markers = (tyro.conf.FlagCreatePairsOff,)
    config = read_flags(BenchmarkConfig, argv, "enas benchmark", known, BENCHMARK_HELP, markers)
    return lambda: score_controllers(config)


BENCHMARK_HELP = """Controllers against random search where every architecture's score is known; nothing is trained.

nas-bench-graph: graph neural networks on eight data sets; needs pip install 'enas[graph]'."""


def score_controllers(config: BenchmarkConfig) -> int:
    """Search tables of known scores, and say how the controllers did."""
    from enas.ground_truth.benchmark import as_json, as_text, benchmark
    from enas.runtime.devices import set_threads

    set_threads(1)  # the tensors of a controller are too small to share
    found = benchmark(config)
    if config.json:
        return show_text("\n".join(json.dumps(record) for record in as_json(found)))
    return show_text(as_text(found))


def parse_table(argv: list[str]) -> Action:
    """`table build NAME --run FOLDER`, `table show NAME`."""
    from enas.ground_truth.build import BuildOptions, build, describe
    from enas.ground_truth.build import ShowOptions as TableOptions
    from enas.ground_truth.minispaces import MINI_SPACES, mini_space
    from enas.ground_truth.scoring import ScoreOptions

    does, name, rest = (*argv, "", "")[0], (*argv, "", "")[1], argv[2:]
    known: tuple[str, ...] = ("build", "score", "show")
    if does not in known or name.startswith("-") or not name:
        raise ConfigError(
            f"say what to do with which table: enas table build|score|show {'|'.join(MINI_SPACES)}; see "
            f"'enas table build {next(iter(MINI_SPACES))} --help'"
        )
    space, command = mini_space(name), f"enas table {does} {name}"
    markers = (tyro.conf.FlagCreatePairsOff,)
    if does == "build":
        names = ["--run", "--first", "--workers"]
        building = read_flags(BuildOptions, rest, command, names, BuildOptions.__doc__, markers)
        return lambda: show_text(describe(build(space, building)))
    if does == "score":
        names = ["--run", "--methods", "--seeds", "--first-seed", "--file", "--json"]
        scoring = read_flags(ScoreOptions, rest, command, names, ScoreOptions.__doc__, markers)
        return lambda: show_score(name, scoring)
    showing = read_flags(TableOptions, rest, command, ["--file", "--json"], TableOptions.__doc__, markers)
    return lambda: show_table(name, showing)


def show_score(name: str, options: ScoreOptions) -> int:
    """Search a mini-space and score what comes out."""
    from enas.ground_truth.scoring import describe, score_methods

    record = score_methods(name, options)
    return show_text(json.dumps(record, indent=2) if options.json else describe(record))


def show_table(name: str, options: TableOptions) -> int:
    """Say what a table holds."""
    from enas.ground_truth.build import describe, figures
    from enas.ground_truth.minispaces import table_of

    table = table_of(name, options.file)
    return show_text(json.dumps(figures(table), indent=2) if options.json else describe(table))


def parse_recipes(argv: list[str]) -> Action:
    """`recipes [--json]`."""
    from enas.recipes import RECIPES

    only(argv, "--json")
    if argv:
        return lambda: show_text(json.dumps(dict(RECIPES), indent=2))
    return lambda: show_text(
        "\n\n".join(f"{name}\n{textwrap.indent(text, '  ')}" for name, text in RECIPES.items())
    )


def parse_doctor(argv: list[str]) -> Action:
    """`doctor [--json]`."""
    only(argv, "--json")
    return lambda: doctor(as_json=bool(argv))


def doctor(as_json: bool) -> int:
    """Say whether this machine can run everything; exit code 2 if something needed is missing."""
    from enas.doctor import checks

    found = checks()
    if as_json:
        show_text(json.dumps([vars(check) for check in found], indent=2))
    else:
        show_text(
            "\n".join(
                f"{'ok  ' if check.ok else 'MISS' if check.needed else 'none'}  {check}" for check in found
            )
        )
    return EXIT_USAGE if any(check.needed and not check.ok for check in found) else 0


def only(argv: list[str], *known: str) -> None:
    """Raise `ConfigError` for anything but these flags."""
    for word in argv:
        if word not in known:
            raise ConfigError(
                f"unexpected {shown(word)}; {did_you_mean(word, known)}this command takes {', '.join(known)}"
            )


COMMANDS: dict[str, Parser] = {
    "run": from_recipe(None),
    "search": from_recipe(("search",)),
    "derive": on_run(("derive",)),
    "retrain": parse_retrain,
    "test": on_run(("test",)),
    "resume": on_run(None),
    "show": parse_show,
    "ensemble": parse_ensemble,
    "rank": parse_rank,
    "compare": parse_compare,
    "table": parse_table,
    "ablate": parse_ablate,
    "benchmark": parse_benchmark,
    "recipes": parse_recipes,
    "doctor": parse_doctor,
}


USAGE: dict[str, tuple[tuple[str, str], ...]] = {
    "run": (("RECIPE [--SETTING VALUE ...]", "search, derive, retrain and test, into runs/RECIPE"),),
    "search": (("RECIPE [--SETTING VALUE ...]", "only the search"),),
    "derive": (("RUN", "pick an architecture from a finished search"),),
    "retrain": (
        ("RUN", "train it from scratch, and what it is compared with; then test"),
        ("RECIPE --architecture 'TEXT'", "train an architecture that you have"),
    ),
    "test": (("RUN", "read the test data, once a network"),),
    "resume": (("RUN", "go on after a stop or a crash, exactly"),),
    "show": (("RUN-OR-ARCHITECTURE", "draw it (--svg FILE, --png FILE, --json)"),),
    "ensemble": (("RUN", "many architectures of a search classify together (--samples N)"),),
    "rank": (("RUN", "do the shared weights order architectures as training alone does?"),),
    "compare": (("RUN", "the run's method against random ones and evolution (--seeds S)"),),
    "table": (
        ("show NAME", "the truth about a mini-space: every architecture trained alone"),
        ("build NAME --run FOLDER", "train it again, side by side (--first N, --workers N)"),
        ("score NAME --run FOLDER", "searches on it, scored against the truth (--methods, --seeds N)"),
    ),
    "ablate": (
        ("RECIPE --variant NAME ...", "the recipe against variants of it, and against the paper's figures"),
    ),
    "benchmark": (("NAME", "controllers against random search on known scores (nas-bench-graph)"),),
    "recipes": (("", "what there is to run (--json)"),),
    "doctor": (("", "what this machine has (--json)"),),
}
"""How every command is written, and what it does."""

NAMES_FIRST = {"run": 1, "search": 1, "retrain": 1, "ablate": 1, "table": 2} | dict.fromkeys(
    ("derive", "test", "resume", "recipes", "doctor"), 2
)
"""How many words of a command come before flags that can be listed; what has no such flags takes no more words at all."""


def usage(command: str) -> str:
    """Every form of a command, a line each."""
    return "\n".join(f"  {f'enas {command} {words}'.rstrip():<42} {does}" for words, does in USAGE[command])


def command_help(command: str) -> str:
    """What `enas COMMAND --help` prints, where no recipe or table is named."""
    lines = [f"enas {command}", "", usage(command)]
    if command == "table":
        from enas.ground_truth.minispaces import MINI_SPACES

        lines += ["", f"Tables: {', '.join(MINI_SPACES)}. 'enas table show NAME --help' lists the flags."]
    elif NAMES_FIRST[command] == 1:
        from enas.recipes import RECIPES

        lines += [
            "",
            f"Recipes: {', '.join(RECIPES)}.",
            f"'enas {command} RECIPE --help' lists the settings.",
        ]
    return "\n".join(lines)


def help_text() -> str:
    """What `enas --help` prints."""
    commands = "\n".join(map(usage, USAGE))
    return f"""enas: efficient neural architecture search by parameter sharing

{commands}

'enas run RECIPE --help' lists every setting, 'enas COMMAND --help' tells about a command, 'enas --version' says which
version this is. Exit codes: 0 done, 2 wrong usage or input, 75 stopped after saving."""
