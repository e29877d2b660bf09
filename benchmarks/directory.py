"""The directory at 10 thousand, 1 million and 5 million people: who is this, and their newest 64
events.

    python benchmarks/directory.py                         # a quarter of an hour, 8 GB of disk
    python benchmarks/directory.py --people 10000 100000   # minutes

People have 1 to 3 accounts that are linked, and a heavy-tailed number of events, 10 each on
average, of 20,000 items. In one run, interleaved: our read of resolve and newest 64 events; a naive
schema of as much content (accounts, people and events in tables of their own, joined per read),
whose rows are only fetched and put into arrays; and, with --redis, the directory in Redis and a
GET of a blob of the size of 64 packed events, as little as any store could do. Times are of one
caller, in this process. The busiest thousandth of people is measured on its own too.
"""

import argparse
import asyncio
import json
import random
import shutil
import sqlite3
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shopcast_domain.events import Account, Event, EventKind, Item
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.directory.pseudonym import Pseudonyms, person_code
from shopcast_gateway.directory.redis import RedisDirectory
from shopcast_gateway.directory.sqlite import SqliteDirectory
from shopcast_gateway.directory.types import LinkKind, LinkStatement

ITEMS, PLATFORMS, NEWEST, CHUNK = 20_000, 5, 64, 50_000
NOW_S, YEAR_S = 1_790_000_000, 365 * 86_400
PSEUDONYMS = Pseudonyms(bytes(32))


class People:
    """Reproducible people, made when they are asked for. Number n has `accounts(n)`."""

    def __init__(self, count: int) -> None:
        self.count = count
        random_ = np.random.default_rng(7)
        # Heavy-tailed: median 4, mean 10, the busiest have thousands.
        sizes = np.floor(random_.lognormal(1.55, 1.2, count)).astype(np.int64) + 1
        self.sizes = np.minimum(sizes, 5_000)
        self.held = random_.choice([1, 2, 3], count, p=[0.6, 0.3, 0.1])

    def accounts(self, n: int) -> list[Account]:
        return [Account(f"shop-{(n + k) % PLATFORMS}", f"{n}-{k}") for k in range(self.held[n])]


def item_of(number: int) -> Item:
    return Item(f"i{number}", f"Item number {number}", f"Brand {number % 300}",
                f"c{number % 12} > c{number % 97}", 5.0 + number % 200)  # fmt: skip


def fill(path: Path, people: People) -> float:
    """Write the people straight into the tables, as recording would have left them; seconds.

    Recording 50 million events one batch after the other takes hours, most of them for the index of
    their keys; here it is built once, at the end.
    """
    began = time.monotonic()
    store = sqlite3.connect(path, isolation_level=None)
    store.executescript(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -2000000;"
        "DROP INDEX events_of_key; BEGIN"
    )
    names = [(n + 1, f"shop-{n}") for n in range(PLATFORMS)]
    store.executemany("INSERT INTO platforms (id, name) VALUES (?, ?)", names)
    store.executemany(
        "INSERT INTO brands (id, name) VALUES (?, ?)", [(n + 1, f"brand {n}") for n in range(300)]
    )
    store.executemany(
        "INSERT INTO categories (id, name) VALUES (?, ?)", [(n + 1, f"c{n}") for n in range(97)]
    )
    store.executemany(
        "INSERT INTO items (id, platform, item_id, title, brand, category, price, brand_code,"
        " category_code) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (1 + p * ITEMS + n, p + 1, i.item_id, i.title, i.brand, i.category, i.price,
             1 + n % 300, 1 + n % 97)
            for p in range(PLATFORMS) for n in range(ITEMS) for i in (item_of(n),)
        ),
    )  # fmt: skip
    first = 1 + np.concatenate(([0], np.cumsum(people.held)))
    for start in range(0, people.count, CHUNK):
        _fill_some(store, people, range(start, min(start + CHUNK, people.count)), first)
        print(f"    {start:,} people, {time.monotonic() - began:.0f} s", file=sys.stderr)
    store.execute("COMMIT")
    store.execute("CREATE UNIQUE INDEX events_of_key ON events (key)")
    store.close()
    return time.monotonic() - began


