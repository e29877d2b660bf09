"""What happens beside the steps of training."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from shopcast_build.learning.examples import Progress
from shopcast_build.learning.shopper_model import ShopperModel


class Refresh(TrainerCallback):
    """Encodes the catalogue anew before every evaluation: each `steps` steps and at the end."""

    def __init__(self, model: ShopperModel, steps: int) -> None:
        self._model, self._steps = model, steps

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Refresh when it is due."""
        if state.global_step % self._steps == 0 or state.global_step == state.max_steps:
            self._model.refresh()


class KeepBest(TrainerCallback):
    """Remembers the weights of the lowest validation loss; stops after `patience` worse ones.

    Raises FloatingPointError when the loss is no number: what was best before is not trained.
    """

    def __init__(self, model: nn.Module, patience: int) -> None:
        self._model, self._patience = model, patience
        self.loss, self._worse = float("inf"), 0
        self._weights: dict[str, Tensor] = {}

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Compare with the best so far."""
        loss = kwargs["metrics"]["eval_loss"]
        if not np.isfinite(loss):
            raise FloatingPointError("the loss is not a number any more: lower the learning rates")
        if loss < self.loss:
            self.loss, self._worse = loss, 0
            self._weights = {
                name: p.detach().clone()
                for name, p in self._model.named_parameters()
                if p.requires_grad
            }
        else:
            self._worse += 1
            control.should_training_stop = self._worse >= self._patience

    def restore(self) -> None:
        """Put the best weights back."""
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                if name in self._weights:
                    parameter.copy_(self._weights[name])


class Report(TrainerCallback):
    """Tells how many steps are done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """One step more."""
        self._progress(state.global_step, state.max_steps)
