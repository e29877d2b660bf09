"""Whether a model is fit to publish: asked of the test period, with intervals by person.

Each question is about a difference, and noise is what 99 % of a thousand resamplings of the people
hold: the questions are several, and an equally good model should pass them all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from shopcast_build.learning.evaluation import Judged, Mask
from shopcast_build.learning.examples import Examples
from shopcast_build.study.assessment import (
    LEAST_EXPOSURES,
    LEAST_PEOPLE,
    calibration_limit,
    headline_of,
)
from shopcast_build.study.resampling import metric_draws, resample
from shopcast_domain.features import Floats, Ints
from shopcast_domain.manifest import Check, Gate

NOT_WORSE = "not worse than what serves"
_NOISE = (0.005, 0.995)
_MOST_PEOPLE = 20_000
_LOSS, _GAP = "log_loss", "ece_beyond_chance"
_NAMES = {_LOSS: "log loss", "purchase_auc": "AUC of purchases", "return_auc": "AUC of returns"}


class GateError(Exception):
    """A model is not fit to publish. One sentence says which questions it failed."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What somebody says of the test period. probabilities: float64 (n, 3). weights: of the
    decision."""

    name: str
    probabilities: Floats = field(repr=False)
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def only(self, rows: Ints) -> "Candidate":
        """The same of some exposures."""
        return replace(self, probabilities=self.probabilities[rows])


@dataclass(frozen=True, slots=True)
class _Gain:
    """How much better one is than another, and the range that noise leaves."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


class Questions:
    """The questions about one model on one test period."""

    def __init__(self, new: Candidate, test: Examples, platforms: Sequence[str]) -> None:
        self._new, self._outcome, self._platforms = new, test.outcome, platforms
        self._platform: Ints = test.platform
        self._resampling = resample(test.person)
        self._person = test.person
        self._looked = ~test.at_orders
        self._headline = f"{headline_of(test.outcome, self._looked)}_auc"

    def beats_knowing_nothing(self, majority: Candidate) -> Check:
        """Is it better than always answering the shares of the outcomes? A lead that may be chance
        passes, so that short logs can be tried, and is called one."""
        gain = self._gain(_LOSS, majority)
        if gain.low > 0:
            found = f"log loss is better than that of {majority.name} by {gain}"
        elif gain.value > 0:
            found = f"log loss is ahead of that of {majority.name} by {gain}, which may be chance"
        else:
            found = f"log loss is no better than that of {majority.name} ({gain})"
        return Check(name="better than the shares", passed=gain.value > 0, finding=found)

    def is_not_worse(self, name: str, other: Candidate) -> Check:
        """Is it, overall and beyond noise, worse than another?"""
        gains = {metric: self._gain(metric, other) for metric in (_LOSS, self._headline)}
        worse = [m for m, gain in gains.items() if not gain.high >= 0]  # NaN is no proof
        told = ", ".join(f"{_NAMES[m]} {gains[m]}" for m in worse or gains)
        verb = "is worse than" if worse else "is not worse than"
        return Check(name=name, passed=not worse, finding=f"the model {verb} {other.name} ({told})")

    def hides_no_regression(self, other: Candidate) -> list[Check]:
        """On each platform: a loss on one may hide behind gains on the others."""
        checks = []
        for number, platform in enumerate(self._platforms):
            rows = self._platform == number
            if rows.sum() < LEAST_EXPOSURES or len(np.unique(self._person[rows])) < LEAST_PEOPLE:
                continue
            gain = self._gain(_LOSS, other, rows)
            worse = not gain.high >= 0
            verb = "is worse than" if worse else "is not worse than"
            finding = f"on {platform} the model {verb} {other.name} (log loss {gain})"
            checks.append(
                Check(name=f"no regression on {platform}", passed=not worse, finding=finding)
            )
        return checks

    def is_calibrated(self, rivals: Sequence[Candidate]) -> Check:
        """Can its probabilities be read as shares, as far as anybody could foresee them? Where
        outcomes have become rarer, or features mean something else than before, its rivals are off,
        too: it is compared with the one that is most."""

        def missed(one: Candidate) -> Floats:
            return self._draws(one, frozenset({_GAP}), None)[_GAP]

        ours, theirs = missed(self._new), {one.name: missed(one) for one in rivals}
        name = max(theirs, key=lambda rival: theirs[rival][0])
        more = ours - theirs[name]
        low = float(np.nanquantile(more[1:], _NOISE[0]))
        limit = calibration_limit(self._outcome, self._resampling, self._looked)
        found = (
            f"probabilities miss observed shares by {ours[0]:.4f} beyond chance, those of"
            f" {name} by {theirs[name][0]:.4f}: {more[0]:+.4f}, at least {low:+.4f}, where"
            f" {limit:.4f} is allowed"
        )
        if low <= limit < more[0]:
            found += "; that it is more may be chance"
        return Check(name="calibrated", passed=low <= limit, finding=found)

    def _gain(self, metric: str, other: Candidate, rows: Mask | None = None) -> _Gain:
        only = frozenset({metric})
        ours = self._own if rows is None else self._draws(self._new, only, rows)
        gained = self._draws(other, only, rows)[metric] - ours[metric]
        if metric != _LOSS:
            gained = -gained
        low, high = np.nanquantile(gained[1:], _NOISE)
        return _Gain(float(gained[0]), float(low), float(high))

    @cached_property
    def _own(self) -> dict[str, Floats]:
        """What several questions ask of the new model."""
        return self._draws(self._new, frozenset({_LOSS, self._headline}), None)

    def _draws(self, one: Candidate, only: frozenset[str], rows: Mask | None) -> dict[str, Floats]:
        chosen = np.ones(len(self._outcome), dtype=bool) if rows is None else rows
        return metric_draws(
            one.probabilities[chosen],
            self._outcome[chosen],
            one.weights,
            self._resampling.only(chosen),
            only=only,
            looked=self._looked[chosen],
        )


