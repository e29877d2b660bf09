"""Opening a directory where its place says, with the keys its pseudonyms are made with."""

import os
from pathlib import Path

from shopcast_gateway.directory.places import in_redis, shown
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
    """Where the keys of a directory lie if nobody says otherwise; None for one in Redis. Raises
    StartupError."""
    if in_redis(place):
        return None
    path = Path(place)
    if path.is_dir():
        raise StartupError(f"{path} is a folder: name a file with --directory")
    return path.with_name(path.name + ".key")


def keys_given() -> str | None:
    """The keys that the environment holds, for directories whose key file nobody names."""
    return os.environ.get(KEY_VARIABLE) or None


async def open_directory(
    place: str | Path,
    *,
    keys: Path | None = None,
    make: bool = True,
    floods: FloodRules | None = FLOODS,
    busy_s: float = BUSY_S,
    checked: bool = False,
) -> Directory:
    """Open a directory: in a file, or in Redis where the place is a URL.

    keys: the file of pseudonym keys. Where it is not given, the keys are those of the environment
    variable SHOPCAST_DIRECTORY_KEY, or lie beside the file as `NAME.key`, mode 0600. make: the
    directory and its keys, where they are not there. busy_s: how long a call may wait for the
    store. checked: another process of this gateway has just opened it, so that a file need not be
    read from end to end. Raises StartupError with one sentence.
    """
    if in_redis(place):
        pseudonyms = pseudonyms_for(place, keys, make=make)
        try:
            from shopcast_gateway.directory.redis import RedisDirectory
        except ModuleNotFoundError:
            raise StartupError(
                "the directory is in Redis, and its client is not installed: run `pip install"
                " 'shopcast[redis]'`"
            ) from None
        return await RedisDirectory.open(
            str(place), pseudonyms, make=make, floods=floods, timeout_s=busy_s
        )
    path = Path(place)
    if not make:
        _must_be_there(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(
            f"{path.parent} cannot be made ({error.strerror}): choose another --directory"
        ) from None
    pseudonyms = pseudonyms_for(path, keys, make=make)
    return await SqliteDirectory.open(
        path, pseudonyms, floods=floods, busy_s=busy_s, checked=checked
    )


def _must_be_there(path: Path) -> None:
    if not path.exists():
        raise StartupError(f"{path} is not there: name another with --directory")


def pseudonyms_for(place: str | Path, keys: Path | None = None, *, make: bool = True) -> Pseudonyms:
    """The pseudonyms of a directory. make: keys, where there are neither any nor a directory.
    Raises StartupError."""
    if keys is None and (given := keys_given()):
        return Pseudonyms(*keys_from(given))
    held = keys or key_file(place)
    if held is None:
        raise StartupError(
            f"a directory in Redis needs a key: name its file with --directory-key, or set"
            f" {KEY_VARIABLE}"
        )
    if not held.exists() and (not make or _is_sqlite(place)):
        raise StartupError(
            f"the key of {shown(place)} is not at {held}: restore both from one backup, or name"
            " others with --directory and --directory-key"
        )
    return Pseudonyms(*load_or_create_keys(held))


def _is_sqlite(place: str | Path) -> bool:
    try:
        with Path(place).open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False
