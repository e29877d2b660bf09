"""How a gateway leaves: it says so first, then refuses, then finishes, then stops what it owns."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from shopcast_gateway.logs import flush

_SAYING_S = 1.5  # for the last line of a process that hangs

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Drain:
    """wait_s: how long calls are answered after health has turned NOT_SERVING, so that balancers
    notice. grace_s: how long running calls may go on after that. clean_up_s: for what comes after
    the last call: Triton, which takes 15 seconds at most, and the directory."""

    wait_s: float = 0.0
    grace_s: float = 30.0
    clean_up_s: float = 40.0

    @property
    def limit_s(self) -> float:
        """After which the process ends, whatever hangs."""
        return self.wait_s + self.grace_s + self.clean_up_s


def _exit() -> None:
    os._exit(1)


class Leaving:
    """What the signals do. `announce` is set once there is somebody to tell that we leave."""

    def __init__(
        self, gateway: "asyncio.Task[None]", drain: Drain, *, end: Callable[[], None] = _exit
    ) -> None:
        """gateway: cancelled when the wait is over. end: ends the process when all hangs."""
        self._gateway, self._drain, self._end = gateway, drain, end
        self._hurry = asyncio.Event()
        self._wait: asyncio.Task[None] | None = None
        self._at_terminal = os.isatty(0)  # asked now: not any more once it has gone
        self.announce: Callable[[], None] | None = None

    @property
    def begun(self) -> bool:
        """Whether a signal has come."""
        return self._wait is not None

    def signalled(self, number: signal.Signals) -> None:
        """Leave. Without a wait after SIGINT, or SIGHUP because a terminal has gone: who sits at
        one has no balancer. Any other SIGHUP changes nothing. A second signal cuts the wait short,
        and nothing else."""
        if number == signal.SIGHUP and not self._at_terminal:
            _log.info("SIGHUP changes nothing: files of certificates and callers are read anyway")
            return
        if self._wait is not None:
            self._hurry.set()
            return
        watchdog = threading.Timer(self._drain.limit_s, self._give_up)
        watchdog.daemon = True
        watchdog.start()
        _log.info("stopping: %s came, all ends within %g s", number.name, self._drain.limit_s)
        wait_s = self._drain.wait_s if number == signal.SIGTERM else 0.0
        self._wait = asyncio.create_task(self._leave(wait_s))

    async def _leave(self, wait_s: float) -> None:
        if self.announce is not None:
            self.announce()
            _log.info("stopping: health says NOT_SERVING, calls are answered for %g s", wait_s)
            if wait_s:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), wait_s)
        self._gateway.cancel()

    def _give_up(self) -> None:
        saying = threading.Thread(target=self._say_so, daemon=True)
        saying.start()
        saying.join(_SAYING_S)  # what logs may hang, too
        self._end()

    def _say_so(self) -> None:
        _log.error("stopping: not over after %g s, the process is ended", self._drain.limit_s)
        flush()
