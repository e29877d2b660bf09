"""The embedded directory: one SQLite file, nothing to install or run."""

import asyncio
import queue
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from shopcast_domain.events import Account, Event, Item
from shopcast_gateway.directory import sqlite_people, sqlite_reading, sqlite_recording
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.sqlite_connection import (
    Connections,
    open_store,
    select_in,
    transaction,
)
from shopcast_gateway.directory.types import (
    LinkKind,
    LinkResult,
    Person,
    Reading,
    RecordResult,
    Vector,
)
from shopcast_gateway.errors import Unavailable

READERS = 4

_Answer = TypeVar("_Answer")
_Work = Callable[[sqlite3.Connection], _Answer]


class SqliteDirectory:
    """A Directory in one file. One thread writes, a few read; the event loop never waits for disk.

    What a call has written is on disk (fsync) when it returns. Several processes may open one file.
    """

    def __init__(self, pseudonyms: Pseudonyms, connections: Connections) -> None:
        self._pseudonyms = pseudonyms
        self._connections = connections
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        for connection in connections.readers:
            self._idle.put(connection)
        self._writer = ThreadPoolExecutor(1, "directory-writer")
        self._readers = ThreadPoolExecutor(len(connections.readers), "directory-reader")
        self._closed = False

    @classmethod
    async def open(cls, path: Path, pseudonyms: Pseudonyms) -> Self:
        """Open the file, making it if missing; its integrity is checked, which reads it all.

        Raises StartupError when the file cannot be used, and says why.
        """
        opening = partial(open_store, path, pseudonyms.fingerprints()[0], readers=READERS)
        with ThreadPoolExecutor(1, "directory-open") as executor:
            connections = await asyncio.get_running_loop().run_in_executor(executor, opening)
        return cls(pseudonyms, connections)

    async def record(self, events: Sequence[Event]) -> RecordResult:
        """Keep events, all or none. Batches of thousands are what makes an import fast."""
        return await self._write(
            lambda store: sqlite_recording.record(store, self._pseudonyms, events)
        )

    async def link(
        self, account: Account, other: Account, *, kind: LinkKind, confidence: float
    ) -> LinkResult:
        """Make two accounts one person's; the id of the person created first stays."""
        return await self._write(
            lambda store: sqlite_people.link(
                store, self._pseudonyms, account, other, kind, confidence
            )
        )

    async def resolve(self, account: Account) -> Person | None:
        """The person behind an account, or None when the account has never been seen."""
        return await self._read(
            lambda store: sqlite_people.resolve(store, self._pseudonyms, account)
        )

    async def read(
        self, account: Account, items: Sequence[Item], *, before_s: float, limit: int
    ) -> Reading:
        """Window and candidates of one moment; events of equal time come in a fixed order."""
        before_us = sqlite_recording.microseconds(before_s)
        return await self._read(
            lambda store: sqlite_reading.read(
                store, self._pseudonyms, account, items, before_us, limit
            )
        )

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
        await asyncio.get_running_loop().run_in_executor(self._writer, self._let_go)
        self._writer.shutdown()

    def _let_go(self) -> None:
        self._readers.shutdown()
        self._connections.close()

    async def _write(self, work: _Work[_Answer]) -> _Answer:
        return await self._run(self._writer, partial(work, self._connections.writer))

    async def _read(self, work: _Work[_Answer]) -> _Answer:
        def with_connection() -> _Answer:
            connection = self._idle.get()
            try:
                return work(connection)
            finally:
                self._idle.put(connection)

        return await self._run(self._readers, with_connection)

    async def _run(self, executor: ThreadPoolExecutor, work: Callable[[], _Answer]) -> _Answer:
        if self._closed:
            raise Unavailable("The directory is closed.")
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, work)
        except sqlite3.DatabaseError as error:
            # Locked, full, I/O error; and a file found damaged, which has no class of its own.
            if type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError):
                raise Unavailable(f"The directory cannot be used now ({error}).") from error
            raise
