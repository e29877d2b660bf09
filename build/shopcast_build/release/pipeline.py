"""`platform build-model`: from event logs to a published release, step by step."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl
import torch

from shopcast_build.data.cleaning import clean
from shopcast_build.data.mapping import Mapping
from shopcast_build.data.people import check_links
from shopcast_build.data.quality import write_quality
from shopcast_build.data.report import CleaningReport
from shopcast_build.data.telling_links import find_people
from shopcast_build.data.thresholds import check_limits
from shopcast_build.learning import processes
from shopcast_build.learning.base_model import load_base_model
from shopcast_build.learning.batches import ExposureBatches
from shopcast_build.learning.checkpoints import Run
from shopcast_build.learning.evaluation import GRADIENT_BOOSTING, MAJORITY, fit_decision, judge
from shopcast_build.learning.examples import build_examples
from shopcast_build.learning.exposures import Split, split_by_time
from shopcast_build.learning.giveaways import giveaways
from shopcast_build.learning.learner import Learned, Learner
from shopcast_build.learning.preparation import (
    Parts,
    fingerprint,
    make_parts,
    make_timeline,
    part_frames,
)
from shopcast_build.learning.reporter import Reporter, Silent
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.timeline import Timeline
from shopcast_build.release.base_rates import base_rates
from shopcast_build.release.contents import Release, write_release
from shopcast_build.release.gate import NOT_WORSE, Candidate, ask, refuse
from shopcast_build.study.published import PublishedModel, why_not_judged
from shopcast_domain.events import Outcome
from shopcast_domain.manifest import Check, Gate, Manifest, ManifestError, Training
from shopcast_repository.errors import PublishError, RepositoryError
from shopcast_repository.publishing import check_place, publish
from shopcast_repository.serving import serving_version
from shopcast_repository.verification import verify
from shopcast_repository.versions import find_manifest


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


def build_model(
    events: Sequence[Path],
    *,
    links: Path | None,
    mapping: Mapping,
    base_model: str,
    repository: Path,
    settings: BuildSettings,
    max_bad_share: float | None,
    data_report: Path | None = None,
    force: bool = False,
    reporter: Reporter,
    run: Run | None = None,
) -> BuildResult | None:
    """Clean, resolve people, cut exposures, fine-tune, judge, export, verify, publish.

    data_report: folder that gets the report on the quality of the log, before the mapping's limits
    can stop the build. force: publish even what fails the quality gate. run: where checkpoints and
    curves go. Of several processes only the first one judges and publishes; the others return None.

    Raises DataError (input), GateError (quality), ParityError (export), RepositoryError,
    FloatingPointError (training); the repository is then as it was.
    """
    began = time.monotonic()
    if not processes.is_first():
        reporter = Silent()
    currency = mapping.currencies.base if mapping.currencies else None
    # First: a broken repository or tracker must not cost a training.
    serving = serving_version(repository)
    if run:
        run.track(settings)
    torch.manual_seed(settings.seed)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    base = load_base_model(base_model, settings.encoder)
    weights = 4 * sum(weight.numel() for weight in base.model.parameters())
    check_place(repository, 0 if settings.distillation.layers else weights)
    with reporter.stage("clean the log") as progress:
        log = clean(
            events,
            mapping,
            max_bad_share=max_bad_share,
            purchase_horizon=settings.exposures.purchase_horizon,
            progress=progress,
        )
        people, cleaning = find_people(log, links)
        if data_report is not None and processes.is_first():
            write_quality(cleaning, data_report)
        check_limits(cleaning, mapping.limits)
        check_links(people.report)
    timeline, exposures, platforms = make_timeline(log, people, settings)
    people_count, ends = people.count, log.ends
    del log, people  # the names of everybody are not needed any more, and they are large
    split = split_by_time(exposures, cleaning.last_time, settings.exposures)
    frames = part_frames(exposures, split, settings.exposures, ends)
    del exposures
    parts = make_parts(timeline, frames, settings, reporter)
    told = giveaways(parts.train, platforms)
    cleaning = replace(cleaning, suspicious=(*cleaning.suspicious, *told))
    test = frames["test"]
    rates = base_rates(frames["training"], timeline.catalogue, platforms)
    del frames

    made_from = fingerprint(timeline, parts)
    if run:  # which goes on only with the same
        run.begin(settings, data=made_from, **{"base model": base.key()})
    learner = Learner(base, timeline, parts, settings, reporter, run)

    def done(manifest: Manifest) -> BuildResult:
        if run:
            run.finish()
            for name, values in manifest.metrics.items():
                run.log(f"on the test period: {name}", values)
        return BuildResult(
            manifest=manifest,
            cleaning=cleaning,
            people=people_count,
            metrics=manifest.metrics,
            published_as=manifest.training.published_as,
            unknown_token_share=learner.unknown_token_share,
            seconds=time.monotonic() - began,
        )

    if run and (made := processes.from_first(run.published(repository))):
        return done(made) if processes.is_first() else None
    learned = learner.learn()
    if learned is None:
        return None
    judged, best = learned.judged, learned.published
    decisions = {
        name: fit_decision(j.validation, parts.validation.outcome) for name, j in judged.items()
    }
    metrics = {
        name: judge(j.test, parts.test.outcome, decisions[name], ~parts.test.at_orders)
        for name, j in judged.items()
    }
    with reporter.stage("ask whether it is fit to publish") as progress:
        before = _Before(serving, repository, settings, currency).judge(timeline, test, split)
        gate = _gate(learned, decisions[best], parts, platforms, before)
        progress(1, 1)
    if force:
        gate = gate.model_copy(update={"forced": bool(gate.failures)})
    else:
        refuse(gate)
    release = Release(
        model=learned.model,
        scorer=learned.scorer,
        base=base,
        tokeniser=learner.tokeniser,
        calibration=learned.calibration,
        decision_weights=decisions[best],
        trained_outcomes=tuple(
            Outcome(int(o)).name.lower() for o in np.unique(parts.train.outcome)
        ),
        metrics=metrics,
        training=Training(
            base_model=base.name,
            base_model_licence=base.licence,
            published_as=best,
            encoder=learned.encoder,
            scorer=learned.scorer.kind,
            log_start=cleaning.first_time,
            log_end=cleaning.last_time,
            data_sha256=made_from,
            train=split.train,
            validation=split.validation,
            test=split.test,
            gap_days=split.gap.total_seconds() / 86_400,
            exposures=parts.sizes(),
            platforms=platforms,
            settings=settings.model_dump(mode="json"),
            currency=currency,
        ),
        gate=gate,
        created=datetime.now(UTC),
        shopcast_version=version("shopcast"),
        settings=settings,
        batches=ExposureBatches(parts.test, timeline, settings.history.events),
        probabilities=judged[best].test,
        texts=timeline.catalogue.texts,
        base_rates=rates,
        teacher=learned.teacher,
    )
    if run:
        run.publishing(release.created)
    with reporter.stage("export, verify and publish") as progress:
        try:
            manifest = publish(
                repository,
                lambda encoder, behavior, number: write_release(release, encoder, behavior, number),
            )
        except PublishError as error:
            if run is None or run.published(repository):
                raise
            # "run this again" alone would begin anew.
            raise PublishError(
                f"{error}; with --resume the networks are not trained again"
            ) from None
        progress(1, 1)
    return done(manifest)


def _gate(
    learned: Learned,
    weights: tuple[float, float, float],
    parts: Parts,
    platforms: tuple[str, ...],
    before: Candidate | Check | None,
) -> Gate:
    judged = learned.judged
    return ask(
        Candidate("the new model", judged[learned.published].test, weights),
        parts.test,
        platforms,
        majority=judged[MAJORITY],
        baselines={GRADIENT_BOOSTING: judged[GRADIENT_BOOSTING]},
        serving=before,
    )


@dataclass(frozen=True, slots=True)
class _Before:
    """The version that serves while another is built."""

    version: int | None
    repository: Path
    settings: BuildSettings
    currency: str | None

    def judge(
        self, timeline: Timeline, test: pl.DataFrame, split: Split
    ) -> Candidate | Check | None:
        """What it says of the new test period, whose exposures it sees with as many events of their
        past as it was built for; or why it was not asked."""
        if self.version is None:
            return None
        name = f"version {self.version}"

        def unasked(why: str, *, passed: bool) -> Check:
            finding = f"{name} {why}: it was not compared"
            return Check(name=NOT_WORSE, passed=passed, finding=finding)

        try:
            manifest = find_manifest(self.repository, self.version)
            problems = verify(self.repository, self.version)
        except (ManifestError, RepositoryError) as error:
            return unasked(f"cannot be read ({error})", passed=False)
        if problems:
            return unasked(f"is not whole ({problems[0]})", passed=False)
        if why := why_not_judged(manifest, split, self.settings.exposures, self.currency):
            return unasked(why, passed=True)
        examples = build_examples(
            timeline,
            test,
            feature_events=manifest.feature_events,
            history_events=manifest.history_events,
        )
        model = PublishedModel(self.repository, manifest, self.settings.threads)
        (probabilities,) = model.probabilities(timeline, examples)
        return Candidate(name, probabilities, model.decision_weights)
