"""A gateway that leaves: what callers, balancers and who runs it see."""

import asyncio
import fcntl
import os
import pty
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from drain_server import DrainServer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hostile_server import PATIENCE_S

from shopcast.v1 import (
    identity_service_pb2,
    identity_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
    types_pb2,
)
from shopcast_client import (
    Account,
    Event,
    EventKind,
    Item,
    PredictRequest,
    PredictResult,
    ShopcastClient,
    ShopcastError,
    Unavailable,
)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
Start = Callable[..., DrainServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[DrainServer] = []

    def one(**options: Any) -> DrainServer:
        started.append(DrainServer(tmp_path / str(len(started)), **options))
        return started[-1]

    yield one
    for server in started:
        server.kill()


@pytest.fixture
def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


async def ask(client: ShopcastClient, platform: str = "web") -> PredictResult:
    return await client.predict(platform=platform, user_id="anna", items=[Item("i-1")])


async def ended(server: DrainServer) -> int:
    return await asyncio.to_thread(server.wait)


async def test_calls_are_answered_while_health_says_not_serving(start: Start) -> None:
    server = start(wait_s=1.5)
    request = prediction_service_pb2.PredictRequest(
        account=types_pb2.Account(platform="web", platform_user_id="anna"),
        items=[types_pb2.Item(item_id="i-1")],
    )
    async with grpc.aio.insecure_channel(server.target) as channel:  # our client would go elsewhere
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        server.signal()
        assert (await watch.read()).status == NOT_SERVING
        told = time.monotonic()
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
        while time.monotonic() < told + 0.8:
            await stub.Predict(request)
        assert await watch.read() is grpc.aio.EOF  # only now that calls are refused
        assert time.monotonic() - told > 1.0
        assert await ended(server) == 0
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Predict(request)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert [step.split(",")[0] for step in server.steps] == [
        "SIGTERM came",
        "health says NOT_SERVING",
        "new calls are refused",
        "all calls are over",
        "the model is let go of",
        "done",
    ]


async def test_what_runs_is_finished_before_the_model_is_stopped(start: Start) -> None:
    server = start()
    async with ShopcastClient(server.target, timeout_s=5.0) as client:
        call = asyncio.create_task(ask(client, "slow"))
        await asyncio.sleep(0.4)
        server.signal()
        assert (await call).predictions
        assert await ended(server) == 0
    assert "new calls are refused, 1 running ones get 30 s" in server.steps


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_cuts_the_wait_short_and_nothing_else(
    start: Start, second: signal.Signals
) -> None:
    server = start(wait_s=60.0)
    async with ShopcastClient(server.target, timeout_s=5.0) as client:
        call = asyncio.create_task(ask(client, "slow"))
        await asyncio.sleep(0.4)
        for number in (signal.SIGTERM, second, second):
            server.signal(number)
            await asyncio.sleep(0.05)
        assert (await call).predictions
        assert await ended(server) == 0
    assert server.steps[-1] == "done"


async def test_after_sigint_nobody_is_waited_for(start: Start) -> None:
    server = start(wait_s=60.0)
    server.signal(signal.SIGINT)
    assert await ended(server) == 0
    assert "health says NOT_SERVING, calls are answered for 0 s" in server.steps


async def test_sighup_changes_nothing_but_where_a_terminal_has_gone(start: Start) -> None:
    server = start()
    async with ShopcastClient(server.target, timeout_s=5.0) as client:
        for _ in range(3):
            server.signal(signal.SIGHUP)
            assert (await ask(client)).predictions
    server.signal()
    assert await ended(server) == 0
    assert server.log.count("SIGHUP changes nothing") == 3
    ours, theirs = pty.openpty()
    server = start(stdin=theirs, wait_s=60.0)
    server.signal(signal.SIGHUP)
    assert await ended(server) == 0
    assert server.steps[-1] == "done"
    os.close(ours)
    os.close(theirs)


async def test_streams_end_and_say_whether_all_was_answered(start: Start) -> None:
    server = start()
    account = types_pb2.Account(platform="slow", platform_user_id="anna")
    async with grpc.aio.insecure_channel(server.target) as channel:
        identity = identity_service_pb2_grpc.IdentityServiceStub(channel)
        changes = identity.WatchChanges(identity_service_pb2.WatchChangesRequest())
        predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel).StreamPredict()
        asked = prediction_service_pb2.PredictRequest(
            account=account, items=[types_pb2.Item(item_id="i-1")]
        )
        await predictions.write(
            prediction_service_pb2.StreamPredictRequest(correlation_id="1", request=asked)
        )
        answer = asyncio.create_task(predictions.read())
        await asyncio.sleep(0.4)
        server.signal()
        assert (await answer).correlation_id == "1"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await predictions.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await changes.read() is grpc.aio.EOF
        assert await ended(server) == 0
    assert "all calls are over" in server.steps


async def test_streams_that_are_being_sent_to_end_alike(start: Start) -> None:
    server = start()

    async def requests() -> AsyncIterator[tuple[str, PredictRequest]]:
        while True:
            yield "1", PredictRequest(Account("web", "anna"), [Item("i-1")])

    async with ShopcastClient(server.target) as client:

        async def ends() -> None:
            async for _, answer in client.stream_predict(requests()):
                assert isinstance(answer, PredictResult | Unavailable)

        streams = [asyncio.create_task(ends()) for _ in range(16)]
        await asyncio.sleep(1.0)
        server.signal()
        found = await asyncio.gather(*streams, return_exceptions=True)
    assert [type(error) for error in found] == [Unavailable] * len(streams)
    assert await ended(server) == 0


