"""grpc.health.v1 for a server whose services stand and fall together.

grpcio's own servicer keeps a Watch open until the grace period of a stop is over, so that a server
somebody watches could never stop early.
"""

import asyncio
from collections.abc import Iterable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shopcast_gateway.transport.interceptor import Context

Status = health_pb2.HealthCheckResponse


class HealthService(health_pb2_grpc.HealthServicer):
    """Answers for '' (the whole server) and for the services named; others it does not know."""

    def __init__(self, services: Iterable[str]) -> None:
        self._names = frozenset(("", *services))
        self._serving = False
        self._draining = False
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        """What is told from now on; once draining, nothing changes it."""
        self._serving = serving and not self._draining
        self._changed.set()
        self._changed = asyncio.Event()

    def drain(self) -> None:
        """Tell NOT_SERVING for good, and end every Watch."""
        self._draining = True
        self.set_serving(False)

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The state now."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service here")
        return Status(status=self._status())

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> None:
        """The state now, and each time it changes."""
        told: int | None = None
        while True:
            changed = self._changed
            known = request.service in self._names
            status = self._status() if known else Status.SERVICE_UNKNOWN
            if status != told:
                await context.write(Status(status=status))
                told = status
            if self._draining:
                return
            await changed.wait()

    def _status(self) -> int:
        return Status.SERVING if self._serving else Status.NOT_SERVING
