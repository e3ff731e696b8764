"""Standard streams: a reader may go away, and no training notices; what is printed is whole, or said not to be."""

import ast
import contextlib
import errno
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import enas
from enas.cli import main
from enas.report.text import in_digits
from enas.runtime.progress import progress, say
from enas.runtime.stop import Stopped
from enas.runtime.streams import standard_streams
from tests import tiny

CELL = "0 2 0 3 0 3 2 2 3 3 1 0 5 2 3 3"


class Failing(io.StringIO):
    """A stream that fails whenever something is written or flushed; a terminal, or none."""

    def __init__(self, error: Exception, terminal: bool = False) -> None:
        super().__init__()
        self.error = error
        self.terminal = terminal
        self.tried = 0

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        self.tried += 1
        raise self.error

    def flush(self) -> None:
        raise self.error


FAILURES = [
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    ValueError("I/O operation on closed file"),
    UnicodeEncodeError("ascii", "━", 0, 1, "ordinal not in range(128)"),
]


@contextlib.contextmanager
def broken_pipe() -> Iterator[io.TextIOWrapper]:
    """The writing end of a pipe whose reader has gone; closing it fails if something is left to be written."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as stream:
        yield stream


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def program(*argv: str, redirect: str = "") -> "subprocess.CompletedProcess[str]":
    """A command in a shell of its own, with its streams redirected."""
    source = str(Path(enas.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "PYTHONIOENCODING": "utf-8"}
    command = ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, *argv]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)


# ---- messages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_progress_and_messages_go_on_where_nobody_can_see_them(
    monkeypatch: pytest.MonkeyPatch, error: Exception, terminal: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Failing(error, terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("search", 5, "steps", interval=0) as bar:
        for _ in range(5):
            bar.advance(loss=1.0)
            say("a line")
    assert bar.done == 5
    assert stream.tried > 0


def test_messages_without_a_standard_error_are_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with progress("search", 1, "steps") as bar:
        bar.advance()
        say("a line")
    assert str(bar) == "1/1 steps"


def test_a_run_whose_output_nobody_reads_is_the_run(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tiny.write_text(Path("text"))
    flags = tiny.flags(text, "--search.epochs", "1", "--search.warmup", "0")
    assert main(["search", "recurrent-quick", *flags, "--run", "seen"]) == 0
    with broken_pipe() as out, broken_pipe() as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as ended:
            main(["search", "recurrent-quick", *flags, "--run", "unseen"])
    assert ended.value.code == 0
    assert Path("unseen/search.json").exists()
    assert tiny.content(Path("unseen")) == tiny.content(Path("seen"))


def test_a_refusal_that_nobody_reads_has_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    with broken_pipe() as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert main(["runn"]) == 2


# ---- output ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv", [["show", CELL], ["--help"], ["show", CELL, "--json"], ["run", "macro-quick", "--help"]]
)
def test_a_reader_that_has_enough_ends_a_command_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    with broken_pipe() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as ended:
            main(argv)
    assert ended.value.code == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("argv", [["show", CELL], ["run", "macro-quick", "--help"]])
def test_output_that_cannot_be_written_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("enas: cannot write to standard output: No space left on device")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize(
    "argv", [["recipes"], ["--help"], ["run", "macro-quick", "--help"], ["show", CELL], ["show", "--help"]]
)
def test_what_an_encoding_lacks_is_replaced(
    monkeypatch: pytest.MonkeyPatch, encoding: str, argv: list[str]
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    with contextlib.suppress(SystemExit):  # of --help
        assert main(argv) == 0
    sys.stdout.flush()
    text = written.getvalue().decode(encoding)
    assert len(text) > 100
    if argv == ["show", CELL]:  # a drawing has other signs for it
        assert ("┤" in text, "?" in text) == (encoding == "utf-8", False)
    if argv == ["recipes"]:
        assert ("Σ" in text, "?" in text) == (encoding == "utf-8", encoding != "utf-8")


@pytest.mark.parametrize("redirect", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error_and_no_file_takes_their_place(in_tmp: Path, redirect: str) -> None:
    ended = program("-m", "enas", "show", "tanh", "--svg", "cell.svg", redirect=redirect)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    picture = Path("cell.svg").read_text(encoding="utf-8")
    assert picture.startswith("<?xml")
    assert picture.rstrip().endswith("</svg>")


def test_without_a_standard_error_a_refusal_has_its_exit_code() -> None:
    assert program("-m", "enas", "nonsense", redirect="2>&-").returncode == 2


def test_python_itself_has_nothing_to_complain_of_at_the_end(in_tmp: Path) -> None:
    """A reader that is gone before the first word, on both streams: the exit code is the command's, and not Python's 120."""
    for argv, code in ((["show", "tanh"], 0), (["nonsense"], 2)):
        with broken_pipe() as stream:
            command = [sys.executable, "-m", "enas", *argv]
            source = str(Path(enas.__file__).parents[1])
            environment = {**os.environ, "PYTHONPATH": source}
            ended = subprocess.run(command, stdout=stream, stderr=stream, env=environment, check=False)
        assert ended.returncode == code


def test_closed_descriptors_lead_nowhere_in_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with standard_streams():
        print("into nothing")
        assert not sys.stdout.isatty()


def test_a_drawing_goes_to_standard_output_before_the_text(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "tanh", "--svg", "/dev/stdout"]) == 0
    said = capfd.readouterr().out
    assert said.startswith("<?xml")
    assert said.index("</svg>") < said.index("one of 4 in its space")


def test_a_drawing_into_a_pipe_without_a_reader_ends_quietly(
    in_tmp: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with broken_pipe() as stream:
        with pytest.raises(SystemExit) as ended:
            main(["show", "tanh", "--svg", f"/dev/fd/{stream.fileno()}"])
        assert ended.value.code == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_count_that_nobody_reads_is_said_by_its_size() -> None:
    assert in_digits(6**12 * 2**66) == f"{6**12 * 2**66:,}"
    assert in_digits(10**5000) == "about 10^5000"


# ---- interrupts --------------------------------------------------------------------------------------------------------

INTERRUPTED_BY_IMPORTS = """
import signal, sys
class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Impatient())
from enas.cli import main
sys.exit(main(["derive", "x"]))
"""

IMPORTED = """
import contextlib
import sys
from enas.cli import main
for words in (["--help"], ["--version"], ["recipes"], ["recipes", "--json"], ["doctor", "--help"], ["show", "--help"],
              ["show", "tanh relu(1)"], ["show", "x"], ["runn"]):
    with contextlib.suppress(SystemExit):
        main(words)
