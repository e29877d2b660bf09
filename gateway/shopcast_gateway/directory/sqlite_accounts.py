"""Accounts by their pseudonyms, in the embedded directory."""

import sqlite3
import time
from collections.abc import Collection, Mapping

from shopcast_domain.events import Account
from shopcast_gateway.directory.pseudonym import Pseudonyms, person_code
from shopcast_gateway.directory.sqlite_connection import microseconds, number_of, select_in
from shopcast_gateway.errors import Unavailable


def find(
    connection: sqlite3.Connection, pseudonyms: Pseudonyms, accounts: Collection[Account]
) -> dict[Account, tuple[int, int]]:
    """The (id, person) of each account that has been seen, under whatever key. Raises Unavailable
    when the keys were rotated since this process started."""
    check_keys(connection, pseudonyms)
    named = {name: account for account in accounts for name in pseudonyms.all_of(account)}
    rows = select_in(
        connection, "SELECT pseudonym, id, person FROM accounts WHERE pseudonym IN (*)", list(named)
    )
    return {named[pseudonym]: (number, person) for pseudonym, number, person in rows}


def check_keys(connection: sqlite3.Connection, pseudonyms: Pseudonyms) -> None:
    """Raises Unavailable when the keys were rotated since this process started: it would not find
    who was written under the new one."""
    (newest,) = connection.execute(
        "SELECT fingerprint FROM pseudonym_keys ORDER BY id DESC LIMIT 1"
    ).fetchone()
    if newest != pseudonyms.newest_fingerprint:
        raise Unavailable("the pseudonym keys were rotated: this process must be started again")


def admit(
    connection: sqlite3.Connection,
    pseudonyms: Pseudonyms,
    accounts: Collection[Account],
    platforms: Mapping[str, int],
) -> Mapping[Account, tuple[int, int]]:
    """The (id, person) of each account; one never seen becomes a person of its own, and one that
    was seen under an older key gets its pseudonym under the newest. Raises as `find`."""
    found = find(connection, pseudonyms, accounts)
    key = number_of(connection, "SELECT max(id) FROM pseudonym_keys")
    if len(pseudonyms) > 1:
        connection.executemany(
            "UPDATE accounts SET pseudonym = ?, key = ? WHERE id = ? AND key != ?",
            [(pseudonyms.of(one), key, number, key) for one, (number, _) in found.items()],
        )
    unused = 1 + number_of(
        connection,
        "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'accounts'), 0)",
    )
    now_us = microseconds(time.time())
    rows = []
    for number, account in enumerate((one for one in accounts if one not in found), unused):
        pseudonym = pseudonyms.of(account)
        code = person_code(pseudonym)
        platform = platforms[account.platform]
        rows.append((number, pseudonym, key, code, platform, number, now_us))
        found[account] = (number, number)
    connection.executemany(
        "INSERT INTO accounts (id, pseudonym, key, code, platform, person, created_us)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        rows,
    )
    return found


def intern_platforms(connection: sqlite3.Connection, names: Collection[str]) -> Mapping[str, int]:
    """The id of each platform; ids are given to names never seen."""
    return intern(
        connection,
        "SELECT name, id FROM platforms WHERE name IN (*)",
        "INSERT INTO platforms (name) VALUES (?)",
        names,
    )


def intern(
    connection: sqlite3.Connection, select: str, insert: str, names: Collection[str]
) -> Mapping[str, int]:
    """The number of each name; new names get one."""
    codes = dict(select_in(connection, select, list(names)))
    for name in names:
        if name not in codes:
            codes[name] = connection.execute(insert, (name,)).lastrowid
    return codes
