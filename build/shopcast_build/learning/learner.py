"""Training the model and its rivals on one set of examples, and choosing what to publish.

Everything is chosen on validation: when to stop, whether to keep the fine-tuned encoder, what
scores, calibration. What was chosen is then fitted again to all exposures whose outcome was known
before the test began, as whoever serves the model would do, and judged on the test.
"""

import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shopcast_build.learning import processes
from shopcast_build.learning.base_model import BaseModel
from shopcast_build.learning.checkpoints import Run
from shopcast_build.learning.distillation import check_smaller, distil
from shopcast_build.learning.encoder import layer_stack
from shopcast_build.learning.evaluation import (
    BASKET_FEATURES,
    HISTORY_FEATURES,
    Judged,
    gradient_boosting,
    majority,
)
from shopcast_build.learning.examples import Examples
from shopcast_build.learning.heads import FittedHead, HeadTraining
from shopcast_build.learning.preparation import Parts
from shopcast_build.learning.pretrained import read_catalogue
from shopcast_build.learning.reporter import Reporter
from shopcast_build.learning.scorer import Scorer
from shopcast_build.learning.scoring import best_scorer, fit_scorers, losses
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.shopper_model import ShopperModel
from shopcast_build.learning.stages import joint_stage, young_head_stage
from shopcast_build.learning.timeline import Timeline
from shopcast_domain.manifest import Calibration, Teacher

UNTRAINED = "untrained"
"""Pretrained BERT with a random head."""
FROZEN = "before fine-tuning"
"""A trained head on the vectors of the pretrained encoder."""
TUNED = "after fine-tuning"
"""A head trained in the same way on the vectors of the fine-tuned encoder."""
DISTILLED = "distilled"
"""A head trained in the same way on the vectors of a smaller encoder."""
HISTORY_FREE = "without history"
"""A head trained without anything of the person."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What learning leads to. judged: by name, on validation and test. published: which of them
    was chosen; model, scorer and calibration are its. teacher: of a distilled encoder."""

    judged: dict[str, Judged]
    published: str
    encoder: Literal["pretrained", "fine-tuned", "distilled"]
    model: ShopperModel
    scorer: Scorer
    calibration: Calibration
    teacher: Teacher | None = None


