"""Verifying a search: what is trained and when, and that the trainings correct what shared weights say."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from enas.architecture import Architecture
from enas.controllers import IndependentConfig, build_controller
from enas.correction import Correction, Features, normal_scores, predicted_from_others
from enas.evidence.runs import search_seconds
from enas.phases import START, Search, SearchConfig
from enas.run import Run
from enas.runtime.files import JsonlLog, read_json, read_jsonl
from enas.runtime.metrics import Metrics
from enas.runtime.stop import Stopped, StopRequest
from enas.scores import percentile
from enas.spaces.nasbench201.space import NASBench201Space
from enas.stages import search, train_alone
from enas.verification import Verification, VerifyConfig, Verifying, verdict
from enas.watch import Watch
from tests import tiny
from tests.test_search import PlantedWeights

SPACE = NASBench201Space()
WORTH = {"none": -1.0, "skip_connect": 0.0, "nor_conv_1x1": 1.0, "nor_conv_3x3": 2.0, "avg_pool_3x3": -0.5}


def worth(architecture: Architecture) -> float:
    """The planted truth: a sum over the edges that reach the output, and a little that is particular to the architecture."""
    own = random.Random(str(SPACE.reduced(architecture))).gauss(0, 0.5)
    return sum(WORTH[edge.operation] for edge in SPACE.edges(architecture)) + own


def size(architecture: Architecture) -> list[float]:
    """Something like a cost: convolutions weigh 1 and 9, everything else nothing."""
    weights = {"nor_conv_1x1": 1.0, "nor_conv_3x3": 9.0}
    return [10 + sum(weights.get(edge.operation, 0.0) for edge in SPACE.edges(architecture))]


def free(architecture: Architecture) -> list[float]:
    """No costs."""
    return []


def random_cells(count: int, seed: int) -> list[Architecture]:
    rng = random.Random(seed)
    return [SPACE.sample(rng) for _ in range(count)]


class MisleadingWeights(PlantedWeights):
    """Rewards are `sign` times the planted truth, with noise that depends on the minibatch."""

    def __init__(self, sign: float, steps: Sequence[int] = (2,)) -> None:
        super().__init__(steps)
        self.space = SPACE
        self.sign = sign

    def rewards(self, architectures: Sequence[Architecture], purpose: str, draw: int) -> torch.Tensor:
        offset = random.Random(f"{purpose} {draw}").gauss(0, 1)
        return torch.tensor([self.sign * worth(one) + offset for one in architectures])


# ---- the model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_model_recovers_a_truth_that_the_shared_score_reverses_or_has(sign: float) -> None:
    trained, others = random_cells(16, 1), random_cells(200, 2)
    scores_N, truth_M = (np.array([worth(one) for one in group]) for group in (trained, others))
    model = Correction.fit(Features(SPACE, free, 0), trained, sign * scores_N, scores_N)
    predicted_M = model.predict(others, sign * truth_M)
    assert stats.kendalltau(predicted_M, truth_M).statistic > 0.85
    assert np.sign(model.shared_weight) == sign


def test_a_shared_score_that_knows_nothing_does_little_harm() -> None:
    noise = np.random.default_rng(0)
    taus = []
    for seed in range(5):
        trained, others = random_cells(16, seed), random_cells(200, 100 + seed)
        scores_N, truth_M = (np.array([worth(one) for one in group]) for group in (trained, others))
        features = Features(SPACE, size, 0)
        shared = {len(group): noise.normal(size=len(group)) for group in (trained, others)}
        known, unknown = (
            Correction.fit(features, trained, given, scores_N) for given in (np.zeros(16), shared[16])
        )
        of_others = (known.predict(others, np.zeros(200)), unknown.predict(others, shared[200]))
        taus.append([stats.kendalltau(predicted_M, truth_M).statistic for predicted_M in of_others])
    without, with_noise = np.mean(taus, axis=0)
    assert with_noise > without - 0.06
    assert with_noise > 0.5


def test_normal_scores_are_those_of_the_order() -> None:
    found = normal_scores([3.0, -math.inf, 3.0, 90.0])
    expected = stats.norm.ppf([(rank - 0.5) / 4 for rank in (2.5, 1, 2.5, 4)])
    assert np.allclose(found, expected)


def test_features_have_their_variance_and_leave_out_what_has_no_part_in_the_output() -> None:
    features = Features(SPACE, size, 0)
    many_ND = features(random_cells(2000, 3))
    assert many_ND.shape[1] == 1 + 5 + 30
    assert many_ND[:, 0].var() == pytest.approx(1.0, abs=0.2)
    assert many_ND[:, 1:6].var(0).sum() == pytest.approx(0.5, abs=0.1)
    assert many_ND[:, 6:].var(0).sum() == pytest.approx(0.1, abs=0.02)
    alike = [SPACE.parse(f"|none~0|+|none~0|{dead}~1|+|skip_connect~0|none~1|none~2|") for dead in WORTH]
    assert len({row.tobytes() for row in features(alike)}) == 1


def test_own_trainings_count_for_at_least_half() -> None:
    trained = random_cells(12, 4)
    scores_N = np.array([worth(one) for one in trained])
    model = Correction.fit(Features(SPACE, size, 0), trained, np.zeros(12), scores_N)
    own_N, predicted_N = (
        model.posterior(trained, np.zeros(12), scores_N),
        model.predict(trained, np.zeros(12)),
    )
    share_N = (own_N - predicted_N) / (normal_scores(scores_N) - predicted_N)
    assert ((share_N > 0.5) & (share_N < 1)).all()


def test_a_prediction_from_the_others_does_not_know_the_training_itself() -> None:
    trained = random_cells(8, 5)
    scores_N = np.array([worth(one) for one in trained])
    features = Features(SPACE, size, 0)
    before_N = predicted_from_others(features, trained, np.zeros(8), scores_N)
    changed_N = scores_N.copy()
    changed_N[3] = 100.0
    after_N = predicted_from_others(features, trained, np.zeros(8), changed_N)
    assert after_N[3] == before_N[3]
    assert after_N[4] != before_N[4]


def test_the_model_is_itself_after_saving() -> None:
    trained, others = random_cells(10, 6), random_cells(5, 7)
    scores_N = np.array([worth(one) for one in trained])
    features = Features(SPACE, size, 0)
    model = Correction.fit(features, trained, scores_N, scores_N)
    again = Correction.from_state(features, model.state_dict())
    assert np.array_equal(model.predict(others, np.arange(5.0)), again.predict(others, np.arange(5.0)))
    drawn = [
        one.drawn(one.inputs(others, np.arange(5.0)), np.random.default_rng(0)) for one in (model, again)
    ]
    assert np.array_equal(*drawn)


# ---- the search --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trainings", "rounds", "epochs", "warmup", "plan"),
    [
        (12, 4, 20, 0.5, {10: 3, 12: 3, 15: 3, 17: 3}),
        (5, 2, 4, 0.0, {0: 2, 2: 3}),
        (6, 4, 2, 0.5, {1: 6}),
        (2, 4, 8, 0.0, {2: 1, 6: 1}),
        (0, 4, 8, 0.0, {}),
        (4, 2, 4, 1.0, {}),
    ],
)
def test_rounds_share_the_trainings_out(
    trainings: int, rounds: int, epochs: int, warmup: float, plan: dict[int, int]
) -> None:
    config = VerifyConfig(trainings=trainings, rounds=rounds)
    assert config.plan(SearchConfig(epochs=epochs, warmup=warmup)) == plan


def planted_search(
    folder: Path, sign: float, config: VerifyConfig, asked: list[list[Architecture]], epochs: int = 8
) -> tuple[Search, Verifying]:
    """A search whose shared weights say `sign` times the truth, and whose trainings are looked up."""

    def train(architectures: Sequence[Architecture]) -> list[float]:
        asked.append(list(architectures))
        return [worth(one) for one in architectures]

    folder.mkdir(exist_ok=True)
    search_config = SearchConfig(epochs=epochs, updates=30, proposals=8)
    weights = MisleadingWeights(sign)
    controller = build_controller(IndependentConfig(), SPACE, 0)
    watch = Watch(search_config, weights, controller, 0, Metrics(JsonlLog(folder / "metrics.jsonl")))
    verifying = Verifying(config, search_config, weights, controller, size, train, 0)
    archive = JsonlLog(folder / "archive.jsonl")
    return Search(search_config, weights, controller, 0, archive, watch, verifying), verifying


def run_all(search: Search) -> None:
    for number, (place, following) in enumerate(search.places(START)):
        search.step(place, following, number + 1)


def standing(search: Search) -> float:
    """The percentile of the policy's samples among random architectures, by the truth."""
    with torch.no_grad():
        sampled = search.controller.propose(64, torch.Generator().manual_seed(1)).architectures(SPACE)
    return percentile([worth(one) for one in sampled], [worth(one) for one in random_cells(500, 9)])


