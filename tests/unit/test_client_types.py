"""What the client's users hold in their hands."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from shopcast.v1 import (
    event_service_pb2,
    identity_service_pb2,
    prediction_service_pb2,
    types_pb2,
)
from shopcast_client import (
    Account,
    Event,
    EventKind,
    InvalidRequest,
    Item,
    LinkKind,
    Outcome,
    Prediction,
    PredictRequest,
    ShopcastClient,
    messages,
)

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


@pytest.mark.parametrize("time", [datetime(2026, 1, 1), "2026-01-01T00:00:00Z", 1.0, None])
def test_an_event_needs_a_time_zone(time: Any) -> None:
    with pytest.raises(ValueError, match="time zone"):
        an_event(time)


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


NOW = datetime.now(UTC)
ANNA = Account("web", USER_ID)


def asked(**changes: Any) -> dict[str, Any]:
    return {"platform": "web", "user_id": USER_ID, "items": [Item("a")]} | changes


def recorded(**changes: Any) -> list[Event]:
    fields: dict[str, Any] = {
        "event_id": "e", "account": ANNA, "kind": "view", "time": NOW, "item": Item("a"),
    }  # fmt: skip
    return [Event(**fields), Event(**(fields | changes))]


Call = Callable[[ShopcastClient], Awaitable[Any]]
UNFIT: list[tuple[str, Call]] = [
    ("account.platform_user_id", lambda c: c.predict(**asked(user_id=4711))),
    ("account.platform_user_id", lambda c: c.predict(**asked(user_id="secret\udcff"))),
    ("items[1].item_id", lambda c: c.predict(**asked(items=[Item("a"), Item(5)]))),  # type: ignore[arg-type]
    ("quantities", lambda c: c.predict(**asked(quantities=[2**40]))),
    ("purpose", lambda c: c.predict(**asked(purpose="profit"))),
    ("lowest_level", lambda c: c.predict(**asked(lowest_level=3))),
    ("priority", lambda c: c.predict(**asked(priority="first"))),
    ("max_history_age", lambda c: c.predict(**asked(max_history_age=5))),
    (
        "requests[0].account.platform_user_id",
        lambda c: c.batch_predict([PredictRequest(Account("web", 1), [])]),  # type: ignore[arg-type]
    ),
    ("events[1].kind", lambda c: c.record_events(recorded(kind="look"))),
    ("events[1].quantity", lambda c: c.record_events(recorded(quantity=2**40))),
    ("events[1].event_id", lambda c: c.record_events(recorded(event_id=7))),
    ("events[1].account.platform", lambda c: c.record_events(recorded(account=Account(1, "u")))),  # type: ignore[arg-type]
    (
        "events[1].time",
        lambda c: c.record_events(
            recorded(time=datetime.min.replace(tzinfo=timezone(timedelta(hours=2))))
        ),
    ),
    ("limit", lambda c: c.history(platform="web", user_id="u", limit=2**40)),
    ("before", lambda c: c.history(platform="web", user_id="u", before=datetime(2026, 1, 1))),
    ("kind", lambda c: c.link_accounts(ANNA, ANNA, kind="friend")),  # type: ignore[arg-type]
    ("confidence", lambda c: c.link_accounts(ANNA, ANNA, kind=LinkKind.LOGIN, confidence="1")),  # type: ignore[arg-type]
    ("other.platform_user_id", lambda c: c.merge_people(ANNA, Account("web", 1))),  # type: ignore[arg-type]
    ("accounts[1].platform", lambda c: c.resolve_people([ANNA, Account(1, "u")])),  # type: ignore[arg-type]
    ("number", lambda c: c.undo_change(2**70)),
    ("after", lambda c: anext(c.watch_changes(after=2**70))),
    ("person_id", lambda c: c.find_person(1)),  # type: ignore[arg-type]
    ("consents[0].purpose", lambda c: c.set_consent(ANNA, {"profit": True})),  # type: ignore[dict-item]
    ("version", lambda c: c.promote_model(2**70)),
    ("wait", lambda c: c.promote_model(1, wait_s=float("nan"))),
]  # fmt: skip


@pytest.mark.parametrize(("field", "call"), UNFIT, ids=[field for field, _ in UNFIT])
async def test_what_cannot_be_sent_is_an_invalid_request(field: str, call: Call) -> None:
    async with ShopcastClient("127.0.0.1:1") as client:
        with pytest.raises(InvalidRequest) as refused:
            await call(client)
    assert [one.field for one in refused.value.violations] == [field]
    assert str(refused.value).startswith(f"The request was not sent: {field} must be ")
    assert "secret" not in str(refused.value)


def test_words_may_be_plain_text() -> None:
    (event, _) = recorded()
    assert messages.event_message(event).kind == types_pb2.EVENT_KIND_VIEW
    assert messages.purpose_value("marketing") == types_pb2.PURPOSE_MARKETING  # type: ignore[arg-type]


def test_kinds_of_tomorrow_are_none() -> None:
    event = event_service_pb2.PastEvent(kind=99)  # type: ignore[arg-type]
    assert messages.past_event(event).kind is None
    change = messages.identity_change(
        identity_service_pb2.IdentityChange(kind=99, link_kind=98)  # type: ignore[arg-type]
    )
    assert (change.kind, change.link_kind) == (None, None)


@pytest.mark.parametrize("timeout_s", [-3, 0, 1e10, float("nan"), "5"])
def test_a_timeout_that_is_none_is_refused(timeout_s: Any) -> None:
    with pytest.raises(ValueError, match="more than 0 and at most 366 days"):
        ShopcastClient("127.0.0.1:1", timeout_s=timeout_s)
