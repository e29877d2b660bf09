"""Which accounts' events may be used for an account, and how surely they are the person's."""

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from shopcast_gateway.directory.paths import confidences
from shopcast_gateway.directory.purposes import bit_of
from shopcast_gateway.directory.sqlite_connection import select_in
from shopcast_gateway.directory.types import Purpose

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Sharing:
    """confidence: by account, of those that are less than certain. left_out: accounts whose events
    must not be used. suppressed: platforms of those that refuse, sorted."""

    confidence: dict[int, float]
    left_out: tuple[int, ...]
    suppressed: tuple[str, ...]


def sharing(
    connection: sqlite3.Connection,
    account: int,
    person: int,
    purpose: Purpose | None,
    min_confidence: float,
) -> Sharing:
    """What may be used of a person, asked for over one of their accounts."""
    rows = connection.execute(
        "SELECT accounts.id, weak, refused, platforms.name FROM accounts"
        " JOIN platforms ON platforms.id = accounts.platform WHERE person = ?",
        (person,),
    ).fetchall()
    bit = bit_of(purpose)
    unwilling = {number: name for number, _, mask, name in rows if mask & bit}
    sure: dict[int, float] = {}
    if any(weak for _, weak, _, _ in rows):
        sure = confidences_within(connection, account, [row[0] for row in rows])
    unsure = {n for n, confidence in sure.items() if confidence < min_confidence - _ROUNDING}
    return Sharing(
        confidence={n: confidence for n, confidence in sure.items() if confidence < 1},
        left_out=tuple(sorted(unsure | unwilling.keys())),
        suppressed=tuple(sorted(set(unwilling.values()))),
    )


def confidences_within(
    connection: sqlite3.Connection, account: int, accounts: Collection[int]
) -> dict[int, float]:
    """How surely each of a person's accounts belongs to that of one of them."""
    sql = "SELECT account, other, confidence FROM links WHERE account IN (*)"
    return confidences(account, select_in(connection, sql, list(accounts)))
