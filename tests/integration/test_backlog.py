"""The queue before the real server: what a burst of calls meets, and that it is forgotten."""

import asyncio
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
from shopcast_gateway.transport import server
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


@pytest.mark.parametrize("pause_s", [0.3, 0.03])
async def test_what_grpc_drops_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch, pause_s: float
) -> None:
    few = {
        "grpc.server.max_pending_requests": 50,
        "grpc.server.max_pending_requests_hard_limit": 50,
    }
    monkeypatch.setattr(server, "OPTIONS", tuple((dict(server.OPTIONS) | few).items()))
    async with serving() as stubs:
        found = await burst(stubs)
        assert found["CANCELLED"] > 100, "more than there is room for"
        async with asyncio.timeout(PATIENCE_S):
            while await ask(stubs[0]) != "OK":  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(pause_s)