def ask(
    new: Candidate,
    test: Examples,
    platforms: Sequence[str],
    *,
    baselines: Mapping[str, Judged],
    majority: Judged,
    serving: Candidate | Check | None,
) -> Gate:
    """Ask everything of a model, on the exposures of at most 20,000 people.

    baselines: rivals by name. serving: what serves now, judged on the same exposures, or the check
    that says why it could not be.
    """
    rows = _of_some_people(test.person)

    def told(name: str, judged: Judged) -> Candidate:
        return Candidate(name, judged.test).only(rows)

    questions = Questions(new.only(rows), test.take(rows), platforms)
    nothing = told(majority.name, majority)
    rivals = [told(name, rival) for name, rival in baselines.items()]
    checks = [questions.beats_knowing_nothing(nothing)]
    checks += [questions.is_not_worse(f"not worse than {one.name}", one) for one in rivals]
    checks.append(questions.is_calibrated((nothing, *rivals)))
    if isinstance(serving, Candidate):
        before = serving.only(rows)
        checks.append(questions.is_not_worse(NOT_WORSE, before))
        checks += questions.hides_no_regression(before)
    elif serving is not None:
        checks.append(serving)
    return Gate(checks=tuple(checks))


def _of_some_people(person: Ints) -> Ints:
    """The exposures of at most _MOST_PEOPLE people, drawn at random and always alike: a thousand
    resamplings of a million would not fit into memory."""
    people = np.unique(person)
    if len(people) <= _MOST_PEOPLE:
        return np.arange(len(person))
    drawn = np.random.default_rng(0).choice(people, _MOST_PEOPLE, replace=False)
    return np.flatnonzero(np.isin(person, drawn))


def refuse(gate: Gate) -> None:
    """Raises GateError when a check failed."""
    if gate.failures:
        found = "; ".join(check.finding for check in gate.failures)
        raise GateError(
            f"the model is not fit to publish: {found}. Nothing was published; --force publishes it"
            " all the same, and its manifest says so; with --resume the networks are not trained"
            " again"
        )
