"""Filling stores with the people of `directory_people.py`: straight, as recording would have left
them. Recording 50 million events one batch after the other takes an hour and more.
"""

import shutil
import sqlite3
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path

import numpy as np
from directory_people import (
    ITEMS,
    KEY_BYTES,
    NOW_US,
    PLATFORMS,
    PRICES,
    Events,
    People,
    Tallies,
    brand_names,
    category_names,
    item_of,
)

from shopcast_domain.features import KINDS
from shopcast_gateway.directory.pseudonym import Pseudonyms, person_code
from shopcast_gateway.directory.redis import NAME
from shopcast_gateway.directory.redis_packing import pack_fact

PSEUDONYMS = Pseudonyms(bytes(32))


def _parts(people: People, store: str) -> Iterator[range]:
    began = time.monotonic()
    for number, part in enumerate(people.parts(), 1):
        yield part
        if number % 10 == 0:
            took = time.monotonic() - began
            print(f"    {store}: {part.stop:,} people, {took:.0f} s", file=sys.stderr)


def _pieces(content: bytes, size: int) -> list[bytes]:
    return [content[at : at + size] for at in range(0, len(content), size)]


# SQLite


def fill_sqlite(path: Path, people: People) -> None:
    """Into the tables of a directory with nothing in it; the index of keys is built at the end."""
    store = sqlite3.connect(path, isolation_level=None)
    store.executescript(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -2000000;"
        "DROP INDEX events_of_key; BEGIN; PRAGMA defer_foreign_keys = ON"
    )
    platforms = [(n + 1, f"shop-{n}") for n in range(PLATFORMS)]
    store.executemany("INSERT INTO platforms (id, name) VALUES (?, ?)", platforms)
    store.executemany("INSERT INTO brands (id, name) VALUES (?, ?)", enumerate(brand_names(), 1))
    tallies = Tallies()
    for part in _parts(people, "SQLite"):
        _insert_people(store, people, part)
        events = people.events(part)
        tallies.add(events)
        rows = zip(
            events.person.tolist(), events.time_us.tolist(), _pieces(events.keys, KEY_BYTES),
            events.account.tolist(), events.item.tolist(), events.kind.tolist(),
            PRICES[events.price].tolist(), strict=True,
        )  # fmt: skip
        store.executemany(f"INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, 1, {NOW_US})", rows)
    store.executemany(
        "UPDATE platforms SET views = ?, carts = ?, buys = ?, returns = ? WHERE id = ?",
        ((*tally, n) for n, tally in enumerate(tallies.platforms(), 1)),
    )
    named = zip(category_names(), tallies.categories(), strict=True)
    store.executemany(
        "INSERT INTO categories VALUES (?, ?, ?, ?, ?, ?)",
        ((n, name, *tally) for n, (name, tally) in enumerate(named, 1)),
    )
    store.executemany(
        f"INSERT INTO items VALUES ({', '.join('?' * 20)})",
        (
            (
                one.number, one.platform, one.item.item_id, one.item.title, one.item.brand,
                one.item.category, one.item.price, *(one.newest_us,) * 4, one.brand, one.category,
                *one.tally, *one.habit,
            )
            for one in tallies.items()
        ),
    )  # fmt: skip
    store.execute("COMMIT")
    store.execute("CREATE UNIQUE INDEX events_of_key ON events (key)")
    store.close()


def _insert_people(store: sqlite3.Connection, people: People, part: range) -> None:
    accounts, links, journal = [], [], []
    for n in part:
        person = int(people.first[n])
        for k, account in enumerate(people.accounts(n)):
            name = PSEUDONYMS.of(account)
            code, platform = person_code(name), 1 + (n + k) % PLATFORMS
            accounts.append((person + k, name, 1, code, platform, person, NOW_US))
            if k:
                first, pair = accounts[-k - 1][3], (person, person + k)
                links.append((*pair, "login", 1.0, "", NOW_US))
                journal.append((NOW_US, "linked", first, code, *pair, "login", 1.0, ""))
    store.executemany(
        "INSERT INTO accounts (id, pseudonym, key, code, platform, person, created_us)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        accounts,
    )
    store.executemany("INSERT INTO links VALUES (?, ?, ?, ?, ?, ?)", links)
    store.executemany(
        "INSERT INTO journal (at_us, change, person, other_person, account, other, kind,"
        " confidence, source) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        journal,
    )


# A naive schema

NAIVE = """
CREATE TABLE people (id INTEGER PRIMARY KEY);
CREATE TABLE accounts (id INTEGER PRIMARY KEY, platform TEXT, user TEXT, person INTEGER);
CREATE TABLE items (id TEXT PRIMARY KEY, title TEXT, brand TEXT, category TEXT, price REAL);
CREATE TABLE events (id TEXT, account INTEGER, item TEXT, kind INTEGER, time REAL);
"""
NAIVE_INDEXES = """
CREATE INDEX accounts_by_name ON accounts (platform, user);
CREATE INDEX accounts_by_person ON accounts (person);
CREATE UNIQUE INDEX events_by_id ON events (id);
CREATE INDEX events_by_account ON events (account);
"""


