"""What record() has acknowledged survives a process killed at any moment."""

import asyncio
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from shopcast_domain.events import Account, Event, EventKind, Item
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.sqlite import SqliteDirectory
from shopcast_gateway.directory.types import Person, Retention

BATCH = 7

WRITER = f"""
import asyncio, sys
from pathlib import Path
from shopcast_domain.events import Account, Event, EventKind, Item
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.sqlite import SqliteDirectory

async def main():
    directory = await SqliteDirectory.open(Path(sys.argv[1]), Pseudonyms(bytes(32)))

    async def write(user):
        batch = 0
        while True:
            name = f"{{sys.argv[2]}}-{{user}}-{{batch}}"
            account = Account("shop", name)
            await directory.record([
                Event(f"{{name}}-{{n}}", account, EventKind.VIEW, 1e9 + n, Item("item"))
                for n in range({BATCH})
            ])
            print(name, flush=True)
            batch += 1

    await asyncio.gather(*map(write, range(3)))

asyncio.run(main())
"""


def write_until_killed(path: Path, run: int, alive_s: float) -> list[str]:
    """Names of the batches acknowledged by a writer that is killed `alive_s` after its first."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(run)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(alive_s)
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read()
    assert writer.returncode == -signal.SIGKILL
    return [line for line in (first + rest).splitlines(keepends=True) if line.endswith("\n")]


async def test_acknowledged_events_survive_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "directory.sqlite"
    moments = random.Random(7)
    acknowledged: list[str] = []
    for run in range(5):
        # Each run also opens the file that the one before left behind.
        acknowledged += await asyncio.to_thread(
            write_until_killed, path, run, moments.uniform(0.0, 0.25)
        )
    assert len(acknowledged) >= 5
    directory = await SqliteDirectory.open(path, Pseudonyms(bytes(32)))
    try:
        for name in acknowledged:
            account = Account("shop", name.strip())
            reading = await directory.read(account, (Item("item"),), before_s=2e9, limit=100)
            assert len(reading.window) == BATCH
        views = reading.candidates.item_tally[0, 0]
        assert views >= BATCH * len(acknowledged)
        assert views % BATCH == 0  # no call is there in part
    finally:
        await directory.close()


CHURNER = """
import asyncio, random, sys
from pathlib import Path
from shopcast_domain.events import Account, Event, EventKind, Item
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.sqlite import SqliteDirectory
from shopcast_gateway.directory.types import LinkKind

async def main():
    directory = await SqliteDirectory.open(Path(sys.argv[1]), Pseudonyms(bytes(32)))
    dice = random.Random(int(sys.argv[2]))
    accounts = [Account("shop", f"user-{n}") for n in range(12)]
    print("ready", flush=True)
    for step in range(int(sys.argv[3])):
        one, other = dice.sample(accounts, 2)
        if dice.random() < 0.5:
            await directory.link(one, other, kind=LinkKind.LOGIN, confidence=1.0)
        elif dice.random() < 0.8:
            await directory.unlink(one, other)
        else:
            await directory.split(one)
        name = f"{sys.argv[2]}-{step}"
        await directory.record([Event(name, one, EventKind.VIEW, 1e9 + step, Item("item"))])
    await directory.close()

