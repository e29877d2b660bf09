from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from learning_problem import SETTINGS, Problem

from shopcast_build.learning import preparation
from shopcast_build.learning.base_model import load_base_model
from shopcast_build.learning.behavior import HeadEnsemble
from shopcast_build.learning.calibration import fit_calibration
from shopcast_build.learning.export import BEHAVIOR_INPUTS, export_behavior, open_session
from shopcast_build.learning.heads import HeadTraining
from shopcast_build.learning.learner import FROZEN, Learned, Learner
from shopcast_build.learning.preparation import Parts
from shopcast_build.learning.reporter import Silent
from shopcast_build.learning.scorer_graph import into_graph
from shopcast_build.learning.scoring import BLEND, TREES, fit_scorers
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.trees import Rows
from shopcast_domain.events import Outcome


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem()


def changed(**sections: dict[str, Any]) -> BuildSettings:
    sections = {"encoder": {"steps": 0}, "head": {"epochs": 8}, **sections}
    return SETTINGS.model_copy(
        update={
            name: getattr(SETTINGS, name).model_copy(update=to) for name, to in sections.items()
        }
    )


def parts_of(problem: Problem, *, refit: bool = False) -> Parts:
    early = problem.training.take(np.arange(250))
    late = problem.training.take(np.arange(250, 450))
    return Parts(early, late, problem.validation, problem.training if refit else None)


def learn(problem: Problem, base: Path, settings: BuildSettings, **more: Any) -> Learned:
    parts = parts_of(problem, **more)
    learner = Learner(load_base_model(str(base)), problem.timeline, parts, settings, Silent())
    learned = learner.learn()
    assert learned is not None
    return learned


@pytest.mark.parametrize(
    ("kind", "published"), [("head", {FROZEN}), ("trees", {TREES}), ("blend", {BLEND})]
)
def test_a_scorer_that_is_asked_for_is_published(
    problem: Problem, tiny_base: Path, kind: str, published: set[str]
) -> None:
    learned = learn(problem, tiny_base, changed(scorer={"kind": kind}))
    assert {learned.published} == published
    assert learned.scorer.kind == kind
    assert learned.encoder == "pretrained"


def test_the_scorer_with_the_lowest_loss_on_validation_is_published(
    problem: Problem, tiny_base: Path
) -> None:
    learned = learn(problem, tiny_base, changed())
    outcome = parts_of(problem).validation.outcome
    losses = {
        name: -np.log(judged.validation[np.arange(len(outcome)), outcome]).mean()
        for name, judged in learned.judged.items()
        if name in (FROZEN, TREES, BLEND)
    }
    assert len(losses) == 3
    assert learned.published == min(losses, key=lambda name: losses[name])


def test_members_are_heads_of_different_seeds_whose_logits_are_averaged_in_one_graph(
    problem: Problem, tiny_base: Path, tmp_path: Path
) -> None:
    learned = learn(problem, tiny_base, changed(scorer={"kind": "head", "members": 3}))
    ensemble = learned.model.behavior
    assert isinstance(ensemble, HeadEnsemble)
    batch = problem.batches(problem.validation).collate(range(8))
    vectors = learned.model.vectors
    inputs = (
        vectors[batch["history_text"]],
        batch["history_kind"],
        batch["history_numbers"],
        batch["history_mask"],
        vectors[batch["text"]].unsqueeze(1),
        batch["features"].unsqueeze(1),
    )
    with torch.inference_mode():
        each = torch.stack([head(*inputs) for head in ensemble.heads])
        together = ensemble(*inputs)
    torch.testing.assert_close(together, each.mean(0))
    assert (each[0] - each[1]).abs().max() > 1e-3
    export_behavior(ensemble, tmp_path / "model.onnx", vector_dim=vectors.shape[1])
    graph = into_graph(onnx.load(tmp_path / "model.onnx"), learned.scorer)
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    feed = {n: t.numpy() for n, t in zip(BEHAVIOR_INPUTS, inputs, strict=True)}
    served = open_session(tmp_path / "model.onnx", 1).run(["logits"], feed)[0]
    np.testing.assert_allclose(served, together.numpy(), atol=1e-4)


def test_what_was_chosen_is_fitted_again_and_validation_never_sees_it(
    problem: Problem, tiny_base: Path
) -> None:
    settings = changed(scorer={"kind": "head"})
    once = learn(problem, tiny_base, settings)
    again = learn(problem, tiny_base, settings, refit=True)
    one, other = once.judged[FROZEN], again.judged[FROZEN]
    np.testing.assert_array_equal(one.validation, other.validation)
    assert not np.array_equal(one.test, other.test)
    assert once.calibration.scale == again.calibration.scale
    assert once.calibration.bias != again.calibration.bias


