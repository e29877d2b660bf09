"""What a call can meet.

ShopcastError
├── InvalidRequest      the request is wrong: mend the fields it names
├── NotFound            what the request names is not there
├── NotAuthorised       the server does not know you, or does not let you
├── TooStale            the history at hand is older than the request allows
├── ChangesLost         the journal ends before the change that a watch was to go on after
├── Refused             a version cannot serve or be tried, or there is nothing to take back
├── Overloaded          the server is full, or your quota is: try again after `retry_after_s`
├── DeadlineExceeded    no answer within the client's timeout
├── Unavailable         the server is away, starting or draining, also after retries, or the client
│                       was closed meanwhile
└── ServerError         anything else: the server's mistake, or it is no Shopcast server
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from shopcast_client.tokens import stays_here

_DETAILS_KEY = "grpc-status-details-bin"
_LOST = "Internal error from Core"
"""What grpc.aio says, as INTERNAL, where a stream ended while a request was being sent: what the
server said of it is lost."""
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
"""Variables that gRPC looks at."""
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

M = TypeVar("M", bound=Any)


class ShopcastError(Exception):
    """Base of what a call can meet; its text is one sentence.

    reason: stable word for the cause, such as "OVERLOADED"; the gRPC code's name where the server
    gave none. request_id: under which the server's log knows the call; "" where none was made.
    """

    def __init__(self, message: str, *, reason: str, request_id: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.request_id = request_id


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one field of a request, such as `items[3].price`."""

    field: str
    problem: str


class InvalidRequest(ShopcastError):
    """The request is wrong; `violations` says where."""

    def __init__(
        self, message: str, *, reason: str, request_id: str, violations: tuple[Violation, ...] = ()
    ) -> None:
        super().__init__(message, reason=reason, request_id=request_id)
        self.violations = violations


class NotFound(ShopcastError):
    """What the request names is not there."""


class NotAuthorised(ShopcastError):
    """The server does not know the caller, or does not let them."""


class TooStale(ShopcastError):
    """The server's store is away, and the history at hand is older than `max_history_age`."""


class ChangesLost(ShopcastError):
    """The journal ends before the change that a watch was to go on after, as after a failover or
    with an older backup: look up anew whom you keep, then watch from the beginning."""


class Refused(ShopcastError):
    """A version cannot serve or be tried, or there is nothing to take back; the text says why."""


class Overloaded(ShopcastError):
    """The server is full, or the caller's quota is used up. retry_after_s: when to try again; None
    where the server did not say."""

    def __init__(
        self, message: str, *, reason: str, request_id: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, reason=reason, request_id=request_id)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(ShopcastError):
    """No answer within the client's timeout."""


class Unavailable(ShopcastError):
    """The server is away, starting or draining. Calls have been retried, but for `erase_person` and
    those of PeopleCalls that change something: they may have been done."""


class ServerError(ShopcastError):
    """The server's own mistake, or what answers at the target is no Shopcast server."""


def error_from(
    failure: grpc.aio.AioRpcError, *, target: str, request_id: str, timeout_s: float
) -> ShopcastError:
    """The ShopcastError for a failed call.

    request_id: the one sent; the server's own wins where it names one.
    """
    code = failure.code()
    said = failure.details() or code.name
    if code is grpc.StatusCode.INTERNAL and said == _LOST:
        code = grpc.StatusCode.UNAVAILABLE  # as where it drains, which is mostly the cause
    return _error(code, said, _status(failure), target, request_id, f"within {timeout_s:g} s")


