"""One writer at a time, and files that are either old or new."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shopcast_repository.errors import PublishError

_LOCK = ".publish.lock"


@contextmanager
def sole_writer(repository: Path) -> Iterator[None]:
    """Hold the repository's lock, which a kill lets go of. Raises PublishError when another process
    has it, OSError when there is no writing there."""
    descriptor = os.open(repository / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PublishError(
                f"another process is writing to {repository}: wait for it and run this again"
            ) from None
        yield


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in place in one step: whoever reads it finds the old content or the new."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # of a kill; a link would be written through
    partial.write_bytes(content)
    flush(partial)
    partial.replace(path)
    flush(path.parent)


def flush_tree(folder: Path) -> None:
    """Flush a folder and all in it to disk."""
    for path in (*folder.rglob("*"), folder):
        flush(path)


def flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