asyncio.run(main())
"""


ACCOUNTS = [Account("shop", f"user-{n}") for n in range(12)]


async def known_people(directory: SqliteDirectory) -> dict[Account, Person]:
    """By one of their accounts; every account has one person."""
    people = {
        person.person_id: (account, person)
        for account, person in zip(ACCOUNTS, await directory.resolve_many(ACCOUNTS), strict=True)
        if person
    }
    held = [name for _, person in people.values() for name in person.accounts]
    assert len(held) == len(set(held)) == 12
    return dict(people.values())


async def check_people(directory: SqliteDirectory) -> int:
    """What a person did is what their accounts did; returns events. For when nobody writes."""
    events = 0
    for account, person in (await known_people(directory)).items():
        past = await directory.history(account, before_s=2e9, limit=10_000)
        assert {(one.platform, one.account_pseudonym) for one in past} <= set(person.accounts)
        reading = await directory.read(account, (), before_s=2e9, limit=10_000)
        assert len(reading.window) == len(past)
        events += len(past)
    return events


async def test_processes_that_link_and_unlink_lose_no_account_and_no_event(tmp_path: Path) -> None:
    path, steps = tmp_path / "directory.sqlite", 60
    directory = await SqliteDirectory.open(path, Pseudonyms(bytes(32)))
    for n in range(12):
        await directory.record(
            [Event(f"first-{n}", Account("shop", f"user-{n}"), EventKind.BUY, 1e9, Item("item"))]
        )
    churners = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHURNER, str(path), str(seed), str(steps),
            stdout=asyncio.subprocess.PIPE,
        )
        for seed in range(3)
    ]  # fmt: skip
    try:
        while any(churner.returncode is None for churner in churners):
            await known_people(directory)
            await asyncio.sleep(0.05)
        assert [churner.returncode for churner in churners] == [0, 0, 0]
        assert await check_people(directory) == 12 + 3 * steps
    finally:
        for churner in churners:
            if churner.returncode is None:
                churner.kill()
            await churner.wait()
        await directory.close()


async def test_a_kill_in_the_middle_of_linking_leaves_people_whole(tmp_path: Path) -> None:
    path, moments = tmp_path / "directory.sqlite", random.Random(3)
    directory = await SqliteDirectory.open(path, Pseudonyms(bytes(32)))
    for n in range(12):
        await directory.record(
            [Event(f"first-{n}", Account("shop", f"user-{n}"), EventKind.BUY, 1e9, Item("item"))]
        )
    await directory.close()
    for seed in range(10, 14):
        churner = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHURNER, str(path), str(seed), "100000",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert churner.stdout is not None
        assert await churner.stdout.readline() == b"ready\n"
        await asyncio.sleep(moments.uniform(0.05, 0.4))
        churner.kill()
        await churner.wait()
        directory = await SqliteDirectory.open(path, Pseudonyms(bytes(32)))
        assert await check_people(directory) >= 12
        await directory.close()


COMPACTER = """
import asyncio, os, signal, sys
from pathlib import Path
from shopcast_gateway.directory import sqlite_upkeep
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.sqlite import SqliteDirectory
from shopcast_gateway.directory.types import Retention

def die(done, total):
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)

whole, sqlite_upkeep._PEOPLE = sqlite_upkeep.compact, 50
sqlite_upkeep.compact = lambda *given: whole(*given[:3], die)

async def main():
    directory = await SqliteDirectory.open(Path(sys.argv[1]), Pseudonyms(bytes(32)))
    await directory.compact(Retention(max_events=2))

asyncio.run(main())
"""


async def test_a_compaction_that_was_killed_is_simply_run_again(tmp_path: Path) -> None:
    path, people = tmp_path / "directory.sqlite", 400
    directory = await SqliteDirectory.open(path, Pseudonyms(bytes(32)))
    for user in range(people):
        account = Account("shop", f"user-{user}")
        await directory.record(
            [
                Event(f"{user}-{n}", account, EventKind.VIEW, 1e9 + n, Item(f"item-{n}"))
                for n in range(3)
            ]
        )
    await directory.close()
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", COMPACTER, str(path))
    assert await killed.wait() == -signal.SIGKILL
    directory = await SqliteDirectory.open(path, Pseudonyms(bytes(32)))
    left = (await directory.stats()).events
    assert 2 * people < left < 3 * people
    removed = await directory.compact(Retention(max_events=2))
    assert left - removed == 2 * people
    for user in (0, people - 1):
        kept = await directory.history(Account("shop", f"user-{user}"), before_s=2e9, limit=9)
        assert [event.item_id for event in kept] == ["item-2", "item-1"]
    await directory.close()
