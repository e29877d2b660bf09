"""Calls that have come and that the event loop has not taken up yet.

grpc takes up one call a turn of the loop, the oldest first, whether anybody still waits for it or
not. When more come than are answered the queue before us grows until every call that is taken up is
a late one, and nothing but late calls is worked on. grpc tells its length to Channelz only.
"""

import json
import time
from typing import Any

from grpc._cython import cygrpc  # type: ignore[attr-defined]  # what grpcio-channelz reads, too

_LOOK_S = 0.02  # a look takes 0.2 ms


class Backlog:
    """The queue before a server of this process, whose calls grpc must not drop for want of room
    (grpc.server.max_pending_requests): those count as come for ever."""

    def __init__(self) -> None:
        self._server: int | None = None
        self._taken_up, self._looked = 0, 0.0
        self._come, self._gone = 0, 0  # of those that have come, those that wait no more

    def of_newest_server(self) -> None:
        """Watch the server that was made last."""
        self._server = _newest_server()

    def take_up(self, running: int) -> int:
        """Count a call as taken up; how many waited when last looked and have not been since.
        running: calls, at least, that were taken up before and have not ended."""
        self._taken_up += 1
        self._gone += 1
        if (now := time.monotonic()) - self._looked >= _LOOK_S:
            self._looked = now
            self._look(running + 1)
        return max(self._come - self._gone, 0)

    def waiting(self, running: int) -> int:
        """How many wait now. running: as of `take_up`."""
        self._look(running)
        return max(self._come - self._gone, 0)

    def _look(self, running: int) -> None:
        told = json.loads(cygrpc.channelz_get_server(self._server))["server"]["data"]
        self._come = int(told["callsStarted"])
        ended = int(told["callsSucceeded"]) + int(told["callsFailed"])
        # Those whose callers hang up while they wait end, and are never taken up.
        self._gone = max(self._taken_up, ended + running)


def _newest_server() -> int:
    newest, more = 0, True
    while more:
        page: dict[str, Any] = json.loads(cygrpc.channelz_get_servers(newest + 1))
        ids = [int(one["ref"]["serverId"]) for one in page.get("server", ())]
        newest, more = max(ids, default=newest), bool(ids) and not page.get("end")
    return newest
