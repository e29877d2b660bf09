"""What a study found: the content of report.json."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from shopcast_build.study.estimates import Estimate

Claim = Literal["better", "worse", "none", "too small"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Part):
    """What the study was made on. exposures: by part of the split. outcomes: platform -> outcome ->
    test exposures. multi_platform_people: of the test, those with accounts on several platforms.
    doubts: what may make every model look better than it is, in sentences."""

    log_start: datetime
    log_end: datetime
    train: tuple[datetime, datetime]
    validation: tuple[datetime, datetime]
    test: tuple[datetime, datetime]
    gap_days: float
    exposures: dict[str, int]
    people: int
    test_people: int
    multi_platform_people: int
    items: int
    outcomes: dict[str, dict[str, int]]
    doubts: tuple[str, ...] = ()


class ContenderResult(_Part):
    """How one contender did. note: what it is. exposures: of the test, on which it was judged.
    metrics: as resampling.metric_draws names them."""

    key: str
    name: str
    note: str
    exposures: int
    metrics: dict[str, Estimate]


class Difference(_Part):
    """How much better `of` is than `against` by a metric: above zero is better, also of a loss.

    where: key of a slice. claim: what may be said, by the rule of the study.
    """

    of: str
    against: str
    metric: str
    where: str
    exposures: int
    people: int
    gain: Estimate | None
    claim: Claim


class Slice(_Part):
    """Some of the test exposures. metrics: contender -> metric -> estimate."""

    key: str
    name: str
    exposures: int
    people: int
    metrics: dict[str, dict[str, Estimate]]


class Point(_Part):
    """A point of a curve."""

    x: float
    y: float


class Curves(_Part):
    """Of one contender's first training, for the headline target. bins: exposures of each point of
    the reliability diagram, predicted (x) against observed (y)."""

    contender: str
    roc: tuple[Point, ...]
    precision_recall: tuple[Point, ...]
    reliability: tuple[Point, ...]
    bins: tuple[int, ...]


class LearningPoint(_Part):
    """The headline metric after training on some of the exposures."""

    contender: str
    exposures: int
    estimate: Estimate


class StepPoint(_Part):
    """The validation loss after so many steps of a stage of training."""

    stage: str
    step: int
    loss: float


class Fusion(_Part):
    """How fusing was judged, where that was asked.

    own_first_share: test exposures of people with several platforms whose window overflows, so that
    the fused arm differs from what is served. replaced: accounts whose place a stranger's account
    took; without_stranger: those for which there was none."""

    own_first_share: float
    replaced: int
    without_stranger: int


class Verdict(_Part):
    """A sentence on top. question: what it answers. claim: of the difference behind it."""

    question: str
    text: str
    claim: Claim


class StudyReport(_Part):
    """One study. headline: the target whose AUC decides. subject: the contender it is about."""

    schema_version: Literal[1] = 1
    shopcast_version: str
    title: str
    subject: str
    headline: str
    seeds: int
    draws: int
    base_model: str
    settings: dict[str, Any]
    data: Data
    verdicts: tuple[Verdict, ...]
    contenders: tuple[ContenderResult, ...]
    differences: tuple[Difference, ...]
    slices: tuple[Slice, ...]
    curves: tuple[Curves, ...]
    learning: tuple[LearningPoint, ...]
    steps: tuple[StepPoint, ...]
    fusion: Fusion | None
    seconds: dict[str, float]
    """Wall time by stage: the one part that differs from run to run."""
