"""What is special to the directory in one SQLite file."""

import asyncio
import contextlib
import itertools
import shutil
import sqlite3
import stat
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shopcast_domain.events import Account, Event, EventKind, Item
from shopcast_gateway.directory import sqlite, sqlite_reading, sqlite_upkeep
from shopcast_gateway.directory.pseudonym import Pseudonyms, load_or_create_keys
from shopcast_gateway.directory.sqlite import SqliteDirectory
from shopcast_gateway.directory.sqlite_reading import CANDIDATES, WINDOW
from shopcast_gateway.directory.types import LinkKind, Person, Reading, Retention
from shopcast_gateway.errors import StartupError, Unavailable

PSEUDONYMS = Pseudonyms(bytes(32))
RAW_ID = "anna.muster-4711@example.org"
ANNA = Account("shop-a", RAW_ID)
SHOE = Item("s1", "Trail shoe", "Nordwind", "shoes", 89.0)


def event(n: int, account: Account = ANNA) -> Event:
    return Event(f"{account.user_id}/{n}", account, EventKind.VIEW, 1_750_000_000.0 + n, SHOE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "directory.sqlite"


@contextlib.asynccontextmanager
async def opened(path: Path, pseudonyms: Pseudonyms = PSEUDONYMS) -> AsyncIterator[SqliteDirectory]:
    directory = await SqliteDirectory.open(path, pseudonyms)
    try:
        yield directory
    finally:
        await directory.close()


@contextlib.contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def fill(path: Path, events: int) -> None:
    async def record() -> None:
        async with opened(path) as directory:
            await directory.record([event(n) for n in range(events)])

    asyncio.run(record())


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def open_files() -> set[str]:
    return {str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.exists()}


def refusal(path: Path, pseudonyms: Pseudonyms = PSEUDONYMS) -> str:
    """Why opening is refused; leaves no thread behind."""
    threads = set(threading.enumerate())
    with pytest.raises(StartupError) as refused:
        asyncio.run(SqliteDirectory.open(path, pseudonyms))
    assert set(threading.enumerate()) == threads
    message = str(refused.value)
    assert message.startswith(str(path)) or f" {path} (" in message
    assert message.endswith(".")
    return message


# On disk


async def test_what_was_written_is_there_after_reopening(path: Path) -> None:
    other = Account("shop-b", "other")
    async with opened(path) as directory:
        await directory.record([event(1), event(2)])
        linked = await directory.link(ANNA, other, kind=LinkKind.DEVICE, confidence=0.5)
        await directory.keep_vectors("e-1", {bytes(16): np.ones(4, dtype=np.float32)})
    async with opened(path) as directory:
        assert (await directory.record([event(2), event(3)])).duplicates == 1
        person = await directory.resolve(other)
        assert person is not None
        assert person.person_id == linked.person_id
        assert len((await directory.read(other, (), before_s=2e9, limit=9)).window) == 3
        assert list(await directory.vectors("e-1", [bytes(16)])) == [bytes(16)]


async def test_an_acknowledged_write_has_been_synced(path: Path) -> None:
    async with opened(path) as directory:  # no test can pull the plug
        writer = directory._connections.writer
        assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert writer.execute("PRAGMA synchronous").fetchone() == (2,)


async def test_a_link_is_kept_once_per_kind_in_either_order(path: Path) -> None:
    other = Account("shop-b", "other")
    async with opened(path) as directory:
        for one, two in ((ANNA, other), (other, ANNA)):
            for kind in (LinkKind.LOGIN, LinkKind.DEVICE):
                await directory.link(one, two, kind=kind, confidence=0.9)
    with raw(path) as connection:
        kept = connection.execute("SELECT kind, confidence FROM links ORDER BY kind").fetchall()
    assert kept == [("device", 0.9), ("login", 0.9)]


async def test_raw_ids_never_reach_the_disk(path: Path) -> None:
    key_path = path.parent / "key"
    async with opened(path, Pseudonyms(*load_or_create_keys(key_path))) as directory:
        await directory.record([event(n) for n in range(100)])
        await directory.link(ANNA, Account("b", RAW_ID), kind=LinkKind.LOGIN, confidence=1)
        await directory.read(ANNA, (SHOE,), before_s=2e9, limit=10)
        files = contents(path.parent)
        assert files.keys() == {"key", path.name, f"{path.name}-wal", f"{path.name}-shm"}
        assert b"Trail shoe" in files[f"{path.name}-wal"]  # the search finds what is there
    files["after closing"] = contents(path.parent)[path.name]
    assert b"Trail shoe" in files["after closing"]
    for name, content in files.items():
        assert RAW_ID.encode() not in content, name
        assert b"muster" not in content, name


async def test_only_the_owner_may_read_the_file(path: Path) -> None:
    async with opened(path) as directory:
        await directory.record([event(1)])
        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {0o600}


async def test_a_request_writes_nothing(path: Path) -> None:
    async with opened(path) as directory:
        await directory.record([event(1)])
        with raw(path) as connection:
            before = list(connection.iterdump())
            new = Item("new", "New", "New brand", "new category", 1.0)
            await directory.read(Account("new", "x"), (new,), before_s=2e9, limit=10)
            await directory.resolve(Account("new", "x"))
            assert list(connection.iterdump()) == before


# Speed that rests on the layout


async def test_a_reading_sorts_and_scans_nothing(path: Path) -> None:
    async with opened(path):
        pass
    with raw(path) as connection:
        window = connection.execute(
            f"EXPLAIN QUERY PLAN {WINDOW.replace('(*)', '(?)')}", (1, 2, 3, 4)
        ).fetchall()
        candidates = connection.execute(
            f"EXPLAIN QUERY PLAN {CANDIDATES.replace('(*)', '(?, ?)')}", (1, "a", "b")
        ).fetchall()
    steps = [row[3] for row in window]
    assert steps[0] == "SEARCH e USING PRIMARY KEY (person=? AND time_us<?)"
    assert all(step.startswith("SEARCH") for step in steps), steps
    assert candidates[0][3].startswith("SEARCH i USING INDEX")
    assert not [row for row in candidates if "SCAN" in row[3] or "TEMP" in row[3]]


# Opening


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"name,price\n" * 1000)
    assert "damaged or no directory file" in refusal(path)
    assert path.read_bytes() == b"name,price\n" * 1000


