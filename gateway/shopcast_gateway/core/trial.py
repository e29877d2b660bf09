"""A version on trial beside the one that serves: it answers some people, and others in the shadow.

A canary answers a share of the people, each person always by the same version. A shadow answers a
share of the other predictions for comparison only, when there is room and off the caller's way.
"""

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from shopcast_domain.events import Outcome
from shopcast_gateway.core.protocol import Level, Prediction, Predictor, PredictQuery
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.errors import ContractMismatch, DeadlineExpired, Overloaded, Unavailable

_AT_ONCE = 2  # shadows; what comes meanwhile is not compared
_SHADOW_S = 5.0
_RESOLVE_SHARE = 0.2  # of the deadline, to find out who the person is
_SHARE = 0.5  # of it, until there is an answer: the rest is for the version that serves
_TOLD_S = 60.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Comparison:
    """What two versions said of the same predictions, since the trial began.

    compared, failed, skipped: predictions. items: of those compared. flips: items of which they
    take another outcome for the likeliest. correlations: predictions of two items or more that were
    ranked by the probability of a purchase, and rank_correlation: the sum of Spearman's
    coefficients. serving, trial: sums over the items of the probability of each outcome.
    """

    compared: int = 0
    failed: int = 0
    skipped: int = 0
    items: int = 0
    flips: int = 0
    correlations: int = 0
    rank_correlation: float = 0.0
    serving: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(Outcome)))
    trial: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(Outcome)))

    def add(self, serving: Prediction, trial: Prediction) -> None:
        """Both answers to one query."""
        one = np.array([item.probabilities for item in serving.predictions])
        other = np.array([item.probabilities for item in trial.predictions])
        self.compared += 1
        self.items += len(one)
        self.flips += int((one.argmax(axis=1) != other.argmax(axis=1)).sum())
        self.serving += one.sum(axis=0)
        self.trial += other.sum(axis=0)
        coefficient = spearman(1 - one[:, Outcome.VIEW], 1 - other[:, Outcome.VIEW])
        if coefficient is not None:
            self.correlations += 1
            self.rank_correlation += coefficient

    @property
    def sentence(self) -> str:
        """For the log."""
        items, ranked = max(self.items, 1), max(self.correlations, 1)
        difference = (self.trial - self.serving) / items
        return (
            f"compared={self.compared} failed={self.failed} skipped={self.skipped}"
            f" rank_correlation={self.rank_correlation / ranked:.4f}"
            f" flip_rate={self.flips / items:.4f}"
            f" buy_difference={difference[Outcome.BUY]:+.5f}"
            f" return_difference={difference[Outcome.RETURN]:+.5f}"
        )


def spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None where one side is all alike.

    >>> spearman(np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.5, 0.9]))
    1.0
    """
    ranks = [_ranks(side) for side in (one, other)]
    if any(side.std() == 0 for side in ranks):
        return None
    return round(float(np.corrcoef(ranks[0], ranks[1])[0, 1]), 12)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks: NDArray[np.float64] = (last - (count - 1) / 2)[group]
    return ranks


class Trial:
    """Decides whom the version on trial answers, and compares.

    share: of the people, shadow: of the predictions for the others, 0 to 1 each. busy: whether
    there is no room for work that nobody waits for.
    """

    def __init__(
        self,
        version: int,
        predictor: Predictor,
        directory: Directory,
        *,
        share: float,
        shadow: float,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self.version, self.share, self.shadow = version, share, shadow
        self.comparison, self.answered = Comparison(), 0
        self._predictor, self._directory, self._busy = predictor, directory, busy
        self._shadows: set[asyncio.Task[None]] = set()
        self._told = time.monotonic()

    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction | None:
        """The answer where it is this version's to give and it can; else None. Who is not known yet
        is not tried on: they would meet another version with their first event."""
        if not self.share:
            return None
        began = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s * _RESOLVE_SHARE):
                person = await self._directory.resolve(query.account)
            if person is None or lot(self.version, person.person_id) >= self.share:
                return None
            left_s = timeout_s * _SHARE - (time.monotonic() - began)
            # With everything, or not at all: what there is without the store is the same for the
            # one that serves, and base rates are as good.
            whole = replace(query, lowest_level=Level.FULL)
            answer = await self._predictor.predict(whole, timeout_s=left_s)
        except (TimeoutError, Unavailable, DeadlineExpired, ContractMismatch, Overloaded) as error:
            _log.warning("version %d on trial did not answer: %s", self.version, error)
            return None
        self.answered += 1
        return answer

    def compare(self, query: PredictQuery, answer: Prediction) -> None:
        """Perhaps ask the same of the version on trial, later."""
        if random.random() >= self.shadow:  # noqa: S311 - a sample
            return
        base_rates = answer.evidence.level is Level.PRIOR
        if base_rates or len(self._shadows) >= _AT_ONCE or self._busy():
            self.comparison.skipped += 1
            return
        # In a context of its own: the time it takes is not the call's.
        task = asyncio.create_task(self._compare(query, answer), context=Context())
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def close(self) -> None:
        """End the comparisons that run."""
        for task in self._shadows:
            task.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)
        self._tell()

    async def _compare(self, query: PredictQuery, answer: Prediction) -> None:
        try:
            # With a model: base rates are as good of the one that serves.
            lowest = min(query.lowest_level, Level.NO_HISTORY)
            asked = replace(query, lowest_level=lowest)
            trial = await self._predictor.predict(asked, timeout_s=_SHADOW_S)
        except Exception as error:
            self.comparison.failed += 1
            _log.debug("the shadow of version %d failed: %s", self.version, type(error).__name__)
        else:
            if trial.evidence.level is answer.evidence.level:
                self.comparison.add(answer, trial)
            else:  # the store was slow for one of them
                self.comparison.skipped += 1
        if time.monotonic() - self._told >= _TOLD_S:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        _log.info(
            "trial version=%d answered=%d %s", self.version, self.answered, self.comparison.sentence
        )


def lot(version: int, person: str) -> float:
    """Where a person stands among all, 0 to 1; another order for every version."""
    digest = hashlib.blake2b(f"{version}:{person}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
