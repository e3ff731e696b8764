"""Tables of known scores: NAS-Bench-Graph against its own package, searches on them, and the numbers they come to."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nas_bench_graph.architecture import Arch, all_archs, gnn_list, link_list

from enas.architecture import Architecture
from enas.cli import main
from enas.controllers import EvolutionConfig, IndependentConfig, LSTMConfig, UniformConfig, build_controller
from enas.errors import ArchitectureError, ConfigError, DataError
from enas.evidence import benchmark as module
from enas.evidence.benchmark import (
    NAMED,
    RANKED,
    Standing,
    as_json,
    as_text,
    claims,
    searches,
    standings,
)
from enas.evidence.known_scores import SAMPLES, KnownScores, Trial, first_new, search_known
from enas.evidence.nas_bench_graph import (
    NETWORKS,
    SHA256,
    load_table,
    network_codes,
    package_folder,
    read_plain_pickle,
)
from enas.evidence.statistics import Interval, best_of_k
from enas.runtime.seeding import generator
from enas.spaces import architecture_from_json
from enas.spaces.graph.space import OPERATIONS, STRUCTURES, GraphSpace
from enas.spaces.recurrent.space import RecurrentSpace
from tests.tiny import published

PAPER = published("recurrent-paper")

SPACE = GraphSpace()
SMALL = RecurrentSpace(3)


def drawn(count: int) -> list[Architecture]:
    rng = random.Random(0)
    return [SPACE.sample(rng) for _ in range(count)]


def table_of(name: str, seed: int) -> KnownScores:
    """Random scores of 128 architectures, the test score being the validation score less 1."""
    valid = np.random.default_rng(seed).random(SMALL.count())
    return KnownScores(name, SMALL, valid, valid - 1)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A controller's tensors are too small to share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---- the space ---------------------------------------------------------------------------------------------------------


def test_structures_and_operations_are_the_packages() -> None:
    assert [[int(source) for source in structure] for structure in STRUCTURES] == link_list
    assert list(OPERATIONS) == gnn_list


def test_the_space_is_that_of_the_trained_networks() -> None:
    """Every pair of structure and operations but the nine of skips only is a trained network; no other was trained."""
    assert SPACE.count() == 9 * 9**4
    codes = network_codes()
    skips = [architecture.choices[1:] == (8, 8, 8, 8) for architecture in SPACE.enumerate()]
    assert sum(skips) == 9
    trained = {arch.hash_arch() for arch in all_archs()}
    assert set(codes[~np.array(skips)].tolist()) == trained
    assert len(trained) == NETWORKS
    assert not set(codes[skips].tolist()) & trained


def test_scores_are_those_the_package_looks_up() -> None:
    with open(package_folder() / "light" / "cora.bench", "rb") as file:
        networks = pickle.load(file)
    table = load_table("cora")
    for architecture in drawn(300):
        structure, *operations = architecture.choices
        arch = Arch(list(link_list[structure]), [gnn_list[operation] for operation in operations])
        expected = networks[arch.valid_hash()]
        row = table.rows([architecture.choices])[0]
        assert (table.valid[row], table.test[row]) == (expected["valid_perf"], expected["perf"])


def test_equal_networks_have_equal_scores_and_skips_alone_the_worst() -> None:
    table = load_table("citeseer")
    same = [
        SPACE.parse("gcn(0) gin(0) fc(0) gat(0)"),
        SPACE.parse("fc(0) gat(0) gin(0) gcn(0)"),
        SPACE.parse("gat(0) fc(0) gcn(0) gin(0)"),
    ]
    assert len({table.valid[table.rows([a.choices])[0]] for a in same}) == 1
    skips = SPACE.parse("skip(0) skip(1) skip(2) skip(3)")
    assert table.valid[table.rows([skips.choices])[0]] == table.valid.min()


def test_rows_are_the_order_of_the_enumeration() -> None:
    table = table_of("t", 0)
    assert table.rows([a.choices for a in SMALL.enumerate()]).tolist() == list(range(SMALL.count()))


def test_architectures_survive_text_and_json() -> None:
    for architecture in drawn(50):
        assert SPACE.parse(str(architecture)) == architecture
        assert architecture_from_json(json.loads(json.dumps(architecture.to_json()))) == architecture
    assert str(SPACE.architecture([8, 1, 2, 7, 3])) == "gcn(0) gin(1) fc(2) cheb(3)"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gcn(0) gin(1)", "not four nodes"),
        ("gcn gin fc cheb", "not four nodes"),
        ("gcn(0) gin(0) fc(2) cheb(0)", "nodes that read 0, 0, 2, 0 are none of the structures"),
        ("gcn(0) gin(0) conv(0) cheb(0)", "operation conv is none of"),
    ],
)
def test_text_that_is_no_architecture_is_refused(text: str, says: str) -> None:
    with pytest.raises(ArchitectureError, match=says):
        SPACE.parse(text)


def test_a_drawing_joins_the_ends_to_the_output() -> None:
    graph = SPACE.parse("gcn(0) gin(1) fc(1) skip(2)").graph()
    assert [node.key for node in graph.nodes] == ["0", "1", "2", "3", "4", "out"]
    assert set(graph.edges) == {("0", "1"), ("1", "2"), ("1", "3"), ("2", "4"), ("3", "out"), ("4", "out")}


# ---- reading the files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data_set", SHA256)
def test_every_table_is_read_whole(data_set: str) -> None:
    table = load_table(data_set)
    assert table.valid.shape == table.test.shape == (59_049,)
    for scores in (table.valid, table.test):
        assert 0 <= scores.min() < scores.max() <= 1
    assert len(np.unique(network_codes())) == NETWORKS + 1


class Calls:
    """What a hostile pickle would do: a call when it is read."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> object:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", [print, exec, os.mkdir])
