"""Who is asked and answers nobody: whoever would wait in vain is told so at once."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from shopcast_gateway.errors import DeadlineExpired, Unavailable

SILENT_S = 1.0
"""How long nobody must have been answered, at least."""
_LOOK_AGAIN_S = 0.01
"""Before anybody is told: this process may have stood still itself, and answers may have come."""


class Silence:
    """How long what is asked, called `name`, has answered nobody.

    What hangs tends to go on for as long as it has, and who waits for it takes the place of others.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._under_way = 0
        self._since = self._failed_at = float("-inf")  # since when; when the last to fail ended

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Something is asked, for as long as the block runs. Who gives up got no answer, nor who
        found it away; any other error is one."""
        # Who gave up a moment ago may have been all there were: that does not end a silence.
        if not self._under_way and time.monotonic() - self._failed_at > SILENT_S:
            self._since = time.monotonic()
        self._under_way += 1
        answered = True
        try:
            yield
        except (asyncio.CancelledError, TimeoutError, DeadlineExpired, Unavailable):
            answered = False
            raise
        finally:
            self._under_way -= 1
            if answered:
                self._since, self._failed_at = time.monotonic(), float("-inf")
            else:
                self._failed_at = time.monotonic()

    async def check(self, timeout_s: float, *, places: int = 1) -> None:
        """Raises Unavailable where whoever has so much time would wait in vain: nobody has been
        answered for longer than that, and SILENT_S, while as much is under way as may be.

        places: how much that is. Where it is one, one at a time goes on asking.
        """
        if self._silent_s(timeout_s, places):
            await asyncio.sleep(_LOOK_AGAIN_S)
            if silent_s := self._silent_s(timeout_s, places):
                raise Unavailable(f"{self._name} has answered nobody for {silent_s:.1f} s")

    def _silent_s(self, timeout_s: float, places: int) -> float:
        """For how long, where that is too long; else 0."""
        silent_s = time.monotonic() - self._since
        in_vain = self._under_way >= places and silent_s > max(timeout_s, SILENT_S)
        return silent_s if in_vain else 0.0
