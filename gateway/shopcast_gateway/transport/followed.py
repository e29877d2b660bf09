"""A file that is read again when it changes; what cannot be used leaves the one before in force."""

import logging
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from shopcast_gateway.errors import StartupError

_LOOK_S = 1.0

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Followed(Generic[T]):
    """What a file holds. `parse` gets its bytes and raises ValueError, which says what to do."""

    def __init__(
        self,
        path: Path,
        parse: Callable[[bytes], T],
        *,
        clock: Callable[[], float] = time.monotonic,
        before: Mapping[Path, bytes] | None = None,
    ) -> None:
        """Reads the file. before: what files held that another process could use, for one that
        cannot be used now. Raises StartupError."""
        self._path, self._parse, self._clock = path, parse, clock
        self._complaint = ""
        self._looked_s = clock()
        self._mark: tuple[int, ...] = ()
        try:
            try:
                mark = _mark(path)
                self._held = self._read()
                self._mark = mark
            except ValueError as error:
                if before is None or path not in before:
                    raise
                self._complain(error)
                self._held = self._take(before[path])
        except ValueError as error:
            raise StartupError(str(error)) from None

    @property
    def data(self) -> bytes:
        """The bytes of what is in force."""
        return self._data

    def held(self) -> T:
        """What the file holds, as of a second ago at most."""
        now_s = self._clock()
        if now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            self._look()
        return self._held

    def _look(self) -> None:
        try:
            mark = _mark(self._path)
            if mark == self._mark:
                return
            self._held = self._read()
        except ValueError as error:
            self._complain(error)
            return
        self._mark, self._complaint = mark, ""
        _log.info("%s was read again", self._path)

    def _complain(self, error: ValueError) -> None:
        if str(error) != self._complaint:  # said once, not once a second
            self._complaint = str(error)
            _log.error("what was read before stays in force: %s", error)

    def _read(self) -> T:
        try:
            data = self._path.read_bytes()
            open_to_all = self._path.stat().st_mode & stat.S_IWOTH
        except OSError as error:
            raise ValueError(_unreadable(self._path, error)) from None
        if open_to_all:
            _log.warning("any user of this machine can change %s: chmod o-w it", self._path)
        return self._take(data)

    def _take(self, data: bytes) -> T:
        try:
            held = self._parse(data)
        except ValueError as error:
            raise ValueError(f"{self._path}: {error}") from None
        self._data = data
        return held


def _mark(path: Path) -> tuple[int, ...]:
    """By which a change is seen. Raises ValueError."""
    try:
        status = path.stat()
    except OSError as error:
        raise ValueError(_unreadable(path, error)) from None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _unreadable(path: Path, error: OSError) -> str:
    return (
        f"{path} cannot be read ({os.strerror(error.errno or 0)}): name a file that this user may"
        " read"
    )