def _fill_some(
    store: sqlite3.Connection, people: People, some: range, first: NDArray[np.int64]
) -> None:
    now_us = NOW_S * 1_000_000
    accounts, links, journal = [], [], []
    for n in some:
        person = int(first[n])
        for k, account in enumerate(people.accounts(n)):
            name = PSEUDONYMS.of(account)
            code, platform = person_code(name), 1 + (n + k) % PLATFORMS
            accounts.append((person + k, name, 1, code, platform, person, now_us))
            if k:
                links.append((person, person + k, "login", 1.0, "", now_us))
                journal.append((now_us, "linked", code, code, person, person + k, "login", 1.0, ""))
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
    random_ = np.random.default_rng(some.start)
    sizes = people.sizes[some.start : some.stop]
    owner = np.repeat(np.arange(some.start, some.stop), sizes)
    count = len(owner)
    person = first[owner]
    which = random_.integers(0, people.held[owner])
    time_us = (NOW_S - random_.integers(0, YEAR_S, count)) * 1_000_000
    item = (ITEMS * random_.random(count) ** 3).astype(np.int64)
    item += 1 + (owner + which) % PLATFORMS * ITEMS
    kind = random_.choice((0, 0, 0, 0, 1, 2, 3), count)
    order = np.lexsort((-time_us, person))
    keys = random_.bytes(16 * count)
    rows = zip(
        person[order].tolist(), time_us[order].tolist(),
        (keys[at : at + 16] for at in range(0, 16 * count, 16)),
        (person + which)[order].tolist(), item[order].tolist(), kind[order].tolist(), strict=True,
    )  # fmt: skip
    store.executemany(f"INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, 9.99, 1, {now_us})", rows)


NAIVE = """
CREATE TABLE people (id INTEGER PRIMARY KEY);
CREATE TABLE accounts (id INTEGER PRIMARY KEY, platform TEXT, user TEXT, person INTEGER);
CREATE INDEX accounts_by_name ON accounts (platform, user);
CREATE INDEX accounts_by_person ON accounts (person);
CREATE TABLE items (id TEXT PRIMARY KEY, title TEXT, brand TEXT, category TEXT, price REAL);
CREATE TABLE events (id TEXT PRIMARY KEY, account INTEGER, item TEXT, kind INTEGER, time REAL);
CREATE INDEX events_by_account ON events (account);
"""
NAIVE_READ = """
SELECT e.time, e.kind, a.platform, i.id, i.title, i.brand, i.category, i.price
FROM accounts AS mine JOIN people AS p ON p.id = mine.person
JOIN accounts AS a ON a.person = p.id JOIN events AS e ON e.account = a.id
JOIN items AS i ON i.id = e.item
WHERE mine.platform = ? AND mine.user = ? ORDER BY e.time DESC LIMIT ?
"""


def fill_naive(path: Path, people: People) -> sqlite3.Connection:
    store = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    store.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;" + NAIVE)
    store.execute("BEGIN")
    items = map(item_of, range(ITEMS))
    store.executemany(
        "INSERT INTO items VALUES (?, ?, ?, ?, ?)",
        ((i.item_id, i.title, i.brand, i.category, i.price) for i in items),
    )
    random_ = random.Random(1)
    for n in range(people.count):
        store.execute("INSERT INTO people VALUES (?)", (n,))
        numbers: dict[Account, int] = {}
        for account in people.accounts(n):
            row = (account.platform, account.user_id, n)
            made = store.execute("INSERT INTO accounts VALUES (NULL, ?, ?, ?)", row)
            numbers[account] = int(made.lastrowid or 0)
        mine = list(numbers.values())
        store.executemany(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?)",
            (
                (
                    f"{n}-{k}", random_.choice(mine), f"i{int(ITEMS * random_.random() ** 3)}", 0,
                    NOW_S - random_.randrange(YEAR_S),
                )
                for k in range(people.sizes[n])
            ),
        )  # fmt: skip
    store.execute("COMMIT")
    return store


def read_naively(store: sqlite3.Connection, row: tuple[str, str, int]) -> list[NDArray[Any]]:
    """The columns as arrays."""
    return [np.array(column) for column in zip(*store.execute(NAIVE_READ, row), strict=True)]


Ask = Callable[[Account], Awaitable[Any]]