def error_of(status: status_pb2.Status, *, target: str, request_id: str) -> ShopcastError:
    """The ShopcastError for what failed within a call. request_id: the call's."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _error(code, status.message or code.name, status, target, request_id, "in time")


def _error(
    code: grpc.StatusCode,
    said: str,
    status: status_pb2.Status,
    target: str,
    request_id: str,
    late: str,
) -> ShopcastError:
    """late: by when there was no answer where the deadline passed."""
    info = _detail(status, error_details_pb2.ErrorInfo())
    request = _detail(status, error_details_pb2.RequestInfo())
    reason, request_id = info.reason or code.name, request.request_id or request_id
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT:
            bad = _detail(status, error_details_pb2.BadRequest())
            return InvalidRequest(
                f"Shopcast refused the request: {said}",
                reason=reason,
                request_id=request_id,
                violations=tuple(
                    Violation(one.field, one.description) for one in bad.field_violations
                ),
            )
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            retry = _detail(status, error_details_pb2.RetryInfo())
            pause = retry.retry_delay
            state = "refuses more for now" if reason == "QUOTA_EXCEEDED" else "is full"
            return Overloaded(
                f"Shopcast at {target} {state}: {said}",
                reason=reason,
                request_id=request_id,
                retry_after_s=(
                    pause.seconds + pause.nanos / 1e9 if retry.HasField("retry_delay") else None
                ),
            )
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            kind: type[ShopcastError] = NotAuthorised
            message = f"Shopcast at {target} did not admit the call: {said}"
        case grpc.StatusCode.NOT_FOUND:
            kind = NotFound
            message = f"Shopcast at {target} found nothing: {said}"
        case grpc.StatusCode.FAILED_PRECONDITION if reason == "TOO_STALE":
            kind = TooStale
            message = f"Shopcast at {target} has nothing as new: {said}"
        case grpc.StatusCode.FAILED_PRECONDITION if reason == "CHANGES_LOST":
            kind = ChangesLost
            message = f"Shopcast at {target} cannot go on there: {said}"
        case grpc.StatusCode.FAILED_PRECONDITION if reason == "OVERTAKEN":
            kind = Refused
            message = f"Shopcast at {target} does not go on with it: {said}"
        case grpc.StatusCode.FAILED_PRECONDITION if reason in ("NOT_POSSIBLE", "VERSION_REFUSED"):
            kind = Refused
            message = f"Shopcast at {target} refused it: {said}"
        case grpc.StatusCode.DEADLINE_EXCEEDED if reason == "NOT_ADOPTED":
            kind = DeadlineExceeded
            message = f"Shopcast at {target} is not through yet: {said}"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            kind = DeadlineExceeded
            message = f"Shopcast at {target} did not answer {late}."
        # A server that stops cancels what its grace period did not finish.
        case grpc.StatusCode.CANCELLED:
            kind = Unavailable
            message = (
                f"Shopcast at {target} ended the call before it was over, as one that stops does."
            )
        case grpc.StatusCode.UNAVAILABLE:
            kind = Unavailable
            message = (
                f"Shopcast at {target} is not ready: {said}"
                if info.reason
                else f"No connection to Shopcast at {target}: {_why_none(said, target)}."
            )
        case grpc.StatusCode.UNIMPLEMENTED:
            kind = ServerError
            message = (
                f"What answers at {target} has no such call: calls about models go to the"
                " --admin-port of a gateway, all others to its main port."
            )
        case _:
            kind = ServerError
            message = f"Shopcast at {target} failed, request id {request_id}: {said}"
    return kind(message, reason=reason, request_id=request_id)


def _why_none(said: str, target: str) -> str:
    """What to look at when there is no connection, by gRPC's words."""
    if said == _LOST:
        return "it broke, or the server ended the stream, while more was being sent"
    if "HTTP proxy" in said:
        return "the proxy that grpc_proxy, https_proxy or http_proxy names does not lead there"
    if "certificate has expired" in said or "certificate is not yet valid" in said:
        return "its certificate has ended or has not begun, by the clock here"
    if "NO_COMMON_SIGNATURE_ALGORITHMS" in said:
        return "gRPC takes no such key as that of the given certificate, but RSA, P-256 and P-384"
    if "handshake failed" in said or "Hostname Verification" in said:
        return "it has no certificate of the given CA for this address, or speaks plain text"
    if said.endswith(("Connection refused", "No such file or directory")):
        proxied = not stays_here(target) and any(map(os.environ.get, _PROXIES))
        where = "there, or at the proxy that is to lead there" if proxied else "there"
        return (
            f"nothing listens {where}; start a gateway with `platform serve`, or with `make serve`"
            " for the demo's model"
        )
    return "check the address, that it runs, and whether it asks for TLS or a certificate"


def _status(failure: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The google.rpc.Status sent along; an empty one where there is none or it is garbled."""
    for key, value in failure.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            with suppress(DecodeError):
                return status_pb2.Status.FromString(value)
    return status_pb2.Status()


def _detail(status: status_pb2.Status, found: M) -> M:
    """Fill `found` with the detail of its type; it stays empty where there is none."""
    for packed in status.details:
        with suppress(DecodeError):
            if packed.Unpack(found):
                break
    return found
