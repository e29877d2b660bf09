import numpy as np
import pytest
from sklearn.metrics import f1_score

from shopcast_build.learning.calibration import (
    expected_calibration_error,
    fit_calibration,
    reliability,
)
from shopcast_build.learning.evaluation import (
    HISTORY_FEATURES,
    Judged,
    fit_decision,
    gradient_boosting,
    judge,
    macro_f1,
    majority,
)
from shopcast_domain.features import FEATURES, Floats, Ints
from shopcast_domain.manifest import Calibration

IDENTITY = Calibration(scale=1.0, bias=(0.0, 0.0, 0.0))
PLAIN = (1.0, 1.0, 1.0)


def draw(probabilities: Floats, seed: int = 0) -> Ints:
    """Outcomes that come about with these probabilities."""
    rng = np.random.default_rng(seed)
    return (rng.random((len(probabilities), 1)) > probabilities.cumsum(1)).sum(1)


def honest(n: int = 6000, seed: int = 0) -> tuple[np.ndarray, Ints]:
    """Logits and outcomes that follow them."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(n, 3)) * 1.5 + [2.0, 0.0, -1.0]).astype(np.float32)
    return logits, draw(IDENTITY.apply(logits), seed + 1)


def log_loss(probabilities: Floats, outcome: Ints) -> float:
    return float(-np.log(probabilities[np.arange(len(outcome)), outcome]).mean())


def test_calibration_undoes_an_overconfident_and_shifted_model() -> None:
    logits, outcome = honest()
    distorted = (logits * 3 + np.float32([0.0, 2.0, -1.0])).astype(np.float32)
    calibration = fit_calibration(distorted, outcome)
    found = calibration.apply(distorted)
    assert log_loss(found, outcome) < log_loss(IDENTITY.apply(distorted), outcome) - 0.1
    assert log_loss(found, outcome) == pytest.approx(
        log_loss(IDENTITY.apply(logits), outcome), abs=2e-3
    )
    assert calibration.scale == pytest.approx(1 / 3, rel=0.1)
    assert calibration.bias[1] == pytest.approx(-2 / 3, abs=0.15)
    np.testing.assert_allclose(found.sum(1), 1.0, atol=1e-12)
    assert expected_calibration_error(found, outcome) < 0.02


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_an_outcome_that_never_occurs_gets_probability_zero(missing: int) -> None:
    logits, outcome = honest(500)
    rows = outcome != missing
    calibration = fit_calibration(logits[rows], outcome[rows])
    found = calibration.apply(logits)
    assert (found[:, missing] == 0.0).all()
    np.testing.assert_allclose(found.sum(1), 1.0, atol=1e-12)


def test_calibration_of_a_few_examples_stays_near_what_the_model_said() -> None:
    """Three returns say little about their share; a fit without a prior would say anything."""
    logits, outcome = honest(4000)
    few = np.concatenate([np.flatnonzero(outcome != 2)[:400], np.flatnonzero(outcome == 2)[:3]])
    found = fit_calibration(logits[few], outcome[few])
    freely = fit_calibration(logits[few], outcome[few], prior=1e-9)
    assert abs(found.bias[2]) < abs(freely.bias[2])
    one_sided = np.array([[5.0, -5.0, 0.0]] * 6, dtype=np.float32)
    sure = fit_calibration(one_sided, np.array([0] * 6))
    assert sure.apply(one_sided)[0].tolist() == [1.0, 0.0, 0.0]
    separable = np.array([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]] * 3, dtype=np.float32)
    assert 0.5 < fit_calibration(separable, np.array([0, 1] * 3)).scale < 3.0


def test_a_prior_is_forgotten_where_there_are_many_examples() -> None:
    logits, outcome = honest(20_000)
    distorted = (logits * 2 + np.float32([0.0, 3.0, 0.0])).astype(np.float32)
    found, freely = (fit_calibration(distorted, outcome, prior=p) for p in (1.0, 1e-9))
    assert found.scale == pytest.approx(freely.scale, abs=1e-3)
    assert found.bias[1] == pytest.approx(freely.bias[1], abs=5e-3)


def test_calibration_is_the_best_there_is() -> None:
    """No scale and bias close by has a lower loss."""
    logits, outcome = honest(3000)
    found = fit_calibration(logits * np.float32(0.5), outcome, prior=1e-9)
    best = log_loss(found.apply(logits * np.float32(0.5)), outcome)
    for scale in (-0.02, 0.0, 0.02):
        for bias in (-0.02, 0.0, 0.02):
            other = Calibration(
                scale=found.scale + scale, bias=(0.0, found.bias[1] + bias, found.bias[2])
            )
            assert log_loss(other.apply(logits * np.float32(0.5)), outcome) >= best - 1e-9


def test_where_the_scale_is_given_chances_are_right_on_average() -> None:
    logits, outcome = honest()
    found = fit_calibration(logits, outcome, scale=0.5)
    assert found.scale == 0.5
    shares = np.bincount(outcome, minlength=3) / len(outcome)
    np.testing.assert_allclose(found.apply(logits).mean(0), shares, atol=1e-3)


def test_the_decision_names_rare_outcomes_that_plain_argmax_never_does() -> None:
    rng = np.random.default_rng(3)
    rare = rng.uniform(0.0, 0.3, size=(4000, 1)) * [[1.0, 0.5]]
    probabilities = np.column_stack([1 - rare.sum(1), rare])
    outcome = draw(probabilities)
    assert set(probabilities.argmax(1)) == {0}
    weights = fit_decision(probabilities, outcome)
    decided = (probabilities * weights).argmax(1)
    assert len(set(decided)) > 1
    assert macro_f1(outcome, decided) > macro_f1(outcome, probabilities.argmax(1)) + 0.05
    assert weights[0] == 1.0


@pytest.mark.parametrize("kinds", [1, 2, 3])
def test_macro_f1_is_that_of_scikit_learn_to_the_last_bit(kinds: int) -> None:
    rng = np.random.default_rng(kinds)
    for count in (1, 7, 1000):
        outcome, decided = rng.integers(kinds, size=count), rng.integers(3, size=count)
        labels = np.unique(outcome)
        assert macro_f1(outcome, decided) == f1_score(
            outcome, decided, labels=labels, average="macro", zero_division=0
        )


def test_the_decision_is_left_alone_where_the_model_is_sure() -> None:
    outcome = np.array([0, 1, 2] * 20)
    probabilities = np.full((60, 3), 0.01)
    probabilities[np.arange(60), outcome] = 0.98
    weights = fit_decision(probabilities, outcome)
    assert macro_f1(outcome, (probabilities * weights).argmax(1)) == 1.0


def test_metrics_of_a_case_small_enough_to_count() -> None:
    outcome = np.array([0, 0, 0, 1, 1, 2] * 5)
    decided = np.array([0, 0, 1, 1, 0, 2] * 5)
    probabilities = np.full((30, 3), 0.2)
    probabilities[np.arange(30), decided] = 0.6
    found = judge(probabilities, outcome, PLAIN)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["view_precision"] == pytest.approx(2 / 3)
    assert found["view_recall"] == pytest.approx(2 / 3)
    assert found["buy_precision"] == pytest.approx(1 / 2)
    assert found["buy_recall"] == pytest.approx(1 / 2)
    assert found["buy_f1"] == pytest.approx(1 / 2)
    assert found["return_f1"] == 1.0
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert found["log_loss"] == pytest.approx(-(4 * np.log(0.6) + 2 * np.log(0.2)) / 6)
    assert found["return_auc"] == 1.0
    # 8 pairs of a buy and something else: 3 the right way round, 4 ties, 1 the wrong way round.
    assert found["buy_auc"] == pytest.approx((3 + 4 / 2) / 8)
    assert found["return_pr_auc"] == 1.0
    assert [found[f"{o}_share"] for o in ("view", "buy", "return")] == [3 / 6, 2 / 6, 1 / 6]


def test_the_decision_weights_decide() -> None:
    probabilities = np.array([[0.6, 0.3, 0.1], [0.7, 0.2, 0.1]] * 10)
    outcome = np.array([1, 0] * 10)
    assert judge(probabilities, outcome, PLAIN)["accuracy"] == 0.5
    assert judge(probabilities, outcome, (1.0, 2.5, 1.0))["accuracy"] == 1.0


def test_outcomes_that_do_not_occur_have_no_metrics() -> None:
    outcome = np.array([0, 1, 0, 1] * 5)
    found = judge(np.tile([0.5, 0.5, 0.0], (20, 1)), outcome, PLAIN)
    assert not [name for name in found if name.startswith("return")]
    assert np.isfinite(list(found.values())).all()


def test_an_order_is_ranked_against_orders() -> None:
    """Which of both an exposure is tells much of its outcome, and is no merit."""
    looked = np.arange(40) < 20
    outcome = np.where(looked, np.arange(40) % 2, 1 + np.arange(40) % 2)
    probabilities = np.where(looked[:, None], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5])
    found = judge(probabilities, outcome, PLAIN, looked)
    names = ("view", "buy", "return")
    assert [found[f"{name}_auc"] for name in names] == [0.5] * 3
    assert found["return_pr_auc"] == 0.5
    assert judge(probabilities, outcome, PLAIN)["view_auc"] > 0.8
    nothing = judge(probabilities, np.where(looked, 0, 2), PLAIN, looked)
    assert not [name for name in nothing if name.endswith("auc")]


def test_calibration_error_tells_an_honest_predictor_from_a_wrong_one() -> None:
    logits, outcome = honest(20_000)
    probabilities = IDENTITY.apply(logits)
    assert expected_calibration_error(probabilities, outcome) < 0.015
    sure = np.zeros((300, 3))
    sure[:, 1] = 1.0
    assert expected_calibration_error(sure, np.array([0, 2, 0] * 100)) == pytest.approx(0.5)
    sharpened = Calibration(scale=5.0, bias=(0.0, 0.0, 0.0)).apply(logits)
    assert expected_calibration_error(sharpened, outcome) > 0.05


def test_calibration_error_of_a_perfect_predictor_is_zero() -> None:
    outcome = np.array([0, 1, 2, 2] * 30)
    assert expected_calibration_error(np.eye(3)[outcome], outcome) == 0.0


def test_calibration_error_does_not_depend_on_the_order_of_ties() -> None:
    """Sorted into bins one by one, equal predictions would fall apart by how they are ordered."""
    probabilities = np.tile([0.5, 0.5, 0.0], (40, 1))
    outcome = np.repeat([0, 1], 20)
    assert expected_calibration_error(probabilities, outcome) == pytest.approx(0.0)
    logits, outcome = honest(2000)
    rounded = IDENTITY.apply(logits).round(1)
    shuffled = np.random.default_rng(0).permutation(2000)
    assert expected_calibration_error(rounded, outcome) == pytest.approx(
        expected_calibration_error(rounded[shuffled], outcome[shuffled]), abs=1e-12
    )


def test_bins_hold_every_prediction_once_and_say_what_came_true() -> None:
    p = np.repeat([0.1, 0.4, 0.8], [50, 30, 20])
    hit = np.zeros(100, dtype=bool)
    hit[:5] = hit[50:60] = hit[80:96] = True
    bins = reliability(p, hit, bins=5)
    assert [(b.predicted, b.observed, b.count) for b in bins] == [
        (pytest.approx(0.1), pytest.approx(0.1), 50),
        (pytest.approx(0.4), pytest.approx(1 / 3), 30),
        (pytest.approx(0.8), pytest.approx(0.8), 20),
    ]
    logits, outcome = honest(3000)
    spread = reliability(IDENTITY.apply(logits)[:, 0], outcome == 0, bins=10)
    assert [b.count for b in spread] == [300] * 10
    assert sorted(b.predicted for b in spread) == [b.predicted for b in spread]


def test_the_majority_predicts_the_shares_of_training_on_the_platform() -> None:
    at = np.zeros(4, dtype=np.int64)
    found = majority(np.array([0, 0, 0, 1]), at, validation=at[:2], test=at[:3])
    np.testing.assert_array_equal(found.validation, [[0.75, 0.25, 0.0]] * 2)
    assert found.test.shape == (3, 3)
    views, orders = np.zeros(300, dtype=np.int64), np.ones(300, dtype=np.int64)
    till = np.concatenate((views, orders))
    found = majority(till, till, validation=views, test=np.array([0, 1, 2]))
    assert found.test[0, 0] > 0.97
    assert found.test[1, 1] > 0.97
    np.testing.assert_allclose(found.test[2], [0.5, 0.5, 0.0])


def test_trees_learn_and_give_no_chance_to_what_they_never_saw() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(900, 5)).astype(np.float32)
    outcome = np.where(features[:, 2] > 0, 2, 0)

    def run() -> Judged:
        train, validation = (features[:500], outcome[:500]), (features[500:700], outcome[500:700])
        return gradient_boosting(train, validation, features[700:], seed=1)

    found, again = run(), run()
    assert judge(found.test, outcome[700:], PLAIN)["accuracy"] > 0.95
    assert (found.test[:, 1] < 1e-6).all()
    np.testing.assert_allclose(found.test.sum(1), 1.0, atol=1e-9)
    np.testing.assert_array_equal(again.test, found.test)


def test_what_a_rival_learned_of_a_drift_does_not_count_twice() -> None:
    """Returns were rare in training and no longer are; who is fitted again knows that already."""
    rng = np.random.default_rng(5)
    features = rng.normal(size=(4000, len(FEATURES))).astype(np.float32)
    chance = np.where(np.arange(4000) < 2000, 0.1, 0.4)
    outcome = np.where(rng.random(4000) < chance, 2, 0)
    early, late, all_of_them = slice(2000), slice(2000, 4000), slice(None)
    parts = [(features[part], outcome[part]) for part in (early, late, all_of_them)]
    found = gradient_boosting(parts[0], parts[1], features, seed=1, again=parts[2])
    assert found.validation[:, 2].mean() == pytest.approx(0.4, abs=0.02)
    assert found.test[:, 2].mean() == pytest.approx(0.25, abs=0.02)


def test_history_features_are_those_that_speak_of_the_person() -> None:
    about = {name for name, speaks in zip(FEATURES, HISTORY_FEATURES, strict=True) if speaks}
    assert {"person_views", "pair_age", "person_brand_buys"} <= about
    assert not about & {"item_views", "price", "hour_sin", "platform_buy_rate"}
