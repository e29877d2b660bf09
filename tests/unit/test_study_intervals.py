import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, log_loss, roc_auc_score

from shopcast_build.learning.calibration import expected_calibration_error
from shopcast_build.study.estimates import estimate, gain, is_gain, is_loss
from shopcast_build.study.resampling import metric_draws, ranking, resample
from shopcast_domain.features import Floats, Ints


def sample(n: int = 400, people: int = 40, seed: int = 0) -> tuple[Floats, Ints, Ints]:
    """Probabilities with ties, outcomes that follow them, and persons."""
    rng = np.random.default_rng(seed)
    probabilities = np.round(rng.dirichlet((4.0, 2.0, 1.0), n), 2) + 0.01
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    outcome = (rng.random((n, 1)) > probabilities.cumsum(axis=1)[:, :2]).sum(axis=1)
    return probabilities, outcome, rng.integers(people, size=n) * 7


def test_every_draw_is_what_scikit_learn_says_with_the_weights_of_the_draw() -> None:
    probabilities, outcome, person = sample()
    resampling = resample(person, draws=20)
    found = metric_draws(probabilities, outcome, (1.0, 2.0, 3.0), resampling)
    decided = (probabilities * [1.0, 2.0, 3.0]).argmax(axis=1)
    for draw in (0, 1, 20):
        weight = resampling.weight[draw][resampling.person]
        scores = {"purchase": 1 - probabilities[:, 0], "return": probabilities[:, 2]}
        for name, hit in {"purchase": outcome != 0, "return": outcome == 2}.items():
            area = roc_auc_score(hit, scores[name], sample_weight=weight)
            average = average_precision_score(hit, scores[name], sample_weight=weight)
            assert found[f"{name}_auc"][draw] == pytest.approx(area, abs=1e-12)
            assert found[f"{name}_pr_auc"][draw] == pytest.approx(average, abs=1e-12)
        assert found["log_loss"][draw] == pytest.approx(
            log_loss(outcome, probabilities, sample_weight=weight)
        )
        assert found["macro_f1"][draw] == pytest.approx(
            f1_score(outcome, decided, average="macro", sample_weight=weight)
        )
    assert found["ece"][0] == pytest.approx(expected_calibration_error(probabilities, outcome))


