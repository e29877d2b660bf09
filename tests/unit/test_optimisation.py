"""Optimiser settings, each seen in what it does to the weights."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from learning_problem import HEAD, JOINT, SETTINGS, Problem, changed, tiny_bert, weights
from torch import nn
from transformers import GPT2Config, GPT2Model, TrainerCallback

from shopcast_build.data.errors import DataError
from shopcast_build.learning import training as training_module
from shopcast_build.learning.encoder import layer_stack
from shopcast_build.learning.optimisation import (
    make_optimiser,
    make_schedule,
    parameter_groups,
    rate_factor,
    set_dropout,
)
from shopcast_build.learning.settings import BuildSettings, OptimiserSettings
from shopcast_build.learning.shopper_model import ShopperModel


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem()


def settings(**optimiser: Any) -> BuildSettings:
    """Small batches, and nothing that hides what a single step does."""
    fields = {"batch_size": 64, "weight_decay": 0.0, "warmup_share": 0.0, "schedule": "constant"}
    return SETTINGS.model_copy(update={"optimiser": OptimiserSettings(**(fields | optimiser))})


ONE_STEP = replace(HEAD, steps=1, evaluate_every=1)


def moved(problem: Problem, model: ShopperModel, chosen: BuildSettings, **stage: Any) -> float:
    """Length of the way the head's weights went."""
    before = weights(model.behavior)
    problem.train(model, replace(HEAD, evaluate_every=stage["steps"], **stage), chosen)
    after = weights(model.behavior)
    return float(sum((after[n] - before[n]).square().sum() for n in before) ** 0.5)


@pytest.mark.parametrize(("name", "rate"), [("adamw", 1e-2), ("sgd", 0.1), ("adafactor", 5e-2)])
def test_every_optimiser_learns(problem: Problem, name: str, rate: float) -> None:
    model = problem.fresh()
    before = problem.loss(model)
    stage = replace(HEAD, head_learning_rate=rate)
    assert problem.train(model, stage, settings(name=name)) < 0.85 * before


def test_optimisers_take_different_ways(problem: Problem) -> None:
    ends = []
    for name in ("adamw", "sgd", "adafactor"):
        model = problem.fresh()
        problem.train(model, ONE_STEP, settings(name=name))
        ends.append(weights(model.behavior))
    assert changed(ends[0], ends[1])
    assert changed(ends[0], ends[2])
    assert changed(ends[1], ends[2])


def test_momentum_carries_sgd_further(problem: Problem) -> None:
    ways = [
        moved(problem, problem.fresh(dropout=0.0), settings(name="sgd", momentum=m),
              steps=8, head_learning_rate=1e-3)
        for m in (0.0, 0.9)
    ]  # fmt: skip
    assert ways[1] > 2 * ways[0]


def test_the_gradient_is_cut_to_its_greatest_norm(problem: Problem) -> None:
    """SGD without momentum goes exactly as far as its rate times the norm of the gradient."""
    for norm in (0.01, 0.05):
        chosen = settings(name="sgd", momentum=0.0, max_grad_norm=norm)
        way = moved(problem, problem.fresh(), chosen, steps=1, head_learning_rate=1.0)
        assert way == pytest.approx(norm, rel=1e-3)


def test_halves_that_accumulate_make_the_step_of_the_whole(problem: Problem) -> None:
    ends = []
    for batch_size, accumulation in ((64, 1), (32, 2)):
        model = problem.fresh(dropout=0.0)
        chosen = settings(
            name="sgd", momentum=0.0, batch_size=batch_size, accumulation=accumulation
        )
        chosen = chosen.model_copy(
            update={"loss": chosen.loss.model_copy(update={"class_weights": "balanced"})}
        )
        before = weights(model.behavior)
        problem.train(model, replace(ONE_STEP, steps=2, evaluate_every=2), chosen)
        ends.append(weights(model.behavior))
    assert changed(before, ends[0])
    for name, weight in ends[0].items():
        torch.testing.assert_close(ends[1][name], weight, atol=2e-6, rtol=1e-4)


def test_weight_decay_shrinks_matrices_and_leaves_biases_and_norms_alone(
    problem: Problem,
) -> None:
    """Without a gradient, decay is all that moves weights."""
    model = problem.fresh()
    before = weights(model)
    optimiser = make_optimiser(model, HEAD, OptimiserSettings(weight_decay=0.5), 1.0)
    for parameter in model.behavior.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    shrunk = changed(before, weights(model))
    assert "behavior.item_vector.weight" in shrunk
    assert "behavior.kind.weight" in shrunk
    assert {name for name in shrunk if name.endswith("bias") or "norm" in name} == set()
    for name in shrunk - {"behavior.nothing"}:
        assert weights(model)[name].norm() < before[name].norm()


def test_rates_fall_from_layer_to_layer(problem: Problem) -> None:
    model = problem.fresh()
    model.encoder.requires_grad_(True)
    groups = parameter_groups(model, JOINT, weight_decay=0.1, layer_decay=0.5)
    rate_of = {id(p): group["lr"] for group in groups for p in group["params"]}
    top = JOINT.encoder_learning_rate
    layers = layer_stack(model.encoder.bert)
    for depth, layer in enumerate(reversed(layers)):
        assert {rate_of[id(p)] for p in layer.parameters()} == {top * 0.5**depth}
    embeddings = model.encoder.bert.get_submodule("embeddings").parameters()
    assert {rate_of[id(p)] for p in embeddings} == {top * 0.5**4}
    assert {rate_of[id(p)] for p in model.encoder.projection.parameters()} == {top}
    head = {rate_of[id(p)] for p in model.behavior.parameters()}
    assert head == {JOINT.head_learning_rate}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_a_decoders_embeddings_are_its_lowest_layer(problem: Problem) -> None:
    decoder = GPT2Model(GPT2Config(vocab_size=128, n_positions=64, n_embd=32, n_layer=3, n_head=2))
    model = problem.fresh(decoder)
    model.encoder.requires_grad_(True)
    groups = parameter_groups(model, JOINT, weight_decay=0.1, layer_decay=0.5)
    rate_of = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rate_of[id(decoder.wte.weight)] == JOINT.encoder_learning_rate * 0.5**3
    assert rate_of[id(decoder.ln_f.weight)] == JOINT.encoder_learning_rate


