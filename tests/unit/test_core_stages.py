"""What is told of the stages of a prediction, and to whom."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from shopcast_domain.events import Account, Item
from shopcast_gateway.core.admission import CALL_ROWS, Admission
from shopcast_gateway.core.adoption_status import AdoptionStatus, Refusal
from shopcast_gateway.core.batching import Batcher
from shopcast_gateway.core.protocol import Level, Prediction, PredictQuery, Reason
from shopcast_gateway.core.stages import SPENT, Interval, Refuser, Spent, Unrecorded, timed
from shopcast_gateway.errors import DeadlineExpired, Overloaded, Unavailable
from shopcast_gateway.metrics import observe
from shopcast_gateway.stage_metrics import StageMetrics


class Told(Unrecorded):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, float]] = []
        self.batches: list[tuple[str, int, int]] = []
        self.refusals: list[str] = []

    def stage(self, stage: str, duration_s: float) -> None:
        self.stages.append((stage, duration_s))

    def batch(self, model: str, rows: int, late: int) -> None:
        self.batches.append((model, rows, late))

    def admitted(self, rows: int) -> None:
        self.rows = rows

    def refusal(self, by: Refuser) -> None:
        self.refusals.append(by)


async def double(batch: Sequence[int], _: Callable[[], float]) -> list[int]:
    with timed("score"):
        await asyncio.sleep(0.05)
    return [2 * number for number in batch]


def batcher(told: Told) -> Batcher[int, int]:
    return Batcher(
        double, size=lambda _: 1, fits=lambda _: True, calls=1, model="behavior", recorder=told
    )


async def test_waiting_and_running_are_told_apart() -> None:
    told = Told()
    gathering = batcher(told)
    first = gathering.put(1, timeout_s=10)
    await asyncio.sleep(0.01)
    others = [gathering.put(number, timeout_s=10) for number in (2, 3)]
    await asyncio.gather(first.future, *(one.future for one in others))
    assert told.batches == [("behavior", 1, 0), ("behavior", 2, 0)]
    queued = [duration_s for stage, duration_s in told.stages if stage == "queue"]
    scored = [duration_s for stage, duration_s in told.stages if stage == "score"]
    assert len(queued) == 3, "one a row"
    assert len(scored) == 2, "one a batch"
    assert queued[0] < 0.02 < queued[1], "the others waited for the first to end"
    assert all(duration_s >= 0.045 for duration_s in scored)
    assert [(one.stage, pytest.approx(one.duration_s)) for one in others[0].spent] == [
        ("queue", queued[1]),
        ("score", scored[1]),
    ]


async def test_a_row_whose_time_was_up_when_its_batch_started_is_not_run() -> None:
    told = Told()
    gathering = batcher(told)
    loop = asyncio.get_running_loop()
    entries = [
        gathering.put(number, timeout_s=timeout_s) for number, timeout_s in ((1, 0.02), (2, 10))
    ]
    # What stands in the way of the batch, between its choice and its start.
    loop.call_soon(time.sleep, 0.03)
    late, answer = await asyncio.gather(
        *(entry.future for entry in entries), return_exceptions=True
    )
    assert isinstance(late, DeadlineExpired)
    assert answer == 4
    assert told.batches == [("behavior", 1, 0)]


async def test_a_row_whose_time_is_up_before_its_batch_is_chosen_is_not_run() -> None:
    told = Told()
    gathering = batcher(told)
    entry = gathering.put(1, timeout_s=0.0)
    await asyncio.wait({entry.future})
    assert entry.future.exception() is not None
    assert told.batches == []


async def test_a_batch_adds_to_no_one_call() -> None:
    spent = Spent()
    SPENT.set(spent)
    await batcher(Told()).put(1, timeout_s=10).future
    assert spent.total() == {}


def test_of_what_runs_at_the_same_time_the_longest_counts() -> None:
    spent = Spent()
    spent.add("look_up", 1.0)
    spent.add("look_up", 2.0)
    for group, stage, duration_s in (
        ("encoder", "queue", 1.0),
        ("encoder", "encode", 5.0),
        ("encoder", "queue", 3.0),
        ("encoder", "encode", 4.0),
        ("behavior", "queue", 0.5),
        ("behavior", "score", 2.0),
    ):
        spent.waited(group, [Interval.ended_now(stage, duration_s)])  # type: ignore[arg-type]
    assert list(spent.total().items()) == [
        ("look_up", 3.0),
        ("queue", 3.5),
        ("encode", 5.0),
        ("score", 2.0),
    ]


class Nobody:
    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
        raise AssertionError


def test_refusals_tell_what_there_was_no_room_for() -> None:
    told = Told()
    admission = Admission(Nobody(), max_rows=2 * (CALL_ROWS + 1), recorder=told)
    assert admission.early_refusal(1) is None
    assert isinstance(admission.early_refusal(2), Overloaded)
    assert told.refusals == ["early"]


async def test_a_prediction_without_room_tells_whether_it_was_bulk() -> None:
    begun, done = asyncio.Event(), asyncio.Event()

    class Slow(Nobody):
        async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
            begun.set()
            await done.wait()
            raise Unavailable

    told = Told()
    admission = Admission(Slow(), max_rows=CALL_ROWS + 1, recorder=told)
    query = PredictQuery(Account("web", "u"), (Item("sku"),))
    running = asyncio.create_task(admission.predict(query, timeout_s=10))
    await begun.wait()
    assert admission.rows == CALL_ROWS + 1
    for bulk in (False, True):
        with pytest.raises(Overloaded):
            await admission.predict(replace(query, bulk=bulk), timeout_s=10)
    assert told.refusals == ["rows", "bulk"]
    assert [stage for stage, _ in told.stages] == ["admission"], "of the one that was let in"
    done.set()
    with pytest.raises(Unavailable):
        await running
    assert admission.rows == 0


def test_the_registry_has_what_it_is_told() -> None:
    registry = CollectorRegistry()
    stages = StageMetrics(registry)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("shopcast_late_executions_total") == 0
    assert value("shopcast_admission_rows") == 0
    stages.batch("encoder", 3, 2)
    stages.batch("behavior", 64, 0)
    stages.vectors("store", 5)
    stages.stage("look_up", 0.004)
    stages.answer(Level.FULL, None)
    stages.answer(Level.STALE, Reason.STORE_AWAY)
    stages.answer(Level.STALE, Reason.STORE_AWAY)
    assert value("shopcast_late_executions_total") == 2
    assert value("shopcast_batch_rows_bucket", model="encoder", le="2.0") == 0
    assert value("shopcast_batch_rows_bucket", model="encoder", le="4.0") == 1
    assert value("shopcast_batch_rows_sum", model="behavior") == 64
    assert value("shopcast_vectors_total", **{"from": "store"}) == 5
    assert value("shopcast_vectors_total", **{"from": "memory"}) == 0
    assert value("shopcast_stage_seconds_sum", stage="look_up") == pytest.approx(0.004)
    assert value("shopcast_answers_total", level="FULL", reason="none") == 1
    assert value("shopcast_answers_total", level="STALE", reason="store_away") == 2


def test_a_swap_is_timed_from_when_it_is_wanted() -> None:
    registry, status = CollectorRegistry(), AdoptionStatus()
    observe(status, registry)
    name = "shopcast_model_swap_seconds_count"
    status.want(1)
    status.adopted(1)
    assert registry.get_sample_value(name) == 1
    status.want(1)
    status.adopted(1)  # its Triton was started again
    status.want(2)
    status.refused(2, Refusal("golden", "it does not reproduce"))
    status.adopted(1)
    assert registry.get_sample_value(name) == 1
    status.want(3)
    time.sleep(0.01)
    status.adopted(3)
    assert registry.get_sample_value(name) == 2
    assert (registry.get_sample_value("shopcast_model_swap_seconds_sum") or 0) >= 0.01
