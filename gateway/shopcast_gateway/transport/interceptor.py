"""What every call goes through: request id, deadline, errors to statuses, one log line."""

import asyncio
import json
import logging
import math
import re
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from shopcast_gateway.core.room import Room
from shopcast_gateway.core.stages import SPENT, Spent
from shopcast_gateway.errors import (
    BadRequest,
    DeadlineExpired,
    GatewayError,
    Overloaded,
    Unavailable,
)
from shopcast_gateway.frames import frames_of
from shopcast_gateway.transport.audit import audit
from shopcast_gateway.transport.authentication import Caller
from shopcast_gateway.transport.authorisation import Access
from shopcast_gateway.transport.backlog import Backlog
from shopcast_gateway.transport.recording import CallRecorder, Tracer, UncountedCalls
from shopcast_gateway.transport.requests import until
from shopcast_gateway.transport.status import status_of

REQUEST_ID_KEY = "x-request-id"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_MARGIN, _MOST_MARGIN_S = 0.05, 0.02
_access = logging.getLogger("shopcast_gateway.access")
_log = logging.getLogger("shopcast_gateway.transport")

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a call may take, or each request of a stream. default_s: when the caller set no
    deadline. max_s: at most.

    Of a caller's deadline a margin is left for the way back: 5 %, 20 ms at most.
    """

    default_s: float = 5.0
    max_s: float = 60.0

    def left_s(self, context: Context, call: "Call | None" = None) -> float:
        """Seconds left for a call, 0 or more; of a call that began just now, without one."""
        gone_s = time.monotonic() - call.began_s if call else 0.0
        # Typed as float; without a deadline grpc gives None.
        left: float | None = context.time_remaining()
        if left is None:
            return max(self.default_s - gone_s, 0.0)
        return max(min(left - min(_MARGIN * left, _MOST_MARGIN_S), self.max_s - gone_s), 0.0)

    def each_s(self, context: Context) -> float:
        """Seconds for a request of a stream that has just been read."""
        return min(self.default_s, self.left_s(context))


@dataclass(frozen=True, slots=True)
class Call:
    """A call being answered. method: its full name. request_id: the caller's, or ours. began_s: by
    time.monotonic."""

    method: str
    request_id: str
    began_s: float


CALL: ContextVar[Call] = ContextVar("shopcast_call")
"""The call that what runs now belongs to."""


@contextmanager
def foreseen() -> Iterator[None]:
    """Whatever goes wrong inside a call becomes a GatewayError; what nobody foresaw is logged."""
    try:
        yield
    except (grpc.aio.AbortError, GatewayError):
        raise
    except (asyncio.CancelledError, Exception) as unforeseen:
        task = asyncio.current_task()
        if isinstance(unforeseen, asyncio.CancelledError) and (task is None or task.cancelling()):
            raise  # the call itself was; else what it waited for was, and grpc would say nothing
        _log_unforeseen(unforeseen, CALL.get())
        raise GatewayError from None


@dataclass(frozen=True, slots=True)
class _Method:
    """One of our methods: how its bytes are read and what answers it."""

    name: str
    parse: Callable[[bytes], Any]
    answer: Callable[[Any, Context], Any]


class _Refused:
    """Calls that are refused before their request is read: the busier we are, the more of them
    there are, and the less one may cost. The log has a line a second for all of them, the audit
    one for each that is administrative."""

    def __init__(self) -> None:
        self._count, self._told = 0, -math.inf

    def handler(self, name: str, refusal: GatewayError) -> Handler:
        """Answers with the refusal, whatever kind the method of that name is of."""
        self._count += 1
        if (now := time.monotonic()) - self._told >= 1.0:
            _log.warning("refused calls=%d: %s", self._count, refusal)
            self._count, self._told = 0, now

        async def refuse(_: AsyncIterator[bytes], context: Context) -> None:
            request_id = _request_id(context)
            status = rpc_status.to_status(status_of(refusal, request_id))
            audit(name, status.code, "-", request_id)
            await _abort(context, status)

        # grpc reads the request of a unary method before it asks us, that of a stream when we do.
        return grpc.stream_unary_rpc_method_handler(refuse)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the calls of shopcast.v1, and with `access` those of reflection; health passes
    untouched. access: None admits everybody."""

    def __init__(
        self,
        deadlines: Deadlines,
        backlog: Backlog,
        refusals: Mapping[str, Callable[[int], Overloaded | None]],
        rooms: Mapping[str, Room],
        access: Access | None = None,
        recorder: CallRecorder | None = None,
        tracer: Tracer | None = None,
        draining: asyncio.Event | None = None,
    ) -> None:
        """refusals: by method, what any call would meet now, given how many wait to be taken up.
        rooms: by method, for unary ones; what has none is bounded elsewhere, or not at all.
        recorder: is told of all calls but those of health, and of reflection without `access`;
        tracer, too, but of none that is refused early. draining: once set, new calls are refused,
        and streams of requests not read further."""
        self._deadlines, self._backlog, self._refusals = deadlines, backlog, refusals
        self._refused, self._rooms = _Refused(), rooms
        self._access = access
        self._recorder: CallRecorder = recorder or UncountedCalls()
        self._tracer = tracer
        self._draining = draining or asyncio.Event()
        self.running = 0
        """Calls that have begun and are not over."""

    async def catch_up(self) -> None:
        """Return once the calls that have arrived have been taken up, in half a second at most."""
        for _ in range(100):
            if not self._backlog.waiting(self.running):
                return
            await asyncio.sleep(0.005)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler, wrapped where it is one of ours."""
        name = handler_call_details.method
        waiting = self._backlog.take_up(self.running)
        if self._draining.is_set() and name.startswith("/shopcast."):
            self._recorder.refused(name, grpc.StatusCode.UNAVAILABLE.name)
            return self._refused.handler(name, Unavailable("the gateway drains"))
        refuse = self._refusals.get(name)
        if refuse is not None and (refusal := refuse(waiting)):
            self._recorder.refused(name, grpc.StatusCode.RESOURCE_EXHAUSTED.name)
            return self._refused.handler(name, refusal)
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            self._recorder.refused(name, grpc.StatusCode.UNIMPLEMENTED.name)
            audit(name, grpc.StatusCode.UNIMPLEMENTED, "-", "-")  # of the other port, perhaps
            return None
        guarded = self._access is not None and self._access.guards(name)
        if not (guarded or name.startswith("/shopcast.")):
            return handler
        # Without a deserialiser the bytes arrive here, so that what is no message of ours becomes
        # a BadRequest too.
        serialise = {
            "request_deserializer": None,
            "response_serializer": handler.response_serializer,
        }
        if not handler.response_streaming:
            method = _Method(name, handler.request_deserializer, handler.unary_unary)

            async def call(data: bytes, context: Context) -> Any:
                async with self._watched(name, context):
                    return await self._answer(method, data, context)

            return grpc.unary_unary_rpc_method_handler(call, **serialise)
        streaming = handler.stream_stream if handler.request_streaming else handler.unary_stream
        method = _Method(name, handler.request_deserializer, streaming)

        async def stream(asked: Any, context: Context) -> AsyncIterator[Any]:
            # What a stream has running ends with it, not when its memory is collected.
            async with self._watched(name, context) as caller, AsyncExitStack() as stack:
                if self._access and caller and handler.request_streaming:
                    asked = await stack.enter_async_context(
                        aclosing(self._access.messages(caller, name, asked))
                    )
                responses = await stack.enter_async_context(
                    aclosing(_answers(method, asked, context, self._draining))
                )
                async for response in responses:
                    if self._access and caller:
                        self._access.still(caller, name)
                    yield response

        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(stream, **serialise)
        return grpc.unary_stream_rpc_method_handler(stream, **serialise)

    @asynccontextmanager
    async def _watched(self, name: str, context: Context) -> AsyncIterator[Caller | None]:
        """Lets the caller in. What goes wrong inside becomes the status of the call, and the call a
        line in the log."""
        request_id, began_s = _request_id(context), time.monotonic()
        self._recorder.began(name)
        # Never reset: grpc gives each call a task of its own.
        CALL.set(Call(name, request_id, began_s))
        trace = None
        if self._tracer:
            metadata = context.invocation_metadata() or ()
            trace = self._tracer.begin(name, metadata, request_id)
            SPENT.set(Spent(trace.traceparent))
        spent = SPENT.get()
        code, error, caller, begun = grpc.StatusCode.OK, None, None, ""
        self.running += 1
        try:
            if self._access:
                async with self._in_time(context):
                    caller = await self._access.caller(context)
                    self._access.admit(caller, name)
            begun = name
            yield caller
        except GatewayError as caught:
            error = caught
            status = rpc_status.to_status(status_of(error, request_id, begun))
            code = status.code
            await _abort(context, status)
        except (asyncio.CancelledError, GeneratorExit):
            # grpc cancels the handler when the caller hangs up or the caller's deadline passes, and
            # drops one that waited for a response of its stream to be sent.
            late = context.time_remaining() == 0
            code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            raise
        finally:
            duration_s = time.monotonic() - began_s
            self._recorder.ended(name, code.name, duration_s)
            if trace and spent:
                trace.end(code.value[0], spent)
            self.running -= 1
            _access.info(
                "method=%s code=%s duration_ms=%.1f request_id=%s%s%s",
                name,
                code.name,
                duration_s * 1000,
                request_id,
                f" caller={caller.name}" if caller else "",
                f" error={json.dumps(str(error))}" if error and str(error) else "",
            )
            audit(name, code, caller.name if caller else "-", request_id)

    async def _answer(self, method: _Method, data: bytes, context: Context) -> Any:
        """The response. Raises GatewayError, whatever went wrong, unless the call has ended."""
        async with self._in_time(context):
            with self._admitted(method.name, context):
                return await method.answer(_parse(method, data), context)

    @contextmanager
    def _admitted(self, name: str, context: Context) -> Iterator[None]:
        """Raises Overloaded where the method's room is full, or a call in it would be late."""
        if (room := self._rooms.get(name)) is None:
            yield
            return
        timeout_s = self._deadlines.left_s(context, CALL.get())
        room.expect(timeout_s)
        if refusal := room.refusal(1, timeout_s=timeout_s):
            raise refusal
        with room.take(1):
            yield

    @asynccontextmanager
    async def _in_time(self, context: Context) -> AsyncIterator[None]:
        """As foreseen, and what is too late raises DeadlineExpired."""
        with foreseen():
            try:
                async with asyncio.timeout(self._deadlines.left_s(context, CALL.get())):
                    yield
            except TimeoutError:
                raise DeadlineExpired from None


