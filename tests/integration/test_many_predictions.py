"""Predictions in batches and streams, over a real loopback socket; only the predictor is fake."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from grpc_status import rpc_status

from shopcast.v1 import prediction_service_pb2, prediction_service_pb2_grpc, types_pb2
from shopcast_client import (
    Account,
    DeadlineExceeded,
    InvalidRequest,
    Item,
    Overloaded,
    PredictRequest,
    PredictResult,
    Priority,
    ServerError,
    ShopcastClient,
    ShopcastError,
    Unavailable,
)
from shopcast_domain.events import Outcome
from shopcast_gateway import errors
from shopcast_gateway.core import protocol as core
from shopcast_gateway.core.stages import SPENT
from shopcast_gateway.transport.interceptor import Deadlines
from shopcast_gateway.transport.prediction_service import MAX_UNANSWERED
from shopcast_gateway.transport.server import build_server

Before = Callable[[core.PredictQuery], Awaitable[None]]
FAILURES: dict[str, Exception] = {
    "full": errors.Overloaded("queue full", retry_after_s=0.25),
    "away": errors.Unavailable("10.0.0.7 is away"),
    "late": errors.DeadlineExpired("too slow"),
    "misfit": errors.ContractMismatch("tensor 'x'"),
    "broken": ValueError("no account broken"),
}


class FakePredictor:
    """Answers after what `before` does, and knows how many are being answered."""

    def __init__(self, before: Before | None = None) -> None:
        self._before = before
        self.started = 0
        self.running = 0
        self.cancelled = 0

    async def predict(self, query: core.PredictQuery, *, timeout_s: float) -> core.Prediction:
        self.started += 1
        self.running += 1
        try:
            if query.account.user_id in FAILURES:
                raise FAILURES[query.account.user_id]
            if self._before is not None:
                await self._before(query)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return core.Prediction(
            tuple(
                core.ItemPrediction(i.item_id, (0.5, 0.3, 0.2), True, False) for i in query.items
            ),
            core.Evidence("a" * 32, "7", "3", tuple(Outcome), True, (), 0, None, 0),
        )


@asynccontextmanager
async def serving(
    predictor: FakePredictor, deadlines: Deadlines | None = None
) -> AsyncIterator[str]:
    directory: Any = None
    server = build_server(predictor, directory, port=0, deadlines=deadlines)
    await server.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(grace_s=0.5)


@asynccontextmanager
async def client_of(
    predictor: FakePredictor, deadlines: Deadlines | None = None, timeout_s: float = 5.0
) -> AsyncIterator[ShopcastClient]:
    async with (
        serving(predictor, deadlines) as target,
        ShopcastClient(target, timeout_s=timeout_s) as client,
    ):
        yield client


def asked(user_id: str, items: int = 1) -> PredictRequest:
    return PredictRequest(Account("web", user_id), [Item(f"{user_id}-{n}") for n in range(items)])


def message(user_id: str, items: int = 1) -> prediction_service_pb2.PredictRequest:
    return prediction_service_pb2.PredictRequest(
        account=types_pb2.Account(platform="web", platform_user_id=user_id),
        items=[types_pb2.Item(item_id=f"sku-{n}") for n in range(items)],
    )


def named(user_id: str, items: int = 1) -> prediction_service_pb2.StreamPredictRequest:
    return prediction_service_pb2.StreamPredictRequest(
        correlation_id=user_id, request=message(user_id, items)
    )


class Timed(FakePredictor):
    """Spends time on whoever asks, several of them at once."""

    async def predict(self, query: core.PredictQuery, *, timeout_s: float) -> core.Prediction:
        if (spent := SPENT.get()) is not None:
            spent.add("look_up", 0.25)
        await asyncio.sleep(0.02)
        return await super().predict(query, timeout_s=timeout_s)


async def each(*user_ids: str) -> AsyncIterator[tuple[str, PredictRequest]]:
    for user_id in user_ids:
        yield user_id, asked(user_id)


def first_item(result: PredictResult | ShopcastError) -> str:
    assert isinstance(result, PredictResult)
    return result.predictions[0].item_id


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.01)


async def forever(query: core.PredictQuery) -> None:
    await asyncio.Event().wait()


async def test_a_batch_is_answered_in_order_whatever_is_ready_first() -> None:
    async def before(query: core.PredictQuery) -> None:
        await asyncio.sleep(0.2 if query.account.user_id == "a" else 0)

    async with client_of(FakePredictor(before)) as client:
        results = await client.batch_predict([asked("a"), asked("b", items=3), asked("a")])
    assert [first_item(one) for one in results] == ["a-0", "b-0", "a-0"]
    assert isinstance(results[1], PredictResult)
    assert len(results[1].predictions) == 3


async def test_so_many_requests_of_a_batch_run_at_once() -> None:
    meeting, there, most = asyncio.Barrier(MAX_UNANSWERED), 0, 0

    async def before(query: core.PredictQuery) -> None:
        nonlocal there, most
        assert query.bulk
        there += 1
        most = max(most, there)
        if int(query.account.user_id.removeprefix("u-")) < 96:
            await meeting.wait()
        there -= 1

    async with client_of(FakePredictor(before)) as client:
        results = await client.batch_predict([asked(f"u-{n}", items=10) for n in range(100)])
    assert [first_item(one) for one in results] == [f"u-{n}-0" for n in range(100)]
    assert most == MAX_UNANSWERED


async def test_requests_have_the_priority_they_name_and_else_that_of_their_method() -> None:
    seen: dict[str, bool] = {}

    async def before(query: core.PredictQuery) -> None:
        seen[query.account.user_id] = query.bulk

    def named(way: str) -> list[PredictRequest]:
        some = {"unset": None, "bulk": Priority.BULK, "interactive": Priority.INTERACTIVE}
        return [replace(asked(f"{way}-{name}"), priority=said) for name, said in some.items()]

    async def several() -> AsyncIterator[tuple[str, PredictRequest]]:
        for one in named("stream"):
            yield "it", one

    async with client_of(FakePredictor(before)) as client:
        for one in named("alone"):
            await client.predict(
                platform="web", user_id=one.account.user_id, items=one.items, priority=one.priority
            )
        await client.batch_predict(named("batch"))
        assert len([one async for one in client.stream_predict(several())]) == 3
    assert {who for who, bulk in seen.items() if bulk} == {
        "alone-bulk", "batch-unset", "batch-bulk", "stream-unset", "stream-bulk",
    }  # fmt: skip
    assert len(seen) == 9


async def test_one_that_fails_does_not_fail_the_others(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = PredictRequest(Account("Web", "b"), [Item("x"), Item("y", price=-1.0)])
    async with client_of(FakePredictor()) as client:
        results = await client.batch_predict(
            [asked("a"), wrong, asked("full"), asked("broken"), asked("away"), asked("e")]
        )
    good, bad, full, broken, away, last = results
    assert (first_item(good), first_item(last)) == ("a-0", "e-0")
    assert isinstance(bad, InvalidRequest)
    assert [one.field for one in bad.violations] == ["account.platform", "items[1].price"]
    assert isinstance(full, Overloaded)
    assert full.retry_after_s == 0.25
    assert isinstance(broken, ServerError)
    assert "error of its own" in str(broken)
    assert isinstance(away, Unavailable)
    assert "10.0.0.7" not in str(away)
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(lines) == 1
    assert "BatchPredict" in lines[0]
    assert "ValueError" in lines[0]
    assert broken.request_id in lines[0]
    assert bad.request_id == full.request_id == broken.request_id
    assert "no account" not in caplog.text


@pytest.mark.parametrize("user_id", ["", *FAILURES])
async def test_a_part_has_the_status_that_predict_ends_with(user_id: str) -> None:
    about = (("x-request-id", "r-1"),)
    async with serving(FakePredictor()) as target, grpc.aio.insecure_channel(target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Predict(message(user_id), metadata=about)
        alone = rpc_status.from_call(caught.value)
        batch = await stub.BatchPredict(
            prediction_service_pb2.BatchPredictRequest(requests=[message(user_id)]),
            metadata=about,
        )
        request = prediction_service_pb2.StreamPredictRequest(
            correlation_id="1", request=message(user_id)
        )
        stream = [one async for one in stub.StreamPredict(iter([request]), metadata=about)]
    assert isinstance(alone, status_pb2.Status)
    assert [one.status for one in batch.results] == [alone]
    assert [one.status for one in stream] == [alone]


@pytest.mark.parametrize(
    ("requests", "problem"),
    [
        ([], "must hold 1 to 100, not 0"),
        ([asked("a")] * 101, "must hold 1 to 100, not 101"),
        ([asked("a", 500), asked("b", 501)], "at most 1,000 items in all, not 1,001"),
    ],
    ids=["empty", "many requests", "many items"],
)
async def test_a_batch_too_small_or_too_large_fails_whole(
    requests: Sequence[PredictRequest], problem: str
) -> None:
    predictor = FakePredictor()
    async with client_of(predictor) as client:
        with pytest.raises(InvalidRequest, match=problem) as caught:
            await client.batch_predict(requests)
    assert [one.field for one in caught.value.violations] == ["requests"]
    assert predictor.started == 0


async def test_the_largest_batch_is_answered() -> None:
    async with client_of(FakePredictor()) as client:
        results = await client.batch_predict([asked("a", 500), asked("b", 500)])
    assert [first_item(one) for one in results] == ["a-0", "b-0"]


async def test_a_batch_whose_deadline_passes_fails_whole_and_stops() -> None:
    async def before(query: core.PredictQuery) -> None:
        if query.account.user_id == "slow":
            await forever(query)

    predictor = FakePredictor(before)
    deadlines = Deadlines(max_s=0.2)
    async with client_of(predictor, deadlines) as client:
        with pytest.raises(DeadlineExceeded) as caught:
            await client.batch_predict([asked("a"), asked("slow")])
    assert caught.value.reason == "DEADLINE_EXPIRED"
    assert (predictor.running, predictor.cancelled) == (0, 1)


async def test_a_stream_answers_in_the_order_of_readiness() -> None:
    last = asyncio.Event()

    async def before(query: core.PredictQuery) -> None:
        if query.account.user_id == "a":
            await last.wait()

    async with client_of(FakePredictor(before)) as client:
        names = []
        async for name, result in client.stream_predict(each("a", "b", "c")):
            assert first_item(result) == f"{name}-0"
            names.append(name)
            if len(names) == 2:
                last.set()
    assert sorted(names[:2]) == ["b", "c"]
    assert names[2] == "a"


async def test_in_a_stream_one_that_fails_does_not_fail_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def requests() -> AsyncIterator[tuple[str, PredictRequest]]:
        yield "", asked("a")
        yield "x" * 65, PredictRequest(Account("web", "b"), [])
        async for one in each("full", "broken", "c"):
            yield one
        yield "x" * 64, asked("d")

    async with client_of(FakePredictor()) as client:
        results = {name: result async for name, result in client.stream_predict(requests())}
    nameless, long = results[""], results["x" * 65]
    assert isinstance(nameless, InvalidRequest)
    assert isinstance(long, InvalidRequest)
    assert [one.field for one in nameless.violations] == ["correlation_id"]
    assert [one.field for one in long.violations] == ["correlation_id", "items"]
    assert isinstance(results["full"], Overloaded)
    broken = results["broken"]
    assert isinstance(broken, ServerError)
    assert (first_item(results["c"]), first_item(results["x" * 64])) == ("c-0", "d-0")
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(lines) == 1
    assert "StreamPredict" in lines[0]
    assert broken.request_id in lines[0]


async def test_a_request_of_a_stream_has_the_default_deadline_and_the_stream_goes_on() -> None:
    async def before(query: core.PredictQuery) -> None:
        if query.account.user_id == "slow":
            await forever(query)

    predictor = FakePredictor(before)
    async with client_of(predictor, Deadlines(default_s=0.2)) as client:

        async def requests() -> AsyncIterator[tuple[str, PredictRequest]]:
            yield "slow", asked("slow")
            await until(lambda: predictor.cancelled == 1)
            yield "a", asked("a")

        results = [one async for one in client.stream_predict(requests())]
    assert [name for name, _ in results] == ["slow", "a"]
    slow, a = (result for _, result in results)
    assert isinstance(slow, DeadlineExceeded)
    assert str(slow).endswith("did not answer in time.")
    assert first_item(a) == "a-0"


async def test_after_the_last_request_what_runs_is_finished() -> None:
    go = asyncio.Event()

    async def before(query: core.PredictQuery) -> None:
        await go.wait()

    predictor = FakePredictor(before)
    async with serving(predictor) as target, grpc.aio.insecure_channel(target) as channel:
        call = prediction_service_pb2_grpc.PredictionServiceStub(channel).StreamPredict()
        for n in range(5):
            await call.write(named(f"u-{n}"))
        await call.done_writing()
        await until(lambda: predictor.running == 5)
        go.set()
        names = [one.correlation_id async for one in call]
        assert await call.code() is grpc.StatusCode.OK
    assert sorted(names) == [f"u-{n}" for n in range(5)]
    assert predictor.cancelled == 0


async def test_a_stream_without_a_request_ends_at_once() -> None:
    async with client_of(FakePredictor()) as client:
        assert [one async for one in client.stream_predict(each())] == []


async def test_cancelling_a_stream_cancels_what_runs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "shopcast_gateway.access")
    predictor = FakePredictor(forever)
    async with serving(predictor) as target, grpc.aio.insecure_channel(target) as channel:
        call = prediction_service_pb2_grpc.PredictionServiceStub(channel).StreamPredict()
        for n in range(5):
            await call.write(named(f"u-{n}"))
        await until(lambda: predictor.running == 5)
        call.cancel()
        await until(lambda: predictor.cancelled == 5)
        await until(lambda: "code=CANCELLED" in caplog.text)
    assert predictor.running == 0


async def test_leaving_the_loop_cancels_what_runs() -> None:
    async def before(query: core.PredictQuery) -> None:
        if query.account.user_id != "a":
            await forever(query)

    predictor = FakePredictor(before)
    async with client_of(predictor) as client:
        answers = client.stream_predict(each("b", "a", "c"))
        assert (await anext(answers))[0] == "a"
        await until(lambda: predictor.running == 2)
        await answers.aclose()  # type: ignore[attr-defined]
        await until(lambda: predictor.cancelled == 2)


async def test_no_more_than_16_requests_of_a_stream_run_at_once() -> None:
    predictor = FakePredictor(forever)
    async with serving(predictor) as target, grpc.aio.insecure_channel(target) as channel:
        requests = [named(f"u-{n}") for n in range(100)]
        call = prediction_service_pb2_grpc.PredictionServiceStub(channel).StreamPredict(requests)
        await until(lambda: predictor.running == MAX_UNANSWERED == 16)
        await asyncio.sleep(0.2)
        assert predictor.started == 16
        call.cancel()
        await until(lambda: predictor.cancelled == 16)


async def test_who_never_reads_makes_the_server_stop_reading(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Answers are some 40 KB, so that 1,000 of them fit into no buffer on the way."""
    caplog.set_level(logging.INFO, "shopcast_gateway.access")
    predictor = FakePredictor()
    async with serving(predictor) as target, grpc.aio.insecure_channel(target) as channel:

        async def requests() -> AsyncIterator[prediction_service_pb2.StreamPredictRequest]:
            request = named("u", items=1000)
            for _ in range(1000):
                yield request

        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        call = stub.StreamPredict(requests())
        seen = -1
        while seen != predictor.started:
            seen = predictor.started
            await asyncio.sleep(1)
        assert 0 < seen < 500
        assert predictor.running == 0
        # It goes on for who reads again, and ends for who hangs up.
        for _ in range(seen):
            await call.read()
        await until(lambda: predictor.started > seen)
        call.cancel()
        await until(lambda: "code=CANCELLED" in caplog.text)
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


