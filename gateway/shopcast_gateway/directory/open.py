"""Opening a directory where its place says, with the keys its pseudonyms are made with."""

import os
from pathlib import Path

from shopcast_gateway.directory.places import in_redis
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.directory.pseudonym import (
    KEY_VARIABLE,
    Pseudonyms,
    keys_from,
    load_or_create_keys,
)
from shopcast_gateway.directory.sqlite import SqliteDirectory
from shopcast_gateway.directory.sqlite_connection import BUSY_S
from shopcast_gateway.directory.types import FLOODS, FloodRules
from shopcast_gateway.errors import StartupError

_SQLITE = b"SQLite format 3\0"


def key_file(place: str | Path) -> Path | None:
    """Where the keys of a directory lie if nobody says otherwise; None for one in Redis."""
    return None if in_redis(place) else Path(place).with_name(Path(place).name + ".key")


async def open_directory(
    place: str | Path,
    *,
    keys: Path | None = None,
    floods: FloodRules | None = FLOODS,
    busy_s: float = BUSY_S,
) -> Directory:
    """Open or create a directory: in a file, or in Redis where the place is a URL.

    keys: the file of pseudonym keys. Where it is not given, the keys are those of the environment
    variable SHOPCAST_DIRECTORY_KEY, or lie beside the file as `NAME.key`, mode 0600. busy_s: how
    long a call may wait for the store. Raises StartupError with one sentence.
    """
    if in_redis(place):
        pseudonyms = pseudonyms_for(place, keys)
        try:
            from shopcast_gateway.directory.redis import RedisDirectory
        except ModuleNotFoundError:
            raise StartupError(
                "the directory is in Redis, and its client is not installed: run `pip install"
                " 'shopcast[redis]'`"
            ) from None
        return await RedisDirectory.open(str(place), pseudonyms, floods=floods, timeout_s=busy_s)
    path = Path(place)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(
            f"{path.parent} cannot be made ({error.strerror}): choose another --directory"
        ) from None
    pseudonyms = pseudonyms_for(path, keys)
    return await SqliteDirectory.open(path, pseudonyms, floods=floods, busy_s=busy_s)


def pseudonyms_for(place: str | Path, keys: Path | None = None) -> Pseudonyms:
    """The pseudonyms of a directory, whose keys are made where there are none yet. Raises
    StartupError."""
    if keys is not None:
        return Pseudonyms(*load_or_create_keys(keys))
    if given := os.environ.get(KEY_VARIABLE):
        return Pseudonyms(*keys_from(given))
    beside = key_file(place)
    if beside is None:
        raise StartupError(
            f"a directory in Redis needs a key: name its file with --directory-key, or set"
            f" {KEY_VARIABLE}"
        )
    if _is_sqlite(Path(place)) and not beside.exists():
        raise StartupError(
            f"{place} is there, and its key {beside} is not: restore both from one backup, or name"
            " another file with --directory"
        )
    return Pseudonyms(*load_or_create_keys(beside))


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False
