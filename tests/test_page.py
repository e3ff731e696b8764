"""The page of a run: what it says is so, what it lacks is left out, and nothing that it shows is ever markup."""

import json
import random
import shutil
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from enas.cli import main
from enas.config import Metric
from enas.errors import RunFolderError
from enas.evidence.compare import CompareConfig, compare_run
from enas.evidence.comparison import Record, compare
from enas.evidence.rank import RankConfig, rank
from enas.evidence.variants import with_settings
from enas.executors.local import LocalExecutor
from enas.recipes import recipe
from enas.report import page as pages
from enas.report.charts import LEVELS, shares_over_time
from enas.report.marks import Boxes
from enas.report.page import page, sections, watch, write_page
from enas.report.page_numbers import Numbers, Trained, numbers_of
from enas.report.page_policy import asked, proposed
from enas.report.page_sections import PARTS
from enas.report.page_verdict import of_comparison, of_one
from enas.runtime.files import read_json, read_jsonl, write_json
from enas.scores import front
from enas.stages import ALL_STAGES, Run, execute
from tests import conditional_space, own_network, tiny
from tests.conditional_space import SPACE
from tests.test_trainings import InThisProcess

HOSTILE = """</script><script>alert(1)</script><!-- "a" 'b' & {{ 7 * 7 }} <img src=x onerror=alert(2)>"""
VOID = {"meta", "link", "img", "br"}
LONG_WINDOWS = [
    word for of in ("shared", "retrain.child") for word in (f"--{of}.training.windows.bptt", "10")
]
"""Half as many steps of search and of trainings: a page says how they went, not how long they were."""


class Markup(HTMLParser):
    """Elements of a page, their attributes and texts; `wrong` are those that do not close as they open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.wrong: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for kind, attributes in self.elements if kind == tag]

    @property
    def parts(self) -> list[str | None]:
        return [attributes.get("id") for attributes in self.of("section")]

    @property
    def numbers(self) -> Any:
        return json.loads("".join(self.texts["script"]))


@pytest.fixture(scope="module", autouse=True)
def _in_this_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalExecutor, "for_run", lambda config, workers=None: InThisProcess())
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_text(tmp_path_factory.mktemp("data") / "text")


@pytest.fixture(scope="module")
def done(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a recurrent cell that has everything; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "done"
    run = Run.create(folder, tiny.config(text, *LONG_WINDOWS, "--retrain.random", "2"), ALL_STAGES)
    execute(run, ALL_STAGES)
    compare_run(run, CompareConfig(seeds=2, samples=2, epochs=1, rivals="evolution"))
    rank(run, RankConfig(architectures=5, repeats=5, epochs=1))
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of cells for images, without a comparison; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "images"
    run = Run.create(folder, tiny.image_config("micro", "--retrain.random", "3"), ALL_STAGES)
    execute(run, ALL_STAGES)
    return folder


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a network of one's own, digits by choices; not to be changed."""
    config = with_settings(recipe(own_network.__file__), {**own_network.SMALL, "retrain.random": 3})
    run = Run.create(tmp_path_factory.mktemp("runs") / "own", config, ALL_STAGES)
    execute(run, ALL_STAGES)
    compare_run(run, CompareConfig(seeds=2, samples=2, epochs=1, rivals="none"))
    return run.folder


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    """The first run, to be changed."""
    return Path(shutil.copytree(done, tmp_path / "copied"))


def of(*folders: Path) -> Markup:
    return Markup(page([numbers_of(Run.open(folder)) for folder in folders]))


# ---- what it has -------------------------------------------------------------------------------------------------------


