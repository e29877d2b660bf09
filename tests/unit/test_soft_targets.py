"""What trees tell the head of people whom they never saw."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from learning_problem import SETTINGS, Problem, changed, weights

from shopcast_build.data.errors import DataError
from shopcast_build.learning.examples import Examples
from shopcast_build.learning.heads import HeadTraining
from shopcast_build.learning.loss import soft_cross_entropy
from shopcast_build.learning.prediction import predict_logits
from shopcast_build.learning.preparation import Parts
from shopcast_build.learning.reporter import Silent
from shopcast_build.learning.soft_targets import SoftTargets, told_by_trees
from shopcast_build.learning.stages import head_stage
from shopcast_domain.events import Outcome


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem()


def parts_of(problem: Problem, train: Examples | None = None) -> Parts:
    early, late = (problem.training.take(np.arange(*span)) for span in ((0, 300), (300, 450)))
    return Parts(train or early, late, problem.validation, problem.training)


def told(problem: Problem, parts: Parts) -> SoftTargets:
    vectors = problem.fresh().vectors.cpu().numpy()
    return told_by_trees(parts, vectors, SETTINGS, lambda done, total: None)


def test_they_are_chances_of_the_outcomes_that_occur(problem: Problem) -> None:
    parts = parts_of(problem)
    found = told(problem, parts)
    for targets, examples in ((found.train, parts.train), (found.refit, parts.refit)):
        assert targets is not None
        assert examples is not None
        assert targets.shape == (len(examples), 3)
        assert targets.dtype == np.float32
        np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-5)
        assert (targets[:, Outcome.RETURN] == 0).all()
        bought = examples.outcome == Outcome.BUY
        buys = targets[:, Outcome.BUY]
        assert buys[bought].mean() > buys[~bought].mean() + 0.1, "they know something"


def test_of_nobody_do_they_know_what_came_of_it(problem: Problem) -> None:
    parts = parts_of(problem)
    before = told(problem, parts)
    assert before.train is not None
    assert before.refit is not None
    person = parts.train.person[0]
    for one in (parts.train, problem.training):
        assert (one.person == person).sum() > 2
    turned = [
        replace(one, outcome=np.where(one.person == person, 1 - one.outcome, one.outcome))
        for one in (parts.train, problem.training)
    ]
    after = told(problem, Parts(turned[0], parts.validation, parts.test, turned[1]))
    assert after.train is not None
    assert after.refit is not None
    own, own_again = parts.train.person == person, problem.training.person == person
    np.testing.assert_array_equal(before.train[own], after.train[own])
    np.testing.assert_array_equal(before.refit[own_again], after.refit[own_again])
    assert (before.train[~own] != after.train[~own]).any(), "of others they do"


def test_the_loss_is_that_of_outcomes_where_they_are_sure() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([0, 1, 2, 1, 0])
    sure = torch.nn.functional.one_hot(labels, 3).float()
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(soft_cross_entropy(logits, sure), expected)
    halves = torch.full((5, 3), 1 / 3)
    assert soft_cross_entropy(torch.zeros(5, 3), halves) < soft_cross_entropy(logits, halves)


def test_a_head_learns_what_it_is_told_in_place_of_what_came_of_it(problem: Problem) -> None:
    parts = parts_of(problem)
    settings = SETTINGS.model_copy(update={"head": SETTINGS.head.model_copy(update={"epochs": 8})})
    turned = replace(parts.validation, outcome=1 - parts.validation.outcome)
    opposite = np.zeros((len(parts.train), 3), dtype=np.float32)
    opposite[np.arange(len(parts.train)), 1 - parts.train.outcome] = 1.0
    odds = {}
    for name, targets, validation in (
        ("outcomes", None, parts.validation),
        ("opposite", opposite, turned),  # by which the best step is chosen
    ):
        model = problem.fresh()
        given = replace(parts, validation=validation)
        heads = HeadTraining(problem.timeline, given, settings, Silent())
        stage = head_stage(name, len(parts.train), settings)
        heads.train(stage, model, targets=targets)
        logits = predict_logits(model, problem.batches(parts.train))
        odds[name] = logits[:, Outcome.BUY] - logits[:, Outcome.VIEW]
    assert np.corrcoef(odds["outcomes"], odds["opposite"])[0, 1] < -0.5


def test_no_view_is_left_out_where_outcomes_are_not_learned(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(problem)
    targets = np.tile(np.array([[0.7, 0.3, 0.0]], np.float32), (len(parts.train), 1))
    ends, steps = [], []
    for kept in (1.0, 0.05):
        settings = SETTINGS.model_copy(
            update={
                "loss": SETTINGS.loss.model_copy(update={"view_share_kept": kept}),
                "head": SETTINGS.head.model_copy(update={"epochs": 8, "targets": "trees"}),
            }
        )
        heads = HeadTraining(problem.timeline, parts, settings, Silent())
        model = problem.fresh()
        heads.train(head_stage("head", len(parts.train), settings), model, targets=targets)
        ends.append(weights(model.behavior))
        monkeypatch.setattr(heads, "train", lambda stage, *_, **__: steps.append(stage.steps) or 1)
        heads.fit("head", problem.fresh())
    assert changed(*ends) == set()
    first, _, second, _ = steps
    assert first == second


def test_it_is_a_setting(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, seen = parts_of(problem), []
    for targets in ("outcomes", "trees"):
        head = SETTINGS.head.model_copy(update={"epochs": 1, "targets": targets})
        settings = SETTINGS.model_copy(update={"head": head})
        heads = HeadTraining(problem.timeline, parts, settings, Silent())
        monkeypatch.setattr(
            heads,
            "train",
            lambda stage, model, *, targets=None, **_: seen.append(targets) or 1,
        )
        heads.fit("train the head", problem.fresh())
    first, again, soft, soft_again = seen
    assert first is None
    assert again is None
    expected = told(problem, parts)
    np.testing.assert_array_equal(soft, expected.train)
    np.testing.assert_array_equal(soft_again, expected.refit)


def test_where_nobody_can_be_left_out_the_error_says_what_to_do(problem: Problem) -> None:
    alone = problem.training.take(np.flatnonzero(problem.training.person == 3))
    with pytest.raises(DataError, match=r"head\.targets"):
        told(problem, replace(parts_of(problem, alone), refit=None))
