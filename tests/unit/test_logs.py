"""Lines of the log whose reader stands still, and comes back; or does not."""

import json
import logging
import os
import threading
from pathlib import Path

import pytest

from shopcast_gateway import logs
from shopcast_gateway.logs import LineWriter
from shopcast_gateway.transport.audit import LOGGER
from shopcast_gateway.transport.interceptor import CALL, Call
from shopcast_gateway.transport.json_logs import JsonFormatter


class Pipe:
    """A log that is written to a pipe; nobody reads it until `read`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logs, "LINES", 10)
        monkeypatch.setattr(logs, "AUDIT_LINES", 30)
        self._read, self._write = os.pipe()
        self.handler = LineWriter(self._write)
        self.lines: list[str] = []
        self._reader: threading.Thread | None = None

    def log(self, text: str, *, of: str = "shopcast_gateway.access") -> None:
        record = {"name": of, "msg": text, "levelno": logging.INFO, "levelname": "INFO"}
        self.handler.handle(logging.makeLogRecord(record))

    def fill(self) -> None:
        """Leave no room in the pipe."""
        os.set_blocking(self._write, False)
        try:
            while os.write(self._write, b"x" * 4096):
                pass
        except BlockingIOError:
            os.set_blocking(self._write, True)

    def read(self) -> None:
        """From now on."""

        def keep() -> None:
            with os.fdopen(self._read) as file:
                self.lines += file.read().lstrip("x").splitlines()

        self._reader = threading.Thread(target=keep)
        self._reader.start()

    def end(self) -> list[str]:
        """All that was written, once it has been."""
        self.handler.flush()
        os.close(self._write)
        assert self._reader is not None
        self._reader.join()
        self.handler.close()
        return self.lines


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Pipe:
    return Pipe(monkeypatch)


def test_lines_are_written_in_their_order(pipe: Pipe) -> None:
    pipe.read()
    texts = [f"line {number} \ud800\u00e9" for number in range(8)]
    for text in texts:
        pipe.log(text)
    assert pipe.end() == [text.replace("\ud800", "\\ud800") for text in texts]


def test_who_logs_does_not_wait_for_who_reads_and_what_was_dropped_is_told(pipe: Pipe) -> None:
    pipe.fill()
    for number in range(25):
        pipe.log(f"line {number}")
    pipe.read()
    pipe.handler.flush()
    pipe.log("it is read again")
    *kept, dropped, again = pipe.end()
    assert kept == [f"line {number}" for number in range(10)]
    assert dropped == "15 log lines were dropped, 0 of them of the audit: nobody read them"
    assert again == "it is read again"


def test_the_audit_has_room_when_others_have_none_any_more(pipe: Pipe) -> None:
    pipe.fill()
    for number in range(40):
        pipe.log(f"call {number}")
        pipe.log(f"audit {number}", of=LOGGER)
    pipe.read()
    *kept, dropped = pipe.end()
    assert [line for line in kept if "audit" in line] == [f"audit {n}" for n in range(25)]
    assert dropped == "50 log lines were dropped, 15 of them of the audit: nobody read them"


def test_what_was_dropped_is_told_of_no_call(pipe: Pipe) -> None:
    pipe.handler.setFormatter(JsonFormatter())
    pipe.fill()
    call = CALL.set(Call("/shopcast.v1.EventService/RecordEvents", "r-1", 0.0))
    for number in range(11):
        pipe.log(f"line {number}")
    pipe.read()
    pipe.handler.flush()
    pipe.log("again")
    *kept, dropped, _ = map(json.loads, pipe.end())
    CALL.reset(call)
    assert {line["request_id"] for line in kept} == {"r-1"}
    assert dropped["message"].startswith("1 log lines were dropped")
    assert dropped["level"] == "warning"
    assert "request_id" not in dropped


def test_what_cannot_be_written_now_is_written_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, write = [True, True], os.write

    def writes(file: int, data: bytes) -> int:
        if full:
            full.pop()
            raise OSError(28, "No space left on device")
        return write(file, data[:3])  # a part

    monkeypatch.setattr(os, "write", writes)
    with (tmp_path / "log").open("wb") as file:
        handler = LineWriter(file.fileno())
        handler.handle(logging.makeLogRecord({"msg": "the first line"}))
        handler.flush()
        handler.close()
    assert (tmp_path / "log").read_text() == "the first line\n"
