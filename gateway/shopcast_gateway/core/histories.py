"""What was last read of people, for when the store is away.

A bounded copy in memory, for all versions that answer. An entry is what the directory answered to
one shopper, purpose and confidence, and so many events; it is given out for `max_age_s` at most, so
that whoever is erased or refuses a purpose through another process is not answered from it for
longer. What this process itself takes away empties it at once: `clear`.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from operator import itemgetter
from sys import getsizeof
from typing import Any

from shopcast_domain.events import Account, Item
from shopcast_domain.features import Candidates
from shopcast_gateway.core.protocol import PredictQuery
from shopcast_gateway.directory.reading import unread
from shopcast_gateway.directory.types import Purpose, Reading

MAX_AGE_S = 60.0
"""After which a copy is given to nobody."""
MAX_READINGS = 10_000
MAX_BYTES = 200_000_000
"""Of all readings together: about 7,000 of 20 events and 20 items with texts of 80 characters."""
_COPY_BYTES, _EVENT_BYTES, _ITEM_BYTES = 5_000, 220, 640  # without the characters of their texts
_TEXTS = itemgetter(*map(Item._fields.index, ("item_id", "title", "brand", "category")))

_OF_ALL = ("platform", "platform_tally")  # the rest of Candidates has a row for each
_OF_ITEMS = ("candidate_texts", "candidate_categories", "candidate_known")

_Key = tuple[Account, Purpose, float, int]


@dataclass(frozen=True, slots=True)
class _Copy:
    """A reading, the items it was asked for, and when. at_s: of the monotonic clock. size_bytes:
    no less than what it takes of the memory."""

    reading: Reading
    items: tuple[Item, ...]
    at_s: float
    size_bytes: int


class Histories:
    """The newest reading of each shopper, at most `readings` of them with `size_bytes` bytes.

    Those that were read longest ago go first. clock: seconds that only rise. limit, of methods: the
    events that were asked for.
    """

    def __init__(
        self,
        *,
        max_age_s: float = MAX_AGE_S,
        readings: int = MAX_READINGS,
        size_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_age_s, self._most, self._most_bytes = max_age_s, readings, size_bytes
        self._clock = clock
        self._copies: OrderedDict[_Key, _Copy] = OrderedDict()
        self._bytes = 0
        self._cleared = 0

    def __len__(self) -> int:
        return len(self._copies)

    def begin(self) -> "Begun":
        """To be called before a read whose answer is to be kept."""
        return Begun(self._cleared, self._clock())

    def keep(self, query: PredictQuery, limit: int, reading: Reading, begun: "Begun") -> None:
        """Keep what a read gave, unless something was taken away while it ran."""
        if begun.cleared != self._cleared:
            return
        key = _key(query, limit)
        if key in self._copies:
            self._drop(key)
        size_bytes = _size_bytes(reading, query.items)
        self._copies[key] = _Copy(reading, query.items, begun.at_s, size_bytes)
        self._bytes += size_bytes
        while self._is_full or self._oldest_is_old:
            self._drop(next(iter(self._copies)))

    def age_s(self, query: PredictQuery, limit: int) -> float | None:
        """How long ago the shopper was read; None where there is no copy to give."""
        copy = self._copies.get(_key(query, limit))
        if copy is None:
            return None
        age_s = self._clock() - copy.at_s
        return age_s if age_s <= self._max_age_s else None

    def recall(self, query: PredictQuery, limit: int) -> Reading:
        """The copy, with the items of this query. Raises KeyError where there is none."""
        copy = self._copies[_key(query, limit)]
        if copy.items == query.items:
            return copy.reading
        return _with_items(copy, query.items)

    def clear(self) -> None:
        """Forget everybody, and what is being read: somebody's events may be used for less now."""
        self._copies.clear()
        self._bytes = 0
        self._cleared += 1

    @property
    def _is_full(self) -> bool:
        return len(self._copies) > self._most or self._bytes > self._most_bytes

    @property
    def _oldest_is_old(self) -> bool:
        if not self._copies:
            return False
        oldest = next(iter(self._copies.values()))
        return self._clock() - oldest.at_s > self._max_age_s

    def _drop(self, key: _Key) -> None:
        self._bytes -= self._copies.pop(key).size_bytes


@dataclass(frozen=True, slots=True)
class Begun:
    """A read that has begun: how often everybody had been forgotten, and when it was."""

    cleared: int
    at_s: float


def _size_bytes(reading: Reading, items: Sequence[Item]) -> int:
    """Texts count by their length: callers choose them, 1,500 characters an item. What copies share
    counts in each. (Joined, since Python would take six times as long to look at each.)"""
    texts = chain(
        reading.window_texts,
        reading.window_platforms,
        reading.candidate_texts,
        reading.candidate_categories,
        *map(_TEXTS, items),
    )
    rows = _EVENT_BYTES * len(reading.window) + _ITEM_BYTES * len(items)
    return _COPY_BYTES + rows + getsizeof("".join(filter(None, texts)))


def _key(query: PredictQuery, limit: int) -> _Key:
    return query.account, query.purpose, query.min_confidence, limit


def _with_items(copy: _Copy, items: Sequence[Item]) -> Reading:
    """A reading for other items: those that are in it too, the others as the request has them."""
    place = {item: row for row, item in enumerate(copy.items)}
    pairs = [(row, place[item]) for row, item in enumerate(items) if item in place]
    blank, kept = unread(items), copy.reading
    rows, places = [row for row, _ in pairs], [there for _, there in pairs]
    columns = {name: getattr(kept.candidates, name) for name in _OF_ALL}
    for column in fields(Candidates):
        if column.name not in _OF_ALL:
            values = getattr(blank.candidates, column.name).copy()
            values[rows] = getattr(kept.candidates, column.name)[places]
            columns[column.name] = values
    told = {name: list(getattr(blank, name)) for name in _OF_ITEMS}
    for name, values in told.items():
        for row, there in pairs:
            values[row] = getattr(kept, name)[there]
    lists: dict[str, Any] = {name: tuple(values) for name, values in told.items()}
    return replace(kept, candidates=Candidates(**columns), **lists)
