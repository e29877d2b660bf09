"""A study: rivals trained on the same exposures, judged on the same test, and what it all says."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from shopcast_build.data.errors import DataError
from shopcast_build.data.mapping import Mapping
from shopcast_build.learning.base_model import BaseModel, load_base_model
from shopcast_build.learning.examples import Progress
from shopcast_build.learning.reporter import Reporter
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.study.contenders import AFTER, BEFORE, PUBLISHED, Contender
from shopcast_build.study.contest import Contest, StudyOptions
from shopcast_build.study.judgement import assess
from shopcast_build.study.material import Material, read_material
from shopcast_build.study.published import (
    PublishedModel,
    find_version,
    in_other_currency,
    why_not_judged,
)
from shopcast_build.study.schema import StudyReport


def study_logs(
    events: Sequence[Path],
    *,
    links: Path | None,
    mapping: Mapping,
    base_model: str,
    settings: BuildSettings,
    repository: Path | None,
    number: int | None,
    max_bad_share: float | None,
    options: StudyOptions,
    reporter: Reporter,
) -> StudyReport:
    """Study logs, with a published version if a repository is given. Raises DataError,
    ManifestError, FloatingPointError."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    published = None
    if repository is None:
        _check_subject(settings, options)  # before the log is read
    else:
        manifest = find_version(repository, number)
        currency = mapping.currencies.base if mapping.currencies else None
        if why := in_other_currency(manifest, currency):
            raise DataError(
                f"Version {manifest.behavior_version} {why}: give the mapping"
                f' base = "{manifest.training.currency}" in [currencies], with rates into it.'
            )
        published = PublishedModel(repository, manifest, settings.threads)
    timed = TimedReporter(reporter)
    material = read_material(
        events,
        links=links,
        mapping=mapping,
        settings=settings,
        max_bad_share=max_bad_share,
        reporter=timed,
    )
    if published is not None:
        why = why_not_judged(published.manifest, material.split, settings.exposures)
        if why is not None:
            raise DataError(
                f"Version {published.manifest.behavior_version} {why}: give a log that goes on for"
                " longer, a later test with --set exposures.test_start=TIME, or leave --repository"
                " out to study what a build from this one is worth."
            )
    # A version may have been built from a folder that is not here, and most rivals need no BERT.
    base = load_base_model(base_model, settings.encoder) if options.needs_base_model() else None
    return run_study(material, base, options, timed, published, base_model=base_model)


def run_study(
    material: Material,
    base: BaseModel | None,
    options: StudyOptions,
    reporter: "TimedReporter",
    published: PublishedModel | None = None,
    *,
    base_model: str,
) -> StudyReport:
    """Train and judge everything that is asked for.

    base: None where no contender needs it. base_model: its name, for the report.
    """
    if published is None:
        _check_subject(material.settings, options)
    found = Contest(material, base, options, reporter, published)
    contenders, fusion = found.train()
    learning = found.learning_curves() if "learning" in options.contenders else []
    with reporter.stage("resample the people") as progress:
        report = assess(
            contenders,
            material.test(),
            subject=_subject(contenders),
            data=material.data(),
            base_model=base.name if base else Path(base_model).name,
            settings=material.settings,
            draws=options.draws,
            learning=learning,
            steps=found.steps,
            fusion=fusion,
            progress=progress,
        )
    return report.model_copy(update={"seconds": reporter.seconds()})


def _check_subject(settings: BuildSettings, options: StudyOptions) -> None:
    """Raise DataError where no model of ours is among the contenders."""
    ours = {BEFORE, AFTER} if settings.encoder.steps else {BEFORE}
    if not ours & set(options.contenders):
        raise DataError(
            f"There is no model to judge; add {' or '.join(sorted(ours, reverse=True))} to"
            " --contenders, or give --repository."
        )


def _subject(contenders: Sequence[Contender]) -> str:
    """What the report is about: the published model, or the better one on validation."""
    known = {one.key: one for one in contenders}
    if PUBLISHED in known:
        return PUBLISHED
    return min(
        (known[key] for key in (AFTER, BEFORE) if key in known), key=lambda one: one.loss
    ).key


@dataclass(slots=True)
class TimedReporter:
    """Passes progress on and remembers how long each stage took."""

    reporter: Reporter
    _seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """A stretch of work."""
        began = time.monotonic()
        with self.reporter.stage(title) as progress:
            yield progress
        self._seconds[title] = self._seconds.get(title, 0.0) + time.monotonic() - began

    def seconds(self) -> dict[str, float]:
        """Seconds by stage so far."""
        return {title: round(seconds, 1) for title, seconds in self._seconds.items()}
