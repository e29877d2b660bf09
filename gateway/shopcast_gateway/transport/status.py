"""From a cause to a gRPC status: one table, and the google.rpc details every error carries."""

import json
from dataclasses import dataclass
from importlib.resources import files

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from shopcast_gateway import errors

DOMAIN = "shopcast"
"""google.rpc.ErrorInfo.domain of every error."""


@dataclass(frozen=True, slots=True)
class StatusRow:
    """How a cause is told. sentence: what the caller reads; None takes the cause's own text."""

    code: grpc.StatusCode
    sentence: str | None


INTERNAL = StatusRow(
    grpc.StatusCode.INTERNAL,
    "The server met an error of its own; report the request id to those who run it.",
)
TABLE: dict[type[errors.GatewayError], StatusRow] = {
    errors.GatewayError: INTERNAL,
    errors.BadRequest: StatusRow(grpc.StatusCode.INVALID_ARGUMENT, None),
    errors.NotFound: StatusRow(grpc.StatusCode.NOT_FOUND, None),
    errors.Unauthenticated: StatusRow(
        grpc.StatusCode.UNAUTHENTICATED,
        "The call has no credentials that the server accepts; send a valid token or certificate.",
    ),
    errors.PermissionDenied: StatusRow(
        grpc.StatusCode.PERMISSION_DENIED,
        "You have no role that this method asks for; ask those who run the server.",
    ),
    errors.Overloaded: StatusRow(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "The server is full; try again after a pause."
    ),
    errors.QuotaExceeded: StatusRow(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "Your quota is used up; try again after a pause."
    ),
    errors.TooStale: StatusRow(
        grpc.StatusCode.FAILED_PRECONDITION,
        "The history at hand is older than max_history_age; allow more, or try again later.",
    ),
    errors.ChangesLost: StatusRow(
        grpc.StatusCode.FAILED_PRECONDITION,
        "The journal ends before the change to go on after: changes were lost; look up anew whom"
        " you keep, and begin after 0.",
    ),
    errors.NotPossible: StatusRow(grpc.StatusCode.FAILED_PRECONDITION, None),
    errors.VersionRefused: StatusRow(grpc.StatusCode.FAILED_PRECONDITION, None),
    errors.NotAdopted: StatusRow(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "It was written, and the gateway has neither adopted nor refused it yet; ask GetServing.",
    ),
    errors.Overtaken: StatusRow(
        grpc.StatusCode.FAILED_PRECONDITION,
        "It was written, and another version has been named since, before the gateway adopted this"
        " one; ask GetServing.",
    ),
    errors.Unavailable: StatusRow(
        grpc.StatusCode.UNAVAILABLE,
        "The server cannot answer now; try again, elsewhere if possible.",
    ),
    errors.DeadlineExpired: StatusRow(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "The deadline passed before the answer was there; try again or allow more time.",
    ),
    errors.ContractMismatch: INTERNAL,
}
_PERHAPS_DONE = "The server cannot say whether it was done; look before you send it again."
"""Of a change that callers do not send twice, where its answer is lost."""
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_SUBJECTS: dict[type[errors.GatewayError], str] = {
    errors.TooStale: "max_history_age",
    errors.ChangesLost: "after",
}


def _sent_once() -> frozenset[str]:
    """Full names of the methods that the service config does not retry."""
    config = json.loads(files("shopcast.v1").joinpath("service_config.json").read_text("utf-8"))
    return frozenset(
        f"/{name['service']}/{name['method']}"
        for of_some in config["methodConfig"]
        if "retryPolicy" not in of_some
        for name in of_some["name"]
    )


_SENT_ONCE = _sent_once()


def status_of(error: errors.GatewayError, request_id: str, begun: str = "") -> status_pb2.Status:
    """The google.rpc.Status of an error. begun: full name of the method that was at work.

    Details: ErrorInfo and RequestInfo always, BadRequest for bad input, RetryInfo when we are full,
    PreconditionFailure when all is too old, changes were lost or a version cannot serve.
    """
    row = TABLE[type(error)]
    sentence = row.sentence or str(error)
    if begun in _SENT_ONCE and row.code in _LOST:
        sentence = _PERHAPS_DONE
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN),
        error_details_pb2.RequestInfo(request_id=request_id),
    ]
    if isinstance(error, errors.BadRequest):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=one.field, description=one.problem)
            for one in error.violations
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if isinstance(error, errors.Overloaded):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_after_s * 1000))
        details.append(retry)
    if row.code is grpc.StatusCode.FAILED_PRECONDITION:
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason,
            subject=_SUBJECTS.get(type(error), "version"),
            description=sentence,
        )
        details.append(error_details_pb2.PreconditionFailure(violations=[violation]))
    status = status_pb2.Status(code=row.code.value[0], message=sentence)
    for detail in details:
        status.details.add().Pack(detail)
    return status
