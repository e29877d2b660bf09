"""Training on a small problem: what was bought before says what is bought next."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from learning_problem import HEAD, HISTORY, JOINT, SETTINGS, Problem, changed, weights
from transformers import GPT2Config, GPT2Model

from shopcast_build.learning.prediction import predict_logits
from shopcast_build.learning.shopper_model import ShopperModel
from shopcast_build.learning.stages import Stage
from shopcast_domain.features import FEATURES
from shopcast_domain.manifest import NO_CHANCE


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem()


Fresh = Callable[..., ShopperModel]


@pytest.fixture
def fresh(problem: Problem) -> Fresh:
    """Makes the same untrained model each time."""
    return problem.fresh


def test_training_the_head_lowers_the_loss_and_leaves_the_encoder_bit_identical(
    problem: Problem, fresh: Fresh
) -> None:
    model = fresh()
    encoder, vectors, before = weights(model.encoder), model.vectors.clone(), problem.loss(model)
    loss = problem.train(model, HEAD)
    assert loss < 0.7 * before
    assert problem.loss(model) == pytest.approx(loss, rel=1e-4)  # the best weights are in place
    assert changed(encoder, weights(model.encoder)) == set()
    assert torch.equal(model.vectors, vectors)
    assert not model.training


def test_learning_the_texts_changes_only_the_top_layers_and_the_projection(
    problem: Problem, fresh: Fresh
) -> None:
    model = fresh()
    encoder, vectors, before = weights(model.encoder), model.vectors.clone(), problem.loss(model)
    loss = problem.train(model, JOINT)
    assert loss < before
    assert problem.loss(model) == pytest.approx(loss, rel=1e-4)
    layers = {
        name.split("layer.")[1][0] if "layer." in name else name
        for name in changed(encoder, weights(model.encoder))
    }
    assert layers == {"2", "3", "projection.weight", "projection.bias"}
    assert not torch.equal(model.vectors, vectors)
    with torch.no_grad():
        text = torch.arange(1, len(model.table))
        expected = model.encoder(*model.table.rows(text))
    torch.testing.assert_close(model.vectors[1:], expected, atol=1e-5, rtol=0)
    assert model.trunk is None


def test_a_head_trained_after_the_texts_leaves_them_alone(problem: Problem, fresh: Fresh) -> None:
    model = fresh()
    problem.train(model, JOINT)
    encoder = weights(model.encoder)
    problem.train(model, HEAD)
    assert changed(encoder, weights(model.encoder)) == set()


@pytest.mark.parametrize("stage", [HEAD, JOINT], ids=["head", "joint"])
def test_the_same_seed_gives_the_same_weights(problem: Problem, fresh: Fresh, stage: Stage) -> None:
    found = []
    for seed in (7, 7, 8):
        model = fresh()
        settings = SETTINGS.model_copy(update={"seed": seed})
        problem.train(model, stage, settings)
        found.append(weights(model))
    assert changed(found[0], found[1]) == set()
    assert changed(found[0], found[2])


def test_a_few_steps_count_although_no_evaluation_falls_due(problem: Problem, fresh: Fresh) -> None:
    """A small log has fewer steps than there are between two evaluations."""
    model = fresh()
    before = problem.loss(model)
    stage = replace(JOINT, steps=6, head_learning_rate=1e-2, evaluate_every=20)
    loss = problem.train(model, stage)
    assert loss != before
    assert problem.loss(model) == pytest.approx(loss, rel=1e-4)


def test_training_that_makes_things_worse_is_undone(problem: Problem, fresh: Fresh) -> None:
    model = fresh()
    problem.train(model, HEAD)
    before = problem.loss(model)
    wild = replace(HEAD, steps=10, head_learning_rate=5.0, evaluate_every=5)
    assert problem.train(model, wild) == pytest.approx(before, rel=1e-4)
    assert problem.loss(model) == pytest.approx(before, rel=1e-4)


def test_a_decoder_is_trained_without_kept_states(problem: Problem, fresh: Fresh) -> None:
    torch.manual_seed(2)
    decoder = GPT2Model(GPT2Config(vocab_size=128, n_positions=64, n_embd=32, n_layer=3, n_head=2))
    model = fresh(decoder)
    encoder, before = weights(model.encoder), problem.loss(model)
    assert problem.train(model, JOINT) < before
    layers = {
        name.split(".h.")[1][0] if ".h." in name else name
        for name in changed(encoder, weights(model.encoder))
    }
    assert layers == {"1", "2", "projection.weight", "projection.bias"}


def assert_one_sentence(error: BaseException) -> None:
    assert str(error) == (
        "in the stage 'the head' the loss is not a number any more: lower head.learning_rate"
    )


def test_a_loss_that_is_no_number_from_the_start_is_an_error(
    problem: Problem, fresh: Fresh
) -> None:
    model = fresh()
    with torch.no_grad():
        model.behavior.wide.bias[0] = float("nan")
    with pytest.raises(FloatingPointError) as failed:
        problem.train(model, HEAD)
    assert_one_sentence(failed.value)


def test_a_loss_that_stops_being_a_number_is_an_error(problem: Problem, fresh: Fresh) -> None:
    """Else the weights from before would pass for trained ones."""
    stage = replace(HEAD, steps=10, head_learning_rate=1e30, evaluate_every=5)
    with pytest.raises(FloatingPointError) as failed:
        problem.train(fresh(), stage)
    assert_one_sentence(failed.value)


def test_an_outcome_never_seen_gets_no_chance(problem: Problem, fresh: Fresh) -> None:
    model = fresh()
    logits = predict_logits(model, problem.batches(problem.validation))
    assert logits.shape == (len(problem.validation), 3)
    assert (logits[:, 2] < NO_CHANCE / 2).all()
    assert np.isfinite(logits).all()


def test_histories_are_the_newest_events_before_the_exposure(problem: Problem) -> None:
    examples, timeline = problem.validation, problem.timeline
    batch = problem.batches(examples).collate([3, 0, 100])
    assert batch["history_mask"].shape[1] <= HISTORY
    for row, n in enumerate([3, 0, 100]):
        person, at_s = int(examples.person[n]), examples.at_s[n]
        (position,) = timeline.position(np.array([person]), np.array([at_s]))
        window = timeline.window(person, int(position), HISTORY, at_s)
        seen = slice(len(window))
        assert batch["history_mask"][row].tolist() == [1.0] * len(window) + [0.0] * (
            batch["history_mask"].shape[1] - len(window)
        )
        np.testing.assert_array_equal(batch["history_kind"][row, seen], window.kind)
        ages = np.expm1(batch["history_numbers"][row, seen, 0].numpy()) * 3600
        np.testing.assert_allclose(ages, at_s - window.time_s, rtol=1e-4)
        np.testing.assert_array_equal(
            batch["history_text"][row, seen], timeline.catalogue.text[window.item]
        )
        assert batch["labels"][row] == examples.outcome[n]


def test_a_stranger_has_one_masked_event(problem: Problem) -> None:
    alone = np.flatnonzero(problem.training.position == problem.training.first)[:1]
    batch = problem.batches(problem.training).collate(alone.tolist())
    assert batch["history_mask"].tolist() == [[0.0]]
    assert batch["history_numbers"].tolist() == [[[0.0, 0.0, 0.0]]]
    assert batch["features"].shape == (1, len(FEATURES))
