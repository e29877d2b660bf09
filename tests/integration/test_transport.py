"""The real server on a real loopback socket; only what answers behind it is fake."""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from redis_servers import free_port

from shopcast.v1 import (
    identity_service_pb2,
    identity_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
    types_pb2,
)
from shopcast_client import (
    Account,
    DeadlineExceeded,
    Event,
    EventKind,
    InvalidRequest,
    Item,
    LinkKind,
    Overloaded,
    PredictRequest,
    ServerError,
    ShopcastClient,
    Unavailable,
)
from shopcast_domain.events import Outcome
from shopcast_gateway import errors
from shopcast_gateway.core import protocol as core
from shopcast_gateway.core.adoption import Refused
from shopcast_gateway.directory import types as directory
from shopcast_gateway.transport.health import ACCEPTING
from shopcast_gateway.transport.interceptor import Deadlines
from shopcast_gateway.transport.server import SERVICES, GatewayServer, build_server

USER_ID = "anna@example.com"
ITEMS = [Item("sku-1", title="Trail shoe", price=89.0), Item("sku-2")]


def prediction(query: core.PredictQuery) -> core.Prediction:
    one = core.PlatformUse("web", 3, 90.5)
    return core.Prediction(
        tuple(core.ItemPrediction(i.item_id, (0.5, 0.3, 0.2), True, False) for i in query.items),
        core.Evidence("a" * 32, "7", "3", tuple(Outcome), True, (one,), 3, 90.5, 2),
    )


class FakePredictor:
    """Answers, after whatever `before` does."""

    def __init__(self, before: Callable[[], Awaitable[None]] | None = None) -> None:
        self.before = before
        self.calls = 0
        self.timeouts_s: list[float] = []

    async def predict(self, query: core.PredictQuery, *, timeout_s: float) -> core.Prediction:
        self.calls += 1
        self.timeouts_s.append(timeout_s)
        if self.before is not None:
            await self.before()
        return prediction(query)


