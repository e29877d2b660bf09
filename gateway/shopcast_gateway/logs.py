"""What is logged to stderr, and how."""

import contextvars
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from shopcast_gateway.transport.audit import LOGGER
from shopcast_gateway.transport.json_logs import JsonFormatter

LEVELS = ("debug", "info", "warning", "error")
LINES, AUDIT_LINES = 10_000, 100_000
"""How many lines wait at most for a reader that stands still: some megabytes; and with those of the
audit, which have room when others have none any more."""
_FLUSH_S = 1.0
_PAUSE_S = 0.02  # between writes: each takes the interpreter from the event loop
_AGAIN_S = 0.1  # before writing again what could not be written: a disk that is full has room again


@dataclass(frozen=True, slots=True)
class Logs:
    """level: one of LEVELS. form: of the lines; json is one object a line."""

    level: str = "info"
    form: Literal["text", "json"] = "text"

    def set_up(self, worker: int | None = None) -> None:
        """Log from now on. worker: which of several processes this is; every line tells."""
        handler = _handler()
        told = "" if worker is None else f" worker={worker}"
        text = logging.Formatter(f"%(asctime)s %(levelname)s %(name)s{told} %(message)s")
        handler.setFormatter(JsonFormatter(worker) if self.form == "json" else text)
        logging.basicConfig(level=self.level.upper(), handlers=[handler], force=True)
        logging.getLogger(LOGGER).setLevel(logging.INFO)  # an audit has no gaps, whatever the level


def flush() -> None:
    """Wait a second at most until all lines so far have been written."""
    for handler in logging.root.handlers:
        handler.flush()


class LineWriter(logging.Handler):
    """Lines are written by a thread of its own: who logs waits for nobody who reads. Those that
    nobody reads wait, up to a bound; what is more is dropped, and a line says how many once there
    is room again."""

    def __init__(self, file: int) -> None:
        """file: descriptor to write to; it stays open."""
        super().__init__()
        self._file = file
        self._lines: deque[bytes] = deque()  # those that have not been written
        self._news = threading.Event()
        self._full = self._closed = False
        self._dropped = self._dropped_of_audit = 0
        threading.Thread(target=self._keep_writing, name="log-writer", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Have a line written. It is formatted now, in the context of the call it tells of."""
        audit = record.name == LOGGER
        # Full until half has been read, so that a slow reader gets lines, not counts of them.
        self._full = len(self._lines) >= (LINES // 2 if self._full else LINES)
        if len(self._lines) >= AUDIT_LINES if audit else self._full:
            self._dropped += 1
            self._dropped_of_audit += audit
            return
        try:
            line = self._line(record)
        except Exception:
            self.handleError(record)
            return
        if not self._full:
            self._tell_dropped()
        self._put(line)

    def flush(self) -> None:
        """Wait until all has been written; not for long, as there may be nobody who reads."""
        self.acquire()
        try:
            self._tell_dropped()
        finally:
            self.release()
        until_s = time.monotonic() + _FLUSH_S
        while self._lines and time.monotonic() < until_s:
            time.sleep(0.005)

    def close(self) -> None:
        """End the thread once it has written what waits."""
        self._closed = True
        self._news.set()
        super().close()

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _put(self, line: bytes) -> None:
        self._lines.append(line)
        if not self._news.is_set():
            self._news.set()

    def _tell_dropped(self) -> None:
        if not self._dropped:
            return
        told = {
            "name": __name__,
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": "%d log lines were dropped, %d of them of the audit: nobody read them",
            "args": (self._dropped, self._dropped_of_audit),
        }
        self._dropped = self._dropped_of_audit = 0
        # Not in the context of whichever call logs next.
        self._put(contextvars.Context().run(self._line, logging.makeLogRecord(told)))

    def _keep_writing(self) -> None:
        while not self._closed or self._lines:
            self._news.wait()
            self._news.clear()
            while self._lines:
                self._write()
            time.sleep(_PAUSE_S)

    def _write(self) -> None:
        """Write some lines: no more than one write may have in a pipe that processes share."""
        count, size = 1, len(self._lines[0])
        while count < len(self._lines):
            size += len(self._lines[count])
            if size > select.PIPE_BUF:
                break
            count += 1
        rest = b"".join(self._lines[place] for place in range(count))
        while rest:
            try:
                rest = rest[os.write(self._file, rest) :]
            except OSError:
                time.sleep(_AGAIN_S)
        for _ in range(count):
            self._lines.popleft()


def _handler() -> logging.Handler:
    if sys.__stderr__ is None:  # closed from the start; its number may be another file's
        return logging.NullHandler()
    return LineWriter(sys.__stderr__.fileno())
