"""What is counted and traced of calls, whoever keeps it."""

from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias

from shopcast_gateway.core.stages import Spent

Metadata: TypeAlias = Iterable[tuple[str, Any]]


class CallRecorder(Protocol):
    """Is told of calls, from the event loop: each of these must be quick. method: as gRPC names it,
    which may be anything a caller thought of. code: name of a gRPC status."""

    def refused(self, method: str, code: str) -> None:
        """A call ended before its request was looked into."""
        ...

    def began(self, method: str) -> None:
        """A call is being answered."""
        ...

    def ended(self, method: str, code: str, duration_s: float) -> None:
        """A call that began has ended."""
        ...


class UncountedCalls:
    """Keeps nothing."""

    def refused(self, method: str, code: str) -> None:
        """As CallRecorder.refused."""

    def began(self, method: str) -> None:
        """As CallRecorder.began."""

    def ended(self, method: str, code: str, duration_s: float) -> None:
        """As CallRecorder.ended."""


class CallTrace(Protocol):
    """The span of a call. traceparent: as W3C Trace Context has it, for what the call asks of
    others."""

    traceparent: str

    def end(self, code: int, spent: Spent) -> None:
        """The call has ended. code: number of a gRPC status. spent: in which stages."""
        ...


class Tracer(Protocol):
    """Traces calls."""

    def begin(self, method: str, metadata: Metadata, request_id: str) -> CallTrace:
        """A call begins, in the caller's trace where the metadata have one."""
        ...
