"""A log as arrays, so that what was known before any moment can be read off without a scan."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shopcast_domain.events import EventKind
from shopcast_domain.features import KINDS, MISSING, Candidates, Floats, Ints, Window, micro_log
from shopcast_domain.item_text import item_text, match_name

KIND_NAMES = [kind.name.lower() for kind in EventKind]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The items of a log by code. category, brand: int64 (I,) codes. price: float64 (I,), NaN
    where unknown. text: int64 (I,), index into `texts`, whose first entry is the empty text."""

    category: Ints
    brand: Ints
    price: Floats
    text: Ints
    texts: tuple[str, ...]


def _codes(names: list[str | None]) -> Ints:
    known: dict[str, int] = {}
    return np.array(
        [
            known.setdefault(n, len(known)) if (n := match_name(name or "")) else MISSING
            for name in names
        ],
        dtype=np.int64,
    )


def build_catalogue(items: pl.DataFrame) -> Catalogue:
    """items: one row per item code, columns title, brand, category, price."""
    rows = items.select("title", "brand", "category", "price").rows()
    texts: dict[str, int] = {"": 0}
    text = [texts.setdefault(item_text(*row), len(texts)) for row in rows]
    return Catalogue(
        category=_codes(items["category"].to_list()),
        brand=_codes(items["brand"].to_list()),
        price=items["price"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
        text=np.array(text, dtype=np.int64),
        texts=tuple(texts),
    )


class _Tally:
    """Counts events of a kind per code before a moment, by binary search in sorted pairs."""

    def __init__(self, code: Ints, kind: Ints) -> None:
        # Events come in the order of time, so an event's index is its rank in time.
        self._span = len(code) + 1
        at = code * self._span + np.arange(len(code))
        self._sorted = [np.sort(at[(kind == k) & (code != MISSING)]) for k in range(KINDS)]

    def before(self, code: Ints, rank: int) -> Floats:
        """Events of each kind per code among the first `rank` events: float64 (N, 4)."""
        low = np.maximum(code, 0) * self._span
        counts = np.empty((len(code), KINDS))
        for kind, at in enumerate(self._sorted):
            counts[:, kind] = np.searchsorted(at, low + rank) - np.searchsorted(at, low)
        counts[code == MISSING] = 0.0
        return counts


class _Sums:
    """Sums of whole numbers per code before a moment. value: int64 (E, k), in the order of time."""

    def __init__(self, code: Ints, value: Ints) -> None:
        self._span = len(code) + 1
        at = code * self._span + np.arange(len(code))
        order = np.argsort(at)
        self._sorted = at[order]
        self._sums = np.zeros((len(code) + 1, value.shape[1]), dtype=np.int64)
        np.cumsum(value[order], axis=0, out=self._sums[1:])

    def before(self, code: Ints, rank: int) -> Ints:
        """Sums per code over the first `rank` events: int64 (N, k)."""
        low = code * self._span
        first, last = np.searchsorted(self._sorted, low), np.searchsorted(self._sorted, low + rank)
        return self._sums[last] - self._sums[first]


class Timeline:
    """A clean log in the order of time and, beside it, in the order of (person, time).

    events: columns person, platform, item (codes), time, kind, price, quantity; sorted by time.
    Attributes in (person, time) order, each of length E: time_s (float64), kind, platform, item
    (int64), price (float64, NaN where unknown), quantity (float64); person_start: int64 (P + 1,).
    """

    def __init__(self, events: pl.DataFrame, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        time_s = events["time"].dt.epoch("us").to_numpy() / 1e6
        kind = events["kind"].cast(pl.Enum(KIND_NAMES)).to_physical().cast(pl.Int64).to_numpy()
        person, platform, item = (
            events[c].cast(pl.Int64).to_numpy() for c in ("person", "platform", "item")
        )
        self.end_s = float(time_s[-1])
        self._sorted_time_s = time_s
        self._item_tally = _Tally(item, kind)
        self._category_tally = _Tally(catalogue.category[item], kind)
        self._platform_tally = _Tally(platform, kind)
        price = events["price"].cast(pl.Float64).fill_null(np.nan).to_numpy()
        quantity = events["quantity"].cast(pl.Float64).to_numpy()
        bought = np.where(kind == EventKind.BUY, micro_log(quantity), 0)
        habit = np.stack([~np.isnan(price), micro_log(price), bought], axis=1).astype(np.int64)
        self._item_habit = _Sums(item, habit)

        order = np.argsort(person, kind="stable")
        price, self.quantity = price[order], quantity[order]
        self.time_s, self.kind = time_s[order], kind[order]
        self.platform, self.item = platform[order], item[order]
        self.price = np.where(np.isnan(price), catalogue.price[self.item], price)
        people = int(person.max()) + 1
        self.person_start = np.searchsorted(person[order], np.arange(people + 1))

    def position(self, person: Ints, at_s: Floats) -> Ints:
        """Where each person's events from `at_s` on begin, in (person, time) order: int64 (N,)."""
        start, end = self.person_start[person], self.person_start[person + 1]
        return np.array(
            [
                s + np.searchsorted(self.time_s[s:e], t)
                for s, e, t in zip(start, end, at_s, strict=True)
            ],
            dtype=np.int64,
        )

    def window(self, person: int, position: int, limit: int) -> Window:
        """The person's newest `limit` events before a position, newest first."""
        start = max(int(self.person_start[person]), position - limit)
        back: NDArray[np.int64] = np.arange(position - 1, start - 1, -1)
        item = self.item[back]
        return Window(
            time_s=self.time_s[back],
            kind=self.kind[back],
            platform=self.platform[back],
            item=item,
            category=self.catalogue.category[item],
            brand=self.catalogue.brand[item],
            price=self.price[back],
            quantity=self.quantity[back],
        )

    def candidates(
        self, platform: int, item: Ints, price: Floats, quantity: Floats, at_s: float
    ) -> Candidates:
        """Items met on a platform, with everybody's tallies strictly before `at_s`."""
        rank = int(np.searchsorted(self._sorted_time_s, at_s, side="left"))
        category = self.catalogue.category[item]
        return Candidates(
            platform=platform,
            item=item,
            category=category,
            brand=self.catalogue.brand[item],
            price=np.where(np.isnan(price), self.catalogue.price[item], price),
            quantity=quantity,
            item_tally=self._item_tally.before(item, rank),
            item_habit=self._item_habit.before(item, rank),
            category_tally=self._category_tally.before(category, rank),
            platform_tally=self._platform_tally.before(np.array([platform]), rank)[0],
        )