async def measure(
    ways: dict[str, Ask], people: People, whom: NDArray[np.int64], reads: int
) -> dict[str, list[float]]:
    """Milliseconds per read, the ways taking turns on the same accounts. whom: people to ask of."""
    random_ = random.Random(1)
    asked = [random_.choice(people.accounts(int(random_.choice(whom)))) for _ in range(reads)]
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(2):  # the first one warms up
        for name in ways:
            taken[name] = []
        for account in asked if round_ else asked[: reads // 4]:
            for name, ask in ways.items():
                began = time.perf_counter()
                await ask(account)
                taken[name].append((time.perf_counter() - began) * 1e3)
    return taken


async def record_rate(
    directory: Directory, people: People, batch: int, batches: int, callers: int
) -> float:
    """Events per second of batches of events of people at random, as live traffic has them."""
    random_ = random.Random(time.time())
    made = []
    for _ in range(batches):
        events = []
        for _ in range(batch):
            account = random_.choice(people.accounts(random_.randrange(people.count)))
            item = item_of(random_.randrange(ITEMS))
            time_s = NOW_S + random_.randrange(YEAR_S)
            name = str(random_.getrandbits(64))
            events.append(Event(name, account, EventKind.VIEW, time_s, item))
        made.append(events)
    waiting = iter(made)

    async def call() -> None:
        for events in waiting:
            await directory.record(events)

    began = time.monotonic()
    await asyncio.gather(*(call() for _ in range(callers)))
    return batch * batches / (time.monotonic() - began)


async def fill_redis(directory: Directory, people: People) -> None:
    """The same people by recording them; their events are others of the same kind."""
    for start in range(0, people.count, 2_000):
        some = range(start, min(start + 2_000, people.count))
        held = {n: people.accounts(n) for n in some}
        await directory.link_many(
            [
                LinkStatement(first, one, LinkKind.LOGIN)
                for first, *others in held.values()
                for one in others
            ]
        )
        random_ = random.Random(start)
        events = [
            Event(
                f"{n}-{k}", random_.choice(held[n]), EventKind(random_.choice((0, 0, 0, 1, 2))),
                NOW_S - random_.randrange(YEAR_S), item_of(int(ITEMS * random_.random() ** 3)),
            )
            for n in some for k in range(people.sizes[n])
        ]  # fmt: skip
        for at in range(0, len(events), 5_000):
            await directory.record(events[at : at + 5_000])


async def redis_ways(target: str, people: People) -> tuple[dict[str, Ask], float, float]:
    """Our read of a directory in Redis, and a GET of a blob of 64 packed events of 32 bytes; bytes
    per person, and events recorded per second. Empties the server."""
    import redis.asyncio

    client = redis.asyncio.from_url(target)
    await client.flushall()
    before = (await client.info("memory"))["used_memory"]
    directory = await RedisDirectory.open(target, PSEUDONYMS, floods=None, timeout_s=60.0)
    began = time.monotonic()
    await fill_redis(directory, people)
    rate = int(people.sizes.sum()) / (time.monotonic() - began)
    size = ((await client.info("memory"))["used_memory"] - before) / people.count
    await client.set("benchmark:blob", bytes(NEWEST * 32))

    async def ours(account: Account) -> Any:
        return await directory.read(account, (), before_s=NOW_S, limit=NEWEST)

    async def get(_: Account) -> Any:
        return await client.get("benchmark:blob")

    return {"ours in redis": ours, "redis GET": get}, size, rate


async def run(count: int, options: argparse.Namespace) -> dict[str, Any]:
    people = People(count)
    folder = options.folder / str(count)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = folder / "directory.db"
    await (await SqliteDirectory.open(path, PSEUDONYMS)).close()
    fill(path, people)
    size = path.stat().st_size
    began = time.monotonic()
    directory = await SqliteDirectory.open(path, PSEUDONYMS)
    opened_s = time.monotonic() - began

    async def ours(account: Account) -> Any:
        return await directory.read(account, (), before_s=NOW_S, limit=NEWEST)

    ways: dict[str, Ask] = {"ours": ours}
    if count <= options.naive_up_to:
        store = fill_naive(folder / "naive.db", people)

        async def naive(account: Account) -> Any:
            row = (account.platform, account.user_id, NEWEST)
            return await asyncio.to_thread(read_naively, store, row)

        ways["naive"] = naive
    in_redis: dict[str, float] = {}
    if options.redis and count <= options.redis_up_to:
        more, size_there, rate_there = await redis_ways(options.redis, people)
        ways |= more
        in_redis = {
            "redis_bytes_per_person": size_there,
            "redis_recorded_per_s": rate_there,
        }
    everybody = np.arange(people.count)
    busiest = np.argsort(people.sizes)[-people.count // 1000 :]
    taken = {
        name: await measure(ways, people, whom, options.reads)
        for name, whom in (("read_ms", everybody), ("busiest_read_ms", busiest))
    }
    rates = {
        f"recorded_per_s, {batch} a call, {callers} callers": await record_rate(
            directory, people, batch, batches, callers
        )
        for batch, batches, callers in ((1, 300, 1), (1, 3_000, 64), (100, 50, 1), (1_000, 20, 1))
    }
    await directory.close()
    shutil.rmtree(folder)
    return {
        "people": count,
        "events": int(people.sizes.sum()),
        "bytes_per_person": size / count,
        "open_s": opened_s,
        **rates,
        **in_redis,
        **{
            name: {
                way: {
                    "median": statistics.median(times),
                    "p99": float(np.quantile(times, 0.99)),
                }
                for way, times in ways_taken.items()
            }
            for name, ways_taken in taken.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--people", type=int, nargs="+", default=[10_000, 1_000_000, 5_000_000])
    parser.add_argument("--folder", type=Path, default=Path(".benchmark-directory"))
    parser.add_argument("--reads", type=int, default=20_000)
    parser.add_argument("--naive-up-to", type=int, default=1_000_000, help="people")
    parser.add_argument("--redis", help="redis://host:port of a Redis to compare; it is emptied")
    parser.add_argument("--redis-up-to", type=int, default=200_000, help="people")
    options = parser.parse_args()
    found = []
    for count in options.people:
        found.append(asyncio.run(run(count, options)))
        print(json.dumps(found[-1]), flush=True)
    first, last = (one["read_ms"]["ours"] for one in (found[0], found[-1]))
    for name in ("median", "p99"):
        print(f"{name} grows {last[name] / first[name]:.2f} x from the fewest people to the most")


if __name__ == "__main__":
    main()
