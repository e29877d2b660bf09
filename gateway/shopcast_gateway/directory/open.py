"""Opening the embedded directory, with the key its pseudonyms are made with."""

from pathlib import Path

from shopcast_gateway.directory.pseudonym import Pseudonyms, load_or_create_key
from shopcast_gateway.directory.sqlite import SqliteDirectory
from shopcast_gateway.errors import StartupError


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
    key = load_or_create_key(path.with_name(path.name + ".key"))
    return await SqliteDirectory.open(path, Pseudonyms(key))
