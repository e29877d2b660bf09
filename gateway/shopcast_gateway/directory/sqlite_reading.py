"""Reading all that one prediction needs from the embedded directory."""

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shopcast_domain.events import Account, Item
from shopcast_domain.features import HABIT, KINDS, MISSING, Candidates, Window
from shopcast_domain.item_text import match_name
from shopcast_gateway.directory.attributes import (
    Attributes,
    attributes_of,
    merge,
    text_of,
)
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.sqlite_accounts import find
from shopcast_gateway.directory.sqlite_connection import select_in, transaction
from shopcast_gateway.directory.sqlite_sharing import Sharing, sharing
from shopcast_gateway.directory.types import Purpose, Reading

# -1 is MISSING. CROSS JOIN keeps the events, which lie in the wanted order, the outermost loop.
WINDOW = """
SELECT e.time_us, e.key, e.kind, i.platform, i.id,
       coalesce(i.category_code, -1), coalesce(i.brand_code, -1),
       coalesce(e.price, i.price), e.quantity, e.account, p.name,
       i.title, i.brand, i.category, i.price
FROM events AS e
CROSS JOIN items AS i ON i.id = e.item
CROSS JOIN platforms AS p ON p.id = i.platform
WHERE e.person = ? AND e.time_us < ? AND e.account NOT IN (*)
ORDER BY e.time_us DESC, e.key DESC LIMIT ?
"""

CANDIDATES = """
SELECT i.item_id, i.id, i.title, i.brand, i.category, i.price,
       coalesce(i.category_code, -1), coalesce(i.brand_code, -1),
       i.views, i.carts, i.buys, i.returns, i.priced, i.log_price, i.log_quantity,
       coalesce(c.views, 0), coalesce(c.carts, 0), coalesce(c.buys, 0), coalesce(c.returns, 0)
FROM items AS i LEFT JOIN categories AS c ON c.id = i.category_code
WHERE i.platform = ? AND i.item_id IN (*)
"""

_NO_TALLY = (0,) * KINDS
_NO_HABIT = (0,) * len(HABIT)


def read(
    connection: sqlite3.Connection,
    pseudonyms: Pseudonyms,
    account: Account,
    items: Sequence[Item],
    before_us: int,
    limit: int,
    purpose: Purpose,
    min_confidence: float,
) -> Reading:
    """Window and candidates in one transaction, so that they are of one moment."""
    with transaction(connection, "DEFERRED"):
        found = find(connection, pseudonyms, (account,))
        events: list[tuple[Any, ...]] = []
        shares = Sharing({}, (), ())
        if found:
            number, person = found[account]
            shares = sharing(connection, number, person, purpose, min_confidence)
            events = _window(connection, person, before_us, limit, shares)
        platform, *platform_tally = connection.execute(
            "SELECT id, views, carts, buys, returns FROM platforms WHERE name = ?",
            (account.platform,),
        ).fetchone() or (MISSING, *_NO_TALLY)
        item_ids = [item.item_id for item in items]
        kept = {row[0]: row[1:] for row in select_in(connection, CANDIDATES, item_ids, platform)}
        carried = [attributes_of(item) for item in items]
        brands = _named(connection, "SELECT name, id FROM brands WHERE name IN (*)", carried, 1)
        categories = _named(
            connection,
            "SELECT name, id, views, carts, buys, returns FROM categories WHERE name IN (*)",
            carried,
            2,
        )
    columns = list(zip(*events, strict=True)) or [()] * 14
    (
        time_us,
        kind,
        platforms,
        item,
        category,
        brand,
        price,
        quantity,
        accounts,
        names,
        *attributes,
    ) = columns
    window = Window(
        time_s=np.array(time_us, dtype=np.float64) / 1e6,
        kind=_ints(kind),
        platform=_ints(platforms),
        item=_ints(item),
        category=_ints(category),
        brand=_ints(brand),
        price=np.array(price, dtype=np.float64),
        quantity=np.array(quantity, dtype=np.float64),
    )
    rows = [
        _candidate(mine, kept.get(item_id), brands, categories)
        for item_id, mine in zip(item_ids, carried, strict=True)
    ]
    texts, codes, category_codes, brand_codes, prices, item_tallies, habits, category_tallies = (
        zip(*rows, strict=True) if rows else [()] * 8
    )
    return Reading(
        person_known=bool(found),
        window=window,
        window_texts=tuple(map(text_of, *attributes)),
        window_platforms=names,
        window_confidence=np.array(
            [shares.confidence.get(one, 1.0) for one in accounts], dtype=np.float64
        ),
        candidates=Candidates(
            platform=platform,
            item=_ints(codes),
            category=_ints(category_codes),
            brand=_ints(brand_codes),
            price=np.array(prices, dtype=np.float64),
            quantity=np.full(len(items), np.nan),
            item_tally=_tallies(item_tallies),
            item_habit=np.array(habits, dtype=np.int64).reshape(-1, len(HABIT)),
            category_tally=_tallies(category_tallies),
            platform_tally=np.array(platform_tally, dtype=np.float64),
        ),
        candidate_texts=texts,
        candidate_known=tuple(item_id in kept for item_id in item_ids),
        suppressed=shares.suppressed,
    )


