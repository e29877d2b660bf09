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


ADOPTION = "shopcast.adoption"
"""NOT_SERVING while a promoted version is refused and the one before it goes on serving."""
ACCEPTING = "shopcast.accepting"
"""SERVING from the first adoption until the gateway drains, also while Triton is away: events are
taken then, and base rates told. For clients that choose among gateways."""
REFUSAL = "shopcast-refusal"
"""Trailing metadata of a Check: why."""


class HealthService(health_pb2_grpc.HealthServicer):
    """Answers for '' (the whole server), for the services named, which stand and fall with it, for
    ADOPTION and for ACCEPTING; others it does not know."""

    def __init__(self, services: Iterable[str]) -> None:
        self._names = frozenset(("", *services, ADOPTION, ACCEPTING))
        self._serving, self._accepting = False, True
        self._refusal: str | None = None
        self._draining = self._ended = False
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        """What is told from now on; once draining, nothing changes it."""
        self._serving = serving and not self._draining
        self._changed.set()
        self._changed = asyncio.Event()

    def tell_adoption(self, refusal: str | None) -> None:
        """Why the version that is to serve does not; None where it does."""
        self._refusal = refusal
        self.set_serving(self._serving)

    def set_accepting(self, accepting: bool) -> None:
        """What is told of ACCEPTING; True until then. Once draining, nothing changes it."""
        self._accepting = accepting and not self._draining
        self._changed.set()
        self._changed = asyncio.Event()

    def drain(self) -> None:
        """Tell NOT_SERVING for good."""
        self._draining = True
        self.set_accepting(False)
        self.set_serving(False)

    def end(self) -> None:
        """Drain, and end every Watch."""
        self._ended = True
        self.drain()

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The state now."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service here")
        if self._refusal is not None:
            # Metadata is printable ASCII; the sentence is ours, but a path in it may not be.
            told = self._refusal.encode("unicode_escape").decode()
            context.set_trailing_metadata(((REFUSAL, told),))
        return Status(status=self._status(request.service))

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> None:
        """The state now, and each time it changes."""
        told: int | None = None
        while True:
            changed, last = self._changed, self._ended
            known = request.service in self._names
            status = self._status(request.service) if known else Status.SERVICE_UNKNOWN
            if status != told:
                await context.write(Status(status=status))
                told = status
            if last:
                return
            await changed.wait()

    def _status(self, service: str) -> int:
        if service == ACCEPTING:
            return Status.SERVING if self._accepting else Status.NOT_SERVING
        refused = service == ADOPTION and self._refusal is not None
        return Status.SERVING if self._serving and not refused else Status.NOT_SERVING
