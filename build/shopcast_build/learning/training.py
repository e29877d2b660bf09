"""Fine-tuning: the encoder and the behaviour model together, with the Hugging Face Trainer."""

import tempfile
from typing import Any, cast

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from shopcast_build.learning.batches import EVALUATE_BATCH, ExposureBatches, in_order
from shopcast_build.learning.callbacks import KeepBest, Refresh, Report
from shopcast_build.learning.examples import Progress
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.shopper_model import ShopperModel
from shopcast_build.learning.stages import Stage
from shopcast_build.learning.trunk import keep_trunk


class _ExposureTrainer(Trainer):
    """Collates each part from its own examples."""

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """The validation exposures, in order."""
        return in_order(cast(ExposureBatches, eval_dataset or self.eval_dataset))


def train(
    model: ShopperModel,
    training: ExposureBatches,
    validation: ExposureBatches,
    stage: Stage,
    settings: BuildSettings,
    progress: Progress = lambda done, total: None,
) -> float:
    """Train in place and leave the weights with the lowest validation loss. Returns that loss.

    Raises FloatingPointError when the loss stops being a number.
    """
    model.learn_texts = stage.learn_texts
    model.encoder.requires_grad_(False)
    groups = [{"params": list(model.behavior.parameters()), "lr": stage.head_learning_rate}]
    if stage.learn_texts:
        model.encoder.projection.requires_grad_(True)
        model.encoder.train_top(settings.encoder.layers)
        model.trunk = keep_trunk(model.encoder, model.table, settings.encoder.layers)
        learning = [p for p in model.encoder.parameters() if p.requires_grad]
        groups.append({"params": learning, "lr": settings.encoder.learning_rate})
    keep_best = KeepBest(model, stage.patience)
    callbacks: list[TrainerCallback] = [keep_best, Report(progress)]
    if stage.learn_texts:
        callbacks.insert(0, Refresh(model, stage.evaluate_every))
    with tempfile.TemporaryDirectory(prefix="shopcast-train-") as scratch:
        trainer = _ExposureTrainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                max_steps=stage.steps,
                per_device_train_batch_size=settings.optimiser.batch_size,
                per_device_eval_batch_size=EVALUATE_BATCH,
                eval_strategy="steps",
                eval_steps=stage.evaluate_every,
                lr_scheduler_type="cosine",
                warmup_steps=max(1, stage.steps // 20),
                weight_decay=settings.optimiser.weight_decay,
                max_grad_norm=1.0,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
                label_names=["labels"],
                seed=settings.seed,
                dataloader_pin_memory=False,
            ),
            data_collator=training.collate,
            train_dataset=training,
            eval_dataset=validation,
            optimizers=(
                torch.optim.AdamW(groups, weight_decay=settings.optimiser.weight_decay),
                None,
            ),
            callbacks=callbacks,
        )
        _quiet(trainer)
        if not stage.learn_texts:
            trainer.evaluate()  # the start is a candidate for the best, too
        trainer.train()
    keep_best.restore()
    if stage.learn_texts:
        model.refresh()
        model.trunk = None
    model.eval()
    return keep_best.loss


def _quiet(trainer: Trainer) -> None:
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