def _window(
    connection: sqlite3.Connection, person: int, before_us: int, limit: int, shares: Sharing
) -> list[tuple[Any, ...]]:
    """Rows of WINDOW: the newest, and where some are less than certain, the newest certain ones
    too, so that the others do not push them out."""

    def newest(left_out: Collection[int]) -> list[tuple[Any, ...]]:
        sql = WINDOW.replace("(*)", f"({', '.join('?' * len(left_out))})")
        return connection.execute(sql, (person, before_us, *left_out, limit)).fetchall()

    rows = newest(shares.left_out)
    uncertain = shares.confidence.keys() - shares.left_out
    if uncertain and len(rows) == limit:
        known = {row[1] for row in rows}
        certain = newest((*shares.left_out, *uncertain))
        rows += [row for row in certain if row[1] not in known]  # all of them older
    return [(row[0], *row[2:]) for row in rows]


def _candidate(
    carried: Attributes,
    kept: tuple[Any, ...] | None,
    brands: Mapping[str, tuple[int, ...]],
    categories: Mapping[str, tuple[int, ...]],
) -> tuple[Any, ...]:
    """Text, codes of item, category and brand, price, the item's tally and habit, and the
    category's tally, of one candidate.

    kept: a row of CANDIDATES less its item_id, or None. What the request carries wins.
    """
    code, category, brand = MISSING, MISSING, MISSING
    item_tally = category_tally = _NO_TALLY
    habit = _NO_HABIT
    attributes = carried
    if kept is not None:
        code, category, brand = kept[0], kept[5], kept[6]
        item_tally, habit, category_tally = kept[7:11], kept[11:14], kept[14:]
        attributes = merge(carried, kept[1:5])
    if carried[1] is not None:
        brand = brands.get(match_name(carried[1]), (MISSING,))[0]
    if carried[2] is not None:
        category, *tally = categories.get(match_name(carried[2]), (MISSING, *_NO_TALLY))
        category_tally = tuple(tally)
    text, price = text_of(*attributes), attributes[3]
    return text, code, category, brand, price, item_tally, habit, category_tally


def _named(
    connection: sqlite3.Connection, sql: str, carried: Sequence[Attributes], place: int
) -> Mapping[str, tuple[int, ...]]:
    """What is kept of the brands or categories a request names, by name."""
    texts = (attributes[place] for attributes in carried)
    names = list(dict.fromkeys(match_name(str(text)) for text in texts if text is not None))
    return {row[0]: row[1:] for row in select_in(connection, sql, names)}


def _ints(codes: Iterable[int]) -> NDArray[np.int64]:
    return np.array(codes, dtype=np.int64)


def _tallies(tallies: Iterable[tuple[int, ...]]) -> NDArray[np.float64]:
    return np.array(tallies, dtype=np.float64).reshape(-1, KINDS)