class Learner:
    """Trains the model and its rivals on one set of examples."""

    def __init__(
        self,
        base: BaseModel,
        timeline: Timeline,
        parts: Parts,
        settings: BuildSettings,
        reporter: Reporter,
        run: Run | None = None,
    ) -> None:
        self._timeline, self._parts = timeline, parts
        self._settings, self._reporter, self._run = settings, reporter, run
        texts = timeline.catalogue.texts
        with reporter.stage(f"encode {len(texts) - 1:,} item texts") as progress:
            start = read_catalogue(base, texts, settings, progress, run)
        if settings.distillation.layers:  # now rather than after the training
            check_smaller(start.encoder, settings.distillation.layers)
        self.tokeniser = start.tokeniser
        self.unknown_token_share = start.table.share_of(base.unknown_id)
        self._heads = HeadTraining(timeline, parts, settings, reporter, run)
        self._model = self._heads.model(start.encoder, start.table, start.vectors)

    def learn(self) -> Learned | None:
        """Train and judge everything, and choose. Of several processes only the first judges; the
        others get None."""
        first, heads, model = processes.is_first(), self._heads, self._model
        found: dict[str, FittedHead] = {}
        if first:
            found[UNTRAINED] = heads.judge(model, model)
        frozen = heads.fit("train the head on frozen vectors", model)
        if first:
            found[FROZEN] = heads.judge(*frozen)
        if self._settings.encoder.steps:
            model = copy.deepcopy(model)
            self._fine_tune(model)
            tuned = heads.fit("train the head on fine-tuned vectors", model)
            if first:
                found[TUNED] = heads.judge(*tuned)
        nobody = self._parts.each(without_history)
        alone = HeadTraining(self._timeline, nobody, self._settings, self._reporter, self._run)
        stranger = alone.model(model.encoder, model.table, model.vectors)
        rival = alone.fit("a rival without history", stranger)
        if not first:
            return None
        judged = {name: head.judged(name) for name, head in found.items()}
        judged[HISTORY_FREE] = alone.judge(*rival).judged(HISTORY_FREE)
        for other in self._rivals():
            judged[other.name] = other
        chosen = _better_encoder(judged, self._parts.validation)
        scorers = fit_scorers(self._parts, found[chosen], chosen, self._settings, self._reporter)
        judged |= {name: one.judged for name, one in scorers.items()}
        published = best_scorer(scorers, self._parts.validation)
        encoder: Literal["pretrained", "fine-tuned"]
        encoder = "fine-tuned" if chosen == TUNED else "pretrained"
        learned = Learned(
            judged,
            published,
            encoder,
            found[chosen].model,
            scorers[published].scorer,
            scorers[published].calibration,
        )
        return self._distilled(learned) if self._settings.distillation.layers else learned

    def _distilled(self, large: Learned) -> Learned:
        """The same with a smaller encoder, whose vectors the head and the trees learn anew."""
        settings, model = self._settings, copy.deepcopy(large.model)
        with self._reporter.stage(f"distil into {settings.distillation.layers} layers") as progress:
            found = distil(
                large.model.encoder,
                model.table,
                model.vectors,
                settings.distillation,
                seed=settings.seed,
                progress=progress,
            )
        model.encoder = found.encoder
        model.refresh()
        head = self._heads.judge(*self._heads.fit("train the head on its vectors", model))
        scorers = {
            name if name == DISTILLED else f"{DISTILLED}: {name}": one
            for name, one in fit_scorers(
                self._parts, head, DISTILLED, settings, self._reporter
            ).items()
        }
        published = best_scorer(scorers, self._parts.validation)
        bert = large.model.encoder
        return Learned(
            large.judged | {name: one.judged for name, one in scorers.items()},
            published,
            "distilled",
            head.model,
            scorers[published].scorer,
            scorers[published].calibration,
            Teacher(
                published_as=large.published,
                encoder="fine-tuned" if large.encoder == "fine-tuned" else "pretrained",
                layers=len(layer_stack(bert.bert)),
                parameters=sum(weight.numel() for weight in bert.parameters()),
                cosine=round(found.cosine, 4),
                faster=round(found.faster, 2),
            ),
        )

    def _fine_tune(self, model: ShopperModel) -> None:
        """Fine-tune BERT. The head is trained anew afterwards, so that only the vectors differ.

        Starts from a young head: one that has converged on frozen vectors has little to teach BERT.
        """
        heads, settings = self._heads, self._settings
        model.behavior = heads.fresh()
        young = young_head_stage("train a young head", heads.exposures_of_a_pass, settings)
        heads.train(young, model)
        heads.train(joint_stage("fine-tune BERT with the head", settings), model)

    def _rivals(self) -> list[Judged]:
        parts = self._parts
        with self._reporter.stage("a rival of gradient-boosted trees") as progress:
            trees = gradient_boosting(
                (parts.train.features, parts.train.outcome),
                (parts.validation.features, parts.validation.outcome),
                parts.test.features,
                seed=self._settings.seed,
                members=self._settings.scorer.members,
                again=(parts.refit.features, parts.refit.outcome) if parts.refit else None,
            )
            progress(1, 1)
        known = parts.refit or parts.train
        asked = parts.validation.platform, parts.test.platform
        return [trees, majority(known.outcome, known.platform, *asked)]


def _better_encoder(judged: dict[str, Judged], validation: Examples) -> str:
    """The fine-tuned encoder, unless fine-tuning made the head worse on validation by more than one
    standard error of the difference in log loss."""
    if TUNED not in judged:
        return FROZEN
    worse = losses(judged[TUNED], validation) - losses(judged[FROZEN], validation)
    return FROZEN if worse.mean() > worse.std() / np.sqrt(len(worse)) else TUNED


def without_history(examples: Examples) -> Examples:
    """The same exposures of people nothing is known of."""
    features = examples.features.copy()
    features[:, HISTORY_FEATURES] = 0.0
    # Unless an order is being placed, the basket is a cart, and so of the person's past.
    features[np.ix_(~examples.at_orders, BASKET_FEATURES)] = 0.0
    values = {name: getattr(examples, name) for name in Examples.__slots__}
    return Examples(**(values | {"features": features, "first": examples.position}))