async def _abort(context: Context, status: Any) -> None:
    """End a call with a status, whether the caller is still there or not."""
    try:
        await context.abort_with_status(status)
    except grpc.aio.InternalError:
        # The caller has gone meanwhile. grpc would log this with all that led to it.
        raise asyncio.CancelledError from None


async def _answers(
    method: _Method, asked: Any, context: Context, draining: asyncio.Event
) -> AsyncGenerator[Any, None]:
    """The responses of a stream. Raises GatewayError, whatever went wrong, unless the call has
    ended. asked: the bytes of a request, or an iterator of them."""

    async def requests() -> AsyncGenerator[Any, None]:
        async with aclosing(until(draining, asked)) as read:
            async for data in read:
                yield _parse(method, data)

    with foreseen():
        async with AsyncExitStack() as stack:
            if isinstance(asked, bytes):
                given = _parse(method, asked)
            else:
                given = await stack.enter_async_context(aclosing(requests()))
            responses = await stack.enter_async_context(aclosing(method.answer(given, context)))
            async for response in responses:
                yield response


def _request_id(context: Context) -> str:
    """The caller's request id where it is a decent one, else one of ours."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex


def _parse(method: _Method, data: bytes) -> Any:
    try:
        return method.parse(data)
    except DecodeError:
        raise BadRequest("request", "must be a message of shopcast.v1") from None


def _log_unforeseen(error: BaseException, call: Call) -> None:
    _log.error(
        "unforeseen error method=%s request_id=%s: %s",
        call.method,
        call.request_id,
        frames_of(error),
    )
