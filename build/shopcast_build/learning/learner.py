"""Training the model and its rivals on one set of examples, and choosing what to publish.

Everything is chosen on validation: when to stop, whether to keep the fine-tuned encoder, what
scores, calibration. What was chosen is then fitted again to all exposures whose outcome was known
before the test began, as whoever serves the model would do, and judged on the test.
"""

import copy
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from shopcast_build.learning import processes
from shopcast_build.learning.base_model import BaseModel
from shopcast_build.learning.batches import ExposureBatches
from shopcast_build.learning.behavior import BehaviorModel, HeadEnsemble
from shopcast_build.learning.calibration import fit_calibration
from shopcast_build.learning.checkpoints import Run
from shopcast_build.learning.encoder import ItemEncoder
from shopcast_build.learning.evaluation import (
    BASKET_FEATURES,
    HISTORY_FEATURES,
    Judged,
    gradient_boosting,
    majority,
)
from shopcast_build.learning.examples import Examples
from shopcast_build.learning.kept_states import KeptStates, state_key
from shopcast_build.learning.loss import keep_views
from shopcast_build.learning.prediction import predict_logits
from shopcast_build.learning.preparation import Parts
from shopcast_build.learning.reporter import Reporter
from shopcast_build.learning.scorer import Scorer, blend, trees_alone
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.shopper_model import ShopperModel
from shopcast_build.learning.stages import Stage, head_stage, joint_stage, young_head_stage
from shopcast_build.learning.timeline import Timeline
from shopcast_build.learning.token_table import TokenTable, encode_all
from shopcast_build.learning.training import train
from shopcast_build.learning.trees import Rows, TextComponents, Trees
from shopcast_domain.events import Outcome
from shopcast_domain.features import FEATURES, Floats
from shopcast_domain.manifest import Calibration
from shopcast_domain.tokeniser import ItemTokeniser

