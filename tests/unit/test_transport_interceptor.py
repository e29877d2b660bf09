"""What a call goes through, with a fake of grpc's side."""

import asyncio
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from shopcast_gateway.errors import Overloaded, Unavailable
from shopcast_gateway.transport.audit import LOGGER
from shopcast_gateway.transport.authentication import Caller
from shopcast_gateway.transport.interceptor import CALL, Call, CallInterceptor, Deadlines


class FakeContext:
    """A call with some time left, whose caller may have gone."""

    def __init__(self, left_s: float | None = 1.0, request_id: str | None = None) -> None:
        self._left_s = left_s
        self._request_id = request_id

    def time_remaining(self) -> float | None:
        return self._left_s

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return () if self._request_id is None else (("x-request-id", self._request_id),)

    async def abort_with_status(self, status: grpc.Status) -> None:
        raise grpc.aio.InternalError("the call is over")


class WaitingContext(FakeContext):
    """A call whose caller is there to be told its status."""

    code: grpc.StatusCode | None = None

    async def abort_with_status(self, status: grpc.Status) -> None:
        self.code = status.code
        raise grpc.aio.AbortError


class NoBacklog:
    """Nobody waits."""

    def take_up(self, running: int) -> int:
        return 0


BACKLOG: Any = NoBacklog()
CALLS = CallInterceptor(Deadlines(), BACKLOG, {}, {})


class Details:
    method = "/shopcast.v1.PredictionService/Predict"


@pytest.mark.parametrize(
    ("left_s", "given_s"), [(None, 5.0), (0.2, 0.19), (2.0, 1.98), (3600.0, 60.0), (0, 0)]
)
def test_time_is_the_callers_less_a_margin_the_default_or_the_cap(
    left_s: float | None, given_s: float
) -> None:
    context: Any = FakeContext(left_s)
    assert Deadlines().left_s(context) == pytest.approx(given_s)


@pytest.mark.parametrize("left_s", [None, 3600.0])
async def test_what_access_took_of_the_default_or_the_cap_is_gone(left_s: float | None) -> None:
    class Slow:
        def guards(self, method: str) -> bool:
            return True

        async def caller(self, context: Any) -> Caller:
            await asyncio.sleep(0.05)
            return Caller("shop")

        def admit(self, caller: Caller, method: str) -> None:
            pass

    access: Any = Slow()
    deadlines = Deadlines(default_s=5.0, max_s=5.0)
    calls = CallInterceptor(deadlines, BACKLOG, {}, {}, access)

    async def answer(request: bytes, context: Any) -> float:
        return deadlines.left_s(context, CALL.get())

    async def continuation(details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(answer, request_deserializer=bytes)

    details: Any = Details()
    handler: Any = await calls.intercept_service(continuation, details)
    assert await handler.unary_unary(b"", FakeContext(left_s)) <= 4.95


async def test_an_error_nobody_waits_for_any_more_ends_quietly() -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        raise Unavailable("the store is away")

    async def continuation(details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(answer, request_deserializer=bytes)

    details: Any = Details()
    handler: Any = await CALLS.intercept_service(continuation, details)
    # grpc logs any other error with all that led to it; a cancelled handler it lets go.
    with pytest.raises(asyncio.CancelledError):
        await handler.unary_unary(b"", FakeContext())


async def test_a_refusal_nobody_waits_for_any_more_ends_quietly() -> None:
    full = CallInterceptor(
        Deadlines(),
        BACKLOG,
        {Details.method: lambda _: Overloaded("full", retry_after_s=1.0)},
        {},
    )
    unasked: Any = None
    details: Any = Details()
    handler: Any = await full.intercept_service(unasked, details)
    with pytest.raises(asyncio.CancelledError):
        await handler.stream_unary(None, FakeContext())


@pytest.mark.parametrize("streams", [False, True])
async def test_who_calls_is_found_within_the_deadline_of_the_call(streams: bool) -> None:
    class Slow:
        def guards(self, method: str) -> bool:
            return True

        async def caller(self, context: Any) -> Caller:
            await asyncio.Event().wait()
            raise AssertionError

    slow: Any = Slow()
    calls = CallInterceptor(Deadlines(), BACKLOG, {}, {}, access=slow)
    unasked: Any = None

    async def continuation(details: Any) -> Any:
        if streams:
            return grpc.unary_stream_rpc_method_handler(unasked, request_deserializer=bytes)
        return grpc.unary_unary_rpc_method_handler(unasked, request_deserializer=bytes)

    details: Any = Details()
    context, handler = WaitingContext(0.02), await calls.intercept_service(continuation, details)
    with pytest.raises(grpc.aio.AbortError):
        async with asyncio.timeout(5):
            if streams:
                await anext(handler.unary_stream(b"", context))
            else:
                await handler.unary_unary(b"", context)
    assert context.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_an_administrative_call_that_is_refused_while_draining_is_audited(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    (draining := asyncio.Event()).set()
    calls = CallInterceptor(Deadlines(), BACKLOG, {}, {}, draining=draining)
    unasked: Any = None
    for method in ("PrivacyService/ErasePerson", "PredictionService/Predict"):
        details: Any = SimpleNamespace(method=f"/shopcast.v1.{method}")
        handler: Any = await calls.intercept_service(unasked, details)
        with pytest.raises(grpc.aio.AbortError):
            await handler.stream_unary(None, WaitingContext(request_id="r-1"))
    assert [one.getMessage() for one in caplog.records if one.name == LOGGER] == [
        "method=/shopcast.v1.PrivacyService/ErasePerson code=UNAVAILABLE caller=- request_id=r-1"
    ]


async def test_what_a_call_starts_knows_which_call_it_belongs_to() -> None:
    async def answer(request: bytes, context: Any) -> Call:
        await asyncio.sleep(0)  # the other call begins meanwhile
        return await asyncio.create_task(current())

    async def current() -> Call:
        return CALL.get()

    async def continuation(details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(answer, request_deserializer=bytes)

    details: Any = Details()
    handler: Any = await CALLS.intercept_service(continuation, details)
    contexts = (FakeContext(request_id=one) for one in ("r-1", "r-2"))
    calls = await asyncio.gather(*(handler.unary_unary(b"", context) for context in contexts))
    assert [(one.method, one.request_id) for one in calls] == [
        (Details.method, "r-1"),
        (Details.method, "r-2"),
    ]


async def test_a_stream_that_is_dropped_ends_what_it_runs_and_is_no_success(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "shopcast_gateway.access")
    ended = []

    async def answer(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield b"first"
            yield b"second"
        finally:
            ended.append(request)

    async def continuation(details: Any) -> Any:
        return grpc.unary_stream_rpc_method_handler(answer, request_deserializer=bytes)

    details: Any = Details()
    handler: Any = await CALLS.intercept_service(continuation, details)
    responses = handler.unary_stream(b"asked", FakeContext())
    assert await anext(responses) == b"first"
    await responses.aclose()
    assert ended == [b"asked"]
    assert "code=CANCELLED" in caplog.text
