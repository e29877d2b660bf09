"""Trains heads and scorers, on pretrained and on fine-tuned vectors, as often as a study needs."""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from shopcast_build.learning.base_model import BaseModel
from shopcast_build.learning.checkpoints import Run
from shopcast_build.learning.evaluation import Judged
from shopcast_build.learning.examples import Progress
from shopcast_build.learning.heads import HeadTraining
from shopcast_build.learning.preparation import Parts
from shopcast_build.learning.pretrained import read_catalogue
from shopcast_build.learning.reporter import Silent
from shopcast_build.learning.scoring import best_scorer, fit_scorers
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.stages import joint_stage, young_head_stage
from shopcast_build.learning.timeline import Timeline
from shopcast_build.study.schema import StepPoint


class _Curve:
    """A tracker that keeps the validation loss of every look at it."""

    def __init__(self) -> None:
        self.points: list[StepPoint] = []

    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        """Keep it, if there is one."""
        if (loss := values.get("validation loss")) is not None:
            self.points.append(StepPoint(stage=stage, step=step, loss=round(loss, 6)))

    def close(self, *, failed: bool) -> None:
        """Nothing was opened."""


class Heads:
    """One base model and one catalogue; every head starts from the same vectors."""

    def __init__(
        self,
        base: BaseModel,
        texts: Sequence[str],
        settings: BuildSettings,
        progress: Progress,
    ) -> None:
        self.settings = settings
        start = read_catalogue(base, texts, settings, progress)
        self._table, self._encoder, self.vectors = start.table, start.encoder, start.vectors

    def untrained(self, timeline: Timeline, parts: Parts, seed: int) -> Judged:
        """A head of random weights."""
        training = self._training(timeline, parts, seed)
        model = training.model(self._encoder, self._table, self.vectors)
        return training.judge(model, model).judged("untrained")

    def head(
        self, timeline: Timeline, parts: Parts, seed: int, *, vectors: Tensor | None = None
    ) -> Judged:
        """A head trained on frozen vectors; `vectors` replaces those of the base model."""
        training = self._training(timeline, parts, seed)
        vectors = self.vectors if vectors is None else vectors
        model = training.model(self._encoder, self._table, vectors)
        return training.judge(*training.fit("head", model)).judged("head")

    def scorer(self, timeline: Timeline, parts: Parts, seed: int) -> Judged:
        """What a build would publish on frozen vectors: the head, trees over numbers and text or
        their blend, whichever validation says is best."""
        training = self._training(timeline, parts, seed)
        model = training.model(self._encoder, self._table, self.vectors)
        head = training.judge(*training.fit("head", model))
        settings = self.settings.model_copy(update={"seed": seed})
        scored = fit_scorers(parts, head, "head", settings, Silent())
        return scored[best_scorer(scored, parts.validation)].judged

    def without_text(self, timeline: Timeline, parts: Parts, seed: int) -> Judged:
        """A head for which every item's vector is zeros."""
        return self.head(timeline, parts, seed, vectors=torch.zeros_like(self.vectors))

    def tuned(self, timeline: Timeline, parts: Parts, seed: int) -> tuple[Judged, list[StepPoint]]:
        """BERT fine-tuned from a young head, then the head trained as ever on its vectors; and what
        validation said on the way."""
        training, curve = self._training(timeline, parts, seed), _Curve()
        model = training.model(copy.deepcopy(self._encoder), self._table, self.vectors)
        exposures = training.exposures_of_a_pass
        training.train(young_head_stage("young head", exposures, self.settings), model)
        with tempfile.TemporaryDirectory(prefix="shopcast-study-") as folder:
            run = Run(Path(folder) / "run")
            run.trackers = (curve,)
            training.train(joint_stage("fine-tuning BERT", self.settings), model, run=run)
        return self.head(timeline, parts, seed, vectors=model.vectors), curve.points

    def _training(self, timeline: Timeline, parts: Parts, seed: int) -> HeadTraining:
        settings = self.settings.model_copy(update={"seed": seed})
        return HeadTraining(timeline, parts, settings, Silent())
