"""What README.md and docs/ say is so: the file tree, the links, the commands, the versions, the dependencies.

The file tree is the fenced block below the heading "What is where" of docs/design.md, one path a line:

    Makefile                  make demo, make test
    src/enas/                 the package
      architecture.py         decisions, spaces, architectures
      spaces/                 one folder a space
        recurrent/
          space.py            what can be chosen
    tests/                    one file a promise

A folder ends in `/`; what is in it stands below it, two spaces further right. Two spaces or more separate a
path from the words about it, which every file has. A folder with nothing below it stands for all that is in
it. The tree has every file that `must_be_listed` finds, and nothing that does not exist; the `__init__.py` of
a package goes without saying.

Commands are the lines of fenced sh, bash, console and text blocks that begin with `enas` or `$ enas`.
"""

import ast
import contextlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import enas
from enas.cli import parse
from enas.cli.flags import flag_names
from enas.errors import EnasError
from enas.recipes import RECIPES, recipe

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DESIGN = ROOT / "docs" / "design.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

FENCE = re.compile(
    r"^(?P<ticks>```+)(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=ticks)\s*$", re.MULTILINE | re.DOTALL
)
COMMAND_LANGUAGES = {"", "sh", "bash", "shell", "console", "text"}
ENDS_COMMAND = {"|", "||", "&", "&&", ";", ">", ">>", "2>", "2>&1", "<"}


