"""What is logged to stderr, and how."""

import logging
from dataclasses import dataclass
from typing import Literal

from shopcast_gateway.transport.audit import LOGGER
from shopcast_gateway.transport.json_logs import JsonFormatter

LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Logs:
    """level: one of LEVELS. form: of the lines; json is one object a line."""

    level: str = "info"
    form: Literal["text", "json"] = "text"

    def set_up(self, worker: int | None = None) -> None:
        """Log from now on. worker: which of several processes this is; every line tells."""
        handler = logging.StreamHandler()
        told = "" if worker is None else f" worker={worker}"
        text = logging.Formatter(f"%(asctime)s %(levelname)s %(name)s{told} %(message)s")
        handler.setFormatter(JsonFormatter(worker) if self.form == "json" else text)
        logging.basicConfig(level=self.level.upper(), handlers=[handler], force=True)
        logging.getLogger(LOGGER).setLevel(logging.INFO)  # an audit has no gaps, whatever the level
