"""What `platform watch` shows, from the metrics that a gateway really serves."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from typer.testing import CliRunner

from shopcast_cli.app import app
from shopcast_cli.commands import watch as command
from shopcast_cli.commands.watch import Screen, bars
from shopcast_gateway import vitals as module
from shopcast_gateway.backend.rotation import RotationStatus
from shopcast_gateway.call_metrics import CallMetrics
from shopcast_gateway.core.adoption_status import AdoptionStatus, Refusal
from shopcast_gateway.core.protocol import Level, Reason
from shopcast_gateway.core.trial import Comparison
from shopcast_gateway.metrics import serve_metrics
from shopcast_gateway.stage_metrics import StageMetrics
from shopcast_gateway.triton.status import TritonStatus
from shopcast_gateway.vitals import Look, MetricsError, look_at, quantile, read_look, vitals

PREDICT = "/shopcast.v1.PredictionService/Predict"
TRITONS = ("a:8001", "b:8001")


class Gateway:
    """The metrics of a gateway, without the rest of it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = CallMetrics(self.registry, [PREDICT, "/shopcast.v1.EventService/GetHistory"])
        self.stages = StageMetrics(self.registry)
        self.status, self.health = AdoptionStatus(), TritonStatus()
        self.rotation = RotationStatus(TRITONS)
        self.trial: Any = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/metrics"

    def call(self, seconds: float, code: str = "OK") -> None:
        self.calls.began(PREDICT)
        self.calls.ended(PREDICT, code, seconds)

    def look(self, at_s: float) -> Look:
        return read_look(generate_latest(self.registry).decode(), at_s)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway()
    with serve_metrics(
        made.status, made.health, lambda: made.trial, made.registry, made.rotation,
        host="127.0.0.1", port=0,
    ) as made.port:  # fmt: skip
        made.status.want(3)
        made.status.adopted(3)
        made.health.set_up(True)
        yield made


def test_a_stretch_of_time_is_what_happened_in_it(gateway: Gateway) -> None:
    for _ in range(50):
        gateway.call(4.0)  # before; counts for nothing
    before = gateway.look(100.0)
    for _ in range(97):
        gateway.call(0.004)
    for _ in range(2):
        gateway.call(0.9)
    gateway.calls.refused(PREDICT, "RESOURCE_EXHAUSTED")
    gateway.calls.began(PREDICT)
    gateway.stages.stage("look_up", 0.0015)
    gateway.stages.batch("behavior", 6, 0)
    gateway.stages.batch("behavior", 2, 1)
    gateway.stages.vectors("memory", 30)
    gateway.stages.vectors("encoded", 10)
    gateway.stages.refusal("rows")
    gateway.stages.admitted(300)
    for _ in range(3):
        gateway.stages.answer(Level.FULL, None)
    gateway.stages.answer(Level.PRIOR, Reason.MODEL_AWAY)
    gateway.status.want(4)
    gateway.status.refused(4, Refusal("golden", "no"))
    gateway.health.repaired("encoder")
    found = vitals(before, gateway.look(110.0))
    assert (found.seconds, found.serving, found.wanted, found.refused) == (10.0, 3, 4, True)
    assert found.triton_up
    assert found.workers is None
    assert list(found.methods) == ["PredictionService/Predict"], "what nobody called is left out"
    (method,) = found.methods.values()
    assert method.codes == {"OK": 9.9, "RESOURCE_EXHAUSTED": 0.1}
    assert method.in_flight == 1
    assert method.timing.per_s == 9.9
    assert 3.0 < (method.timing.p50_ms or 0) < 5.0
    assert 750.0 < (method.timing.p99_ms or 0) < 1000.0
    assert found.stages["look_up"].per_s == 0.1
    assert found.stages["score"].p50_ms is None
    assert found.rows_a_batch == {"behavior": 4.0}
    assert found.vectors["memory"] == 0.75
    assert found.items == {}
    assert found.answers == {"FULL": 0.3, "PRIOR (model away)": 0.1}
    assert found.refusals_per_s == {"rows": 0.1}
    assert (found.rows_under_way, found.late_rows) == (300, 1)
    assert (found.adopted, found.models_refused, found.triton_repairs) == (0, 1, 1)
    assert found.trial is None


def test_a_gateway_that_was_started_again_counts_from_nothing(gateway: Gateway) -> None:
    for _ in range(50):
        gateway.call(0.1)
    again = Gateway()
    again.call(0.1)
    found = vitals(gateway.look(0.0), again.look(1.0))
    assert found.methods["PredictionService/Predict"].codes == {"OK": 1.0}
    assert found.serving is None


