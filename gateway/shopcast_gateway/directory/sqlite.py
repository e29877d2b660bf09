"""The embedded directory: one SQLite file, nothing to install or run."""

import asyncio
import math
import queue
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from shopcast_domain.events import Account, Event, Item
from shopcast_gateway.directory import (
    sqlite_history,
    sqlite_people,
    sqlite_privacy,
    sqlite_reading,
    sqlite_recording,
    sqlite_upkeep,
)
from shopcast_gateway.directory.protocol import Progress
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.sqlite_connection import (
    BUSY_S,
    Connections,
    empty_log,
    microseconds,
    open_store,
    select_in,
    transaction,
)
from shopcast_gateway.directory.types import (
    FLOODS,
    Change,
    Consents,
    FloodRules,
    HistoryEvent,
    LinkKind,
    LinkResult,
    LinkStatement,
    Person,
    PersonData,
    Purpose,
    Reading,
    Receipt,
    RecordResult,
    Retention,
    Stats,
    UnlinkResult,
    Vector,
)
from shopcast_gateway.errors import Unavailable

READERS, BROWSERS = 4, 2
"""Threads that read for predictions, and for those who look around and may take long."""
_LONG_S = 0.1
"""How long all turns of reading must have taken for another thread to begin one: several overlap
what they wait for of a slow disk. From memory one is faster: threads that compute in Python wait
for each other and the event loop for them, and each change costs (docs/decisions/0016)."""
_TOGETHER = 10_000  # events of one transaction, if several calls wait
_AGAIN_S = 1.0  # before trying again to empty the log of what was erased, where somebody reads
_READ_TOGETHER = 8  # reads of one turn of a thread, if several wait: changing threads costs as much

_Answer = TypeVar("_Answer")
_Work = Callable[[sqlite3.Connection], _Answer]


@dataclass(eq=False, slots=True)
class _Recording:
    """A call of `record` that waits. outcome: what became of it, once it is over. given_up: nobody
    waits for it any more."""

    events: Sequence[Event]
    outcome: RecordResult | Exception | None = None
    given_up: bool = False


@dataclass(eq=False, slots=True)
class _Read:
    """A read that waits. outcome: what became of it, once it is over."""

    work: _Work[Any]
    future: "asyncio.Future[Any]"
    outcome: Any = None

    def run(self, store: sqlite3.Connection) -> None:
        """In a thread. Whoever waits is told on the event loop."""
        if not self.future.cancelled():
            try:
                self.outcome = self.work(store)
            except Exception as error:
                self.outcome = error

    def tell(self) -> None:
        """On the event loop."""
        if self.future.done():
            return
        if isinstance(self.outcome, Exception):
            self.future.set_exception(self.outcome)
        else:
            self.future.set_result(self.outcome)


