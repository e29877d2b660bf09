"""Opening the embedded directory's file, and the few shapes its statements come in."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shopcast_gateway.directory.pseudonym import out_of_order
from shopcast_gateway.directory.sqlite_schema import APPLICATION_ID, SCHEMA, VERSION
from shopcast_gateway.errors import StartupError

BUSY_S = 1.5
"""How long to wait for another process that is writing: less than callers usually have."""
_CHUNK = 512  # values per IN list; SQLite takes 32,766


class Store(sqlite3.Connection):
    """A connection that knows which file it has open."""

    def opened(self, path: Path) -> None:
        """To be called at once."""
        self._path, status = path.absolute(), path.stat()
        self._file = status.st_dev, status.st_ino

    def check_in_place(self) -> None:
        """Raises OperationalError where the path leads to the file no more: nobody would find what
        is written."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - once a write
        except OSError:
            in_place = False
        else:
            in_place = (status.st_dev, status.st_ino) == self._file
        if not in_place:
            raise sqlite3.OperationalError(
                "its file was moved, replaced or removed: put it back, or restart the gateway"
            )


@dataclass(frozen=True, slots=True)
class Connections:
    """The one to write with, and those that cannot write."""

    writer: sqlite3.Connection
    readers: tuple[sqlite3.Connection, ...]

    def close(self) -> None:
        """Close all; the writer last, so that it folds the write-ahead log into the file."""
        for connection in (*self.readers, self.writer):
            connection.close()


def open_store(
    path: Path,
    fingerprints: Sequence[bytes],
    *,
    readers: int,
    busy_s: float = BUSY_S,
    checked: bool = False,
) -> Connections:
    """Open the file, which is made if missing and checked if not.

    fingerprints: of the pseudonym keys, the newest first; all keys the file has been written with
    must be among them. checked: the whole of it has just been, by another process. Raises
    StartupError when the file is not a directory this version can use.
    """
    try:
        path.touch(mode=0o600)
        writer = _connect(path, "rw", busy_s)
    except (OSError, sqlite3.Error) as error:
        raise StartupError(
            f"Cannot open the directory file {path} ({_problem(error)}): "
            "name a file in an existing folder that this user may write to."
        ) from error
    try:
        _adopt(writer, path, fingerprints, checked=checked)
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("PRAGMA synchronous = FULL")
        writer.execute("PRAGMA foreign_keys = ON")
        writer.execute(
            "PRAGMA secure_delete = ON"
        )  # whoever is erased is not to be found in the file
        writer.execute("PRAGMA cache_size = -65536")  # 64 MiB
        return Connections(writer, tuple(_connect(path, "ro", busy_s) for _ in range(readers)))
    except sqlite3.OperationalError as error:
        writer.close()
        raise StartupError(
            f"Cannot use the directory file {path} ({error}): see that this user may write to it, "
            "the disk has room and no other program holds it."
        ) from error
    except sqlite3.DatabaseError as error:
        writer.close()
        raise _damaged(path) from error
    except StartupError:
        writer.close()
        raise


def _connect(path: Path, mode: Literal["rw", "ro"], busy_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,  # we say BEGIN ourselves
        check_same_thread=False,  # one thread at a time, but not always the same
        timeout=busy_s,
        factory=Store,
    )
    connection.opened(path)
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _adopt(
    connection: sqlite3.Connection, path: Path, fingerprints: Sequence[bytes], *, checked: bool
) -> None:
    """Make the tables in an empty file; refuse a file that is not ours."""
    if not path.stat().st_size:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    with transaction(connection, "IMMEDIATE"):
        application = number_of(connection, "PRAGMA application_id")
        version = number_of(connection, "PRAGMA user_version")
        if not number_of(connection, "SELECT count(*) FROM sqlite_master") and not application:
            for statement in SCHEMA.split(";\n"):
                connection.execute(statement)
            _use_key(connection, fingerprints[0])
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            return
    if application != APPLICATION_ID:
        raise StartupError(f"{path} is another application's database: name another file.")
    if version > VERSION:
        raise StartupError(
            f"{path} was written by a newer version of Shopcast (schema {version}, this one knows "
            f"{VERSION}): upgrade Shopcast, or name another file."
        )
    if version < VERSION:
        raise StartupError(
            f"{path} was written by an older version of Shopcast (schema {version}, this one reads "
            f"{VERSION}): name a new file and import the events into it."
        )
    if not checked and connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise _damaged(path)
    rows = connection.execute("SELECT fingerprint FROM pseudonym_keys ORDER BY id")
    known = [one for (one,) in rows]
    if not set(known) <= set(fingerprints):
        raise StartupError(
            f"{path} was written under another pseudonym key: "
            "start with the key file it was made with, or name another directory file."
        )
    if fingerprints[0] in known[:-1]:
        raise out_of_order(str(path))
    if fingerprints[0] not in known:
        with transaction(connection, "IMMEDIATE"):
            _use_key(connection, fingerprints[0])


def _use_key(connection: sqlite3.Connection, fingerprint: bytes) -> None:
    connection.execute(
        "INSERT INTO pseudonym_keys (fingerprint) VALUES (?) ON CONFLICT DO NOTHING", (fingerprint,)
    )


def _damaged(path: Path) -> StartupError:
    return StartupError(
        f"{path} is damaged or no directory file: restore it from a backup, or name another file."
    )


def _problem(error: OSError | sqlite3.Error) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


@contextmanager
def transaction(
    connection: sqlite3.Connection, kind: Literal["IMMEDIATE", "DEFERRED"]
) -> Iterator[None]:
    """All or none of what happens inside. DEFERRED: one consistent view for reads. IMMEDIATE: to
    write, which a Store does only where its file still is."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        if kind == "IMMEDIATE" and isinstance(connection, Store):
            connection.check_in_place()
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:  # SQLite itself rolls back on some errors
            connection.execute("ROLLBACK")


def empty_log(connection: sqlite3.Connection) -> bool:
    """Remove the write-ahead log, and with it what was erased from the file; whether that could be
    done now, which it cannot while anybody reads."""
    (patience,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.DatabaseError:
        return False
    finally:
        connection.execute(f"PRAGMA busy_timeout = {patience}")
    return not busy


def microseconds(time_s: float) -> int:
    """Times are kept and compared as whole microseconds."""
    return round(time_s * 1e6)


def number_of(connection: sqlite3.Connection, sql: str) -> int:
    """The one number a statement answers."""
    return int(connection.execute(sql).fetchone()[0])


def select_in(
    connection: sqlite3.Connection, sql: str, values: Sequence[Any], *before: Any
) -> Iterator[tuple[Any, ...]]:
    """The rows of a statement whose last condition is `IN (*)`, for however many values.

    before: what the statement's earlier placeholders stand for.
    """
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        # Rounded up to a power of two, so that a handful of prepared statements serves all sizes.
        width = 1 << (len(chunk) - 1).bit_length()
        marks = ", ".join("?" * width)
        padding = [None] * (width - len(chunk))
        with closing(
            connection.execute(sql.replace("(*)", f"({marks})"), (*before, *chunk, *padding))
        ) as cursor:
            yield from cursor
