"""Opening the embedded directory, with the key its pseudonyms are made with."""

from pathlib import Path

from shopcast_gateway.directory.pseudonym import Pseudonyms, load_or_create_keys
from shopcast_gateway.directory.sqlite import SqliteDirectory
from shopcast_gateway.errors import StartupError

_SQLITE = b"SQLite format 3\0"


async def open_directory(path: Path) -> SqliteDirectory:
    """Open or create a directory file; its key lies beside it as `NAME.key`, mode 0600.

    Raises StartupError with one sentence.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(
            f"{path.parent} cannot be made ({error.strerror}): choose another --directory"
        ) from None
    key_file = path.with_name(path.name + ".key")
    if _is_sqlite(path) and not key_file.exists():
        raise StartupError(
            f"{path} is there, and its key {key_file} is not: restore both from one backup, or name"
            " another file with --directory"
        )
    keys = load_or_create_keys(key_file)
    return await SqliteDirectory.open(path, Pseudonyms(*keys))


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False
