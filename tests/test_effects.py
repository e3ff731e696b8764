"""Effects of options: equal to scikit-learn's ridge, and to what was planted."""

import json
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge

import enas.effects
from enas.architecture import Space
from enas.effects import FOLDS, PENALTIES, ArchiveRecord, Effects, archive_effects, fit_effects
from enas.errors import ArchitectureError
from enas.spaces.macro.space import MacroSpace
from enas.spaces.micro.space import MicroSpace
from enas.spaces.recurrent.space import RecurrentSpace
from tests import conditional_space

Data = tuple[Any, Any, Any]


def planted(
    space: Space, groups: int, each: int, noise: float, difficulty: float = 5.0, seed: int = 0
) -> tuple[Data, list[Any]]:
    """Choices, rewards and groups of `each` proposals, and what every option of every decision is really worth."""
    rng = np.random.default_rng(seed)
    worth = [rng.normal(size=len(decision.options)) for decision in space.decisions]
    n = groups * each
    choices_NL = np.stack([rng.integers(len(decision.options), size=n) for decision in space.decisions], 1)
    group_N = np.repeat(np.arange(groups), each)
    reward_N = sum(w[choices_NL[:, position]] for position, w in enumerate(worth)) + noise * rng.normal(
        size=n
    )
    return (choices_NL, reward_N + difficulty * rng.normal(size=groups)[group_N], group_N), worth


def one_hot(space: Space, choices_NL: Any) -> Any:
    columns = [
        choices_NL[:, [position]] == np.arange(len(decision.options))
        for position, decision in enumerate(space.decisions)
    ]
    return np.concatenate(columns, 1).astype(float)


def within(values: Any, group_N: Any) -> Any:
    return np.concatenate([values[group_N == g] - values[group_N == g].mean(0) for g in np.unique(group_N)])


def fitted(space: Space, data: Data) -> Effects:
    found = fit_effects(space, *data, "update")
    assert found is not None
    return found


@pytest.mark.parametrize("space", [RecurrentSpace(4), MacroSpace(3), MicroSpace(2)])
def test_effects_are_those_of_scikit_learns_ridge_with_the_best_penalty_of_cross_validation(
    space: Space,
) -> None:
    data, _ = planted(space, groups=40, each=6, noise=3.0)
    choices_NL, reward_N, group_N = data
    x_ND, y_N = within(one_hot(space, choices_NL), group_N), within(reward_N, group_N)
    fold_N = group_N % FOLDS

    def error(alpha: float) -> float:
        total = 0.0
        for fold in range(FOLDS):
            model = Ridge(alpha, fit_intercept=False).fit(x_ND[fold_N != fold], y_N[fold_N != fold])
            total += ((model.predict(x_ND[fold_N == fold]) - y_N[fold_N == fold]) ** 2).sum()
        return total

    alpha = min((240 * PENALTIES).tolist(), key=error)
    found = fitted(space, data)
    assert found.alpha == pytest.approx(alpha, rel=1e-5)
    assert found.explained == pytest.approx(1 - error(alpha) / (y_N**2).sum(), rel=1e-4)
    weights_D = Ridge(alpha, fit_intercept=False).fit(x_ND, y_N).coef_
    start = 0
    for position, (options, decision) in enumerate(zip(found.decisions, space.decisions, strict=True)):
        w_K = weights_D[start : start + len(decision.options)]
        start += len(decision.options)
        average = w_K[choices_NL[:, position]].mean()
        assert [o.effect for o in options] == pytest.approx((w_K - average).tolist(), rel=1e-4, abs=1e-5)
        assert [o.option for o in options] == list(decision.options)
        assert [o.count for o in options] == [
            (choices_NL[:, position] == k).sum() for k in range(len(options))
        ]
    assert (found.records, found.groups) == (240, 40)


