"""What a hostile input may do: end in one line, in 10 s, in 500 MB, and touch nothing that is not its own.

Here are those limits, and how values, bytes and files are made odd. The tests are in test_fuzz.py. Two environment
variables set how much they do:

    ENAS_FUZZ_EXAMPLES   examples of each kind, new ones every time; unset: a few, always the same
    ENAS_FUZZ_FINDINGS   a folder: write the smallest input of each different failure there, and go on
"""

import contextlib
import copy
import hashlib
import io
import json
import math
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from enas.cli import main
from enas.errors import EnasError
from enas.runtime.stop import EXIT_STOPPED

POLITE, SECONDS, PATIENCE = 2.0, 10.0, 90.0
"""Seconds of the processor's time after which a command is asked to stop, and after which it hangs; the last are by the
clock, since other work may keep the processor busy."""
MEGABYTES, ADDRESSES = 500, 2048
"""What a call may need beyond what the process has, and where the system refuses it more, so that the machine lives."""
LONGEST = 3000
"""Characters of a complaint: it may cite its input, not repeat it."""

EXAMPLES = int(os.environ.get("ENAS_FUZZ_EXAMPLES", "0"))
FINDINGS = os.environ.get("ENAS_FUZZ_FINDINGS")


def examples(usual: int) -> settings:
    """The settings of a test: so many examples, always the same, unless the environment asks for others."""
    return settings(
        max_examples=EXAMPLES or usual,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )


# ---- limits ------------------------------------------------------------------------------------------------------------


class Hang(BaseException):
    """Too long; no `except Exception` of what is tried may hold it back."""


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Fail if the block hangs or takes too much memory. What trains in it is asked to stop after a while."""
    before, limit = _megabytes("VmRSS"), resource.getrlimit(resource.RLIMIT_AS)
    worked, began = time.process_time(), time.monotonic()

    def tick(number: int, frame: Any) -> None:
        work, waited = time.process_time() - worked, time.monotonic() - began
        if work > SECONDS or waited > PATIENCE:
            raise Hang(f"not done after {SECONDS:.0f} s of work, nor after it was asked to stop")
        if work > POLITE or waited > PATIENCE / 3:
            os.kill(os.getpid(), signal.SIGTERM)

    handlers = {
        number: signal.signal(number, handler)
        for number, handler in ((signal.SIGALRM, tick), (signal.SIGTERM, lambda number, frame: None))
    }
    _forget_peak()
    addresses = int(_megabytes("VmSize") + ADDRESSES) * 2**20
    try:
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_AS, (addresses, limit[1]))
        signal.setitimer(
            signal.ITIMER_REAL, POLITE, POLITE / 4
        )  # not that of work, which waiting has none of
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limit)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    taken = _megabytes("VmHWM") - before
    assert taken < MEGABYTES, f"{taken:.0f} MB of memory were taken"


def _megabytes(key: str) -> float:
    """Memory of this process: "VmRSS" now, "VmHWM" at its peak, "VmSize" addresses. The peak where nothing is said."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _forget_peak() -> None:
    """Let the peak of memory count from now on, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class Touched(NamedTuple):
    """A path that was opened, made, renamed or deleted."""

    path: str
    written: bool


_touched: list[Touched] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _touched is None or not event.startswith(("open", "os.")):
        return
    if event == "open" and isinstance(arguments[0], str | bytes):
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        _touched.append(Touched(os.fsdecode(arguments[0]), bool(flags & (os.O_WRONLY | os.O_RDWR))))
    elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"):
        for path in arguments[:2]:
            if isinstance(path, str | bytes):
                _touched.append(Touched(os.fsdecode(path), True))


sys.addaudithook(_watch)


@contextlib.contextmanager
def touched() -> Iterator[list[Touched]]:
    """What the block touches, as it goes."""
    global _touched
    _touched = []
    try:
        yield _touched
    finally:
        _touched = None


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str


def enas(*argv: str, stopped: bool = False) -> Ended:
    """Run a command here, within the limits. It may end with 0, or with 2 and one line; `stopped` lets it end with 75."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", "strict", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)
    with (
        limits(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main(list(argv))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    said = [stream.buffer.getvalue().decode("utf-8") for stream in (out, err)]
    assert code in ((0, 2, EXIT_STOPPED) if stopped else (0, 2)), f"exit code {code}"
    assert "Traceback" not in said[1], said[1]
    if code == 2:
        complaint = said[1].rpartition("enas: ")[2].strip()
        assert complaint
        assert len(complaint) <= LONGEST, f"a complaint of {len(complaint)} characters: {complaint[:200]}"
    return Ended(code, *said)


def refused(call: Callable[[], Any]) -> Any:
    """What the call returns, within the limits; None if it raises an `EnasError` of bearable length, or exits by 0 or 2."""
    complaint, code = "-", 0
    with limits(), contextlib.redirect_stdout(io.StringIO()):
        try:
            return call()
        except EnasError as error:
            complaint = str(error)
        except SystemExit as ended:
            code = ended.code or 0
    assert 0 < len(complaint) <= LONGEST, f"a complaint of {len(complaint)} characters: {complaint[:200]}"
    assert code in (0, 2), f"exit code {code}"
    return None


@contextlib.contextmanager
def trying(shown: Any) -> Iterator[None]:
    """Says what was tried, if the block fails; with ENAS_FUZZ_FINDINGS, writes it down and goes on."""
    try:
        yield
    except (Exception, Hang) as error:
        text = repr(shown)
        if FINDINGS is None:
            error.add_note(f"tried: {text if len(text) < 4000 else f'{text[:4000]} …'}")
            raise
        _write_down(error, text)


def _write_down(error: BaseException, text: str) -> None:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/tests/" not in frame.filename]
    place = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
    ours = [frame for frame in frames if "/enas/" in frame.filename][-1:]
    kind = f"{type(error).__name__} {[(Path(f.filename).name, f.lineno) for f in ours]}"
    if not ours or isinstance(error, AssertionError):
        kind += re.sub(r"[\d.]+", "#", str(error))[:50]
    if isinstance(error, Hang):
        kind = f"Hang {[(Path(f.filename).name, f.name) for f in ours]}"
    path = Path(str(FINDINGS)) / f"{hashlib.sha256(kind.encode()).hexdigest()[:12]}.json"
    known = json.loads(path.read_text()) if path.exists() else None
    count = 1 if known is None else known["count"] + 1
    if known is None or len(text) < known["length"]:
        said = f"{type(error).__name__}: {str(error)[:1000]}"
        known = {"kind": kind, "length": len(text), "error": said, "place": place, "tried": text[:5000]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**known, "count": count}, indent=1))


