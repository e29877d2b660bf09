"""`platform predict`, `record` and `link`, with a stand-in for the gateway."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import shopcast_client
from shopcast_cli.app import app
from shopcast_client import (
    Account,
    Event,
    EventKind,
    EventProblem,
    Evidence,
    Item,
    LevelReason,
    LinkKind,
    LinkResult,
    Outcome,
    PlatformEvidence,
    Prediction,
    PredictResult,
    Priority,
    Purpose,
    RecordResult,
    ServiceLevel,
    StageTiming,
    Unavailable,
)

WHO = ("--platform", "web", "--user", "anna@example.com")
PREDICT = ("predict", *WHO)
RECORD = ("record", *WHO)
LINK = ("link", *WHO, "--other-platform", "app", "--other-user", "a-1")
EVIDENCE = Evidence(
    prediction_id="0" * 32,
    model_version="7",
    encoder_version="3",
    trained_outcomes=tuple(Outcome),
    person_known=True,
    platforms=(
        PlatformEvidence("app", 1, timedelta(hours=5)),
        PlatformEvidence("web", 2, timedelta(minutes=3)),
    ),
    events_used=3,
    newest_event_age=timedelta(minutes=3),
    texts_encoded=1,
)
COLD = Evidence("1" * 32, "7", "3", tuple(Outcome), False, (), 0, None, 0)


class Gateway:
    """Answers as a client would; remembers what it was asked, and with which settings."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.evidence = EVIDENCE
        self.failure: Exception | None = None
        self.recorded, self.merged, self.quarantined = True, True, False
        self.problems: tuple[EventProblem, ...] = ()
        self.options: tuple[Any, ...] = ()
        self.limits: tuple[Any, ...] = ()

    def __call__(self, target: str, *, timeout_s: float, **_: Path | None) -> "Gateway":
        self.calls.append((target, timeout_s))
        return self

    async def __aenter__(self) -> "Gateway":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def _take(self, call: object) -> None:
        if self.failure:
            raise self.failure
        self.calls.append(call)

    async def predict(
        self,
        *,
        platform: str,
        user_id: str,
        items: list[Item],
        quantities: tuple[int, ...] | list[int],
        purpose: Purpose,
        min_link_confidence: float,
        lowest_level: ServiceLevel,
        max_history_age: timedelta | None,
        stage_timings: bool,
        priority: Priority | None,
    ) -> PredictResult:
        self._take((platform, user_id, items))
        self.options = (purpose, min_link_confidence)
        self.limits = (lowest_level, max_history_age)
        self.timings = stage_timings
        self.priority = priority
        predictions = [Prediction(i.item_id, 0.5, 0.3, 0.2, i.title is None, True) for i in items]
        return PredictResult(tuple(predictions), self.evidence)

    async def record_events(self, events: list[Event]) -> RecordResult:
        self._take(events)
        if self.problems or self.quarantined:
            return RecordResult(0, 0, int(self.quarantined), self.problems)
        return RecordResult(int(self.recorded), int(not self.recorded))

    async def link_accounts(
        self, account: Account, other: Account, *, kind: LinkKind, confidence: float, source: str
    ) -> LinkResult:
        self._take((account, other, kind))
        self.options = (confidence, source)
        return LinkResult("p_" + "0" * 32, self.merged)


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    gateway = Gateway()
    monkeypatch.setattr(shopcast_client, "ShopcastClient", gateway)
    return gateway


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_a_prediction_is_a_table_and_what_it_rests_on(gateway: Gateway) -> None:
    done = run(*PREDICT, "--item", "s1", "--item", '{"item_id": "s2", "title": "Trail shoe"}')
    assert done.exit_code == 0
    assert done.stderr == ""
    assert "3 events (1 from app, 2 from web), the newest 3 min ago; model version 7" in done.stdout
    row = next(line for line in done.stdout.splitlines() if "s2" in line)
    assert "0.500" in row
    assert "0.400" in row, "the risk of a return once bought"
    assert "new item" in row
    assert gateway.calls == [
        ("127.0.0.1:50051", 5.0),
        ("web", "anna@example.com", [Item("s1"), Item("s2", title="Trail shoe")]),
    ]


def test_a_cold_start_shopper_is_called_unknown(gateway: Gateway) -> None:
    gateway.evidence = COLD
    assert "an unknown shopper; model version 7" in run(*PREDICT, "--item", "s1").stdout


def test_an_answer_tells_its_level_and_why_it_is_no_more(gateway: Gateway) -> None:
    assert "service level full\n" in run(*PREDICT, "--item", "s1").stdout
    assert gateway.limits == (ServiceLevel.FULL, None)
    stale = {"level": ServiceLevel.STALE, "level_reason": LevelReason.STORE_AWAY}
    gateway.evidence = replace(EVIDENCE, **stale, history_age=timedelta(seconds=12))
    limits = ("--lowest-level", "stale", "--max-history-age-s", "30")
    shown = run(*PREDICT, "--item", "s1", *limits).stdout
    assert "service level stale (store_away), the history read 12 s ago\n" in shown
    assert gateway.limits == (ServiceLevel.STALE, timedelta(seconds=30))
    told = json.loads(run(*PREDICT, "--item", "s1", *limits, "--json").stdout)["evidence"]
    assert (told["level"], told["level_reason"], told["history_age_s"]) == (
        "stale", "store_away", 12.0,
    )  # fmt: skip


