"""The people of `directory.py`, the same in every store: accounts, links, events and items."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shopcast_domain.events import Account, EventKind, Item
from shopcast_domain.features import KINDS, micro_log
from shopcast_domain.item_text import match_name

ITEMS, PLATFORMS, BRANDS = 20_000, 5, 300
CATEGORIES = 12 * 97
PRICES = np.arange(5.0, 205.0)
NOW_S, YEAR_S = 1_790_000_000, 365 * 86_400
NOW_US = NOW_S * 1_000_000
KEY_BYTES = 16
_PART = 50_000

Ints = NDArray[np.int64]


def item_of(number: int) -> Item:
    return Item(
        f"i{number}",
        f"Item number {number}",
        f"Brand {number % BRANDS}",
        f"c{number % 12} > c{number % 97}",
        float(PRICES[number % len(PRICES)]),
    )


def brand_names() -> list[str]:
    return [match_name(str(item_of(n).brand)) for n in range(BRANDS)]


def category_names() -> list[str]:
    return [match_name(str(item_of(n).category)) for n in range(CATEGORIES)]


@dataclass(frozen=True, slots=True)
class Events:
    """Of some people, by person, the newest first. person: number of the first of their accounts.
    price: its place in PRICES. keys: of KEY_BYTES each."""

    person: Ints
    account: Ints
    time_us: Ints
    item: Ints
    kind: Ints
    price: Ints
    keys: bytes


class People:
    """Reproducible people. Number n has `accounts(n)`, which have the numbers from first[n]."""

    def __init__(self, count: int) -> None:
        self.count = count
        random = np.random.default_rng(7)
        # Heavy-tailed: median 4, mean 10, the busiest have thousands.
        sizes = np.floor(random.lognormal(1.55, 1.2, count)).astype(np.int64) + 1
        self.sizes = np.minimum(sizes, 5_000)
        self.held = random.choice([1, 2, 3], count, p=[0.6, 0.3, 0.1])
        self.first = 1 + np.concatenate(([0], np.cumsum(self.held)))

    def accounts(self, n: int) -> list[Account]:
        return [Account(f"shop-{(n + k) % PLATFORMS}", f"{n}-{k}") for k in range(self.held[n])]

    def parts(self) -> Iterator[range]:
        for start in range(0, self.count, _PART):
            yield range(start, min(start + _PART, self.count))

    def events(self, part: range) -> Events:
        random = np.random.default_rng(part.start)
        owner = np.repeat(np.arange(part.start, part.stop), self.sizes[part.start : part.stop])
        count = len(owner)
        which = random.integers(0, self.held[owner])
        seconds = random.integers(1, YEAR_S, count)
        order = np.lexsort((seconds, owner))
        owner, which, seconds = owner[order], which[order], seconds[order]
        item = (ITEMS * random.random(count) ** 3).astype(np.int64)
        return Events(
            person=self.first[owner],
            account=self.first[owner] + which,
            time_us=(NOW_S - seconds) * 1_000_000,
            item=1 + item + (owner + which) % PLATFORMS * ITEMS,
            kind=random.choice((0, 0, 0, 0, 1, 2, 3), count),
            price=item % len(PRICES),
            keys=random.bytes(KEY_BYTES * count),
        )


@dataclass(frozen=True, slots=True)
class KeptItem:
    """An item after all events. platform, brand, category: codes. habit: as features.HABIT."""

    number: int
    platform: int
    brand: int
    category: int
    item: Item
    tally: list[int]
    habit: tuple[int, int, int]
    newest_us: int


class Tallies:
    """What events leave with items, platforms and categories."""

    def __init__(self) -> None:
        self._tally = np.zeros((PLATFORMS, ITEMS, KINDS), np.int64)
        self._newest_us = np.full(PLATFORMS * ITEMS, NOW_US - YEAR_S * 1_000_000)

    def add(self, events: Events) -> None:
        place = (events.item - 1) * KINDS + events.kind
        more = np.bincount(place, minlength=self._tally.size)
        self._tally += more.reshape(self._tally.shape)
        np.maximum.at(self._newest_us, events.item - 1, events.time_us)

    def items(self) -> Iterator[KeptItem]:
        logs = micro_log(PRICES)
        one = int(micro_log(np.array(1.0)))
        kept = zip(self._tally.reshape(-1, KINDS).tolist(), self._newest_us.tolist(), strict=True)
        for at, (tally, newest_us) in enumerate(kept):
            platform, n = divmod(at, ITEMS)
            count = sum(tally)
            yield KeptItem(
                number=at + 1,
                platform=platform + 1,
                brand=n % BRANDS + 1,
                category=n % CATEGORIES + 1,
                item=item_of(n),
                tally=tally,
                habit=(count, count * int(logs[n % len(PRICES)]), tally[EventKind.BUY] * one),
                newest_us=newest_us,
            )

    def platforms(self) -> list[list[int]]:
        """Events by kind of each."""
        return list(self._tally.sum(1).tolist())

    def categories(self) -> list[list[int]]:
        """Events by kind of each."""
        totals = np.zeros((CATEGORIES, KINDS), np.int64)
        np.add.at(totals, np.arange(ITEMS) % CATEGORIES, self._tally.sum(0))
        return list(totals.tolist())
