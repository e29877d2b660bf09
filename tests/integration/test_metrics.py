"""What Prometheus sees of calls, scraped from the real port."""

import asyncio
import socket
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from shopcast.v1 import prediction_service_pb2 as pb
from shopcast.v1 import prediction_service_pb2_grpc as services
from shopcast.v1 import types_pb2
from shopcast_domain.events import Outcome
from shopcast_gateway import metrics_port
from shopcast_gateway.call_metrics import OTHER, CallMetrics
from shopcast_gateway.core import protocol as core
from shopcast_gateway.core.adoption_status import AdoptionStatus
from shopcast_gateway.errors import Overloaded
from shopcast_gateway.metrics import serve_metrics
from shopcast_gateway.metrics_port import AT_ONCE, MetricsHandler
from shopcast_gateway.transport.server import METHODS, build_server
from shopcast_gateway.triton.status import TritonStatus

PREDICT = "/shopcast.v1.PredictionService/Predict"
USER_ID = "anna@example.com"
REQUEST = pb.PredictRequest(
    account=types_pb2.Account(platform="web", platform_user_id=USER_ID),
    items=[types_pb2.Item(item_id="sku-7")],
)


class FakePredictor:
    """Answers, after whatever `before` does."""

    before: Callable[[], Awaitable[None]] | None = None

    async def predict(self, query: core.PredictQuery, *, timeout_s: float) -> core.Prediction:
        if self.before is not None:
            await self.before()
        evidence = core.Evidence("a" * 32, "7", "3", tuple(Outcome), True, (), 0, None, 0)
        answer = core.ItemPrediction(query.items[0].item_id, (0.5, 0.3, 0.2), True, False)
        return core.Prediction((answer,), evidence)


