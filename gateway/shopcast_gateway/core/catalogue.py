"""What was lately read of items, so that most of a request's need not be read again.

A shop shows the same items to many people. What the store knows of an item, its attributes and the
market's tallies, is kept for `max_age_s` and given to whoever asks for the item with the same
attributes; nothing of any person is in it. A person's own events are always read. Items that the
store does not know are not kept: they are known as soon as somebody has met them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shopcast_domain.events import Item
from shopcast_domain.features import HABIT, KINDS, Candidates
from shopcast_gateway.directory.types import Reading

MAX_AGE_S = 5.0
"""For how long an item may be missing what happened to it since."""
MAX_ITEMS = 32_768
"""About 20 MB, with texts of 80 characters."""
MAX_CARRIED = 300
"""Characters of the texts that an item carries, up to which it is kept: callers choose them."""

_SHAPES: dict[str, tuple[tuple[int, ...], type]] = {
    "item": ((), np.int64),
    "category": ((), np.int64),
    "brand": ((), np.int64),
    "price": ((), np.float64),
    "item_tally": ((KINDS,), np.float64),
    "item_habit": ((len(HABIT),), np.int64),
    "category_tally": ((KINDS,), np.float64),
}
"""Columns of Candidates that say something of one item, whoever asks."""
_TEXTS = ("candidate_texts", "candidate_categories")
_Columns = dict[str, NDArray[Any]]


class Catalogue:
    """Rows of the items that were read last, at most `items`; the oldest make room for new ones.

    For one event loop. clock: seconds that only rise.
    """

    def __init__(
        self,
        *,
        max_age_s: float = MAX_AGE_S,
        items: int = MAX_ITEMS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_age_s, self._most, self._clock = max_age_s, items, clock
        self._columns: _Columns = {
            name: np.zeros((items, *shape), dtype) for name, (shape, dtype) in _SHAPES.items()
        }
        self._columns |= {name: np.full(items, "", dtype=object) for name in _TEXTS}
        self._read_s = np.full(items, -np.inf)
        self._keys: list[tuple[str, Item] | None] = [None] * items
        self._rows: dict[str, dict[Item, int]] = {}  # by platform
        self._next = 0

    def look_up(self, platform: str, items: Sequence[Item]) -> "AtHand":
        """What is at hand of a request's items."""
        now_s = self._clock()
        row_of = self._rows.get(platform, {}).get
        rows = np.array([row_of(item, -1) for item in items], dtype=np.int64)
        held = (rows >= 0) & (self._read_s[rows] >= now_s - self._max_age_s)
        if not held.any():
            return AtHand(self, platform, tuple(items), held, {}, now_s)
        missing = () if held.all() else tuple(items[row] for row in np.flatnonzero(~held).tolist())
        # Copies: rows may be given to others before the rest is read.
        columns = {name: column[rows[held]] for name, column in self._columns.items()}
        return AtHand(self, platform, missing, held, columns, now_s)

    def keep(self, platform: str, items: Sequence[Item], reading: Reading, at_s: float) -> None:
        """Keep what was read of items, as far as the store knows them. at_s: of the clock, before
        it was read."""
        known = [
            row
            for row, (item, known) in enumerate(zip(items, reading.candidate_known, strict=True))
            if known and _carried(item) <= MAX_CARRIED
        ][: self._most]
        if not known:
            return
        rows = [self._row(platform, items[row]) for row in known]
        for name, column in self._columns.items():
            column[rows] = _column(reading, name)[known]
        self._read_s[rows] = at_s

    def _row(self, platform: str, item: Item) -> int:
        rows = self._rows.setdefault(platform, {})
        if item in rows:
            return rows[item]
        row = self._next
        self._next = (row + 1) % self._most
        if (old := self._keys[row]) is not None:
            of_platform = self._rows[old[0]]
            del of_platform[old[1]]
            if not of_platform and of_platform is not rows:
                del self._rows[old[0]]
        self._keys[row] = platform, item
        rows[item] = row
        return row


@dataclass(frozen=True, slots=True)
class AtHand:
    """What was at hand of a request's n items. missing: those that must be read, in their order.
    held: bool (n,). columns: of those that are held, in their order."""

    catalogue: Catalogue
    platform: str
    missing: tuple[Item, ...]
    held: NDArray[np.bool_]
    columns: _Columns
    at_s: float

    def complete(self, reading: Reading) -> Reading:
        """What was read of the missing items, which is kept, with all that was at hand."""
        self.catalogue.keep(self.platform, self.missing, reading, self.at_s)
        if not self.columns:
            return reading
        known = self.held
        joined = self.columns
        if self.missing:
            known = known.copy()
            known[~self.held] = reading.candidate_known
            joined = {name: self._joined(reading, name) for name in self.columns}
        texts, categories = (tuple(joined[name].tolist()) for name in _TEXTS)
        return replace(
            reading,
            candidates=Candidates(
                platform=reading.candidates.platform,
                platform_tally=reading.candidates.platform_tally,
                quantity=np.full(len(self.held), np.nan),
                **{name: joined[name] for name in _SHAPES},
            ),
            candidate_texts=texts,
            candidate_categories=categories,
            candidate_known=tuple(known.tolist()),
        )

    def _joined(self, reading: Reading, name: str) -> NDArray[Any]:
        mine, theirs = self.columns[name], _column(reading, name)
        joined = np.empty((len(self.held), *mine.shape[1:]), mine.dtype)
        joined[self.held], joined[~self.held] = mine, theirs
        return joined


def _carried(item: Item) -> int:
    return sum(len(text) for text in (item.title, item.brand, item.category) if text is not None)


def _column(reading: Reading, name: str) -> NDArray[Any]:
    if name in _TEXTS:
        return np.array(getattr(reading, name), dtype=object)
    column: NDArray[Any] = getattr(reading.candidates, name)
    return column
