"""Requests become domain objects or BadRequests; answers become what the contract says."""

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2
from hypothesis import example, given
from hypothesis import strategies as st

from shopcast.v1 import (
    event_service_pb2,
    identity_service_pb2,
    prediction_service_pb2,
    privacy_service_pb2,
    types_pb2,
)
from shopcast_client import Account as ClientAccount
from shopcast_client import Item as ClientItem
from shopcast_client import LevelReason, Priority, ServiceLevel
from shopcast_client import PredictRequest as ClientRequest
from shopcast_client.messages import predict_request_message, predict_result
from shopcast_domain.events import Account, Event, EventKind, Item, Outcome
from shopcast_gateway.core import protocol as core
from shopcast_gateway.directory.types import EventStatus, LinkKind, Person, Purpose, RecordResult
from shopcast_gateway.errors import BadRequest, Violation
from shopcast_gateway.transport import convert, convert_events, convert_people, convert_privacy
from shopcast_gateway.transport.checks import EVENT_KINDS, LINK_KINDS, PURPOSES

NOW_S = 1_800_000_000.0
USER_ID = "anna@example.com"

PredictRequest = prediction_service_pb2.PredictRequest
RecordEventsRequest = event_service_pb2.RecordEventsRequest
LinkAccountsRequest = identity_service_pb2.LinkAccountsRequest


def an_account(platform: str = "web", user_id: str = USER_ID) -> types_pb2.Account:
    return types_pb2.Account(platform=platform, platform_user_id=user_id)


def an_event(**changes: Any) -> event_service_pb2.Event:
    fields: dict[str, Any] = {
        "event_id": "e-1",
        "account": an_account(),
        "kind": types_pb2.EVENT_KIND_BUY,
        "time": Timestamp(seconds=int(NOW_S) - 60, nanos=500_000_000),
        "item": types_pb2.Item(item_id="sku-1"),
    }
    return event_service_pb2.Event(**(fields | changes))


def predict(*items: types_pb2.Item, account: types_pb2.Account | None = None) -> PredictRequest:
    return PredictRequest(account=account or an_account(), items=items)


def record(*events: event_service_pb2.Event) -> RecordEventsRequest:
    return RecordEventsRequest(events=events)


def link(**changes: Any) -> LinkAccountsRequest:
    fields: dict[str, Any] = {
        "account": an_account(),
        "other": an_account("app"),
        "kind": identity_service_pb2.LINK_KIND_LOGIN,
    }
    return LinkAccountsRequest(**(fields | changes))


