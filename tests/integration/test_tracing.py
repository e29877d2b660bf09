"""Traces over real sockets: from the caller's to a collector, which may be away."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from shopcast.v1 import prediction_service_pb2 as pb
from shopcast.v1 import prediction_service_pb2_grpc as services
from shopcast.v1 import types_pb2
from shopcast_domain.events import Outcome
from shopcast_gateway.backend.triton import TritonBackend
from shopcast_gateway.core import protocol as core
from shopcast_gateway.core.batching import Batcher
from shopcast_gateway.core.stages import SPENT, Spent, timed
from shopcast_gateway.errors import StartupError, Unavailable
from shopcast_gateway.tracing import traced
from shopcast_gateway.transport.server import build_server

USER_ID = "anna@example.com"
TRACE, CALLER = "ab" * 16, "cd" * 8
REQUEST = pb.PredictRequest(
    account=types_pb2.Account(platform="web", platform_user_id=USER_ID),
    items=[types_pb2.Item(item_id="sku-7")],
)


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent. broken: answers 503, after a while."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []
        self.broken = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def spans(self) -> dict[str, Any]:
        return {
            span.name: span
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if not self.server.broken:
            assert self.path == "/v1/traces"
            self.server.bodies.append(body)
        self.send_response(503 if self.server.broken else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


class FakePredictor:
    """Looks something up, scores it, and fails where `away`. asked: the trace it belonged to."""

    def __init__(self) -> None:
        self.away, self.asked = False, ""

    async def predict(self, query: core.PredictQuery, *, timeout_s: float) -> core.Prediction:
        spent = SPENT.get()
        self.asked = (spent and spent.traceparent) or ""
        with timed("look_up"):
            await asyncio.sleep(0.01)
        with timed("score"):
            await asyncio.sleep(0.02)
        if self.away:
            raise Unavailable("the store is away")
        evidence = core.Evidence("a" * 32, "7", "3", tuple(Outcome), True, (), 0, None, 0)
        answer = core.ItemPrediction(query.items[0].item_id, (0.5, 0.3, 0.2), True, False)
        return core.Prediction((answer,), evidence)


@asynccontextmanager
async def serving(
    predictor: FakePredictor, url: str | None
) -> AsyncIterator[services.PredictionServiceStub]:
    directory: Any = None
    async with traced(url) as tracer:
        server = build_server(predictor, directory, port=0, tracer=tracer)
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                yield services.PredictionServiceStub(channel)
        finally:
            await server.stop(grace_s=0.5)


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: one.value for one in span.attributes}


async def test_a_call_goes_on_in_the_callers_trace(collector: Collector) -> None:
    predictor = FakePredictor()
    async with serving(predictor, collector.url) as stub:
        metadata = (("traceparent", f"00-{TRACE}-{CALLER}-01"), ("x-request-id", "r-1"))
        answer = await stub.Predict(REQUEST, metadata=metadata)
    assert not answer.evidence.stage_timings, "nobody asked for them"
    spans = collector.spans()
    assert set(spans) == {"shopcast.v1.PredictionService/Predict", "look_up", "score"}
    call = spans.pop("shopcast.v1.PredictionService/Predict")
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, CALLER)
    assert predictor.asked == f"00-{TRACE}-{call.span_id.hex()}-01"
    told = attributes(call)
    assert told["rpc.method"].string_value == "Predict"
    assert told["rpc.grpc.status_code"].int_value == 0
    assert told["shopcast.request_id"].string_value == "r-1"
    for one in spans.values():
        assert (one.trace_id.hex(), one.parent_span_id) == (TRACE, call.span_id)
        assert call.start_time_unix_nano <= one.start_time_unix_nano
        assert one.end_time_unix_nano <= call.end_time_unix_nano
        assert one.end_time_unix_nano - one.start_time_unix_nano >= 9_000_000
    assert all(USER_ID.encode() not in body and b"sku-7" not in body for body in collector.bodies)


async def test_a_failure_of_the_servers_is_an_error(collector: Collector) -> None:
    predictor = FakePredictor()
    predictor.away = True
    async with serving(predictor, collector.url) as stub:
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Predict(REQUEST)
    call = collector.spans()["shopcast.v1.PredictionService/Predict"]
    assert attributes(call)["rpc.grpc.status_code"].int_value == 14
    assert call.status.code == 2


@pytest.mark.parametrize(
    "said",
    ["", "00-xyz", f"00-{'0' * 32}-{CALLER}-01", "00-" + "a" * 5000, f"ff-{TRACE}-{CALLER}-01"],
)
async def test_what_is_no_trace_begins_one(collector: Collector, said: str) -> None:
    predictor = FakePredictor()
    async with serving(predictor, collector.url) as stub:
        await stub.Predict(REQUEST, metadata=(("traceparent", said),))
    call = collector.spans()["shopcast.v1.PredictionService/Predict"]
    assert call.parent_span_id == b""
    asked, _, flags = predictor.asked.rpartition("-")
    assert asked == f"00-{call.trace_id.hex()}-{call.span_id.hex()}"
    assert int(flags, 16) & 1, "it is sampled"


async def test_who_does_not_sample_is_not_recorded_but_goes_on(collector: Collector) -> None:
    predictor = FakePredictor()
    async with serving(predictor, collector.url) as stub:
        await stub.Predict(REQUEST, metadata=(("traceparent", f"00-{TRACE}-{CALLER}-00"),))
    assert predictor.asked.startswith(f"00-{TRACE}-")
    assert predictor.asked.endswith("-00")
    assert collector.bodies == []


@pytest.mark.parametrize("how", ["broken", "gone"])
async def test_answers_do_not_depend_on_the_collector(collector: Collector, how: str) -> None:
    collector.broken = True
    url = collector.url if how == "broken" else "http://127.0.0.1:9"
    async with serving(FakePredictor(), url) as stub:
        await asyncio.gather(*(stub.Predict(REQUEST, timeout=20) for _ in range(50)))
        began = time.monotonic()
    assert time.monotonic() - began < 6, "a gateway that stops does not wait for it"


async def test_without_an_endpoint_nothing_is_traced() -> None:
    predictor = FakePredictor()
    async with serving(predictor, None) as stub:
        await stub.Predict(REQUEST, metadata=(("traceparent", f"00-{TRACE}-{CALLER}-01"),))
    assert predictor.asked == ""


async def test_an_endpoint_that_is_none_is_told() -> None:
    with pytest.raises(StartupError, match="--otlp-endpoint"):
        async with traced("localhost:4318"):
            pass


@pytest.mark.parametrize(("port", "warned"), [(4317, True), (4318, False), (14317, False)])
async def test_the_port_of_collectors_for_grpc_is_told_to_be_none_for_http(
    port: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with traced(f"http://127.0.0.1:{port}"):
        pass
    assert ("--otlp-endpoint the port for HTTP, 4318" in caplog.text) == warned


async def test_a_collector_on_this_machine_is_sent_to_without_a_proxy(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_grpc_proxy", "127.0.0.1")  # the caller of this test
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with serving(FakePredictor(), collector.url) as stub:
        await stub.Predict(REQUEST)
    assert "shopcast.v1.PredictionService/Predict" in collector.spans()


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "shopcast-gateway"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=theirs"}, "theirs"),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "service.name=theirs", "OTEL_SERVICE_NAME": "ours"},
            "ours",
        ),
    ],
)
async def test_spans_have_the_name_that_the_environment_says(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    async with serving(FakePredictor(), collector.url) as stub:
        await stub.Predict(REQUEST)
    sent = ExportTraceServiceRequest.FromString(collector.bodies[0])
    assert attributes(sent.resource_spans[0].resource)["service.name"].string_value == name


async def test_what_callers_and_headers_hold_is_not_in_the_log(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization: Bearer s3cr3t")
    metadata = (
        ("traceparent", f"00-{TRACE}-{CALLER}-01"),
        ("tracestate", f"{USER_ID}=1,A B=2,a={USER_ID}"),
    )
    async with serving(FakePredictor(), collector.url) as stub:
        await stub.Predict(REQUEST, metadata=metadata)
    assert collector.spans(), "the call is traced all the same"
    assert USER_ID not in caplog.text
    assert "s3cr3t" not in caplog.text
    assert "left out of OTEL_EXPORTER_OTLP_HEADERS" in caplog.text


class Client:
    """Remembers the metadata of an inference, and answers none."""

    def __init__(self) -> None:
        self.headers: list[Any] = []

    async def infer(self, *_: Any, headers: Any, **__: Any) -> Any:
        self.headers.append(headers)
        return self

    def as_numpy(self, output: str) -> Any:
        return np.zeros(1, np.float32)


async def test_the_model_server_is_asked_in_the_trace_of_the_first_of_a_batch(
    tmp_path: Any,
) -> None:
    client = Client()
    backend = TritonBackend(client, tmp_path)

    async def run(batch: Any, _: Any) -> Any:
        await backend.infer("m", 1, {"x": np.zeros(1, np.float32)}, "y", timeout_s=5)
        return batch

    gathering: Batcher[int, int] = Batcher(
        run, size=lambda _: 1, fits=lambda _: True, calls=1, model="behavior"
    )

    async def ask(number: int, traceparent: str | None) -> None:
        SPENT.set(Spent(traceparent) if traceparent else None)
        await gathering.put(number, timeout_s=5).future

    first, second = (f"00-{TRACE}-{number:016x}-01" for number in (1, 2))
    await asyncio.gather(*(ask(n, one) for n, one in enumerate((None, first, second))))
    await ask(3, None)
    assert client.headers == [{"traceparent": first}, None]