class FakeDirectory:
    """Keeps nothing and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def record(self, events: Any) -> directory.RecordResult:
        self.asked.append(events)
        new, known = directory.EventStatus.RECORDED, directory.EventStatus.DUPLICATE
        return directory.RecordResult((new,) * (len(events) - 1) + (known,))

    async def link(
        self, *accounts: Any, kind: Any, confidence: float, source: str
    ) -> directory.LinkResult:
        self.asked.append((*accounts, kind, confidence))
        return directory.LinkResult("p_" + "0" * 32, merged=True)

    async def resolve(self, account: Any, *, as_of_s: float | None) -> directory.Person | None:
        self.asked.append(account)
        if account.user_id != USER_ID:
            return None
        return directory.Person("p_" + "0" * 32, (("web", "f" * 32),))


@asynccontextmanager
async def serving(
    predictor: FakePredictor | None = None,
    held: FakeDirectory | None = None,
    deadlines: Deadlines | None = None,
) -> AsyncIterator[tuple[GatewayServer, str]]:
    server = build_server(
        predictor or FakePredictor(),
        held or FakeDirectory(),  # type: ignore[arg-type]
        port=0,
        deadlines=deadlines,
    )
    await server.start()
    try:
        yield server, f"127.0.0.1:{server.port}"
    finally:
        await server.stop(grace_s=0.5)


def raising(error: BaseException) -> FakePredictor:
    async def before() -> None:
        raise error

    return FakePredictor(before)


async def slow() -> None:
    await asyncio.sleep(30)


async def ask(client: ShopcastClient) -> Any:
    return await client.predict(platform="web", user_id=USER_ID, items=ITEMS)


async def test_a_prediction_arrives_whole() -> None:
    async with serving() as (_, target), ShopcastClient(target) as client:
        answer = await ask(client)
    assert [one.item_id for one in answer.predictions] == ["sku-1", "sku-2"]
    assert answer.predictions[0].purchase_probability == pytest.approx(0.5)
    assert answer.predictions[0].return_risk == pytest.approx(0.4)
    assert answer.evidence.platforms[0].newest_event_age.total_seconds() == 90.5
    assert answer.evidence.model_version == "7"


async def test_events_and_identities_reach_the_directory() -> None:
    held = FakeDirectory()
    event = Event(
        "e-1", Account("web", USER_ID), EventKind.BUY, datetime.now(UTC), ITEMS[0], quantity=2
    )
    async with serving(held=held) as (_, target), ShopcastClient(target) as client:
        recorded = await client.record_events([event, event])
        linked = await client.link_accounts(
            Account("web", USER_ID), Account("app", "7"), kind=LinkKind.DEVICE, confidence=0.5
        )
        known = await client.resolve_person(platform="web", user_id=USER_ID)
        unknown = await client.resolve_person(platform="web", user_id="nobody")
    assert (recorded.recorded, recorded.duplicates) == (1, 1)
    assert held.asked[0][0].item.title == "Trail shoe"
    assert held.asked[0][0].time_s == pytest.approx(event.time.timestamp(), abs=1e-5)
    assert held.asked[1][2:] == (directory.LinkKind.DEVICE, 0.5)
    assert linked.merged
    assert known is not None
    assert known.accounts[0].pseudonym == "f" * 32
    assert unknown is None


async def test_a_bad_request_names_every_field() -> None:
    async with serving() as (_, target), ShopcastClient(target) as client:
        with pytest.raises(InvalidRequest) as caught:
            await client.predict(
                platform="Web", user_id="", items=[Item("a", title=" "), Item("a", price=-1.0)]
            )
    assert [one.field for one in caught.value.violations] == [
        "account.platform",
        "account.platform_user_id",
        "items[0].title",
        "items[1].price",
        "items[1].item_id",
    ]
    assert caught.value.reason == "BAD_REQUEST"
    assert str(caught.value).startswith("Shopcast refused the request: account.platform: must be")


async def test_the_longest_list_of_violations_fits_the_wire() -> None:
    async with serving() as (_, target), ShopcastClient(target) as client:
        with pytest.raises(InvalidRequest) as caught:
            await client.predict(platform="W", user_id="", items=[Item("")] * 1000)
    assert len(caught.value.violations) == 20


async def test_overload_says_when_to_come_back_and_is_not_retried() -> None:
    predictor = raising(errors.Overloaded("queue full", retry_after_s=0.25))
    async with serving(predictor) as (_, target), ShopcastClient(target) as client:
        with pytest.raises(Overloaded, match="full") as caught:
            await ask(client)
    assert caught.value.retry_after_s == 0.25
    assert predictor.calls == 1


async def test_unavailable_is_retried_until_it_answers() -> None:
    predictor = FakePredictor()

    async def fail_twice() -> None:
        if predictor.calls <= 2:
            raise errors.Unavailable("the model server at 10.0.0.7 is away")

    predictor.before = fail_twice
    async with serving(predictor) as (_, target), ShopcastClient(target) as client:
        await ask(client)
    assert predictor.calls == 3


async def test_unavailable_for_good_is_told_without_our_inner_addresses() -> None:
    predictor = raising(errors.Unavailable("the model server at 10.0.0.7 is away"))
    async with serving(predictor) as (_, target), ShopcastClient(target) as client:
        with pytest.raises(Unavailable) as caught:
            await ask(client)
    assert predictor.calls == 4
    assert caught.value.reason == "UNAVAILABLE"
    assert target in str(caught.value)
    assert "10.0.0.7" not in str(caught.value)


async def test_an_unreachable_target_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{unused.getsockname()[1]}"
        async with ShopcastClient(target) as client:
            with pytest.raises(Unavailable, match=f"No connection to Shopcast at {target}"):
                await ask(client)


async def test_the_callers_deadline_holds() -> None:
    predictor = FakePredictor(slow)
    async with serving(predictor) as (_, target), ShopcastClient(target, timeout_s=0.2) as client:
        with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
            await ask(client)
    # On the wire it is rounded up to milliseconds.
    assert 0 < predictor.timeouts_s[0] <= 0.201


@pytest.mark.parametrize("asked_s", [None, 30.0])
async def test_the_servers_deadline_holds_where_the_caller_sets_none_or_a_long_one(
    asked_s: float | None,
) -> None:
    deadlines = Deadlines(default_s=0.1, max_s=0.15)
    async with (
        serving(FakePredictor(slow), deadlines=deadlines) as (_, target),
        grpc.aio.insecure_channel(target) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Predict(predict_request(), timeout=asked_s)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert detail(caught.value, error_details_pb2.ErrorInfo()).reason == "DEADLINE_EXPIRED"


async def test_what_is_cancelled_inside_a_call_leaves_nobody_without_an_answer() -> None:
    async def before() -> None:
        waiting = asyncio.get_running_loop().create_future()
        waiting.cancel()
        await waiting

    async with serving(FakePredictor(before)) as (_, target), ShopcastClient(target) as client:
        with pytest.raises(ServerError) as caught:
            async with asyncio.timeout(20):
                await ask(client)
    assert caught.value.reason == "INTERNAL"


async def test_an_unforeseen_error_is_told_by_request_id_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)

    async def before() -> None:
        try:
            raise KeyError(USER_ID)
        except KeyError as error:
            raise ValueError(f"no account {USER_ID}") from error

    async with serving(FakePredictor(before)) as (_, target), ShopcastClient(target) as client:
        with pytest.raises(ServerError) as caught:
            await ask(client)
    assert caught.value.reason == "INTERNAL"
    assert caught.value.request_id in str(caught.value)
    assert "error of its own" in str(caught.value)
    failures = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(failures) == 1
    assert caught.value.request_id in failures[0]
    for word in ("ValueError", "KeyError", "predict", "before"):
        assert word in failures[0]
    assert USER_ID not in caplog.text
    assert USER_ID not in repr(caught.value)


async def test_every_call_leaves_one_line_without_anything_personal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "shopcast_gateway.access")
    async with serving() as (_, target), ShopcastClient(target) as client:
        await ask(client)
        with pytest.raises(InvalidRequest) as caught:
            await client.predict(platform="web", user_id=USER_ID, items=[])
    first, second = (r.getMessage() for r in caplog.records if r.name.endswith("access"))
    assert first.startswith("method=/shopcast.v1.PredictionService/Predict code=OK duration_ms=")
    assert "code=INVALID_ARGUMENT" in second
    assert f"request_id={caught.value.request_id}" in second
    assert USER_ID not in caplog.text


@pytest.mark.parametrize(
    ("sent", "kept"), [("shop-42:a", True), ("x" * 65, False), ("two words", False)]
)
async def test_only_a_decent_request_id_is_taken_over(sent: str, kept: bool) -> None:
    async with serving() as (_, target), grpc.aio.insecure_channel(target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Predict(
                prediction_service_pb2.PredictRequest(), metadata=(("x-request-id", sent),)
            )
    answered = detail(caught.value, error_details_pb2.RequestInfo()).request_id
    assert (answered == sent) is kept
    assert answered


async def test_bytes_that_are_no_message_are_a_bad_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as (_, target), grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary("/shopcast.v1.PredictionService/Predict")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\xff\xff\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


async def test_a_caller_that_hangs_up_stops_the_work(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "shopcast_gateway.access")
    started, stopped = asyncio.Event(), asyncio.Event()

    async def before() -> None:
        started.set()
        try:
            await slow()
        finally:
            stopped.set()

    async with serving(FakePredictor(before)) as (_, target), ShopcastClient(target) as client:
        call = asyncio.create_task(ask(client))
        await started.wait()
        call.cancel()
        await asyncio.wait_for(stopped.wait(), 5)
    assert "code=CANCELLED" in caplog.text


async def test_closing_a_client_is_told_to_who_calls_with_it_and_cancels_nobody() -> None:
    begun = asyncio.Event()

    async def hang() -> None:
        begun.set()
        await asyncio.sleep(30)

    async def requests() -> AsyncIterator[tuple[str, PredictRequest]]:
        yield "one", PredictRequest(Account("web", USER_ID), ITEMS)
        await asyncio.sleep(30)

    async def stream(client: ShopcastClient) -> None:
        async for _ in client.stream_predict(requests()):
            pass

    async def cancelled(client: ShopcastClient) -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        await ask(client)

    async with serving(FakePredictor(hang)) as (_, target):
        async with ShopcastClient(target, timeout_s=20.0) as client:
            calls = [asyncio.create_task(one(client)) for one in (ask, stream, cancelled)]
            await begun.wait()
        *ended, own = await asyncio.gather(*calls, return_exceptions=True)
    for error in ended:
        assert isinstance(error, Unavailable)
        assert (error.reason, str(error)) == (
            "CLOSED", "The client was closed before the call was over.",
        )  # fmt: skip
    assert isinstance(own, asyncio.CancelledError)


async def test_an_open_client_is_not_opened_again() -> None:
    async with serving() as (_, target), ShopcastClient(target) as client:
        with pytest.raises(RuntimeError, match="share it"):
            await client.__aenter__()
        await ask(client)


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
async def test_no_proxy_is_asked_for_this_machine(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"http://127.0.0.1:{free_port()}")
    async with serving() as (_, target), ShopcastClient(target) as client:
        await ask(client)
    async with ShopcastClient("192.0.2.1:1") as client:  # no machine's
        with pytest.raises(Unavailable, match="at the proxy that is to lead there"):
            await ask(client)


async def test_a_message_too_large_is_refused_before_it_is_sent() -> None:
    items = [Item(f"{n:04}", title="鞋" * 1000, category="鞋" * 300) for n in range(1100)]
    async with ShopcastClient("127.0.0.1:1") as client:
        with pytest.raises(InvalidRequest, match="send fewer items"):
            await client.predict(platform="web", user_id=USER_ID, items=items)


async def test_health_follows_set_serving_and_does_not_know_strangers() -> None:
    async with serving() as (server, target), grpc.aio.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def check(name: str) -> int:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            return answer.status

        states = health_pb2.HealthCheckResponse
        for name in ("", *SERVICES):
            assert await check(name) == states.NOT_SERVING
        server.set_serving(True)
        for name in ("", *SERVICES):
            assert await check(name) == states.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check("shopcast.v1.NoSuchService")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_watch_knows_each_service_and_tells_that_it_does_not_know_strangers() -> None:
    async with serving() as (server, target), grpc.aio.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        names = ("", *SERVICES, "shopcast.v1.NoSuchService")
        watches = [stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in names]

        async def told() -> list[int]:
            return [(await watch.read()).status for watch in watches]

        states = health_pb2.HealthCheckResponse
        known = len(names) - 1
        assert await told() == [states.NOT_SERVING] * known + [states.SERVICE_UNKNOWN]
        server.set_serving(True)
        stranger = watches.pop()
        assert await told() == [states.SERVING] * known
        with pytest.raises(TimeoutError):  # it goes on, as the protocol asks, and says no more
            await asyncio.wait_for(stranger.read(), 0.2)


async def test_clients_are_sent_here_until_it_drains_whether_a_model_is_up_or_not() -> None:
    async with serving() as (server, target), grpc.aio.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=ACCEPTING))
        states = health_pb2.HealthCheckResponse
        assert (await watch.read()).status == states.SERVING
        server.set_serving(True)
        server.set_serving(False)
        async with ShopcastClient(target) as client:
            assert (await ask(client)).predictions
        server.announce()
        assert (await watch.read()).status == states.NOT_SERVING
        server.set_accepting(True)  # too late
        assert (await stub.Check(health_pb2.HealthCheckRequest(service=ACCEPTING))).status == (
            states.NOT_SERVING
        )


async def test_reflection_lists_the_services() -> None:
    async with serving() as (_, target), grpc.aio.insecure_channel(target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        answers = [answer async for answer in call]
    names = {service.name for service in answers[0].list_services_response.service}
    assert names >= {
        "shopcast.v1.PredictionService",
        "shopcast.v1.EventService",
        "shopcast.v1.IdentityService",
        "grpc.health.v1.Health",
    }


async def test_stop_lets_a_running_call_finish() -> None:
    started = asyncio.Event()

    async def before() -> None:
        started.set()
        await asyncio.sleep(0.2)

    async with serving(FakePredictor(before)) as (server, target), ShopcastClient(target) as client:
        call = asyncio.create_task(ask(client))
        await started.wait()
        await server.stop(grace_s=5)
        assert len((await call).predictions) == 2


async def test_calls_that_a_stop_without_grace_ends_are_not_told_to_be_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    begun = asyncio.Event()

    async def hang() -> None:
        begun.set()
        await slow()

    async with (
        serving(FakePredictor(hang)) as (server, target),
        ShopcastClient(target, timeout_s=20.0) as client,
    ):
        call = asyncio.create_task(ask(client))
        await begun.wait()
        await server.stop(0)
        with pytest.raises(Unavailable):
            await call
    assert "stopping: calls that were not over after 0 s were cancelled" in caplog.text
    assert "all calls are over" not in caplog.text


async def test_stop_does_not_wait_for_who_watches_health() -> None:
    async with serving() as (server, target), grpc.aio.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        server.set_serving(True)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        farewell = asyncio.create_task(watch.read())
        await asyncio.wait_for(server.stop(grace_s=60), 5)
        assert (await farewell).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await watch.read() is grpc.aio.EOF


async def test_a_taken_port_is_told() -> None:
    async with serving() as (server, _):
        with pytest.raises(errors.StartupError) as caught:
            build_server(FakePredictor(), FakeDirectory(), port=server.port)  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"port {server.port} on 127.0.0.1 is already in use: "
        "choose another with --port or stop what listens there"
    )


async def test_an_address_of_another_machine_is_told() -> None:
    with pytest.raises(errors.StartupError, match=r"192\.0\.2\.1 is not an address"):
        build_server(FakePredictor(), FakeDirectory(), host="192.0.2.1", port=0)  # type: ignore[arg-type]


async def test_a_plain_sync_client_needs_nothing_but_the_stubs() -> None:
    def call(target: str) -> prediction_service_pb2.PredictResponse:
        with grpc.insecure_channel(target) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            return stub.Predict(predict_request(), timeout=5)

    async with serving() as (_, target):
        answer = await asyncio.to_thread(call, target)
    assert answer.predictions[0].buy_probability == pytest.approx(0.3)


def predict_request() -> prediction_service_pb2.PredictRequest:
    return prediction_service_pb2.PredictRequest(
        account=types_pb2.Account(platform="web", platform_user_id=USER_ID),
        items=[types_pb2.Item(item_id="sku-1")],
    )


def detail(error: grpc.aio.AioRpcError, found: Any) -> Any:
    status = rpc_status.from_call(error)
    assert status is not None
    assert any(packed.Unpack(found) for packed in status.details)
    return found


async def test_why_a_version_is_refused_is_told_whatever_it_names() -> None:
    """Metadata that gRPC refuses would make health fail for every service."""
    refused = Refused("files", "its manifest lists behavior/2/a\nb\x00é" + "x" * 100_000)
    async with serving() as (server, target):
        server.set_serving(True)
        server.tell_adoption(str(refused))
        async with grpc.aio.insecure_channel(target) as channel:
            call = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert (await call).status == health_pb2.HealthCheckResponse.SERVING
            told = dict(await call.trailing_metadata())["shopcast-refusal"]
    assert told.startswith(r"its manifest lists behavior/2/a\nb\x00\xe9x")


async def test_of_too_many_calls_of_any_method_some_are_answered_in_time() -> None:
    """The directory answers 100 a second; 300 a second are asked of it, with half a second each."""

    class Slow(FakeDirectory):
        free = asyncio.Lock()

        async def resolve(self, account: Any, *, as_of_s: float | None) -> Any:
            async with self.free:
                await asyncio.sleep(0.01)
            return await super().resolve(account, as_of_s=as_of_s)

    async with (
        serving(held=Slow()) as (_, target),
        grpc.aio.insecure_channel(target) as channel,
    ):
        stub = identity_service_pb2_grpc.IdentityServiceStub(channel)
        request = identity_service_pb2.ResolvePersonRequest(
            account=types_pb2.Account(platform="web", platform_user_id=USER_ID)
        )

        async def ask() -> str:
            try:
                await stub.ResolvePerson(request, timeout=0.5)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return "OK"

        calls = []
        for _ in range(600):
            calls.append(asyncio.create_task(ask()))
            await asyncio.sleep(1 / 300)
        seen = Counter(await asyncio.gather(*calls))
    assert seen["OK"] > 40
    assert seen["RESOURCE_EXHAUSTED"] > 60
    assert seen["DEADLINE_EXCEEDED"] < 0.35 * 600, "two thirds, where all are let in"
