"""Counting, and removing what is not to be kept."""

import sqlite3
import time
from collections.abc import Collection

from shopcast_gateway.directory.protocol import Progress
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.sqlite_connection import (
    empty_log,
    microseconds,
    number_of,
    transaction,
)
from shopcast_gateway.directory.types import Retention, Stats

_PAGES = 5_000
_PEOPLE = 5_000  # looked at in one transaction, between which others write
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
    """Remove what is not kept, person by person, and give the room back to the disk."""
    oldest_us = None
    if retention.max_age_s is not None:
        oldest_us = microseconds(time.time() - retention.max_age_s)
    removed = 0
    if oldest_us is not None or retention.max_events is not None:
        person = -1
        last = number_of(connection, "SELECT coalesce(max(id), 0) FROM accounts")
        while True:
            with transaction(connection, "IMMEDIATE"):
                people = connection.execute(
                    "SELECT person, min(time_us), count(*) FROM events WHERE person > ?"
                    " GROUP BY person ORDER BY person LIMIT ?",
                    (person, _PEOPLE),
                ).fetchall()
                if not people:
                    break
                for person, first_us, count in people:
                    if oldest_us is not None and first_us < oldest_us:
                        removed += _older(connection, person, oldest_us)
                    if retention.max_events is not None and count > retention.max_events:
                        removed += _beyond(connection, person, retention.max_events)
            progress(min(person, last), last)
        progress(last, last)
    if oldest_us is not None:
        with transaction(connection, "IMMEDIATE"):
            removed += connection.execute(
                "DELETE FROM quarantine WHERE time_us < ?", (oldest_us,)
            ).rowcount
    if encoders is not None:
        kept = list(encoders)
        with transaction(connection, "IMMEDIATE"):
            connection.execute(
                f"DELETE FROM item_vectors WHERE encoder NOT IN ({', '.join('?' * len(kept))})",
                kept,
            )
    while (left := number_of(connection, "PRAGMA freelist_count")) > 0:
        connection.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
        if number_of(connection, "PRAGMA freelist_count") == left:
            break
    empty_log(connection)
    return removed


def _older(connection: sqlite3.Connection, person: int, oldest_us: int) -> int:
    return connection.execute(
        "DELETE FROM events WHERE person = ? AND time_us < ?", (person, oldest_us)
    ).rowcount


def _beyond(connection: sqlite3.Connection, person: int, most: int) -> int:
    return connection.execute(
        "DELETE FROM events WHERE (person, time_us, key) IN (SELECT person, time_us, key"
        " FROM events WHERE person = ? ORDER BY time_us DESC, key DESC LIMIT -1 OFFSET ?)",
        (person, most),
    ).rowcount
