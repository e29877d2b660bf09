"""The client's types to protos and back."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from shopcast.v1 import (
    event_service_pb2,
    identity_service_pb2,
    prediction_service_pb2,
    privacy_service_pb2,
    types_pb2,
)
from shopcast_client.types import (
    Account,
    ChangeKind,
    Event,
    EventKind,
    EventProblem,
    Evidence,
    IdentityChange,
    Item,
    LevelReason,
    LinkedAccount,
    LinkKind,
    Outcome,
    PastEvent,
    Person,
    PlatformEvidence,
    Prediction,
    PredictRequest,
    PredictResult,
    Purpose,
    Receipt,
    RecordResult,
    ServiceLevel,
    StageTiming,
)

_OUTCOMES = {
    types_pb2.OUTCOME_VIEW: Outcome.VIEW,
    types_pb2.OUTCOME_BUY: Outcome.BUY,
    types_pb2.OUTCOME_RETURN: Outcome.RETURN,
}

_LEVELS = {
    prediction_service_pb2.ServiceLevel.Value(f"SERVICE_LEVEL_{one.name}"): one
    for one in ServiceLevel
}
_REASONS = {
    prediction_service_pb2.LevelReason.Value(f"LEVEL_REASON_{one.name}"): one for one in LevelReason
}
_KINDS = {types_pb2.EventKind.Value(f"EVENT_KIND_{kind.name}"): kind for kind in EventKind}
_PURPOSES = {types_pb2.Purpose.Value(f"PURPOSE_{one.name}"): one for one in Purpose}


def account_message(account: Account) -> types_pb2.Account:
    """As shopcast.v1 has it."""
    return types_pb2.Account(platform=account.platform, platform_user_id=account.user_id)


def item_message(item: Item) -> types_pb2.Item:
    """As shopcast.v1 has it; None stays unset."""
    return types_pb2.Item(
        item_id=item.item_id,
        title=item.title,
        brand=item.brand,
        category=item.category,
        price=item.price,
    )


def event_message(event: Event) -> event_service_pb2.Event:
    """As shopcast.v1 has it."""
    time = Timestamp()
    time.FromDatetime(event.time.astimezone(UTC))
    return event_service_pb2.Event(
        event_id=event.event_id,
        account=account_message(event.account),
        kind=types_pb2.EventKind.Value(f"EVENT_KIND_{event.kind.name}"),
        time=time,
        item=item_message(event.item),
        quantity=event.quantity,
    )


def timestamp(time: datetime | None) -> Timestamp | None:
    """As shopcast.v1 has it. Raises ValueError for a time without a time zone."""
    if time is None:
        return None
    if time.utcoffset() is None:
        raise ValueError("a time needs a time zone, such as datetime.now(UTC) gives")
    message = Timestamp()
    message.FromDatetime(time.astimezone(UTC))
    return message


def purpose_value(purpose: Purpose | None) -> types_pb2.Purpose.ValueType:
    """As shopcast.v1 has it."""
    if purpose is None:
        return types_pb2.PURPOSE_UNSPECIFIED
    return types_pb2.Purpose.Value(f"PURPOSE_{purpose.name}")


def record_result(
    response: event_service_pb2.RecordEventsResponse | event_service_pb2.StreamEventsResponse,
) -> RecordResult:
    """What became of a batch."""
    return RecordResult(
        recorded=response.recorded,
        duplicates=response.duplicates,
        quarantined=response.quarantined,
        problems=tuple(
            EventProblem(n, one.field, one.problem)
            for n, one in enumerate(response.results)
            if one.status == event_service_pb2.EVENT_STATUS_INVALID
        ),
    )


def past_event(message: event_service_pb2.PastEvent) -> PastEvent:
    """In the client's types."""
    return PastEvent(
        platform=message.platform,
        account_pseudonym=message.account_pseudonym,
        kind=_KINDS[message.kind],
        item_id=message.item_id,
        title=message.title or None,
        price=message.price if message.HasField("price") else None,
        quantity=message.quantity,
        time=message.time.ToDatetime(UTC),
        recorded=message.recorded.ToDatetime(UTC),
        confidence=message.confidence,
    )


def identity_change(message: identity_service_pb2.IdentityChange) -> IdentityChange:
    """In the client's types."""
    name = identity_service_pb2.IdentityChangeKind.Name(message.kind)
    kind = identity_service_pb2.LinkKind.Name(message.link_kind)
    linked = message.link_kind != identity_service_pb2.LINK_KIND_UNSPECIFIED
    return IdentityChange(
        number=message.number,
        time=message.time.ToDatetime(UTC),
        kind=ChangeKind[name.removeprefix("IDENTITY_CHANGE_KIND_")],
        person_id=message.person_id,
        other_person_id=message.other_person_id or None,
        link_kind=LinkKind[kind.removeprefix("LINK_KIND_")] if linked else None,
        confidence=message.confidence if linked else None,
        source=message.source if linked else None,
    )