# ---- odd values --------------------------------------------------------------------------------------------------------

ODD_WORDS = st.one_of(
    st.sampled_from(
        (
            *(
                "",
                " ",
                "0",
                "-0",
                "-1",
                "1",
                "2",
                "0.5",
                "-0.5",
                "1.5",
                "nan",
                "-nan",
                "inf",
                "-inf",
                "Infinity",
                "1e999",
            ),
            *(
                "1e-999",
                "1e308",
                "1e38",
                "-1e38",
                "1_000",
                "0x10",
                "٣",
                "²",
                "½",
                "True",
                "true",
                "None",
                "none",
                "[]",
            ),
            *(
                "99999999999999999999",
                "-99999999999999999999",
                "9" * 5000,
                "2147483648",
                "4294967296",
                "1" * 400,
            ),
            *(
                "é",
                "日本",
                "\ud800",
                "\udcff",
                "\x00",
                "a\x00b",
                "\n",
                "a\nb",
                "\x1b[31m",
                "\u202e",
                "a" * 10_000,
            ),
            *(
                "~",
                "~nosuchuser",
                "../../x",
                "/",
                ".",
                "..",
                "/dev/null",
                "/proc/self/mem",
                "-",
                "--",
                "--help",
                "-h",
            ),
            *(
                "*",
                "{}",
                "{",
                "%s",
                "%d",
                "\\",
                "'",
                '"',
                "`",
                "$HOME",
                "a=b",
                "=",
                ",",
                ",,",
                "a,b",
                "(",
                "((",
                "1,2",
            ),
        )
    ),
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(str),
)
"""Words that people type by mistake, and that enemies do by intent."""

ODD_NUMBERS = ("nan", "inf", "-inf", "-1", "0", "-0.0", "0.5", "1", "2", "3", "1e-300", "1e38", "1e300")
"""Values of settings that cost nothing, however little they may mean."""

