"""`platform build-model`: from event logs to a published release, step by step."""

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
import torch

from shopcast_build.data.cleaning import CleanLog, clean
from shopcast_build.data.mapping import Mapping
from shopcast_build.data.people import People, read_links, resolve_people
from shopcast_build.data.report import CleaningReport
from shopcast_build.learning import processes, triton_config
from shopcast_build.learning.base_model import BaseModel, load_base_model
from shopcast_build.learning.batches import ExposureBatches
from shopcast_build.learning.behavior import BehaviorModel
from shopcast_build.learning.calibration import fit_calibration
from shopcast_build.learning.checkpoints import Run, digest
from shopcast_build.learning.encoder import ItemEncoder
from shopcast_build.learning.evaluation import (
    BASKET_FEATURES,
    HISTORY_FEATURES,
    Judged,
    fit_decision,
    gradient_boosting,
    judge,
    majority,
)
from shopcast_build.learning.examples import Examples, Progress, build_examples
from shopcast_build.learning.exposures import (
    Split,
    check_enough,
    cut_exposures,
    part,
    split_by_time,
)
from shopcast_build.learning.kept_states import KeptStates, state_key
from shopcast_build.learning.loss import keep_views
from shopcast_build.learning.prediction import predict_logits
from shopcast_build.learning.publishing import publish
from shopcast_build.learning.release import Release, write_release
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.shopper_model import ShopperModel
from shopcast_build.learning.stages import Stage, head_stage, joint_stage, young_head_stage
from shopcast_build.learning.timeline import Timeline, build_catalogue
from shopcast_build.learning.token_table import TokenTable, encode_all
from shopcast_build.learning.tracking import check_trackers
from shopcast_build.learning.training import train
from shopcast_domain.events import Outcome
from shopcast_domain.features import FEATURES, Floats
from shopcast_domain.limits import MAX_CANDIDATES
from shopcast_domain.manifest import BEHAVIOR, ENCODER, Calibration, Manifest, Training
from shopcast_domain.tokeniser import ItemTokeniser

# Who is judged: pretrained BERT with a random head; with a trained head; fine-tuned with the head;
# and a head trained without anything of the person.
UNTRAINED = "untrained"
FROZEN = "before fine-tuning"
TUNED = "after fine-tuning"
HISTORY_FREE = "without history"


class Reporter(Protocol):
    """Where progress goes."""

    def stage(self, title: str) -> AbstractContextManager[Progress]:
        """A stretch of work; the context's value takes (done, total)."""
        ...


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build did. metrics: model judged -> metric -> value on the test period.
    published_as: which of the judged models was published, chosen on validation."""

    manifest: Manifest
    cleaning: CleaningReport
    people: int
    metrics: dict[str, dict[str, float]]
    published_as: str
    unknown_token_share: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Parts:
    """The examples of the three parts of the split."""

    train: Examples
    validation: Examples
    test: Examples


def build_model(
    events: Sequence[Path],
    *,
    links: Path | None,
    mapping: Mapping,
    base_model: str,
    repository: Path,
    settings: BuildSettings,
    max_bad_share: float,
    reporter: Reporter,
    run: Run | None = None,
) -> BuildResult | None:
    """Clean, resolve people, cut exposures, fine-tune, judge, export, verify, publish.

    run: where checkpoints and curves go. Of several processes only the first one judges and
    publishes; the others return None.

    Raises DataError (input), ParityError (export), PublishError (repository), FloatingPointError
    (training); the repository is then as it was.
    """
    began = time.monotonic()
    if not processes.is_first():
        reporter = _Silent()
    check_trackers(settings.tracking)
    torch.manual_seed(settings.seed)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    base = load_base_model(base_model, settings.encoder)
    with reporter.stage("clean the log") as progress:
        log = clean(events, mapping, max_bad_share=max_bad_share)
        people = resolve_people(log.events, read_links(links) if links else None)
        progress(1, 1)
    timeline, exposures, platforms = _timeline(log, people, settings)
    split = split_by_time(exposures, log.events["time"][-1], settings.exposures)
    parts = _examples(timeline, exposures, split, settings, reporter)

    if run:
        run.begin(settings, **_digests(base, timeline, parts))
    learner = _Learner(base, timeline, parts, settings, reporter, run)
    judged, calibrations = learner.learn()
    if not processes.is_first():
        return None
    best = _choose(judged, parts.validation)
    if best == FROZEN:
        learner.use_frozen()

    decisions = {
        name: fit_decision(j.validation, parts.validation.outcome) for name, j in judged.items()
    }
    metrics = {
        name: judge(j.test, parts.test.outcome, decisions[name]) for name, j in judged.items()
    }
    release = Release(
        model=learner.model,
        base=base,
        tokeniser=learner.tokeniser,
        calibration=calibrations[best],
        decision_weights=decisions[best],
        trained_outcomes=tuple(
            Outcome(int(o)).name.lower() for o in np.unique(parts.train.outcome)
        ),
        metrics=metrics,
        training=_training(log, split, parts, base, platforms, settings, best),
        created=datetime.now(UTC),
        shopcast_version=version("shopcast"),
        settings=settings,
        batches=ExposureBatches(parts.test, timeline, settings.history.events),
        texts=timeline.catalogue.texts,
    )
    with reporter.stage("export, verify and publish") as progress:
        manifest = publish(
            repository,
            lambda encoder, behavior, number: write_release(release, encoder, behavior, number),
            _configs(settings),
        )
        progress(1, 1)
    if run:
        for name, values in metrics.items():
            run.log(f"on the test period: {name}", values)
        run.finish()
    return BuildResult(
        manifest=manifest,
        cleaning=log.report,
        people=people.count,
        metrics=metrics,
        published_as=best,
        unknown_token_share=learner.unknown_token_share,
        seconds=time.monotonic() - began,
    )


class _Silent:
    """Reports nothing: the first process speaks for all."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        yield lambda done, total: None


