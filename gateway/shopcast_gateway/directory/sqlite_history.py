"""What a person has done, as people look at it."""

import sqlite3
from typing import Any

from shopcast_domain.events import Account, EventKind
from shopcast_gateway.directory.paths import confidences, connected
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.purposes import bit_of
from shopcast_gateway.directory.sqlite_accounts import find
from shopcast_gateway.directory.sqlite_connection import select_in
from shopcast_gateway.directory.sqlite_people import links_then
from shopcast_gateway.directory.sqlite_sharing import confidences_within
from shopcast_gateway.directory.types import HistoryEvent, Purpose

_EVENTS = """
SELECT e.time_us, e.key, p.name, a.pseudonym, e.kind, i.item_id, i.title, e.price, e.quantity,
       e.recorded_us, a.id
FROM events AS e
CROSS JOIN accounts AS a ON a.id = e.account
CROSS JOIN platforms AS p ON p.id = a.platform
CROSS JOIN items AS i ON i.id = e.item
WHERE e.person = ? AND e.time_us < ? AND e.recorded_us <= ? AND e.account IN (*)
ORDER BY e.time_us DESC, e.key DESC LIMIT ?
"""
_ALWAYS_US = 2**62


def history(
    connection: sqlite3.Connection,
    pseudonyms: Pseudonyms,
    account: Account,
    before_us: int,
    limit: int,
    as_of_us: int | None,
    purpose: Purpose | None,
) -> tuple[HistoryEvent, ...]:
    """The newest events of the person an account belongs to, or belonged to. For a transaction."""
    found = find(connection, pseudonyms, (account,))
    if not found:
        return ()
    number, person = found[account]
    if as_of_us is None:
        numbers = [
            row[0]
            for row in connection.execute("SELECT id FROM accounts WHERE person = ?", (person,))
        ]
        sure = confidences_within(connection, number, numbers)
    else:
        links = links_then(connection, number, as_of_us)
        numbers = list(connected(number, ((one, other) for one, other, *_ in links)))
        sure = confidences(number, ((one, other, c) for one, other, _, c, _ in links))
    refusing = bit_of(purpose)
    people: dict[int, list[int]] = {}
    for one, its, mask in select_in(
        connection, "SELECT id, person, refused FROM accounts WHERE id IN (*)", numbers
    ):
        if not mask & refusing:
            people.setdefault(its, []).append(one)
    recorded_us = _ALWAYS_US if as_of_us is None else as_of_us
    rows = [
        row
        for its, accounts in people.items()
        for row in _events(connection, its, accounts, before_us, limit, recorded_us)
    ]
    rows.sort(reverse=True)
    return tuple(_shown(row, sure) for row in rows[:limit])


def events_of(connection: sqlite3.Connection, person: int) -> list[HistoryEvent]:
    """All events of a person, newest first."""
    accounts = [
        row[0] for row in connection.execute("SELECT id FROM accounts WHERE person = ?", (person,))
    ]
    rows = _events(connection, person, accounts, _ALWAYS_US, -1, _ALWAYS_US)
    return [_shown(row, {}) for row in rows]


def _events(
    connection: sqlite3.Connection,
    person: int,
    accounts: list[int],
    before_us: int,
    limit: int,
    as_of_us: int,
) -> list[tuple[Any, ...]]:
    sql = _EVENTS.replace("(*)", f"({', '.join('?' * len(accounts))})")
    return connection.execute(sql, (person, before_us, as_of_us, *accounts, limit)).fetchall()


def _shown(row: tuple[Any, ...], sure: dict[int, float]) -> HistoryEvent:
    time_us, _, platform, pseudonym, kind, item_id, title, price, quantity, at_us, account = row
    return HistoryEvent(
        platform=platform,
        account_pseudonym=pseudonym.hex(),
        kind=EventKind(kind),
        item_id=item_id,
        title=title,
        price=price,
        quantity=quantity,
        time_s=time_us / 1e6,
        recorded_s=at_us / 1e6,
        confidence=sure.get(account, 1.0),
    )