UNTRAINED = "untrained"
"""Pretrained BERT with a random head."""
FROZEN = "before fine-tuning"
"""A trained head on the vectors of the pretrained encoder."""
TUNED = "after fine-tuning"
"""A head trained in the same way on the vectors of the fine-tuned encoder."""
HISTORY_FREE = "without history"
"""A head trained without anything of the person."""
TREES = "trees over numbers and text"
BLEND = "blend of head and trees"

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Learned:
    """What learning leads to. judged: by name, on validation and test. published: which of them
    was chosen; model, scorer and calibration are its."""

    judged: dict[str, Judged]
    published: str
    encoder: Literal["pretrained", "fine-tuned"]
    model: ShopperModel
    scorer: Scorer
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A head, judged: its logits and their calibration, fitted on validation."""

    model: ShopperModel
    validation: Logits
    test: Logits
    calibration: Calibration

    def judged(self, name: str) -> Judged:
        """Calibrated."""
        apply = self.calibration.apply
        return Judged(name, apply(self.validation), apply(self.test))


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
        self.tokeniser = ItemTokeniser(
            base.tokeniser, max_tokens=settings.encoder.max_tokens, pad_id=base.pad_id
        )
        device = processes.device()
        table = TokenTable(timeline.catalogue.texts, self.tokeniser, device)
        self.unknown_token_share = table.share_of(base.unknown_id)
        shape = settings.encoder
        encoder = ItemEncoder(base.model, shape.vector_dim, shape.adaptation).to(device).eval()
        trained = np.isin(np.arange(len(Outcome)), parts.train.outcome).tolist()
        self.model = ShopperModel(encoder, self._fresh_head(), table, trained).to(device)
        with reporter.stage(f"encode {len(table) - 1:,} item texts") as progress:
            pooled = encode_all(
                lambda text: encoder.pooled(*table.rows(text)),
                table,
                progress=progress,
                kept=_kept_states(run, base, settings) if run else None,
            )
        encoder.start_projection(pooled[1:].cpu().numpy())
        vectors = encoder.start_vectors(pooled)
        vectors[0] = 0.0
        self.model.vectors = vectors

    def learn(self) -> Learned | None:
        """Train and judge everything, and choose. Of several processes only the first judges; the
        others get None."""
        first = processes.is_first()
        heads: dict[str, _Fitted] = {}
        if first:
            heads[UNTRAINED] = self._judge(self.model, self.model)
        frozen = self._train_head("train the head on frozen vectors", self.model)
        if first:
            heads[FROZEN] = self._judge(*frozen)
        if self._settings.encoder.steps:
            self.model = copy.deepcopy(self.model)
            self._fine_tune()
            tuned = self._train_head("train the head on fine-tuned vectors", self.model)
            if first:
                heads[TUNED] = self._judge(*tuned)
        alone = self._train_head("a rival without history", self._like(self.model), alone=True)
        if not first:
            return None
        judged = {name: head.judged(name) for name, head in heads.items()}
        judged[HISTORY_FREE] = self._judge(*alone, alone=True).judged(HISTORY_FREE)
        for rival in self._rivals():
            judged[rival.name] = rival
        head = _better_encoder(judged, self._parts.validation)
        scorers = self._scorers(heads[head], head)
        for name, (scored, _, _) in scorers.items():
            judged[name] = scored
        published = self._choose(judged, [*scorers])
        _, scorer, calibration = scorers[published]
        return Learned(
            judged,
            published,
            "fine-tuned" if head == TUNED else "pretrained",
            heads[head].model,
            scorer,
            calibration,
        )

    def _fine_tune(self) -> None:
        """Fine-tune BERT. The head is trained anew afterwards, so that only the vectors differ.

        Starts from a young head: one that has converged on frozen vectors has little to teach BERT.
        """
        self.model.behavior = self._fresh_head()
        settings, exposures = self._settings, self._of_a_pass(self._parts.train)
        self._train(young_head_stage("train a young head", exposures, settings), self.model)
        self._train(joint_stage("fine-tune BERT with the head", settings), self.model)

    def _train_head(
        self, title: str, model: ShopperModel, *, alone: bool = False
    ) -> tuple[ShopperModel, ShopperModel]:
        """Train fresh heads on the model's vectors: those that validation judges, put into the
        model, and those that were then fitted again."""
        parts, again = self._parts, self._like(model)
        heads: list[nn.Module] = []
        final: list[nn.Module] = []
        for member in range(self._settings.scorer.members):
            named = f"{title} ({member + 1})" if member else title
            seed = self._settings.seed + member
            model.behavior = self._fresh_head(seed)
            stage = head_stage(named, self._of_a_pass(parts.train), self._settings)
            best = self._train(stage, model, alone=alone, seed=seed)
            heads.append(model.behavior)
            if parts.refit is not None:
                steps = max(1, round(best * len(parts.refit) / len(parts.train)))
                again.behavior = self._fresh_head(seed)
                longer = replace(
                    stage, title=f"{named}, on all earlier", steps=steps, evaluate_every=steps
                )
                self._train(longer, again, on=parts.refit, alone=alone, seed=seed)
                final.append(again.behavior)
        model.behavior = _one(heads)
        if not final:
            return model, model
        again.behavior = _one(final)
        return model, again

    def _scorers(self, head: _Fitted, name: str) -> dict[str, tuple[Judged, Scorer, Calibration]]:
        """What may score inside `behavior`, judged, by name."""
        kind, parts = self._settings.scorer.kind, self._parts
        found = {name: (head.judged(name), Scorer("head"), head.calibration)}
        if kind == "head":
            return found
        validation, test = self._rows(parts.validation, head), self._rows(parts.test, head)
        with self._reporter.stage("trees over numbers and text") as progress:
            vectors = head.model.vectors[1:].cpu().numpy()
            text = TextComponents.of(vectors, self._settings.scorer.text_components, seed=0)
            seed = self._settings.seed
            trees = Trees.fit(self._rows(parts.train, head), validation, text=text, seed=seed)
            progress(1, 2)
            final = trees
            if parts.refit is not None:
                growth = len(parts.refit) / len(parts.train)
                final = trees.refit(self._rows(parts.refit, head), growth=growth, seed=seed)
            progress(2, 2)
        own = fit_calibration(trees.logits(validation), parts.validation.outcome)
        for label, chosen, again in (
            (TREES, trees_alone(trees, own), trees_alone(final, own)),
            (BLEND, blend(trees, head.calibration, own), blend(final, head.calibration, own)),
        ):
            logits = chosen.logits(head.validation, validation)
            calibration = fit_calibration(logits, parts.validation.outcome)
            judged = Judged(
                label,
                calibration.apply(logits),
                calibration.apply(again.logits(head.test, test)),
            )
            found[label] = judged, again, calibration
        wanted = {"trees": [TREES], "blend": [BLEND]}.get(kind, list(found))
        return {label: found[label] for label in wanted}

    def _choose(self, judged: dict[str, Judged], among: list[str]) -> str:
        """The lowest log loss on validation."""
        validation = self._parts.validation
        return min(among, key=lambda name: float(_losses(judged[name], validation).mean()))

    def _rivals(self) -> list[Judged]:
        parts = self._parts
        again = parts.refit and (parts.refit.features, parts.refit.outcome)
        with self._reporter.stage("a rival of gradient-boosted trees") as progress:
            trees = gradient_boosting(
                (parts.train.features, parts.train.outcome),
                (parts.validation.features, parts.validation.outcome),
                parts.test.features,
                seed=self._settings.seed,
                again=again or None,
            )
            progress(1, 1)
        known = parts.refit or parts.train
        return [trees, majority(known.outcome, len(parts.validation), len(parts.test))]

    def _rows(self, examples: Examples, head: _Fitted) -> Rows:
        vectors = head.model.vectors.cpu().numpy()
        return Rows(examples.features, vectors[examples.text], examples.outcome)

    def _of_a_pass(self, examples: Examples) -> int:
        share = self._settings.loss.view_share_kept
        return len(keep_views(examples.outcome, share, self._settings.seed))

    def _like(self, model: ShopperModel) -> ShopperModel:
        """A model of the same encoder and vectors with a head of its own."""
        other = ShopperModel(model.encoder, self._fresh_head(), model.table, [True] * len(Outcome))
        other.no_chance, other.vectors = model.no_chance, model.vectors
        return other

    def _fresh_head(self, seed: int | None = None) -> BehaviorModel:
        settings = self._settings
        torch.manual_seed(settings.seed if seed is None else seed)
        head = BehaviorModel(settings.encoder.vector_dim, settings.head.dropout)
        head.numbers.fit(self._parts.train.features)
        return head.to(processes.device())

    def _train(
        self,
        stage: Stage,
        model: ShopperModel,
        *,
        on: Examples | None = None,
        alone: bool = False,
        seed: int | None = None,
    ) -> int:
        """Train in place. Returns after how many steps the model was at its best."""
        settings = self._settings
        if seed is not None:
            settings = settings.model_copy(update={"seed": seed})
        with self._reporter.stage(stage.title) as progress:
            best = train(
                model,
                self._batches(on or self._parts.train, alone=alone),
                self._batches(self._parts.validation, alone=alone),
                stage,
                settings,
                progress,
                run=self._run,
            )
        return best.step

    def _batches(self, examples: Examples, *, alone: bool) -> ExposureBatches:
        if alone:
            examples = without_history(examples)
        return ExposureBatches(examples, self._timeline, self._settings.history.events)

    def _judge(self, model: ShopperModel, final: ShopperModel, *, alone: bool = False) -> _Fitted:
        parts = self._parts
        validation = predict_logits(model, self._batches(parts.validation, alone=alone))
        test = predict_logits(final, self._batches(parts.test, alone=alone))
        calibration = fit_calibration(validation, parts.validation.outcome)
        return _Fitted(final, validation, test, calibration)


def _one(heads: list[nn.Module]) -> nn.Module:
    return heads[0] if len(heads) == 1 else HeadEnsemble(heads)


def _better_encoder(judged: dict[str, Judged], validation: Examples) -> str:
    """The fine-tuned encoder, unless fine-tuning made the head worse on validation by more than one
    standard error of the difference in log loss."""
    if TUNED not in judged:
        return FROZEN
    worse = _losses(judged[TUNED], validation) - _losses(judged[FROZEN], validation)
    return FROZEN if worse.mean() > worse.std() / np.sqrt(len(worse)) else TUNED


def _losses(judged: Judged, validation: Examples) -> Floats:
    chosen = judged.validation[np.arange(len(validation)), validation.outcome]
    return -np.log(np.maximum(chosen, 1e-12))


def _kept_states(run: Run, base: BaseModel, settings: BuildSettings) -> KeptStates:
    key = state_key(
        base.model,
        base.model.config.to_json_string(),
        base.tokeniser,
        str(settings.encoder.max_tokens),
    )
    return KeptStates(run.states, key, base.model.config.hidden_size)


def without_history(examples: Examples) -> Examples:
    """The same exposures of people nothing is known of."""
    features = examples.features.copy()
    features[:, HISTORY_FEATURES] = 0.0
    # Unless an order is being placed, the basket is a cart, and so of the person's past.
    looking = features[:, FEATURES.index("quantity")] == 0.0
    features[np.ix_(looking, BASKET_FEATURES)] = 0.0
    values = {name: getattr(examples, name) for name in Examples.__slots__}
    return Examples(**(values | {"features": features, "first": examples.position}))