def consents(
    platforms: Iterable[privacy_service_pb2.PlatformConsent],
) -> dict[str, dict[Purpose, bool]]:
    """By platform."""
    return {
        one.platform: {
            _PURPOSES[said.purpose]: said.allowed
            for said in one.consents
            if said.purpose in _PURPOSES
        }
        for one in platforms
    }


def receipt(response: privacy_service_pb2.ErasePersonResponse) -> Receipt | None:
    """None for an account never seen."""
    if not response.known:
        return None
    return Receipt(
        person_id=response.person_id,
        time=response.time.ToDatetime(UTC),
        platforms=tuple(response.platforms),
        accounts=response.accounts,
        events=response.events,
        links=response.links,
        journal_entries=response.journal_entries,
        model_versions=tuple(response.model_versions),
    )


def link_kind_value(kind: LinkKind) -> identity_service_pb2.LinkKind.ValueType:
    """As shopcast.v1 has it."""
    return identity_service_pb2.LinkKind.Value(f"LINK_KIND_{kind.name}")


def predict_request_message(request: PredictRequest) -> prediction_service_pb2.PredictRequest:
    """As shopcast.v1 has it."""
    level = f"SERVICE_LEVEL_{request.lowest_level.name}"
    priority = request.priority.name if request.priority else "UNSPECIFIED"
    return prediction_service_pb2.PredictRequest(
        account=account_message(request.account),
        items=map(item_message, request.items),
        quantities=request.quantities,
        purpose=purpose_value(request.purpose),
        min_link_confidence=request.min_link_confidence,
        lowest_level=prediction_service_pb2.ServiceLevel.Value(level),
        max_history_age=_duration(request.max_history_age),
        stage_timings=request.stage_timings,
        priority=prediction_service_pb2.Priority.Value(f"PRIORITY_{priority}"),
    )


def predict_result(response: prediction_service_pb2.PredictResponse) -> PredictResult:
    """The answer in the client's types."""
    return PredictResult(
        predictions=tuple(
            Prediction(
                item_id=one.item_id,
                view_probability=one.view_probability,
                buy_probability=one.buy_probability,
                return_probability=one.return_probability,
                item_known=one.item_known,
                text_known=one.text_known,
            )
            for one in response.predictions
        ),
        evidence=_evidence(response.evidence),
    )


def person(
    response: identity_service_pb2.ResolvePersonResponse | identity_service_pb2.ResolvedPerson,
) -> Person | None:
    """None for an account never seen."""
    if not response.known:
        return None
    return Person(
        person_id=response.person_id,
        accounts=tuple(
            LinkedAccount(one.platform, one.account_pseudonym) for one in response.accounts
        ),
    )


def _evidence(message: prediction_service_pb2.Evidence) -> Evidence:
    newest = message.newest_event_age if message.HasField("newest_event_age") else None
    return Evidence(
        prediction_id=message.prediction_id,
        model_version=message.model_version,
        encoder_version=message.encoder_version,
        # A newer server may know outcomes this client does not.
        trained_outcomes=tuple(
            _OUTCOMES[value] for value in message.trained_outcomes if value in _OUTCOMES
        ),
        person_known=message.person_known,
        platforms=tuple(
            PlatformEvidence(use.platform, use.events_used, _timedelta(use.newest_event_age))
            for use in message.platforms
        ),
        events_used=message.events_used,
        newest_event_age=None if newest is None else _timedelta(newest),
        texts_encoded=message.texts_encoded,
        suppressed_platforms=tuple(message.suppressed_platforms),
        uncertain_events_used=message.uncertain_events_used,
        level=_LEVELS.get(message.level, ServiceLevel.FULL),
        level_reason=_REASONS.get(message.level_reason),
        history_age=_timedelta(message.history_age) if message.HasField("history_age") else None,
        stage_timings=tuple(
            StageTiming(one.stage, _timedelta(one.duration)) for one in message.stage_timings
        ),
    )


def _duration(age: timedelta | None) -> Duration | None:
    if age is None:
        return None
    duration = Duration()
    duration.FromTimedelta(age)
    return duration


def _timedelta(duration: Duration) -> timedelta:
    return timedelta(seconds=duration.seconds, microseconds=duration.nanos / 1000)
