"""Protos to domain objects and back. Pure: a request converts whole or is a BadRequest."""

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from shopcast.v1 import (
    event_service_pb2,
    identity_service_pb2,
    prediction_service_pb2,
    types_pb2,
)
from shopcast_domain.events import Account, Event, Item, Outcome
from shopcast_domain.limits import MAX_CANDIDATES
from shopcast_gateway.core.protocol import Evidence, Prediction, PredictQuery
from shopcast_gateway.directory.types import LinkKind, LinkResult, Person, RecordResult
from shopcast_gateway.transport.checks import MAX_EVENTS, Checks

LINK_KINDS: Mapping[int, LinkKind] = {
    identity_service_pb2.LINK_KIND_LOGIN: LinkKind.LOGIN,
    identity_service_pb2.LINK_KIND_HASHED_EMAIL: LinkKind.HASHED_EMAIL,
    identity_service_pb2.LINK_KIND_HASHED_PHONE: LinkKind.HASHED_PHONE,
    identity_service_pb2.LINK_KIND_DEVICE: LinkKind.DEVICE,
    identity_service_pb2.LINK_KIND_PROBABILISTIC: LinkKind.PROBABILISTIC,
}
OUTCOMES = {
    Outcome.VIEW: types_pb2.OUTCOME_VIEW,
    Outcome.BUY: types_pb2.OUTCOME_BUY,
    Outcome.RETURN: types_pb2.OUTCOME_RETURN,
}


@dataclass(frozen=True, slots=True)
class LinkQuery:
    """Two different accounts stated to be one person's. confidence: over 0, at most 1."""

    account: Account
    other: Account
    kind: LinkKind
    confidence: float


def predict_query(request: prediction_service_pb2.PredictRequest) -> PredictQuery:
    """Raises BadRequest."""
    checks = Checks()
    account = checks.account(request.account, "account", given=request.HasField("account"))
    items: list[Item] = []
    first_at: dict[str, int] = {}
    for i, message in enumerate(checks.batch(request.items, "items", most=MAX_CANDIDATES)):
        item = checks.item(message, f"items[{i}]")
        first = first_at.setdefault(item.item_id, i)
        if item.item_id and first != i:
            checks.fail(f"items[{i}].item_id", f"repeats items[{first}].item_id")
        items.append(item)
    if len(request.quantities) not in (0, len(request.items)):
        checks.fail("quantities", "must be empty, or as many as items")
    for i, quantity in enumerate(request.quantities[:MAX_CANDIDATES]):
        checks.quantity(quantity, f"quantities[{i}]")
    checks.finish()
    return PredictQuery(account, tuple(items), tuple(request.quantities))


def events(request: event_service_pb2.RecordEventsRequest, *, now_s: float) -> tuple[Event, ...]:
    """now_s: the server's clock, seconds since the epoch. Raises BadRequest."""
    checks = Checks()
    batch = checks.batch(request.events, "events", most=MAX_EVENTS)
    found = tuple(checks.event(event, f"events[{i}]", now_s) for i, event in enumerate(batch))
    checks.finish()
    return found


def link_query(request: identity_service_pb2.LinkAccountsRequest) -> LinkQuery:
    """Raises BadRequest."""
    checks = Checks()
    account = checks.account(request.account, "account", given=request.HasField("account"))
    other = checks.account(request.other, "other", given=request.HasField("other"))
    if request.HasField("other") and account == other:
        checks.fail("other", "must differ from account")
    kind = checks.kind(LINK_KINDS, request.kind, "kind")
    confidence = request.confidence if request.HasField("confidence") else 1.0
    if not 0 < confidence <= 1:  # NaN fails too
        checks.fail("confidence", "must be greater than 0 and at most 1")
    checks.finish()
    return LinkQuery(account, other, kind, confidence)


def account_to_resolve(request: identity_service_pb2.ResolvePersonRequest) -> Account:
    """Raises BadRequest."""
    checks = Checks()
    account = checks.account(request.account, "account", given=request.HasField("account"))
    checks.finish()
    return account


def predict_response(prediction: Prediction) -> prediction_service_pb2.PredictResponse:
    """The answer as the contract has it."""
    return prediction_service_pb2.PredictResponse(
        predictions=[
            prediction_service_pb2.ItemPrediction(
                item_id=one.item_id,
                view_probability=one.probabilities[Outcome.VIEW],
                buy_probability=one.probabilities[Outcome.BUY],
                return_probability=one.probabilities[Outcome.RETURN],
                item_known=one.item_known,
                text_known=one.text_known,
            )
            for one in prediction.predictions
        ],
        evidence=_evidence(prediction.evidence),
    )


def record_response(result: RecordResult) -> event_service_pb2.RecordEventsResponse:
    """What became of a batch of events."""
    return event_service_pb2.RecordEventsResponse(
        recorded=result.recorded, duplicates=result.duplicates
    )


def link_response(result: LinkResult) -> identity_service_pb2.LinkAccountsResponse:
    """The person two accounts now belong to."""
    return identity_service_pb2.LinkAccountsResponse(
        person_id=result.person_id, merged=result.merged
    )


def resolve_response(person: Person | None) -> identity_service_pb2.ResolvePersonResponse:
    """The person behind an account; None is an account never seen."""
    if person is None:
        return identity_service_pb2.ResolvePersonResponse(known=False)
    return identity_service_pb2.ResolvePersonResponse(
        known=True,
        person_id=person.person_id,
        accounts=[
            identity_service_pb2.LinkedAccount(platform=platform, account_pseudonym=pseudonym)
            for platform, pseudonym in person.accounts
        ],
    )


def _evidence(evidence: Evidence) -> prediction_service_pb2.Evidence:
    newest = evidence.newest_event_age_s
    return prediction_service_pb2.Evidence(
        prediction_id=evidence.prediction_id,
        model_version=evidence.model_version,
        encoder_version=evidence.encoder_version,
        trained_outcomes=[OUTCOMES[outcome] for outcome in evidence.trained_outcomes],
        person_known=evidence.person_known,
        platforms=[
            prediction_service_pb2.PlatformEvidence(
                platform=use.platform,
                events_used=use.events_used,
                newest_event_age=_duration(use.newest_event_age_s),
            )
            for use in evidence.platforms
        ],
        events_used=evidence.events_used,
        newest_event_age=None if newest is None else _duration(newest),
        texts_encoded=evidence.texts_encoded,
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
