"""`enas run mine.py`: a recipe in a file, opened again only while it is what it was; every mistake is one line."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enas.cli import main
from enas.costs.settings import CostConfig
from enas.errors import ConfigError, RunFolderError
from enas.recipes import recipe
from enas.recipes.files import forget, module_of
from enas.recipes.origin import RecipeFile
from enas.run import Run
from enas.runtime.files import digest_of, read_json, write_json
from enas.settings import config_from_json, config_to_json, settings_for
from enas.stages import execute
from tests import tiny
from tests.test_cli import printed, refusal

TINY = """
from enas.config import RunConfig
from enas.recipes import recipe as named
from tests import tiny
from beside import SEED

def tiny_digits() -> RunConfig:
    '''A few digits.'''
    return tiny.image_config("macro", "--seed", str(SEED))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that one is in."""
    monkeypatch.chdir(tmp_path)
    forget()  # another test's file may be called as one of these
    for name in ("mine", "beside"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def put(name: str, text: str) -> Path:
    path = Path(name).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def mine(folder: Path) -> Path:
    put("beside.py", "SEED = 3\n")
    put("unused.py", "raise AssertionError\n")
    return put("mine.py", TINY)


# ---- found, run, opened again ------------------------------------------------------------------------------------------


WITH_A_COST = """
from dataclasses import replace
from enas.config import RunConfig
from enas.costs.settings import CostConfig
from enas.recipes import recipe as named

def recipe() -> RunConfig:
    return replace(named("macro-quick"), cost=CostConfig("parameters", "30k"))
