"""The client: one channel, four calls."""

import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc
from google.protobuf.message import Message

from shopcast.v1 import (
    event_service_pb2,
    event_service_pb2_grpc,
    identity_service_pb2,
    identity_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
)
from shopcast_client.errors import InvalidRequest, error_from
from shopcast_client.messages import (
    account_message,
    event_message,
    item_message,
    link_kind_value,
    person,
    predict_result,
)
from shopcast_client.retries import SERVICE_CONFIG
from shopcast_client.types import (
    Account,
    Event,
    Item,
    LinkKind,
    LinkResult,
    Person,
    PredictResult,
    RecordResult,
)

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""What the server accepts in one message."""

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


class ShopcastClient:
    """Calls a Shopcast server; an async context manager, for one event loop.

    Keep one open for as long as you make calls and share it between tasks. Every call raises a
    ShopcastError and no other error of the network's; UNAVAILABLE is retried within the timeout.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = 2.0,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Names the server; `async with` connects.

        target: "host:port", or any gRPC target. timeout_s: for a whole call, retries included.
        credentials: such as grpc.ssl_channel_credentials(); None is plain text.
        """
        self._target = target
        self._timeout_s = timeout_s
        self._credentials = credentials
        self._open: _Connection | None = None

    async def __aenter__(self) -> Self:
        options = [("grpc.service_config", SERVICE_CONFIG)]
        if self._credentials is None:
            channel = grpc.aio.insecure_channel(self._target, options)
        else:
            channel = grpc.aio.secure_channel(self._target, self._credentials, options)
        self._open = _Connection(channel)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        connection, self._open = self._connection, None
        await connection.channel.close()

    async def predict(
        self,
        *,
        platform: str,
        user_id: str,
        items: Sequence[Item],
        quantities: Sequence[int] = (),
    ) -> PredictResult:
        """What the shopper would do with each of 1 to 1,000 items, met on `platform` now.

        quantities: pieces of each item when they are the lines of an order being placed.
        Unknown shoppers and items are answered too, and the evidence says so.
        Raises a ShopcastError.
        """
        request = prediction_service_pb2.PredictRequest(
            account=account_message(Account(platform, user_id)),
            items=[item_message(item) for item in items],
            quantities=quantities,
        )
        return predict_result(await self._call(self._connection.prediction.Predict, request))

    async def record_events(self, events: Sequence[Event]) -> RecordResult:
        """Record 1 to 1,000 events, all or none; they are on the server's disk on return.

        Events recorded before count as duplicates, so a call that failed may be sent again.
        Raises a ShopcastError.
        """
        request = event_service_pb2.RecordEventsRequest(
            events=[event_message(event) for event in events]
        )
        response = await self._call(self._connection.event.RecordEvents, request)
        return RecordResult(response.recorded, response.duplicates)

    async def link_accounts(
        self, account: Account, other: Account, *, kind: LinkKind, confidence: float = 1.0
    ) -> LinkResult:
        """State that two accounts belong to one person; their histories are read as one from then.

        confidence: greater than 0, at most 1. Linking twice changes nothing.
        Raises a ShopcastError.
        """
        request = identity_service_pb2.LinkAccountsRequest(
            account=account_message(account),
            other=account_message(other),
            kind=link_kind_value(kind),
            confidence=confidence,
        )
        response = await self._call(self._connection.identity.LinkAccounts, request)
        return LinkResult(response.person_id, response.merged)

    async def resolve_person(self, *, platform: str, user_id: str) -> Person | None:
        """The person behind an account; None when the account has never been seen.

        Raises a ShopcastError.
        """
        request = identity_service_pb2.ResolvePersonRequest(
            account=account_message(Account(platform, user_id))
        )
        return person(await self._call(self._connection.identity.ResolvePerson, request))

    @property
    def _connection(self) -> "_Connection":
        if self._open is None:
            raise RuntimeError("The client is closed: make calls inside `async with client`.")
        return self._open

    async def _call(self, method: grpc.aio.UnaryUnaryMultiCallable[Q, A], request: Q) -> A:
        # Sent along, so that the server's log can be searched for a call that got no answer.
        request_id = uuid.uuid4().hex
        size = request.ByteSize()
        if size > MAX_MESSAGE_BYTES:
            raise InvalidRequest(
                f"The request has {size:,} bytes and {MAX_MESSAGE_BYTES:,} is the most: "
                "send fewer items or events in one call.",
                reason="REQUEST_TOO_LARGE",
                request_id=request_id,
            )
        try:
            return await method(
                request, timeout=self._timeout_s, metadata=(("x-request-id", request_id),)
            )
        except grpc.aio.AioRpcError as failure:
            raise error_from(
                failure,
                target=self._target,
                request_id=request_id,
                timeout_s=self._timeout_s,
            ) from failure


class _Connection:
    """An open channel and what is called over it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self.event = event_service_pb2_grpc.EventServiceStub(channel)
        self.identity = identity_service_pb2_grpc.IdentityServiceStub(channel)
