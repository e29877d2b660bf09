"""Counting, and removing what is not to be kept."""

import sqlite3
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from shopcast_gateway.directory.protocol import Progress
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.sqlite_connection import (
    microseconds,
    number_of,
    transaction,
)
from shopcast_gateway.directory.types import Retention, Stats

_PEOPLE = 1_000  # looked at together
_HELD_S, _PAUSE_S = 0.1, 0.1
"""How long a transaction keeps others from writing, and how long they then have: SQLite asks again
after a tenth of a second at the latest."""
_ROWS = 500  # removed before the time is looked at
_RANGE = 5_000  # rows of the quarantine that one statement looks at
_PAGES = 1_000  # given back in one transaction
_EVENTS = (
    "DELETE FROM events WHERE (person, time_us, key) IN (SELECT person, time_us, key FROM events"
    " WHERE person = ?"
)
_COUNTED = {
    "accounts": "count(*) FROM accounts",
    "people": "count(DISTINCT person) FROM accounts",
    "links": "count(*) FROM links",
    "events": "count(*) FROM events",
    "quarantined": "count(*) FROM quarantine",
    "items": "count(*) FROM items",
    "vectors": "count(*) FROM item_vectors",
    "changes": "count(*) FROM journal",
}


def stats(connection: sqlite3.Connection, pseudonyms: Pseudonyms) -> Stats:
    """What is in the file; reads all of it."""
    with transaction(connection, "DEFERRED"):
        counts = {name: number_of(connection, f"SELECT {what}") for name, what in _COUNTED.items()}
        by_key: dict[bytes, int] = dict(
            connection.execute(
                "SELECT fingerprint, count(*) FROM accounts"
                " JOIN pseudonym_keys ON pseudonym_keys.id = accounts.key GROUP BY fingerprint"
            )
        )
        size = number_of(connection, "PRAGMA page_count") * number_of(
            connection, "PRAGMA page_size"
        )
    return Stats(
        **counts,
        accounts_by_key=tuple(by_key.get(one, 0) for one in pseudonyms.fingerprints()),
        size_bytes=size,
    )


def compact(
    connection: sqlite3.Connection,
    retention: Retention,
    encoders: Collection[str] | None,
    progress: Progress,
) -> int:
    """Remove what is not kept, person by person, and give the room back to the disk. Others write
    in between, however much it is of one person."""
    oldest_us = None
    if retention.max_age_s is not None:
        oldest_us = microseconds(time.time() - retention.max_age_s)
    removed = 0
    if oldest_us is not None or retention.max_events is not None:
        person = -1
        last = number_of(connection, "SELECT coalesce(max(id), 0) FROM accounts")
        while people := connection.execute(
            "SELECT person, min(time_us), count(*) FROM events WHERE person > ?"
            " GROUP BY person ORDER BY person LIMIT ?",
            (person, _PEOPLE),
        ).fetchall():
            removed += _remove(connection, _beyond(people, oldest_us, retention.max_events))
            person = people[-1][0]
            progress(min(person, last), last)
        progress(last, last)
    if oldest_us is not None:
        removed += _remove(connection, _quarantined(connection, oldest_us))
    if encoders is not None:
        _remove(connection, _encoded(connection, encoders))
    while (left := number_of(connection, "PRAGMA freelist_count")) > 0:
        # As a script: `execute` would end after the first page.
        connection.executescript(f"PRAGMA incremental_vacuum({_PAGES})")
        if number_of(connection, "PRAGMA freelist_count") == left:
            break
        time.sleep(_PAUSE_S)
    return removed


_Deletion = tuple[str, tuple[Any, ...]]
"""A statement that removes as many rows as its last placeholder says, and the values before."""


def _remove(connection: sqlite3.Connection, deletions: Iterable[_Deletion]) -> int:
    """Carry out deletions in short transactions with pauses between; returns how many rows went."""
    waiting = deque(deletions)
    removed = 0
    while waiting:
        with transaction(connection, "IMMEDIATE"):
            until_s = time.monotonic() + _HELD_S
            while waiting:
                sql, values = waiting[0]
                gone = connection.execute(sql, (*values, _ROWS)).rowcount
                removed += gone
                if gone < _ROWS:
                    waiting.popleft()
                if time.monotonic() >= until_s:
                    break
        time.sleep(_PAUSE_S)
    return removed


def _beyond(
    people: Iterable[tuple[int, int, int]], oldest_us: int | None, most: int | None
) -> Iterator[_Deletion]:
    """Of people with the time of their oldest event and the number of all: what is too old, and
    what is too much."""
    for person, first_us, count in people:
        if oldest_us is not None and first_us < oldest_us:
            yield f"{_EVENTS} AND time_us < ? LIMIT ?)", (person, oldest_us)
        if most is not None and count > most:
            yield (
                f"{_EVENTS} ORDER BY time_us DESC, key DESC LIMIT ?3 OFFSET ?2)",
                (person, most),
            )


def _quarantined(connection: sqlite3.Connection, oldest_us: int) -> Iterator[_Deletion]:
    """What is too old, a range of keys at a time: those that are kept are passed over once."""
    before = b""
    while True:
        (upto,) = connection.execute(
            "SELECT max(key) FROM (SELECT key FROM quarantine WHERE key > ? ORDER BY key LIMIT ?)",
            (before, _RANGE),
        ).fetchone()
        if upto is None:
            return
        yield (
            "DELETE FROM quarantine WHERE key IN (SELECT key FROM quarantine"
            " WHERE key > ? AND key <= ? AND time_us < ? LIMIT ?)",
            (before, upto, oldest_us),
        )
        before = upto


def _encoded(connection: sqlite3.Connection, kept: Collection[str]) -> Iterator[_Deletion]:
    """The vectors of encoders that are not kept."""
    for (encoder,) in connection.execute("SELECT DISTINCT encoder FROM item_vectors").fetchall():
        if encoder not in kept:
            yield (
                "DELETE FROM item_vectors WHERE rowid IN"
                " (SELECT rowid FROM item_vectors WHERE encoder = ? LIMIT ?)",
                (encoder,),
            )