@pytest.mark.parametrize("each", [8, 61])
def test_within_one_group_what_is_held_out_is_compared_with_the_mean_of_the_rest(each: int) -> None:
    space = RecurrentSpace(3)
    choices_NL, reward_N, group_N = planted(space, groups=1, each=each, noise=2.0)[0]
    x_ND, fold_N = one_hot(space, choices_NL), np.arange(each) % FOLDS

    def explained(alpha: float) -> float:
        error = power = 0.0
        for fold in range(FOLDS):
            rest, held = fold_N != fold, fold_N == fold
            model = Ridge(alpha).fit(x_ND[rest], reward_N[rest])
            error += ((model.predict(x_ND[held]) - reward_N[held]) ** 2).sum()
            power += ((reward_N[rest].mean() - reward_N[held]) ** 2).sum()
        return float(1 - error / power)

    found = fitted(space, (choices_NL, reward_N, group_N))
    assert found.alpha == pytest.approx(max((each * PENALTIES).tolist(), key=explained), rel=1e-5)
    assert found.explained == pytest.approx(explained(found.alpha), abs=1e-5)


@pytest.mark.parametrize(("groups", "each"), [(1, 8), (2, 3), (3, 3), (4, 8)])
def test_few_rewards_that_depend_on_nothing_explain_nothing(groups: int, each: int) -> None:
    space, rng = RecurrentSpace(3), np.random.default_rng(0)
    explained = []
    for seed in range(20):
        (choices_NL, _, group_N), _ = planted(space, groups, each, noise=0.0, seed=seed)
        explained.append(fitted(space, (choices_NL, rng.normal(size=len(group_N)), group_N)).explained)
    assert np.median(explained) < 0.05  # the best of several penalties may be above 0 by chance


def test_planted_effects_come_out_whatever_the_difficulty_of_the_minibatches() -> None:
    space = MicroSpace(2)
    data, worth = planted(space, groups=200, each=8, noise=0.0, difficulty=100.0)
    found = fitted(space, data)
    for position, (options, true_K) in enumerate(zip(found.decisions, worth, strict=True)):
        average = true_K[data[0][:, position]].mean()
        assert [o.effect for o in options] == pytest.approx((true_K - average).tolist(), abs=0.01)
    assert found.explained > 0.999
    assert found.best().choices == tuple(int(true_K.argmax()) for true_K in worth)
    sums = [
        sum(w[c] for w, c in zip(worth, a.choices, strict=True))
        for a in map(space.architecture, data[0][:20])
    ]
    said = [found.predict(space.architecture(choices)) for choices in data[0][:20]]
    assert np.ptp(np.array(sums) - np.array(said)) < 0.1


def test_without_comparing_within_groups_difficulty_would_drown_the_effects() -> None:
    space = MicroSpace(2)
    (choices_NL, reward_N, group_N), worth = planted(space, groups=60, each=8, noise=0.1, difficulty=100.0)
    best = tuple(int(true_K.argmax()) for true_K in worth)
    together = fit_effects(space, choices_NL, reward_N, np.zeros_like(group_N), "epoch")
    assert together is not None
    assert together.best().choices != best
    assert fitted(space, (choices_NL, reward_N, group_N)).best().choices == best


def test_standard_errors_cover_what_was_planted() -> None:
    space = RecurrentSpace(3)
    hits = total = 0
    for seed in range(40):
        (choices_NL, reward_N, group_N), worth = planted(space, groups=100, each=8, noise=2.0, seed=seed)
        found = fitted(space, (choices_NL, reward_N, group_N))
        for position, (options, true_K) in enumerate(zip(found.decisions, worth, strict=True)):
            average = true_K[choices_NL[:, position]].mean()
            for option, true in zip(options, true_K - average, strict=True):
                if len(options) > 1:
                    hits += abs(option.effect - true) < 1.96 * option.standard_error
                    total += 1
    assert 0.90 < hits / total < 0.99


