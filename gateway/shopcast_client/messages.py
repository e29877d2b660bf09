"""The client's types to protos and back."""

from datetime import UTC, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from shopcast.v1 import (
    event_service_pb2,
    identity_service_pb2,
    prediction_service_pb2,
    types_pb2,
)
from shopcast_client.types import (
    Account,
    Event,
    Evidence,
    Item,
    LinkedAccount,
    LinkKind,
    Outcome,
    Person,
    PlatformEvidence,
    Prediction,
    PredictResult,
)

_OUTCOMES = {
    types_pb2.OUTCOME_VIEW: Outcome.VIEW,
    types_pb2.OUTCOME_BUY: Outcome.BUY,
    types_pb2.OUTCOME_RETURN: Outcome.RETURN,
}


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


def link_kind_value(kind: LinkKind) -> identity_service_pb2.LinkKind.ValueType:
    """As shopcast.v1 has it."""
    return identity_service_pb2.LinkKind.Value(f"LINK_KIND_{kind.name}")


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


def person(response: identity_service_pb2.ResolvePersonResponse) -> Person | None:
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
    )


def _timedelta(duration: Duration) -> timedelta:
    return timedelta(seconds=duration.seconds, microseconds=duration.nanos / 1000)