def _digests(base: BaseModel, timeline: Timeline, parts: Parts) -> dict[str, str]:
    """What a model is built from, so that a build goes on only with the same."""
    learned_from = (
        getattr(examples, name)
        for examples in (parts.train, parts.validation)
        for name in Examples.__slots__
    )
    weights = (weight.numpy() for weight in base.model.state_dict().values())
    return {
        "data": digest(learned_from, timeline.catalogue.texts),
        "base model": digest(weights, [base.tokeniser]),
    }


def _timeline(
    log: CleanLog, people: People, settings: BuildSettings
) -> tuple[Timeline, pl.DataFrame, tuple[str, ...]]:
    """Codes in place of names, then the timeline and the exposures."""
    platforms = log.events["platform"].unique().sort()
    items = log.items.sort("platform", "item_id").with_row_index("item")
    events = (
        log.events.with_columns(pl.Series("person", people.person))
        .join(
            items.select("platform", "item_id", "item"),
            on=["platform", "item_id"],
            how="left",
            maintain_order="left",
        )
        .with_columns(pl.col("platform").replace_strict(platforms, range(len(platforms))))
        .sort("time", maintain_order=True)
    )
    timeline = Timeline(events, build_catalogue(items))
    return timeline, cut_exposures(events, settings.exposures), tuple(platforms)


def _examples(
    timeline: Timeline,
    exposures: pl.DataFrame,
    split: Split,
    settings: BuildSettings,
    reporter: Reporter,
) -> Parts:
    frames = [part(exposures, span) for span in (split.train, split.validation, split.test)]
    check_enough(*frames)
    frames[0] = frames[0].tail(settings.exposures.max_training)
    built = []
    for name, frame in zip(("training", "validation", "test"), frames, strict=True):
        with reporter.stage(f"features of {frame.height:,} {name} exposures") as progress:
            built.append(
                build_examples(
                    timeline,
                    frame,
                    feature_events=settings.history.feature_events,
                    history_events=settings.history.events,
                    progress=progress,
                )
            )
    return Parts(*built)


def _training(
    log: CleanLog,
    split: Split,
    parts: Parts,
    base: BaseModel,
    platforms: tuple[str, ...],
    settings: BuildSettings,
    published_as: str,
) -> Training:
    return Training(
        base_model=base.name,
        published_as=published_as,
        log_start=log.events["time"][0],
        log_end=log.events["time"][-1],
        train=split.train,
        validation=split.validation,
        test=split.test,
        gap_days=split.gap.total_seconds() / 86_400,
        exposures={name: len(getattr(parts, name)) for name in Parts.__slots__},
        platforms=platforms,
        settings=settings.model_dump(mode="json"),
    )


def _configs(settings: BuildSettings) -> dict[str, triton_config.ServedModel]:
    return {
        ENCODER: triton_config.encoder(
            width=settings.encoder.vector_dim, max_tokens=settings.encoder.max_tokens
        ),
        BEHAVIOR: triton_config.behavior(
            width=settings.encoder.vector_dim,
            features=len(FEATURES),
            max_events=settings.history.events,
            max_candidates=MAX_CANDIDATES,
        ),
    }


