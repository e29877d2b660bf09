"""Logs for machines: one JSON object a line."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from shopcast_gateway.frames import frames_of
from shopcast_gateway.transport.interceptor import CALL


class JsonFormatter(logging.Formatter):
    """time (RFC 3339, UTC), level, logger and message; worker where there are several; request_id
    and method inside a call; exception (types and frames) where there is one. ASCII only, so that
    every line is a line."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """The object, without a newline."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._worker is not None:
            told["worker"] = self._worker
        # A handler formats where the record was made, in the context of its call.
        if (call := CALL.get(None)) is not None:
            told |= {"request_id": call.request_id, "method": call.method}
        if record.exc_info and record.exc_info[1] is not None:
            told["exception"] = frames_of(record.exc_info[1])
        return json.dumps(told)
