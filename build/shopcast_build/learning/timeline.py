"""A log as arrays, so that what was known before any moment can be read off without a scan."""

import copy
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shopcast_build.data.spilling import spilled
from shopcast_build.learning.catalogue import Catalogue
from shopcast_build.learning.tally import Keep, Tally, lower_bound, sorted_ranks
from shopcast_domain.events import EventKind
from shopcast_domain.features import MISSING, Candidates, Codes, Floats, Ints, Window, micro_log

_OF_EVENTS = ("time_s", "kind", "platform", "item", "price", "quantity")
KIND_NAMES = [kind.name.lower() for kind in EventKind]


class Timeline:
    """A clean log in the order of (person, time), with tallies of everybody's events.

    events: columns person, platform, item (codes), time, kind, price, quantity; sorted by time.
    keep: where the arrays are to live, 75 bytes an event; in files mapped into memory as needed.
    Attributes in (person, time) order, each of length E: time_s, price (float64, NaN where
    unknown), quantity (float64), kind (int8), platform (int16), item (int32); person_start: int64
    (P + 1,).
    """

    def __init__(self, events: pl.DataFrame, catalogue: Catalogue, keep: Keep = spilled) -> None:
        self.catalogue = catalogue

        def column(name: str, dtype: type[np.number[Any]]) -> NDArray[Any]:
            return events[name].to_numpy().astype(dtype, copy=False)

        kind = events["kind"].cast(pl.Enum(KIND_NAMES)).to_physical().to_numpy().astype(np.int8)
        platform, item = column("platform", np.int16), column("item", np.int32)
        self._platform_tally = Tally(platform, kind, keep)
        habit = _habit(events, kind)
        self._item_tally = Tally(item, kind, keep, habit)
        del habit
        # Microseconds as float64 seconds stay apart and in order until the year 2255.
        time_s = events["time"].dt.epoch("us").to_numpy() / 1e6
        since_s = catalogue.in_category_s(item)
        # An event counts once the newest of those until then is past that tell the category.
        since = None if since_s is None else np.searchsorted(time_s, since_s, side="right") - 1
        self._category_tally = Tally(catalogue.category[item], kind, keep, since=since)
        del since, since_s

        order, self.person_start = sorted_ranks(column("person", np.int32))
        self.kind = keep(kind[order])
        self.platform = keep(platform[order])
        del kind, platform
        self.item = keep(item[order])
        del item
        price = _prices(events)[order]
        unknown = np.flatnonzero(np.isnan(price))
        price[unknown] = catalogue.price[self.item[unknown]]
        self.price = keep(price)
        del price
        self.quantity = keep(column("quantity", np.float64)[order])
        self.end_s = float(time_s[-1])
        self.time_s = keep(time_s[order])
        self._sorted_time_s = keep(time_s)

    def columns(self) -> list[NDArray[Any]]:
        """The events, and where each person's begin."""
        return [*(getattr(self, name) for name in _OF_EVENTS), self.person_start]

    def regrouped(self, rows: Ints, person_start: Ints) -> "Timeline":
        """The same log and the same tallies, its events laid out for other people.

        rows: (n,), events by their place in this timeline, by the new people and time; an event may
        come more than once, or not at all. person_start: (people + 1,), where each one's begin.
        """
        other = copy.copy(self)
        for name in _OF_EVENTS:
            setattr(other, name, getattr(self, name)[rows])
        other.person_start = person_start
        return other

    def position(self, person: Codes, at_s: Floats) -> Ints:
        """Where each person's events from `at_s` on begin, in (person, time) order: int64 (N,)."""
        start, end = self.person_start[person], self.person_start[person + 1]
        return lower_bound(self.time_s, start, end, at_s)

    def window(
        self, person: int | Codes, position: int | Ints, limit: int, at_s: float | Floats
    ) -> Window:
        """Each person's newest `limit` events before a position, newest first, padded to the
        longest, their items as they are known at `at_s`. person, position, at_s: (...)."""
        end = np.asarray(position, dtype=np.int64)
        start = np.maximum(self.person_start[person], end - limit)
        back = end[..., None] - np.arange(1, (end - start).max(initial=0) + 1)  # (..., W)
        there = back >= start[..., None]
        back = np.where(there, back, 0)
        item, moment = self.item[back], np.asarray(at_s)[..., None]
        return Window(
            time_s=self.time_s[back],
            kind=np.where(there, self.kind[back], MISSING),
            platform=self.platform[back],
            item=np.where(there, item, MISSING),
            category=np.where(there, self.catalogue.category_at(item, moment), MISSING),
            brand=np.where(there, self.catalogue.brand_at(item, moment), MISSING),
            price=np.where(there, self.price_of(back, moment), np.nan),
            quantity=np.where(there, self.quantity[back], np.nan),
        )

    def price_of(self, event: Ints, at_s: float | Floats) -> Floats:
        """Prices of events as they are known at a later moment: their own, else the items'."""
        # Who carries a price has made the item's known: where it is not, the event has none.
        return self.catalogue.price_known(self.item[event], at_s, self.price[event])

    def candidates(
        self,
        platform: int | Codes,
        item: Codes,
        price: Floats,
        quantity: Floats,
        at_s: float | Floats,
    ) -> Candidates:
        """Items met on a platform, as they are known at `at_s`, with everybody's tallies strictly
        before.

        platform, at_s: (...). item, price, quantity: (..., N).
        """
        rank = np.asarray(np.searchsorted(self._sorted_time_s, at_s, side="left"), dtype=np.int64)
        ranks = np.broadcast_to(rank[..., None], item.shape)
        moment = np.asarray(at_s)[..., None]
        category = self.catalogue.category_at(item, moment)
        item_tally, item_habit = self._item_tally.before(item, ranks)
        return Candidates(
            platform=platform,
            item=item,
            category=category,
            brand=self.catalogue.brand_at(item, moment),
            price=np.where(np.isnan(price), self.catalogue.price_at(item, moment), price),
            quantity=quantity,
            item_tally=item_tally,
            item_habit=item_habit,
            category_tally=self._category_tally.before(category, ranks)[0],
            platform_tally=self._platform_tally.before(np.asarray(platform), rank)[0],
        )


def _prices(events: pl.DataFrame) -> Floats:
    return events["price"].cast(pl.Float64).fill_null(np.nan).to_numpy()


def _habit(events: pl.DataFrame, kind: NDArray[np.int8]) -> list[Codes]:
    """The columns of HABIT, (E,) each."""
    price = _prices(events)
    pieces = micro_log(events["quantity"].to_numpy().astype(np.float64, copy=False))
    return [
        (~np.isnan(price)).astype(np.int8),
        micro_log(price).astype(np.int32),
        np.where(kind == EventKind.BUY, pieces, 0).astype(np.int32),
    ]