def _choose(judged: dict[str, Judged], validation: Examples) -> str:
    """What to publish: the fine-tuned model, unless fine-tuning made it worse on validation by more
    than one standard error of the difference in log loss."""

    def loss(name: str) -> Floats:
        chosen = judged[name].validation[np.arange(len(validation)), validation.outcome]
        return -np.log(np.maximum(chosen, 1e-12))

    if TUNED not in judged:
        return FROZEN
    worse = loss(TUNED) - loss(FROZEN)
    return FROZEN if worse.mean() > worse.std() / np.sqrt(len(worse)) else TUNED


class _Learner:
    """Trains the model and its rivals on one set of examples."""

    def __init__(
        self,
        base: BaseModel,
        timeline: Timeline,
        parts: Parts,
        settings: BuildSettings,
        reporter: Reporter,
        run: Run | None,
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

    def learn(self) -> tuple[dict[str, Judged], dict[str, Calibration]]:
        """Train and judge everything; self.model is fine-tuned afterwards, if asked for."""
        parts, settings = self._parts, self._settings
        judged: dict[str, Judged] = {}
        calibrations: dict[str, Calibration] = {}

        def record(name: str, model: ShopperModel, *, alone: bool = False) -> None:
            if not processes.is_first():
                return
            calibrations[name], judged[name] = self._judge(name, model, alone=alone)

        record(UNTRAINED, self.model)
        self._train(self._head_stage("train the head on frozen vectors"), self.model)
        record(FROZEN, self.model)
        self._frozen = copy.deepcopy(self.model)
        if settings.encoder.steps:
            self._fine_tune()
            record(TUNED, self.model)

        alone = ShopperModel(self.model.encoder, self._fresh_head(), self.model.table, [True] * 3)
        alone.no_chance, alone.vectors = self.model.no_chance, self.model.vectors
        self._train(self._head_stage("a rival without history"), alone, alone=True)
        record(HISTORY_FREE, alone, alone=True)
        if not processes.is_first():
            return judged, calibrations
        with self._reporter.stage("a rival of gradient-boosted trees") as progress:
            trees = gradient_boosting(
                (parts.train.features, parts.train.outcome),
                (parts.validation.features, parts.validation.outcome),
                parts.test.features,
                seed=settings.seed,
            )
            progress(1, 1)
        judged[trees.name] = trees
        base = majority(parts.train.outcome, len(parts.validation), len(parts.test))
        return {base.name: base, **judged}, calibrations

    def _fine_tune(self) -> None:
        """Fine-tune BERT, then train the head just as before, so that only the vectors differ.

        Starts from a young head: one that has converged on frozen vectors has little to teach BERT.
        """
        self.model.behavior = self._fresh_head()
        young = young_head_stage("train a young head", self._exposures_of_a_pass, self._settings)
        self._train(young, self.model)
        self._train(joint_stage("fine-tune BERT with the head", self._settings), self.model)
        self.model.behavior = self._fresh_head()
        self._train(self._head_stage("train the head on fine-tuned vectors"), self.model)

    def _head_stage(self, title: str) -> Stage:
        return head_stage(title, self._exposures_of_a_pass, self._settings)

    @property
    def _exposures_of_a_pass(self) -> int:
        share = self._settings.loss.view_share_kept
        return len(keep_views(self._parts.train.outcome, share, self._settings.seed))

    def use_frozen(self) -> None:
        """Go back to the model as it was before fine-tuning."""
        self.model = self._frozen

    def _fresh_head(self) -> BehaviorModel:
        torch.manual_seed(self._settings.seed)
        settings = self._settings
        head = BehaviorModel(settings.encoder.vector_dim, settings.head.dropout)
        head.numbers.fit(self._parts.train.features)
        return head

    def _train(self, stage: Stage, model: ShopperModel, *, alone: bool = False) -> None:
        with self._reporter.stage(stage.title) as progress:
            train(
                model,
                self._batches(self._parts.train, alone=alone),
                self._batches(self._parts.validation, alone=alone),
                stage,
                self._settings,
                progress,
                run=self._run,
            )

    def _batches(self, examples: Examples, *, alone: bool) -> ExposureBatches:
        if alone:
            examples = without_history(examples)
        return ExposureBatches(examples, self._timeline, self._settings.history.events)

    def _judge(self, name: str, model: ShopperModel, *, alone: bool) -> tuple[Calibration, Judged]:
        validation, test = (
            predict_logits(model, self._batches(examples, alone=alone))
            for examples in (self._parts.validation, self._parts.test)
        )
        calibration = fit_calibration(validation, self._parts.validation.outcome)
        return calibration, Judged(name, calibration.apply(validation), calibration.apply(test))


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