def fill_naive(path: Path, people: People) -> None:
    """Into tables as one would first think of them; the indexes are built at the end."""
    store = sqlite3.connect(path, isolation_level=None)
    store.executescript(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -2000000;"
        + NAIVE
        + "BEGIN"
    )
    items = map(item_of, range(ITEMS))
    store.executemany(
        "INSERT INTO items VALUES (?, ?, ?, ?, ?)",
        ((i.item_id, i.title, i.brand, i.category, i.price) for i in items),
    )
    number = 0
    for part in _parts(people, "naive"):
        store.executemany("INSERT INTO people VALUES (?)", ((n,) for n in part))
        store.executemany(
            "INSERT INTO accounts VALUES (?, ?, ?, ?)",
            (
                (int(people.first[n]) + k, account.platform, account.user_id, n)
                for n in part
                for k, account in enumerate(people.accounts(n))
            ),
        )
        events = people.events(part)
        item_ids = [f"i{n}" for n in ((events.item - 1) % ITEMS).tolist()]
        columns = (events.account.tolist(), item_ids, events.kind.tolist())
        rows = zip(*columns, (events.time_us / 1e6).tolist(), strict=True)
        store.executemany(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?)",
            ((f"event-{n}", *row) for n, row in enumerate(rows, number)),
        )
        number += len(item_ids)
    store.execute("COMMIT")
    store.executescript(NAIVE_INDEXES)
    store.close()


# Redis: the keys are those of redis_scripts/library/keys.lua

_PREFIX = f"{{{NAME}}}:".encode()
_NOW = NOW_US.to_bytes(7, "little")
_ACCOUNT = struct.Struct("<HBB7s16s16s")
_ITEM = struct.Struct("<IIii4I8d")
_PRICED = [[list(pack_fact(kind, price, 1)) for price in PRICES.tolist()] for kind in range(KINDS)]
_FACTS = np.array(_PRICED, np.uint8)
_FACT_AT = KEY_BYTES + 4 + len(_NOW)
_LINKED = 1

Packable = bytes | int | Sequence["Packable"]
Send = Callable[..., None]


def fill_redis(url: str, people: People) -> None:
    """Into a directory with nothing in it."""
    names: list[bytes] = []
    codes: list[bytes] = []
    keys: list[bytes] = []
    tallies, links = Tallies(), 0
    with _sending(url) as send:
        for part in _parts(people, "Redis"):
            links = _send_people(send, people, part, links, names, codes)
            events = people.events(part)
            _send_events(send, events)
            tallies.add(events)
            keys.append(events.keys)
        numbers = [b"%d" % number for number in range(1, len(names) + 1)]
        _send_buckets(send, b"u", names, 16, numbers)
        _send_buckets(send, b"o", codes, 16, numbers)
        accounts = len(names)
        del names, codes, numbers
        _send_buckets(send, b"k", keys, 18)
        _send_items(send, tallies)
        counts = {
            **dict.fromkeys((b"last_account", b"accounts", b"accounts:1"), accounts),
            **dict.fromkeys((b"last_change", b"links"), links),
            b"people": people.count,
            b"items": PLATFORMS * ITEMS,
            b"events": int(people.sizes.sum()),
        }
        send(b"HSET", _PREFIX + b"meta", *_flat((k, b"%d" % n) for k, n in counts.items()))


@contextmanager
def _sending(url: str) -> Iterator[Send]:
    """Sends commands without waiting for what they answer; no error may be among that."""
    program = shutil.which("redis-cli") or "redis-cli"
    with subprocess.Popen(
        [program, "-u", url, "--pipe"], bufsize=2**20, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None  # noqa: S101
        write = process.stdin.write

        def send(*parts: bytes) -> None:
            write(b"*%d\r\n" % len(parts))
            write(b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]))

        yield send
        said, _ = process.communicate()
    if process.returncode or b"errors: 0," not in said:
        raise RuntimeError(said.decode())