class Gateway:
    """A server whose metrics can be read. full: predictions are refused early."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.predictor, self.full, self.port = FakePredictor(), False, 0
        directory: Any = None
        self.server = build_server(
            self.predictor,
            directory,
            port=0,
            refusal=lambda _: Overloaded("full") if self.full else None,
            recorder=CallMetrics(registry, METHODS),
        )

    async def samples(self) -> list[Any]:
        address = f"http://127.0.0.1:{self.port}/metrics"
        text = await asyncio.to_thread(_read, address)
        assert USER_ID not in text
        return [one for family in text_string_to_metric_families(text) for one in family.samples]

    async def value(self, name: str, **labels: str) -> float | None:
        found = [s.value for s in await self.samples() if (s.name, s.labels) == (name, labels)]
        return found[0] if found else None

    async def reach(self, value: float, name: str, **labels: str) -> None:
        async with asyncio.timeout(10):
            while True:
                if await self.value(name, **labels) == value:
                    return
                await asyncio.sleep(0.02)


def _read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 - of this machine
        return str(answer.read().decode())


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    yield CollectorRegistry()


@asynccontextmanager
async def serving(registry: CollectorRegistry) -> AsyncIterator[tuple[Gateway, grpc.aio.Channel]]:
    gateway = Gateway(registry)
    with serve_metrics(
        AdoptionStatus(), TritonStatus(), lambda: None, registry, host="127.0.0.1", port=0
    ) as gateway.port:
        await gateway.server.start()
        try:
            target = f"127.0.0.1:{gateway.server.port}"
            async with grpc.aio.insecure_channel(target) as channel:
                yield gateway, channel
        finally:
            await gateway.server.stop(grace_s=0.5)


async def failing(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_who_connects_and_sends_nothing_takes_little_and_not_for_long(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MetricsHandler, "timeout", 1.0)
    async with serving(registry) as (gateway, channel):
        with ExitStack() as stack:
            silent = [
                stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), 10.0))
                for _ in range(AT_ONCE + 5)
            ]
            for more in silent[AT_ONCE:]:
                assert await asyncio.to_thread(more.recv, 1) == b"", "there is no room for it"
            for one in silent[:AT_ONCE]:
                assert await asyncio.to_thread(one.recv, 1) == b"", "its time is over"
            await services.PredictionServiceStub(channel).Predict(REQUEST)
            assert await gateway.value("shopcast_requests_total", method=PREDICT, code="OK") == 1


async def test_who_takes_nothing_of_what_it_asked_for_neither(
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(metrics_port, "AT_ONCE", 1)
    monkeypatch.setattr(MetricsHandler, "timeout", 0.3)
    many = Gauge("many", "Larger than what waits in sockets.", ["label"], registry=registry)
    for number in range(50_000):
        many.labels(f"{number:0200}")
    async with serving(registry) as (gateway, _):
        with socket.create_connection(("127.0.0.1", gateway.port), 10.0) as slow:
            slow.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            address = f"http://127.0.0.1:{gateway.port}/metrics"
            async with asyncio.timeout(30.0):
                while True:
                    with suppress(OSError):  # there is no room yet
                        assert "many" in await asyncio.to_thread(_read, address)
                        break
    assert capfd.readouterr().err == ""


async def test_calls_are_counted_by_method_and_status(registry: CollectorRegistry) -> None:
    async with serving(registry) as (gateway, channel):
        stub = services.PredictionServiceStub(channel)
        assert await gateway.value("shopcast_requests_total", method=PREDICT, code="OK") == 0
        for _ in range(3):
            await stub.Predict(REQUEST)
        await failing(stub.Predict(pb.PredictRequest()))
        gateway.full = True
        await failing(stub.Predict(REQUEST))
        gateway.full = False
        gateway.predictor.before = lambda: asyncio.sleep(30)
        await failing(stub.Predict(REQUEST, timeout=0.1))
        await asyncio.sleep(0.2)  # it ends a moment after the caller's deadline
        counted = {
            one.labels["code"]: one.value
            for one in await gateway.samples()
            if one.name == "shopcast_requests_total" and one.labels["method"] == PREDICT
        }
        assert counted == {
            "OK": 3,
            "INVALID_ARGUMENT": 1,
            "RESOURCE_EXHAUSTED": 1,
            "DEADLINE_EXCEEDED": 1,
        }
        timed = await gateway.value("shopcast_request_seconds_count", method=PREDICT)
        assert timed == 5, "what is refused early has no duration"
        spent_s = await gateway.value("shopcast_request_seconds_sum", method=PREDICT)
        assert spent_s is not None
        assert 0.09 <= spent_s < 10


async def test_calls_and_streams_are_in_flight_until_they_end(registry: CollectorRegistry) -> None:
    async with serving(registry) as (gateway, channel):
        stub = services.PredictionServiceStub(channel)
        begun = asyncio.Event()

        async def wait() -> None:
            begun.set()
            await asyncio.sleep(30)

        gateway.predictor.before = wait
        call = stub.Predict(REQUEST)
        stream = stub.StreamPredict()
        await stream.write(pb.StreamPredictRequest(correlation_id="1", request=REQUEST))
        await asyncio.wait_for(begun.wait(), 10)
        name = "shopcast_requests_in_flight"
        streams = "/shopcast.v1.PredictionService/StreamPredict"
        await gateway.reach(1, name, method=streams)
        assert await gateway.value(name, method=PREDICT) == 1
        call.cancel()
        stream.cancel()
        await gateway.reach(0, name, method=PREDICT)
        await gateway.reach(0, name, method=streams)
        ended = await gateway.value("shopcast_requests_total", method=PREDICT, code="CANCELLED")
        assert ended == 1


async def test_no_caller_can_add_a_label(registry: CollectorRegistry) -> None:
    names = [
        *(f"/shopcast.v1.PredictionService/Predict{number}" for number in range(50)),
        f"/shopcast.v1.PredictionService/{USER_ID}",
        "/shopcast.v1.Predict/x\\ny",
        "/",
        "/a/" + "b" * 4000,
        PREDICT + "/",
        PREDICT.lower(),
    ]
    async with serving(registry) as (gateway, channel):
        before = len(await gateway.samples())
        for full in (False, True):
            gateway.full = full
            for name in names:
                await failing(channel.unary_unary(name)(b""))
        samples = await gateway.samples()
        told = {one.labels["method"] for one in samples if "method" in one.labels}
        assert told == {*METHODS, OTHER}
        assert len(samples) <= before + 2 * 2, "a status or two of `other`, each with its _created"
        calls = [
            one.value
            for one in samples
            if one.name == "shopcast_requests_total" and one.labels["method"] == OTHER
        ]
        assert sum(calls) == 2 * len(names)
