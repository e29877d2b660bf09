"""The directory file and its key, looked at without opening them for writing."""

import asyncio
import os
import sqlite3
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path

from shopcast_gateway.directory.open import key_file, keys_given, pseudonyms_for
from shopcast_gateway.directory.places import in_redis
from shopcast_gateway.directory.sqlite_connection import BUSY_S, number_of
from shopcast_gateway.directory.sqlite_schema import APPLICATION_ID, VERSION
from shopcast_gateway.doctor.finding import (
    Answer,
    Installation,
    Skip,
    failed,
    nearest_folder,
    ok,
    parts,
)
from shopcast_gateway.errors import StartupError, Unavailable

_REDIS_S = 5.0
_BACKUP = "restore it from a backup, or name another file with --directory"


def directory(installation: Installation) -> list[Answer]:
    """Whether the gateway could open the directory, or make it."""
    try:
        if in_redis(installation.directory):
            return _in_redis(str(installation.directory), installation.directory_key)
    except StartupError as error:
        return [failed(*parts(error, "name another place with --directory"))]
    path = Path(installation.directory)
    folder = nearest_folder(path.parent)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return [
            failed(
                f"{folder} is no folder that this user may write to",
                "give rights there, or choose another --directory",
            )
        ]
    if path.exists() and not (path.is_file() and os.access(path, os.R_OK | os.W_OK)):
        return [
            failed(
                f"{path} is no file that this user may read and write",
                "give rights on it, or choose another --directory",
            )
        ]
    filled = path.exists() and path.stat().st_size > 0
    key_path = installation.directory_key or (None if keys_given() else key_file(path))
    if key_path is not None and not key_path.exists():
        if filled:
            return [failed(f"{key_path} is missing, without which {path} is useless", _BACKUP)]
        return [ok(f"{path} is not there yet, `platform serve` makes it and its key")]
    try:
        fingerprints = pseudonyms_for(path, installation.directory_key).fingerprints()
    except StartupError as error:
        return [failed(*parts(error, "restore it from a backup"))]
    if not filled:
        return [ok(f"{path} is not there yet, `platform serve` makes it")]
    return [_content(path, fingerprints)]


def _in_redis(url: str, keys: Path | None) -> list[Answer]:
    """As RedisDirectory.open checks it, without making a directory or a key."""
    missing = keys is not None and not keys.exists()
    try:
        fingerprints = () if missing else pseudonyms_for(url, keys).fingerprints()
    except StartupError as error:
        return [failed(*parts(error, "name another place with --directory"))]
    return asyncio.run(_redis_content(url, fingerprints))


async def _redis_content(url: str, fingerprints: Collection[bytes]) -> list[Answer]:
    try:
        from shopcast_gateway.directory.redis import NAME, VERSION
        from shopcast_gateway.directory.redis_store import RedisStore
    except ModuleNotFoundError:
        return [failed("the client of Redis is not installed", "pip install 'shopcast[redis]'")]
    try:
        store = await RedisStore.connect(url, NAME, timeout_s=_REDIS_S)
    except StartupError as error:
        return [failed(*parts(error, "name another place with --directory"))]
    try:
        fields = [b"version", b"keys", *(b"key:" + one for one in fingerprints)]
        ((version, count, *known),) = await store.pipeline([("HMGET", store.key("meta"), *fields)])
    except Unavailable as error:
        return [failed(f"{store.place} does not answer ({error})", "see that Redis runs there")]
    finally:
        await store.close()
    if version is None:
        return [ok(f"{store.place} holds no directory yet, `platform serve` makes it")]
    if int(version) != VERSION:
        return [
            failed(
                f"the directory at {store.place} has schema {int(version)} and this version of"
                f" shopcast reads {VERSION}",
                "upgrade shopcast here" if int(version) > VERSION else "import into a new one",
            )
        ]
    if sum(one is not None for one in known) < int(count):
        return [
            failed(
                f"the directory at {store.place} was written under a key that is not given",
                "give all keys it was written with",
            )
        ]
    if known and known[0] not in (None, count):
        return [
            failed(
                f"the directory at {store.place} was last written under a key that is not the first"
                " of those given",
                "put the newest key first",
            )
        ]
    return [ok(f"the directory at {store.place} answers, and its keys fit")]


def _content(path: Path, fingerprints: Sequence[bytes]) -> Answer:
    """As sqlite_connection.open_store checks it, without making a table or a file."""
    try:
        with closing(_connect(path)) as connection:
            application = number_of(connection, "PRAGMA application_id")
            version = number_of(connection, "PRAGMA user_version")
            if application != APPLICATION_ID:
                return failed(
                    f"{path} is another application's database", "name another with --directory"
                )
            if version != VERSION:
                return failed(
                    f"{path} has schema {version} and this version of shopcast reads {VERSION}",
                    "upgrade shopcast here"
                    if version > VERSION
                    else "name a new file and import the events into it",
                )
            if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                return failed(f"{path} is damaged or no directory file", _BACKUP)
            rows = connection.execute("SELECT fingerprint FROM pseudonym_keys ORDER BY id")
            kept = [one for (one,) in rows]
            if not set(kept) <= set(fingerprints):
                return failed(
                    f"{path} was written under another key than the one beside it",
                    "restore the key it was made with, or name another file with --directory",
                )
            if fingerprints[0] in kept[:-1]:
                return failed(
                    f"{path} was last written under a key that is not the first of those given",
                    "put the newest key first",
                )
    except sqlite3.OperationalError as error:
        return failed(
            f"{path} cannot be read now ({error})",
            "see that no other program holds it, and that the disk is well",
        )
    except sqlite3.DatabaseError:
        return failed(f"{path} is damaged or no directory file", _BACKUP)
    return ok(f"{path} is whole, and its key fits")


def _connect(path: Path) -> sqlite3.Connection:
    """Read-only, and so that SQLite puts no files beside it, as it does even for mere readers.

    Where there is no write-ahead log nobody has the file open, and it may be taken as unchanging.
    Raises Skip.
    """
    log, index = (path.with_name(path.name + end) for end in ("-wal", "-shm"))
    mode = "mode=ro" if log.exists() else "mode=ro&immutable=1"
    if log.exists() and not index.exists():
        raise Skip(f"{log} holds what {path.name} lacks: `platform serve` puts it in and checks")
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=BUSY_S)
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection
