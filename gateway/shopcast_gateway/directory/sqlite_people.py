"""Who is one person, in the embedded directory: now, and as it was."""

import sqlite3
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from shopcast_domain.events import Account
from shopcast_gateway.directory.paths import connected, parts
from shopcast_gateway.directory.pseudonym import Pseudonyms, code_of, person_id
from shopcast_gateway.directory.sqlite_accounts import admit, check_keys, find, intern_platforms
from shopcast_gateway.directory.sqlite_connection import (
    microseconds,
    number_of,
    select_in,
    transaction,
)
from shopcast_gateway.directory.types import (
    Change,
    ChangeKind,
    LinkKind,
    LinkResult,
    LinkStatement,
    Person,
    UnlinkResult,
)
from shopcast_gateway.errors import ChangesLost, NotFound

Link = tuple[int, int, str, float, str]
"""Two accounts, the smaller number first; kind, confidence and source."""

_CHANGES = "number, at_us, change, person, other_person, kind, confidence, source"
_LINK = "account, other, kind, confidence, source"
_NOTED_LINK = "min(account, other), max(account, other), kind, confidence, source"
_ACCOUNTS = (
    "SELECT accounts.id, code, platforms.name, pseudonym FROM accounts"
    " JOIN platforms ON platforms.id = accounts.platform"
)


def resolve(
    connection: sqlite3.Connection,
    pseudonyms: Pseudonyms,
    accounts: Sequence[Account],
    as_of_us: int | None,
) -> tuple[Person | None, ...]:
    """The person behind each account, now or as it was then."""
    with transaction(connection, "DEFERRED"):
        found = find(connection, pseudonyms, dict.fromkeys(accounts))
        if as_of_us is None:
            people = {
                person: _person(connection.execute(f"{_ACCOUNTS} WHERE person = ?", (person,)))
                for person in {person for _, person in found.values()}
            }
            return tuple(people[found[one][1]] if one in found else None for one in accounts)
        return tuple(
            _person_then(connection, found[one][0], as_of_us) if one in found else None
            for one in accounts
        )


def find_person(connection: sqlite3.Connection, public: str) -> Person | None:
    """The person whose id it is, or was before they became another's."""
    rows = connection.execute(
        f"{_ACCOUNTS} WHERE person = (SELECT person FROM accounts WHERE code = ?)",
        (code_of(public),),
    )
    return _person(rows)


def _person(rows: Iterable[tuple[Any, ...]]) -> Person | None:
    ordered = sorted(rows)
    if not ordered:
        return None
    accounts = sorted((platform, pseudonym.hex()) for _, _, platform, pseudonym in ordered)
    return Person(person_id(ordered[0][1]), tuple(accounts))


def _person_then(connection: sqlite3.Connection, account: int, as_of_us: int) -> Person | None:
    accounts = sorted(
        connected(account, ((a, b) for a, b, *_ in links_then(connection, account, as_of_us)))
    )
    rows = select_in(
        connection, f"{_ACCOUNTS} WHERE created_us <= ? AND accounts.id IN (*)", accounts, as_of_us
    )
    there = list(rows)
    return _person(there) if account in {row[0] for row in there} else None


def links_then(connection: sqlite3.Connection, account: int, as_of_us: int) -> list[Link]:
    """The links that led from an account at a time, however far."""
    seen, waiting = {account}, [account]
    found: dict[tuple[int, int, str], Link] = {}
    while waiting:
        one = waiting.pop()
        standing: dict[tuple[int, int, str], Link] = {}
        for change, *link in connection.execute(
            f"SELECT change, {_NOTED_LINK} FROM journal"
            " WHERE (account = ? OR other = ?) AND at_us <= ? ORDER BY number",
            (one, one, as_of_us),
        ):
            name = (link[0], link[1], link[2])
            if change == ChangeKind.LINKED:
                standing[name] = (*name, link[3], link[4])
            else:
                standing.pop(name, None)
        found |= standing
        new = {end for link in standing.values() for end in link[:2]} - seen
        seen |= new
        waiting += new
    return list(found.values())