def test_a_page_has_the_parts_of_a_run_in_order_and_fetches_nothing(done: Path) -> None:
    found = of(done)
    assert found.wrong == []
    assert found.open == []
    wanted = [key for key in PARTS if key != "costs"]  # all cells have the same parameters
    assert found.parts == wanted
    assert {attributes["type"] for attributes in found.of("script")} == {"application/json"}
    sources = [
        a[name] for _, a in found.elements for name in ("src", "href", "data", "action") if a.get(name)
    ]
    assert sources
    assert all(str(source).startswith("data:") for source in sources)
    policy = next(a["content"] for a in found.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    style = "".join(found.texts["style"])
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style


def test_the_numbers_are_in_the_page_as_json(done: Path) -> None:
    run, found = Run.open(done), of(done).numbers[0]
    comparison = read_json(done / "compare" / "comparison.json")
    assert found["others"]["contests"] == comparison["contests"]
    assert found["verdict"]["claims"] == {one["rival"]: one["claim"] for one in comparison["contests"]}
    assert found["architecture"] == run.architecture().to_json()
    ranked = read_json(done / "rank.json")
    assert found["agreement"]["rank"]["scores"] == [
        [one["shared"], one["trained"], one["trained_again"]] for one in ranked["scores"]
    ]
    assert found["agreement"]["rank"]["agreement"] == ranked["agreement"]
    logged = [line for line in read_jsonl(done / "metrics.jsonl") if line["stage"] == "search/controller"]
    assert found["policy"]["entropy_share"] == [[line["step"], line["entropy_share"]] for line in logged]
    effects = read_json(done / "effects.json")
    assert found["options"]["decisions"] == effects["decisions"]
    assert found["origin"]["data_hash"] == read_json(done / "environment.json")["data_hash"]
    assert found["settings"]["recipe"] == "recurrent-quick"
    assert found["settings"]["changed"]["space.nodes"] == [6, 3]


def test_seconds_add_up_to_what_the_stages_have_noted(done: Path) -> None:
    run = Run.open(done)
    found = of(done).numbers[0]["budget"]["seconds"]
    search = sum(found[part] for part in ("setting up", "shared weights", "controller"))
    logged = max(line["time"] for line in read_jsonl(done / "metrics.jsonl"))
    assert search == pytest.approx(logged, abs=0.01)
    assert found["retraining"] == pytest.approx(sum(one["seconds"] for one in run.results()), abs=0.01)


def test_what_a_run_does_not_have_is_left_out(text: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    Run.create(begun, tiny.config(text, *LONG_WINDOWS), ALL_STAGES)
    assert of(begun).parts == ["verdict", "settings", "origin", "next"]
    execute(Run.open(begun), ("search",))
    found = of(begun)
    assert found.parts == ["verdict", "policy", "training", "budget", "settings", "origin", "next"]
    assert "No network of this run is tested yet, so that there is no verdict." in found.texts["p"]


def test_cells_for_images_have_a_front_of_costs(images: Path) -> None:
    found = of(images)
    assert "costs" in found.parts
    drawn = found.numbers[0]["costs"]
    trained = read_json(images / "comparison.json")
    assert sorted(drawn["networks"]) == sorted(
        [one["multiply_adds"], one["test"]["test_accuracy"]] for one in trained
    )


def test_the_page_of_a_network_of_ones_own_has_its_choices(own: Path) -> None:
    found, run = of(own), Run.open(own)
    assert (found.wrong, found.open) == ([], [])
    numbers = found.numbers[0]
    assert numbers["architecture"] == run.architecture().to_json()
    assert str(run.architecture()) in "".join(found.texts["pre"])
    shares = numbers["policy"]["shares"]
    assert set(shares) <= {decision.name for decision in run.config.searched_space().decisions}
    assert set(shares["mix"]) == {"relu", "tanh", "idle"}
    comparison = read_json(own / "compare" / "comparison.json")
    assert numbers["others"]["contests"] == comparison["contests"]


def test_a_verification_and_a_collapse_that_a_search_has_logged_are_said(copied: Path) -> None:
    lines = read_jsonl(copied / "metrics.jsonl")
    numbers = {"trained": 8.0, "shared_kendall": 0.1, "shared_kendall_low": -0.2, "shared_kendall_high": 0.4}
    lines.append({"stage": "search/verification", "step": 20, "time": 1.0, "epoch": 1, **numbers})
    lines.append({"stage": "search/health", "step": 20, "time": 1.0, "epoch": 1, "collapsed": 1.0})
    write_lines(copied / "metrics.jsonl", lines)
    found = of(copied)
    assert found.numbers[0]["agreement"]["verification"] == [[8.0, "shared", 0.1, -0.2, 0.4]]
    assert "after 8 trainings" in "".join(found.texts["text"])
    assert found.numbers[0]["policy"]["collapsed_in_epochs"] == [1]
    assert any(words.startswith("Warning: from epoch 2 on") for words in found.texts["p"])


def test_several_runs_stand_side_by_side(done: Path, images: Path) -> None:
    found = of(done, images)
    assert found.wrong == []
    assert found.parts[0] == "together"
    headings = found.texts["h3"]
    assert headings.count("done") == len(of(done).parts)
    assert headings.count("images") == len(of(images).parts)
    assert [one["run"] for one in found.numbers] == ["done", "images"]


def test_a_run_is_live_until_its_stages_are_done(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, slept = tmp_path / "run", []
    Run.create(folder, tiny.config(text, *LONG_WINDOWS), ALL_STAGES)
    refreshed = []

    def sleep(seconds: float) -> None:
        """In which the run goes on by a stage."""
        refreshed.append(
            [a for a in Markup(target.read_text()).of("meta") if a.get("http-equiv") == "refresh"]
        )
        execute(Run.open(folder), (ALL_STAGES[len(slept)],))
        slept.append(seconds)

    monkeypatch.setattr(pages, "time", SimpleNamespace(sleep=sleep))
    target = tmp_path / "page.html"
    watch([Run.open(folder)], target, pause=0.5)
    assert slept == [0.5] * 4
    assert all(refreshed)
    last = Markup(target.read_text())
    assert [a for a in last.of("meta") if a.get("http-equiv") == "refresh"] == []
    assert "architecture" in last.parts


# ---- the verdict -------------------------------------------------------------------------------------------------------


def of_methods(own: list[float], rival: list[float]) -> str:
    records = [
        *(Record("enas", seed, "x", score, 10, 5.0) for seed, score in enumerate(own)),
        *(Record("random-search", seed, "x", score, 1, 5.0) for seed, score in enumerate(rival)),
    ]
    return of_comparison(compare(records, "enas", Metric("accuracy", False))).words[0]


def test_the_verdict_is_the_claim_of_the_comparison() -> None:
    low, high = [50.0, 51.0, 52.0, 53.0, 54.0, 55.0], [60.0, 61.0, 62.0, 63.0, 64.0, 65.0]
    assert of_methods(high, low) == "enas: better than random-search in 6 of 6 pairs, P = 1.00 [0.54, 1.00]."
    assert of_methods(low, high) == "enas: worse than random-search in 6 of 6 pairs, P = 0.00 [0.00, 0.46]."
    assert of_methods(high[:5], low[:5]).startswith(
        "enas: no difference from random-search shown: P = 1.00 [0.48, 1.00]"
    )


def trained(role: str, number: int, score: float | None) -> Trained:
    result: dict[str, Any] = {"diverged": "x"} if score is None else {"test": {"test_ppl": score}}
    return Trained("retrain", role, f"{role}{number}", "x", result)


@pytest.mark.parametrize(
    ("own", "others", "said", "interval"),
    [
        (10.0, [11.0, 12.0, 13.0, None], "better than 4 of 4 random ones that", (1.0, 0.025 ** (1 / 4), 1.0)),
        (10.0, [9.0, 8.0], "better than 0 of 2 random ones that", (0.0, 0.0, 1 - 0.025 ** (1 / 2))),
        (10.0, [10.0, 10.0], "better than 0 of 2 random ones and equal to 2 that", (0.5, None, None)),
        (10.0, [11.0], "better than 1 of 1 random ones, which may be chance", None),
        (10.0, [], "No random one was trained alike", None),
    ],
)
def test_one_run_claims_no_more_than_its_random_networks_show(
    done: Path, own: float, others: list[float | None], said: str, interval: tuple[float, float, float] | None
) -> None:
    networks = [trained("found", 0, own), trained("lstm", 0, 1.0)]
    networks += [trained("random", number, score) for number, score in enumerate(others)]
    run = replace(numbers_of(Run.open(done)), comparison=None, trained=networks)
    found = of_one(run)
    assert said in " ".join(found.words)
    assert "Trained alike, the lstm (1) is better than the found network." in found.words
    assert found.numbers["others"] == {"lstm": 1.0}
    better = found.numbers.get("better")
    if interval is None:
        assert better is None
        return
    for name, value in zip(("value", "low", "high"), interval, strict=True):
        assert value is None or better[name] == pytest.approx(value)
    assert f"P = {better['value']:.2f} [{better['low']:.2f}, {better['high']:.2f}]" in found.words[0]


@pytest.mark.parametrize(
    ("score", "said"), [(9.0, "better than"), (10.0, "as good as"), (11.0, "worse than")]
)
def test_a_network_of_another_kind_is_compared_too(done: Path, score: float, said: str) -> None:
    networks = [trained("found", 0, 10.0), trained("lstm", 0, score), trained("random", 0, 12.0)]
    run = replace(numbers_of(Run.open(done)), comparison=None, trained=networks)
    assert f"Trained alike, the lstm ({score:g}) is {said} the found network." in of_one(run).words


# ---- its numbers -------------------------------------------------------------------------------------------------------


def test_shares_over_time_count_the_proposals() -> None:
    rng = np.random.default_rng(0)
    choices_NL = rng.integers(0, [2, 3], (64, 2))
    shares = proposed(choices_NL, [2, 3], np.ones((64, 2), dtype=bool))
    assert [len(options) for options in shares] == [2, 3]
    for place, options in enumerate(shares):
        assert np.sum(options, 0) == pytest.approx(np.ones(8), abs=0.002)
        for option, row in enumerate(options):
            first = sum(int(choices[place]) == option for choices in choices_NL[:8]) / 8
            assert row[0] == pytest.approx(first, abs=0.001)


def test_shares_are_of_the_proposals_that_were_asked() -> None:
    rng = random.Random(0)
    listed = [SPACE.sample(rng).choices for _ in range(64)]
    listed[:8] = [(1, 1, 1, *choices[3:]) for choices in [(1, 0, 0, 0, 0, 0, 1, 0, 0)] * 8]
    counts = [len(decision.options) for decision in SPACE.decisions]
    choices_NL = np.array(listed)
    shares = proposed(choices_NL, counts, asked(SPACE, choices_NL))
    for place, count in enumerate(counts):
        for span in range(8):
            of_span = listed[8 * span : 8 * span + 8]
            there = [choices[place] for choices in of_span if conditional_space.asked(choices)[place]]
            found = [shares[place][option][span] for option in range(count)]
            if not there:
                assert found == [None] * count
            else:
                expected = [there.count(option) / len(there) for option in range(count)]
                assert found == pytest.approx(expected, abs=0.001)
    assert [shares[3][option][0] for option in range(2)] == [None, None]
    assert [shares[2][option][0] for option in range(2)] == [0, 1]
    chart = shares_over_time("policy", "x", "y", [("input 0", [("yes", shares[3][1])])])
    boxes = [box for mark in chart.marks if isinstance(mark, Boxes) for box in mark.places]
    assert len(boxes) == sum(share is not None and round(share * LEVELS) > 0 for share in shares[3][1])


@pytest.mark.parametrize("lower", [True, False])
def test_a_front_has_the_points_that_no_other_dominates(lower: bool) -> None:
    rng = random.Random(1)
    better = Metric("x", lower).better
    for _ in range(50):
        points = list({(float(rng.randrange(8)), float(rng.randrange(8))) for _ in range(12)})
        expected = [
            (cost, score)
            for cost, score in sorted(points)
            if not any(
                (c, s) != (cost, score) and c <= cost and (s == score or better(s, score)) for c, s in points
            )
        ]
        assert front(points, better) == expected


# ---- nothing of it is markup -------------------------------------------------------------------------------------------


def test_what_files_say_is_never_markup(copied: Path) -> None:
    folder = copied.rename(copied.with_name("""<script>alert(3)<.script> "x" 'y' & {{ 1 }}\nz"""))
    environment = read_json(folder / "environment.json")
    write_json(folder / "environment.json", {**environment, "data": HOSTILE, HOSTILE: [HOSTILE]})
    lines = read_jsonl(folder / "compare" / "records.jsonl")
    told = "".join(json.dumps({**line, "architecture": HOSTILE}) + "\n" for line in lines)
    (folder / "compare" / "records.jsonl").write_text(told)
    ranked = read_json(folder / "rank.json")
    named = [{**one, "text": HOSTILE} for one in ranked["scores"]]
    write_json(folder / "rank.json", {**ranked, "scores": named, "warnings": [HOSTILE], "score": HOSTILE})
    usual = of(copied_back := Path(shutil.copytree(folder, folder.with_name("usual"))))
    found = of(folder)
    assert found.wrong == []
    assert len(found.of("script")) == len(usual.of("script")) == 1
    assert {tag for tag, _ in found.elements} == {tag for tag, _ in usual.elements}
    assert len(found.of("img")) == 1  # the drawing
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert HOSTILE in found.texts["td"]
    assert found.numbers[0]["origin"]["data"] == HOSTILE
    assert found.numbers[0]["run"] == folder.name
    assert copied_back.exists()


def test_pictures_are_files_named_by_what_they_show(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    assert main(["report", str(images), "--page", str(tmp_path / "p.html"), "--pictures", str(folder)]) == 0
    charts = [chart for _, section in sections(numbers_of(Run.open(images)), 240) for chart in section.charts]
    names = {chart.name for chart in charts} | {"architecture"}
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("svg", "png")
    }
    for path in folder.glob("*.svg"):
        ET.parse(path)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.glob("*.png"))


# ---- its size ----------------------------------------------------------------------------------------------------------


def test_a_page_of_ten_thousand_records_is_small(copied: Path) -> None:
    rng, name = random.Random(0), "a long name of an architecture " * 20
    (copied / "search.json").unlink()  # which says what archive.jsonl was
    line = read_jsonl(copied / "archive.jsonl")[0]
    write_lines(
        copied / "archive.jsonl", [{**line, "step": n, "reward": rng.random()} for n in range(10_000)]
    )
    numbers = {"reward": 0.0, "entropy_share": 0.0, "advantage": 0.0, "loss": 0.0}
    logged = [
        {"stage": stage, "step": n, "time": float(n), "epoch": n // 100, **{k: rng.random() for k in numbers}}
        for n in range(10_000)
        for stage in ("search/weights", "search/controller")
    ]
    write_lines(copied / "metrics.jsonl", logged)
    ranked = read_json(copied / "rank.json")
    pairs = [{"text": name, "shared": rng.random(), "trained": rng.random()} for _ in range(10_000)]
    write_json(copied / "rank.json", {**ranked, "scores": pairs})
    records = [
        Record(method, n, name, 50 + rng.random(), 9) for method in ("enas", "sampling") for n in range(500)
    ]
    write_lines(copied / "compare" / "records.jsonl", [asdict(record) for record in records])
    for count in (1, 3):
        text = page([numbers_of(Run.open(copied))] * count)
        assert len(text.encode()) < 1_000_000
    points = Markup(text).numbers[0]["policy"]["reward"]
    assert len(points) == 80
    assert (points[0][0], points[-1][0]) == (0, 9999)


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


# ---- commands ----------------------------------------------------------------------------------------------------------


def test_a_run_says_where_its_page_is(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert main(["run", "recurrent-quick", *tiny.flags(text, *LONG_WINDOWS), "--run", str(folder)]) == 0
    assert f"report: {folder / 'report.html'}\n" in capsys.readouterr().err
    said = "".join(Markup((folder / "report.html").read_text()).texts["p"])
    assert "By test ppl the found network" in said
    (folder / "effects.json").write_text("{}")
    assert main(["resume", str(folder)]) == 0  # no run fails for its page
    assert "no report.html: " in capsys.readouterr().err


def test_commands_say_what_is_wrong_in_one_line(
    done: Path, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: object) -> str:
        assert main(["report", *map(str, words)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    assert "has no config.json" in refused(tmp_path)
    assert "has no config.json" in refused(done, tmp_path / "nothing")
    assert "enas report RUN" in refused()
    assert "not the folder" in refused(done, "--page", tmp_path)
    (copied / "rank.json").write_text('{"score": 1}')
    assert "rank.json: score must be text" in refused(copied)
    (copied / "rank.json").unlink()
    records = [{"method": "enas", "seed": seed, "architecture": "", "score": 1.0} for seed in (0, 1)]
    (copied / "compare").mkdir(exist_ok=True)
    for more, says in (
        ({"evaluations": 1}, "there are only runs of enas"),
        ({"evaluations": 1, "final_seconds": 1e300}, "final_seconds must be at most"),
    ):
        (copied / "compare" / "records.jsonl").write_text("\n".join(json.dumps(r | more) for r in records))
        assert says in refused(copied)
    assert "Cannot write" in refused(done, "--page", tmp_path / ("long" * 100))
    settings = read_json(copied / "config.json")
    settings["settings"]["an_older_setting"] = 1
    write_json(copied / "config.json", settings)
    assert "an_older_setting" in refused(copied)
    assert not (copied / "report.html").exists()


def test_the_page_of_several_runs_is_where_one_is(
    done: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(done), str(images)]) == 0
    assert capsys.readouterr().out == "report.html\n"
    assert Markup(Path("report.html").read_text()).parts[0] == "together"
    assert not (images / "report.html").exists()


def test_without_graphviz_the_drawing_is_text_and_pictures_say_what_is_missing(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    found = of(done)
    assert found.of("img") == []
    assert "recurrent cell" in "".join(found.texts["pre"])
    words = [
        "report",
        str(done),
        "--page",
        str(tmp_path / "p.html"),
        "--pictures",
        str(tmp_path / "pictures"),
    ]
    assert main(words) == 2
    assert "Install it with" in capsys.readouterr().err


def test_a_page_is_written_whole_or_not_at_all(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "page.html"
    target.write_text("before")

    def broken(run: Run) -> Numbers:
        raise RunFolderError("damaged")

    monkeypatch.setattr(pages, "numbers_of", broken)
    with pytest.raises(RunFolderError):
        write_page([Run.open(done)], target)
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


# ---- in a browser ------------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_in_chromium_nothing_is_fetched_nothing_fails_and_nothing_is_too_wide(
    done: Path, images: Path, own: Path, tmp_path: Path
) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    write_page([Run.open(done)], tmp_path / "recurrent.html")
    write_page([Run.open(images)], tmp_path / "micro.html")
    write_page([Run.open(own)], tmp_path / "own.html")
    write_page([Run.open(done), Run.open(images)], tmp_path / "both.html")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        seen = []
        for path in sorted(tmp_path.glob("*.html")):
            for width, scheme in ((360, "light"), (1400, "dark")):
                opened = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
                said: list[str] = []
                asked: list[str] = []
                opened.on("console", lambda message, said=said: said.append(message.text))
                opened.on("pageerror", lambda error, said=said: said.append(str(error)))
                opened.on("request", lambda request, asked=asked: asked.append(request.url))
                opened.goto(path.as_uri())
                assert (said, asked) == ([], [path.as_uri()])
                assert opened.evaluate("document.documentElement.scrollWidth") == width
                assert opened.evaluate("document.querySelectorAll('svg').length") > 5
                assert opened.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
                assert (
                    opened.evaluate("JSON.parse(document.getElementById('numbers').textContent).length") >= 1
                )
                seen.append(opened.evaluate("getComputedStyle(document.body).backgroundColor"))
        browser.close()
    assert len(set(seen)) == 2
