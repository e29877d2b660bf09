"""AUC with intervals by person: who is drawn, comes with all exposures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shopcast_domain.features import Floats, Ints

DRAWS = 1_000

Scores = NDArray[np.floating[Any]]


def auc(score: Scores, outcome: Ints, weight: Floats) -> float:
    """The chance that a hit (outcome 1) scores above another, ties counting half; rows weigh
    `weight`."""
    _, place = np.unique(score, return_inverse=True)
    hits, others = (np.bincount(place, weight * (outcome == label)) for label in (1, 0))
    below = np.cumsum(others) - others / 2
    return float((hits * below).sum() / (hits.sum() * others.sum()))


def plain_auc(score: Scores, outcome: Ints) -> float:
    """Of the rows as they are."""
    return auc(score, outcome, np.ones(len(outcome)))


class Resampling:
    """AUC over draws of people with replacement, alike for all that is compared."""

    def __init__(self, person: Ints, outcome: Ints, *, draws: int = DRAWS, seed: int = 0) -> None:
        found, self._whose = np.unique(person, return_inverse=True)
        self._outcome = outcome
        even = np.full(len(found), 1 / len(found))
        drawn = np.random.default_rng(seed).multinomial(len(found), even, size=draws)
        self._times = np.vstack([np.ones(len(found)), drawn])

    def auc(self, scores: Sequence[Scores]) -> Floats:
        """The mean AUC of several seeds' scores: (1 + draws,), first that of the data as it is."""
        places = [np.unique(score, return_inverse=True)[1] for score in scores]
        return np.array(
            [
                np.mean([auc(place, self._outcome, times[self._whose]) for place in places])
                for times in self._times
            ]
        )


def with_interval(draws: Floats) -> dict[str, float]:
    """What the data say and the middle 95 % of the draws."""
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return {"value": float(draws[0]), "low": float(low), "high": float(high)}
