"""Events: protos to domain objects and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from shopcast.v1 import event_service_pb2
from shopcast_domain.events import Account, Event
from shopcast_gateway.directory.types import EventStatus, HistoryEvent, Purpose, RecordResult
from shopcast_gateway.errors import Violation
from shopcast_gateway.transport.checks import EVENT_KINDS, MAX_EVENTS, PURPOSES, Checks

_STATUSES = {
    EventStatus.RECORDED: event_service_pb2.EVENT_STATUS_RECORDED,
    EventStatus.DUPLICATE: event_service_pb2.EVENT_STATUS_DUPLICATE,
    EventStatus.QUARANTINED: event_service_pb2.EVENT_STATUS_QUARANTINED,
}
_KINDS = {kind: value for value, kind in EVENT_KINDS.items()}
_LATEST_S = 1e11
_HISTORY = 100


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """What to tell of whom. Times: seconds since the epoch."""

    account: Account
    limit: int
    before_s: float
    as_of_s: float | None
    purpose: Purpose | None


def events(batch: Sequence[event_service_pb2.Event], *, now_s: float) -> list[Event | Violation]:
    """Each event, or the first thing that is wrong with it.

    now_s: the server's clock, seconds since the epoch. Raises BadRequest for no batch.
    """
    whole = Checks()
    batch = whole.batch(batch, "events", most=MAX_EVENTS)
    whole.finish()
    found: list[Event | Violation] = []
    for i, message in enumerate(batch):
        checks = Checks()
        event = checks.event(message, f"events[{i}]", now_s)
        found.append(next(iter(checks.violations), event))
    return found


def record_response(
    kind: type[Any], checked: Sequence[Event | Violation], result: RecordResult
) -> Any:
    """What became of a batch, as RecordEventsResponse or StreamEventsResponse have it. result: of
    the valid events of the batch, in their order."""
    statuses = iter(result.statuses)
    results = [
        event_service_pb2.EventResult(
            status=event_service_pb2.EVENT_STATUS_INVALID, field=one.field, problem=one.problem
        )
        if isinstance(one, Violation)
        else event_service_pb2.EventResult(status=_STATUSES[next(statuses)])
        for one in checked
    ]
    return kind(
        recorded=result.recorded,
        duplicates=result.duplicates,
        quarantined=result.quarantined,
        invalid=len(checked) - len(result.statuses),
        results=results,
    )


def history_query(request: event_service_pb2.GetHistoryRequest) -> HistoryQuery:
    """Raises BadRequest."""
    checks = Checks()
    account = checks.account(request.account, "account", given=request.HasField("account"))
    limit = request.limit if request.HasField("limit") else _HISTORY
    if not 1 <= limit <= MAX_EVENTS:
        checks.fail("limit", f"must be 1 to {MAX_EVENTS:,}")
    before_s, as_of_s = checks.moment(request, "before"), checks.moment(request, "as_of")
    purpose = None
    if request.purpose:
        purpose = checks.kind(PURPOSES, request.purpose, "purpose")
    checks.finish()
    return HistoryQuery(
        account, limit, _LATEST_S if before_s is None else before_s, as_of_s, purpose
    )


def history_response(
    events: Sequence[HistoryEvent],
) -> event_service_pb2.GetHistoryResponse:
    """Events as the contract has them."""
    return event_service_pb2.GetHistoryResponse(
        events=[
            event_service_pb2.PastEvent(
                platform=event.platform,
                account_pseudonym=event.account_pseudonym,
                kind=_KINDS[event.kind],  # type: ignore[arg-type]
                item_id=event.item_id,
                title=event.title or "",
                price=event.price,
                quantity=event.quantity,
                time=timestamp(event.time_s),
                recorded=timestamp(event.recorded_s),
                confidence=event.confidence,
            )
            for event in events
        ]
    )


def timestamp(time_s: float) -> Timestamp:
    """Seconds since the epoch, to the microsecond."""
    time = Timestamp()
    time.FromMicroseconds(round(time_s * 1e6))
    return time
