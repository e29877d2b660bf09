"""The published service config, as any gRPC client reads it."""

import json
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pool

from shopcast.v1 import (
    prediction_service_pb2,
    prediction_service_pb2_grpc,
    privacy_service_pb2,
    privacy_service_pb2_grpc,
)
from shopcast_client import SERVICE_CONFIG, Account, ShopcastClient, Unavailable
from shopcast_gateway.transport.health import ACCEPTING
from shopcast_gateway.transport.interceptor import Deadlines
from shopcast_gateway.transport.server import SERVICES

PUBLISHED = Path(__file__).parents[2] / "protos" / "shopcast" / "v1" / "service_config.json"


class Failing(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers after some failures, without health and without anything else of ours."""

    def __init__(self, code: grpc.StatusCode, times: int) -> None:
        self.calls, self._code, self._times = 0, code, times

    def Predict(  # noqa: N802
        self, request: prediction_service_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> prediction_service_pb2.PredictResponse:
        self.calls += 1
        if self.calls <= self._times:
            context.abort(self._code, "for now")
        return prediction_service_pb2.PredictResponse()


@pytest.fixture
def failing(request: pytest.FixtureRequest) -> Iterator[tuple[Failing, grpc.Channel]]:
    servicer = Failing(*request.param)
    server = grpc.server(futures.ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    options = [("grpc.service_config", PUBLISHED.read_text())]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        yield servicer, channel
    server.stop(None).wait()


@pytest.mark.parametrize(
    "failing",
    [(grpc.StatusCode.UNAVAILABLE, 2), (grpc.StatusCode.CANCELLED, 2)],
    ids=lambda one: one[0].name,
    indirect=True,
)
def test_grpc_takes_it_and_retries(failing: tuple[Failing, grpc.Channel]) -> None:
    servicer, channel = failing
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    stub.Predict(prediction_service_pb2.PredictRequest())
    assert servicer.calls == 3


@pytest.mark.parametrize("failing", [(grpc.StatusCode.RESOURCE_EXHAUSTED, 1)], indirect=True)
def test_a_server_that_is_full_is_not_asked_again(failing: tuple[Failing, grpc.Channel]) -> None:
    servicer, channel = failing
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(prediction_service_pb2.PredictRequest(), timeout=5.0)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert servicer.calls == 1


class Forgetting(privacy_service_pb2_grpc.PrivacyServiceServicer):
    """Erases, and is away before it can say so; what was erased is not known any more."""

    def __init__(self) -> None:
        self.erasures = 0

    def ErasePerson(  # noqa: N802
        self, request: privacy_service_pb2.ErasePersonRequest, context: grpc.ServicerContext
    ) -> privacy_service_pb2.ErasePersonResponse:
        self.erasures += 1
        if self.erasures == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the answer is lost")
        return privacy_service_pb2.ErasePersonResponse(known=False)


async def test_who_erased_is_not_told_that_there_was_nobody() -> None:
    servicer = Forgetting()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    privacy_service_pb2_grpc.add_PrivacyServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    async with ShopcastClient(f"127.0.0.1:{port}") as client:
        with pytest.raises(Unavailable):
            await client.erase_person(Account("web", "u-1"))
    server.stop(None).wait()
    assert servicer.erasures == 1


def test_whose_second_answer_would_be_another_is_asked_once() -> None:
    general, once, _ = json.loads(SERVICE_CONFIG)["methodConfig"]
    assert "retryPolicy" in general
    assert "retryPolicy" not in once
    assert {one["method"] for one in once["name"]} == {
        *("LinkAccounts", "MergePeople", "UnlinkAccounts", "SplitAccount", "UndoChange"),
        "ErasePerson",
    }
    pool = descriptor_pool.Default()
    for one in once["name"]:
        assert one["method"] in pool.FindServiceByName(one["service"]).methods_by_name


def test_it_is_the_clients_own_and_knows_every_service() -> None:
    assert PUBLISHED.read_text() == SERVICE_CONFIG
    config = json.loads(SERVICE_CONFIG)
    assert config["healthCheckConfig"] == {"serviceName": ACCEPTING}
    general, once, streams = config["methodConfig"]
    assert {name["service"] for name in general["name"]} == set(SERVICES)
    assert general["timeout"] == once["timeout"] == f"{Deadlines().max_s:.0f}s"
    assert "timeout" not in streams


def test_streams_have_no_time_limit() -> None:
    *_, streams = json.loads(SERVICE_CONFIG)["methodConfig"]
    named = {(one["service"], one["method"]) for one in streams["name"]}
    pool = descriptor_pool.Default()
    streaming = {
        (service, method.name)
        for service in SERVICES
        for method in pool.FindServiceByName(service).methods
        if method.server_streaming
    }
    assert named == streaming