print({"torch", "scipy", "numba", "sklearn"} & set(sys.modules))
"""


def test_ctrl_c_while_a_command_imports_is_one_line() -> None:
    ended = program("-c", INTERRUPTED_BY_IMPORTS)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "enas: interrupted\n")


def test_help_recipes_and_drawings_import_nothing_that_computes() -> None:
    assert program("-c", IMPORTED).stdout.splitlines()[-1] == "set()"


WORKER_IMPORTED = """
import sys
import enas.executors.local
print("torch" in sys.modules, {"scipy.stats", "scipy.optimize", "scipy.special", "sklearn"} & set(sys.modules))
"""


def test_a_worker_of_trainings_imports_no_statistics() -> None:
    assert program("-c", WORKER_IMPORTED).stdout == "True set()\n"


@pytest.mark.parametrize("saved", [False, True])
def test_a_checkpoint_is_only_mentioned_where_there_is_one(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], saved: bool
) -> None:
    from enas.runtime.lock import run_lock

    Path("run/checkpoints").mkdir(parents=True)

    def work() -> int:
        with run_lock("run"), run_lock("run/checkpoints"):
            if saved:
                Path("run/checkpoints/step-00000012.pt").touch()
            raise KeyboardInterrupt

    monkeypatch.setattr("enas.cli.parse", lambda argv: work)
    assert main(["work"]) == 130
    assert capsys.readouterr().err == (
        "enas: interrupted; the last checkpoint is kept\n" if saved else "enas: interrupted\n"
    )


def test_a_stop_is_said_as_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise Stopped("runs/a", "SIGHUP")

    monkeypatch.setattr("enas.cli.parse", lambda argv: work)
    assert main(["work"]) == 75
    assert capsys.readouterr().err == "Stopped by SIGHUP after saving. Continue with: enas resume runs/a\n"


# ---- encodings of files ------------------------------------------------------------------------------------------------


def opened_as_text(call: ast.Call) -> bool:
    """Whether a call opens a file, or reads one or a program's output, as text."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if name in ("read_text", "write_text"):
        return owner is not None
    if name in ("run", "Popen", "check_output") and isinstance(owner, ast.Name) and owner.id == "subprocess":
        return any(keyword.arg in ("text", "encoding") for keyword in call.keywords)
    called = getattr(owner, "id", "") or getattr(owner, "attr", "")
    if name in ("open", "fdopen") and called not in ("os", "Image", "tarfile", "archive", "Run"):
        modes = [ast.literal_eval(word) for word in call.args if isinstance(word, ast.Constant)]
        return not any(isinstance(mode, str) and "b" in mode for mode in modes)
    return False


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("open(path)", True),
        ("open(path, 'a')", True),
        ("open(path, 'rb')", False),
        ("path.open('w')", True),
        ("path.open('ab')", False),
        ("path.read_text()", True),
        ("read_text(string)", False),
        ("subprocess.run(c, text=True)", True),
        ("subprocess.run(c)", False),
        ("Image.open(path)", False),
    ],
)
def test_calls_that_open_text_are_recognised(code: str, text: bool) -> None:
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call)
    assert opened_as_text(call) == text


def test_every_text_file_is_opened_with_a_named_encoding() -> None:
    """Windows has another one by default."""
    calls = [
        (path, node)
        for path in Path(enas.__file__).parent.rglob("*.py")
        if re.search(r"open\(|_text\(|subprocess", source := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and opened_as_text(node)
    ]
    assert len(calls) > 5
    for path, call in calls:
        named = any(keyword.arg == "encoding" for keyword in call.keywords)
        positional = [word.value for word in call.args if isinstance(word, ast.Constant)]
        assert named or "utf-8" in positional, f"{path}, line {call.lineno}"
