"""What can go wrong, by cause. Knows no transport: `transport/status.py` maps causes to gRPC codes.

GatewayError
├── BadRequest            the caller sent what no server could answer; carries the field paths
├── NotFound              what the request names is not there
├── Unauthenticated       we do not know who calls
├── PermissionDenied      we do, and they may not
├── Overloaded            we are full; carries when to try again
│   └── QuotaExceeded     the caller has used up what is theirs
├── TooStale              all that is at hand is older than the caller allows
├── ChangesLost           the journal ends before the change that the caller goes on after
├── NotPossible           the model repository is not as the request needs it
├── VersionRefused        the version that was promoted must not serve
├── NotAdopted            it has not been taken up within the time that the caller would wait
├── Overtaken             another version was named before it was taken up
├── Unavailable           a backend or a store is away, or we drain
├── DeadlineExpired       too late
└── ContractMismatch      our tensors did not fit the model: our mistake

StartupError              the gateway cannot start; the message says what to do

The text of a GatewayError goes to the log; of a BadRequest, NotFound, NotPossible or VersionRefused
it goes to the caller too.
Neither may hold a user id or what the caller sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class GatewayError(Exception):
    """Base of what a request can meet. `reason` is stable and goes into google.rpc.ErrorInfo."""

    reason: str = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one field of a request.

    field: path such as `items[3].price`. problem: what the field must be, without its value.
    """

    field: str
    problem: str


class BadRequest(GatewayError):
    """The request is wrong at `field`, and at the fields of `others`."""

    reason = "BAD_REQUEST"

    def __init__(self, field: str, problem: str, others: Sequence[Violation] = ()) -> None:
        more = f" (and {len(others)} more)" if others else ""
        super().__init__(f"{field}: {problem}{more}")
        self.violations = (Violation(field, problem), *others)


class NotFound(GatewayError):
    """What the request names is not there."""

    reason = "NOT_FOUND"


class Unauthenticated(GatewayError):
    """No credentials, or none that hold. The text says why, for the log, without any of them."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(GatewayError):
    """The caller is known and has no role that the method asks for."""

    reason = "PERMISSION_DENIED"


class Overloaded(GatewayError):
    """We are full; try again after a pause."""

    reason = "OVERLOADED"

    def __init__(self, message: str = "", *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QuotaExceeded(Overloaded):
    """The caller makes more calls than their quota; try again after a pause."""

    reason = "QUOTA_EXCEEDED"


class TooStale(GatewayError):
    """The store is away, and the history at hand is older than the caller allows."""

    reason = "TOO_STALE"


class ChangesLost(GatewayError):
    """The journal ends before the change that the caller goes on after: the store is an older state
    of what it was, after a failover or from a backup."""

    reason = "CHANGES_LOST"


class NotPossible(GatewayError):
    """The model repository is not as the request needs it; the text says what to do."""

    reason = "NOT_POSSIBLE"


class VersionRefused(GatewayError):
    """What was promoted must not serve, and the version before it goes on; the text says why."""

    reason = "VERSION_REFUSED"


class NotAdopted(GatewayError):
    """What was promoted has been neither taken up nor refused within the time given."""

    reason = "NOT_ADOPTED"


class Overtaken(GatewayError):
    """Another version is to serve by now, and what was promoted had not been taken up."""

    reason = "OVERTAKEN"


class Unavailable(GatewayError):
    """A backend or a store is away, or the gateway drains; try again, elsewhere if possible."""

    reason = "UNAVAILABLE"


class DeadlineExpired(GatewayError):
    """The caller's deadline, or the default one, passed before the answer was there."""

    reason = "DEADLINE_EXPIRED"


class ContractMismatch(GatewayError):
    """The model refused our tensors."""

    reason = "CONTRACT_MISMATCH"


class StartupError(Exception):
    """The gateway cannot start. The message is one sentence that says what to do."""