ODD_VALUES = st.one_of(
    st.sampled_from(
        (
            *(
                None,
                True,
                False,
                0,
                -1,
                1,
                2,
                7,
                0.9,
                1.5,
                -0.0,
                1e308,
                math.nan,
                math.inf,
                -math.inf,
                2**31,
                2**63,
                10**400,
            ),
            *(
                "",
                "0",
                "x",
                "é",
                "\ud800",
                "a" * 10_000,
                "../../x",
                "../../text",
                "/etc/passwd",
                "..",
                ".",
                "a/b",
                "\x00",
            ),
            *([], {}, [[]], [1], [None], {"": None}, {"a": {}}, "found", "lstm", [0] * 1000, "nan"),
        )
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=5,
    ),
)
"""Values of JSON where others are expected."""

ODD_JSON = st.sampled_from(
    (
        *(
            "",
            " ",
            "null",
            "[]",
            "{}",
            "[1]",
            "1",
            "-1",
            '"x"',
            "nan",
            "NaN",
            "Infinity",
            "1e999",
            "9" * 5000,
            "tru",
            "{",
            "]",
        ),
        *(
            "[" * 100_000,
            "[" * 3000 + "]" * 3000,
            '{"a":' * 3000 + "1" + "}" * 3000,
            '"\\ud800"',
            "\ufeff{}",
            "{},",
            "{}{}",
        ),
        *('{"a": 1, "a": 2}', "1" * 400, "1.5", "true", '{"a":' * 50_000),
    )
)
"""Texts that are no record, or no JSON."""


def places(value: Any) -> list[tuple[Any, ...]]:
    """Where every part of a JSON value is, the whole first."""
    if isinstance(value, dict):
        return [(), *((key, *rest) for key in value for rest in places(value[key]))]
    if isinstance(value, list):
        return [(), *((index, *rest) for index in range(len(value)) for rest in places(value[index]))]
    return [()]


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with a few parts replaced, taken out, doubled, renamed, nested or put elsewhere."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(places(value)))
        how = draw(
            st.sampled_from(("replace", "replace", "delete", "double", "rename", "nest", "swap", "add"))
        )
        if not place:
            if how == "replace":
                value = draw(ODD_VALUES)
            elif how == "nest":
                value = [value]
            continue
        parent = value
        for key in place[:-1]:
            parent = parent[key]
        last = place[-1]
        if how == "replace":
            parent[last] = draw(ODD_VALUES)
        elif how == "delete":
            del parent[last]
        elif how == "double" and isinstance(parent, list):
            parent.extend([parent[last]] * draw(st.sampled_from((1, 2, 1000))))
        elif how in ("rename", "double") and isinstance(parent, dict):
            parent[draw(st.sampled_from(("", "x", *parent)))] = (
                parent[last] if how == "double" else parent.pop(last)
            )
        elif how == "nest":
            parent[last] = [parent[last]]
        elif how == "add" and isinstance(parent, dict):
            parent[draw(st.text(max_size=4))] = draw(ODD_VALUES)
        else:
            other = value
            for key in draw(st.sampled_from(places(value))):
                other = other[key]
            parent[last] = copy.deepcopy(other)
    return value


@st.composite
def json_bytes(draw: st.DrawFn, value: Any) -> bytes:
    """A file with an odd form of this value: mutated, or with one of its numbers or texts replaced by something else."""
    if draw(st.integers(0, 3)):
        text = json.dumps(draw(mutated(value)))
    else:
        text = json.dumps(value)
        spans = [match.span() for match in re.finditer(r'"[^"]*"|-?[\d.]+', text)]
        start, end = draw(st.sampled_from(spans)) if spans else (0, len(text))
        text = text[:start] + draw(ODD_JSON) + text[end:]
    return text.encode("utf-8", "surrogatepass")


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes as broken disks, full disks and enemies leave them."""
    how = draw(st.sampled_from(("cut", "cut", "flip", "flip", "insert", "drop", "repeat", "fill", "empty")))
    if how == "empty" or not data:
        return b""
    start = draw(st.integers(0, len(data) - 1))
    end = min(len(data), start + draw(st.sampled_from((1, 2, 8, 100, 5000))))
    if how == "cut":
        return data[:start]
    if how == "insert":
        return data[:start] + draw(st.binary(min_size=1, max_size=20)) + data[start:]
    if how == "drop":
        return data[:start] + data[end:]
    if how == "repeat":
        return data[:end] + data[start:end] * draw(st.sampled_from((1, 3, 100))) + data[end:]
    if how == "fill":
        return data[:start] + bytes([draw(st.sampled_from((0, 32, 127, 255)))]) * (end - start) + data[end:]
    changed = bytearray(data)
    for _ in range(draw(st.sampled_from((1, 1, 3)))):
        changed[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)
