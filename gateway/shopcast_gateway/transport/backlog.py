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
    """The queue before a server of this process."""

    def __init__(self) -> None:
        self._server: int | None = None
        self._taken_up, self._come, self._looked = 0, 0, 0.0

    def of_newest_server(self) -> None:
        """Watch the server that was made last."""
        self._server = _newest_server()

    def take_up(self) -> int:
        """Count a call as taken up; how many waited when last looked and have not been since."""
        self._taken_up += 1
        if (now := time.monotonic()) - self._looked >= _LOOK_S:
            self._looked = now
            self._look()
        return max(self._come - self._taken_up, 0)

    def waiting(self) -> int:
        """How many wait now."""
        self._look()
        return max(self._come - self._taken_up, 0)

    def _look(self) -> None:
        told = json.loads(cygrpc.channelz_get_server(self._server))["server"]["data"]
        self._come = int(told["callsStarted"])
        if int(told["callsSucceeded"]) + int(told["callsFailed"]) >= self._come - 1:
            # Only the one that is being taken up is left. Some never reach us: see
            # grpc.server.max_pending_requests.
            self._taken_up = self._come


def _newest_server() -> int:
    newest, more = 0, True
    while more:
        page: dict[str, Any] = json.loads(cygrpc.channelz_get_servers(newest + 1))
        ids = [int(one["ref"]["serverId"]) for one in page.get("server", ())]
        newest, more = max(ids, default=newest), bool(ids) and not page.get("end")
    return newest
