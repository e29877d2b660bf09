"""The Hugging Face Trainer, taught what one of our steps, checkpoints and evaluations is."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from shopcast_build.data.disk import writing
from shopcast_build.learning import checkpoints
from shopcast_build.learning.batches import ExposureBatches, in_order
from shopcast_build.learning.callbacks import KeepBest, learning_weights, put_weights
from shopcast_build.learning.checkpoints import StageFolder
from shopcast_build.learning.shopper_model import ShopperModel

Attack = Callable[[Callable[[], Tensor]], Tensor]
"""Runs a step, which goes forward and backward and returns its loss, and then perhaps once more on
harder inputs; returns the loss to report."""

_LEARNED = "learned.pt"


class ExposureTrainer(Trainer):
    """Trains a ShopperModel and keeps its best weights.

    folder: where checkpoints go and come from; None: nowhere. attack: around every step.
    """

    def __init__(
        self,
        *,
        keep_best: KeepBest,
        folder: StageFolder | None,
        attack: Attack | None,
        model: ShopperModel,
        **trainer: Any,
    ) -> None:
        super().__init__(model=model, **trainer)
        self._learner = model
        self._keep_best, self._folder, self._attack = keep_best, folder, attack
        for printing in (PrinterCallback, ProgressCallback):
            self.remove_callback(printing)
        if folder:
            self.add_callback(_Complete(folder))

    def learn(self) -> None:
        """Train from the start, or from the newest checkpoint on."""
        checkpoint = self._folder.newest() if self._folder else None
        if checkpoint is None:
            self._run(None)
        else:
            self._load_from_checkpoint(str(checkpoint))
            self.args.eval_on_start = False
            done = checkpoints.step_of(checkpoint) >= self.args.max_steps
            if not (done or self._keep_best.out_of_patience):
                self._run(str(checkpoint))
        # What Accelerate leaves on a model outlives this training, and the next one would take it
        # for prepared already: it would neither share gradients nor use another precision.
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
            self._learner.__dict__.pop(name, None)

    def _run(self, checkpoint: str | None) -> None:
        with warnings.catch_warnings():
            # The name that replaces it would have the buffers sent at the start.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self.train(resume_from_checkpoint=checkpoint)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """The validation exposures in order, collated from their own examples; several processes
        share them."""
        batches = cast(ExposureBatches, eval_dataset or self.eval_dataset)
        return self.accelerator.prepare(in_order(batches))

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward; the attack decides how often, and on what."""

        def step() -> Tensor:
            return super(ExposureTrainer, self).training_step(model, inputs, num_items_in_batch)

        return self._attack(step) if self._attack else step()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with writing(Path(self.args.output_dir or "")):
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """What cannot be had again from the build's inputs: never the weights that do not learn."""
        if not self.args.should_save or output_dir is None:
            return
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        state = {
            "weights": learning_weights(self._learner),
            "best": self._keep_best.state_dict(),
            "tuning": self._learner.tuning.state() if self._learner.tuning else {},
            "vectors": self._learner.vectors if self._learner.learn_texts else None,
        }
        checkpoints.save(state, Path(output_dir) / _LEARNED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        state = checkpoints.load(Path(resume_from_checkpoint) / _LEARNED)
        put_weights(self._learner, state["weights"])
        self._keep_best.load_state_dict(state["best"])
        if self._learner.tuning:
            self._learner.tuning.restore(state["tuning"])
        if state["vectors"] is not None:
            self._learner.vectors = state["vectors"].to(self._learner.vectors.device)


class _Complete(TrainerCallback):
    """Marks checkpoints that were written whole."""

    def __init__(self, folder: StageFolder) -> None:
        self._folder = folder

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._folder.complete(state.global_step)
