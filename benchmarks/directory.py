"""The directory at 10 thousand, 1 million and 5 million people: who is this, and their newest 64
events.

    python benchmarks/directory.py                         # half an hour, 12 GB of disk
    python benchmarks/directory.py --people 10000 100000   # minutes

People have 1 to 3 accounts that are linked, and a heavy-tailed number of events, 10 each on
average, of 20,000 items. In one run, interleaved, of the same people and events: our read of
resolve and newest 64 events; a naive schema of as much content (accounts, people and events in
tables of their own, joined per read), whose rows are only fetched and put into arrays; and, with
--redis, the directory in Redis and a GET of a blob of the size of 64 packed events, as little as
any store could do. Times are of one caller, in this process. The busiest thousandth of people is
measured on its own too. Before that, all stores must give the same answers.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import sqlite3
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import redis.asyncio
from directory_filling import PSEUDONYMS, fill_naive, fill_redis, fill_sqlite
from directory_people import ITEMS, NOW_S, PLATFORMS, YEAR_S, People, item_of
from numpy.typing import NDArray

from shopcast_domain.events import Account, Event, EventKind
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.directory.redis import RedisDirectory
from shopcast_gateway.directory.sqlite import SqliteDirectory

NEWEST = 64
REDIS_BATCH, REDIS_BATCHES = 5_000, 20
CHECKED = 300

NAIVE_READ = """
SELECT e.time, e.kind, a.platform, i.id, i.title, i.brand, i.category, i.price
FROM accounts AS mine JOIN people AS p ON p.id = mine.person
JOIN accounts AS a ON a.person = p.id JOIN events AS e ON e.account = a.id
JOIN items AS i ON i.id = e.item
WHERE mine.platform = ? AND mine.user = ? ORDER BY e.time DESC LIMIT ?
"""


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


async def check(
    directory: Directory, other: Directory, naive: sqlite3.Connection | None, people: People
) -> None:
    """Raises AssertionError when some reads show that the stores do not hold the same people and
    events, or the other one's counts are wrong."""
    same, random_ = np.testing.assert_equal, random.Random(2)
    for _ in range(CHECKED):
        account = random_.choice(people.accounts(random_.randrange(people.count)))
        items = [item_of(random_.randrange(ITEMS)) for _ in range(5)]
        history = await directory.history(account, before_s=NOW_S, limit=NEWEST)
        same(await other.history(account, before_s=NOW_S, limit=NEWEST), history)
        same(await other.resolve(account), await directory.resolve(account))
        reading, in_other = [
            asdict(await one.read(account, items, before_s=NOW_S, limit=NEWEST))
            for one in (directory, other)
        ]
        same(in_other, reading)
        same(reading["person_known"], True)
        if naive is not None:
            times, *_ = read_naively(naive, (account.platform, account.user_id, NEWEST))
            same(times.tolist(), [event.time_s for event in history])
    counted, accounts = await other.stats(), int(people.held.sum())
    same((counted.accounts, counted.people), (accounts, people.count))
    same((counted.links, counted.changes), (accounts - people.count,) * 2)
    same((counted.events, counted.items), (people.sizes.sum(), PLATFORMS * ITEMS))


def summary(times: list[float]) -> dict[str, float]:
    return {"median": statistics.median(times), "p99": float(np.quantile(times, 0.99))}


async def run(count: int, options: argparse.Namespace) -> dict[str, Any]:
    people = People(count)
    folder = options.folder / str(count)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path, naive_path = folder / "directory.db", folder / "naive.db"
    found: dict[str, Any] = {"people": count, "events": int(people.sizes.sum())}

    def clocked(fill: Callable[[Any, People], None], where: Any) -> float:
        began = time.monotonic()
        fill(where, people)
        return time.monotonic() - began

    await (await SqliteDirectory.open(path, PSEUDONYMS)).close()
    found["filled_s"] = clocked(fill_sqlite, path)
    found["bytes_per_person"] = path.stat().st_size / count
    ways: dict[str, Ask] = {}

    def reading(directory: Directory) -> Ask:
        async def ask(account: Account) -> Any:
            return await directory.read(account, (), before_s=NOW_S, limit=NEWEST)

        return ask

    store = None
    if count <= options.naive_up_to:
        found["naive_filled_s"] = clocked(fill_naive, naive_path)
        found["naive_bytes_per_person"] = naive_path.stat().st_size / count
        store = sqlite3.connect(naive_path, isolation_level=None, check_same_thread=False)
        ways["naive"] = lambda account: asyncio.to_thread(
            read_naively, store, (account.platform, account.user_id, NEWEST)
        )
    in_redis = None
    if options.redis and count <= options.redis_up_to:
        client = redis.asyncio.from_url(options.redis)
        await client.flushall()
        before = await client.info("memory")
        in_redis = await RedisDirectory.open(options.redis, PSEUDONYMS, timeout_s=60.0)
        found["redis_filled_s"] = clocked(fill_redis, options.redis)
        after = await client.info("memory")
        for name in ("used_memory", "used_memory_rss"):
            found[f"redis_{name}_per_person"] = (after[name] - before[name]) / count
        await client.set("benchmark:blob", bytes(NEWEST * 32))
        ways |= {
            "ours in redis": reading(in_redis),
            "redis GET": lambda _: client.get("benchmark:blob"),
        }
    os.sync()
    began = time.monotonic()
    directory = await SqliteDirectory.open(path, PSEUDONYMS)
    found["open_s"] = time.monotonic() - began
    ways = {"ours": reading(directory)} | ways
    if in_redis is not None:
        await check(directory, in_redis, store, people)
    everybody = np.arange(people.count)
    busiest = np.argsort(people.sizes)[-people.count // 1000 :]
    for name, whom in (("read_ms", everybody), ("busiest_read_ms", busiest)):
        taken = await measure(ways, people, whom, options.reads)
        found[name] = {way: summary(times) for way, times in taken.items()}
    for batch, batches, callers in ((1, 300, 1), (1, 3_000, 64), (100, 50, 1), (1_000, 20, 1)):
        rate = await record_rate(directory, people, batch, batches, callers)
        found[f"recorded_per_s, {batch} a call, {callers} callers"] = rate
    await directory.close()
    if in_redis is not None:
        rate = await record_rate(in_redis, people, REDIS_BATCH, REDIS_BATCHES, 1)
        found[f"redis_recorded_per_s, {REDIS_BATCH} a call, 1 callers"] = rate
        await in_redis.close()
        await client.aclose()
    shutil.rmtree(folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--people", type=int, nargs="+", default=[10_000, 1_000_000, 5_000_000])
    parser.add_argument("--folder", type=Path, default=Path(".benchmark-directory"))
    parser.add_argument("--reads", type=int, default=20_000)
    parser.add_argument("--naive-up-to", type=int, default=5_000_000, help="people")
    parser.add_argument("--redis", help="redis://host:port of a Redis to compare; it is emptied")
    parser.add_argument("--redis-up-to", type=int, default=5_000_000, help="people")
    options = parser.parse_args()
    found = []
    for count in options.people:
        found.append(asyncio.run(run(count, options)))
        print(json.dumps(found[-1]), flush=True)
    for what in ("read_ms", "busiest_read_ms"):
        first, last = found[0][what], found[-1][what]
        for way in first.keys() & last.keys():
            for name in ("median", "p99"):
                grown = last[way][name] / first[way][name]
                print(f"{what}, {way}: {name} grows {grown:.2f} x from fewest people to most")


if __name__ == "__main__":
    main()