def link(
    connection: sqlite3.Connection, pseudonyms: Pseudonyms, statements: Sequence[LinkStatement]
) -> list[LinkResult]:
    """Make accounts one person's, all or none; the older person's id stays."""
    accounts = dict.fromkeys(end for one in statements for end in (one.account, one.other))
    with transaction(connection, "IMMEDIATE"):
        platforms = intern_platforms(connection, dict.fromkeys(one.platform for one in accounts))
        numbers = {
            account: number
            for account, (number, _) in admit(connection, pseudonyms, accounts, platforms).items()
        }
        return [_state(connection, numbers, statement) for statement in statements]


def _state(
    connection: sqlite3.Connection, numbers: Mapping[Account, int], statement: LinkStatement
) -> LinkResult:
    account, other = sorted((numbers[statement.account], numbers[statement.other]))
    link = (account, other, statement.kind.value, statement.confidence, statement.source)
    before = _standing(connection, link)
    change = _link(connection, link) if account != other else None
    if change is None:
        return LinkResult(person_id(_code_of(connection, account)), merged=False)
    return LinkResult(
        change.person_id,
        merged=change.other_person_id is not None,
        weakened=before is not None and before[0] > statement.confidence,
    )


def unlink(
    connection: sqlite3.Connection,
    pseudonyms: Pseudonyms,
    account: Account,
    other: Account,
    kind: LinkKind | None,
) -> UnlinkResult:
    """Take the links between two accounts away. Raises NotFound."""
    with transaction(connection, "IMMEDIATE"):
        found = find(connection, pseudonyms, dict.fromkeys((account, other)))
        if account not in found or other not in found:
            raise NotFound("the account has never been seen")
        ends = sorted((found[account][0], found[other][0]))
        links = connection.execute(
            f"SELECT {_LINK} FROM links"
            " WHERE account = ? AND other = ? AND kind = coalesce(?, kind) ORDER BY kind",
            (*ends, kind and kind.value),
        ).fetchall()
        changes = _unlink(connection, found[account][1], links)
        people = [person_id(_code_of(connection, found[one][0])) for one in (account, other)]
    return UnlinkResult(people[0], people[1], len(links), any(c.other_person_id for c in changes))


def split(connection: sqlite3.Connection, pseudonyms: Pseudonyms, account: Account) -> UnlinkResult:
    """Take all links of an account away. Raises NotFound."""
    with transaction(connection, "IMMEDIATE"):
        found = find(connection, pseudonyms, (account,))
        if account not in found:
            raise NotFound("the account has never been seen")
        number, person = found[account]
        rest = connection.execute(
            "SELECT min(id) FROM accounts WHERE person = ? AND id != ?", (person, number)
        ).fetchone()[0]
        links = connection.execute(
            f"SELECT {_LINK} FROM links WHERE account = ? UNION ALL"
            f" SELECT {_LINK} FROM links WHERE other = ? ORDER BY 1, 2, 3",
            (number, number),
        ).fetchall()
        changes = _unlink(connection, person, links)
        own = person_id(_code_of(connection, number))
        others = own if rest is None else person_id(_code_of(connection, rest))
    return UnlinkResult(own, others, len(links), any(c.other_person_id for c in changes))


def undo(connection: sqlite3.Connection, pseudonyms: Pseudonyms, number: int) -> Change:
    """Take a change back. Raises NotFound."""
    with transaction(connection, "IMMEDIATE"):
        check_keys(connection, pseudonyms)
        name = connection.execute(
            "SELECT account, other, kind FROM journal WHERE number = ? AND account IS NOT NULL",
            (number,),
        ).fetchone()
        if name is None:
            raise NotFound("the journal has no such change that could be taken back")
        newest, *before = connection.execute(
            f"SELECT change, {_NOTED_LINK}, {_CHANGES} FROM journal"
            " WHERE (account = ?1 AND other = ?2 OR account = ?2 AND other = ?1) AND kind = ?3"
            " ORDER BY number DESC LIMIT 2",
            name,
        ).fetchall()
        if newest[6] != number:
            return _change(newest[6:])
        link: Link = newest[1:6]
        made = None
        if newest[0] == ChangeKind.UNLINKED:
            made = _link(connection, link)
        elif before and before[0][0] == ChangeKind.LINKED:
            made = _link(connection, before[0][1:6])
        else:
            (person,) = connection.execute(
                "SELECT person FROM accounts WHERE id = ?", (link[0],)
            ).fetchone()
            (made,) = _unlink(connection, person, [link])
        return _change(newest[6:]) if made is None else made


