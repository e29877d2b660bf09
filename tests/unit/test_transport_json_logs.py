"""Logs as JSON: one line each, whatever is in it, and never the text of an exception."""

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from shopcast_gateway.transport.interceptor import CALL, Call
from shopcast_gateway.transport.json_logs import JsonFormatter


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("shopcast_gateway.tried")
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield logger
    logger.removeHandler(handler)
    logger.propagate = True


def lines(log: logging.Logger) -> list[str]:
    handler = log.handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    return handler.stream.getvalue().splitlines()  # type: ignore[no-any-return]


def test_a_line_is_an_object(log: logging.Logger) -> None:
    log.warning("answering without history: %s", "away")
    (line,) = lines(log)
    told = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told.pop("time"))
    assert told == {
        "level": "warning",
        "logger": "shopcast_gateway.tried",
        "message": "answering without history: away",
    }


@pytest.mark.parametrize(
    "text", ["a\nb", "a\r\n\u2028b\u0085c", '"},{"level":"error', "\\ud800", "\\0"]
)
def test_no_text_makes_two_lines_or_none(text: str) -> None:
    text = text.replace("\\ud800", "\ud800").replace("\\0", "\0")  # no names for a test
    line = JsonFormatter().format(logging.makeLogRecord({"msg": "%s", "args": (text,)}))
    assert line.splitlines() == [line]
    assert line.isascii()
    assert json.loads(line)["message"] == text


async def test_a_line_names_the_call_it_belongs_to(log: logging.Logger) -> None:
    async def call(number: int) -> None:
        CALL.set(Call("/shopcast.v1.EventService/RecordEvents", f"r-{number}", 0.0))
        await asyncio.sleep(0)
        await asyncio.to_thread(log.info, "call %d", number)

    await asyncio.gather(*(asyncio.create_task(call(number)) for number in range(3)))
    log.info("none")
    *inside, outside = map(json.loads, lines(log))
    assert {(one["message"], one["request_id"]) for one in inside} == {
        (f"call {number}", f"r-{number}") for number in range(3)
    }
    assert {one["method"] for one in inside} == {"/shopcast.v1.EventService/RecordEvents"}
    assert "request_id" not in outside


def test_an_exception_is_types_and_frames(log: logging.Logger) -> None:
    try:
        try:
            raise KeyError("anna@example.com")
        except KeyError as cause:
            raise ValueError("red shoe of anna@example.com") from cause
    except ValueError:
        log.exception("something went wrong")
    (line,) = lines(log)
    told = json.loads(line)
    assert told["message"] == "something went wrong"
    assert told["exception"].startswith("ValueError at\n")
    assert "from KeyError at\n" in told["exception"]
    assert "test_an_exception_is_types_and_frames" in told["exception"]
    frames = re.sub(r"(?m)^    .*\n", "", told["exception"])  # a frame quotes its source
    assert "anna" not in frames
