"""Opening the embedded directory, with the key its pseudonyms are made with."""

from pathlib import Path

from shopcast_gateway.directory.pseudonym import Pseudonyms, load_or_create_keys
from shopcast_gateway.directory.sqlite import FLOODS, SqliteDirectory
from shopcast_gateway.directory.sqlite_connection import BUSY_S
from shopcast_gateway.directory.types import FloodRules
from shopcast_gateway.errors import StartupError

_SQLITE = b"SQLite format 3\0"


def key_file(path: Path) -> Path:
    """Where the keys of a directory file lie."""
    return path.with_name(path.name + ".key")


async def open_directory(
    path: Path, *, floods: FloodRules | None = FLOODS, busy_s: float = BUSY_S
) -> SqliteDirectory:
    """Open or create a directory file; its key lies beside it as `NAME.key`, mode 0600.

    Raises StartupError with one sentence.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(
            f"{path.parent} cannot be made ({error.strerror}): choose another --directory"
        ) from None
    keys_at = key_file(path)
    if _is_sqlite(path) and not keys_at.exists():
        raise StartupError(
            f"{path} is there, and its key {keys_at} is not: restore both from one backup, or name"
            " another file with --directory"
        )
    keys = load_or_create_keys(keys_at)
    return await SqliteDirectory.open(path, Pseudonyms(*keys), floods=floods, busy_s=busy_s)


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False