def test_what_is_fitted_again_is_right_on_average_on_what_it_learned_from(
    problem: Problem,
) -> None:
    parts, settings = parts_of(problem, refit=True), changed(scorer={"kind": "auto"})
    outcome = parts.train.outcome.copy()
    outcome[:200] = Outcome.VIEW  # so that validation has more purchases
    parts = replace(parts, train=replace(parts.train, outcome=outcome))
    training, model = HeadTraining(problem.timeline, parts, settings, Silent()), problem.fresh()
    head = training.judge(*training.fit("head", model))
    known = parts.known()
    rows = Rows(known.features, model.vectors.cpu().numpy()[known.text], known.outcome)
    shares = np.bincount(known.outcome, minlength=3) / len(known)
    on_validation = np.bincount(parts.validation.outcome, minlength=3) / len(parts.validation)
    scored = fit_scorers(parts, head, "head", settings, Silent())
    assert scored.keys() == {"head", TREES, BLEND}
    for name, one in scored.items():
        found = one.calibration.apply(one.scorer.logits(head.known, rows))
        np.testing.assert_allclose(found.mean(0), shares, atol=0.01, err_msg=name)
        judged = one.judged.validation.mean(0)
        np.testing.assert_allclose(judged, on_validation, atol=0.02, err_msg=name)


def test_an_outcome_that_only_came_after_the_training_part_gets_no_chance(
    problem: Problem,
) -> None:
    parts, settings = parts_of(problem, refit=True), changed(scorer={"kind": "auto"})
    assert parts.refit is not None
    outcome = parts.refit.outcome.copy()
    outcome[-20:] = Outcome.RETURN
    parts = replace(parts, refit=replace(parts.refit, outcome=outcome))
    training, model = HeadTraining(problem.timeline, parts, settings, Silent()), problem.fresh()
    head = training.judge(*training.fit("head", model))
    for one in fit_scorers(parts, head, "head", settings, Silent()).values():
        assert (one.judged.test[:, Outcome.RETURN] == 0.0).all()
        np.testing.assert_allclose(one.judged.test.sum(1), 1.0)
        assert one.judged.test[:, 1].mean() == pytest.approx(
            (parts.test.outcome == 1).mean(), abs=0.15
        )


def test_long_logs_are_asked_for_a_part_of_what_was_learned_evenly_over_time(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(problem, refit=True)
    assert len(parts.known()) == len(problem.training)
    monkeypatch.setattr(preparation, "_MOST_KNOWN", 50)
    known = parts.known().at_s
    assert len(known) == 50
    assert (known[[0, -1]] == problem.training.at_s[[0, -1]]).all()
    assert len(parts_of(problem).known()) == len(parts.validation), "nothing is fitted again"


def test_an_outcome_that_is_too_rare_for_a_part_of_what_was_learned_keeps_its_chance(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = np.where(problem.training.outcome == Outcome.VIEW, Outcome.VIEW, Outcome.BUY)
    outcome[1] = Outcome.RETURN
    refit = replace(problem.training, outcome=outcome)
    parts = replace(parts_of(problem), train=refit.take(np.arange(250)), refit=refit)
    monkeypatch.setattr(preparation, "_MOST_KNOWN", 50)
    known = parts.known().outcome
    logits = np.zeros((len(known), 3), dtype=np.float32)
    assert fit_calibration(logits, known, scale=1.0).apply(logits)[0, Outcome.RETURN] > 0.0


def test_a_head_fitted_again_takes_as_many_more_steps_as_there_are_more_exposures(
    problem: Problem,
) -> None:
    parts, taken = parts_of(problem, refit=True), []

    class Watched(HeadTraining):
        def train(self, stage: Any, model: Any, **more: Any) -> int:
            taken.append(stage.steps)
            super().train(stage, model, **more)
            return 10  # as if validation had found the tenth step best

    model = problem.fresh()
    training = Watched(problem.timeline, parts, changed(), Silent())
    judging, final = training.fit("head", model)
    assert taken[1] == round(10 * len(problem.training) / len(parts.train))
    assert judging is model
    assert final is not model
    nothing = replace(parts, refit=None)
    judging, final = HeadTraining(problem.timeline, nothing, changed(), Silent()).fit("head", model)
    assert judging is final is model
