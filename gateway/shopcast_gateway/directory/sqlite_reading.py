"""Reading all that one prediction needs from the embedded directory."""

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from shopcast_domain.events import Account, Item
from shopcast_domain.features import MISSING
from shopcast_gateway.directory.attributes import attributes_of
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.reading import NO_TALLY, Found, assemble, folded_names
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
        ).fetchone() or (MISSING, *NO_TALLY)
        item_ids = [item.item_id for item in items]
        kept = {row[0]: row[1:] for row in select_in(connection, CANDIDATES, item_ids, platform)}
        carried = [attributes_of(item) for item in items]
        brands = _named(
            connection, "SELECT name, id FROM brands WHERE name IN (*)", folded_names(carried, 1)
        )
        categories = _named(
            connection,
            "SELECT name, id, views, carts, buys, returns FROM categories WHERE name IN (*)",
            folded_names(carried, 2),
        )
    return assemble(
        items,
        carried,
        Found(
            known=bool(found),
            events=[(*row[:8], *row[9:]) for row in events],
            confidence=[shares.confidence.get(row[8], 1.0) for row in events],
            platform=platform,
            platform_tally=platform_tally,
            items=kept,
            brands=brands,
            categories=categories,
            suppressed=shares.suppressed,
        ),
    )


def _window(
    connection: sqlite3.Connection, person: int, before_us: int, limit: int, shares: Sharing
) -> list[tuple[Any, ...]]:
    """Rows of WINDOW less their keys: the newest, and where some are less than certain, the newest
    certain ones too, so that the others do not push them out."""

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


def _named(
    connection: sqlite3.Connection, sql: str, names: Sequence[str]
) -> Mapping[str, tuple[int, ...]]:
    """What is kept of brands or categories, by folded name."""
    return {row[0]: row[1:] for row in select_in(connection, sql, names)}
