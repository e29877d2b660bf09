"""What people have a say in: consent, a copy of everything, and being forgotten."""

import sqlite3
import time
from collections.abc import Mapping
from typing import Any

from shopcast_domain.events import Account
from shopcast_gateway.directory.person_data import (
    ExportedAccount,
    ExportedLink,
    QuarantinedEvent,
    person_data,
)
from shopcast_gateway.directory.pseudonym import Pseudonyms, code_of, person_id
from shopcast_gateway.directory.purposes import allowed_by_platform, bits
from shopcast_gateway.directory.sqlite_accounts import admit, find, intern_platforms
from shopcast_gateway.directory.sqlite_connection import microseconds, select_in, transaction
from shopcast_gateway.directory.sqlite_history import events_of
from shopcast_gateway.directory.sqlite_people import ever_linked, journal_of, note, unname
from shopcast_gateway.directory.types import ChangeKind, Consents, PersonData, Purpose, Receipt

_ACCOUNTS = (
    "SELECT accounts.id, platforms.name, pseudonym, code, refused, created_us FROM accounts"
    " JOIN platforms ON platforms.id = accounts.platform WHERE person = ?"
)


def set_consent(
    connection: sqlite3.Connection,
    pseudonyms: Pseudonyms,
    account: Account,
    purposes: Mapping[Purpose, bool],
    *,
    everywhere: bool,
) -> Consents:
    """Allow or refuse purposes for an account, or for all of the person's."""
    allow = bits(purpose for purpose, allowed in purposes.items() if allowed)
    refuse = bits(purpose for purpose, allowed in purposes.items() if not allowed)
    with transaction(connection, "IMMEDIATE"):
        platforms = intern_platforms(connection, (account.platform,))
        number, person = admit(connection, pseudonyms, (account,), platforms)[account]
        column, which = ("person", person) if everywhere else ("id", number)
        connection.execute(
            f"UPDATE accounts SET refused = (refused & ~?) | ? WHERE {column} = ?",
            (allow, refuse, which),
        )
        return _consents(connection, person)


def consents(connection: sqlite3.Connection, pseudonyms: Pseudonyms, account: Account) -> Consents:
    """What may be done with the events of the account's person."""
    with transaction(connection, "DEFERRED"):
        found = find(connection, pseudonyms, (account,))
        return _consents(connection, found[account][1]) if found else {}


def _consents(connection: sqlite3.Connection, person: int) -> Consents:
    rows = connection.execute(_ACCOUNTS, (person,))
    return allowed_by_platform((platform, mask) for _, platform, _, _, mask, _ in rows)


def export(
    connection: sqlite3.Connection, pseudonyms: Pseudonyms, account: Account
) -> PersonData | None:
    """Everything about a person, as JSON types; times are seconds since the epoch."""
    with transaction(connection, "DEFERRED"):
        found = find(connection, pseudonyms, (account,))
        return _export(connection, found[account][1]) if found else None


def export_found(connection: sqlite3.Connection, public: str) -> PersonData | None:
    """As `export`, of the person whose id it is, or was before they became another's."""
    with transaction(connection, "DEFERRED"):
        row = connection.execute(
            "SELECT person FROM accounts WHERE code = ?", (code_of(public),)
        ).fetchone()
        return _export(connection, row[0]) if row else None


def people(connection: sqlite3.Connection, cursor: str, limit: int) -> tuple[list[PersonData], str]:
    """As `export`, of the next people in the order of their first accounts."""
    with transaction(connection, "DEFERRED"):
        rows = connection.execute(
            "SELECT id, person FROM accounts WHERE id > ? AND id ="
            " (SELECT min(id) FROM accounts AS own WHERE own.person = accounts.person)"
            " ORDER BY id LIMIT ?",
            (int(cursor or 0), limit),
        ).fetchall()
        found = [_export(connection, person) for _, person in rows]
    return found, str(rows[-1][0]) if len(rows) == limit else ""


def _export(connection: sqlite3.Connection, person: int) -> PersonData:
    rows = sorted(connection.execute(_ACCOUNTS, (person,)).fetchall())
    accounts = {
        number: ExportedAccount(platform, pseudonym.hex(), created_us, mask)
        for number, platform, pseudonym, _, mask, created_us in rows
    }
    links = select_in(
        connection,
        "SELECT account, other, kind, confidence, source, linked_us FROM links"
        " WHERE account IN (*)",
        list(accounts),
    )
    quarantined = select_in(
        connection,
        "SELECT account, kind, item_id, price, quantity, time_us, recorded_us FROM quarantine"
        " WHERE account IN (*)",
        list(accounts),
    )
    return person_data(
        person_id(rows[0][3]),
        accounts.values(),
        (
            ExportedLink(accounts[one].pseudonym, accounts[other].pseudonym, *link)
            for one, other, *link in links
        ),
        events_of(connection, person),
        (QuarantinedEvent(accounts[one], *event) for one, *event in quarantined),
        journal_of(connection, accounts),
    )


def erase(
    connection: sqlite3.Connection, pseudonyms: Pseudonyms, account: Account
) -> Receipt | None:
    """Remove a person; what their rows held is overwritten in the file."""
    with transaction(connection, "IMMEDIATE"):
        found = find(connection, pseudonyms, (account,))
        if not found:
            return None
        person = found[account][1]
        rows: list[tuple[Any, ...]] = sorted(connection.execute(_ACCOUNTS, (person,)).fetchall())
        numbers = [(row[0],) for row in rows]
        others = ever_linked(connection, [row[0] for row in rows])

        def delete(condition: str) -> int:
            return connection.executemany(f"DELETE FROM {condition}", numbers).rowcount

        events = connection.execute("DELETE FROM events WHERE person = ?", (person,)).rowcount
        events += delete("quarantine WHERE account = ?")
        links = delete("links WHERE account = ?") + delete("links WHERE other = ?")
        entries = delete("journal WHERE account = ?") + delete("journal WHERE other = ?")
        connection.execute("DELETE FROM accounts WHERE person = ?", (person,))
        unname(connection, others, [row[3] for row in rows])
        note(connection, ChangeKind.ERASED, rows[0][3])
    return Receipt(
        person_id=person_id(rows[0][3]),
        at_s=microseconds(time.time()) / 1e6,
        platforms=tuple(sorted({row[1] for row in rows})),
        accounts=len(rows),
        events=events,
        links=links,
        journal_entries=entries,
    )