def documents() -> list[Path]:
    return [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


# -------------------------------------------------------------------------------------------------- file tree


def must_be_listed() -> set[str]:
    files = [
        *ROOT.glob("src/enas/**/*.py"),
        *ROOT.glob("benchmarks/**/*.py"),
        *ROOT.glob("examples/**/*.py"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("tests/**/*.py"),
    ]
    top = (
        "Makefile",
        "mkdocs.yml",
        "pyproject.toml",
        "constraints.txt",
        "LICENSE",
        "CITATION.cff",
        "CHANGELOG.md",
    )
    return {path.relative_to(ROOT).as_posix() for path in files if path.name != "__init__.py"} | set(top)


def read_tree(text: str) -> tuple[dict[str, str], set[str]]:
    """Each path of the tree with the words about it, and the folders that stand for all that is in them."""
    lines = []
    for line in filter(str.strip, text.splitlines()):
        indent, path, words = re.fullmatch(r"( *)(\S+)(?: {2,}(\S.*))?", line.rstrip()).groups()
        assert len(indent) % 2 == 0, f"an odd number of spaces before {path}"
        lines.append((len(indent) // 2, path, words or ""))
    said: dict[str, str] = {}
    collapsed: set[str] = set()
    folders: list[str] = []
    for (depth, name, words), (next_depth, *_) in zip(lines, [*lines[1:], (0, "", "")], strict=True):
        assert depth <= len(folders), f"{name} stands further right than the folder above it has entries"
        folders = folders[:depth]
        path = "".join(folders) + name
        assert path not in said, f"{path} is listed twice"
        said[path] = words
        if name.endswith("/"):
            folders.append(name)
            if next_depth <= depth:
                collapsed.add(path)
    return said, collapsed


def test_file_tree_of_the_design_is_the_disk() -> None:
    section = re.split(r"^#+ What is where\s*$", DESIGN.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(section) == 2, 'docs/design.md needs one heading "What is where"'
    said, collapsed = read_tree(FENCE.search(section[1])["body"])
    gone = [
        path for path in said if not (ROOT / path).exists() or path.endswith("/") != (ROOT / path).is_dir()
    ]
    missing = [
        path
        for path in must_be_listed()
        if path not in said and not any(path.startswith(folder) for folder in collapsed)
    ]
    wordless = [
        path for path, words in said.items() if not words and (path in collapsed or not path.endswith("/"))
    ]
    assert (gone, sorted(missing), wordless) == ([], [], []), (
        "in the tree but gone; missing there; without words"
    )
    assert not [folder for folder in collapsed if folder.startswith("src/")], (
        "the package's files are listed one by one"
    )


def test_the_tree_reader_reads_the_example_above() -> None:
    example = __doc__.split("one path a line:\n\n")[1].split("\n\nA folder")[0]
    said, collapsed = read_tree("\n".join(line[4:] for line in example.splitlines()))
    assert said == {
        "Makefile": "make demo, make test",
        "src/enas/": "the package",
        "src/enas/architecture.py": "decisions, spaces, architectures",
        "src/enas/spaces/": "one folder a space",
        "src/enas/spaces/recurrent/": "",
        "src/enas/spaces/recurrent/space.py": "what can be chosen",
        "tests/": "one file a promise",
    }
    assert collapsed == {"tests/"}


# ------------------------------------------------------------------------------------------------------ links


def slug(heading: str) -> str:
    """The anchor that a heading gets in a rendered page."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def anchors(document: Path) -> set[str]:
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    return {slug(heading) for heading in re.findall(r"^#+ +(.+?) *#*$", text, re.MULTILINE)}


def links(document: Path) -> Iterator[str]:
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", document.read_text(encoding="utf-8")))
    yield from re.findall(r"\]\(\s*<?([^)\s>]+)", text)
    yield from re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, re.MULTILINE)
    yield from re.findall(r"(?:src|href)=[\"']([^\"']+)", text)


def test_every_relative_link_leads_somewhere() -> None:
    broken = []
    for document in documents():
        for link in links(document):
            if re.match(r"[a-z][a-z0-9+.-]*:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (document.parent / path).resolve() if path else document
            if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
                broken.append(f"{document.relative_to(ROOT)}: {link}")
    assert broken == []


# --------------------------------------------------------------------------------------------------- commands


def commands(document: Path) -> Iterator[list[str]]:
    """The arguments of every `enas ...` line of a fenced block; a backslash joins a line to the next."""
    for fence in FENCE.finditer(document.read_text(encoding="utf-8")):
        if fence["language"] not in COMMAND_LANGUAGES:
            continue
        for line in fence["body"].replace("\\\n", " ").splitlines():
            if match := re.match(r"\s*(?:\$ )?(?:\w+=\S+ )*(?:\.venv/bin/)?enas (.*)", line):
                words = shlex.split(match[1], comments=True)
                end = next((i for i, word in enumerate(words) if word in ENDS_COMMAND), len(words))
                yield words[:end]


def titled(document: Path) -> Iterator[tuple[str, str]]:
    """The files that a document shows: fenced blocks with a title."""
    for fence in FENCE.finditer(document.read_text(encoding="utf-8")):
        if title := re.search(r'title="([\w.]+)"', fence[0].partition("\n")[0]):
            yield title[1], fence["body"]


def test_every_command_in_the_documentation_is_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong, right = [], 0
    for document in documents():
        for name, text in titled(document):
            (tmp_path / name).write_text(text, encoding="utf-8")
        for command in commands(document):
            try:
                with contextlib.suppress(SystemExit):  # after help
                    parse(command)
                right += 1
            except EnasError as error:
                wrong.append(f"{document.relative_to(ROOT)}: enas {shlex.join(command)}: {error}")
    assert wrong == []
    assert right >= 5


@pytest.mark.parametrize(
    "command", [["run", "no-such-recipe"], ["fly"], ["run", "recurrent-quick", "--no-such-flag"]]
)
def test_a_command_that_is_none_is_noticed(command: list[str]) -> None:
    with pytest.raises(EnasError):
        parse(command)


# ------------------------------------------------------------------------------------------------------- site


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert (built.returncode, built.stdout, built.stderr) == (0, "", "")
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages <= {page.parent.name for page in tmp_path.glob("*/index.html")}
    assert "RecurrentSpace" in (tmp_path / "api" / "index.html").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------- symbols and flags


def spans(document: Path) -> Iterator[str]:
    """What stands between backticks in the text of a document, outside fenced blocks."""
    yield from re.findall(r"`([^`\n]+)`", FENCE.sub("", document.read_text(encoding="utf-8")))


def defined(file: Path) -> set[str]:
    """Names that a module defines at its top, and `Class.name` for methods, fields and attributes of its classes."""
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.ClassDef):
            for inner in ast.walk(node):
                if isinstance(inner, ast.FunctionDef):
                    names.add(f"{node.name}.{inner.name}")
                elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                    names.add(f"{node.name}.{inner.target.id}")
    return names


SOURCES = {file: defined(file) for file in ROOT.glob("src/enas/**/*.py")}


def no_such_symbol(span: str) -> str | None:
    """Why `module.py:name` or `Class.name` names nothing in the package; None for what does, or is no such name."""
    if (match := re.fullmatch(r"((?:\w+/)*\w+\.py)(?::([\w.]+))?", span)) and not (ROOT / span).exists():
        files = [file for file in SOURCES if file.as_posix().endswith("/" + match[1])]
        if not files:
            return "no such file"
        return None if match[2] is None or any(match[2] in SOURCES[file] for file in files) else "not in it"
    attribute = re.fullmatch(r"[A-Z]\w*[a-z]\w*\.\w+", span) and span != "Thumbs.db"
    if attribute and not any(span in names for names in SOURCES.values()):
        return "no such attribute"
    return None


def test_every_symbol_named_in_the_documentation_exists() -> None:
    places = [(document, span) for document in documents() for span in spans(document)]
    missing = [
        f"{document.relative_to(ROOT)}: {span}: {why}"
        for document, span in places
        if document.name not in ("CHANGELOG.md", "log.md") and (why := no_such_symbol(span)) is not None
    ]
    assert missing == []
    assert sum(".py:" in span for _, span in places) >= 20


def test_a_symbol_that_is_none_is_noticed() -> None:
    assert no_such_symbol("architecture.py:Space.count") is None
    assert no_such_symbol("architecture.py:Space.weight") == "not in it"
    assert no_such_symbol("spaces/recurrent/nets.py") == "no such file"
    assert no_such_symbol("LSTMPolicy.no_such_method") == "no such attribute"


def known_flags() -> set[str]:
    """Flags of the recipes' settings, of the commands' options, and of the scripts in benchmarks/."""
    recipes = {flag for name in RECIPES for flag in flag_names(recipe(name))}
    options = {
        "--" + name.split(".")[1].replace("_", "-") for name in set.union(*SOURCES.values()) if "." in name
    }
    scripts = [*SOURCES, *ROOT.glob("benchmarks/*.py")]
    written = {
        flag
        for file in scripts
        for flag in re.findall(r'"(--[a-z][a-z-]*)"', file.read_text(encoding="utf-8"))
    }
    return recipes | options | written


def test_every_flag_named_in_the_documentation_exists() -> None:
    known, seen, wrong = known_flags(), 0, []
    for document in documents():
        for flag in (flag for span in spans(document) for flag in re.findall(r"(?<!\S)--[a-z][\w.-]*", span)):
            seen += 1
            if flag not in known and document.name not in ("CHANGELOG.md", "log.md"):
                wrong.append(f"{document.relative_to(ROOT)}: {flag}")
    assert wrong == []
    assert seen >= 30


# -------------------------------------------------------------------------------------------------- packaging


def test_version_is_the_same_everywhere() -> None:
    version = PROJECT["version"]
    assert enas.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def requirements(group: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", requirement)[0].lower() for requirement in group}


def imports(file: Path) -> set[str]:
    """The modules that a file imports, anywhere in it; of `from a.b import c`, both a.b and a.b.c."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_dependencies_are_what_the_package_imports() -> None:
    """What only the compiled kernels need, or a cluster, is an extra. Triton comes with a torch that is built for GPUs."""
    names = packages_distributions()  # pillow is imported as PIL
    extras = {"cpu": "cpu", "ray.py": "ray", "slurm.py": "slurm"}
    needed: dict[str | None, set[str]] = {extra: set() for extra in (None, *extras.values())}
    for file in SOURCES:
        imported = {module.split(".")[0] for module in imports(file)} - sys.stdlib_module_names - {"enas"}
        imported -= {"triton"} if "gpu" in file.parts else set()
        extra = next((extras[part] for part in file.parts if part in extras), None)
        needed[extra] |= {names[name][0].lower() for name in imported}
    dependencies = requirements(PROJECT["dependencies"])
    assert needed.pop(None) == dependencies
    for extra, packages in needed.items():
        assert packages - dependencies == requirements(PROJECT["optional-dependencies"][extra])


@pytest.mark.parametrize("folder", ["cpu", "gpu"])
def test_compiled_kernels_are_behind_one_door(folder: str) -> None:
    outside = {file for file in SOURCES if folder not in file.parts}
    doors = {file.name for file in outside if any(m.startswith(f"enas.{folder}") for m in imports(file))}
    assert doors == {"ops.py"}


def test_evidence_knows_no_single_space_or_task() -> None:
    """What is of one space or task is behind methods of configs and tasks; what is looked up is found by its name."""
    files = [file for file in SOURCES if "src/enas/evidence/" in file.as_posix()]
    modules = {(file.name, m) for file in files for m in imports(file)}
    of_one = re.compile(r"enas\.(runs|spaces|tasks|data)\.\w+|enas\.recipes\.(recurrent|macro|micro)\b")
    allowed = {"enas.spaces.space_from_json", "enas.data.published", "enas.data.published.read_checked"}
    assert [pair for pair in sorted(modules) if of_one.match(pair[1]) and pair[1] not in allowed] == []


def imported_at_once(file: Path) -> set[str]:
    """The modules of this package that are imported when a file is, not later by a function, nor for types alone."""
    found: set[str] = set()
    waiting: list[ast.stmt] = list(ast.parse(file.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.If | ast.Try) and "TYPE_CHECKING" not in ast.unparse(node):
            waiting += [*node.body, *node.orelse]
    return found


def test_no_module_imports_itself_by_a_circle() -> None:
    names = {file: ".".join(file.relative_to(ROOT / "src").with_suffix("").parts) for file in SOURCES}
    modules = {name.removesuffix(".__init__"): file for file, name in names.items()}
    graph = {name: imported_at_once(file) & set(modules) - {name} for name, file in modules.items()}
    order = list(TopologicalSorter(graph).static_order())  # raises `CycleError`, naming the circle
    assert set(order) == set(modules)


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    lines = {str(file): len(file.read_text(encoding="utf-8").splitlines()) for file in SOURCES}
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_controllers_know_decisions_and_no_networks() -> None:
    allowed = ("enas.controllers", "enas.architecture", "enas.constraints", "enas.errors", "enas.health")
    modules = {(file.name, m) for file in SOURCES if file.parent.name == "controllers" for m in imports(file)}
    assert [
        pair for pair in sorted(modules) if pair[1].startswith("enas") and not pair[1].startswith(allowed)
    ] == []


def test_data_know_no_networks() -> None:
    allowed = ("enas.data", "enas.errors", "enas.constraints", "enas.runtime")
    modules = {(file.name, m) for file in SOURCES if file.parent.name == "data" for m in imports(file)}
    assert [
        pair for pair in sorted(modules) if pair[1].startswith("enas.") and not pair[1].startswith(allowed)
    ] == []


def test_constraints_pin_every_dependency_to_one_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))
    extras = PROJECT["optional-dependencies"].values()
    needed = set.union(*(requirements(group) for group in (PROJECT["dependencies"], *extras))) - {"enas"}
    assert needed <= pins.keys()
    assert all(re.fullmatch(r"[\d.]+(post\d+)?", version) for version in pins.values())
