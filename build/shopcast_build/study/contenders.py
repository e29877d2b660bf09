"""Who is judged, under which name."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shopcast_build.learning.evaluation import Judged, fit_decision
from shopcast_domain.features import Floats, Ints

MAJORITY, WORDS, TREES, TEXTBOOK = "majority", "words", "trees", "textbook"
UNTRAINED, BEFORE, AFTER = "untrained", "before", "after"
NO_HISTORY, NO_TEXT, PUBLISHED = "no-history", "no-text", "published"

NAMES = {
    PUBLISHED: "published model",
    AFTER: "after fine-tuning",
    BEFORE: "before fine-tuning",
    UNTRAINED: "untrained",
    NO_HISTORY: "without history",
    NO_TEXT: "without text",
    TREES: "gradient boosting",
    WORDS: "words",
    TEXTBOOK: "textbook recipe",
    MAJORITY: "majority",
    "fused": "fused",
    "single": "single platform",
    "placebo": "shuffled identity",
}
NOTES = {
    PUBLISHED: "the graphs as published, with the calibration of their manifest",
    AFTER: "fine-tuned BERT and the behaviour head",
    BEFORE: "pretrained BERT, its weights frozen, and the behaviour head",
    UNTRAINED: "pretrained BERT and a head of random weights",
    NO_HISTORY: "the same head, told nothing of the person",
    NO_TEXT: "the same head, told nothing of item texts",
    TREES: "gradient-boosted trees on the same numeric features",
    WORDS: "logistic regression on TF-IDF of the item's text and the newest texts of the history",
    TEXTBOOK: "BERT over one text: the item, then the history",
    MAJORITY: "always the shares of the training outcomes on the platform",
    "fused": "the scorer on what the person did on every platform",
    "single": "the scorer on what the person did on this platform",
    "placebo": "the scorer on this platform and on what strangers did on the others",
}
CHOICES = (
    MAJORITY, WORDS, TREES, TEXTBOOK, UNTRAINED, BEFORE, AFTER, NO_HISTORY, NO_TEXT,
    "fusion", "learning",
)  # fmt: skip
"""What --contenders may name: fusion is the three arms, learning the learning curves."""


@dataclass(frozen=True, slots=True)
class Contender:
    """runs: what each training says of the test, float64 (n, 3), in the order of seeds.
    decisions: each run's weights of the three outcomes when one must be named. note: what it is.

    asked: bool (n,), the test exposures it was asked about; None for all. The rows of others are
    never looked at. loss: mean log loss on validation, by which a model is chosen.
    """

    key: str
    runs: tuple[Floats, ...] = field(repr=False)
    decisions: tuple[tuple[float, float, float], ...]
    name: str
    note: str
    asked: NDArray[np.bool_] | None = field(repr=False)
    loss: float


def contender(
    key: str,
    runs: Sequence[Judged],
    validation: Ints,
    *,
    name: str | None = None,
    note: str | None = None,
    asked: NDArray[np.bool_] | None = None,
    decision: tuple[float, float, float] | None = None,
) -> Contender:
    """validation: the outcomes of the rows of each run's `validation`. decision: the weights of
    every run; None fits them there."""
    rows = np.arange(len(validation))
    losses = [-np.log(np.maximum(r.validation[rows, validation], 1e-12)).mean() for r in runs]
    return Contender(
        key=key,
        runs=tuple(run.test for run in runs),
        decisions=tuple(decision or fit_decision(run.validation, validation) for run in runs),
        name=NAMES.get(key, key) if name is None else name,
        note=NOTES.get(key, "") if note is None else note,
        asked=asked,
        loss=float(np.mean(losses)),
    )