def test_timings_are_a_table_where_they_are_asked_for(gateway: Gateway) -> None:
    assert "Where the time went" not in run(*PREDICT, "--item", "s1").stdout
    assert not gateway.timings
    timings = (
        StageTiming("look_up", timedelta(milliseconds=2)),
        StageTiming("score", timedelta(microseconds=12_340)),
    )
    gateway.evidence = replace(EVIDENCE, stage_timings=timings)
    shown = run(*PREDICT, "--item", "s1", "--timings").stdout
    assert gateway.timings
    row = next(line for line in shown.splitlines() if "score" in line)
    assert "12.34" in row
    told = json.loads(run(*PREDICT, "--item", "s1", "--timings", "--json").stdout)["evidence"]
    assert told["stage_timings"] == [
        {"stage": "look_up", "duration_s": 0.002},
        {"stage": "score", "duration_s": 0.01234},
    ]


def test_bulk_work_says_so(gateway: Gateway) -> None:
    assert run(*PREDICT, "--item", "s1").exit_code == 0
    assert gateway.priority is None, "the server's own choice"
    assert run(*PREDICT, "--item", "s1", "--bulk").exit_code == 0
    assert gateway.priority is Priority.BULK


@pytest.mark.parametrize(
    ("option", "value"), [("--lowest-level", "most"), ("--max-history-age-s", "nan")]
)
def test_limits_that_are_none_are_refused(gateway: Gateway, option: str, value: str) -> None:
    done = run(*PREDICT, "--item", "s1", option, value)
    assert done.exit_code == 2
    assert option in done.stderr
    assert not gateway.calls


def test_a_prediction_as_json_holds_everything(gateway: Gateway) -> None:
    done = run(*PREDICT, "--item", "s1", "--json")
    answer = json.loads(done.stdout)
    assert answer["predictions"] == [
        {
            "item_id": "s1",
            "view_probability": 0.5,
            "buy_probability": 0.3,
            "return_probability": 0.2,
            "purchase_probability": 0.5,
            "return_risk": 0.4,
            "item_known": True,
            "text_known": True,
        }
    ]
    evidence = answer["evidence"]
    assert set(evidence) == {
        *(set(Evidence.__slots__) - {"newest_event_age", "history_age"}),
        "newest_event_age_s",
        "history_age_s",
    }
    assert evidence["trained_outcomes"] == ["view", "buy", "return"]
    assert evidence["newest_event_age_s"] == 180.0
    assert evidence["platforms"][0] == {
        "platform": "app",
        "events_used": 1,
        "newest_event_age_s": 18000.0,
    }
    gateway.evidence = COLD
    cold = json.loads(run(*PREDICT, "--item", "s1", "--json").stdout)["evidence"]
    assert cold["newest_event_age_s"] is None


def test_an_item_may_be_json_with_any_attributes(gateway: Gateway) -> None:
    item = Item("s1", "Schuh „Größe 42“", "Nordwind", "shoes > trainers", 89.0)
    text = json.dumps({name: getattr(item, name) for name in Item.__slots__})
    assert (
        run(*PREDICT, "--item", text, "--item", ' {"item_id": "s2", "price": null}').exit_code == 0
    )
    assert gateway.calls[1][2] == [item, Item("s2")]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"item_id": "a"',
        '{"title": "no id"}',
        '{"item_id": 5}',
        '{"item_id": null}',
        '{"item_id": "a", "colour": "red"}',
        '{"item_id": "a", "title": 5}',
        '{"item_id": "a", "title": ["x"]}',
        '{"item_id": "a", "price": "89"}',
        '{"item_id": "a", "price": true}',
        '{"item_id": "a", "price": 1' + "0" * 400 + "}",
    ],
)
@pytest.mark.parametrize("command", [PREDICT, RECORD])
def test_a_json_item_that_is_none_is_wrong_usage(
    gateway: Gateway, command: tuple[str, ...], text: str
) -> None:
    done = run(*command, "--item", text)
    assert done.exit_code == 2
    assert "--item" in done.stderr
    assert "item_id" in done.stderr
    assert gateway.calls == []


def test_an_event_is_recorded_as_given(gateway: Gateway) -> None:
    moment = ("--time", "2026-03-01T12:30:00", "--event-id", "e-1", "--quantity", "2")
    done = run(*RECORD, "--item", "s1", "--kind", "buy", *moment)
    assert (done.exit_code, done.stdout.strip()) == (0, "recorded")
    account = Account("web", "anna@example.com")
    time = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    assert gateway.calls[1] == [Event("e-1", account, EventKind.BUY, time, Item("s1"), 2)]


def test_an_event_without_time_and_id_happens_now_and_is_new(gateway: Gateway) -> None:
    for _ in range(2):
        assert run(*RECORD, "--item", "s1").exit_code == 0
    (one,), (two,) = gateway.calls[1], gateway.calls[3]
    assert one.event_id != two.event_id
    assert timedelta(0) <= datetime.now(UTC) - one.time < timedelta(minutes=1)


