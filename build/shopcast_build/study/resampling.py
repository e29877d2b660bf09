"""Metrics of one model under many resamplings of the people, all at once."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shopcast_build.learning.evaluation import Mask, pairs, ranked_among
from shopcast_domain.events import Outcome
from shopcast_domain.features import Floats, Ints

DRAWS = 1000
PURCHASE = "purchase"
ECE_BINS = 15
_OUTCOMES = len(Outcome)
_CELLS = 4_000_000  # numbers of one block of draws


@dataclass(frozen=True, slots=True)
class Resampling:
    """How often each person counts in each draw.

    person: int64 (n,), codes 0 .. P - 1 of the exposures. weight: float64 (1 + draws, P); the first
    row is the sample itself, every other one P people drawn with replacement.
    """

    person: Ints = field(repr=False)
    weight: Floats = field(repr=False)

    def only(self, rows: NDArray[np.bool_]) -> "Resampling":
        """Some of the exposures, under the same draws."""
        return Resampling(self.person[rows], self.weight)

    def blocks(self, rows: Ints) -> Iterator[Floats]:
        """The weights of exposures in the given order, (some draws, len(rows)), block by block."""
        size = max(1, _CELLS // max(len(rows), 1))
        columns = self.person[rows]
        for start in range(0, len(self.weight), size):
            yield self.weight[start : start + size][:, columns]

    def sums(self, values: Floats) -> Floats:
        """Weighted sums of values (n, k) in each draw: (1 + draws, k)."""
        people = self.weight.shape[1]
        by_person = [np.bincount(self.person, column, people) for column in values.T]
        return self.weight @ np.stack(by_person, axis=1)


def resample(person: Ints, *, draws: int = DRAWS, seed: int = 0) -> Resampling:
    """Draw people with replacement. person: int64 (n,), any codes."""
    names, codes = np.unique(person, return_inverse=True)
    rng = np.random.default_rng(seed)
    count = len(names)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=draws)
    weight = np.concatenate((np.ones((1, count)), drawn.astype(np.float64)))
    return Resampling(codes.astype(np.int64), weight)


def ranking(score: Floats, hit: NDArray[np.bool_], resampling: Resampling) -> tuple[Floats, Floats]:
    """Area under the ROC curve and average precision of a score in each draw, (1 + draws,) each.

    The weighted trapezoid and the weighted step sum over distinct scores, as scikit-learn has them
    with sample_weight. NaN where a draw lacks hits, or everything is a hit.
    """
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    hits = hit[order].astype(np.float64)
    areas, precisions = [], []
    for weight in resampling.blocks(order):
        hit_weight = weight * hits
        true = np.cumsum(hit_weight, axis=1)[:, ends]
        false = np.cumsum(weight - hit_weight, axis=1)[:, ends]
        gained = np.diff(true, axis=1, prepend=0.0)
        passed = np.diff(false, axis=1, prepend=0.0)
        total, others = true[:, -1], false[:, -1]
        with np.errstate(invalid="ignore", divide="ignore"):
            areas.append((passed * (true - gained / 2)).sum(axis=1) / (total * others))
            precision = np.where(true > 0, true / (true + false), 0.0)
            average = (gained * precision).sum(axis=1) / total
        precisions.append(np.where(others > 0, average, np.nan))
    return np.concatenate(areas), np.concatenate(precisions)


def targets(outcome: Ints, looked: Mask | None = None) -> dict[str, Mask]:
    """What can be told apart in a sample: outcomes, and a purchase (a buy or a return) from a view.

    looked: the exposures at views and carts; None: all. What neither they nor the orders tell apart
    is left out.
    """
    found = {kind.name.lower(): outcome == kind for kind in Outcome}
    found[PURCHASE] = outcome != Outcome.VIEW
    return {name: hit for name, hit in found.items() if ranked_among(hit, looked)}


def score_of(target: str, probabilities: Floats) -> Floats:
    """The probability of a target, (n,)."""
    if target == PURCHASE:
        return 1.0 - probabilities[:, Outcome.VIEW]
    return probabilities[:, Outcome[target.upper()]]


def metric_draws(
    probabilities: Floats,
    outcome: Ints,
    decision_weights: tuple[float, float, float],
    resampling: Resampling,
    *,
    only: frozenset[str] | None = None,
    looked: Mask | None = None,
) -> dict[str, Floats]:
    """Metrics in each draw, (1 + draws,) each.

    probabilities: (n, 3). <target>_auc, <target>_pr_auc; log_loss, ece, ece_beyond_chance,
    macro_f1 and accuracy.
    only: the metrics that are wanted; None: all. looked: as in targets.
    """
    found: dict[str, Floats] = {}
    for name, hit in targets(outcome, looked).items():
        names = (f"{name}_auc", f"{name}_pr_auc")
        if only is None or only & set(names):
            ranks = _ranked(score_of(name, probabilities), hit, looked, resampling)
            found |= zip(names, ranks, strict=True)
    size = resampling.sums(np.ones((len(outcome), 1)))[:, 0]
    size[size == 0] = np.nan  # a draw without any of a few people
    found["log_loss"] = resampling.sums(_losses(probabilities, outcome))[:, 0] / size
    found |= _calibration(probabilities, outcome, resampling, size)
    found |= _decided(probabilities, outcome, decision_weights, resampling, size)
    return found if only is None else {name: found[name] for name in only if name in found}


def _ranked(
    score: Floats, hit: Mask, looked: Mask | None, resampling: Resampling
) -> tuple[Floats, Floats]:
    """As `ranking`, among views and carts and among lines of orders: their mean, by pairs."""
    parts = ranked_among(hit, looked)
    each = np.array([ranking(score[rows], hit[rows], resampling.only(rows)) for rows in parts])
    each = np.ma.masked_invalid(each)  # a draw may be without one of a few hits
    area, precision = np.ma.average(each, axis=0, weights=[pairs(hit[rows]) for rows in parts])
    return area.filled(np.nan), precision.filled(np.nan)


def _losses(probabilities: Floats, outcome: Ints) -> Floats:
    chosen = probabilities[np.arange(len(outcome)), outcome]
    return -np.log(np.maximum(chosen, 1e-12))[:, None]


def _calibration(
    probabilities: Floats, outcome: Ints, resampling: Resampling, size: Floats
) -> dict[str, Floats]:
    """The mean gap of predicted and observed shares over bins of about equal size and over
    outcomes.

    A gap is never below zero, so chance alone makes one, and makes it larger in every draw. How a
    bin's gap strays between draws shows what chance makes of perfect probabilities. Gaps of two
    independent causes add up as squares do, so ece_beyond_chance is the root of what is left of
    the square; the spread of chance is that of both metrics.
    """
    labels = np.unique(outcome)
    inner = np.arange(1, ECE_BINS) / ECE_BINS
    error, chance = 0.0, np.zeros(len(size))
    for label in labels:
        p = probabilities[:, label]
        number = np.searchsorted(np.quantile(p, inner), p, side="right")  # as in reliability()
        gap = np.zeros((len(p), ECE_BINS))
        gap[np.arange(len(p)), number] = p - (outcome == label)
        gaps = resampling.sums(gap) / size[:, None]  # (1 + draws, bins)
        error += float(np.abs(gaps[0]).sum()) / len(labels)
        chance += np.abs(gaps - gaps[0]).sum(axis=1) / len(labels)
    usual = np.nanmean(chance[1:])
    strays = np.append(usual, chance[1:])
    return {
        "ece": error - strays + usual,
        "ece_beyond_chance": np.sqrt(np.maximum(error**2 - strays**2, 0.0)),
    }


def _decided(
    probabilities: Floats,
    outcome: Ints,
    decision_weights: tuple[float, float, float],
    resampling: Resampling,
    size: Floats,
) -> dict[str, Floats]:
    decided = (probabilities * np.array(decision_weights)).argmax(axis=1)
    cells = np.eye(_OUTCOMES**2)[outcome * _OUTCOMES + decided]
    confusion = resampling.sums(cells).reshape(-1, _OUTCOMES, _OUTCOMES)
    right = np.diagonal(confusion, axis1=1, axis2=2)
    either = confusion.sum(axis=1) + confusion.sum(axis=2)
    f1 = 2 * right / np.maximum(either, 1e-12)
    return {
        "macro_f1": f1[:, np.unique(outcome)].mean(axis=1),
        "accuracy": right.sum(axis=1) / size,
    }