def test_layer_decay_holds_lower_layers_back(problem: Problem) -> None:
    def ways(layer_decay: float) -> list[float]:
        model = problem.fresh()
        before = weights(model.encoder)
        encoder = SETTINGS.encoder.model_copy(update={"layer_decay": layer_decay, "dropout": 0.0})
        problem.train(model, JOINT, settings().model_copy(update={"encoder": encoder}))
        after = weights(model.encoder)
        name = "bert.encoder.layer.{}.output.dense.weight"
        return [float((after[name.format(n)] - before[name.format(n)]).norm()) for n in (3, 2)]

    even, uneven = ways(1.0), ways(0.1)
    assert uneven[1] / uneven[0] < 0.3 * even[1] / even[0]


SHAPES = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "linear": lambda done: 1 - done,
    "constant": lambda _: 1.0,
    "polynomial": lambda done: (1 - done) ** 2,
    "inverse_sqrt": lambda done: (11 / (11 + 90 * done)) ** 0.5,
}


@pytest.mark.parametrize("schedule", sorted(SHAPES))
def test_the_learning_rate_warms_up_and_follows_its_schedule(schedule: str) -> None:
    weight = nn.Parameter(torch.ones(1))
    optimiser = torch.optim.SGD([weight], lr=2.0)
    chosen = OptimiserSettings.model_validate({"schedule": schedule, "warmup_share": 0.1})
    scheduler = make_schedule(optimiser, 100, chosen)
    rates = []
    for _ in range(100):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    assert rates[:10] == pytest.approx([2 * n / 11 for n in range(1, 11)])
    expected = [2 * SHAPES[schedule](n / 90) for n in range(90)]
    assert rates[10:] == pytest.approx(expected)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_without_a_warm_up_the_first_step_has_the_full_rate() -> None:
    assert rate_factor("linear", 0, 10, 0) == 1.0
    assert rate_factor("linear", 9, 10, 0) == pytest.approx(0.1)  # and the last is not wasted


class _Rates(TrainerCallback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append(kwargs["optimizer"].param_groups[0]["lr"])


def test_training_uses_the_schedule(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = _Rates()
    monkeypatch.setattr(training_module, "Report", lambda _: rates)
    chosen = settings(schedule="linear", warmup_share=0.5)
    problem.train(problem.fresh(), replace(HEAD, steps=4, head_learning_rate=0.3), chosen)
    assert rates.seen == pytest.approx([0.1, 0.2, 0.3, 0.15])


def test_dropout_within_the_head_is_what_was_set(problem: Problem) -> None:
    assert {m.p for m in problem.fresh(dropout=0.3).behavior.modules() if hasattr(m, "p")} == {0.3}


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_within_the_encoder_is_at_work_while_it_learns(
    problem: Problem, dropout: float
) -> None:
    model = problem.fresh(dropout=0.0)
    encoder = SETTINGS.encoder.model_copy(update={"dropout": dropout})
    problem.train(model, JOINT, settings().model_copy(update={"encoder": encoder}))
    model.encoder.train()
    texts = model.table.rows(torch.arange(1, 5))
    assert torch.equal(model.encoder(*texts), model.encoder(*texts)) == (dropout == 0.0)
    model.eval()
    assert torch.equal(model.encoder(*texts), model.encoder(*texts))


def test_models_that_keep_dropout_as_a_number_are_reached() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention_dropout = 0.1
            self.dropout = nn.Dropout(0.1)

    module = nn.Sequential(Attention(), tiny_bert())
    set_dropout(module, 0.25)
    assert module[0].attention_dropout == 0.25
    assert {m.p for m in module.modules() if isinstance(m, nn.Dropout)} == {0.25}


def test_half_precision_without_a_gpu_is_refused(problem: Problem) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(DataError, match=r"fp16 needs a CUDA GPU.*use auto or fp32"):
        problem.train(problem.fresh(), HEAD, settings(precision="fp16"))


def test_bf16_rounds_and_leaves_no_trace_on_the_model(problem: Problem) -> None:
    ends = {}
    for precision in ("auto", "fp32", "bf16"):
        model = problem.fresh()
        fresh = set(model.__dict__)
        stage = replace(JOINT, steps=6, evaluate_every=6)
        loss = problem.train(model, stage, settings(precision=precision))
        assert set(model.__dict__) == fresh
        assert {w.dtype for w in model.parameters()} == {torch.float32}
        assert problem.loss(model) == pytest.approx(loss, rel=1e-2)
        ends[precision] = weights(model)
    assert changed(ends["auto"], ends["fp32"]) == set() or torch.cuda.is_available()
    assert changed(ends["bf16"], ends["fp32"])


def test_every_stage_has_its_precision(problem: Problem) -> None:
    """A model that was trained once is not taken for prepared."""
    ends = []
    for precision in ("fp32", "bf16"):
        model = problem.fresh()
        for chosen in ("fp32", precision):
            problem.train(model, replace(HEAD, steps=10), settings(precision=chosen))
        ends.append(weights(model))
    assert changed(*ends)
