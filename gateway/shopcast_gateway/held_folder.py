"""Temporary folders that go with their process; after it was killed, with the next one's start."""

import errno
import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from shopcast_gateway.errors import StartupError

_HELD = ".held"


class HeldFolder:
    """A folder of this process, which it has locked: a number of a process says nothing where
    containers share a folder, or a new one has the numbers of the last."""

    def __init__(self, kind: str) -> None:
        """kind: a word for its name. Raises StartupError."""
        try:
            # Its user's alone.
            made = Path(tempfile.mkdtemp(prefix=f"shopcast-{kind}-{os.getpid()}-"))
        except OSError as error:
            raise no_room("A temporary folder cannot be made", error) from None
        try:
            self._lock: int | None = os.open(made, os.O_RDONLY)
        except OSError as error:
            made.rmdir()
            raise no_room("A temporary folder cannot be made", error) from None
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.path = made.rename(made.with_name(made.name + _HELD))  # from now on `sweep` looks

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove it, with what is in it; once more is fine."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


def sweep() -> None:
    """Remove the folders of this user that no process holds any more."""
    try:
        found = list(Path(tempfile.gettempdir()).glob(f"shopcast-*{_HELD}"))
    except OSError:  # who needs a folder says why there is none
        return
    for path in found:
        with suppress(OSError):  # it is held, or has just gone
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(folder).st_uid == os.geteuid():
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(folder)


def no_room(what: str, error: OSError) -> StartupError:
    """Of what could not be made in the temporary folder."""
    remedy = "make room in the temporary folder, or set TMPDIR to one that has some"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        remedy = "let the gateway open more files, as with `ulimit -n 4096`"
    return StartupError(f"{what} ({error.strerror}): {remedy}")
