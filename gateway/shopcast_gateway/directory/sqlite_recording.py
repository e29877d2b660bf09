"""Writing events into the embedded directory."""

import sqlite3
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shopcast_domain.events import Account, Event, EventKind
from shopcast_domain.features import HABIT, KINDS, micro_log
from shopcast_domain.item_text import match_name
from shopcast_gateway.directory.attributes import Attributes, attributes_of
from shopcast_gateway.directory.floods import MINUTE_US, Screen
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.sqlite_accounts import admit, intern, intern_platforms
from shopcast_gateway.directory.sqlite_connection import (
    microseconds,
    number_of,
    select_in,
    transaction,
)
from shopcast_gateway.directory.types import EventStatus, FloodRules, RecordResult


def record(
    connection: sqlite3.Connection,
    pseudonyms: Pseudonyms,
    events: Sequence[Event],
    floods: FloodRules | None,
) -> RecordResult:
    """Keep the events whose ids are new, with all that follows from them, in one transaction."""
    names = [pseudonyms.all_of_event(event.account.platform, event.event_id) for event in events]
    by_key: dict[bytes, Event] = {}
    for (key, *_), event in zip(names, events, strict=True):
        by_key.setdefault(key, event)
    newest = {name: all_names[0] for all_names in names for name in all_names}
    with transaction(connection, "IMMEDIATE"):
        for table in ("events", "quarantine"):
            sql = f"SELECT key FROM {table} WHERE key IN (*)"
            for (name,) in select_in(connection, sql, list(newest)):
                by_key.pop(newest[name], None)
        apart = _insert(connection, pseudonyms, by_key, floods) if by_key else set()
    statuses = []
    for key, *_ in names:
        if by_key.pop(key, None) is None:
            statuses.append(EventStatus.DUPLICATE)
        else:
            statuses.append(EventStatus.QUARANTINED if key in apart else EventStatus.RECORDED)
    return RecordResult(tuple(statuses))


@dataclass(slots=True)
class _Item:
    """An item while events are being folded into it.

    attributes: title, brand, category, price, each of the newest event that carried it.
    known_us: when that was. category_code, before: category and tally as stored.
    habit: sums as features.HABIT has them.
    """

    number: int
    attributes: list[str | float | None]
    known_us: list[int | None]
    category_code: int | None
    before: tuple[int, ...]
    tally: list[int]
    habit: list[int]

    def fold(self, event: Event, carried: Attributes, time_us: int, logs: tuple[int, int]) -> None:
        """Count the event, and take on what it carries unless something newer is known.

        logs: micro_log of the event's price and quantity.
        """
        self.tally[event.kind] += 1
        if carried[3] is not None:
            self.habit[0] += 1
            self.habit[1] += logs[0]
        if event.kind == EventKind.BUY:
            self.habit[2] += logs[1]
        for place, attribute in enumerate(carried):
            known_us = self.known_us[place]
            if attribute is not None and (known_us is None or time_us >= known_us):
                self.attributes[place] = attribute
                self.known_us[place] = time_us


def _insert(
    connection: sqlite3.Connection,
    pseudonyms: Pseudonyms,
    by_key: Mapping[bytes, Event],
    floods: FloodRules | None,
) -> set[bytes]:
    """Returns the keys of the events that were put apart."""
    events = by_key.values()
    platforms = intern_platforms(
        connection, dict.fromkeys(event.account.platform for event in events)
    )
    accounts = admit(
        connection, pseudonyms, dict.fromkeys(event.account for event in events), platforms
    )
    now_us = microseconds(time.time())
    apart = set()
    if floods is not None:
        apart = _put_apart(connection, by_key, accounts, floods, now_us)
        by_key = {key: event for key, event in by_key.items() if key not in apart}
        events = by_key.values()
    items = _load_items(connection, events, platforms)
    rows = []
    carried_by = [attributes_of(event.item) for event in events]
    prices = [np.nan if carried[3] is None else carried[3] for carried in carried_by]
    quantities = [float(event.quantity) for event in events]
    logs = micro_log(np.array([prices, quantities])).T.tolist()
    for (key, event), carried, log in zip(by_key.items(), carried_by, logs, strict=True):
        account, person = accounts[event.account]
        item = items[platforms[event.account.platform], event.item.item_id]
        time_us = microseconds(event.time_s)
        item.fold(event, carried, time_us, log)
        price = carried[3]
        rows.append(
            (person, time_us, key, account, item.number, event.kind, price, event.quantity, now_us)
        )
    rows.sort()  # neighbours on disk are written together
    _store_items(connection, items)
    connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    return apart