def test_trainings_correct_a_search_that_its_weights_mislead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[Architecture]] = []
    blind, _ = planted_search(tmp_path / "blind", -1.0, VerifyConfig(), asked)
    run_all(blind)
    assert standing(blind) < 0.2
    assert asked == []
    corrected, verifying = planted_search(tmp_path / "corrected", -1.0, VerifyConfig(trainings=16), asked)
    run_all(corrected)
    assert standing(corrected) > 0.9
    assert [len(round_) for round_ in asked] == [4, 4, 4, 4]
    trained = [one for round_ in asked for one in round_]
    assert len(set(map(SPACE.reduced, trained))) == 16
    assert [record.uniform for record in verifying.records].count(True) == 4 + 3
    assert "The shared weights mislead" in capsys.readouterr().err
    records = read_jsonl(tmp_path / "corrected" / "metrics.jsonl")
    last = [record for record in records if record["stage"] == "search/verification"][-1]
    assert last["shared_kendall_high"] < 0 < last["corrected_kendall_low"]
    assert last["shared_weight"] < 0


def test_trainings_do_no_harm_where_the_weights_are_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, _ = planted_search(tmp_path / "plain", 1.0, VerifyConfig(), [])
    verified, _ = planted_search(tmp_path / "verified", 1.0, VerifyConfig(trainings=16), [])
    for search_ in (plain, verified):
        run_all(search_)
    assert standing(verified) > standing(plain) - 0.05
    assert "The shared weights inform" in capsys.readouterr().err