@pytest.mark.parametrize("off", [0.0, 0.05])
def test_a_gap_beyond_chance_is_the_gap_that_was_put_there(off: float) -> None:
    rng = np.random.default_rng(5)
    buys = rng.uniform(0.2, 0.6, 20_000)
    outcome = (rng.random(20_000) < buys).astype(int)
    said = np.stack([1 - buys - off, buys + off, np.zeros_like(buys)], axis=1)
    resampling = resample(np.arange(20_000) // 4, draws=60)
    found = metric_draws(said, outcome, (1.0, 1.0, 1.0), resampling)
    assert found["ece_beyond_chance"][0] == pytest.approx(off, abs=0.01)
    assert found["ece_beyond_chance"][0] < found["ece"][0]


def test_an_order_is_no_purchase_told_from_a_view() -> None:
    """A till's orders are purchases whatever they are; among a shop's views nothing is known."""
    looked = np.arange(400) < 300
    outcome = np.where(looked, np.arange(400) % 2, 1)
    said = np.where(looked[:, None], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0])
    resampling = resample(np.arange(400) // 4, draws=5)
    found = metric_draws(said, outcome, (1.0, 1.0, 1.0), resampling, looked=looked)
    assert found["purchase_auc"][0] == 0.5
    every = metric_draws(said, outcome, (1.0, 1.0, 1.0), resampling)
    assert every["purchase_auc"][0] > 0.6
    orders = metric_draws(said, outcome, (1.0, 1.0, 1.0), resampling, looked=outcome == 1)
    assert "purchase_auc" not in orders


def test_returns_are_told_among_views_and_among_orders() -> None:
    """More of what a till sells comes back than of what a shop shows. Who knows only that ranks
    nothing; who ranks one of both is told by its pairs."""
    looked = np.arange(400) < 300
    back = np.where(looked, np.arange(400) % 10 == 0, np.arange(400) % 2 == 0)
    outcome = np.where(back, 2, np.where(looked, 0, 1))
    kind = np.where(looked, 0.1, 0.5)
    resampling = resample(np.arange(400) // 4, draws=20)

    def draws(chance: Floats) -> tuple[Floats, Floats]:
        said = np.stack([1 - chance, np.zeros(400), chance], axis=1)
        found = metric_draws(said, outcome, (1.0, 1.0, 1.0), resampling, looked=looked)
        return found["return_auc"], found["return_pr_auc"]

    areas, precisions = draws(kind)
    np.testing.assert_allclose(areas, 0.5)
    in_views, in_orders = 30 * 270, 50 * 50
    every = in_views + in_orders
    assert precisions[0] == pytest.approx((0.1 * in_views + 0.5 * in_orders) / every)
    areas, _ = draws(np.where(looked, kind, back))
    assert areas[0] == pytest.approx((0.5 * in_views + in_orders) / every)


def test_a_draw_without_the_few_hits_of_orders_ranks_the_views() -> None:
    looked = np.arange(400) < 300
    outcome = np.where(looked, np.arange(400) % 2, 1)
    outcome[399] = 2  # the only one that came back
    said = np.tile([0.5, 0.3, 0.2], (400, 1))
    found = metric_draws(
        said, outcome, (1.0, 1.0, 1.0), resample(np.arange(400) // 4, draws=20), looked=looked
    )
    np.testing.assert_allclose(found["buy_auc"], 0.5)
    assert np.isnan(found["return_auc"]).any()


def test_blocks_of_draws_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities, outcome, person = sample()
    resampling = resample(person, draws=30)
    whole = ranking(probabilities[:, 1], outcome == 1, resampling)
    monkeypatch.setattr("shopcast_build.study.resampling._CELLS", 1000)
    again = ranking(probabilities[:, 1], outcome == 1, resampling)
    np.testing.assert_allclose(whole, again, rtol=1e-12)


def test_people_are_drawn_whole() -> None:
    """Where every person's exposures are alike, there are only as many facts as people."""
    rng = np.random.default_rng(1)
    hit, score = rng.random(50) < 0.5, rng.random(50)
    once = ranking(score, hit, resample(np.arange(50)))[0]
    often = ranking(
        np.repeat(score, 20), np.repeat(hit, 20), resample(np.repeat(np.arange(50), 20))
    )[0]
    assert often.std() == pytest.approx(once.std(), rel=0.05)
    assert often[0] == once[0]


def test_a_draw_without_hits_has_no_metric() -> None:
    area, average = ranking(
        np.array([0.1, 0.9, 0.4]), np.array([False, True, False]), resample(np.arange(3), draws=50)
    )
    assert np.isnan(area[1:]).any() and np.isnan(average[1:]).any()
    assert estimate([area]).value == 1.0


def draws(value: float, noise: float, seed: int) -> Floats:
    """A value and 1,000 draws about it."""
    return np.append(value, np.random.default_rng(seed).normal(value, noise, 1000))


def test_a_difference_inside_its_interval_is_no_gain() -> None:
    difference = gain("auc", [draws(0.71, 0.02, 0)], [draws(0.70, 0.02, 1)])
    assert difference.low < 0 < difference.high
    assert not is_gain(difference) and not is_loss(difference)


def test_a_difference_beyond_its_interval_is_a_gain_and_the_other_way_a_loss() -> None:
    better = gain("auc", [draws(0.80, 0.01, 0)], [draws(0.70, 0.01, 1)])
    worse = gain("auc", [draws(0.70, 0.01, 0)], [draws(0.80, 0.01, 1)])
    assert is_gain(better) and not is_loss(better)
    assert is_loss(worse) and not is_gain(worse)


def test_a_lower_log_loss_is_the_better_one() -> None:
    assert is_gain(gain("log_loss", [draws(0.5, 0.001, 0)], [draws(0.6, 0.001, 1)]))


def test_seeds_that_disagree_are_no_gain_although_their_mean_is() -> None:
    of = [draws(0.90, 0.001, 0), draws(0.90, 0.001, 1), draws(0.69, 0.001, 2)]
    against = [draws(0.70, 0.001, seed) for seed in (3, 4, 5)]
    assert not is_gain(gain("auc", of, against))


def test_the_chance_of_training_widens_the_interval() -> None:
    steady = estimate([draws(0.7, 0.01, 0)] * 3)
    shaky = estimate([draws(value, 0.01, 0) for value in (0.66, 0.70, 0.74)])
    assert shaky.value == pytest.approx(steady.value)
    # sqrt(0.01 ** 2 + 0.04 ** 2 / 3) / 0.01
    assert (shaky.high - shaky.low) / (steady.high - steady.low) == pytest.approx(2.5, rel=0.05)


def test_one_training_is_compared_with_each_of_several() -> None:
    found = gain("auc", [draws(0.8, 0.001, 0)], [draws(v, 0.001, 1) for v in (0.7, 0.75)])
    assert found.seeds == pytest.approx((0.1, 0.05))
