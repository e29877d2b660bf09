"""Fine-tuning: the encoder and the behaviour model together, with the Hugging Face Trainer."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction, TrainerCallback, TrainingArguments

from shopcast_build.learning.adversarial import make_adversary
from shopcast_build.learning.augmentation import Augmentation
from shopcast_build.learning.batches import EVALUATE_BATCH, ExposureBatches
from shopcast_build.learning.callbacks import KeepBest, Refresh, Report, TuningSteps
from shopcast_build.learning.checkpoints import Run, StageFolder
from shopcast_build.learning.examples import Progress
from shopcast_build.learning.loss import keep_views, make_objective
from shopcast_build.learning.optimisation import (
    choose_precision,
    make_optimiser,
    make_schedule,
    set_dropout,
)
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.shopper_model import ShopperModel
from shopcast_build.learning.stages import Stage
from shopcast_build.learning.stopping import validation_metric
from shopcast_build.learning.tracking import Curves
from shopcast_build.learning.trainer import Attack, ExposureTrainer
from shopcast_build.learning.trunk import keep_trunk
from shopcast_build.learning.tuning import start_tuning

_LOGS = 100
"""Points of a curve."""


@dataclass(frozen=True, slots=True)
class Best:
    """The weights a training leaves: their loss on validation, and after how many steps."""

    loss: float
    step: int


def train(
    model: ShopperModel,
    training: ExposureBatches,
    validation: ExposureBatches,
    stage: Stage,
    settings: BuildSettings,
    progress: Progress = lambda done, total: None,
    *,
    run: Run | None = None,
    attack: Attack | None = None,
) -> Best:
    """Train in place and leave the weights that score best on validation.

    With a run, a stage that was finished in it is not trained again, and one that was begun goes
    on. Raises FloatingPointError when the loss stops being a number.
    """
    folder = run.stage(stage.title) if run else None
    done = folder.finished() if folder else None
    _choose_weights(model, stage, settings)
    if done:
        best = Best(float(done["loss"]), int(done["step"]))
        model.load_state_dict(done["weights"], strict=False)
        if stage.learn_texts:
            model.vectors = done["vectors"].to(model.vectors.device)
    else:
        best = _train(model, training, validation, stage, settings, progress, run, folder, attack)
        if stage.learn_texts:
            model.refresh()
        if folder:
            folder.finish({"loss": best.loss, "step": best.step, **_end(model, stage)})
    if model.tuning:
        model.tuning.finish()
    model.trunk = model.objective = model.tuning = model.augmentation = None
    model.eval()
    return best


def _choose_weights(model: ShopperModel, stage: Stage, settings: BuildSettings) -> None:
    model.learn_texts = stage.learn_texts
    model.encoder.requires_grad_(False)
    if stage.learn_texts:
        torch.manual_seed(settings.seed)  # what a tuning adds starts at random
        model.tuning = start_tuning(model.encoder, settings.encoder, stage.steps)


def _end(model: ShopperModel, stage: Stage) -> dict[str, Any]:
    """What a stage that is done leaves behind."""
    if stage.learn_texts:
        return {"weights": model.state_dict(), "vectors": model.vectors}
    return {"weights": {f"behavior.{k}": w for k, w in model.behavior.state_dict().items()}}


def _train(
    model: ShopperModel,
    training: ExposureBatches,
    validation: ExposureBatches,
    stage: Stage,
    settings: BuildSettings,
    progress: Progress,
    run: Run | None,
    folder: StageFolder | None,
    attack: Attack | None,
) -> Best:
    outcome = training.examples.outcome[training.rows]
    # What the left-out views distort is undone in the loss, of outcomes alone.
    share = 1.0 if training.taught else settings.loss.view_share_kept
    kept = keep_views(outcome, share, settings.seed)
    model.objective = make_objective(settings.loss, outcome, kept, model.vectors.device)
    model.augmentation = Augmentation(settings.augmentation)
    training = training.only(training.rows[kept])
    if stage.learn_texts:
        set_dropout(model.encoder, settings.encoder.dropout)
        if not model.augmentation.changes_texts:
            model.trunk = keep_trunk(model.encoder, model.table)
        attack = attack or make_adversary(model, settings.adversarial)
    keep_best = KeepBest(model, stage, settings.stopping)
    callbacks: list[TrainerCallback] = [keep_best, Report(progress)]
    if stage.learn_texts:
        callbacks.insert(0, Refresh(model, stage.evaluate_every))
    if model.tuning:
        callbacks.append(TuningSteps(model.tuning))
    if run and run.trackers:
        callbacks.append(Curves(stage.title, run.trackers))
    optimiser = make_optimiser(model, stage, settings.optimiser, settings.encoder.layer_decay)
    with ExitStack() as stack:
        if folder:
            output = folder.path
        else:
            scratch = tempfile.TemporaryDirectory(prefix="shopcast-train-")
            output = Path(stack.enter_context(scratch))
        trainer = ExposureTrainer(
            keep_best=keep_best,
            folder=folder,
            attack=attack,
            model=model,
            args=_arguments(output, stage, settings, save=folder is not None),
            data_collator=training.collate,
            train_dataset=training,
            eval_dataset=validation,
            compute_metrics=_compute(settings.stopping.metric, validation),
            optimizers=(optimiser, make_schedule(optimiser, stage.steps, settings.optimiser)),
            callbacks=callbacks,
        )
        trainer.learn()
    keep_best.restore()
    return Best(keep_best.loss, keep_best.step)


def _arguments(
    output: Path, stage: Stage, settings: BuildSettings, *, save: bool
) -> TrainingArguments:
    optimiser = settings.optimiser
    precision = choose_precision(optimiser.precision)
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=stage.steps,
        per_device_train_batch_size=optimiser.batch_size,
        per_device_eval_batch_size=EVALUATE_BATCH,
        gradient_accumulation_steps=optimiser.accumulation,
        max_grad_norm=optimiser.max_grad_norm,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        eval_strategy="steps",
        eval_steps=stage.evaluate_every,
        # A head may be at its best as it is. Texts were read with other vectors before.
        eval_on_start=not stage.learn_texts,
        save_strategy="steps" if save else "no",
        save_steps=stage.evaluate_every,
        logging_strategy="steps",
        logging_steps=max(1, stage.steps // _LOGS),
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        seed=settings.seed,
        dataloader_pin_memory=False,
        use_cpu=not torch.cuda.is_available(),
        # The vectors are a buffer, and every process refreshes it at the same steps.
        ddp_broadcast_buffers=False,
        # An encoder may have weights that no vector depends on, such as BERT's pooler.
        ddp_find_unused_parameters=stage.learn_texts,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs are for several processes
    return arguments


def _compute(
    metric: str, validation: ExposureBatches
) -> Callable[[EvalPrediction], dict[str, float]] | None:
    if metric == "loss":
        return None
    looked = ~validation.examples.at_orders[validation.rows]

    def compute(predicted: EvalPrediction) -> dict[str, float]:
        outcome = np.asarray(predicted.label_ids)
        logits = np.asarray(predicted.predictions)
        return {metric: validation_metric(metric, logits, outcome, looked)}

    return compute