def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(
    function: object, protocol: int, tmp_path: Path
) -> None:
    made = str(tmp_path / "made")
    argument = f"open({made!r}, 'w')" if function is exec else made
    content = pickle.dumps({"a": [Calls(function, argument)]}, protocol)
    with pytest.raises(DataError, match=r"more than plain values: it names \w+\."):
        read_plain_pickle(content)
    assert not list(tmp_path.iterdir())


def test_plain_pickles_are_read() -> None:
    plain = {"a": [1, 2.5, ("x", None, True)], "b": {"c": b"bytes"}}
    assert read_plain_pickle(pickle.dumps(plain)) == plain
    scalar = b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(Vf8\nI00\nI01\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntb"
    content = scalar + b"C\x08" + struct.pack("<d", 0.3) + b"tR."
    assert read_plain_pickle(content) == 0.3
    for wrong in (content.replace(b"Vf8", b"VO8"), content.replace(b"V<", b"V>"), content[:-3], b""):
        with pytest.raises(DataError, match="damaged or holds more"):
            read_plain_pickle(wrong)


def test_a_file_that_is_not_the_published_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enas.evidence.nas_bench_graph.package_folder", lambda: tmp_path)
    with pytest.raises(DataError, match=r"cora.bench is missing\. Install"):
        load_table("cora")
    (tmp_path / "light").mkdir()
    (tmp_path / "light" / "cora.bench").write_bytes(pickle.dumps({}))
    with pytest.raises(DataError, match="is not the published file"):
        load_table("cora")
    with pytest.raises(DataError, match="no data set 'proteins'; it has arxiv"):
        load_table("proteins")


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'enas\[graph\]'"):
        package_folder()


# ---- the LSTM of such a space ------------------------------------------------------------------------------------------


def test_the_lstm_decides_the_space() -> None:
    """Its probabilities sum to 1 over the space, given a structure; later decisions depend on earlier ones."""
    controller = build_controller(LSTMConfig(hidden=8, init_range=1.5), SPACE, seed=0)
    policy = controller.policy.double()
    assert {name for name, _ in policy.named_parameters()} == {
        "empty_S",
        "embedding_FS",
        "softmax_FS",
        "input_SG",
        "state_SG",
    }
    assert len(policy.softmax_FS) == len(STRUCTURES) + len(OPERATIONS)
    choices_NL = torch.tensor([a.choices for a in SPACE.enumerate()])
    with torch.no_grad():
        first = policy.score(choices_NL[:6561]).log_prob_NL
        total = first[:, 1:].sum(1).exp().sum().item()
        other = policy.score(choices_NL[6561:6562]).log_prob_NL
    assert total == pytest.approx(1.0)
    assert not torch.allclose(first[0, 1], other[0, 1])


# ---- searches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_every_controller_searches_with_the_same_budget(name: str) -> None:
    trial = search_known(load_table("cora"), name, NAMED[name], evaluations=50, proposals=8, seed=3)
    assert (trial.controller, trial.seed, trial.evaluations, trial.table) == (name, 3, 50, "cora")
    assert len(trial.trajectory) == 50
    assert (np.diff(trial.trajectory) >= 0).all()
    assert trial.best_valid == trial.trajectory[-1]
    again = search_known(load_table("cora"), name, NAMED[name], evaluations=50, proposals=8, seed=3)
    assert replace(again, seconds=0) == replace(trial, seconds=0)
    other = search_known(load_table("cora"), name, NAMED[name], evaluations=50, proposals=8, seed=4)
    assert other.trajectory != trial.trajectory


def test_a_search_reports_what_it_looked_up() -> None:
    table = table_of("t", 1)
    trial = search_known(table, "uniform", UniformConfig(), evaluations=10, proposals=4, seed=0)
    controller = build_controller(UniformConfig(), SMALL, 0)
    seen = np.concatenate(
        [
            controller.propose(n, generator(0, "uniform", "proposals", start)).choices_NL.numpy()
            for start, n in ((0, 4), (4, 4), (8, 2))
        ]
    )
    samples = controller.propose(SAMPLES, generator(0, "uniform", "samples")).choices_NL.numpy()
    scores = table.valid[table.rows(seen)]
    assert trial.trajectory == tuple(np.maximum.accumulate(scores))
    assert trial.best_test == scores.max() - 1
    assert trial.policy_valid == table.valid[table.rows(samples)].mean()


def test_the_best_of_uniform_searches_is_what_the_table_says() -> None:
    table = table_of("t", 2)
    found = [search_known(table, "uniform", UniformConfig(), 20, 20, seed).best_valid for seed in range(400)]
    assert np.mean(found) == pytest.approx(best_of_k(table.valid, 20), abs=4 * np.std(found) / 20)


@pytest.mark.parametrize("config", [IndependentConfig(), RANKED, EvolutionConfig(30, 8), PAPER])
def test_a_table_with_one_good_option_a_decision_is_learnt_by_all_but_the_papers_settings(
    config: IndependentConfig | EvolutionConfig | LSTMConfig,
) -> None:
    """Where the reward of every option is its own, the policy goes there."""
    good = np.array([sum(c == 1 for c in a.choices) / 5 for a in SMALL.enumerate()])
    table = KnownScores("sum", SMALL, good, good)
    trials = [search_known(table, "c", config, 300, 4, seed) for seed in range(5)]
    gain = np.mean([trial.policy_valid for trial in trials]) - good.mean()
    assert (gain > 0.2) == (config != PAPER)


@pytest.mark.parametrize("config", [UniformConfig(), RANKED, EvolutionConfig(4, 2), LSTMConfig(8)])
def test_a_distinct_search_looks_nothing_up_twice_until_all_is_known(
    config: UniformConfig | IndependentConfig | EvolutionConfig | LSTMConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[int] = []
    table = table_of("t", 3)
    rows = KnownScores.rows

    def recorded(self: KnownScores, choices_NL: np.ndarray) -> np.ndarray:
        found = rows(self, choices_NL)
        if len(found) <= 4:
            looked_up.extend(found.tolist())
        return found

    monkeypatch.setattr(KnownScores, "rows", recorded)
    again = search_known(table, "c", config, 64, 4, seed=0)
    assert len(looked_up) == 64 > len(set(looked_up))
    looked_up.clear()
    once = search_known(table, "c", config, 64, 4, seed=0, distinct=True)
    assert len(looked_up) == 64 == len(set(looked_up))
    assert again.evaluations == once.evaluations == 64
    looked_up.clear()
    search_known(table, "uniform", UniformConfig(), 140, 4, seed=0, distinct=True)
    assert len(looked_up) == 140 > len(set(looked_up)) > 120


def test_the_first_new_ones_are_taken_and_then_the_first_others() -> None:
    assert first_new([5, 7, 5, 3, 9], seen=[7], n=2) == [0, 3]
    assert first_new([5, 7, 5, 3], seen=[7, 3], n=3) == [0, 1, 2]


@pytest.mark.parametrize("wrong", [{"evaluations": 0, "proposals": 1}, {"evaluations": 1, "proposals": 0}])
def test_a_search_of_nothing_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="evaluations and proposals must be at least 1"):
        search_known(table_of("t", 0), "uniform", UniformConfig(), seed=0, **wrong)


def test_a_table_needs_a_score_of_every_architecture() -> None:
    valid = np.ones(SMALL.count())
    with pytest.raises(DataError, match="needs a finite test score of each of the 128"):
        KnownScores("t", SMALL, valid, valid[:-1])
    with pytest.raises(DataError, match="needs a finite validation score"):
        KnownScores("t", SMALL, np.where(np.arange(len(valid)) == 3, np.nan, valid), valid)


# ---- from searches to numbers ------------------------------------------------------------------------------------------


def trial(table: str, controller: str, seed: int, best: float, policy: float) -> Trial:
    return Trial(table, controller, seed, 4, best, best - 1, policy, 0.5, (best,))


def test_standings_pair_equal_seeds_and_average_over_tables() -> None:
    tables = [table_of("one", 0), table_of("two", 1)]
    means = [table.valid.mean() for table in tables]
    trials = [
        trial("one", "uniform", 0, 0.5, 0.0),
        trial("one", "uniform", 1, 0.6, 0.0),
        trial("one", "c", 1, 0.7, means[0] + 0.03),
        trial("one", "c", 0, 0.5, means[0] + 0.01),
        trial("two", "uniform", 0, 0.5, 0.0),
        trial("two", "uniform", 1, 0.6, 0.0),
        trial("two", "c", 0, 0.4, means[1] + 0.03),
        trial("two", "c", 1, 0.7, means[1] + 0.05),
        *(trial(table, "d", seed, 0.5, 0.0) for table in ("one", "two") for seed in (0, 1)),
    ]
    found = {(s.table, s.controller): s for s in standings(trials, tables)}
    assert list(found) == [(t, c) for t in ("one", "two", "all") for c in ("uniform", "c", "d")]
    one, both = found["one", "c"], found["all", "c"]
    assert (one.better.value, one.better.n) == (0.75, 2)
    assert (both.better.value, both.better.n) == (2.5 / 4, 4)
    assert both.policy_gain.value == pytest.approx(3.0)
    assert (both.policy_gain.low, both.policy_gain.high) == pytest.approx((2.0, 4.0))
    assert both.policy_gain.n == 2
    assert one.best_valid == pytest.approx(0.6)
    assert one.best_test == pytest.approx(-0.4)
    assert both.equivalents is None
    assert one.equivalents is not None
    assert one.first_better is found["one", "uniform"].first_better is None
    against = [found[table, "d"].first_better for table in ("one", "two", "all")]
    assert [(p.value, p.n) for p in against if p is not None] == [(0.75, 2), (0.5, 2), (2.5 / 4, 4)]
    k = int(one.equivalents)
    assert best_of_k(tables[0].valid, k) >= 0.6 > best_of_k(tables[0].valid, k - 1)


def test_searches_are_all_there_and_random_search_is_always_among_them() -> None:
    trials = list(
        searches([table_of("t", 0)], {"independent": IndependentConfig()}, 8, 4, seeds=3, distinct=True)
    )
    assert [(t.controller, t.seed) for t in trials] == [
        (name, seed) for name in ("uniform", "independent") for seed in range(3)
    ]


@pytest.fixture
def _two_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {name: table_of(name, number) for number, name in enumerate(("one", "two"))}
    monkeypatch.setattr(module, "LOADERS", {"nas-bench-graph": (tuple(tables), tables.__getitem__)})


@pytest.mark.usefixtures("_two_tables")
def test_the_command_prints_a_table_or_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ["--controllers", "independent", "evolution", "--evaluations", "12", "--seeds", "3"]
    records = tmp_path / "trials.jsonl"
    assert main(["benchmark", "nas-bench-graph", *flags, "--records", str(records)]) == 0
    text = capsys.readouterr().out
    lines = records.read_text().splitlines()
    trials = [Trial(**{**r, "trajectory": tuple(r["trajectory"])}) for r in map(json.loads, lines)]
    assert len(trials) == 2 * 3 * 3
    assert text == as_text(standings(trials, [table_of("one", 0), table_of("two", 1)])) + "\n"
    assert main(["benchmark", "nas-bench-graph", *flags, "--json", "--tables", "two"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["table"] for record in printed] == ["two"]
    assert set(printed[0]["controllers"]) == {"uniform", "independent", "evolution"}
    main(["benchmark", "nas-bench-graph", *flags, "--json", "--tables", "two", "two"])
    (again,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert again["controllers"]["evolution"]["better"]["n"] == 3  # pairs, not twice as many


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "NAME is missing"),
        (["nas-bench-grap"], "did you mean 'nas-bench-graph'?"),
        (["nas-bench-graph", "--controllers", "evolutio"], "there is no controller 'evolutio'; did you mean"),
        (["nas-bench-graph", "--tables", "corra"], "there is no table 'corra'; did you mean 'cora'?"),
        (["nas-bench-graph", "--seeds", "1"], "seeds must be at least 2"),
        (
            ["nas-bench-graph", "--proposals", "1"],
            "proposals must be at least 2 for the baseline of independent",
        ),
        (["nas-bench-graph", "--sseeds", "1"], "no flag --sseeds; did you mean '--seeds'?"),
    ],
)
def test_mistakes_are_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], argv: list[str], says: str
) -> None:
    assert main(["benchmark", *argv]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert says in lines[0]


def test_the_text_has_every_number_and_claims_no_more_than_they_carry() -> None:
    clear = Interval(0.9, 0.7, 0.97, 0.95, 50)
    gain = Interval(2.5, 2.0, 3.0, 0.95, 50)
    nothing = Interval(0.5, 0.3, 0.7, 0.95, 50)
    found = [
        Standing(
            "cora", "uniform", 0.8, 0.79, nothing, None, Interval(0.0, -0.1, 0.1, 0.95, 50), 300.0, 0.02
        ),
        Standing("cora", "independent", 0.81, 0.8, clear, None, gain, 1234.0, 0.1),
        Standing("cora", "lstm", 0.8, 0.79, nothing, clear, Interval(0.1, -0.1, 0.3, 0.95, 50), 299.0, 0.1),
    ]
    rows = as_text(found).splitlines()
    cells = ["independent", "81.00", "80.00", "0.90 [0.70, 0.97]", "2.50 [2.00, 3.00]", "1,234", "0.10"]
    assert re.split(r" {2,}", rows[2].strip()) == cells
    assert claims(found) == [
        "independent, cora: best validation score better than random search in 45 of 50 pairs, "
        "P = 0.90 [0.70, 0.97]; policy 2.50 [2.00, 3.00] above the mean of the space on average over 50 pairs",
        "lstm, cora: best validation score no difference from random search shown: P = 0.50 [0.30, 0.70] over 50 "
        "pairs; neither is ahead; policy no difference from the mean of the space shown: 0.10 [-0.10, 0.30] on average over "
        "50 pairs",
        "independent, cora: best validation score better than lstm in 45 of 50 pairs, P = 0.90 [0.70, 0.97]",
    ]
    assert [record["table"] for record in as_json(found)] == ["cora"]


def test_random_search_does_not_beat_itself() -> None:
    """Two random searches of different names are independent, and neither is better."""
    tables = [table_of("t", 3)]
    trials = list(searches(tables, {"another": UniformConfig()}, 16, 4, seeds=200, distinct=False))
    found = standings(trials, tables)[1]
    assert found.better.holds(0.5)
    assert found.better.high - found.better.low < 0.16
    assert found.policy_gain.low < 0.6
