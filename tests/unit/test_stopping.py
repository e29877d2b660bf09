"""When training ends, which weights are kept, and how stages are cut."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from learning_problem import HEAD, SETTINGS, Problem

from shopcast_build.learning.callbacks import KeepBest
from shopcast_build.learning.evaluation import fit_decision, macro_f1
from shopcast_build.learning.settings import BuildSettings, StoppingSettings
from shopcast_build.learning.stages import head_stage, joint_stage, steps_of_pass, young_head_stage
from shopcast_build.learning.stopping import validation_metric
from shopcast_build.learning.training import train

LOGITS = np.log(np.float32([[0.8, 0.1, 0.1], [0.5, 0.4, 0.1], [0.6, 0.3, 0.1], [0.3, 0.6, 0.1]]))
OUTCOME = np.array([0, 0, 1, 1])


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem()


def with_stopping(**stopping: Any) -> BuildSettings:
    return SETTINGS.model_copy(update={"stopping": StoppingSettings(**stopping)})


def test_metrics_of_a_case_small_enough_to_count() -> None:
    assert validation_metric("auc", LOGITS, OUTCOME) == pytest.approx(3 / 4)
    # Buys ranked: yes, no, yes, no; views: yes, no, yes, no.
    assert validation_metric("pr_auc", LOGITS, OUTCOME) == pytest.approx((1 + 2 / 3) / 2)
    probabilities = np.exp(LOGITS).astype(float)
    decided = (probabilities * fit_decision(probabilities, OUTCOME)).argmax(1)
    expected = macro_f1(OUTCOME, decided)
    assert validation_metric("macro_f1", LOGITS, OUTCOME) == pytest.approx(expected)


def test_orders_are_ranked_against_orders() -> None:
    looked = np.arange(8) < 4
    outcome = np.concatenate((OUTCOME, [1, 1, 2, 2]))
    logits = np.concatenate((LOGITS, np.log(np.tile(np.float32([[0.01, 0.5, 0.49]]), (4, 1)))))
    among_all = validation_metric("auc", logits, outcome)
    # Views: 3/4. Buys: 3/4 of the four pairs of views, half of the four of orders. Returns: half.
    expected = (3 / 4 + (3 / 4 + 1 / 2) / 2 + 1 / 2) / 3
    assert validation_metric("auc", logits, outcome, looked) == pytest.approx(expected)
    assert among_all > expected


def test_metrics_of_numbers_that_are_none() -> None:
    assert np.isnan(validation_metric("auc", LOGITS * np.nan, OUTCOME))
    assert validation_metric("auc", LOGITS, OUTCOME * 0) == 1.0


@pytest.mark.parametrize("metric", ["loss", "macro_f1", "auc", "pr_auc"])
def test_the_weights_that_score_best_are_kept(
    problem: Problem, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes after them, and by whatever score."""
    scores: list[tuple[float, float]] = []
    look = KeepBest.on_evaluate

    def listen(self: KeepBest, *given: Any, **kwargs: Any) -> None:
        found = kwargs["metrics"]
        score = -found["eval_loss"] if metric == "loss" else found[f"eval_{metric}"]
        scores.append((score, found["eval_loss"]))
        look(self, *given, **kwargs)

    monkeypatch.setattr(KeepBest, "on_evaluate", listen)
    model = problem.fresh()
    stage = replace(HEAD, steps=24, head_learning_rate=0.2, evaluate_every=2)
    loss = problem.train(model, stage, with_stopping(metric=metric, patience=1000))
    assert len(scores) == 13
    best = max(score for score, _ in scores)
    assert loss == next(loss for score, loss in scores if score == best)
    assert problem.loss(model) == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("patience", [1, 3])
def test_training_ends_when_patience_is_lost(problem: Problem, patience: int) -> None:
    model, steps = problem.fresh(), [0]
    problem.train(model, HEAD)
    before = problem.loss(model)
    stage = replace(HEAD, steps=40, head_learning_rate=5.0, evaluate_every=2)
    training, validation = (problem.batches(b) for b in (problem.training, problem.validation))
    chosen = with_stopping(patience=patience)
    train(model, training, validation, stage, chosen, lambda done, _: steps.append(done))
    assert steps[-1] == 2 * patience
    assert problem.loss(model) == pytest.approx(before, rel=1e-4)


def test_a_stage_ends_at_its_last_step_however_it_looks(problem: Problem) -> None:
    steps = [0]
    training, validation = (problem.batches(b) for b in (problem.training, problem.validation))
    stage = replace(HEAD, steps=4, head_learning_rate=5.0)
    train(
        problem.fresh(), training, validation, stage, SETTINGS, lambda done, _: steps.append(done)
    )
    assert steps == [0, 1, 2, 3, 4]


def test_stages_follow_the_settings() -> None:
    chosen = BuildSettings.model_validate(
        {
            "optimiser": {"batch_size": 100, "accumulation": 2},
            "head": {"epochs": 5, "learning_rate": 0.004},
            "encoder": {"steps": 90, "learning_rate": 0.0003},
            "stopping": {"evaluations": 10, "encoder_evaluations": 3},
        }
    )
    assert steps_of_pass(20_000, chosen) == 100
    head = head_stage("head", 20_000, chosen)
    assert (head.steps, head.evaluate_every, head.learn_texts) == (500, 50, False)
    assert head.head_learning_rate == 0.004
    young = young_head_stage("young", 20_000, chosen)
    assert (young.steps, young.evaluate_every) == (100, 100)
    joint = joint_stage("joint", chosen)
    assert (joint.steps, joint.evaluate_every, joint.learn_texts) == (90, 30, True)
    assert joint.encoder_learning_rate == 0.0003
    assert joint.head_learning_rate == 0.002
    assert steps_of_pass(10, chosen) == 1
    assert head_stage("small", 10, chosen).evaluate_every == 20