"""


def test_what_a_recipe_sets_can_be_set_to_none_and_a_wrong_word_is_told_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    put("costly.py", WITH_A_COST)
    assert (
        tiny.settings("costly.py", ["--cost.measure", "None", "--cost.target", "None"]).cost == CostConfig()
    )
    said = refusal(capsys, "run", "costly.py", "--cost.measure", "watts")
    assert "one of parameters, multiply_adds, activation_bytes, latency, None, not 'watts'" in said


def test_the_recipe_of_a_file_is_run_and_resumed(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "mine.py", "--search.epochs", "1"]) == 0
    run = Path("runs/mine")
    record = read_json(run / "config.json")
    assert record["recipe"] == {
        "from": "RecipeFile",
        "file": str(mine),
        "function": "tiny_digits",
        "sha256": digest_of(mine.read_bytes()).sha256,
        "beside": {"beside.py": digest_of(b"SEED = 3\n").sha256},
    }
    assert (record["settings"]["seed"], record["settings"]["search"]["epochs"]) == (3, 1)
    assert "origin" not in record["settings"]
    opened = Run.open(run).config
    assert opened == tiny.settings("mine.py", ["--search.epochs", "1"])
    before = tiny.content(run)
    assert main(["resume", str(run)]) == 0
    assert tiny.content(run) == before
    reference = Path("reference")
    config = tiny.image_config("macro", "--seed", "3", "--search.epochs", "1")
    execute(Run.create(reference, config, ("search",)), ("search",))
    ours = {name: value for name, value in before.items() if name != "config.json"}
    theirs = {name: value for name, value in tiny.content(reference).items() if name != "config.json"}
    assert ours == theirs


def test_settings_of_config_json_stand_before_those_of_the_file(mine: Path) -> None:
    record = json.loads(json.dumps(config_to_json(recipe("mine.py"))))
    record["settings"]["search"]["epochs"] = 7
    opened = config_from_json(record)
    assert (opened.search.epochs, opened.seed) == (7, 3)
    assert isinstance(opened.origin, RecipeFile)
    assert settings_for("search", opened) != settings_for("search", recipe("mine.py"))


@pytest.mark.parametrize(
    ("word", "found"), [("mine.py", "recipe"), ("mine.py:other", "other"), ("./mine.py:_own", None)]
)
def test_which_function_is_the_recipe(word: str, found: str | None) -> None:
    put(
        "mine.py",
        "from enas.config import RunConfig\n"
        "from enas.recipes import recipe as named\n"
        "from enas.recipes.macro import macro_quick\n"
        "def recipe(): return named('micro-quick')\n"
        "def other() -> 'RunConfig': return macro_quick()\n"
        "def _own() -> RunConfig: return macro_quick()\n",
    )
    if found is None:
        with pytest.raises(ConfigError, match=r"has no function '_own'; .*Its functions are recipe, other"):
            recipe(word)
    else:
        assert recipe(word).kind == {"recipe": "micro", "other": "macro"}[found]


def test_two_files_of_one_name_have_their_own_modules_beside_them(folder: Path) -> None:
    for name, seed in (("a", 1), ("b", 2), ("a", 1)):
        put(f"{name}/beside.py", f"SEED = {seed}\n")
        assert recipe(str(put(f"{name}/mine.py", TINY))).seed == seed


def test_the_docstring_of_the_recipe_is_its_help(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(capsys, "run", "mine.py", "--help")
    assert "A few digits." in said
    assert "--search.epochs" in said
    assert "--origin" not in said


def test_kinds_of_run_and_controllers_of_a_file_are_known_to_it(folder: Path) -> None:
    put(
        "mine.py",
        "from dataclasses import dataclass, field, replace\n"
        "from typing import ClassVar, Literal\n"
        "from enas.controllers import UniformConfig\n"
        "from enas.recipes.macro import macro_quick\n"
        "from enas.runs.images import MacroConfig\n"
        "@dataclass(frozen=True)\n"
        "class MineConfig(MacroConfig):\n"
        "    kind: ClassVar[str] = 'mine'\n"
        "@dataclass(frozen=True)\n"
        "class OwnConfig(UniformConfig):\n"
        "    kind: Literal['own'] = field(default='own', kw_only=True)\n"
        "    strength: int = 3\n"
        "def recipe():\n"
        "    return MineConfig(controller=OwnConfig(5))\n",
    )
    config = recipe("mine.py")
    record = json.loads(json.dumps(config_to_json(config)))
    assert record["kind"] == "mine"
    assert record["settings"]["controller"] == {"kind": "own", "strength": 5}
    record["settings"]["controller"]["strength"] = 6
    opened: Any = config_from_json(record)
    assert type(opened) is type(config)
    assert opened.controller.strength == 6
    assert type(opened.controller) is type(config.controller)
    record["settings"]["controller"]["strngth"] = 6
    with pytest.raises(
        RunFolderError, match=r"setting controller\.strngth is not known; did you mean 'strength'"
    ):
        config_from_json(record)


# ---- a file that is not what it was ------------------------------------------------------------------------------------


@pytest.fixture
def begun(mine: Path) -> Path:
    run = Path("begun")
    Run.create(run, recipe("mine.py"), ("search",))
    return run


@pytest.mark.parametrize("changed", ["mine.py", "beside.py"])
def test_a_file_that_changed_is_named_and_not_run(
    begun: Path, changed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(changed).absolute()
    path.write_text(path.read_text() + "\nopen('was_run', 'w')\n")
    for command in (["resume", "begun"], ["derive", "begun"], ["rank", "begun"], ["show", "begun"]):
        line = refusal(capsys, *command)
        assert line.startswith(f"{path} changed since the run was begun: put back")
        assert "--changed-file-ok" in line
    assert not Path("was_run").exists()


def test_going_on_with_a_changed_file_is_noted(begun: Path) -> None:
    Path("beside.py").write_text("SEED = 3  # the same\n")
    with pytest.raises(RunFolderError, match=r"beside\.py changed"):
        Run.open(begun)
    assert Run.open(begun, changed_file_ok=True).config.seed == 3
    record = read_json(begun / "config.json")
    assert record["recipe"]["beside"] == {"beside.py": digest_of(b"SEED = 3  # the same\n").sha256}
    assert record["stages"] == ["search"]
    Run.open(begun)


@pytest.mark.parametrize(
    ("recipe_record", "says"),
    [
        ({"file": "mine.py"}, "recipe.file must be the absolute path of a .py file, not 'mine.py'"),
        ({"file": "/etc/passwd"}, "recipe.file must be the absolute path of a .py file"),
        (
            {"file": "/nowhere/mine.py"},
            "/nowhere/mine.py, which is missing: put it back, or write in config.json",
        ),
        ({"beside": {"../beside.py": "0"}}, "'../beside.py', which is no path below the file's folder"),
        ({"beside": {"/etc/passwd": "0"}}, "'/etc/passwd', which is no path below the file's folder"),
        ({"beside": {"gone.py": "0"}}, "gone.py changed since the run was begun"),
        ({"sha256": 3}, "config.json, recipe: sha256 must be text, not 3"),
        ({"function": "gone"}, "mine.py has no function 'gone'"),
    ],
)
def test_what_config_json_may_say_of_a_file(begun: Path, recipe_record: dict[str, Any], says: str) -> None:
    record = read_json(begun / "config.json")
    record["recipe"] |= recipe_record
    write_json(begun / "config.json", record)
    with pytest.raises((RunFolderError, ConfigError)) as caught:
        Run.open(begun)
    assert says in str(caught.value)


def test_what_only_a_recipe_gives_is_no_setting(mine: Path) -> None:
    record = json.loads(json.dumps(config_to_json(recipe("mine.py"))))
    record["settings"]["origin"] = {"file": "/elsewhere.py"}
    with pytest.raises(RunFolderError, match="setting origin: it is no setting"):
        config_from_json(record)


# ---- a module of a package ---------------------------------------------------------------------------------------------


@pytest.fixture
def package(folder: Path) -> Iterator[Path]:
    """A module in a package in the working directory, which is not on the path."""
    assert not {"", str(folder)} & set(sys.path)
    put("project/__init__.py", "import project.common\n")
    put("project/common.py", "SEED = 3\n")
    put("project/other.py", "raise AssertionError\n")
    text = TINY.replace("from beside import SEED", "from ..common import SEED\nfrom . import near")
    put("project/inner/near.py", "")
    put("project/inner/__init__.py", "from .mine import tiny_digits\n")
    yield put("project/inner/mine.py", text)
    forget()


def test_a_module_of_a_package_is_named_as_it_is_imported(
    package: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["search", "project.inner.mine:tiny_digits", "--search.epochs", "1"]) == 0
    run = Path("runs/mine-tiny_digits").absolute()
    record = read_json(run / "config.json")
    files = ("__init__.py", "common.py", "inner/__init__.py", "inner/near.py")
    assert record["recipe"] == {
        "from": "RecipeModule",
        "file": str(package),
        "module": "project.inner.mine",
        "function": "tiny_digits",
        "sha256": digest_of(package.read_bytes()).sha256,
        "beside": {name: digest_of((folder / "project" / name).read_bytes()).sha256 for name in files},
    }
    before = tiny.content(run)
    forget()
    assert str(folder) not in sys.path
    assert not [name for name in sys.modules if name.partition(".")[0] == "project"]
    monkeypatch.chdir(put("elsewhere/file", "").parent)  # where the name alone finds nothing
    assert main(["resume", str(run)]) == 0
    assert tiny.content(run) == before
    forget()
    capsys.readouterr()
    path = folder / "project" / "common.py"
    path.write_text("SEED = 4\n")
    line = refusal(capsys, "resume", str(run))
    assert line.startswith(f"{path} changed since the run was begun: put back")
    assert Run.open(run, changed_file_ok=True).config.seed == 3  # settings of config.json stand
    capsys.readouterr()
    monkeypatch.chdir(folder)
    assert recipe("project.inner.mine:tiny_digits").seed == 4
    assert "A few digits." in printed(capsys, "run", "project.inner.mine:tiny_digits", "--help")


def test_a_module_in_no_package_is_a_file(mine: Path) -> None:
    origin = recipe("mine:tiny_digits").origin
    assert origin == recipe("mine.py:tiny_digits").origin
    assert type(origin) is RecipeFile


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("project.inner.nowhere:a", "there is no module 'project.inner.nowhere', neither in the working"),
        ("project.common.inner:a", "there is no module 'project.common.inner'"),
        ("nowhere_at_all:a", "there is no module 'nowhere_at_all'"),
        ("sys:exit", "'sys' is no module in a .py file"),
        ("project.inner.mine:tiny_digit", "mine.py has no function 'tiny_digit'; did you mean 'tiny_digits'"),
        ("project.other:a", "other.py, line 1: AssertionError"),
        ("project.inner:a", "__init__.py has no function 'a'; It has no function"),
    ],
)
def test_a_module_that_cannot_be_used_is_one_line(
    package: Path, word: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    forget()
    path = list(sys.path)
    assert says in refusal(capsys, "run", word)
    forget()
    assert sys.path == path


def test_the_running_program_is_no_module_to_be_named(
    mine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # as where a script is run
    assert "there is no module '__main__'" in refusal(capsys, "run", "__main__:a")


def test_a_record_that_names_another_module_is_refused(package: Path) -> None:
    Run.create(Path("begun"), recipe("project.inner.mine:tiny_digits"), ("search",))
    record = read_json(Path("begun") / "config.json")
    record["recipe"]["module"] = "os.path"
    write_json(Path("begun") / "config.json", record)
    with pytest.raises(RunFolderError, match=r"recipe\.module is 'os\.path', which is not imported from"):
        Run.open(Path("begun"))


# ---- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def recipe(:\n", "mine.py, line 1: invalid syntax: def recipe(:"),
        ("x = 1\ny = x / 0\n", "mine.py, line 2: ZeroDivisionError: division by zero"),
        ("import beside\n", "beside.py, line 2: KeyError: 'gone'"),
        ("import nowhere_at_all\n", "mine.py, line 1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("import sys\nsys.exit('bye')\n", "mine.py, line 2: SystemExit: bye"),
        ("\0", "mine.py"),
        (
            "",
            "mine.py has no recipe: write a function `recipe` that returns the settings of a run. It has no function",
        ),
        ("def other(): pass\n", "mine.py has no recipe: write a function `recipe` that"),
        ("from enas.recipes.macro import macro_quick\n", "mine.py has no recipe"),
        (
            "from enas.config import RunConfig\ndef a() -> RunConfig: ...\ndef b() -> RunConfig: ...\n",
            "mine.py has several recipes, a, b: name one, as in 'enas run mine.py:a'",
        ),
        (
            "def recipe(): return 3\n",
            "mine.py: recipe() returned 3, which is no settings of a run (a RunConfig)",
        ),
        (
            "def recipe(epochs): return 3\n",
            "mine.py: recipe() needs arguments, which a recipe is not given",
        ),
        ("def recipe():\n    return {}['a']\n", "mine.py, line 2: KeyError: 'a'"),
        (
            "from enas.recipes import recipe as named\nfrom dataclasses import replace\n"
            "def recipe():\n    return replace(named('macro-quick'), seed='x')\n",
            "mine.py, line 4: SettingError: seed must be a whole number, not 'x'",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(
    text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put("beside.py", "x = 1\nx = {}['gone']\n")
    put("mine.py", text)
    assert says in refusal(capsys, "run", "mine.py")
    assert sorted(path.name for path in Path().iterdir() if path.name != "__pycache__") == [
        "beside.py",
        "mine.py",
    ]


def test_a_file_that_is_none_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder.py").mkdir()
    assert refusal(capsys, "run", "nowhere.py").endswith("nowhere.py: No such file or directory")
    assert refusal(capsys, "run", "folder.py").endswith("folder.py: Is a directory")


@pytest.mark.parametrize("name", ["random", "torch", "enas", "pytest"])
def test_a_file_with_the_name_of_another_module_is_refused(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(f"{name}.py", "raise AssertionError\n")
    assert refusal(capsys, "run", f"{name}.py").endswith(
        f"{name}.py has the name of the module {name!r}, which it would hide: call the file something else"
    )


def test_a_class_without_a_kind_of_its_own_is_refused_before_there_is_a_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(
        "mine.py",
        "from dataclasses import dataclass, fields\n"
        "from enas.runs.images import MacroConfig\n"
        "from tests import tiny\n"
        "@dataclass(frozen=True)\n"
        "class Mine(MacroConfig): pass\n"
        "def recipe():\n"
        "    one = tiny.image_config('macro')\n"
        "    return Mine(**{field.name: getattr(one, field.name) for field in fields(one)})\n",
    )
    assert main(["run", "mine.py"]) == 2
    assert "Mine is not the class of the kind of run 'macro': give it a `kind`" in capsys.readouterr().err
    assert not list(Path().rglob("config.json"))


def test_a_file_that_the_program_has_imported_itself_is_not_imported_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "imported_before.py"
    path.write_text("VALUE = []\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("imported_before")
    assert module_of(path)[0] is module
    monkeypatch.delitem(sys.modules, "imported_before")
    assert module_of(path)[0] is not module
