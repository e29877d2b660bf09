"""What happens beside the steps of training."""

import math
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from shopcast_build.learning.examples import Progress
from shopcast_build.learning.settings import StoppingSettings
from shopcast_build.learning.shopper_model import ShopperModel
from shopcast_build.learning.stages import Stage
from shopcast_build.learning.tuning import Tuning


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
    """Remembers the weights that score best on validation; ends training when patience is lost.

    Raises FloatingPointError when a loss is no number: what was best before is not trained.
    """

    def __init__(self, model: ShopperModel, stage: Stage, settings: StoppingSettings) -> None:
        self._model, self._stage, self._settings = model, stage, settings
        self._score, self._worse = -math.inf, 0
        self.loss, self.step = math.inf, 0
        self._weights: dict[str, Tensor] = {}

    @property
    def out_of_patience(self) -> bool:
        """Whether as many evaluations in a row as allowed brought nothing better."""
        return self._worse >= self._settings.patience

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the training loss."""
        self._check(kwargs["logs"].get("loss", 0.0))

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compare with the best so far."""
        metrics, wanted = kwargs["metrics"], self._settings.metric
        loss = metrics["eval_loss"]
        self._check(loss)
        score = -loss if wanted == "loss" else metrics[f"eval_{wanted}"]
        if score > self._score:
            self._score, self._worse = score, 0
            self.loss, self.step = loss, state.global_step
            self._weights = {name: w.clone() for name, w in learning_weights(self._model).items()}
        else:
            self._worse += 1
            control.should_training_stop |= self.out_of_patience

    def restore(self) -> None:
        """Put the best weights back."""
        put_weights(self._model, self._weights)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs of it."""
        return {
            "score": self._score,
            "loss": self.loss,
            "step": self.step,
            "worse": self._worse,
            "weights": self._weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._score, self._worse = state["score"], state["worse"]
        self.loss, self.step = state["loss"], state["step"]
        self._weights = state["weights"]

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss):
            rates = "head.learning_rate"
            if self._stage.learn_texts:
                rates = "encoder.learning_rate and head.learning_rate"
            raise FloatingPointError(
                f"in the stage '{self._stage.title}' the loss is not a number any more:"
                f" lower {rates}"
            )


class Report(TrainerCallback):
    """Tells how many steps are done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """One step more."""
        self._progress(state.global_step, state.max_steps)


class TuningSteps(TrainerCallback):
    """Tells a tuning of each step, while the gradients are there."""

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The weights have moved."""
        self._tuning.after_step(state.global_step + 1)


def learning_weights(model: ShopperModel) -> dict[str, Tensor]:
    """The weights that require gradients, by name; not copies."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def put_weights(model: ShopperModel, weights: dict[str, Tensor]) -> None:
    """Write weights by name into the model."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])
