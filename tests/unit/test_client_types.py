"""What the client's users hold in their hands."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from shopcast.v1 import identity_service_pb2, prediction_service_pb2, types_pb2
from shopcast_client import Account, Event, EventKind, Item, LinkKind, Outcome, Prediction, messages

USER_ID = "anna@example.com"


def a_prediction(view: float, buy: float, back: float) -> Prediction:
    return Prediction("a", view, buy, back, item_known=True, text_known=True)


def an_event(time: datetime) -> Event:
    return Event("e-1", Account("web", USER_ID), EventKind.CART, time, Item("a"))


def test_purchase_and_return_follow_from_the_three_outcomes() -> None:
    one = a_prediction(0.2, 0.6, 0.2)
    assert one.purchase_probability == pytest.approx(0.8)
    assert one.return_risk == pytest.approx(0.25)


def test_what_is_never_bought_is_never_returned() -> None:
    assert a_prediction(1.0, 0.0, 0.0).return_risk == 0.0


def test_user_ids_are_in_no_repr() -> None:
    assert USER_ID not in repr(an_event(datetime.now(UTC)))
    assert "web" in repr(Account("web", USER_ID))


def test_an_event_needs_a_time_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        an_event(datetime(2026, 1, 1))


def test_event_times_are_sent_in_utc() -> None:
    noon_in_berlin = datetime(2026, 1, 1, 12, 0, 0, 250_000, timezone(timedelta(hours=1)))
    message = messages.event_message(an_event(noon_in_berlin))
    assert message.time.ToJsonString() == "2026-01-01T11:00:00.250Z"
    assert message.kind == types_pb2.EVENT_KIND_CART
    assert message.quantity == 1


def test_what_is_not_known_of_an_item_stays_unset() -> None:
    message = messages.item_message(Item("a", brand="", price=0.0))
    assert [field.name for field, _ in message.ListFields()] == ["item_id", "brand", "price"]


@pytest.mark.parametrize("kind", LinkKind)
def test_every_link_kind_can_be_sent(kind: LinkKind) -> None:
    value = messages.link_kind_value(kind)
    assert identity_service_pb2.LinkKind.Name(value) == f"LINK_KIND_{kind.name}"


@pytest.mark.parametrize("kind", EventKind)
def test_every_event_kind_can_be_sent(kind: EventKind) -> None:
    event = Event("e-1", Account("web", USER_ID), kind, datetime.now(UTC), Item("a"))
    name = types_pb2.EventKind.Name(messages.event_message(event).kind)
    assert name == f"EVENT_KIND_{kind.name}"


def test_outcomes_of_a_newer_server_are_passed_over() -> None:
    response = prediction_service_pb2.PredictResponse()
    response.evidence.trained_outcomes.extend([types_pb2.OUTCOME_BUY, 99])
    evidence = messages.predict_result(response).evidence
    assert evidence.trained_outcomes == (Outcome.BUY,)
    assert evidence.newest_event_age is None