def test_a_quantile_is_that_of_prometheus() -> None:
    # histogram_quantile of promtool 2.42 on the same buckets.
    buckets = [(0.1, 10.0), (0.2, 30.0), (0.5, 40.0), (float("inf"), 50.0)]
    assert quantile(buckets, 0.5) == pytest.approx(0.175)
    assert quantile(buckets, 0.7) == pytest.approx(0.35)
    assert quantile(buckets, 0.99) == 0.5
    assert quantile(buckets, 0.1) == pytest.approx(0.05)
    assert quantile([(0.1, 0.0), (float("inf"), 0.0)], 0.5) is None
    assert quantile([], 0.5) is None


def test_a_version_on_trial_is_told(gateway: Gateway) -> None:
    comparison = Comparison(compared=8, failed=2, items=80, flips=4)
    comparison.correlations, comparison.rank_correlation = 4, 3.8
    gateway.trial = SimpleNamespace(version=5, answered=20, comparison=comparison)
    before = gateway.look(0.0)
    gateway.trial.answered = 30
    comparison.compared += 4
    trial = vitals(before, gateway.look(2.0)).trial
    assert trial is not None
    assert (trial.version, trial.answers_per_s, trial.compared_per_s) == (5, 5.0, 2.0)
    assert (trial.flip_share, trial.rank_correlation) == (0.05, pytest.approx(0.95))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1/metrics", "Connection refused"),
        ("http://nowhere.invalid/metrics", "say where its metrics are with --metrics"),
        ("file:///etc/passwd", "no address of metrics"),
        ("127.0.0.1:9100", "no address of metrics"),
        ("http://[x/metrics", "no address of metrics"),
        ("http://127.0.0.1:99999/metrics", "no address of metrics"),
        ("http://", "no address of metrics"),
    ],
)
def test_metrics_that_cannot_be_had_are_one_sentence(url: str, words: str) -> None:
    with pytest.raises(MetricsError, match=words) as caught:
        look_at(url)
    assert "\n" not in str(caught.value)


def test_what_is_no_gateway_says_so() -> None:
    for text in ("up 1\n", "<html>", "shopcast_requests_total{"):
        with pytest.raises(ValueError):
            read_look(text, 0.0)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["watch", *arguments])


def test_watch_shows_one_stretch_and_ends(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(_: float) -> None:
        gateway.call(0.01)
        gateway.call(0.2, "UNAVAILABLE")
        gateway.stages.answer(Level.FULL, None)
        gateway.stages.stage("score", 0.004)
        gateway.health.set_up(False)

    monkeypatch.setattr(command.time, "sleep", meanwhile)
    done = run("--metrics", gateway.url, "--once")
    assert done.exit_code == 0, done.output
    for words in (
        "version 3 serves, Triton is away",
        "a:8001, b:8001 out of rotation",
        "PredictionService/Predict",
        "UNAVAILABLE",
        "score",
        "predictions rest on: FULL 100.0%",
    ):
        assert words in done.stdout
    machine = run("--metrics", gateway.url, "--once", "--json")
    assert json.loads(machine.stdout)["serving"] == 3


def test_watch_goes_on_while_a_gateway_is_away(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of JSON a stretch, also of those without metrics; Ctrl-C is how it ends."""
    ask, looks = look_at, iter([None, MetricsError("nobody there"), None, KeyboardInterrupt()])

    def look(url: str) -> Look:
        failure = next(looks)
        if failure is not None:
            raise failure
        return ask(url)

    monkeypatch.setattr(module, "look_at", look)
    monkeypatch.setattr(command.time, "sleep", lambda _: None)
    done = run("--metrics", gateway.url, "--json")
    assert done.exit_code == 0, done.output
    away, back = [json.loads(line) for line in done.stdout.splitlines()]
    assert away == {"error": "nobody there"}
    assert back["serving"] == 3


def test_watch_of_nobody_is_one_sentence() -> None:
    done = run("--metrics", "http://127.0.0.1:1/metrics", "--once")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: http://127.0.0.1:1/metrics does not tell")
    assert "Traceback" not in done.output


def test_the_last_minutes_are_bars(gateway: Gateway) -> None:
    assert bars([0.0, 2.0, None, 4.0]) == "▁▄ █"
    assert bars([0.0, 0.0]) == "▁▁"
    screen, before = Screen(None), gateway.look(0.0)
    for second in range(1, 70):
        gateway.call(0.01)
        now = gateway.look(float(second))
        screen.show(vitals(before, now))
        before = now
    assert len(screen._calls) == 60
