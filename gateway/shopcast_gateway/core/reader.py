"""What is known of a shopper and the items: from the directory, or the most that can be had."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shopcast_domain.events import Item
from shopcast_gateway.core.catalogue import Catalogue
from shopcast_gateway.core.histories import Histories
from shopcast_gateway.core.protocol import Level, PredictQuery, Reason
from shopcast_gateway.core.silence import Silence
from shopcast_gateway.core.stages import PLACES, UNRECORDED, Recorder, timed
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.directory.reading import unread
from shopcast_gateway.directory.types import Reading
from shopcast_gateway.errors import DeadlineExpired, TooStale, Unavailable

CLOCK_SKEW_S = 300.0
"""How far ahead of our clock an event may lie. Such events count as happening now."""
_READ_SHARE = 0.5
"""Of the deadline, which the directory may take where an answer without it will do."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    """A reading, and how much it is. reason: None where it is everything. age_s: of a copy."""

    reading: Reading
    level: Level = Level.FULL
    reason: Reason | None = None
    age_s: float | None = None


class Reader:
    """Reads a directory for queries, less the items that are at hand, and keeps copies for when it
    is away, in `histories`.

    limit: events of a history. clock: seconds since the epoch.
    """

    def __init__(
        self,
        directory: Directory,
        histories: Histories,
        *,
        limit: int,
        clock: Callable[[], float],
        recorder: Recorder = UNRECORDED,
    ) -> None:
        self._recorder = recorder
        self._directory, self._histories = directory, histories
        self._catalogue = Catalogue()
        self._limit, self._clock = limit, clock
        self._silence = Silence("the directory")

    async def read(self, query: PredictQuery, *, timeout_s: float) -> Known:
        """What the directory knows, or if it cannot be had and need not, what was known, or what
        the request says.

        Raises Unavailable, TooStale, DeadlineExpired.
        """
        spared = query.lowest_level >= Level.NO_HISTORY or (
            query.lowest_level >= Level.STALE and _fresh(query, self._age_s(query))
        )
        begun = self._histories.begin()
        at_hand = self._catalogue.look_up(query.account.platform, query.items)
        try:
            limit_s = timeout_s * _READ_SHARE if spared else timeout_s
            with timed("look_up", self._recorder):
                reading = await self._read(query, at_hand.missing, limit_s)
        except TimeoutError:
            late = DeadlineExpired("the directory took longer than the deadline")
            return self._without(query, Reason.STORE_SLOW, late)
        except Unavailable as error:
            return self._without(query, Reason.STORE_AWAY, error)
        reading = at_hand.complete(reading)
        counts = len(query.items) - len(at_hand.missing), len(at_hand.missing)
        for place, count in zip(PLACES, counts, strict=True):
            if count:
                self._recorder.items(place, count)
        self._histories.keep(query, self._limit, reading, begun)
        return Known(reading)

    async def _read(self, query: PredictQuery, items: Sequence[Item], limit_s: float) -> Reading:
        await self._silence.check(limit_s)
        async with asyncio.timeout(limit_s):
            with self._silence.asking():
                return await self._directory.read(
                    query.account,
                    items,
                    before_s=self._clock() + CLOCK_SKEW_S,
                    limit=self._limit,
                    purpose=query.purpose,
                    min_confidence=query.min_confidence,
                )

    def _age_s(self, query: PredictQuery) -> float | None:
        return self._histories.age_s(query, self._limit)

    def _without(
        self, query: PredictQuery, reason: Reason, error: DeadlineExpired | Unavailable
    ) -> Known:
        """What there is without the directory; raises the error where nothing that will do."""
        age_s = self._age_s(query) if query.lowest_level >= Level.STALE else None
        if age_s is not None and _fresh(query, age_s):
            _log.warning("answering from a copy %.1f s old: %s", age_s, error)
            return Known(self._histories.recall(query, self._limit), Level.STALE, reason, age_s)
        if query.lowest_level >= Level.NO_HISTORY:
            _log.warning("answering without history: %s", error)
            return Known(unread(query.items), Level.NO_HISTORY, reason)
        if age_s is not None and isinstance(error, Unavailable):
            raise TooStale("the history at hand is older than the caller allows") from error
        raise error


def _fresh(query: PredictQuery, age_s: float | None) -> bool:
    """Whether there is a copy, and the caller takes one of its age."""
    limit_s = query.max_history_age_s
    return age_s is not None and (limit_s is None or age_s <= limit_s)