def test_an_event_that_was_there_before_is_said_to_be(gateway: Gateway) -> None:
    gateway.recorded = False
    assert "had been recorded before" in run(*RECORD, "--item", "s1").stdout
    answer = json.loads(run(*RECORD, "--item", "s1", "--json").stdout)
    assert answer == {"recorded": 0, "duplicates": 1, "quarantined": 0, "problems": []}


def test_an_event_that_is_not_recorded_is_a_failure(gateway: Gateway) -> None:
    gateway.problems = (EventProblem(0, "events[0].time", "must be 2000-01-01 or later"),)
    done = run(*RECORD, "--item", "s1")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: not recorded: time must be 2000-01-01 or later\n"
    gateway.problems, gateway.quarantined = (), True
    done = run(*RECORD, "--item", "s1")
    assert done.exit_code == 0
    assert "quarantined" in done.stdout


def test_what_the_answer_is_for_is_sent_and_what_is_left_out_is_told(gateway: Gateway) -> None:
    gateway.evidence = replace(EVIDENCE, suppressed_platforms=("app", "shop"))
    done = run(*PREDICT, "--item", "s1", "--purpose", "risk", "--min-link-confidence", "0.9")
    assert gateway.options == (Purpose.RISK, 0.9)
    assert "without app, shop for want of consent" in done.stdout
    wrong = run(*PREDICT, "--item", "s1", "--purpose", "fun")
    assert wrong.exit_code == 2
    assert "--purpose" in wrong.stderr


def test_accounts_are_linked(gateway: Gateway) -> None:
    assert "now belong to p_" in run(*LINK, "--kind", "device").stdout
    expected = (Account("web", "anna@example.com"), Account("app", "a-1"), LinkKind.DEVICE)
    assert gateway.calls[1] == expected
    run(*LINK, "--confidence", "0.7", "--source", "support")
    assert gateway.options == (0.7, "support")
    gateway.merged = False
    assert "already belonged to p_" in run(*LINK).stdout
    answer = json.loads(run(*LINK, "--json").stdout)
    assert answer == {"person_id": "p_" + "0" * 32, "merged": False}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("predict", "--user", "u", "--item", "i"), "--platform"),
        (PREDICT, "--item"),
        ((*PREDICT, "--item", "i", "--timeout-s", "soon"), "--timeout-s"),
        ((*RECORD, "--item", "i", "--kind", "steal"), "--kind"),
        ((*RECORD, "--item", "i", "--time", "yesterday"), "--time"),
        ((*RECORD, "--item", "i", "--quantity", "0"), "--quantity"),
        ((*RECORD, "--item", "i", "--quantity", "3000000000"), "--quantity"),
        ((*LINK, "--kind", "guess"), "--kind"),
        (LINK[:-2], "--other-user"),
        ((*PREDICT, "--item", "i", "--fast"), "--fast"),
    ],
)
def test_wrong_usage_names_the_option(
    gateway: Gateway, arguments: tuple[str, ...], named: str
) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert named in done.stderr
    assert gateway.calls == []


@pytest.mark.parametrize("command", [(*PREDICT, "--item", "s1"), (*RECORD, "--item", "s1"), LINK])
def test_what_the_gateway_says_is_the_sentence(gateway: Gateway, command: tuple[str, ...]) -> None:
    sentence = "Shopcast at host:1 is not ready: [bold]markup[/bold] stays as it is"
    gateway.failure = Unavailable(sentence, reason="UNAVAILABLE", request_id="r")
    done = run(*command, "--json")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr == f"error: {sentence}\n"


@pytest.mark.parametrize("command", [(*PREDICT, "--item", "s1"), (*RECORD, "--item", "s1"), LINK])
def test_without_a_gateway_one_sentence_says_so(tmp_path: Path, command: tuple[str, ...]) -> None:
    target = f"unix:{tmp_path / 'nobody.sock'}"
    done = run(*command, "--target", target)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"error: No connection to Shopcast at {target}: nothing listens there; start a gateway with"
        " `platform serve`, or with `make serve` for the demo's model.\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "--platform", "web", "--user", "\udcff", "--item", "s1"),
        (*PREDICT, "--item", r'{"item_id": "s1", "title": "\ud800"}'),
        ("record", "--platform", "web", "--user", "u", "--item", "\udcff"),
    ],
)
def test_what_is_no_text_is_told_in_a_sentence(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments, "--target", f"unix:{tmp_path / 'nobody.sock'}")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: The request was not sent: ")
    assert "must be text that UTF-8 has" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_empty_event_id_is_sent_as_it_is(gateway: Gateway) -> None:
    run(*RECORD, "--item", "s1", "--event-id", "")
    ((event,),) = gateway.calls[1:]
    assert event.event_id == ""


@pytest.mark.parametrize("seconds", ["0", "-3", "inf", "1e9"])
def test_a_timeout_has_bounds(seconds: str) -> None:
    assert run(*PREDICT, "--item", "s1", "--timeout-s", seconds).exit_code == 2
