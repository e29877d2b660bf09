"""A process that is told to leave ends, whatever hangs."""

import asyncio
import logging
import signal
import threading
from collections.abc import Iterator

import pytest

from shopcast_gateway import drain
from shopcast_gateway.drain import Drain, Leaving


class Stuck(logging.Handler):
    """Nobody reads what it writes."""

    def __init__(self) -> None:
        super().__init__()
        self.read = threading.Event()

    def createLock(self) -> None:  # noqa: N802 - the name is theirs
        """None: only who writes that line is held up, not who logs something else meanwhile."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        if "not over" in record.getMessage():
            self.read.wait()


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    handler, logger = Stuck(), logging.getLogger(drain.__name__)
    monkeypatch.setattr(drain, "_SAYING_S", 0.1)
    logger.addHandler(handler)
    yield
    handler.read.set()
    logger.removeHandler(handler)


@pytest.mark.usefixtures("stuck")
async def test_who_cannot_say_that_it_hangs_ends_all_the_same() -> None:
    async def hang() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if over.is_set():
                    raise

    over = threading.Event()
    gateway = asyncio.create_task(hang())
    leaving = Leaving(gateway, Drain(0.0, 0.0, 0.0), end=over.set)
    leaving.signalled(signal.SIGTERM)
    assert await asyncio.to_thread(over.wait, 30.0)
    gateway.cancel()
    await asyncio.gather(gateway, return_exceptions=True)