def test_a_damaged_file_is_refused(path: Path) -> None:
    fill(path, events=2000)
    content = bytearray(path.read_bytes())
    for page in range(4096 * 20, len(content), 4096):
        content[page : page + 512] = b"\xa5" * 512
    path.write_bytes(content)
    assert "damaged" in refusal(path)


def test_a_file_that_another_process_has_just_checked_is_not_read_from_end_to_end(
    path: Path,
) -> None:
    fill(path, events=2000)
    content = bytearray(path.read_bytes())
    content[-4096:] = b"\xa5" * 4096
    path.write_bytes(content)
    assert "damaged" in refusal(path)

    async def open_and_close() -> None:
        await (await SqliteDirectory.open(path, PSEUDONYMS, checked=True)).close()

    asyncio.run(open_and_close())


def test_a_truncated_file_is_refused(path: Path) -> None:
    fill(path, events=2000)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "damaged" in refusal(path)


def test_another_applications_database_is_refused_and_left_alone(path: Path) -> None:
    with raw(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    assert "another application's" in refusal(path)
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused(path: Path) -> None:
    fill(path, events=1)
    with raw(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "newer version of Shopcast" in refusal(path)


def test_an_older_schema_is_refused(path: Path) -> None:
    fill(path, events=1)
    with raw(path) as connection:
        connection.execute("PRAGMA user_version = 1")
    assert "import the events" in refusal(path)


def test_a_file_made_under_another_key_is_refused(path: Path) -> None:
    fill(path, events=1)
    assert "another pseudonym key" in refusal(path, Pseudonyms(b"k" * 32))


def test_a_missing_folder_and_a_folder_are_refused(path: Path) -> None:
    for wrong in (path / "missing" / "directory.sqlite", path.parent):
        assert "name a file in an existing folder" in refusal(wrong)


async def test_a_path_with_url_characters_is_just_a_path(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=memory#b%20 c.sqlite"
    async with opened(path) as directory:
        await directory.record([event(1)])
    assert path.stat().st_size > 0


async def test_two_processes_worth_of_directories_share_one_file(path: Path) -> None:
    async with opened(path) as one, opened(path) as other:
        results = await asyncio.gather(
            *(one.record([event(n)]) for n in range(40)),
            *(other.record([event(n)]) for n in range(20, 60)),
        )
        assert sum(result.recorded for result in results) == 60
        assert len((await one.read(ANNA, (), before_s=2e9, limit=99)).window) == 60


# When the store is away


async def test_a_store_locked_by_another_is_unavailable_and_recovers(path: Path) -> None:
    async with opened(path) as directory:
        await directory.record([event(1)])
        directory._connections.writer.execute("PRAGMA busy_timeout = 20")
        with raw(path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable, match="locked") as refusal:
                await directory.record([event(2)])
            assert RAW_ID not in str(refusal.value)
            reading = await directory.read(ANNA, (), before_s=2e9, limit=9)
            assert len(reading.window) == 1  # reads go on
            connection.execute("ROLLBACK")
        assert (await directory.record([event(2)])).recorded == 1


def move(path: Path, to: Path, *, replaced: bool = False) -> None:
    path.replace(to)
    if replaced:
        path.touch()


@pytest.mark.parametrize("replaced", [False, True])
async def test_nothing_is_acknowledged_that_would_be_in_a_file_nobody_finds(
    path: Path, tmp_path: Path, replaced: bool
) -> None:
    elsewhere = tmp_path / "elsewhere.db"
    async with opened(path) as directory:
        await directory.record([event(1)])
        move(path, elsewhere, replaced=replaced)
        calls = [directory.record([event(n)]) for n in (2, 3)]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, Unavailable)
            assert "moved, replaced or removed: put it back" in str(outcome)
        with pytest.raises(Unavailable, match="put it back"):
            await directory.erase(ANNA)
        move(elsewhere, path)
        assert (await directory.record([event(2), event(3)])).recorded == 2
        await directory.compact(Retention(max_events=1))  # gives room back in the same file
        assert (await directory.record([event(4)])).recorded == 1


async def test_a_full_disk_is_unavailable_and_nothing_is_half_written(path: Path) -> None:
    async with opened(path) as directory:
        await directory.record([event(1)])
        pages = directory._connections.writer.execute("PRAGMA page_count").fetchone()[0]
        directory._connections.writer.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(Unavailable, match="full"):
            await directory.record([event(n) for n in range(2, 3000)])
        reading = await directory.read(ANNA, (SHOE,), before_s=2e9, limit=9999)
        assert len(reading.window) == 1
        assert reading.candidates.item_tally.tolist() == [[1, 0, 0, 0]]
        directory._connections.writer.execute("PRAGMA max_page_count = 100000")
        assert (await directory.record([event(n) for n in range(1, 3000)])).recorded == 2998


async def test_an_event_that_cannot_be_kept_keeps_the_others_of_its_call_out(path: Path) -> None:
    async with opened(path) as directory:
        bad = Event("bad", ANNA, EventKind.BUY, 1.0, SHOE, quantity=2**70)
        with pytest.raises(OverflowError):
            await directory.record([event(1), bad])
        assert await directory.resolve(ANNA) is None
        assert (await directory.record([event(1)])).recorded == 1


async def test_the_event_loop_runs_on_while_the_store_is_slow(path: Path) -> None:
    async with opened(path) as directory:
        with raw(path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            recording = asyncio.create_task(directory.record([event(1)]))
            ticks = 0
            stop = time.monotonic() + 0.2
            while time.monotonic() < stop:
                await asyncio.sleep(0.005)
                ticks += 1
            assert ticks >= 10
            assert not recording.done()
            connection.execute("ROLLBACK")
        assert (await recording).recorded == 1


# Reading


@dataclass
class Disk:
    """What reads meet. stuck: how many of them wait until it is `back`. most: read at once."""

    stuck: int = 0
    back: threading.Event = field(default_factory=threading.Event)
    running: int = 0
    most: int = 0


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    seen, lock, real = Disk(), threading.Lock(), sqlite_reading.read

    def read(*arguments: Any) -> Reading:
        with lock:
            seen.running += 1
            seen.most = max(seen.most, seen.running)
            stuck, seen.stuck = seen.stuck > 0, seen.stuck - 1
        try:
            assert not stuck or seen.back.wait(60)
            return real(*arguments)
        finally:
            with lock:
                seen.running -= 1

    monkeypatch.setattr(sqlite_reading, "read", read)
    yield seen
    seen.back.set()


async def ask(directory: SqliteDirectory, times: int = 1) -> bool:
    for _ in range(times):
        reading = await directory.read(ANNA, [SHOE], before_s=2e9, limit=9)
    return reading.candidate_known == (True,)


@contextlib.asynccontextmanager
async def stuck_read(path: Path, disk: Disk) -> AsyncIterator[SqliteDirectory]:
    """A directory one of whose reads is stuck, and stays so as long as it is needed."""
    async with opened(path) as directory:
        await directory.record([event(1)])
        disk.stuck = 1
        async with asyncio.TaskGroup() as group:
            stuck = group.create_task(ask(directory))
            await asyncio.sleep(0.01)
            yield directory
            assert not stuck.done()
            disk.back.set()
        assert stuck.result()


async def test_quick_reads_do_not_take_the_interpreter_from_each_other(
    path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_LONG_S", 60.0)  # on whatever machine
    async with opened(path) as directory:
        await directory.record([event(1)])
        assert all(await asyncio.gather(*(ask(directory) for _ in range(50))))
    assert disk.most == 1


async def test_who_comes_just_after_a_read_that_is_stuck_is_answered(
    path: Path, disk: Disk
) -> None:
    async with stuck_read(path, disk) as directory:
        assert await asyncio.wait_for(ask(directory), 30)


async def test_many_reads_beside_one_that_is_stuck_are_as_quick_as_ever(
    path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_LONG_S", 1.0)  # what they would wait for again and again
    async with stuck_read(path, disk) as directory:
        many = asyncio.gather(*(ask(directory, 100) for _ in range(8)))
        assert all(await asyncio.wait_for(many, 50))  # 100 s if each turn waited


# Closing


async def test_closing_finishes_what_was_asked_and_leaves_no_thread_and_no_file_open(
    path: Path,
) -> None:
    before = set(threading.enumerate())
    directory = await SqliteDirectory.open(path, PSEUDONYMS)
    writes = [asyncio.create_task(directory.record([event(n)])) for n in range(20)]
    reads = [
        asyncio.create_task(directory.read(ANNA, (SHOE,), before_s=2e9, limit=9)) for _ in range(20)
    ]
    await asyncio.sleep(0)
    await directory.close()
    assert [result.recorded for result in await asyncio.gather(*writes)] == [1] * 20
    await asyncio.gather(*reads)
    assert set(threading.enumerate()) == before
    assert list(path.parent.iterdir()) == [path]  # the last connection removes the log
    assert str(path) not in open_files()
    await directory.close()
    with pytest.raises(Unavailable, match="closed"):
        await directory.record([event(1)])


# Keys


async def test_what_was_written_under_an_older_key_is_found_and_moves_to_the_newest(
    path: Path,
) -> None:
    old, new = b"o" * 32, b"n" * 32
    other = Account("shop-b", "other")
    async with opened(path, Pseudonyms(old)) as directory:
        await directory.record([event(1), Event("9", other, EventKind.VIEW, 1e9, SHOE)])
        await directory.link(ANNA, Account("shop-c", "third"), kind=LinkKind.LOGIN, confidence=1)
        before = await directory.resolve(ANNA)
    async with opened(path, Pseudonyms(new, old)) as directory:
        assert await directory.resolve(ANNA) == before
        assert (await directory.stats()).accounts_by_key == (0, 3)
        result = await directory.record([event(1), event(2)])
        assert (result.recorded, result.duplicates) == (1, 1)
        after = await directory.resolve(ANNA)
        assert before is not None
        assert after is not None
        assert after.person_id == before.person_id
        assert after.accounts != before.accounts
        assert (await directory.stats()).accounts_by_key == (1, 2)
        assert await directory.find(before.person_id) == after
    for incomplete in (Pseudonyms(new), Pseudonyms(old)):
        with pytest.raises(StartupError, match="another pseudonym key"):
            await SqliteDirectory.open(path, incomplete)


async def test_keys_that_are_given_in_another_order_are_refused(path: Path) -> None:
    old, new = b"o" * 32, b"n" * 32
    for ring in (Pseudonyms(old), Pseudonyms(new, old)):
        async with opened(path, ring):
            pass
    with pytest.raises(StartupError, match="the newest first"):
        await SqliteDirectory.open(path, Pseudonyms(old, new))


async def test_a_process_that_missed_a_rotation_writes_no_second_account(path: Path) -> None:
    old, new = b"o" * 32, b"n" * 32
    async with opened(path, Pseudonyms(old)) as late:
        await late.record([event(1)])
        async with opened(path, Pseudonyms(new, old)) as directory:
            await directory.record([event(2)])
            for attempt in (
                late.record([event(3)]),
                late.resolve(ANNA),
                late.read(ANNA, (), before_s=2e9, limit=9),
                late.consents(ANNA),
                late.export(ANNA),
                late.erase(ANNA),
                late.undo(1),
            ):
                with pytest.raises(Unavailable, match="started again"):
                    await attempt
            assert (await directory.stats()).accounts == 1


async def test_what_was_erased_is_not_in_the_file_any_more(path: Path) -> None:
    mark = "a-title-nobody-else-has"
    async with opened(path) as directory:
        await directory.link(ANNA, Account("b", "x"), kind=LinkKind.LOGIN, confidence=1)
        for n in range(20):
            await directory.record([event(n)])
        await directory.link(
            ANNA, Account("b", "x"), kind=LinkKind.DEVICE, confidence=0.5, source=mark
        )
        pseudonym = bytes.fromhex(dict((await person_of(directory)).accounts)["b"])
        written = contents(path.parent)
        assert any(mark.encode() in content for content in written.values())
        assert any(pseudonym in content for content in written.values())
        receipt = await directory.erase(ANNA)
        assert receipt is not None
        assert receipt.events == 20
        for content in contents(path.parent).values():
            assert mark.encode() not in content
            assert pseudonym not in content


async def test_what_was_erased_leaves_the_log_when_the_last_reader_goes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_AGAIN_S", 0.01)
    async with opened(path) as directory:
        await directory.record([event(n) for n in range(20)])
        with reading(path):
            assert await directory.erase(ANNA) is not None
            await asyncio.sleep(0.1)
            assert holds(path, ANNA)
        end = time.monotonic() + 30
        while holds(path, ANNA):  # nobody writes
            assert time.monotonic() < end
            await asyncio.sleep(0.01)


async def test_any_write_empties_the_log_of_what_was_erased(path: Path) -> None:
    async with opened(path) as directory:
        await directory.record([event(n) for n in range(20)])
        with reading(path):
            await directory.erase(ANNA)
        await directory.set_consent(Account("b", "x"), {})
        assert not holds(path, ANNA)


async def test_what_was_erased_before_a_process_died_leaves_the_log_at_the_next_start(
    path: Path, tmp_path: Path
) -> None:
    left = tmp_path / "left" / path.name
    left.parent.mkdir()
    async with opened(path) as directory:
        await directory.record([event(n) for n in range(20)])
        with reading(path):
            await directory.erase(ANNA)
            for end in ("", "-wal"):  # as a killed process leaves them
                shutil.copy(f"{path}{end}", f"{left}{end}")
    assert holds(left, ANNA)
    async with opened(left):
        assert not holds(left, ANNA)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Somebody reads the file."""
    with raw(path) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()
        yield


def holds(path: Path, account: Account) -> bool:
    """Whether the file or its log hold an account's pseudonym."""
    return any(PSEUDONYMS.of(account) in one for one in contents(path.parent).values())


async def test_who_reads_does_not_hold_up_an_erasure(path: Path) -> None:
    async with opened(path) as directory:
        await directory.record([event(n) for n in range(20)])
        pseudonym = PSEUDONYMS.of(ANNA)
        with raw(path) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM events").fetchone()
            began = time.monotonic()
            assert await directory.erase(ANNA) is not None
            await directory.record([event(1, Account("b", "x"))])
            assert time.monotonic() - began < 1.0
            assert pseudonym in contents(path.parent)[f"{path.name}-wal"]
            reader.execute("COMMIT")
        await directory.record([event(2, Account("b", "x"))])
        assert all(pseudonym not in content for content in contents(path.parent).values())


# Compaction


async def test_others_write_while_the_long_history_of_one_person_is_compacted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_upkeep, "_ROWS", 10)
    monkeypatch.setattr(sqlite_upkeep, "_RANGE", 10)
    monkeypatch.setattr(sqlite_upkeep, "_HELD_S", 0.0)
    monkeypatch.setattr(sqlite_upkeep, "_PAUSE_S", 0.0)
    async with opened(path) as directory:
        await directory.record([event(n) for n in range(100)])
        flood = [Event(f"f{n}", ANNA, EventKind.VIEW, 1_700_000_000, SHOE) for n in range(150)]
        assert (await directory.record(flood)).quarantined == 100
        vectors = {bytes([n]) * 16: np.ones(4, dtype=np.float32) for n in range(100)}
        await directory.keep_vectors("old", vectors)
        writer, sizes, vacuums = directory._connections.writer, [0], []

        def look(sql: str) -> None:
            if "incremental_vacuum" in sql:
                vacuums.append(sql)
            if sql.startswith(("BEGIN", "COMMIT")):
                sizes.append(writer.total_changes)

        writer.set_trace_callback(look)
        age_s = time.time() - 1_740_000_000
        assert await directory.compact(Retention(max_age_s=age_s), encoders=()) == 150
        assert await directory.compact(Retention(max_events=30)) == 70
        writer.set_trace_callback(None)
        stats = await directory.stats()
        assert (stats.events, stats.quarantined, stats.vectors) == (30, 0, 0)
    assert max(after - before for before, after in itertools.pairwise(sizes[1:])) <= 10
    assert len(vacuums) == 2  # not one a page


async def person_of(directory: SqliteDirectory) -> Person:
    person = await directory.resolve(ANNA)
    assert person is not None
    return person


# Calls that wait for the writer


async def test_calls_that_wait_are_written_together_and_each_gets_its_own(path: Path) -> None:
    async with opened(path) as directory:
        turns = count_transactions(directory)
        batches = [[event(n * 3 + k) for k in range(3)] for n in range(40)]
        results = await asyncio.gather(
            *(directory.record(batch) for batch in batches), directory.record(batches[7])
        )
        assert [one.recorded for one in results] == [3] * 40 + [0]
        assert results[-1].duplicates == 3
        assert len(turns) < 10
        assert (await directory.record([])).statuses == ()


async def test_one_bad_call_does_not_spoil_those_written_with_it(path: Path) -> None:
    broken = Event("e", ANNA, EventKind.VIEW, float("nan"), SHOE)
    async with opened(path) as directory:
        results = await asyncio.gather(
            directory.record([event(1)]),
            directory.record([broken]),
            directory.record([event(2)]),
            return_exceptions=True,
        )
        assert isinstance(results[1], ValueError)
        assert len((await directory.read(ANNA, (), before_s=2e9, limit=9)).window) == 2


async def test_a_call_that_is_given_up_harms_no_other(path: Path) -> None:
    async with opened(path) as directory:
        first = asyncio.create_task(directory.record([event(1)]))
        others = [asyncio.create_task(directory.record([event(n)])) for n in range(2, 30)]
        await asyncio.sleep(0)
        for task in others[::2]:
            task.cancel()
        await asyncio.gather(first, *others, return_exceptions=True)
        assert all(task.result().recorded == 1 for task in others[1::2])


def count_transactions(directory: SqliteDirectory) -> list[str]:
    seen: list[str] = []
    directory._connections.writer.set_trace_callback(
        lambda sql: seen.append(sql) if sql.startswith("BEGIN") else None
    )
    return seen
