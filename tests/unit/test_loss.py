"""What is minimised: weights by outcome, focus, and views left out."""

from typing import Any

import numpy as np
import pytest
import torch
from learning_problem import HEAD, SETTINGS, Problem, changed, weights

from shopcast_build.learning.loss import Objective, keep_views, make_objective
from shopcast_build.learning.prediction import predict_logits
from shopcast_build.learning.settings import BuildSettings, LossSettings
from shopcast_domain.features import Ints

CPU = torch.device("cpu")
OUTCOME = np.repeat([0, 1, 2], [90, 8, 2])
ALL: Ints = np.arange(100)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem()


def objective(outcome: Ints = OUTCOME, kept: Ints = ALL, **loss: Any) -> Objective:
    return make_objective(LossSettings(**loss), outcome, kept, CPU)


def with_loss(**loss: Any) -> BuildSettings:
    return SETTINGS.model_copy(update={"loss": LossSettings(**loss)})


def test_by_default_it_is_cross_entropy() -> None:
    logits, labels = torch.randn(50, 3), torch.randint(0, 3, (50,))
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(objective()(logits, labels), expected)


@pytest.mark.parametrize(("kind", "power"), [("balanced", 1.0), ("sqrt_balanced", 0.5)])
def test_rare_outcomes_weigh_more(kind: str, power: float) -> None:
    found = objective(class_weights=kind)
    ratio = (found.weights[2] / found.weights[0]).item()
    assert ratio == pytest.approx((90 / 2) ** power)
    assert found.weights[torch.from_numpy(OUTCOME)].mean().item() == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["balanced", "sqrt_balanced"])
def test_weights_leave_the_odds_as_they_are(kind: str) -> None:
    """The logits that minimise the weighted loss are those of the true shares."""
    found, labels = objective(class_weights=kind), torch.from_numpy(OUTCOME)
    logits = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = found(logits.expand(100, 3), labels)
        loss.backward()
        return loss

    optimiser.step(closure)
    shares = torch.softmax(logits.detach(), 0)
    torch.testing.assert_close(shares, torch.tensor([0.9, 0.08, 0.02]), atol=2e-3, rtol=0)


def test_a_weighted_outcome_pulls_harder(problem: Problem) -> None:
    """On logits that know nothing, the gradient of an example is its weight times the miss."""
    found = objective(class_weights="balanced")
    logits = (-found.offset).repeat(2, 1).requires_grad_()
    found(logits, torch.tensor([0, 2])).backward()
    assert logits.grad is not None
    pull = logits.grad.norm(dim=1)
    assert (pull[1] / pull[0]).item() == pytest.approx(45.0, rel=1e-4)
    ends = []
    for kind in ("none", "balanced"):
        model = problem.fresh()
        problem.train(model, HEAD, with_loss(class_weights=kind))
        ends.append(weights(model))
    assert changed(*ends)


def test_focal_loss_cares_less_for_what_is_easy() -> None:
    logits = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    labels = torch.tensor([0, 0])
    plain = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    for gamma in (0.0, 2.0, 5.0):
        expected = (plain * (1 - torch.exp(-plain)) ** gamma).mean()
        found = objective(kind="focal", focal_gamma=gamma)(logits, labels)
        torch.testing.assert_close(found, expected)
    ignored = objective(focal_gamma=5.0)(logits, labels)
    torch.testing.assert_close(ignored, plain.mean())


def test_focal_loss_is_finite_for_a_certain_prediction() -> None:
    logits = torch.tensor([[60.0, 0.0, -1e9]], requires_grad=True)
    objective(kind="focal", focal_gamma=0.5)(logits, torch.tensor([0])).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_only_views_are_left_out_and_the_seed_says_which() -> None:
    kept = keep_views(OUTCOME, 0.2, seed=3)
    assert np.bincount(OUTCOME[kept]).tolist() == [18, 8, 2]
    assert (np.diff(kept) > 0).all()
    np.testing.assert_array_equal(kept, keep_views(OUTCOME, 0.2, seed=3))
    assert set(kept) != set(keep_views(OUTCOME, 0.2, seed=4))
    np.testing.assert_array_equal(keep_views(OUTCOME, 1.0, seed=3), ALL)


def test_the_prior_is_corrected_by_the_logarithm_of_the_share_kept() -> None:
    kept = keep_views(OUTCOME, 0.2, seed=3)
    offset = objective(kept=kept).offset
    torch.testing.assert_close(offset, torch.tensor([np.log(0.2), 0.0, 0.0], dtype=torch.float32))


@pytest.mark.parametrize(
    "loss", [{"view_share_kept": 0.2}, {"view_share_kept": 0.4, "class_weights": "balanced"}]
)
def test_probabilities_come_back_to_the_true_shares(problem: Problem, loss: dict[str, Any]) -> None:
    """Before calibration; without the correction buys would look several times as frequent."""
    model = problem.fresh()
    problem.train(model, HEAD, with_loss(**loss))
    logits = torch.from_numpy(predict_logits(model, problem.batches(problem.training)))
    predicted = torch.softmax(logits, 1).mean(0)[1].item()
    assert predicted == pytest.approx((problem.training.outcome == 1).mean(), abs=0.05)


def test_left_out_views_are_not_trained_on(problem: Problem) -> None:
    batches = problem.batches(problem.training)
    rows = keep_views(problem.training.outcome, 0.1, SETTINGS.seed)
    fewer = batches.only(rows)
    assert len(fewer) == len(rows)
    labels = fewer.collate([fewer[n] for n in range(len(fewer))])["labels"]
    assert (labels == 0).sum() == round(0.1 * (problem.training.outcome == 0).sum())