async def test_bytes_that_are_no_message_end_a_stream_and_what_runs() -> None:
    predictor = FakePredictor(forever)

    async def requests() -> AsyncIterator[bytes]:
        yield named("a").SerializeToString()
        await until(lambda: predictor.running == 1)
        yield b"\xff\xff garbage"

    async with serving(predictor) as target, grpc.aio.insecure_channel(target) as channel:
        call = channel.stream_stream("/shopcast.v1.PredictionService/StreamPredict")(requests())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(call))
        await until(lambda: predictor.cancelled == 1)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_the_requests_raise_reaches_the_caller() -> None:
    async def requests() -> AsyncIterator[tuple[str, PredictRequest]]:
        yield "a", asked("a")
        raise LookupError("no more shoppers")

    predictor = FakePredictor(forever)
    async with client_of(predictor) as client:
        with pytest.raises(LookupError, match="no more shoppers"):
            async for _ in client.stream_predict(requests()):
                pass
        await until(lambda: predictor.running == 0)


async def test_a_request_too_large_for_a_stream_is_told() -> None:
    async def requests() -> AsyncIterator[tuple[str, PredictRequest]]:
        yield "a", PredictRequest(Account("web", "a"), [Item("x" * 5 * 1024 * 1024)])

    async with client_of(FakePredictor()) as client:
        with pytest.raises(InvalidRequest, match="send fewer items"):
            async for _ in client.stream_predict(requests()):
                pass


async def test_who_asks_is_told_where_the_time_went_and_nobody_else() -> None:
    def timings(result: PredictResult | ShopcastError) -> list[str]:
        assert isinstance(result, PredictResult)
        for one in result.evidence.stage_timings:
            assert one.duration.total_seconds() == 0.25, "the time of one request"
        return [one.stage for one in result.evidence.stage_timings]

    asking, others = replace(asked("anna"), stage_timings=True), asked("bert")

    async def requests() -> AsyncIterator[tuple[str, PredictRequest]]:
        for name, request in (("1", asking), ("2", others), ("3", asking)):
            yield name, request

    async with client_of(Timed()) as client:
        one = {"platform": "web", "user_id": "anna", "items": asking.items}
        assert timings(await client.predict(**one, stage_timings=True)) == ["look_up"]
        assert timings(await client.predict(**one)) == []
        batch = await client.batch_predict([asking, others, asking])
        assert [timings(result) for result in batch] == [["look_up"], [], ["look_up"]]
        streamed = {name: timings(found) async for name, found in client.stream_predict(requests())}
        assert streamed == {"1": ["look_up"], "2": [], "3": ["look_up"]}