def changes(connection: sqlite3.Connection, after: int, limit: int) -> list[Change]:
    """The journal's entries after a number, oldest first. Raises ChangesLost."""
    rows = connection.execute(
        f"SELECT {_CHANGES} FROM journal WHERE number > ? ORDER BY number LIMIT ?", (after, limit)
    ).fetchall()
    if not rows and after > 0:
        # Erasure takes entries away and appends one, so the newest is always there.
        newest = number_of(connection, "SELECT coalesce(max(number), 0) FROM journal")
        if after > newest:
            raise ChangesLost(f"the journal ends with change {newest}")
    return [_change(row) for row in rows]


def journal_of(connection: sqlite3.Connection, accounts: Collection[int]) -> list[Change]:
    """The entries that name any of the accounts."""
    found = {
        row[0]: row
        for column in ("account", "other")
        for row in select_in(
            connection,
            f"SELECT {_CHANGES} FROM journal WHERE {column} IN (*)",
            list(accounts),
        )
    }
    return [_change(found[number]) for number in sorted(found)]


def ever_linked(connection: sqlite3.Connection, accounts: Collection[int]) -> set[int]:
    """The other accounts that were one person's with these at some time."""
    seen, waiting = set(accounts), list(accounts)
    while waiting:
        one = waiting.pop()
        ends = connection.execute(
            "SELECT other FROM journal WHERE account = ?1"
            " UNION SELECT account FROM journal WHERE other = ?1",
            (one,),
        )
        new = {end for (end,) in ends} - seen
        seen |= new
        waiting += new
    return seen - set(accounts)


def unname(
    connection: sqlite3.Connection, accounts: Collection[int], codes: Collection[bytes]
) -> None:
    """Where the journal's entries of accounts name a person by codes that are to be forgotten, let
    them name the person of the account itself."""
    for column, end in (("person", "account"), ("other_person", "other")):
        connection.executemany(
            f"UPDATE journal SET {column} = (SELECT code FROM accounts WHERE id = journal.{end})"
            f" WHERE account = ? AND {column} = ?",
            [(account, code) for account in accounts for code in codes],
        )


def note(
    connection: sqlite3.Connection,
    change: ChangeKind,
    person: bytes,
    other_person: bytes | None = None,
    link: Link | tuple[None, ...] = (None,) * 5,
) -> Change:
    """Append to the journal. The first account of a link is on the person's side, the second on
    that of the other person."""
    row = connection.execute(
        "INSERT INTO journal (at_us, change, person, other_person, account, other, kind,"
        f" confidence, source) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING {_CHANGES}",
        (microseconds(time.time()), change.value, person, other_person, *link),
    ).fetchone()
    return _change(row)


def _change(row: tuple[Any, ...]) -> Change:
    number, at_us, change, person, other_person, kind, confidence, source = row
    return Change(
        number=number,
        at_s=at_us / 1e6,
        kind=ChangeKind(change),
        person_id=person_id(person),
        other_person_id=None if other_person is None else person_id(other_person),
        link_kind=None if kind is None else LinkKind(kind),
        confidence=confidence,
        source=source,
    )


def _standing(connection: sqlite3.Connection, link: Link) -> tuple[float, str] | None:
    """The confidence and the source of a link as it stands; None where it does not."""
    standing: tuple[float, str] | None = connection.execute(
        "SELECT confidence, source FROM links WHERE account = ? AND other = ? AND kind = ?",
        link[:3],
    ).fetchone()
    return standing


def _link(connection: sqlite3.Connection, link: Link) -> Change | None:
    """Add or replace a link; None where it stands just so."""
    account, other, _, confidence, source = link
    if _standing(connection, link) == (confidence, source):
        return None
    connection.execute(
        "INSERT INTO links VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " confidence = excluded.confidence, source = excluded.source,"
        " linked_us = excluded.linked_us",
        (*link, microseconds(time.time())),
    )
    _weigh(connection, (account, other))
    people = dict(
        connection.execute("SELECT id, person FROM accounts WHERE id IN (?, ?)", (account, other))
    )
    first = {person: _first(connection, person) for person in people.values()}
    if len(first) == 2:
        _merge(connection, *first)
    return _note_link(
        connection, ChangeKind.LINKED, link, first[people[account]], first[people[other]]
    )


