"""What is counted of calls, whoever keeps the counts."""

from typing import Protocol


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