def test_rewards_that_depend_on_nothing_explain_nothing_and_say_so() -> None:
    space = MicroSpace(2)
    rng = np.random.default_rng(1)
    (choices_NL, reward_N, group_N), _ = planted(space, groups=30, each=8, noise=1.0)
    found = fitted(space, (choices_NL, rng.normal(size=len(reward_N)), group_N))
    assert found.explained < 0.05
    if found.explained <= 0:
        assert "none that carry over" in found.table()


def test_equal_rewards_have_no_effects_however_their_means_are_rounded() -> None:
    space = MicroSpace(2)
    (choices_NL, _, group_N), _ = planted(space, groups=20, each=7, noise=0.0)
    reward_N = np.float32([0.1, 0.3, 0.7, 0.9]).astype(float)[group_N % 4]
    assert fit_effects(space, choices_NL, reward_N, group_N, "update") is None


def test_what_is_kept_does_not_depend_on_rounding_errors() -> None:
    space = MicroSpace(2)
    (choices_NL, reward_N, group_N), _ = planted(space, groups=20, each=6, noise=1.0)
    same = fitted(space, (choices_NL, reward_N, group_N))
    for seed in range(5):
        nudge_N = 1 + 1e-15 * np.random.default_rng(seed).normal(size=len(reward_N))
        nudged = fitted(space, (choices_NL, reward_N * nudge_N, group_N))
        a, b = json.dumps(same.to_json()), json.dumps(nudged.to_json())
        assert a == b


def test_sums_do_not_depend_on_how_many_rows_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    space = MacroSpace(3)
    data, _ = planted(space, groups=30, each=7, noise=1.0)
    whole = fitted(space, data)
    monkeypatch.setattr(enas.effects, "CHUNK", 11)
    assert fitted(space, data).to_json() == whole.to_json()


def test_option_never_taken_is_average_and_has_no_effect_in_the_table() -> None:
    space = RecurrentSpace(2)
    (choices_NL, reward_N, group_N), _ = planted(space, groups=30, each=8, noise=0.1)
    choices_NL[:, 2] = np.where(choices_NL[:, 2] == 3, 0, choices_NL[:, 2])
    found = fitted(space, (choices_NL, reward_N, group_N))
    never = found.decisions[2][3]
    assert (never.effect, never.count) == (0.0, 0)
    record = found.to_json()["decisions"][2]["options"]
    assert record[3] == {"option": "sigmoid", "effect": None, "standard_error": None, "count": 0}
    assert all(option["effect"] is not None for option in record[:3])
    assert found.decisions[1][0].effect == 0  # the only source of node 2
    assert json.loads(json.dumps(found.to_json())) == found.to_json()


