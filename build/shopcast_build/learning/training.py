"""Fine-tuning: the encoder and the behaviour model together, with the Hugging Face Trainer."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from shopcast_build.learning.behavior import BehaviorModel
from shopcast_build.learning.encoder import ItemEncoder, TokenTable, encode_all
from shopcast_build.learning.examples import Examples
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.timeline import Timeline
from shopcast_build.learning.trunk import KeptTrunk, keep_trunk
from shopcast_domain.features import history_numbers
from shopcast_domain.manifest import NO_CHANCE

Progress = Callable[[int, int], None]
_EVALUATE_BATCH = 1024
_CHUNK = 64


class ShopperModel(nn.Module):
    """Encoder and behaviour model as one, for training.

    Candidates' texts are encoded with gradient while `learn_texts` is set; histories always read
    the table of vectors, which is refreshed now and then. `trained`: bool (3,), those that occur.
    """

    vectors: Tensor
    no_chance: Tensor

    def __init__(
        self,
        encoder: ItemEncoder,
        behavior: BehaviorModel,
        table: TokenTable,
        trained: Sequence[bool],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.behavior = behavior
        self.table = table
        self.trunk: KeptTrunk | None = None
        self.learn_texts = False
        no_chance = [0.0 if occurs else NO_CHANCE for occurs in trained]
        self.register_buffer("no_chance", torch.tensor(no_chance), persistent=False)
        dim = encoder.projection.out_features
        self.register_buffer("vectors", torch.zeros(len(table), dim), persistent=False)

    def refresh(self, progress: Progress = lambda done, total: None) -> None:
        """Encode the whole catalogue anew."""
        training = self.encoder.training
        self.encoder.eval()
        self.vectors = encode_all(self._encode, self.table, progress=progress)
        self.encoder.train(training)

    def forward(
        self,
        text: Tensor,
        features: Tensor,
        history_text: Tensor,
        history_kind: Tensor,
        history_numbers: Tensor,
        history_mask: Tensor,
        labels: Tensor,
    ) -> dict[str, Tensor]:
        """One candidate per exposure: text, labels int64 (b,); features float32 (b, f); the history
        as BehaviorModel has it, with texts int64 (b, h) in place of vectors.

        Returns the mean cross-entropy ("loss") and the logits, float32 (b, 3).
        """
        logits = self.behavior(
            self.vectors[history_text],
            history_kind,
            history_numbers,
            history_mask,
            self._candidate_vectors(text).unsqueeze(1),
            features.unsqueeze(1),
        ).squeeze(1)
        logits = logits + self.no_chance
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    def _candidate_vectors(self, text: Tensor) -> Tensor:
        if not (self.learn_texts and self.training):
            return self.vectors[text]
        distinct, where = torch.unique(text, return_inverse=True)
        # In chunks of like length: padding is work.
        order = torch.argsort(self.table.lengths[distinct], stable=True)
        encoded = torch.cat([self._encode(rows) for rows in distinct[order].split(_CHUNK)])
        encoded = encoded[torch.argsort(order)]
        return (encoded * (distinct != 0).unsqueeze(1))[where]  # the empty text is zeros

    def _encode(self, text: Tensor) -> Tensor:
        if self.trunk is not None:
            return self.trunk.encode(text)
        return self.encoder(*self.table.rows(text))


class ExposureBatches(Dataset[int]):
    """Indices of exposures, and the collation of some of them into the tensors of a batch."""

    def __init__(self, examples: Examples, timeline: Timeline, history_events: int) -> None:
        self._examples = examples
        self._timeline = timeline
        self._back = np.arange(1, history_events + 1)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The arguments of ShopperModel.forward; histories are newest first."""
        ex, log = self._examples, self._timeline
        rows = np.asarray(indices)
        longest = max(1, int((ex.position[rows] - ex.first[rows]).max()))
        at = ex.position[rows, None] - self._back[:longest]  # (b, h)
        present = at >= ex.first[rows, None]
        at = np.where(present, at, 0)
        numbers = history_numbers(
            ex.at_s[rows, None] - log.time_s[at],
            log.platform[at] == ex.platform[rows, None],
            log.price[at],
        )
        return {
            "text": torch.from_numpy(ex.text[rows]),
            "features": torch.from_numpy(ex.features[rows]),
            "history_text": torch.from_numpy(log.catalogue.text[log.item[at]] * present),
            "history_kind": torch.from_numpy(log.kind[at] * present),
            "history_numbers": torch.from_numpy(numbers * present[..., None].astype(np.float32)),
            "history_mask": torch.from_numpy(present.astype(np.float32)),
            "labels": torch.from_numpy(ex.outcome[rows]),
        }


class _Refresh(TrainerCallback):
    """Encodes the catalogue anew before every evaluation: each `steps` steps and at the end."""

    def __init__(self, model: ShopperModel, steps: int) -> None:
        self._model, self._steps = model, steps

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step % self._steps == 0 or state.global_step == state.max_steps:
            self._model.refresh()


class _KeepBest(TrainerCallback):
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


class _Report(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._progress(state.global_step, state.max_steps)


class _ExposureTrainer(Trainer):
    """Collates each part from its own examples."""

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """The validation exposures, in order."""
        return _loader(cast(ExposureBatches, eval_dataset or self.eval_dataset))


@dataclass(frozen=True, slots=True)
class Stage:
    """One stretch of training. learn_texts: fine-tune the encoder too, not only the head."""

    learn_texts: bool
    steps: int
    head_learning_rate: float
    evaluate_every: int
    patience: int = 3


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
    keep_best = _KeepBest(model, stage.patience)
    callbacks: list[TrainerCallback] = [keep_best, _Report(progress)]
    if stage.learn_texts:
        callbacks.insert(0, _Refresh(model, stage.evaluate_every))
    with tempfile.TemporaryDirectory(prefix="shopcast-train-") as scratch:
        trainer = _ExposureTrainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                max_steps=stage.steps,
                per_device_train_batch_size=settings.optimiser.batch_size,
                per_device_eval_batch_size=_EVALUATE_BATCH,
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


def _loader(batches: ExposureBatches) -> Any:
    return DataLoader(batches, batch_size=_EVALUATE_BATCH, collate_fn=cast(Any, batches.collate))


@torch.inference_mode()
def predict_logits(model: ShopperModel, batches: ExposureBatches) -> NDArray[np.float32]:
    """Logits of every exposure, float32 (M, 3), in order."""
    model.eval()
    device = model.vectors.device
    parts = [
        model(**{name: tensor.to(device) for name, tensor in batch.items()})["logits"]
        for batch in _loader(batches)
    ]
    return torch.cat(parts).cpu().numpy()
