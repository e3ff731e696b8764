"""Things of other packages, found by entry points: imported when they are asked for, and one line if that cannot be done."""

import subprocess
import sys
from pathlib import Path

import pytest

from enas.architecture import Space
from enas.errors import ConfigError
from enas.registry import Registry
from enas.spaces.macro.space import MacroSpace

GROUP = "enas.spaces"


def install(folder: Path, package: str, group: str, entries: dict[str, str], **modules: str) -> None:
    """A package as pip would leave it, in a folder of its own that is put on the path."""
    folder.mkdir(exist_ok=True)
    information = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = "".join(f"{name} = {place}\n" for name, place in entries.items())
    (information / "entry_points.txt").write_text(f"[{group}]\n{lines}")
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)


@pytest.fixture
def spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[type[Space]]:
    monkeypatch.syspath_prepend(tmp_path)
    built_in = {"macro": "enas.spaces.macro.space:MacroSpace"}
    return Registry("space", GROUP, built_in, Space, "name")


def derived(name: str) -> str:
    return f"from enas.spaces.macro.space import MacroSpace\nclass Own(MacroSpace):\n    name = {name!r}\n"


def test_what_other_packages_have_is_found(spaces: Registry[type[Space]], tmp_path: Path) -> None:
    entries = {"own": "outside_a:Own", "macro": "nowhere:Macro"}
    install(tmp_path, "outside-a", GROUP, entries, outside_a=derived("own"))
    assert spaces.names == ["macro", "own"]
    assert "outside_a" not in sys.modules
    found = spaces.find("own")
    assert found is not None
    assert (found.__module__, found.name) == ("outside_a", "own")
    assert spaces.find("macro") is MacroSpace
    assert spaces.find("nothing") is None


@pytest.mark.parametrize(
    ("place", "text", "says"),
    [
        (
            "outside_b:Own",
            "x = 1 / 0\n",
            "cannot be imported: outside_b:Own: ZeroDivisionError: division by zero",
        ),
        ("outside_b:Own", "", "cannot be imported: outside_b:Own: AttributeError: module 'outside_b' has no"),
        ("outside_b", "x = 1\n", "outside_b is no class that derives from Space, but <module 'outside_b'"),
        ("outside_b:Own", "Own = 3\n", "outside_b:Own is no class that derives from Space, but 3"),
        (
            "outside_b:Own",
            derived("other"),
            "outside_b:Own has the name 'other'; both names must be the same",
        ),
        ("gone_b:Own", "", "ModuleNotFoundError: No module named 'gone_b'"),
        ("no place at all", "", "cannot be imported"),
    ],
)
def test_what_is_broken_is_one_line_and_only_for_who_asks(
    place: str,
    text: str,
    says: str,
    spaces: Registry[type[Space]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "outside_b", raising=False)
    install(tmp_path, "outside-b", GROUP, {"own": place}, outside_b=text)
    assert spaces.names == ["macro", "own"]
    assert spaces.find("macro") is MacroSpace
    with pytest.raises(ConfigError) as caught:
        spaces.find("own")
    line = str(caught.value)
    assert line.startswith("the space 'own' of the package outside-b 1.0")
    assert says in line
    assert "\n" not in line


def test_one_name_of_two_packages_is_refused(spaces: Registry[type[Space]], tmp_path: Path) -> None:
    for package in ("outside-c", "outside-d"):
        install(tmp_path, package, GROUP, {"own": "outside_c:Own"}, outside_c=derived("own"))
    with pytest.raises(
        ConfigError, match=r"of the package outside-[cd] 1\.0 is also one of the package outside-[cd] 1\.0"
    ):
        spaces.find("own")


def test_recipes_are_listed_without_an_import(tmp_path: Path) -> None:
    """Those that cannot even be read as well."""
    entries = {"own-quick": "own_pkg.inner:quick", "broken": "nowhere.at_all:x"}
    install(tmp_path, "outside-e", "enas.recipes", entries)
    (tmp_path / "own_pkg").mkdir()
    (tmp_path / "own_pkg" / "__init__.py").write_text("raise AssertionError\n")
    (tmp_path / "own_pkg" / "inner.py").write_text(
        "def quick():\n    '''Quick and own.'''\nraise AssertionError\n"
    )
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from enas.cli import main
assert main(["recipes"]) == 0
print([name for name in ("torch", "numba", "scipy", "own_pkg") if name in sys.modules])
code = main(["run", "broken"])
code += main(["run", "own-quick"])
print("code", code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "own-quick\n  Quick and own.\n  Package:  outside-e 1.0" in done.stdout, done.stderr
    assert "broken\n  Package:  outside-e 1.0" in done.stdout
    assert done.stdout.splitlines()[-2:] == ["[]", "code 4"]
    broken, own = done.stderr.splitlines()
    assert broken.startswith(
        "enas: the recipe 'broken' of the package outside-e 1.0 cannot be imported: nowhere.at_all:x"
    )
    assert own.startswith("enas: the recipe 'own-quick' of the package outside-e 1.0 cannot be imported")
    assert "AssertionError" in own
