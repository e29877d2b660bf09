"""Calls about what shoppers do."""

import uuid
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from datetime import datetime

from shopcast.v1 import event_service_pb2
from shopcast_client.building import built, timestamp
from shopcast_client.calls import Caller
from shopcast_client.messages import (
    account_message,
    event_messages,
    past_event,
    purpose_value,
    record_result,
)
from shopcast_client.types import Account, Event, PastEvent, Purpose, RecordResult


class EventCalls(Caller):
    """Recording events, and looking at those recorded."""

    async def record_events(self, events: Sequence[Event]) -> RecordResult:
        """Record 1 to 1,000 events; those recorded are on the server's disk on return.

        One that is invalid does not keep the others out: look at `problems` of the result. Events
        recorded before count as duplicates, so a call that failed may be sent again.
        Raises a ShopcastError.
        """
        request = event_service_pb2.RecordEventsRequest(events=event_messages(events))
        response = await self._call(self._connection.event.RecordEvents, request)
        return record_result(response)

    async def stream_events(
        self, batches: AsyncIterable[Sequence[Event]]
    ) -> AsyncIterator[RecordResult]:
        """Record batches of 1 to 1,000 events as they come; one result for each, in their order,
        once it is on the server's disk.

        The next batch is asked for while the server works on one, and no further ahead than gRPC's
        flow control lets it. Has no timeout; batches without a result may be sent again. Leaving
        the loop ends the call once this generator is closed; what was sent by then may be recorded.
        Raises a ShopcastError, and what `batches` raises.
        """

        async def requests() -> AsyncIterator[event_service_pb2.StreamEventsRequest]:
            async for batch in batches:
                yield event_service_pb2.StreamEventsRequest(events=event_messages(batch))

        method = self._connection.event.StreamEvents
        async with self._streamed(method, requests(), uuid.uuid4().hex) as answers:
            async for response in answers:
                yield record_result(response)

    async def history(
        self,
        *,
        platform: str,
        user_id: str,
        limit: int = 100,
        before: datetime | None = None,
        as_of: datetime | None = None,
        purpose: Purpose | None = None,
    ) -> tuple[PastEvent, ...]:
        """The newest events of the person behind an account, over all platforms, newest first.

        as_of: the person and the events as they were known then. purpose: leaves out what the
        person does not allow for it. Raises a ShopcastError.
        """
        request = built(
            event_service_pb2.GetHistoryRequest,
            account=account_message(Account(platform, user_id)),
            limit=limit,
            before=timestamp(before, "before"),
            as_of=timestamp(as_of, "as_of"),
            purpose=purpose_value(purpose),
        )
        response = await self._call(self._connection.event.GetHistory, request)
        return tuple(map(past_event, response.events))
