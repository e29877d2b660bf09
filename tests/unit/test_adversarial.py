"""Training on moved embeddings: how far they move, what it costs, and that nothing else changes."""

from typing import Any

import pytest
import torch
from learning_problem import JOINT, SETTINGS, Problem, weights
from torch import Tensor

from shopcast_build.learning.adversarial import Adversary, make_adversary
from shopcast_build.learning.settings import AdversarialSettings, EncoderSettings
from shopcast_build.learning.shopper_model import ShopperModel
from shopcast_build.learning.trunk import keep_trunk
from shopcast_build.learning.tuning import start_tuning

FGM = AdversarialSettings(method="fgm", epsilon=0.3)
PGD = AdversarialSettings(method="pgd", epsilon=0.3, step_size=0.2, steps=3)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem()


class Passes:
    """A step of training that remembers what entered the encoder and what it cost."""

    def __init__(self, problem: Problem, *, keeps: bool, dropout: bool = False) -> None:
        torch.manual_seed(3)
        self.model: ShopperModel = problem.fresh()
        self.model.learn_texts = True
        self.model.train(dropout)
        self.model.training = True
        start_tuning(self.model.encoder, EncoderSettings(layers=2), 10)
        if keeps:
            self.model.trunk = keep_trunk(self.model.encoder, self.model.table)
            assert self.model.trunk is not None
        self.batch = problem.batches(problem.training).collate(list(range(80)))
        trunk = self.model.trunk
        self._entry = trunk.entry if trunk else self.model.encoder.bert.get_input_embeddings()
        self.entered: list[list[Tensor]] = []
        self.losses: list[float] = []

    def _look(self, _: Any, __: Any, output: Tensor) -> None:
        self.entered[-1].append(output.detach().clone())

    def __call__(self) -> Tensor:
        self.entered.append([])
        handle = self._entry.register_forward_hook(self._look)  # behind the adversary's
        loss = self.model(**self.batch)["loss"]
        handle.remove()
        loss.backward()
        self.losses.append(loss.item())
        return loss.detach()

    def moves(self, number: int) -> Tensor:
        """How far each text was moved in a pass, over all its tokens."""
        pairs = zip(self.entered[0], self.entered[number], strict=True)
        return torch.cat([(moved - clean).flatten(1).norm(dim=1) for clean, moved in pairs])

    def gradients(self) -> dict[str, Tensor]:
        return {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("keeps", [True, False], ids=["kept states", "token embeddings"])
def test_fgm_moves_every_text_by_epsilon(problem: Problem, keeps: bool) -> None:
    step = Passes(problem, keeps=keeps)
    Adversary(step.model, FGM)(step)
    assert len(step.losses) == 2
    torch.testing.assert_close(step.moves(1), torch.full_like(step.moves(1), 0.3))


@pytest.mark.parametrize("keeps", [True, False], ids=["kept states", "token embeddings"])
def test_pgd_takes_steps_and_stays_inside_the_ball(problem: Problem, keeps: bool) -> None:
    step = Passes(problem, keeps=keeps)
    Adversary(step.model, PGD)(step)
    assert len(step.losses) == 4
    torch.testing.assert_close(step.moves(1), torch.full_like(step.moves(1), 0.2))
    for number in (2, 3):
        assert step.moves(number).max() <= 0.3 * (1 + 1e-4)
        assert step.moves(number).max() > 0.25
    assert not torch.allclose(step.entered[2][0], step.entered[3][0], atol=1e-5)


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("settings", [FGM, PGD], ids=["fgm", "pgd"])
def test_no_weight_moves_and_no_hook_stays(
    problem: Problem, settings: AdversarialSettings, keeps: bool
) -> None:
    step = Passes(problem, keeps=keeps)
    before, clean = weights(step.model), Passes(problem, keeps=keeps)()
    found = Adversary(step.model, settings)(step)
    after = weights(step.model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert found == clean  # what is reported is the loss on the texts as they are
    assert step() == clean


@pytest.mark.parametrize("settings", [FGM, PGD], ids=["fgm", "pgd"])
def test_the_moved_texts_cost_more(problem: Problem, settings: AdversarialSettings) -> None:
    step = Passes(problem, keeps=True, dropout=True)
    Adversary(step.model, settings)(step)
    assert step.losses[-1] > step.losses[0]
    assert step.losses == sorted(step.losses)


@pytest.mark.parametrize("settings", [FGM, PGD], ids=["fgm", "pgd"])
def test_the_gradients_are_those_of_the_first_and_the_last_pass(
    problem: Problem, settings: AdversarialSettings
) -> None:
    step = Passes(problem, keeps=True)
    seen: list[dict[str, Tensor]] = []

    def watched() -> Tensor:
        before = step.gradients()
        loss = step()
        after = step.gradients()
        seen.append({n: g - before.get(n, torch.zeros_like(g)) for n, g in after.items()})
        return loss

    Adversary(step.model, settings)(watched)
    for name, gradient in step.gradients().items():
        torch.testing.assert_close(
            gradient, seen[0][name] + seen[-1][name], atol=1e-5, rtol=1e-4, msg=name
        )


def test_gradients_gathered_before_stay(problem: Problem) -> None:
    """As with accumulation, where a step comes on top of others."""
    alone, later = Passes(problem, keeps=True), Passes(problem, keeps=True)
    Adversary(alone.model, PGD)(alone)
    for parameter in later.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    Adversary(later.model, PGD)(later)
    for name, gradient in later.gradients().items():
        own = alone.gradients().get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient - 1, own, atol=1e-4, rtol=1e-3, msg=name)


def test_every_pass_has_the_same_dropout(problem: Problem) -> None:
    step = Passes(problem, keeps=True, dropout=True)
    Adversary(step.model, FGM.model_copy(update={"epsilon": 1e-9}))(step)
    assert step.losses[1] == pytest.approx(step.losses[0], abs=1e-6)
    step()
    assert step.losses[2] != pytest.approx(step.losses[0], abs=1e-6)


@pytest.mark.parametrize("tuning", ["top", "full", "lora", "prefix"])
@pytest.mark.parametrize("settings", [FGM, PGD], ids=["fgm", "pgd"])
def test_training_still_learns_and_ends_elsewhere(
    problem: Problem, tuning: Any, settings: AdversarialSettings
) -> None:
    encoder = SETTINGS.encoder.model_copy(update={"tuning": tuning})
    plain = SETTINGS.model_copy(update={"encoder": encoder})
    losses = []
    for adversarial in (AdversarialSettings(), settings):
        model = problem.fresh()
        before = problem.loss(model)
        chosen = plain.model_copy(update={"adversarial": adversarial})
        losses.append(problem.train(model, JOINT, chosen))
        assert losses[-1] < before
    assert losses[0] != losses[1]


def test_without_a_method_there_is_no_adversary(problem: Problem) -> None:
    assert make_adversary(problem.fresh(), AdversarialSettings()) is None
