"""From predictions to a report: the part of a study that trains nothing."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version

from shopcast_build.learning.examples import Progress
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.study.assessment import ALL, Assessment, Test
from shopcast_build.study.contenders import (
    AFTER,
    BEFORE,
    MAJORITY,
    NO_HISTORY,
    NO_TEXT,
    TEXTBOOK,
    TREES,
    UNTRAINED,
    WORDS,
    Contender,
)
from shopcast_build.study.identities import FUSED, PLACEBO, SINGLE
from shopcast_build.study.resampling import DRAWS
from shopcast_build.study.schema import (
    Data,
    Difference,
    Fusion,
    LearningPoint,
    StepPoint,
    StudyReport,
)
from shopcast_build.study.verdicts import COLD_ITEMS, NEW_HERE, SEVERAL, verdicts


def assess(
    contenders: Sequence[Contender],
    test: Test,
    *,
    subject: str,
    data: Data,
    base_model: str,
    settings: BuildSettings,
    draws: int = DRAWS,
    learning: Sequence[tuple[Contender, int]] = (),
    steps: Sequence[StepPoint] = (),
    fusion: Fusion | None = None,
    progress: Progress = lambda done, total: None,
) -> StudyReport:
    """Metrics, intervals, differences and sentences.

    subject: the key of the contender that the report is about. learning: contenders trained on so
    many exposures.
    """
    assessment = Assessment(contenders, test, draws)
    results = []
    for done, one in enumerate(contenders, 1):
        results.append(assessment.result(one.key))
        progress(done, len(contenders) + 1)
    differences = tuple(_differences(assessment, subject, test))
    curves = Assessment([one for one, _ in learning], test, draws)
    learned = []
    for one, exposures in learning:
        found = curves.headline_estimate(one.key)
        if found is not None:
            key = one.key.partition("@")[0]
            learned.append(LearningPoint(contender=key, exposures=exposures, estimate=found))
    sliced = [key for key in (subject, TREES, NO_TEXT, FUSED, SINGLE, PLACEBO) if key in assessment]
    return StudyReport(
        shopcast_version=version("shopcast"),
        title="What the model is worth",
        subject=subject,
        headline=assessment.headline,
        seeds=max(len(one.runs) for one in contenders),
        draws=draws,
        base_model=base_model,
        settings=settings.model_dump(mode="json"),
        data=data,
        verdicts=verdicts(
            next(one for one in results if one.key == subject),
            assessment.headline,
            differences,
            fusing=fusion is not None,
            calibration_limit=assessment.calibration_limit,
        ),
        contenders=tuple(results),
        differences=differences,
        slices=tuple(
            assessment.slice_of(where, sliced, (assessment.headline_metric, "log_loss", "accuracy"))
            for where in test.slices
        ),
        curves=tuple(
            assessment.curves(key) for key in (subject, TREES, WORDS, TEXTBOOK) if key in assessment
        ),
        learning=tuple(learned),
        steps=tuple(steps),
        fusion=fusion,
        seconds={},
    )


def _differences(assessment: Assessment, subject: str, test: Test) -> Iterator[Difference]:
    """Every comparison that a sentence or a table speaks of; the headline ones first."""
    rivals = (MAJORITY, TREES, WORDS, TEXTBOOK, UNTRAINED)
    pairs = [(subject, rival) for rival in rivals]
    # What history and texts are worth: of heads that differ in nothing else.
    pairs += [(AFTER, BEFORE), (BEFORE, NO_HISTORY), (BEFORE, NO_TEXT)]
    arms = [(FUSED, SINGLE), (FUSED, PLACEBO), (PLACEBO, SINGLE)]
    known = [
        (of, against) for of, against in pairs + arms if of in assessment and against in assessment
    ]
    for of, against in known:
        yield assessment.difference(of, against)
    for of, against in known:
        if (of, against) in arms:
            places = [key for key in (SEVERAL, NEW_HERE) if key in test.slices]
        elif (of, against) == (BEFORE, NO_TEXT):
            places = [key for key in (COLD_ITEMS,) if key in test.slices]
        elif against == TREES:
            places = [key for key in test.slices if not key.startswith("outcome")]
        else:
            places = []
        for where in places:
            yield assessment.difference(of, against, where)
    for of, against in known:
        for metric in (f"{assessment.headline}_pr_auc", "log_loss"):
            yield assessment.difference(of, against, ALL, metric)
