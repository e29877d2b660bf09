"""Judgement: metrics of predicted probabilities, and the rivals a model must beat."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)

from shopcast_build.learning.calibration import (
    OUTCOMES,
    expected_calibration_error,
    fit_calibrations,
)
from shopcast_build.learning.trees import Rows, Trees
from shopcast_domain.events import Outcome
from shopcast_domain.features import FEATURES, Floats, Ints

Mask = NDArray[np.bool_]

MAJORITY = "majority class"
_OF_ALL = 10.0  # exposures that the shares of all count for beside those of a platform
GRADIENT_BOOSTING = "gradient boosting"

_WEIGHTS = np.geomspace(0.25, 16, 25)


@dataclass(frozen=True, slots=True)
class Judged:
    """A model's probabilities on validation and test, float64 (M, 3) each."""

    name: str
    validation: Floats
    test: Floats


def fit_decision(probabilities: Floats, outcome: Ints) -> tuple[float, float, float]:
    """Weights w of the decision argmax(w * p) that maximise macro-F1 on validation.

    Plain argmax never names a rare outcome; the weights are the price a miss is worth.
    """
    weights = np.ones(OUTCOMES)
    for _ in range(2):
        for label in range(1, OUTCOMES):
            scores = []
            for weight in _WEIGHTS:
                weights[label] = weight
                scores.append(macro_f1(outcome, (probabilities * weights).argmax(1)))
            weights[label] = _WEIGHTS[int(np.argmax(scores))]
    return (float(weights[0]), float(weights[1]), float(weights[2]))


def macro_f1(outcome: Ints, decided: Ints) -> float:
    """The mean of the F1 of the outcomes that occur."""
    # As scikit-learn has it, which takes twenty times as long: each model is asked a hundred times.
    pairs = np.bincount(OUTCOMES * outcome + decided, minlength=OUTCOMES**2)
    confusion = pairs.reshape(OUTCOMES, OUTCOMES)
    occurred, told = confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = 2 * confusion.diagonal()[occurred > 0] / (occurred + told)[occurred > 0]
    return float(np.mean(f1))


def ranked_among(hit: Mask, looked: Mask | None) -> list[Mask]:
    """Where hits are ranked against the rest: among views and carts, and among lines of orders.

    An order is a purchase from the start: that a till's orders are told from a shop's views is no
    merit. hit, looked: bool (n,); looked: the views and carts, None where all are. Returns masks
    (n,), of which each holds some hits and some others; there may be none.
    """
    parts = [np.ones(len(hit), dtype=bool)] if looked is None else [looked, ~looked]
    return [rows for rows in parts if hit[rows].any() and not hit[rows].all()]


def rank(
    score: Floats,
    hit: Mask,
    looked: Mask | None,
    area: Callable[[Mask, Floats], float] = roc_auc_score,
) -> float | None:
    """The area under the ROC curve, or another that scikit-learn knows, among views and carts and
    among lines of orders: their mean, by pairs of a hit and another. None where nothing can be
    ranked."""
    parts = ranked_among(hit, looked)
    if not parts:
        return None
    areas = [float(area(hit[rows], score[rows])) for rows in parts]
    return float(np.average(areas, weights=[pairs(hit[rows]) for rows in parts]))


def pairs(hit: Mask) -> int:
    """How many pairs of a hit and another there are."""
    hits = int(hit.sum())
    return hits * (len(hit) - hits)


def judge(
    probabilities: Floats,
    outcome: Ints,
    decision_weights: tuple[float, float, float],
    looked: Mask | None = None,
) -> dict[str, float]:
    """Metrics by name. Per outcome that occurs: precision, recall, f1 (of the weighted decision),
    share, auc and pr_auc (one against the rest, where it can be ranked, see `rank`); overall:
    macro_f1, accuracy, log_loss, ece."""
    decided = (probabilities * np.array(decision_weights)).argmax(1)
    labels = np.unique(outcome)
    precision, recall, f1, _ = precision_recall_fscore_support(
        outcome, decided, labels=labels, zero_division=0
    )
    metrics = {
        "macro_f1": macro_f1(outcome, decided),
        "accuracy": float((decided == outcome).mean()),
        "log_loss": float(log_loss(outcome, probabilities, labels=range(OUTCOMES))),
        "ece": expected_calibration_error(probabilities, outcome),
    }
    for row, label in enumerate(labels):
        name = Outcome(label).name.lower()
        hit = outcome == label
        metrics |= {
            f"{name}_precision": float(precision[row]),
            f"{name}_recall": float(recall[row]),
            f"{name}_f1": float(f1[row]),
            f"{name}_share": float(hit.mean()),
        }
        for metric, area in (("auc", roc_auc_score), ("pr_auc", average_precision_score)):
            found = rank(probabilities[:, label], hit, looked, area)
            if found is not None:
                metrics[f"{name}_{metric}"] = found
    return metrics


def majority(outcome: Ints, platform: Ints, validation: Ints, test: Ints) -> Judged:
    """Always the shares of the training outcomes on the platform.

    outcome, platform: of the training exposures; validation, test: the platforms of these. Shares
    of a platform are drawn towards those of all, since it may be new, or lack an outcome.
    """
    shares = np.bincount(outcome, minlength=OUTCOMES) / len(outcome)
    counts = np.zeros((1 + max(platform.max(), validation.max(), test.max()), OUTCOMES))
    np.add.at(counts, (platform, outcome), 1.0)
    own = (counts + _OF_ALL * shares) / (counts.sum(axis=1, keepdims=True) + _OF_ALL)
    return Judged(MAJORITY, own[validation], own[test])


HISTORY_FEATURES = np.array(
    [
        name.startswith(("person_", "pair_")) or name.endswith(("_bought", "_viewed", "_pair"))
        for name in FEATURES
    ]
)
"""Which features speak of the person: those a history-free model goes without."""

BASKET_FEATURES = np.array(
    [name.startswith("basket_") or name.endswith("_in_basket") for name in FEATURES]
)


def gradient_boosting(
    train: tuple[NDArray[np.float32], Ints],
    validation: tuple[NDArray[np.float32], Ints],
    test: NDArray[np.float32],
    *,
    seed: int,
    members: int = 1,
    again: tuple[NDArray[np.float32], Ints] | None = None,
) -> Judged:
    """Gradient boosting on the same examples and numeric features, treated as the model is: as many
    members, stopped and calibrated on validation, fitted `again` to more rows if there are any, on
    which it is then right on average."""

    def rows(features: NDArray[np.float32], outcome: Ints) -> Rows:
        return Rows(features, np.empty((len(features), 0), dtype=np.float32), outcome)

    trees = Trees.fit(rows(*train), rows(*validation), text=None, seed=seed, members=members)
    final = trees
    if again:
        final = trees.refit(rows(*again), growth=len(again[1]) / len(train[1]))
    known, found = again or validation, trees.logits(rows(*validation))
    first, last = fit_calibrations((found, validation[1]), (final.logits(rows(*known)), known[1]))
    unknown = np.zeros(len(test), dtype=np.int64)
    judged = first.apply(found), last.apply(final.logits(rows(test, unknown)))
    return Judged(GRADIENT_BOOSTING, *judged)
