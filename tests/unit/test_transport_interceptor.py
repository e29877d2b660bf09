"""What a call goes through, with a fake of grpc's side."""

import asyncio
from typing import Any

import grpc
import pytest

from shopcast_gateway.errors import Unavailable
from shopcast_gateway.transport.interceptor import CallInterceptor, Deadlines


class FakeContext:
    """A call with some time left, whose caller may have gone."""

    def __init__(self, left_s: float | None = 1.0) -> None:
        self._left_s = left_s

    def time_remaining(self) -> float | None:
        return self._left_s

    def invocation_metadata(self) -> tuple[()]:
        return ()

    async def abort_with_status(self, status: grpc.Status) -> None:
        raise grpc.aio.InternalError("the call is over")


class Details:
    method = "/shopcast.v1.PredictionService/Predict"


@pytest.mark.parametrize(("left_s", "given_s"), [(None, 5.0), (0.25, 0.25), (3600.0, 60.0), (0, 0)])
def test_time_is_the_callers_the_default_or_the_cap(left_s: float | None, given_s: float) -> None:
    context: Any = FakeContext(left_s)
    assert Deadlines().left_s(context) == given_s


async def test_an_error_nobody_waits_for_any_more_ends_quietly() -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        raise Unavailable("the store is away")

    async def continuation(details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(answer, request_deserializer=bytes)

    details: Any = Details()
    handler: Any = await CallInterceptor(Deadlines()).intercept_service(continuation, details)
    # grpc logs any other error with all that led to it; a cancelled handler it lets go.
    with pytest.raises(asyncio.CancelledError):
        await handler.unary_unary(b"", FakeContext())
