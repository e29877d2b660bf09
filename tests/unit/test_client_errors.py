"""Every status a call can end with becomes one error that says what happened."""

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from shopcast_client import (
    DeadlineExceeded,
    InvalidRequest,
    NotAuthorised,
    NotFound,
    Overloaded,
    ServerError,
    ShopcastClient,
    ShopcastError,
    Unavailable,
    Violation,
)
from shopcast_client.errors import error_from, error_of

CODES = {
    "INVALID_ARGUMENT": InvalidRequest,
    "UNAUTHENTICATED": NotAuthorised,
    "NOT_FOUND": NotFound,
    "PERMISSION_DENIED": NotAuthorised,
    "RESOURCE_EXHAUSTED": Overloaded,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "UNAVAILABLE": Unavailable,
    "CANCELLED": Unavailable,
}


def failed(code: grpc.StatusCode, *details: Any, trailer: bytes | None = None) -> ShopcastError:
    status = status_pb2.Status(code=code.value[0], message="as told.")
    for detail in details:
        status.details.add().Pack(detail)
    trailer = status.SerializeToString() if trailer is None else trailer
    failure = grpc.aio.AioRpcError(
        code,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(("grpc-status-details-bin", trailer)),
        details="as told.",
    )
    return error_from(failure, target="shop:1", request_id="sent", timeout_s=2.0)


@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK])
def test_every_code_has_its_error(code: grpc.StatusCode) -> None:
    error = failed(code)
    assert type(error) is CODES.get(code.name, ServerError)
    assert (error.reason, error.request_id) == (code.name, "sent")
    assert "\n" not in str(error)


@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK])
def test_what_fails_within_a_call_has_the_same_errors(code: grpc.StatusCode) -> None:
    status = status_pb2.Status(code=code.value[0], message="as told.")
    error = error_of(status, target="shop:1", request_id="sent")
    assert type(error) is type(failed(code))
    assert (error.reason, error.request_id) == (code.name, "sent")


def test_a_stream_that_ends_while_more_is_sent_is_no_mistake_of_the_servers() -> None:
    none = grpc.aio.Metadata()
    failure = grpc.aio.AioRpcError(
        grpc.StatusCode.INTERNAL, none, none, details="Internal error from Core"
    )
    error = error_from(failure, target="shop:1", request_id="sent", timeout_s=2.0)
    assert type(error) is Unavailable
    assert error.reason == "UNAVAILABLE"
    assert "the server ended the stream, while more was being sent" in str(error)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Tls handshake failed (...): SSL_ERROR_SSL", "it has no certificate of the given CA for"),
        ("Hostname Verification Check failed.", "it has no certificate of the given CA for this"),
        ("Tls handshake failed: certificate has expired: OK", "its certificate has ended or has"),
        ("Tls handshake failed: NO_COMMON_SIGNATURE_ALGORITHMS", "RSA, P-256 and P-384"),
        ("HTTP proxy returned response code 403", "the proxy that grpc_proxy, https_proxy or"),
        ("Failed to connect to remote host: Connection refused", "nothing listens there; start"),
        ("Socket closed", "check the address"),
    ],
)
def test_why_there_is_no_connection_is_told(said: str, told: str) -> None:
    none = grpc.aio.Metadata()
    failure = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, none, none, details=said)
    error = error_from(failure, target="shop:1", request_id="sent", timeout_s=2.0)
    assert told in str(error)


def test_a_call_that_a_server_ends_when_it_stops_is_not_told_to_have_found_none() -> None:
    error = failed(grpc.StatusCode.CANCELLED)
    assert type(error) is Unavailable
    assert (
        str(error)
        == "Shopcast at shop:1 ended the call before it was over, as one that stops does."
    )


def test_a_code_of_tomorrow_is_the_servers_mistake() -> None:
    error = error_of(status_pb2.Status(code=99), target="shop:1", request_id="sent")
    assert type(error) is ServerError


def test_reason_and_request_id_are_the_servers_where_it_tells_them() -> None:
    error = failed(
        grpc.StatusCode.INTERNAL,
        error_details_pb2.ErrorInfo(reason="CONTRACT_MISMATCH", domain="shopcast"),
        error_details_pb2.RequestInfo(request_id="made"),
    )
    assert (error.reason, error.request_id) == ("CONTRACT_MISMATCH", "made")
    assert str(error) == "Shopcast at shop:1 failed, request id made: as told."


def test_violations_are_typed() -> None:
    field = error_details_pb2.BadRequest.FieldViolation(field="items", description="is required")
    error = failed(
        grpc.StatusCode.INVALID_ARGUMENT, error_details_pb2.BadRequest(field_violations=[field])
    )
    assert isinstance(error, InvalidRequest)
    assert error.violations == (Violation("items", "is required"),)


def test_overload_carries_the_pause_asked_for() -> None:
    pause = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000))
    error, silent = (
        failed(grpc.StatusCode.RESOURCE_EXHAUSTED, pause),
        failed(grpc.StatusCode.RESOURCE_EXHAUSTED),
    )
    assert isinstance(error, Overloaded)
    assert isinstance(silent, Overloaded)
    assert (error.retry_after_s, silent.retry_after_s) == (1.5, None)


@pytest.mark.parametrize(
    "trailer",
    [
        b"\xff",
        status_pb2.Status(
            details=[{"type_url": "x/google.rpc.ErrorInfo", "value": b"\xff"}]
        ).SerializeToString(),
    ],
)
def test_garbled_details_do_not_hide_the_error(trailer: bytes) -> None:
    error = failed(grpc.StatusCode.UNAVAILABLE, trailer=trailer)
    assert isinstance(error, Unavailable)
    assert "No connection to Shopcast at shop:1" in str(error)


async def test_a_closed_client_says_so() -> None:
    client = ShopcastClient("shop:1")
    with pytest.raises(RuntimeError, match="async with"):
        await client.resolve_person(platform="web", user_id="u")
