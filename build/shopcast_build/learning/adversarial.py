"""Training on texts whose embeddings are moved in the direction that hurts most."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shopcast_build.learning.settings import AdversarialSettings
from shopcast_build.learning.shopper_model import ShopperModel


class Adversary:
    """Runs a step of training on the texts as they are, finds what hurts most, and runs it again on
    that; the gradients of both add up. No weight is touched.

    What is moved is the output of the token embeddings or, where the lower layers are kept
    (trunk.py), the kept states. epsilon is the length per text, over all of its tokens.
    """

    def __init__(self, model: ShopperModel, settings: AdversarialSettings) -> None:
        self._model, self._settings = model, settings
        self._moves: list[Tensor] = []
        self._seen = 0

    def __call__(self, step: Callable[[], Tensor]) -> Tensor:
        """step: forward, backward, and the loss. Returns the loss on the texts as they are."""
        handle = self._entry().register_forward_hook(self._move)
        draws = _draws()
        try:
            self._moves = []
            loss = self._run(step)
            gradients = [_gradient(move) for move in self._moves]
            self._moves = [torch.zeros_like(move) for move in self._moves]
            kept = [(p, _copy(p.grad)) for p in self._model.parameters() if p.requires_grad]
            rounds = self._settings.steps if self._settings.method == "pgd" else 1
            for left in reversed(range(rounds)):
                self._climb(gradients)
                _redo(draws)  # the same dropout, or the worst direction would be another
                self._run(step)
                if left:
                    gradients = [_gradient(move) for move in self._moves]
                    for parameter, gradient in kept:
                        parameter.grad = _copy(gradient)
        finally:
            handle.remove()
        return loss

    def _entry(self) -> nn.Module:
        if self._model.trunk is not None:
            return self._model.trunk.entry
        return self._model.encoder.bert.get_input_embeddings()

    def _run(self, step: Callable[[], Tensor]) -> Tensor:
        self._seen = 0
        return step()

    def _move(self, _: nn.Module, __: Any, output: Tensor) -> Tensor:
        """Add this pass's move; the encoder reads a batch's texts in several pieces."""
        if self._seen == len(self._moves):
            self._moves.append(torch.zeros_like(output).requires_grad_())
        self._seen += 1
        return output + self._moves[self._seen - 1]

    def _climb(self, gradients: Sequence[Tensor]) -> None:
        settings = self._settings
        length = settings.epsilon if settings.method == "fgm" else settings.step_size
        self._moves = [
            _within(move.detach() + length * _unit(gradient), settings.epsilon).requires_grad_()
            for move, gradient in zip(self._moves, gradients, strict=True)
        ]


def make_adversary(model: ShopperModel, settings: AdversarialSettings) -> Adversary | None:
    """None where the settings ask for none."""
    return None if settings.method == "none" else Adversary(model, settings)


def _norms(moves: Tensor) -> Tensor:
    """Lengths per text: (n, length, hidden) -> (n, 1, 1)."""
    return moves.float().flatten(1).norm(dim=1)[:, None, None].clamp(min=1e-12)


def _unit(gradient: Tensor) -> Tensor:
    return gradient / _norms(gradient)


def _within(moves: Tensor, radius: float) -> Tensor:
    return moves * (radius / _norms(moves)).clamp(max=1.0)


def _gradient(move: Tensor) -> Tensor:
    return torch.zeros_like(move) if move.grad is None else move.grad


def _copy(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.clone()


def _draws() -> tuple[Tensor, list[Tensor]]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), cuda


def _redo(draws: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(draws[0])
    if draws[1]:
        torch.cuda.set_rng_state_all(draws[1])
