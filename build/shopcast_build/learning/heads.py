"""Training behaviour heads on item vectors as they are, and judging them."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shopcast_build.learning import processes
from shopcast_build.learning.batches import ExposureBatches
from shopcast_build.learning.behavior import BehaviorModel, HeadEnsemble
from shopcast_build.learning.calibration import fit_calibrations
from shopcast_build.learning.checkpoints import Run
from shopcast_build.learning.encoder import ItemEncoder
from shopcast_build.learning.evaluation import Judged
from shopcast_build.learning.examples import Examples, Progress
from shopcast_build.learning.loss import keep_views
from shopcast_build.learning.prediction import predict_logits
from shopcast_build.learning.preparation import Parts
from shopcast_build.learning.reporter import Reporter
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.shopper_model import ShopperModel
from shopcast_build.learning.soft_targets import SoftTargets, told_by_trees
from shopcast_build.learning.stages import Stage, head_stage
from shopcast_build.learning.timeline import Timeline
from shopcast_build.learning.token_table import TokenTable
from shopcast_build.learning.training import train
from shopcast_build.learning.trees import Matrix, member_seeds
from shopcast_domain.events import Outcome
from shopcast_domain.manifest import Calibration

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FittedHead:
    """A head, judged. model: what the test judges, and whose calibration `final` is; another may
    have been judged on validation, with that of `chosen`. validation, test, known: logits, float32
    (M, 3), of the first two parts and of `Parts.known`."""

    model: ShopperModel
    validation: Logits
    test: Logits
    known: Logits
    chosen: Calibration
    final: Calibration

    def judged(self, name: str) -> Judged:
        """Calibrated."""
        return Judged(name, self.chosen.apply(self.validation), self.final.apply(self.test))


class HeadTraining:
    """Trains heads on one set of examples."""

    def __init__(
        self,
        timeline: Timeline,
        parts: Parts,
        settings: BuildSettings,
        reporter: Reporter,
        run: Run | None = None,
    ) -> None:
        self._timeline, self._parts, self._settings = timeline, parts, settings
        self._reporter, self._run = reporter, run

    def model(self, encoder: ItemEncoder, table: TokenTable, vectors: Tensor) -> ShopperModel:
        """A model of these vectors, float32 (texts, d), with a head of random weights."""
        trained = np.isin(np.arange(len(Outcome)), self._parts.train.outcome).tolist()
        model = ShopperModel(encoder, self.fresh(), table, trained).to(processes.device())
        model.vectors = vectors
        return model

    def fresh(self, seed: int | None = None) -> BehaviorModel:
        """A head of random weights. seed: None is that of the settings."""
        settings = self._settings
        torch.manual_seed(settings.seed if seed is None else seed)
        head = BehaviorModel(settings.encoder.vector_dim, settings.head.dropout)
        head.numbers.fit(self._parts.train.features)
        return head.to(processes.device())

    def fit(self, title: str, model: ShopperModel) -> tuple[ShopperModel, ShopperModel]:
        """Train fresh heads on the model's vectors: those that validation judges, put into the
        model, and those that were then fitted again to all that was known before the test."""
        parts = self._parts
        told = self._soft_targets(model)
        again = self.model(model.encoder, model.table, model.vectors)
        heads: list[nn.Module] = []
        final: list[nn.Module] = []
        seeds = member_seeds(self._settings.seed, self._settings.scorer.members)
        for member, seed in enumerate(seeds):
            named = f"{title} ({member + 1})" if member else title
            model.behavior = self.fresh(seed)
            seen = self.exposures_of_a_pass if told.train is None else len(parts.train)
            stage = head_stage(named, seen, self._settings)
            best = self.train(stage, model, seed=seed, targets=told.train)
            heads.append(model.behavior)
            if parts.refit is not None:
                again.behavior = self.fresh(seed)
                steps = max(1, round(best * len(parts.refit) / len(parts.train)))
                longer = replace(
                    stage, title=f"{named}, on all earlier", steps=steps, evaluate_every=steps
                )
                self.train(longer, again, on=parts.refit, seed=seed, targets=told.refit)
                final.append(again.behavior)
        model.behavior = _one(heads)
        if not final:
            return model, model
        again.behavior = _one(final)
        return model, again

    def judge(self, model: ShopperModel, final: ShopperModel) -> FittedHead:
        """model: what validation judges and calibrates; final: what the test judges."""
        parts, known = self._parts, self._parts.known()
        validation = predict_logits(model, self._batches(parts.validation))
        test = predict_logits(final, self._batches(parts.test))
        learned = predict_logits(final, self._batches(known))
        calibrations = fit_calibrations(
            (validation, parts.validation.outcome), (learned, known.outcome)
        )
        return FittedHead(final, validation, test, learned, *calibrations)

    def train(
        self,
        stage: Stage,
        model: ShopperModel,
        *,
        on: Examples | None = None,
        seed: int | None = None,
        run: Run | None = None,
        targets: Matrix | None = None,
    ) -> int:
        """Train in place. Returns after how many steps the model was at its best.

        on: the training part unless told otherwise. run: in place of the one given at first.
        targets: what is learned in place of outcomes.
        """
        settings = self._settings
        if seed is not None:
            settings = settings.model_copy(update={"seed": seed})
        training = self._batches(on or self._parts.train)
        if targets is not None:
            training = training.with_targets(targets)
        with self._reporter.stage(stage.title) as progress:
            return self._train(stage, model, training, settings, progress, run)

    def _soft_targets(self, model: ShopperModel) -> SoftTargets:
        if self._settings.head.targets == "outcomes":
            return SoftTargets()
        with self._reporter.stage("what trees say of people they never saw") as progress:
            vectors = model.vectors.cpu().numpy()
            return told_by_trees(self._parts, vectors, self._settings, progress)

    def _train(
        self,
        stage: Stage,
        model: ShopperModel,
        training: ExposureBatches,
        settings: BuildSettings,
        progress: Progress,
        run: Run | None,
    ) -> int:
        validation = self._batches(self._parts.validation)
        best = train(model, training, validation, stage, settings, progress, run=run or self._run)
        return best.step

    @property
    def exposures_of_a_pass(self) -> int:
        """Training exposures that one pass sees where outcomes are learned."""
        settings = self._settings
        return len(
            keep_views(self._parts.train.outcome, settings.loss.view_share_kept, settings.seed)
        )

    def _batches(self, examples: Examples) -> ExposureBatches:
        return ExposureBatches(examples, self._timeline, self._settings.history.events)


def _one(heads: list[nn.Module]) -> nn.Module:
    return heads[0] if len(heads) == 1 else HeadEnsemble(heads)