async def test_a_quiet_stream_on_the_admin_port_holds_up_no_other_port(start: Start) -> None:
    server = start(admin_port=0)
    (admin,) = server.admin_targets
    async with (
        grpc.aio.insecure_channel(server.target) as channel,
        grpc.aio.insecure_channel(admin) as admin_channel,
    ):
        reflection = reflection_pb2_grpc.ServerReflectionStub(admin_channel)
        quiet = reflection.ServerReflectionInfo()
        await quiet.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await quiet.read()
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        server.signal()
        while await watch.read() is not grpc.aio.EOF:
            pass
        assert not quiet.done(), "calls are refused before the grace of a stream is over"
        quiet.cancel()
        assert await ended(server) == 0


async def test_a_call_that_never_ends_holds_nothing_up(start: Start) -> None:
    server = start(grace_s=0.5)
    async with ShopcastClient(server.target, timeout_s=60.0) as client:
        call = asyncio.create_task(ask(client, "never"))
        await asyncio.sleep(0.4)
        server.signal()
        with pytest.raises(Unavailable):
            await call
        assert await ended(server) == 0
    assert "calls that were not over after 0.5 s were cancelled" in server.steps
    assert "the model is let go of, and its Triton stopped" in server.steps


async def test_a_call_that_cannot_be_cancelled_neither(start: Start) -> None:
    server = start(grace_s=0.5, clean_up_s=4.0)
    async with ShopcastClient(server.target, timeout_s=60.0) as client:
        call = asyncio.create_task(ask(client, "stubborn"))
        await asyncio.sleep(0.4)
        server.signal()
        assert await ended(server) == 1
        with pytest.raises(Unavailable):
            await call
    assert "the model is let go of, and its Triton stopped" in server.steps
    assert server.steps[-1] == "not over after 4.5 s, the process is ended"


async def test_the_process_ends_even_if_its_event_loop_hangs(start: Start) -> None:
    server = start(grace_s=0.5, clean_up_s=0.5, hang="close")
    server.signal()
    assert await ended(server) == 1
    assert server.steps[-1] == "not over after 1 s, the process is ended"


async def test_who_does_not_read_the_log_holds_up_neither_calls_nor_the_end(start: Start) -> None:
    unread, log = os.pipe()
    fcntl.fcntl(log, fcntl.F_SETPIPE_SZ, 4096)
    server = start(stderr=log, grace_s=0.5)
    os.close(log)
    try:
        async with ShopcastClient(server.target, timeout_s=5.0) as client:
            for _ in range(100):  # each is a line
                assert (await ask(client)).predictions
        server.signal()
        assert await ended(server) == 0
    finally:
        os.close(unread)


async def test_a_rolling_restart_of_two_gateways_fails_no_call(
    start: Start, tmp_path: Path, free_ports: tuple[int, int]
) -> None:
    shared = {"directory": str(tmp_path / "shop.db"), "wait_s": 1.0}
    servers = [start(port=port, **shared) for port in free_ports]
    answered, failed, over = 0, list[str](), False

    async def call(client: ShopcastClient, caller: int) -> None:
        nonlocal answered
        number = 0
        while not over:
            number += 1
            try:
                if caller % 2:
                    await ask(client)
                else:
                    made = Event(
                        f"{caller}-{number}",
                        Account("web", f"u-{caller}-{number}"),
                        EventKind.VIEW,
                        datetime.now(UTC),
                        Item("i-1"),
                    )
                    assert (await client.record_events([made])).recorded == 1
                answered += 1
            except ShopcastError as error:
                failed.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(0.03)

    target = "ipv4:" + ",".join(server.target for server in servers)
    async with ShopcastClient(target, timeout_s=5.0) as client:
        callers = [asyncio.create_task(call(client, number)) for number in range(6)]
        await asyncio.sleep(1.0)
        for turn in (0, 1, 0):
            before = answered
            servers[turn].signal()
            assert await ended(servers[turn]) == 0
            servers[turn] = await asyncio.to_thread(start, port=free_ports[turn], **shared)
            assert answered > before
            await asyncio.sleep(3.0)  # within which clients connect again
        over = True
        await asyncio.gather(*callers)
    print(f"{answered} calls answered, {len(failed)} failed", *failed[:5], sep="\n")
    assert not failed
    assert answered > 300
    for server in servers:
        assert "/shopcast.v1.PredictionService/Predict code=OK" in server.log, "both are called"


async def test_a_gateway_that_stands_still_is_left_out(start: Start) -> None:
    servers = [start(), start()]
    target = "ipv4:" + ",".join(server.target for server in servers)
    async with ShopcastClient(target, timeout_s=0.5) as client:
        await ask(client)
        servers[0].signal(signal.SIGSTOP)
        in_a_row, end = 0, time.monotonic() + PATIENCE_S
        while in_a_row < 10:
            assert time.monotonic() < end, "it is called on and on"
            try:
                await ask(client)
                in_a_row += 1
            except ShopcastError:
                in_a_row = 0
