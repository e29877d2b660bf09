"""How a call is made: request id, timeout, errors of ours."""

import asyncio
import uuid
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from shopcast.v1 import (
    event_service_pb2_grpc,
    identity_service_pb2_grpc,
    model_admin_service_pb2_grpc,
    prediction_service_pb2_grpc,
    privacy_service_pb2_grpc,
)
from shopcast_client.errors import InvalidRequest, NotAuthorised, Unavailable, error_from
from shopcast_client.tokens import TokenFile

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""What the server accepts in one message."""

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


class Connection:
    """An open channel and what is called over it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self.event = event_service_pb2_grpc.EventServiceStub(channel)
        self.identity = identity_service_pb2_grpc.IdentityServiceStub(channel)
        self.model_admin = model_admin_service_pb2_grpc.ModelAdminServiceStub(channel)
        self.privacy = privacy_service_pb2_grpc.PrivacyServiceStub(channel)


class Caller:
    """What the calls of every service need. target: any gRPC target. timeout_s: of a whole call.
    token_file: of the token that goes with each."""

    _target: str
    _timeout_s: float
    _token_file: TokenFile | None
    _open: Connection | None

    @property
    def _connection(self) -> Connection:
        if self._open is None:
            raise RuntimeError("The client is closed: make calls inside `async with client`.")
        return self._open

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Q, A],
        request: Q,
        *,
        request_id: str | None = None,
    ) -> A:
        # Sent along, so that the server's log can be searched for a call that got no answer.
        request_id = request_id or uuid.uuid4().hex
        check_size(request, request_id)
        async with self._errors(request_id):
            return await method(
                request, timeout=self._timeout_s, metadata=self._metadata(request_id)
            )

    @asynccontextmanager
    async def _streamed(
        self,
        method: grpc.aio.StreamStreamMultiCallable[Q, A],
        requests: AsyncIterable[Q],
        request_id: str,
    ) -> AsyncIterator[AsyncIterable[A]]:
        """The answers to requests as they come, until the block is left. Raises what `requests`
        raises, and InvalidRequest for one that is too large."""
        failed: list[Exception] = []

        async def sent() -> AsyncIterator[Q]:
            try:
                async for request in requests:
                    check_size(request, request_id)
                    yield request
            except Exception as error:
                failed.append(error)
                raise

        async with self._errors(request_id):
            call = method(sent(), metadata=self._metadata(request_id))
            try:
                yield call
            except asyncio.CancelledError:
                # grpc cancels the call where its requests fail, and says no more.
                if failed:
                    raise failed[0] from None
                raise
            finally:
                call.cancel()

    def _metadata(self, request_id: str) -> tuple[tuple[str, str], ...]:
        """What goes with a call. Raises NotAuthorised where its token cannot be read."""
        sent = (("x-request-id", request_id),)
        if self._token_file is None:
            return sent
        try:
            return (*sent, ("authorization", f"Bearer {self._token_file.read()}"))
        except OSError as error:
            problem = f"{error.filename} cannot be read ({error.strerror})."
        except ValueError as error:
            problem = str(error)
        raise NotAuthorised(
            f"The call was not made: {problem}", reason="NO_TOKEN", request_id=request_id
        )

    @asynccontextmanager
    async def _errors(self, request_id: str) -> AsyncIterator[None]:
        """What gRPC raises inside becomes a ShopcastError."""
        opened, task = self._open, asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            # grpc ends the calls of a channel that is closed as if their tasks were cancelled, and
            # who runs them would take them for that.
            if self._open is opened or task is None or task.cancelling():
                raise
            raise Unavailable(
                "The client was closed before the call was over.",
                reason="CLOSED",
                request_id=request_id,
            ) from None
        except grpc.aio.AioRpcError as failure:
            raise error_from(
                failure,
                target=self._target,
                request_id=request_id,
                timeout_s=self._timeout_s,
            ) from failure


def check_size(request: Message, request_id: str) -> None:
    """Raises InvalidRequest for a message that the server would not take."""
    size = request.ByteSize()
    if size > MAX_MESSAGE_BYTES:
        raise InvalidRequest(
            f"The request has {size:,} bytes and {MAX_MESSAGE_BYTES:,} is the most: "
            "send fewer items or events in one call.",
            reason="REQUEST_TOO_LARGE",
            request_id=request_id,
        )
