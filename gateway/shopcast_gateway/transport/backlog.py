"""Calls that have come and that the event loop has not taken up yet.

grpc takes up one call a turn of the loop, the oldest first, whether anybody still waits for it or
not. When more come than are answered the queue before us grows until every call that is taken up is
a late one, and nothing but late calls is worked on. grpc tells its length to Channelz only.
"""

import asyncio
import json
import time
from typing import Any

from grpc._cython import cygrpc  # type: ignore[attr-defined]  # what grpcio-channelz reads, too

_LOOK_S = 0.02  # a look takes 0.2 ms
_QUIET_S = 0.01
"""A loop that turns for so long and takes up nothing has nothing to take up."""


class Backlog:
    """The queue before a server of this process.

    Calls that grpc drops, since too many wait, count as come and never as ended: Channelz does not
    tell them from those that wait. So they count as waiting until the queue is seen to be empty.
    """

    def __init__(self) -> None:
        self._server: int | None = None
        self._taken_up, self._come, self._looked = 0, 0, 0.0
        self._watching = False

    def of_newest_server(self) -> None:
        """Watch the server that was made last."""
        self._server = _newest_server()

    def take_up(self) -> int:
        """Count a call as taken up; how many waited when last looked and have not been since."""
        self._taken_up += 1
        if (now := time.monotonic()) - self._looked >= _LOOK_S:
            self._looked = now
            self._look()
            self._watch()
        return max(self._come - self._taken_up, 0)

    def waiting(self) -> int:
        """How many wait now."""
        self._look()
        return max(self._come - self._taken_up, 0)

    def _look(self) -> None:
        told = json.loads(cygrpc.channelz_get_server(self._server))["server"]["data"]
        self._come = int(told["callsStarted"])
        self._taken_up = min(self._taken_up, self._come)  # `_see` may have been mistaken
        if int(told["callsSucceeded"]) + int(told["callsFailed"]) >= self._come - 1:
            # Only the one that is being taken up is left.
            self._taken_up = self._come

    def _watch(self) -> None:
        """Have a look at the queue a moment later, if there seems to be one."""
        if not self._watching and self._come > self._taken_up:
            self._watching = True
            loop = asyncio.get_running_loop()
            loop.call_later(_QUIET_S, self._see, self._taken_up, self._come, loop.time())

    def _see(self, taken_up: int, come: int, began: float) -> None:
        """Where nothing was taken up meanwhile, and the loop did not stand still, all are gone."""
        self._watching = False
        late = asyncio.get_running_loop().time() - began > 1.5 * _QUIET_S
        if taken_up == self._taken_up and not late:
            self._taken_up = come
        self._watch()


def _newest_server() -> int:
    newest, more = 0, True
    while more:
        page: dict[str, Any] = json.loads(cygrpc.channelz_get_servers(newest + 1))
        ids = [int(one["ref"]["serverId"]) for one in page.get("server", ())]
        newest, more = max(ids, default=newest), bool(ids) and not page.get("end")
    return newest