def _flat(pairs: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    return [one for pair in pairs for one in pair]


def _packed(value: Packable) -> bytes:
    """As cmsgpack packs it: short arrays and texts, and whole numbers that are not negative.

    >>> _packed([1, 300, [b"login"]]).hex()
    '9301cd012c91a56c6f67696e'
    """
    if isinstance(value, bytes):
        return bytes((0xA0 + len(value),)) + value
    if not isinstance(value, int):
        return bytes((0x90 + len(value),)) + b"".join(map(_packed, value))
    if value < 128:
        return bytes((value,))
    head, size = next((0xCC + n, 2**n) for n in range(4) if value < 256**2**n)
    return bytes((head,)) + value.to_bytes(size)


def _send_people(
    send: Send, people: People, part: range, links: int, names: list[bytes], codes: list[bytes]
) -> int:
    """Accounts, links and journal; appends to names and codes. Returns how many links there are."""
    buckets: dict[int, list[bytes]] = defaultdict(list)
    link_lists: dict[int, list[Packable]] = defaultdict(list)
    for n in part:
        first = int(people.first[n])
        for k, account in enumerate(people.accounts(n)):
            number, name = first + k, PSEUDONYMS.of(account)
            code, platform = person_code(name), 1 + (n + k) % PLATFORMS
            names.append(name)
            codes.append(code)
            packed = _ACCOUNT.pack(platform, 1, 0, _NOW, name, code)
            buckets[number // 64] += (b"%d" % (number % 64), packed)
            if k:
                links += 1
                for one, other in ((first, number), (number, first)):
                    link_lists[one].append((other, b"login", 1, b"", NOW_US, links))
                entry = (_LINKED, NOW_US, first, number, b"login", 1, b"", first, number)
                send(b"XADD", _PREFIX + b"j", b"%d-0" % links, b"", _packed(entry))
    for bucket, content in buckets.items():
        send(b"HSET", _PREFIX + b"a%d" % bucket, *content)
    send(b"MSET", *_flat((_PREFIX + b"l%d" % n, _packed(held)) for n, held in link_lists.items()))
    return links


def _send_events(send: Send, events: Events) -> None:
    order = np.argsort(events.account, kind="stable")
    account, count = events.account[order], len(order)
    packed = np.empty((count, _FACT_AT + _FACTS.shape[-1]), np.uint8)
    packed[:, :KEY_BYTES] = np.frombuffer(events.keys, np.uint8).reshape(count, -1)[order]
    items = events.item[order].astype("<u4")
    packed[:, KEY_BYTES : KEY_BYTES + 4] = items.view(np.uint8).reshape(count, -1)
    packed[:, KEY_BYTES + 4 : _FACT_AT] = np.frombuffer(_NOW, np.uint8)
    packed[:, _FACT_AT:] = _FACTS[events.kind[order], events.price[order]]
    times = [b"%d" % time_us for time_us in events.time_us[order].tolist()]
    content = _flat(zip(times, _pieces(packed.tobytes(), packed.shape[1]), strict=True))
    starts = np.flatnonzero(np.diff(account, prepend=0))
    for number, start, stop in zip(
        account[starts].tolist(), starts.tolist(), [*starts[1:].tolist(), count], strict=True
    ):
        send(b"ZADD", _PREFIX + b"e%d" % number, *content[2 * start : 2 * stop])


def _send_buckets(
    send: Send, letter: bytes, keys: list[bytes], bits: int, values: Sequence[bytes] | None = None
) -> None:
    """Hashes of whatever begins with the same bits; the fields are the bytes after 2."""
    joined = b"".join(keys)
    table = np.frombuffer(joined, np.uint8).reshape(-1, KEY_BYTES)
    bucket = np.zeros(len(table), np.uint32)
    for byte in range(3):
        bucket |= table[:, byte].astype(np.uint32) << (16 - 8 * byte)
    bucket >>= 24 - bits
    order = np.argsort(bucket, kind="stable")
    starts = np.flatnonzero(np.diff(bucket[order], prepend=2**31))
    for rows in np.split(order, starts[1:]):
        ends = [KEY_BYTES * (row + 1) for row in rows.tolist()]
        name = bytearray(joined[ends[0] - KEY_BYTES : ends[0] - KEY_BYTES + -(-bits // 8)])
        name[-1] &= -(2 ** (-bits % 8)) & 0xFF
        fields = (joined[end - KEY_BYTES + 2 : end] for end in ends)
        held = repeat(b"") if values is None else (values[row] for row in rows.tolist())
        send(b"HSET", _PREFIX + letter + name, *_flat(zip(fields, held, strict=False)))


def _send_items(send: Send, tallies: Tallies) -> None:
    platforms = [b"shop-%d" % n for n in range(PLATFORMS)]
    for letter, names in (
        (b"p", platforms),
        (b"b", [name.encode() for name in brand_names()]),
        (b"c", [name.encode() for name in category_names()]),
    ):
        coded = ((name, b"%d" % code) for code, name in enumerate(names, 1))
        send(b"HSET", _PREFIX + letter, *_flat(coded))
    named = ((b"%d" % code, name) for code, name in enumerate(platforms, 1))
    send(b"HSET", _PREFIX + b"P", *_flat(named))
    for letter, totals in ((b"p", tallies.platforms()), (b"c", tallies.categories())):
        packed = ((letter + b"%d" % n, struct.pack("<4d", *one)) for n, one in enumerate(totals, 1))
        send(b"HSET", _PREFIX + b"t", *_flat(packed))
    for one in tallies.items():
        item, item_id = one.item, one.item.item_id.encode()
        head = _ITEM.pack(
            one.number, one.platform, one.category, one.brand, *one.tally, *one.habit,
            item.price or 0.0, *(one.newest_us,) * 4,
        )  # fmt: skip
        texts = (str(text).encode() for text in (item.title, item.brand, item.category))
        send(
            b"MSET",
            *(_PREFIX + b"n%d:%b" % (one.platform, item_id), b"%d" % one.number),
            *(_PREFIX + b"i%d" % one.number, head + b"\0".join((*texts, item_id))),
        )
