"""Every cause has a status, and every status carries what a caller needs to act on it."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

import shopcast_gateway
from shopcast_gateway import errors
from shopcast_gateway.transport.status import TABLE, status_of


def walk(kind: type[errors.GatewayError]) -> Iterator[type[errors.GatewayError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from walk(child)


# The package is imported whole, so that an error defined anywhere in it is walked.
for module in pkgutil.walk_packages(shopcast_gateway.__path__, "shopcast_gateway."):
    importlib.import_module(module.name)
CAUSES = sorted(set(walk(errors.GatewayError)), key=lambda kind: kind.__name__)


def raised(kind: type[errors.GatewayError]) -> errors.GatewayError:
    if issubclass(kind, errors.BadRequest):
        return kind("items[0].price", "must be a number")
    return kind("tensor 'x' of 10.0.0.7 is away")


def detail(status: status_pb2.Status, found: Any) -> Any:
    assert any(packed.Unpack(found) for packed in status.details), type(found).__name__
    return found


@pytest.mark.parametrize("kind", CAUSES)
def test_every_cause_is_in_the_table(kind: type[errors.GatewayError]) -> None:
    assert kind in TABLE


@pytest.mark.parametrize("kind", CAUSES)
def test_every_status_carries_reason_and_request_id(kind: type[errors.GatewayError]) -> None:
    status = status_of(raised(kind), "r-1")
    info = detail(status, error_details_pb2.ErrorInfo())
    assert (info.reason, info.domain) == (kind.reason, "shopcast")
    assert detail(status, error_details_pb2.RequestInfo()).request_id == "r-1"
    assert status.message
    assert status.code == TABLE[kind].code.value[0] != 0


@pytest.mark.parametrize("kind", [kind for kind in CAUSES if TABLE[kind].sentence is not None])
def test_the_others_do_not_speak_in_their_own_words(kind: type[errors.GatewayError]) -> None:
    assert "10.0.0.7" not in status_of(raised(kind), "r-1").message


@pytest.mark.parametrize("kind", [errors.Unavailable, errors.DeadlineExpired])
def test_what_is_sent_once_may_have_been_done(kind: type[errors.GatewayError]) -> None:
    def said(*begun: str) -> str:
        return status_of(raised(kind), "r-1", *begun).message

    assert "look before you send it again" in said("/shopcast.v1.PrivacyService/ErasePerson")
    assert "try again" in said("/shopcast.v1.PrivacyService/SetConsent")
    assert "try again" in said()


def test_only_what_the_caller_sent_wrong_is_told_in_the_causes_own_words() -> None:
    own = {kind for kind, row in TABLE.items() if row.sentence is None}
    assert own == {
        errors.BadRequest,
        errors.NotFound,
        errors.NotPossible,
        errors.VersionRefused,
    }


def test_reasons_tell_causes_apart() -> None:
    assert len({kind.reason for kind in CAUSES}) == len(CAUSES)


def test_the_codes_are_the_agreed_ones() -> None:
    assert {kind.__name__: row.code.name for kind, row in TABLE.items()} == {
        "GatewayError": "INTERNAL",
        "BadRequest": "INVALID_ARGUMENT",
        "NotFound": "NOT_FOUND",
        "Unauthenticated": "UNAUTHENTICATED",
        "PermissionDenied": "PERMISSION_DENIED",
        "Overloaded": "RESOURCE_EXHAUSTED",
        "QuotaExceeded": "RESOURCE_EXHAUSTED",
        "TooStale": "FAILED_PRECONDITION",
        "ChangesLost": "FAILED_PRECONDITION",
        "NotPossible": "FAILED_PRECONDITION",
        "VersionRefused": "FAILED_PRECONDITION",
        "NotAdopted": "DEADLINE_EXCEEDED",
        "Overtaken": "FAILED_PRECONDITION",
        "Unavailable": "UNAVAILABLE",
        "DeadlineExpired": "DEADLINE_EXCEEDED",
        "ContractMismatch": "INTERNAL",
    }


def test_a_bad_request_lists_its_fields() -> None:
    error = errors.BadRequest("a", "is required", [errors.Violation("b", "must be 1")])
    status = status_of(error, "r-1")
    listed = detail(status, error_details_pb2.BadRequest()).field_violations
    assert [(one.field, one.description) for one in listed] == [
        ("a", "is required"),
        ("b", "must be 1"),
    ]
    assert status.message == "a: is required (and 1 more)"
    assert grpc.StatusCode.INVALID_ARGUMENT.value[0] == status.code


def test_overload_says_when_to_try_again() -> None:
    status = status_of(errors.Overloaded(retry_after_s=1.5), "r-1")
    delay = detail(status, error_details_pb2.RetryInfo()).retry_delay
    assert delay.ToMilliseconds() == 1500


@pytest.mark.parametrize(
    ("error", "field"), [(errors.TooStale(), "max_history_age"), (errors.ChangesLost(), "after")]
)
def test_what_cannot_be_had_names_the_field_that_asks_for_it(
    error: errors.GatewayError, field: str
) -> None:
    status = status_of(error, "r-1")
    (violation,) = detail(status, error_details_pb2.PreconditionFailure()).violations
    assert (violation.type, violation.subject) == (error.reason, field)


def test_a_version_that_cannot_serve_is_told_with_why() -> None:
    status = status_of(errors.VersionRefused("version 2 is refused: other tokens"), "r-1")
    (violation,) = detail(status, error_details_pb2.PreconditionFailure()).violations
    assert (violation.type, violation.subject) == ("VERSION_REFUSED", "version")
    assert violation.description == status.message == "version 2 is refused: other tokens"