def test_a_policy_that_the_trainings_hold_worse_than_random_begins_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search_, verifying = planted_search(tmp_path, 1.0, VerifyConfig(trainings=8, rounds=2), [])
    verifying.verify(0)
    mislead = {"none": 1.0}
    for step in range(200):
        proposals = search_.controller.propose(8, torch.Generator().manual_seed(step))
        rewards = [
            sum(mislead.get(e.operation, 0.0) for e in SPACE.edges(a)) - worth(a)
            for a in proposals.architectures(SPACE)
        ]
        search_.controller.feedback(proposals, torch.tensor(rewards))
    assert standing(search_) < 0.2
    assert verifying.verify(4)["policy_restarted"] == 1
    assert abs(standing(search_) - 0.5) < 0.1
    assert "The policy begins anew" in capsys.readouterr().err


def test_without_correction_rewards_are_those_of_the_weights(tmp_path: Path) -> None:
    _, verifying = planted_search(tmp_path, 1.0, VerifyConfig(trainings=8, rounds=1, correct=False), [])
    verifying.verify(0)
    assert verifying.correction is not None
    rewards_N = torch.tensor([1.0, 2.0])
    assert verifying.corrected(random_cells(2, 0), rewards_N) is rewards_N


def test_verdicts() -> None:
    model = Verification(VerifyConfig(), MisleadingWeights(1.0), size, 0)
    assert model.predicted(random_cells(3, 0)).shape == (3,)  # without a model, what the weights say
    assert "not shown" in verdict(None)


