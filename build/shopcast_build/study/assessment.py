"""Contenders under the same draws of people: metrics, differences, slices and curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from shopcast_build.learning.calibration import reliability
from shopcast_build.learning.evaluation import Mask, ranked_among
from shopcast_build.study.contenders import Contender
from shopcast_build.study.estimates import Estimate, estimate, gain, is_gain, is_loss
from shopcast_build.study.resampling import (
    PURCHASE,
    Resampling,
    metric_draws,
    resample,
    score_of,
    targets,
)
from shopcast_build.study.schema import (
    Claim,
    ContenderResult,
    Curves,
    Difference,
    Point,
    Slice,
)
from shopcast_domain.features import Floats, Ints

ALL = "all"
LEAST_EXPOSURES, LEAST_PEOPLE, LEAST_OF_A_KIND = 200, 30, 20
"""Below these, nothing is claimed of a slice."""
WELL_CALIBRATED = 0.02
"""A small mean gap of predicted and observed shares, where the headline is no rare thing."""

_POINTS = 100
_BINS = 10


@dataclass(frozen=True, slots=True)
class Test:
    """The exposures to judge by: outcome, person int64 (n,); slices: key -> (name, bool (n,));
    looked: those at views and carts, bool (n,), None where all are."""

    outcome: Ints = field(repr=False)
    person: Ints = field(repr=False)
    slices: Mapping[str, tuple[str, Mask]] = field(repr=False)
    looked: Mask | None = field(repr=False, default=None)

    def rows(self, where: str) -> Mask:
        """The exposures of a slice; none of one that does not occur."""
        if where == ALL:
            return np.ones(len(self.outcome), dtype=bool)
        nobody = np.zeros(len(self.outcome), dtype=bool)
        return self.slices[where][1] if where in self.slices else nobody


def headline_of(outcome: Ints, looked: Mask | None = None) -> str:
    """What decides: telling purchases from views, or where there are no views, returns."""
    found = targets(outcome, looked)
    return PURCHASE if PURCHASE in found else "return"


def calibration_limit(outcome: Ints, resampling: Resampling, looked: Mask | None = None) -> float:
    """The mean gap of predicted and observed shares up to which the former can be read as shares.

    A tenth of the share of the headline, or the standard error of that share, by person, where so
    few exposures do not tell a tenth of it; WELL_CALIBRATED at most.
    """
    hit = targets(outcome)[headline_of(outcome, looked)]
    hits, size = resampling.sums(np.stack((hit, np.ones(len(hit))), axis=1)).T
    share = hits[size > 0] / size[size > 0]  # a draw may be without any of a few people
    return float(min(WELL_CALIBRATED, max(share[0] / 10, share[1:].std())))


class Assessment:
    """Metrics of contenders, each computed once."""

    def __init__(self, contenders: Sequence[Contender], test: Test, draws: int) -> None:
        self._contenders = {one.key: one for one in contenders}
        self._test = test
        self._resampling: Resampling = resample(test.person, draws=draws)
        self._known: dict[tuple[str, str, str], dict[str, list[Floats]]] = {}
        self.headline = headline_of(test.outcome, test.looked)
        self.headline_metric = f"{self.headline}_auc"
        self.calibration_limit = calibration_limit(test.outcome, self._resampling, test.looked)

    def __contains__(self, key: str) -> bool:
        return key in self._contenders

    def result(self, key: str) -> ContenderResult:
        """All metrics of one contender on the exposures it was asked about."""
        one = self._contenders[key]
        rows = self._rows(ALL, key)
        found = self._draws(key, ALL, None, (key,))
        return ContenderResult(
            key=key,
            name=one.name,
            note=one.note,
            exposures=int(rows.sum()),
            metrics=_estimates(found),
        )

    def headline_estimate(self, key: str) -> Estimate | None:
        """The metric that decides."""
        draws = self._draws(key, ALL, frozenset({self.headline_metric}), (key,))
        return estimate(draws[self.headline_metric])

    def difference(
        self, of: str, against: str, where: str = ALL, metric: str | None = None
    ) -> Difference:
        """How much better one is than another on the exposures both were asked about."""
        name = metric or self.headline_metric
        rows = self._told(name, self._rows(where, of, against))
        sides = [
            self._draws(key, where, frozenset({name}), (of, against)).get(name, [])
            for key in (of, against)
        ]
        found = gain(name, *sides) if all(sides) else None
        return Difference(
            of=of,
            against=against,
            metric=name,
            where=where,
            exposures=int(rows.sum()),
            people=len(np.unique(self._test.person[rows])),
            gain=found,
            claim=self._claim(found, rows, name),
        )

    def slice_of(self, where: str, keys: Sequence[str], metrics: Sequence[str]) -> Slice:
        """Some metrics of some contenders on a slice."""
        rows = self._test.rows(where)
        found = {key: self._draws(key, where, frozenset(metrics), (key,)) for key in keys}
        return Slice(
            key=where,
            name=self._test.slices[where][0],
            exposures=int(rows.sum()),
            people=len(np.unique(self._test.person[rows])),
            metrics={key: _estimates(draws) for key, draws in found.items()},
        )

    def curves(self, key: str) -> Curves:
        """Of a contender's first training, for the headline target."""
        rows = self._told(self.headline_metric, self._rows(ALL, key))
        score = score_of(self.headline, self._contenders[key].runs[0][rows])
        hit = targets(self._test.outcome)[self.headline][rows]
        false, true, _ = roc_curve(hit, score)
        precision, recall, _ = precision_recall_curve(hit, score)
        bins = reliability(score, hit, _BINS)
        return Curves(
            contender=key,
            roc=_points(false, true),
            precision_recall=_points(recall[::-1], precision[::-1]),
            reliability=tuple(_point(b.predicted, b.observed) for b in bins),
            bins=tuple(b.count for b in bins),
        )

    def _told(self, metric: str, rows: Mask) -> Mask:
        """Of some exposures those that a metric tells apart: all, unless it ranks them."""
        hit = targets(self._test.outcome).get(metric.removesuffix("_auc").removesuffix("_pr"))
        if hit is None:
            return rows
        told, among = np.zeros_like(rows), np.flatnonzero(rows)
        for part in ranked_among(hit[rows], self._looked(rows)):
            told[among[part]] = True
        return told

    def _looked(self, rows: Mask) -> Mask | None:
        return None if self._test.looked is None else self._test.looked[rows]

    def _rows(self, where: str, *keys: str) -> Mask:
        rows = self._test.rows(where)
        for key in keys:
            asked = self._contenders[key].asked
            rows = rows if asked is None else rows & asked
        return rows

    def _draws(
        self, key: str, where: str, only: frozenset[str] | None, asked: tuple[str, ...]
    ) -> dict[str, list[Floats]]:
        partly = "+".join(sorted(k for k in asked if self._contenders[k].asked is not None))
        known = self._known.setdefault((key, where, partly), {})
        if only is None or not only <= set(known):
            rows = self._rows(where, *asked)
            if not rows.any():
                return {}
            one, resampling = self._contenders[key], self._resampling.only(rows)
            found: dict[str, list[Floats]] = {}
            for run, weights in zip(one.runs, one.decisions, strict=True):
                outcome = self._test.outcome[rows]
                for name, draws in metric_draws(
                    run[rows], outcome, weights, resampling, only=only, looked=self._looked(rows)
                ).items():
                    found.setdefault(name, []).append(draws)
            known.update(found)
        return known if only is None else {name: known[name] for name in only if name in known}

    def _claim(self, found: Estimate | None, rows: Mask, metric: str) -> Claim:
        outcome, person = self._test.outcome[rows], self._test.person[rows]
        if found is None or len(outcome) < LEAST_EXPOSURES:
            return "too small"
        if len(np.unique(person)) < LEAST_PEOPLE:
            return "too small"
        for target, hit in targets(outcome).items():
            if metric.startswith(target) and min(hit.sum(), (~hit).sum()) < LEAST_OF_A_KIND:
                return "too small"
        if is_gain(found):
            return "better"
        return "worse" if is_loss(found) else "none"


def _estimates(draws: Mapping[str, list[Floats]]) -> dict[str, Estimate]:
    found = {name: estimate(each) for name, each in sorted(draws.items())}
    return {name: one for name, one in found.items() if one is not None}


def _points(x: Floats, y: Floats) -> tuple[Point, ...]:
    some = np.unique(np.linspace(0, len(x) - 1, _POINTS).round().astype(int))
    return tuple(_point(x[n], y[n]) for n in some)


def _point(x: float, y: float) -> Point:
    return Point(x=round(float(x), 5), y=round(float(y), 5))
