"""Temporary folders that go with their process; after it was killed, with the next one's start."""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_HELD = ".held"


class HeldFolder:
    """A folder of this process, which it has locked: a number of a process says nothing where
    containers share a folder, or a new one has the numbers of the last."""

    def __init__(self, kind: str) -> None:
        """kind: a word for its name. Raises OSError."""
        made = Path(tempfile.mkdtemp(prefix=f"shopcast-{kind}-{os.getpid()}-"))  # its user's alone
        self._lock: int | None = os.open(made, os.O_RDONLY)
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
    for path in Path(tempfile.gettempdir()).glob(f"shopcast-*{_HELD}"):
        with suppress(OSError):  # it is held, or has just gone
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(folder).st_uid == os.geteuid():
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(folder)