def refused(request: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        converted(request)
    return caught.value


def valid_events(request: RecordEventsRequest) -> tuple[Event, ...]:
    """The events, where none is wrong."""
    found = convert_events.events(request.events, now_s=NOW_S)
    wrong = [one for one in found if isinstance(one, Violation)]
    if wrong:
        raise BadRequest(wrong[0].field, wrong[0].problem, wrong[1:])
    return tuple(one for one in found if isinstance(one, Event))


def converted(request: Any) -> Any:
    converters: dict[type, Callable[[Any], Any]] = {
        PredictRequest: convert.predict_query,
        RecordEventsRequest: valid_events,
        LinkAccountsRequest: convert_people.link_query,
        identity_service_pb2.ResolvePersonRequest: convert_people.resolve_query,
    }
    return converters[type(request)](request)


item = types_pb2.Item

BAD = {
    "no account": (PredictRequest(items=[item(item_id="a")]), "account", "required"),
    "no platform": (predict(item(item_id="a"), account=an_account("")), "account.platform", "a-z"),
    "capital": (predict(item(item_id="a"), account=an_account("Web")), "account.platform", "a-z"),
    "led by dot": (predict(item(item_id="a"), account=an_account(".w")), "account.platform", "a-z"),
    "newline": (predict(item(item_id="a"), account=an_account("web\n")), "account.platform", "a-z"),
    "long name": (
        predict(item(item_id="a"), account=an_account("w" * 65)),
        "account.platform",
        "64",
    ),
    "no user id": (
        predict(item(item_id="a"), account=an_account(user_id="")),
        "account.platform_user_id",
        "256",
    ),
    "long user id": (
        predict(item(item_id="a"), account=an_account(user_id="u" * 257)),
        "account.platform_user_id",
        "256",
    ),
    "no items": (predict(), "items", "1 to 1,000, not 0"),
    "many items": (predict(*[item(item_id="a")] * 1001), "items", "1 to 1,000, not 1,001"),
    "twice": (
        predict(item(item_id="a"), item(item_id="a")),
        "items[1].item_id",
        "repeats items[0].item_id",
    ),
    "no item id": (predict(item()), "items[0].item_id", "256"),
    "long item id": (predict(item(item_id="a" * 257)), "items[0].item_id", "256"),
    "steering item id": (predict(item(item_id="a\x1b[2J")), "items[0].item_id", "control"),
    "steering user": (
        predict(item(item_id="a"), account=an_account(user_id="u\x07")),
        "account.platform_user_id",
        "control",
    ),
    "empty title": (predict(item(item_id="a", title="")), "items[0].title", "blank"),
    "blank title": (predict(item(item_id="a", title=" \u3000\n")), "items[0].title", "blank"),
    "long title": (predict(item(item_id="a", title="鞋" * 1001)), "items[0].title", "1,000"),
    "long brand": (predict(item(item_id="a", brand="b" * 201)), "items[0].brand", "200"),
    "long category": (predict(item(item_id="a", category="c" * 301)), "items[0].category", "300"),
    "below zero": (predict(item(item_id="a", price=-0.01)), "items[0].price", "number from 0"),
    "no number": (predict(item(item_id="a", price=math.nan)), "items[0].price", "number from 0"),
    "infinite": (predict(item(item_id="a", price=math.inf)), "items[0].price", "number from 0"),
    "dear": (predict(item(item_id="a", price=1e9 + 1)), "items[0].price", "1,000,000,000"),
    "no events": (record(), "events", "1 to 1,000, not 0"),
    "many events": (record(*[an_event()] * 1001), "events", "1,001"),
    "no event id": (record(an_event(event_id="")), "events[0].event_id", "128"),
    "long event id": (record(an_event(event_id="e" * 129)), "events[0].event_id", "128"),
    "event, no account": (record(an_event(account=None)), "events[0].account", "required"),
    "event, bad account": (
        record(an_event(), an_event(account=an_account("W"))),
        "events[1].account.platform",
        "a-z",
    ),
    "no kind": (record(an_event(kind=0)), "events[0].kind", "required"),
    "strange kind": (record(an_event(kind=99)), "events[0].kind", "not a kind"),
    "negative kind": (record(an_event(kind=-1)), "events[0].kind", "not a kind"),
    "no time": (record(an_event(time=None)), "events[0].time", "required"),
    "no event item": (record(an_event(item=None)), "events[0].item", "required"),
    "bad event item": (record(an_event(item=item())), "events[0].item.item_id", "256"),
    "last century": (
        record(an_event(time=Timestamp(seconds=946_684_799, nanos=999_999_999))),
        "events[0].time",
        "2000-01-01",
    ),
    "future": (
        record(an_event(time=Timestamp(seconds=int(NOW_S) + 300, nanos=1_000_000))),
        "events[0].time",
        "5 minutes",
    ),
    "end of time": (record(an_event(time=Timestamp(seconds=2**63 - 1))), "events[0].time", "5 min"),
    "nanos below": (
        record(an_event(time=Timestamp(seconds=int(NOW_S), nanos=-1))),
        "events[0].time",
        "nanos",
    ),
    "nanos above": (
        record(an_event(time=Timestamp(seconds=int(NOW_S), nanos=1_000_000_000))),
        "events[0].time",
        "nanos",
    ),
    "none bought": (record(an_event(quantity=0)), "events[0].quantity", "1,000,000"),
    "too many": (record(an_event(quantity=1_000_001)), "events[0].quantity", "1,000,000"),
    "same account": (link(other=an_account()), "other", "differ"),
    "no other": (link(other=None), "other", "required"),
    "no link kind": (link(kind=0), "kind", "required"),
    "strange link kind": (link(kind=7), "kind", "not a kind"),
    "not sure at all": (link(confidence=0.0), "confidence", "greater than 0"),
    "too sure": (link(confidence=1.01), "confidence", "at most 1"),
    "unsure of sureness": (link(confidence=math.nan), "confidence", "greater than 0"),
    "resolve nobody": (identity_service_pb2.ResolvePersonRequest(), "account", "required"),
}


@pytest.mark.parametrize(("request_", "field", "problem"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_named(request_: Any, field: str, problem: str) -> None:
    error = refused(request_)
    (violation,) = error.violations
    assert violation.field == field
    assert problem in violation.problem
    assert USER_ID not in str(error)


def test_all_that_is_wrong_is_told_at_once_up_to_twenty() -> None:
    error = refused(predict(item(item_id="a", title="", price=-1), item(item_id="a")))
    assert [violation.field for violation in error.violations] == [
        "items[0].title",
        "items[0].price",
        "items[1].item_id",
    ]
    assert "(and 2 more)" in str(error)
    assert len(refused(predict(*[item()] * 1000)).violations) == 20


def test_an_order_converts_with_its_pieces() -> None:
    request = predict(item(item_id="a"), item(item_id="b"))
    request.quantities.extend([1, 1_000_000])
    assert converted(request).quantities == (1, 1_000_000)


@pytest.mark.parametrize(
    ("pieces", "field"), [([1], "quantities"), ([1, 2, 3], "quantities"), ([1, 0], "quantities[1]")]
)
def test_pieces_that_do_not_fit_the_items_are_refused(pieces: list[int], field: str) -> None:
    request = predict(item(item_id="a"), item(item_id="b"))
    request.quantities.extend(pieces)
    with pytest.raises(BadRequest) as refused:
        converted(request)
    assert [violation.field for violation in refused.value.violations] == [field]


def test_a_predict_request_at_its_limits_converts() -> None:
    largest = item(
        item_id="a" * 256, title="鞋" * 1000, brand="b" * 200, category="c" * 300, price=1e9
    )
    bare = item(item_id="b\u00a0鞋")
    empty = item(item_id="c", brand="", category="", price=0.0)
    query = converted(predict(largest, bare, empty, account=an_account("a" * 64, "u" * 256)))
    assert query == core.PredictQuery(
        Account("a" * 64, "u" * 256),
        (
            Item("a" * 256, "鞋" * 1000, "b" * 200, "c" * 300, 1e9),
            Item("b\u00a0鞋"),
            Item("c", None, "", "", 0.0),
        ),
    )
    assert len(converted(predict(*(item(item_id=str(n)) for n in range(1000)))).items) == 1000


@pytest.mark.parametrize(
    ("requests", "problem"),
    [
        ([], "must hold 1 to 100, not 0"),
        ([PredictRequest()] * 101, "must hold 1 to 100, not 101"),
        ([predict(*[item(item_id="a")] * 501)] * 2, "at most 1,000 items in all, not 1,002"),
    ],
    ids=["empty", "many requests", "many items"],
)
def test_a_batch_has_limits(requests: list[PredictRequest], problem: str) -> None:
    with pytest.raises(BadRequest, match=f"^requests: .*{problem}$"):
        convert.batch_predict_requests(
            prediction_service_pb2.BatchPredictRequest(requests=requests)
        )


def test_a_batch_is_not_looked_into() -> None:
    wrong = [PredictRequest()] * 100
    request = prediction_service_pb2.BatchPredictRequest(requests=wrong)
    assert list(convert.batch_predict_requests(request)) == wrong


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_a_request_of_a_stream_needs_a_name(name: str) -> None:
    request = prediction_service_pb2.StreamPredictRequest(
        correlation_id=name, request=predict(item(item_id="a", price=-1.0))
    )
    with pytest.raises(BadRequest) as caught:
        convert.stream_predict_query(request)
    assert [one.field for one in caught.value.violations] == ["correlation_id", "items[0].price"]


def test_a_request_of_a_stream_is_a_query_like_any() -> None:
    asked = predict(item(item_id="a"))
    request = prediction_service_pb2.StreamPredictRequest(correlation_id="x" * 64, request=asked)
    assert convert.stream_predict_query(request) == replace(converted(asked), bulk=True)


def test_what_became_of_a_request_is_its_answer_or_its_status() -> None:
    answer = prediction_service_pb2.PredictResponse()
    status = status_pb2.Status(code=3, message="wrong")
    first, second = convert.batch_predict_response([answer, status]).results
    assert (first.WhichOneof("result"), second.status) == ("response", status)
    streamed = convert.stream_predict_response("n-1", status)
    assert (streamed.correlation_id, streamed.WhichOneof("result")) == ("n-1", "status")


def test_events_at_their_limits_convert() -> None:
    earliest, latest = Timestamp(seconds=946_684_800), Timestamp(seconds=int(NOW_S) + 300)
    first, last = converted(
        record(
            an_event(time=earliest), an_event(time=latest, quantity=1_000_000, event_id="e" * 128)
        )
    )
    assert first == Event(
        "e-1", Account("web", USER_ID), EventKind.BUY, 946_684_800.0, Item("sku-1"), 1
    )
    assert (last.time_s, last.quantity) == (NOW_S + 300, 1_000_000)
    assert converted(record(an_event()))[0].time_s == NOW_S - 59.5


def test_a_link_request_converts_and_is_sure_unless_it_says_otherwise() -> None:
    query = converted(link())
    assert (query.account, query.other) == (Account("web", USER_ID), Account("app", USER_ID))
    assert (query.kind, query.confidence) == (LinkKind.LOGIN, 1.0)
    assert converted(link(confidence=0.25)).confidence == 0.25


def test_every_kind_of_the_contract_has_its_counterpart() -> None:
    def agree(wire: Any, prefix: str, mapping: dict[int, Any]) -> None:
        names = {
            wire.Name(value).removeprefix(prefix): kind.name for value, kind in mapping.items()
        }
        assert all(name == counterpart for name, counterpart in names.items())
        assert set(mapping) == set(wire.values()) - {0}

    agree(types_pb2.EventKind, "EVENT_KIND_", dict(EVENT_KINDS))
    agree(identity_service_pb2.LinkKind, "LINK_KIND_", dict(LINK_KINDS))
    agree(types_pb2.Purpose, "PURPOSE_", dict(PURPOSES))
    agree(types_pb2.Outcome, "OUTCOME_", {wire: kind for kind, wire in convert.OUTCOMES.items()})


def test_a_prediction_becomes_its_response() -> None:
    evidence = core.Evidence(
        "a" * 32, "7", "3", (Outcome.VIEW, Outcome.BUY), True,
        (core.PlatformUse("web", 2, 0.25),), 2, 0.25, 1,
    )  # fmt: skip
    answer = core.Prediction((core.ItemPrediction("a", (0.5, 0.3, 0.2), True, False),), evidence)
    response = convert.predict_response(answer)
    one = response.predictions[0]
    assert (one.view_probability, one.buy_probability, one.return_probability) == (0.5, 0.3, 0.2)
    assert (one.item_id, one.item_known, one.text_known) == ("a", True, False)
    told = response.evidence
    assert list(told.trained_outcomes) == [types_pb2.OUTCOME_VIEW, types_pb2.OUTCOME_BUY]
    assert (told.model_version, told.encoder_version, told.texts_encoded) == ("7", "3", 1)
    assert told.platforms[0].newest_event_age.ToMilliseconds() == 250
    assert told.newest_event_age.ToMilliseconds() == 250


def test_limits_and_levels_are_those_of_the_contract() -> None:
    asked = predict(item(item_id="a"))
    found = convert.predict_query(asked)
    assert (found.lowest_level, found.max_history_age_s) == (core.Level.FULL, None)
    asked.lowest_level = prediction_service_pb2.SERVICE_LEVEL_STALE
    asked.max_history_age.FromMilliseconds(2500)
    found = convert.predict_query(asked)
    assert (found.lowest_level, found.max_history_age_s) == (core.Level.STALE, 2.5)
    assert {level.value: level for level in core.Level} == convert.LEVELS
    assert convert.REASONS.keys() == {None, *core.Reason}


def test_a_cold_start_has_no_newest_event() -> None:
    evidence = core.Evidence("a" * 32, "7", "3", tuple(Outcome), False, (), 0, None, 0)
    told = convert.predict_response(core.Prediction((), evidence)).evidence
    assert not told.HasField("newest_event_age")
    assert not told.person_known
    assert (told.level, told.level_reason) == (prediction_service_pb2.SERVICE_LEVEL_FULL, 0)
    assert not told.HasField("history_age")


def test_an_answer_says_why_it_is_less_and_how_old() -> None:
    evidence = core.Evidence(
        "a" * 32, "7", "3", tuple(Outcome), True, (), 0, None, 0,
        level=core.Level.STALE, reason=core.Reason.STORE_SLOW, history_age_s=1.5,
    )  # fmt: skip
    response = convert.predict_response(core.Prediction((), evidence))
    told = predict_result(response).evidence
    assert (told.level, told.level_reason) == (ServiceLevel.STALE, LevelReason.STORE_SLOW)
    assert told.history_age == timedelta(seconds=1.5)


def test_limits_reach_the_gateway_as_the_client_gives_them() -> None:
    asked = ClientRequest(
        ClientAccount("web", USER_ID),
        [ClientItem("a")],
        lowest_level=ServiceLevel.NO_HISTORY,
        max_history_age=timedelta(seconds=2.5),
    )
    found = convert.predict_query(predict_request_message(asked))
    assert (found.lowest_level, found.max_history_age_s) == (core.Level.NO_HISTORY, 2.5)


@pytest.mark.parametrize("priority", [None, *Priority])
def test_a_priority_stands_and_else_the_method_says_it(priority: Priority | None) -> None:
    account, items = ClientAccount("web", USER_ID), [ClientItem("a")]
    asked = predict_request_message(ClientRequest(account, items, priority=priority))
    in_stream = prediction_service_pb2.StreamPredictRequest(correlation_id="1", request=asked)
    found = [
        convert.predict_query(asked).bulk,
        convert.predict_query(asked, bulk=True).bulk,
        convert.stream_predict_query(in_stream).bulk,
    ]
    said = {None: [False, True, True], Priority.BULK: [True] * 3, Priority.INTERACTIVE: [False] * 3}
    assert found == said[priority]


def test_directory_answers_become_their_responses() -> None:
    found = convert_events.events([an_event(), an_event(kind=0), an_event()], now_s=NOW_S)
    told = convert_events.record_response(
        event_service_pb2.RecordEventsResponse,
        found,
        RecordResult((EventStatus.RECORDED, EventStatus.QUARANTINED)),
    )
    assert (told.recorded, told.duplicates, told.quarantined, told.invalid) == (1, 0, 1, 1)
    assert [one.status for one in told.results] == [
        event_service_pb2.EVENT_STATUS_RECORDED,
        event_service_pb2.EVENT_STATUS_INVALID,
        event_service_pb2.EVENT_STATUS_QUARANTINED,
    ]
    assert told.results[1].field == "events[1].kind"
    response = convert_people.batch_resolve_response([Person("p_1", (("web", "f" * 32),)), None])
    known, unknown = response.people
    assert known.known
    assert known.accounts[0].account_pseudonym == "f" * 32
    assert unknown == identity_service_pb2.ResolvedPerson()


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (PredictRequest(account=an_account(), items=[item(item_id="a")], purpose=99), "purpose"),
        (
            PredictRequest(
                account=an_account(), items=[item(item_id="a")], min_link_confidence=math.nan
            ),
            "min_link_confidence",
        ),
        (
            PredictRequest(account=an_account(), items=[item(item_id="a")], lowest_level=3),  # type: ignore[arg-type]
            "lowest_level",
        ),
        (PredictRequest(account=an_account(), items=[item(item_id="a")], priority=3), "priority"),  # type: ignore[arg-type]
        (
            PredictRequest(
                account=an_account(),
                items=[item(item_id="a")],
                max_history_age=Duration(nanos=-1),
            ),
            "max_history_age",
        ),
        (link(source="x" * 65), "source"),
        (link(source="x\ny"), "source"),
        (
            identity_service_pb2.ResolvePersonRequest(
                account=an_account(), as_of=Timestamp(seconds=-1)
            ),
            "as_of",
        ),
    ],
)
def test_what_is_wrong_with_the_newer_fields_is_named(request_: Any, field: str) -> None:
    assert [one.field for one in refused(request_).violations] == [field]


def test_consent_is_for_known_purposes_once_each() -> None:
    def ask(*purposes: int) -> privacy_service_pb2.SetConsentRequest:
        return privacy_service_pb2.SetConsentRequest(
            account=an_account(),
            consents=[privacy_service_pb2.Consent(purpose=one) for one in purposes],
        )

    _, said = convert_privacy.consent_query(ask(types_pb2.PURPOSE_RISK))
    assert said == {Purpose.RISK: False}
    for purposes, field in (
        ((), "consents"),
        ((0,), "consents[0].purpose"),
        ((77,), "consents[0].purpose"),
        ((types_pb2.PURPOSE_RISK,) * 2, "consents[1].purpose"),
    ):
        with pytest.raises(BadRequest) as caught:
            convert_privacy.consent_query(ask(*purposes))
        assert caught.value.violations[0].field == field


def test_a_history_is_asked_for_within_limits() -> None:
    request = event_service_pb2.GetHistoryRequest(account=an_account())
    query = convert_events.history_query(request)
    assert (query.limit, query.as_of_s, query.purpose) == (100, None, None)
    for limit in (0, -1, 1001):
        request.limit = limit
        with pytest.raises(BadRequest, match="limit"):
            convert_events.history_query(request)


TEXTS = st.one_of(
    st.text(max_size=8), st.sampled_from(["web", "a", " ", "\0", "x" * 300, "x" * 1001])
).filter(lambda text: text.isascii() or text.encode(errors="ignore").decode() == text)
INT32 = st.one_of(st.integers(-2, 8), st.integers(-(2**31), 2**31 - 1))
ACCOUNTS = st.builds(types_pb2.Account, platform=TEXTS, platform_user_id=TEXTS)
ITEMS = st.builds(
    types_pb2.Item,
    item_id=TEXTS,
    title=st.none() | TEXTS,
    brand=st.none() | TEXTS,
    category=st.none() | TEXTS,
    price=st.none() | st.floats(),
)
TIMES = st.builds(
    Timestamp,
    seconds=st.one_of(st.integers(946_684_799, int(NOW_S) + 301), st.integers(-(2**63), 2**63 - 1)),
    nanos=st.one_of(st.just(0), st.integers(-(2**31), 2**31 - 1)),
)
EVENTS = st.builds(
    event_service_pb2.Event,
    event_id=TEXTS,
    account=st.none() | ACCOUNTS,
    kind=INT32,
    time=st.none() | TIMES,
    item=st.none() | ITEMS,
    quantity=st.none() | INT32,
)


@given(st.builds(PredictRequest, account=st.none() | ACCOUNTS, items=st.lists(ITEMS, max_size=4)))
@example(predict(item(item_id="a", title="t", price=1.0)))
def test_any_predict_request_is_a_query_or_a_bad_request(request: PredictRequest) -> None:
    try:
        query = convert.predict_query(request)
    except BadRequest:
        return
    assert len({one.item_id for one in query.items}) == len(request.items) > 0
    for one in query.items:
        assert one.title is None or one.title.strip()
        assert one.price is None or 0 <= one.price <= 1e9


@given(st.builds(RecordEventsRequest, events=st.lists(EVENTS, max_size=3)))
@example(record(an_event()))
def test_any_record_request_is_events_or_a_bad_request(request: RecordEventsRequest) -> None:
    try:
        found = convert_events.events(request.events, now_s=NOW_S)
    except BadRequest:
        return
    assert len(found) == len(request.events) > 0
    for n, event in enumerate(found):
        if isinstance(event, Violation):
            assert event.field.startswith(f"events[{n}]")
            continue
        assert 946_684_800 <= event.time_s <= NOW_S + 300
        assert 1 <= event.quantity <= 1_000_000
        assert event.kind in EventKind


@given(
    st.builds(
        LinkAccountsRequest,
        account=st.none() | ACCOUNTS,
        other=st.none() | ACCOUNTS,
        kind=INT32,
        confidence=st.none() | st.floats(),
    )
)
@example(link())
def test_any_link_request_is_a_query_or_a_bad_request(request: LinkAccountsRequest) -> None:
    try:
        query = convert_people.link_query(request)
    except BadRequest:
        return
    assert query.account != query.other
    assert 0 < query.confidence <= 1
