"""One writer at a time, and files that are either old or new.

Two locks, because a publication takes minutes and going back to the version before must not wait
for it: `sole_writer` is held by whoever prepares or removes a version, `deciding` for the moment in
which what serves, or which versions stand, changes. Who holds both took `sole_writer` first.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from shopcast_repository.errors import PublishError

_WRITING, _DECIDING = ".publish.lock", ".serving.lock"
_DECIDING_WAIT_S = 10.0
_POLL_S = 0.05


@contextmanager
def sole_writer(repository: Path) -> Iterator[None]:
    """Be the one that publishes or prunes. A kill lets go. Raises PublishError when another process
    does, OSError when there is no writing there."""
    with locked(repository / _WRITING, _elsewhere(repository)):
        yield


@contextmanager
def deciding(repository: Path) -> Iterator[None]:
    """Be the one that changes what serves or which versions stand, once whoever does is through.
    Raises as `sole_writer`."""
    with locked(repository / _DECIDING, _elsewhere(repository), wait_s=_DECIDING_WAIT_S):
        yield


def _elsewhere(repository: Path) -> PublishError:
    return PublishError(
        f"another process is writing to {repository}: wait for it and run this again"
    )


@contextmanager
def locked(path: Path, held: Exception, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock that a file is, made where there is none; a kill lets go of it.

    held: raised where another process holds it for longer than `wait_s`. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "r+") as lock:
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise held from None
            time.sleep(_POLL_S)
        yield


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in place in one step: whoever reads it finds the old content or the new."""
    replace_files({path: content})


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Put files in place one by one, each as `replace_file` does. None is touched where one of them
    cannot be written, for want of room or rights."""
    partials = {path: path.with_name(f".{path.name}.partial") for path in contents}
    for path, partial in partials.items():
        partial.unlink(missing_ok=True)  # of a kill; a link would be written through
        partial.write_bytes(contents[path])
        flush(partial)
    for path, partial in partials.items():
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