def _put_apart(
    connection: sqlite3.Connection,
    by_key: Mapping[bytes, Event],
    accounts: Mapping[Account, tuple[int, int]],
    floods: FloodRules,
    now_us: int,
) -> set[bytes]:
    """Keep what breaks the rules where nothing reads it."""
    people = dict(accounts.values())

    def kept_in(account: int, minute_us: int) -> Iterable[tuple[int, int, int]]:
        return connection.execute(
            "SELECT time_us / 1000000, kind >= 2, count(*) FROM events"
            " WHERE person = ? AND time_us >= ? AND time_us < ? AND account = ? GROUP BY 1, 2",
            (people[account], minute_us, minute_us + MINUTE_US, account),
        )

    screen = Screen(floods, kept_in)
    rows = []
    for key, event in by_key.items():
        account, time_us = accounts[event.account][0], microseconds(event.time_s)
        if not screen.passes(account, event.kind, time_us):
            price = attributes_of(event.item)[3]
            rows.append(
                (key, account, time_us, event.item.item_id, event.kind, price, event.quantity)
            )
    connection.executemany(f"INSERT INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?, {now_us:d})", rows)
    return {row[0] for row in rows}


def _load_items(
    connection: sqlite3.Connection, events: Collection[Event], platforms: Mapping[str, int]
) -> dict[tuple[int, str], _Item]:
    """The items the events name, by (platform, item_id); those never seen are inserted."""
    wanted: dict[int, dict[str, None]] = defaultdict(dict)
    for event in events:
        wanted[platforms[event.account.platform]][event.item.item_id] = None
    items = {}
    for platform, item_ids in wanted.items():
        for item_id, number, *rest in select_in(
            connection,
            "SELECT item_id, id, title, brand, category, price, title_us, brand_us, category_us,"
            " price_us, category_code, views, carts, buys, returns, priced, log_price, log_quantity"
            " FROM items WHERE platform = ? AND item_id IN (*)",
            list(item_ids),
            platform,
        ):
            tally = rest[9:13]
            items[platform, item_id] = _Item(
                number, rest[:4], rest[4:8], rest[8], tuple(tally), tally, habit=rest[13:]
            )
        new = [item_id for item_id in item_ids if (platform, item_id) not in items]
        unused = number_of(connection, "SELECT coalesce(max(id), 0) + 1 FROM items")
        for number, item_id in enumerate(new, unused):
            items[platform, item_id] = _Item(
                number,
                [None] * 4,
                [None] * 4,
                None,
                (0,) * KINDS,
                [0] * KINDS,
                [0] * len(HABIT),
            )
        connection.executemany(
            "INSERT INTO items (id, platform, item_id) VALUES (?, ?, ?)",
            [(items[platform, item_id].number, platform, item_id) for item_id in new],
        )
    return items


def _store_items(connection: sqlite3.Connection, items: Mapping[tuple[int, str], _Item]) -> None:
    """Write the items back, and what their counts add to their platform and category.

    A category's tally is the sum over the items now in it: an item that moves takes its own along.
    """
    brands = intern(
        connection,
        "SELECT name, id FROM brands WHERE name IN (*)",
        "INSERT INTO brands (name) VALUES (?)",
        _match_names(items, 1),
    )
    categories = intern(
        connection,
        "SELECT name, id FROM categories WHERE name IN (*)",
        "INSERT INTO categories (name) VALUES (?)",
        _match_names(items, 2),
    )
    in_platform: dict[int, list[int]] = defaultdict(lambda: [0] * KINDS)
    in_category: dict[int, list[int]] = defaultdict(lambda: [0] * KINDS)
    rows = []
    for (platform, _), item in items.items():
        _, brand, category, _ = item.attributes
        brand_code = None if brand is None else brands[match_name(str(brand))]
        category_code = None if category is None else categories[match_name(str(category))]
        for kind in range(KINDS):
            in_platform[platform][kind] += item.tally[kind] - item.before[kind]
            if item.category_code is not None:
                in_category[item.category_code][kind] -= item.before[kind]
            if category_code is not None:
                in_category[category_code][kind] += item.tally[kind]
        rows.append(
            (
                *(*item.attributes, *item.known_us, brand_code, category_code),
                *(*item.tally, *item.habit, item.number),
            )
        )
    connection.executemany(
        "UPDATE items SET title = ?, brand = ?, category = ?, price = ?, title_us = ?,"
        " brand_us = ?, category_us = ?, price_us = ?, brand_code = ?, category_code = ?,"
        " views = ?, carts = ?, buys = ?, returns = ?, priced = ?, log_price = ?, log_quantity = ?"
        " WHERE id = ?",
        rows,
    )
    connection.executemany(
        "UPDATE platforms SET views = views + ?, carts = carts + ?, buys = buys + ?,"
        " returns = returns + ? WHERE id = ?",
        [(*counts, code) for code, counts in in_platform.items()],
    )
    connection.executemany(
        "UPDATE categories SET views = views + ?, carts = carts + ?, buys = buys + ?,"
        " returns = returns + ? WHERE id = ?",
        [(*counts, code) for code, counts in in_category.items()],
    )


def _match_names(items: Mapping[tuple[int, str], _Item], place: int) -> Collection[str]:
    texts = (item.attributes[place] for item in items.values())
    return dict.fromkeys(match_name(str(text)) for text in texts if text is not None)
