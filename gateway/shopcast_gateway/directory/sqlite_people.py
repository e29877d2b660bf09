"""Who is one person, in the embedded directory."""

import sqlite3
import time

from shopcast_domain.events import Account
from shopcast_gateway.directory.pseudonym import Pseudonyms, person_code, person_id
from shopcast_gateway.directory.sqlite_connection import transaction
from shopcast_gateway.directory.sqlite_recording import admit, intern_platforms, microseconds
from shopcast_gateway.directory.types import LinkKind, LinkResult, Person


def resolve(
    connection: sqlite3.Connection, pseudonyms: Pseudonyms, account: Account
) -> Person | None:
    """The person behind an account, or None when it has never been seen."""
    rows = connection.execute(
        "SELECT platforms.name, pseudonym FROM accounts"
        " JOIN platforms ON platforms.id = accounts.platform"
        " WHERE person = (SELECT person FROM accounts WHERE pseudonym = ?) ORDER BY accounts.id",
        (pseudonyms.of(account),),
    ).fetchall()
    if not rows:
        return None
    accounts = sorted((platform, pseudonym.hex()) for platform, pseudonym in rows)
    return Person(person_id(person_code(rows[0][1])), tuple(accounts))


def link(
    connection: sqlite3.Connection,
    pseudonyms: Pseudonyms,
    account: Account,
    other: Account,
    kind: LinkKind,
    confidence: float,
) -> LinkResult:
    """Make two accounts one person's, in one transaction; the older person's id stays."""
    both = dict.fromkeys((account, other))
    with transaction(connection, "IMMEDIATE"):
        platforms = intern_platforms(connection, dict.fromkeys(one.platform for one in both))
        admitted = admit(connection, pseudonyms, both, platforms)
        numbers = sorted(number for number, _ in admitted.values())
        if len(numbers) == 2:
            connection.execute(
                "INSERT INTO links VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (*numbers, kind.value, confidence, microseconds(time.time())),
            )
        people = {person for _, person in admitted.values()}
        if len(people) == 2:
            _merge(connection, *people)
        person = connection.execute(
            "SELECT pseudonym FROM accounts"
            " WHERE person = (SELECT person FROM accounts WHERE id = ?) ORDER BY id LIMIT 1",
            numbers[:1],
        ).fetchone()
    return LinkResult(person_id(person_code(person[0])), merged=len(people) == 2)


def _merge(connection: sqlite3.Connection, person: int, other: int) -> None:
    """Move the smaller history to the larger."""
    counts = {
        one: connection.execute("SELECT count(*) FROM events WHERE person = ?", (one,)).fetchone()[
            0
        ]
        for one in (person, other)
    }
    smaller, larger = sorted(counts, key=counts.__getitem__)
    connection.execute("UPDATE events SET person = ? WHERE person = ?", (larger, smaller))
    connection.execute("UPDATE accounts SET person = ? WHERE person = ?", (larger, smaller))
