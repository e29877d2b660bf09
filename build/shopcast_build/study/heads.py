"""Trains behaviour heads, on pretrained and on fine-tuned vectors, as often as a study needs."""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shopcast_build.learning.base_model import BaseModel
from shopcast_build.learning.batches import ExposureBatches
from shopcast_build.learning.behavior import BehaviorModel
from shopcast_build.learning.calibration import fit_calibration
from shopcast_build.learning.checkpoints import Run
from shopcast_build.learning.encoder import ItemEncoder
from shopcast_build.learning.evaluation import Judged
from shopcast_build.learning.examples import Examples, Progress
from shopcast_build.learning.loss import keep_views
from shopcast_build.learning.prediction import predict_logits
from shopcast_build.learning.preparation import Parts
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.shopper_model import ShopperModel
from shopcast_build.learning.stages import Stage, head_stage, joint_stage, young_head_stage
from shopcast_build.learning.timeline import Timeline
from shopcast_build.learning.token_table import TokenTable, encode_all
from shopcast_build.learning.training import train
from shopcast_build.study.schema import StepPoint
from shopcast_domain.events import Outcome
from shopcast_domain.tokeniser import ItemTokeniser


def _silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


class _Curve:
    """A tracker that keeps the validation loss of every look at it."""

    def __init__(self) -> None:
        self.points: list[StepPoint] = []

    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        """Keep it, if there is one."""
        if (loss := values.get("validation loss")) is not None:
            self.points.append(StepPoint(stage=stage, step=step, loss=round(loss, 6)))

    def close(self) -> None:
        """Nothing was opened."""


class Heads:
    """One base model and one catalogue; every head starts from the same vectors."""

    def __init__(
        self,
        base: BaseModel,
        texts: Sequence[str],
        settings: BuildSettings,
        progress: Progress = _silent,
    ) -> None:
        self.settings = settings
        tokeniser = ItemTokeniser(
            base.tokeniser, max_tokens=settings.encoder.max_tokens, pad_id=base.pad_id
        )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._table = TokenTable(texts, tokeniser, device)
        torch.manual_seed(settings.seed)
        shape = settings.encoder
        encoder = ItemEncoder(base.model, shape.vector_dim, shape.adaptation)
        self._encoder = encoder.to(device).eval()
        pooled = encode_all(
            lambda text: self._encoder.pooled(*self._table.rows(text)),
            self._table,
            progress=progress,
        )
        self._encoder.start_projection(pooled[1:].cpu().numpy())
        self.vectors = self._encoder.start_vectors(pooled)
        self.vectors[0] = 0.0

    def untrained(self, timeline: Timeline, parts: Parts, seed: int) -> Judged:
        """A head of random weights."""
        model = self._fresh(parts, seed)
        return self._judge("untrained", model, model, timeline, parts)

    def head(
        self,
        timeline: Timeline,
        parts: Parts,
        seed: int,
        *,
        vectors: Tensor | None = None,
        progress: Progress = _silent,
    ) -> Judged:
        """A head trained on frozen vectors; `vectors` replaces those of the base model."""
        model = self._fresh(parts, seed, vectors)
        stage = head_stage("head", self._exposures(parts, seed), self.settings)
        best = self._train(model, timeline, parts, stage, seed, progress)
        if parts.refit is None:
            return self._judge("head", model, model, timeline, parts)
        again = self._fresh(parts, seed, vectors)
        steps = max(1, round(best * len(parts.refit) / len(parts.train)))
        longer = replace(stage, steps=steps, evaluate_every=steps)
        self._train(again, timeline, replace(parts, train=parts.refit), longer, seed)
        return self._judge("head", model, again, timeline, parts)

    def without_text(
        self, timeline: Timeline, parts: Parts, seed: int, progress: Progress = _silent
    ) -> Judged:
        """A head for which every item's vector is zeros."""
        nothing = torch.zeros_like(self.vectors)
        return self.head(timeline, parts, seed, vectors=nothing, progress=progress)

    def tuned(
        self, timeline: Timeline, parts: Parts, seed: int, progress: Progress = _silent
    ) -> tuple[Judged, list[StepPoint]]:
        """BERT fine-tuned from a young head, then the head trained as ever on its vectors; and what
        validation said on the way."""
        model, curve = self._fresh(parts, seed), _Curve()
        model.encoder = copy.deepcopy(self._encoder)
        young = young_head_stage("young head", self._exposures(parts, seed), self.settings)
        self._train(model, timeline, parts, young, seed)
        with tempfile.TemporaryDirectory(prefix="shopcast-study-") as folder:
            run = Run(Path(folder) / "run")
            run.trackers = (curve,)
            joint = joint_stage("fine-tuning BERT", self.settings)
            self._train(model, timeline, parts, joint, seed, progress, run)
        return self.head(timeline, parts, seed, vectors=model.vectors), curve.points

    def _fresh(self, parts: Parts, seed: int, vectors: Tensor | None = None) -> ShopperModel:
        torch.manual_seed(seed)
        dims = self.settings.encoder.vector_dim
        behavior = BehaviorModel(dims, self.settings.head.dropout)
        behavior.numbers.fit(parts.train.features)
        trained = np.isin(np.arange(len(Outcome)), parts.train.outcome).tolist()
        model = ShopperModel(self._encoder, behavior, self._table, trained)
        model.vectors = self.vectors if vectors is None else vectors
        return model.to(self.vectors.device)

    def _exposures(self, parts: Parts, seed: int) -> int:
        """Those of one pass."""
        return len(keep_views(parts.train.outcome, self.settings.loss.view_share_kept, seed))

    def _train(
        self,
        model: ShopperModel,
        timeline: Timeline,
        parts: Parts,
        stage: Stage,
        seed: int,
        progress: Progress = _silent,
        run: Run | None = None,
    ) -> int:
        """Returns after how many steps the model was at its best."""
        settings = self.settings.model_copy(update={"seed": seed})
        training, validation = (
            self._batches(timeline, part) for part in (parts.train, parts.validation)
        )
        return train(model, training, validation, stage, settings, progress, run=run).step

    def _batches(self, timeline: Timeline, examples: Examples) -> ExposureBatches:
        return ExposureBatches(examples, timeline, self.settings.history.events)

    def _judge(
        self,
        name: str,
        model: ShopperModel,
        final: ShopperModel,
        timeline: Timeline,
        parts: Parts,
    ) -> Judged:
        """model: what validation judges and calibrates; final: what the test judges."""
        validation = predict_logits(model, self._batches(timeline, parts.validation))
        test = predict_logits(final, self._batches(timeline, parts.test))
        calibration = fit_calibration(validation, parts.validation.outcome)
        return Judged(name, calibration.apply(validation), calibration.apply(test))