def test_records_of_an_archive_are_compared_within_updates_or_epochs() -> None:
    space = RecurrentSpace(2)
    (choices_NL, reward_N, group_N), _ = planted(space, groups=12, each=4, noise=0.5)
    archive = [
        ArchiveRecord(int(g) // 3, int(g) % 3, choices.tolist(), float(reward))
        for choices, reward, g in zip(choices_NL, reward_N, group_N, strict=True)
    ]
    assert archive_effects(space, archive, "update") == fitted(space, (choices_NL, reward_N, group_N))
    by_epoch = fit_effects(space, choices_NL, reward_N, group_N // 3, "epoch")
    assert archive_effects(space, archive, "epoch") == by_epoch
    assert by_epoch is not None
    assert by_epoch.groups == 4
    assert archive_effects(space, [], "update") is None
    assert (
        archive_effects(space, archive[::4], "update") is None
    )  # one proposal an update: nothing to compare


def test_table_is_read_in_percent_of_the_mean_and_begins_with_what_matters_most() -> None:
    space = RecurrentSpace(2)
    (choices_NL, _, group_N), _ = planted(space, groups=50, each=8, noise=0.0)
    reward_N = 10 + 0.1 * (choices_NL[:, 0] == 1) - 0.4 * (choices_NL[:, 2] == 2)
    found = fitted(space, (choices_NL, reward_N, group_N))
    lines = found.table().splitlines()
    assert lines[0].startswith("effects of single decisions on the reward, in % of its mean")
    assert lines[1].startswith("  node 2 function: ")
    assert lines[1].rindex("identity -3.") > lines[1].index("tanh +1.")
    assert lines[2].startswith("  node 1 function: relu +0.")
    assert "and 2 decisions with smaller differences" in found.table(most=1)


def nested(groups: int, each: int, noise: float) -> tuple[Data, list[Any]]:
    """As `planted`, in the conditional space: an inactive decision is worth nothing."""
    space, rng = conditional_space.SPACE, np.random.default_rng(0)
    worth = [rng.normal(size=len(decision.options)) for decision in space.decisions]
    drawn = [a.choices for a in conditional_space.samples(groups * each)]
    reward_N = np.array([worth_of(worth, choices) for choices in drawn]) + noise * rng.normal(size=len(drawn))
    group_N = np.repeat(np.arange(groups), each)
    return (np.array(drawn), reward_N + 5 * rng.normal(size=groups)[group_N], group_N), worth


def worth_of(worth: list[Any], choices: tuple[int, ...]) -> float:
    """What the options of the decisions that are asked are worth together."""
    triples = zip(worth, choices, conditional_space.asked(choices), strict=True)
    return float(sum(w[choice] for w, choice, asked in triples if asked))


def test_inactive_decisions_have_no_part_in_the_ridge_regression() -> None:
    """Its columns are the options of the decisions that are asked."""
    space = conditional_space.SPACE
    data, _ = nested(groups=40, each=6, noise=1.0)
    choices_NL, reward_N, group_N = data
    found = fitted(space, data)
    asked_NL = np.array([conditional_space.asked(choices) for choices in choices_NL.tolist()])
    columns = []
    for position, decision in enumerate(space.decisions):
        taken_NK = (choices_NL[:, [position]] == np.arange(len(decision.options))) & asked_NL[:, [position]]
        columns.append(taken_NK.astype(float))
        assert [option.count for option in found.decisions[position]] == taken_NK.sum(0).tolist()
    x_ND, y_N = within(np.concatenate(columns, 1), group_N), within(reward_N, group_N)
    weights_D = Ridge(found.alpha, fit_intercept=False).fit(x_ND, y_N).coef_
    start = 0
    for position, (options, asked) in enumerate(zip(found.decisions, found.asked, strict=True)):
        w_K = weights_D[start : start + len(options)]
        start += len(options)
        average = w_K[choices_NL[asked_NL[:, position], position]].mean()
        assert asked == pytest.approx(average, rel=1e-4, abs=1e-5)
        assert [o.effect for o in options] == pytest.approx((w_K - average).tolist(), rel=1e-4, abs=1e-5)


def test_planted_effects_of_nested_decisions_come_out_and_so_does_the_best_architecture() -> None:
    space = conditional_space.SPACE
    data, worth = nested(groups=200, each=8, noise=0.0)
    found = fitted(space, data)
    every = list(space.enumerate())
    predicted = np.array([found.predict(architecture) for architecture in every])
    real = np.array([worth_of(worth, architecture.choices) for architecture in every])
    assert np.ptp(predicted - real) < 0.1 < 10 * real.std()
    assert found.best() == every[int(predicted.argmax())] == every[int(real.argmax())]
    seen = [found.predict(space.architecture(choices)) for choices in data[0].tolist()]
    assert np.mean(seen) == pytest.approx(found.mean_reward, abs=1e-4)
    assert [one["asked"] for one in found.to_json()["decisions"]] == list(found.asked)


def test_an_archive_with_choices_that_cannot_be_taken_is_refused() -> None:
    records = [ArchiveRecord(0, 0, [0] * 7 + [1, width], float(width)) for width in (0, 2)]
    with pytest.raises(ArchitectureError, match="width: 4 cannot be taken"):
        archive_effects(conditional_space.SPACE, records, "update")
