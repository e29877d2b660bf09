"""The queue before the real server: what a burst of calls meets, and that it is forgotten."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from hostile_server import PATIENCE_S, FakePredictor

from shopcast.v1 import prediction_service_pb2 as pb
from shopcast.v1 import prediction_service_pb2_grpc as services
from shopcast.v1 import types_pb2
from shopcast_gateway.core.admission import Admission
from shopcast_gateway.transport import backlog as backlogs
from shopcast_gateway.transport.backlog import Backlog
from shopcast_gateway.transport.server import build_server

CONNECTIONS, CALLS = 14, 250
REQUEST = pb.PredictRequest(
    account=types_pb2.Account(platform="web", platform_user_id="u"),
    items=[types_pb2.Item(item_id="i")],
)


@asynccontextmanager
async def serving() -> AsyncIterator[list[services.PredictionServiceStub]]:
    """Callers with a connection each."""
    nothing: Any = None
    admission = Admission(FakePredictor())
    made = build_server(admission, nothing, port=0, refusal=admission.early_refusal)
    await made.start()
    apart = [("grpc.use_local_subchannel_pool", 1)]
    async with AsyncExitStack() as stack:
        stubs = []
        for _ in range(CONNECTIONS):
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{made.port}", options=apart)
            await stack.enter_async_context(channel)
            await channel.channel_ready()
            stubs.append(services.PredictionServiceStub(channel))
        yield stubs
    await made.stop(0.5)


async def ask(stub: services.PredictionServiceStub) -> str:
    try:
        await stub.Predict(REQUEST, timeout=PATIENCE_S)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def burst(stubs: list[services.PredictionServiceStub]) -> Counter[str]:
    found = Counter(await asyncio.gather(*(ask(one) for one in stubs for _ in range(CALLS))))
    print(dict(found))
    return found


async def test_a_burst_is_answered_or_refused_and_forgotten() -> None:
    async with serving() as stubs:
        assert await ask(stubs[0]) == "OK"
        found = await burst(stubs)
        assert found.keys() <= {"OK", "RESOURCE_EXHAUSTED"}
        assert found["RESOURCE_EXHAUSTED"], "else it was none"
        await asyncio.sleep(0.1)
        assert await ask(stubs[0]) == "OK"


async def test_calls_that_are_taken_back_while_they_wait_count_no_more() -> None:
    async with serving() as stubs:
        for _ in range(3):
            calls = [asyncio.create_task(ask(one)) for one in stubs for _ in range(CALLS)]
            await asyncio.sleep(0.1)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0.5)
        callers = [asyncio.create_task(until_answered(one)) for one in stubs]
        await asyncio.gather(*callers)  # though there is always more than one


async def until_answered(stub: services.PredictionServiceStub) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await ask(stub) != "OK":
            pass


def test_what_was_taken_up_runs_or_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"callsStarted": 0, "callsSucceeded": 0, "callsFailed": 0}
    monkeypatch.setattr(backlogs, "_LOOK_S", 0.0)
    monkeypatch.setattr(
        backlogs.cygrpc,
        "channelz_get_server",
        lambda _: json.dumps({"server": {"data": {k: str(v) for k, v in told.items()}}}),
    )
    backlog = Backlog()
    told["callsStarted"] = 100
    assert backlog.take_up(0) == 99
    assert backlog.take_up(1) == 98
    told["callsFailed"] = 90  # callers hung up before we took them up
    assert backlog.take_up(2) == 7
    told["callsStarted"] += 5
    assert backlog.take_up(3) == 11
    told["callsSucceeded"] = 3
    assert backlog.waiting(1) == 11
    told["callsSucceeded"] = 15
    assert backlog.waiting(0) == 0