def _unlink(connection: sqlite3.Connection, person: int, links: Sequence[Link]) -> list[Change]:
    """Remove links of a person that stand; they become several where nothing else holds them
    together."""
    connection.executemany(
        "DELETE FROM links WHERE account = ? AND other = ? AND kind = ?",
        [link[:3] for link in links],
    )
    _weigh(connection, {end for link in links for end in link[:2]})
    people = _regroup(connection, person, links)
    first = {one: _first(connection, one) for one in set(people.values())}
    return [
        _note_link(
            connection, ChangeKind.UNLINKED, link, first[people[link[0]]], first[people[link[1]]]
        )
        for link in links
    ]


def _note_link(
    connection: sqlite3.Connection,
    change: ChangeKind,
    link: Link,
    mine: tuple[int, bytes],
    theirs: tuple[int, bytes],
) -> Change:
    """Append to the journal what became of a link. mine, theirs: number and code of the first
    account of the person at either end."""
    if mine == theirs:
        return note(connection, change, mine[1], None, link)
    if theirs < mine:
        account, other, kind, confidence, source = link
        mine, theirs, link = theirs, mine, (other, account, kind, confidence, source)
    return note(connection, change, mine[1], theirs[1], link)


def _regroup(connection: sqlite3.Connection, person: int, gone: Sequence[Link]) -> dict[int, int]:
    """Give what the links of a person do not connect any more numbers of their own; returns the
    person of both ends of the links that are gone."""
    standing = connection.execute(
        "SELECT account, other FROM links"
        " WHERE account IN (SELECT id FROM accounts WHERE person = ?)",
        (person,),
    ).fetchall()
    people: dict[int, int] = {}
    for part in parts((end for link in gone for end in link[:2]), standing):
        # The part with the account that gave the person its number keeps it, and its events.
        number = person if person in part else min(part)
        people |= dict.fromkeys(part, number)
        if number != person:
            marks = [(number, person, one) for one in part]
            connection.executemany(
                "UPDATE events SET person = ? WHERE person = ? AND account = ?", marks
            )
            connection.executemany(
                "UPDATE accounts SET person = ? WHERE person = ? AND id = ?", marks
            )
    return people


def _weigh(connection: sqlite3.Connection, accounts: Iterable[int]) -> None:
    """Note of accounts whether any of their links is less than certain."""
    connection.executemany(
        "UPDATE accounts SET weak ="
        " EXISTS (SELECT 1 FROM links WHERE account = accounts.id AND confidence < 1)"
        " OR EXISTS (SELECT 1 FROM links WHERE other = accounts.id AND confidence < 1)"
        " WHERE id = ?",
        [(account,) for account in accounts],
    )


def _merge(connection: sqlite3.Connection, person: int, other: int) -> None:
    """Move the person with fewer events and accounts to the other."""
    counts = {
        one: connection.execute(
            "SELECT (SELECT count(*) FROM events WHERE person = ?1)"
            " + (SELECT count(*) FROM accounts WHERE person = ?1)",
            (one,),
        ).fetchone()[0]
        for one in (person, other)
    }
    smaller, larger = sorted(counts, key=counts.__getitem__)
    connection.execute("UPDATE events SET person = ? WHERE person = ?", (larger, smaller))
    connection.execute("UPDATE accounts SET person = ? WHERE person = ?", (larger, smaller))


def _first(connection: sqlite3.Connection, person: int) -> tuple[int, bytes]:
    """Number and code of the first of a person's accounts."""
    number, code = connection.execute(
        "SELECT id, code FROM accounts WHERE person = ? ORDER BY id LIMIT 1", (person,)
    ).fetchone()
    return number, code


def _code(connection: sqlite3.Connection, person: int) -> bytes:
    return _first(connection, person)[1]


def _code_of(connection: sqlite3.Connection, account: int) -> bytes:
    """The code of the person that an account belongs to."""
    (person,) = connection.execute(
        "SELECT person FROM accounts WHERE id = ?", (account,)
    ).fetchone()
    return _code(connection, person)
