"""The client's types to protos and back."""

from collections.abc import Iterable
from datetime import UTC, timedelta

from google.protobuf.duration_pb2 import Duration

from shopcast.v1 import (
    event_service_pb2,
    identity_service_pb2,
    prediction_service_pb2,
    privacy_service_pb2,
    types_pb2,
)
from shopcast_client.building import built, duration, number_of, timestamp
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
    Priority,
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

_LEVEL_NUMBERS = {
    one: prediction_service_pb2.ServiceLevel.Value(f"SERVICE_LEVEL_{one.name}")
    for one in ServiceLevel
}
_LEVELS = {number: level for level, number in _LEVEL_NUMBERS.items()}
_PRIORITIES = {
    one: prediction_service_pb2.Priority.Value(f"PRIORITY_{one.name}") for one in Priority
}
_REASONS = {
    prediction_service_pb2.LevelReason.Value(f"LEVEL_REASON_{one.name}"): one for one in LevelReason
}
_KIND_NUMBERS = {one: types_pb2.EventKind.Value(f"EVENT_KIND_{one.name}") for one in EventKind}
_KINDS = {number: kind for kind, number in _KIND_NUMBERS.items()}
_PURPOSE_NUMBERS = {one: types_pb2.Purpose.Value(f"PURPOSE_{one.name}") for one in Purpose}
_PURPOSES = {number: purpose for purpose, number in _PURPOSE_NUMBERS.items()}
_LINK_KIND_NUMBERS = {
    one: identity_service_pb2.LinkKind.Value(f"LINK_KIND_{one.name}") for one in LinkKind
}
_LINK_KINDS = {number: kind for kind, number in _LINK_KIND_NUMBERS.items()}
_CHANGES = {
    identity_service_pb2.IdentityChangeKind.Value(f"IDENTITY_CHANGE_KIND_{one.name}"): one
    for one in ChangeKind
}


def account_message(account: Account, path: str = "account") -> types_pb2.Account:
    """As shopcast.v1 has it. path: of the field it is for. Raises InvalidRequest, as all do here
    that make what is sent."""
    return built(
        types_pb2.Account,
        f"{path}.",
        platform=account.platform,
        platform_user_id=account.user_id,
    )


def item_message(item: Item, path: str = "item") -> types_pb2.Item:
    """As shopcast.v1 has it; None stays unset."""
    return built(
        types_pb2.Item,
        f"{path}.",
        item_id=item.item_id,
        title=item.title,
        brand=item.brand,
        category=item.category,
        price=item.price,
    )


def event_message(event: Event, path: str = "event") -> event_service_pb2.Event:
    """As shopcast.v1 has it."""
    return built(
        event_service_pb2.Event,
        f"{path}.",
        event_id=event.event_id,
        account=account_message(event.account, f"{path}.account"),
        kind=number_of(_KIND_NUMBERS, event.kind, f"{path}.kind"),
        time=timestamp(event.time, f"{path}.time"),
        item=item_message(event.item, f"{path}.item"),
        quantity=event.quantity,
    )


def event_messages(events: Iterable[Event]) -> list[event_service_pb2.Event]:
    """The `events` of a request."""
    return [event_message(event, f"events[{n}]") for n, event in enumerate(events)]


def purpose_value(purpose: Purpose | None, field: str = "purpose") -> types_pb2.Purpose.ValueType:
    """As shopcast.v1 has it."""
    if purpose is None:
        return types_pb2.PURPOSE_UNSPECIFIED
    return number_of(_PURPOSE_NUMBERS, purpose, field)


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
        kind=_KINDS.get(message.kind),
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
    linked = message.link_kind != identity_service_pb2.LINK_KIND_UNSPECIFIED
    return IdentityChange(
        number=message.number,
        time=message.time.ToDatetime(UTC),
        kind=_CHANGES.get(message.kind),
        person_id=message.person_id,
        other_person_id=message.other_person_id or None,
        link_kind=_LINK_KINDS.get(message.link_kind),
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
    return number_of(_LINK_KIND_NUMBERS, kind, "kind")


def predict_request_message(
    request: PredictRequest, path: str = ""
) -> prediction_service_pb2.PredictRequest:
    """As shopcast.v1 has it. path: of it within the request, with a dot behind it."""
    return built(
        prediction_service_pb2.PredictRequest,
        path,
        account=account_message(request.account, f"{path}account"),
        items=[item_message(item, f"{path}items[{n}]") for n, item in enumerate(request.items)],
        quantities=request.quantities,
        purpose=purpose_value(request.purpose, f"{path}purpose"),
        min_link_confidence=request.min_link_confidence,
        lowest_level=number_of(_LEVEL_NUMBERS, request.lowest_level, f"{path}lowest_level"),
        max_history_age=duration(request.max_history_age, f"{path}max_history_age"),
        stage_timings=request.stage_timings,
        priority=None
        if request.priority is None
        else number_of(_PRIORITIES, request.priority, f"{path}priority"),
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


def _timedelta(length: Duration) -> timedelta:
    return timedelta(seconds=length.seconds, microseconds=length.nanos / 1000)