def tiny_run(*flags: str) -> list[str]:
    return ["--verify.trainings", "6", "--verify.rounds", "2", "--verify.epochs", "1", *flags]


def test_a_run_that_is_stopped_in_a_round_comes_to_the_same(tmp_path: Path) -> None:
    config = tiny.image_config(
        "micro", *tiny_run("--derive.shortlist-order", "corrected", "--search.epochs", "4")
    )
    whole = Run.create(tmp_path / "whole", config, ("search",))
    with StopRequest() as stop:
        search(whole, stop)
    expected: dict[str, Any] = tiny.content(whole.folder)
    assert (
        len([name for name in expected if name.startswith("verify/") and name.endswith("result.json")]) == 6
    )
    searched = whole.search_record()
    assert searched is not None
    metrics = read_jsonl(whole.folder / "metrics.jsonl")
    rounds = [record["round_work"] for record in metrics if record["stage"] == "search/verification"]
    trained = [read_json(path)["work"] for path in whole.folder.glob("verify/*/result.json")]
    assert (len(rounds), len(trained)) == (2, 6)
    work = search_seconds(whole, searched)  # each training once, whether they ran side by side or not
    assert searched.work is not None
    assert work == pytest.approx(searched.work - sum(rounds) + sum(trained))
    # A run whose records tell no work counts by the clock.
    waited = [record["seconds"] for record in metrics if record["stage"] == "search/verification"]
    old = Run(shutil.copytree(whole.folder, tmp_path / "old"), config, ("search",))
    JsonlLog(old.folder / "metrics.jsonl").rewind(0)
    for record in metrics:
        told = {name: value for name, value in record.items() if name not in ("work", "round_work")}
        JsonlLog(old.folder / "metrics.jsonl").append(told)
    by_clock = search_seconds(old, replace(searched, work=None))
    assert by_clock == pytest.approx(searched.seconds - sum(waited) + sum(trained))
    for after in (1, 2, 4):
        run = Run.create(tmp_path / f"stopped-{after}", config, ("search",))
        done = 0

        def train(architectures: Sequence[Architecture], run: Run = run, after: int = after) -> list[float]:
            """As a search does, but that the run is stopped after some trainings."""
            nonlocal done
            scores = []
            for architecture in architectures:
                if done == after:
                    stop.request("test")
                    raise stop.stopped(run.folder)
                scores += train_alone(run, stop, [architecture])
                done += 1
            return scores

        with StopRequest() as stop, pytest.raises(Stopped):
            search(run, stop, train)
        with StopRequest() as stop:
            search(Run.open(run.folder), stop)
        assert tiny.content(run.folder) == expected


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_alarm_rings_only_where_the_trainings_do_not_bear_the_policy_out(
    sign: float, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The truth likes what has no weights, or dislikes it; a policy of skip connections alone."""
    monkeypatch.setitem(WORTH, "skip_connect", sign * 4)
    search_, verifying = planted_search(tmp_path, 1.0, VerifyConfig(trainings=16, rounds=1), [])
    verifying.verify(0)
    watch = search_.watcher
    assert isinstance(watch, Watch)
    watch.verification = verifying
    skips = SPACE.parse(
        "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"
    )
    monkeypatch.setattr(search_.controller, "mode", lambda: skips.choices)
    assert watch.health(1, ended=False)["collapsed"] == (sign < 0)
    assert ("may have collapsed" in capsys.readouterr().err) == (sign < 0)
    if sign < 0:
        # What few trainings say of a single architecture may be chance; samples that are better are not.
        with monkeypatch.context() as better:
            better.setattr(
                verifying, "standing", lambda architectures, epoch: 0.4 if len(architectures) == 1 else 0.7
            )
            assert watch.health(1, ended=False)["collapsed"] == 0
    watch.verification = None
    assert watch.health(1, ended=False)["collapsed"] == 1