class SqliteDirectory:
    """A Directory in one file. One thread writes, a few read; the event loop never waits for disk.

    What a call has written is on disk (fsync) when it returns. Several processes may open one file.
    """

    def __init__(
        self, pseudonyms: Pseudonyms, connections: Connections, floods: FloodRules | None
    ) -> None:
        self._pseudonyms = pseudonyms
        self._floods = floods
        self._connections = connections
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._browsing: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        for number, connection in enumerate(connections.readers):
            (self._idle if number < READERS else self._browsing).put(connection)
        self._writer = ThreadPoolExecutor(1, "directory-writer")
        self._readers = ThreadPoolExecutor(READERS, "directory-reader")
        self._browsers = ThreadPoolExecutor(BROWSERS, "directory-browser")
        self._recordings: deque[_Recording] = deque()
        self._reads: deque[_Read] = deque()
        self._turns: dict[asyncio.Future[None], float] = {}  # of reading, and when each began
        self._reminder: asyncio.TimerHandle | None = None  # of reads that wait
        self._erased = True  # the log may hold what a process erased that was killed
        self._trying_again: asyncio.TimerHandle | None = None  # to empty the log
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: Path,
        pseudonyms: Pseudonyms,
        *,
        floods: FloodRules | None = FLOODS,
        busy_s: float = BUSY_S,
        checked: bool = False,
    ) -> Self:
        """Open the file, making it if missing; its integrity is checked, which reads it all.

        floods: what is quarantined; None lets everything in. busy_s: how long to wait for another
        process that writes. checked: as of open_store. Raises StartupError when the file
        cannot be used, and says why.
        """
        opening = partial(
            open_store,
            path,
            pseudonyms.fingerprints(),
            readers=READERS + BROWSERS,
            busy_s=busy_s,
            checked=checked,
        )
        with ThreadPoolExecutor(1, "directory-open") as executor:
            connections = await asyncio.get_running_loop().run_in_executor(executor, opening)
        directory = cls(pseudonyms, connections, floods)
        await directory._write(lambda store: None)
        return directory

    async def record(self, events: Sequence[Event]) -> RecordResult:
        """Keep events, all or none. Batches of thousands are what makes an import fast.

        Calls that come while the writer is busy are written together: one sync for all of them.
        """
        call = _Recording(events)
        self._recordings.append(call)
        try:
            while call.outcome is None:  # each turn of the writer takes what waits, up to a bound
                await self._write(self._record_waiting)
        except asyncio.CancelledError:
            call.given_up = True
            raise
        if isinstance(call.outcome, Exception):
            raise _cause(call.outcome)
        return call.outcome

    async def read(
        self,
        account: Account,
        items: Sequence[Item],
        *,
        before_s: float,
        limit: int,
        purpose: Purpose = Purpose.PREDICTION,
        min_confidence: float = 0.0,
    ) -> Reading:
        """Window and candidates of one moment; events of equal time come in a fixed order."""
        before_us = microseconds(before_s)
        return await self._read(
            lambda store: sqlite_reading.read(
                store, self._pseudonyms, account, items, before_us, limit, purpose, min_confidence
            )
        )

    async def history(
        self,
        account: Account,
        *,
        before_s: float,
        limit: int,
        as_of_s: float | None = None,
        purpose: Purpose | None = None,
    ) -> tuple[HistoryEvent, ...]:
        """The person's newest events, now or as they were known then."""
        before_us, as_of_us = microseconds(before_s), _microseconds(as_of_s)

        def read(store: sqlite3.Connection) -> tuple[HistoryEvent, ...]:
            with transaction(store, "DEFERRED"):
                return sqlite_history.history(
                    store, self._pseudonyms, account, before_us, limit, as_of_us, purpose
                )

        return await self._browse(read)

    async def resolve(self, account: Account, *, as_of_s: float | None = None) -> Person | None:
        """The person behind an account; None when the account had never been seen."""
        as_of_us = _microseconds(as_of_s)
        (person,) = await self._read(
            lambda store: sqlite_people.resolve(store, self._pseudonyms, (account,), as_of_us)
        )
        return person

    async def resolve_many(self, accounts: Sequence[Account]) -> tuple[Person | None, ...]:
        """As `resolve`, of one moment."""
        return await self._browse(
            lambda store: sqlite_people.resolve(store, self._pseudonyms, accounts, None)
        )

    async def find(self, person_id: str) -> Person | None:
        """The person an id leads to."""
        return await self._read(lambda store: sqlite_people.find_person(store, person_id))

    async def link(
        self,
        account: Account,
        other: Account,
        *,
        kind: LinkKind,
        confidence: float,
        source: str = "",
    ) -> LinkResult:
        """Make two accounts one person's; the id of the person created first stays."""
        statement = LinkStatement(account, other, kind, confidence, source)
        (made,) = await self.link_many((statement,))
        return made

    async def link_many(self, statements: Sequence[LinkStatement]) -> Sequence[LinkResult]:
        """As `link`, in one transaction."""
        return await self._write(
            lambda store: sqlite_people.link(store, self._pseudonyms, statements)
        )

    async def unlink(
        self, account: Account, other: Account, *, kind: LinkKind | None = None
    ) -> UnlinkResult:
        """Take the links between two accounts away. Raises NotFound."""
        return await self._write(
            lambda store: sqlite_people.unlink(store, self._pseudonyms, account, other, kind)
        )

    async def split(self, account: Account) -> UnlinkResult:
        """Take all links of an account away. Raises NotFound."""
        return await self._write(
            lambda store: sqlite_people.split(store, self._pseudonyms, account)
        )

    async def undo(self, number: int) -> Change:
        """Take a change of the journal back. Raises NotFound."""
        return await self._write(lambda store: sqlite_people.undo(store, self._pseudonyms, number))

    async def changes(self, after: int, *, limit: int) -> Sequence[Change]:
        """The journal's entries with a number above `after`, oldest first. Raises ChangesLost."""
        return await self._browse(lambda store: sqlite_people.changes(store, after, limit))

    async def set_consent(
        self, account: Account, purposes: Mapping[Purpose, bool], *, everywhere: bool = False
    ) -> Consents:
        """Allow or refuse the use of an account's events, or of all the person's."""
        return await self._write(
            lambda store: sqlite_privacy.set_consent(
                store, self._pseudonyms, account, purposes, everywhere=everywhere
            )
        )

    async def consents(self, account: Account) -> Consents:
        """What may be done with the person's events."""
        return await self._read(
            lambda store: sqlite_privacy.consents(store, self._pseudonyms, account)
        )

    async def export(self, account: Account) -> PersonData | None:
        """Everything kept about a person."""
        return await self._browse(
            lambda store: sqlite_privacy.export(store, self._pseudonyms, account)
        )

    async def export_found(self, person_id: str) -> PersonData | None:
        """Everything kept about the person an id leads to."""
        return await self._browse(lambda store: sqlite_privacy.export_found(store, person_id))

    async def people(self, cursor: str, *, limit: int) -> tuple[Sequence[PersonData], str]:
        """Everything about some people; the cursor is the number of an account."""
        return await self._browse(lambda store: sqlite_privacy.people(store, cursor, limit))

    async def erase(self, account: Account) -> Receipt | None:
        """Remove a person; from the write-ahead log too, once nobody reads (tried each second)."""

        def erase(store: sqlite3.Connection) -> Receipt | None:
            receipt = sqlite_privacy.erase(store, self._pseudonyms, account)
            self._erased = True
            return receipt

        return await self._write(erase)

    async def stats(self) -> Stats:
        """What is in the file; reads all of it."""
        return await self._browse(lambda store: sqlite_upkeep.stats(store, self._pseudonyms))

    async def compact(
        self,
        retention: Retention,
        *,
        encoders: Collection[str] | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Remove what is not to be kept. Nothing else is written by this process meanwhile; other
        processes write in between."""
        loop = asyncio.get_running_loop()

        def report(done: int, total: int) -> None:  # in the thread that writes
            if progress is not None:
                loop.call_soon_threadsafe(progress, done, total)

        def compact(store: sqlite3.Connection) -> int:
            removed = sqlite_upkeep.compact(store, retention, encoders, report)
            self._erased = True
            return removed

        return await self._write(compact)

    async def vectors(self, encoder: str, digests: Sequence[bytes]) -> Mapping[bytes, Vector]:
        """The vectors kept for text digests under an encoder version, read-only arrays."""
        sql = "SELECT digest, vector FROM item_vectors WHERE encoder = ? AND digest IN (*)"
        rows = await self._read(lambda store: list(select_in(store, sql, digests, encoder)))
        return {digest: np.frombuffer(vector, dtype="<f4") for digest, vector in rows}

    async def keep_vectors(self, encoder: str, vectors: Mapping[bytes, Vector]) -> None:
        """Keep vectors (float32 (d,) each) for an encoder version."""
        rows = [
            (encoder, digest, vector.astype("<f4").tobytes()) for digest, vector in vectors.items()
        ]

        def keep(store: sqlite3.Connection) -> None:
            with transaction(store, "IMMEDIATE"):
                store.executemany(
                    "INSERT INTO item_vectors VALUES (?, ?, ?)"
                    " ON CONFLICT DO UPDATE SET vector = excluded.vector",
                    rows,
                )

        await self._write(keep)

    async def close(self) -> None:
        """Finish what was asked before, then close the file and end the threads."""
        if self._closed:
            return
        self._closed = True
        if self._trying_again is not None:
            self._trying_again.cancel()
        while self._turns:
            await asyncio.wait(self._turns)
        await asyncio.get_running_loop().run_in_executor(self._writer, self._let_go)
        self._writer.shutdown()

    def _let_go(self) -> None:
        self._readers.shutdown()
        self._browsers.shutdown()
        self._connections.close()

    def _forget(self, store: sqlite3.Connection) -> None:
        """Empty the log of what was erased, if that is due and can be done."""
        self._erased = self._erased and not empty_log(store)

    def _try_again_later(self) -> None:
        """On the event loop: to empty the log, which somebody reads."""
        if self._trying_again is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._trying_again = loop.call_later(_AGAIN_S, self._try_again)

    def _try_again(self) -> None:
        def have_tried(_: object) -> None:
            self._trying_again = None
            if self._erased:
                self._try_again_later()

        loop = asyncio.get_running_loop()
        store = self._connections.writer
        loop.run_in_executor(self._writer, self._forget, store).add_done_callback(have_tried)

    def _record_waiting(self, store: sqlite3.Connection) -> None:
        """Record what waits in one transaction; what cannot be recorded with others, alone."""
        calls: list[_Recording] = []
        while self._recordings and sum(len(call.events) for call in calls) < _TOGETHER:
            call = self._recordings.popleft()
            if not call.given_up:
                calls.append(call)
        if not calls:
            return
        events = [event for call in calls for event in call.events]
        try:
            result = sqlite_recording.record(store, self._pseudonyms, events, self._floods)
        except Exception as error:  # every caller is told
            if len(calls) > 1 and not _is_store_away(error):
                for call in calls:
                    self._recordings.append(call)
                    self._record_waiting(store)
                return
            for call in calls:
                call.outcome = error
            return
        statuses = iter(result.statuses)
        for call in calls:
            call.outcome = RecordResult(tuple(islice(statuses, len(call.events))))

    async def _write(self, work: _Work[_Answer]) -> _Answer:
        loop, store = asyncio.get_running_loop(), self._connections.writer

        def write() -> _Answer:
            answer = work(store)
            self._forget(store)
            if self._erased:
                loop.call_soon_threadsafe(self._try_again_later)
            return answer

        return await self._run(self._writer, write)

    async def _read(self, work: _Work[_Answer]) -> _Answer:
        """What waits while a thread reads goes together, some to each turn."""
        if self._closed:
            raise Unavailable("The directory is closed.")
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._reads.append(_Read(work, future))
        self._start_reading()
        try:
            return await future
        except sqlite3.DatabaseError as error:
            raise _cause(error) from error

    def _start_reading(self) -> None:
        while self._reads and len(self._turns) < READERS:
            now = time.monotonic()
            wait_s = max(self._turns.values(), default=-math.inf) + _LONG_S - now
            if wait_s > 0:
                if self._reminder is None:
                    loop = asyncio.get_running_loop()
                    self._reminder = loop.call_later(wait_s, self._remind)
                return
            batch = [self._reads.popleft() for _ in range(min(len(self._reads), _READ_TOGETHER))]

            def run(store: sqlite3.Connection, batch: Sequence[_Read] = batch) -> None:
                for read in batch:
                    read.run(store)

            turn = asyncio.wrap_future(self._readers.submit(_with_one_of, self._idle, run))
            self._turns[turn] = now
            turn.add_done_callback(partial(self._have_read, batch))

    def _remind(self) -> None:
        self._reminder = None
        self._start_reading()

    def _have_read(self, batch: Sequence[_Read], turn: "asyncio.Future[None]") -> None:
        del self._turns[turn]
        for read in batch:
            read.tell()
        self._start_reading()

    async def _browse(self, work: _Work[_Answer]) -> _Answer:
        """As `_read`, for what may take long: it must not keep predictions waiting."""
        return await self._run(self._browsers, partial(_with_one_of, self._browsing, work))

    async def _run(self, executor: ThreadPoolExecutor, work: Callable[[], _Answer]) -> _Answer:
        if self._closed:
            raise Unavailable("The directory is closed.")
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, work)
        except sqlite3.DatabaseError as error:
            raise _cause(error) from error


def _with_one_of(
    connections: "queue.SimpleQueue[sqlite3.Connection]", work: _Work[_Answer]
) -> _Answer:
    connection = connections.get()
    try:
        return work(connection)
    finally:
        connections.put(connection)


def _is_store_away(error: Exception) -> bool:
    """Locked, full, I/O error; and a file found damaged, which has no class of its own."""
    return type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError)


def _cause(error: Exception) -> Exception:
    """What a failure of the store means to callers."""
    if _is_store_away(error):
        return Unavailable(f"The directory cannot be used now ({error}).")
    return error


def _microseconds(time_s: float | None) -> int | None:
    return None if time_s is None else microseconds(time_s)
