"""More calls than can be answered: refused at once and with a time to come again, never left to
wait until they are late."""

import asyncio
import collections
import time
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from shopcast.v1 import prediction_service_pb2 as pb
from shopcast.v1 import prediction_service_pb2_grpc as services
from shopcast.v1 import types_pb2
from shopcast_domain.events import Outcome
from shopcast_gateway.core import protocol as core
from shopcast_gateway.core.admission import CALL_ROWS, Admission
from shopcast_gateway.transport.server import build_server

WORK_S = 0.004
REQUEST = pb.PredictRequest(
    account=types_pb2.Account(platform="web", platform_user_id="u"),
    items=[types_pb2.Item(item_id="sku")],
)


class Busy:
    """Keeps the event loop, as the work on a prediction does."""

    async def predict(self, query: core.PredictQuery, *, timeout_s: float) -> core.Prediction:
        time.sleep(WORK_S)  # noqa: ASYNC251 - this is what is tried
        await asyncio.sleep(0)
        evidence = core.Evidence("a" * 32, "7", "3", tuple(Outcome), True, (), 0, None, 0)
        answer = core.ItemPrediction(query.items[0].item_id, (0.5, 0.3, 0.2), True, False)
        return core.Prediction((answer,), evidence)


async def storm(target: str, calls: int, rate: float) -> list[Any]:
    """Sends calls at a constant rate, whatever becomes of them; the status of each, or None."""
    channels = [
        grpc.aio.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(3)
    ]
    stubs = [services.PredictionServiceStub(channel) for channel in channels]

    async def call(number: int) -> Any:
        try:
            await stubs[number % 3].Predict(REQUEST, timeout=20.0)
        except grpc.aio.AioRpcError as error:
            return error
        return None

    began, tasks = time.monotonic(), []
    for number in range(calls):
        tasks.append(asyncio.create_task(call(number)))
        await asyncio.sleep(max(0.0, (number + 1) / rate - (time.monotonic() - began)))
    found = await asyncio.gather(*tasks)
    for channel in channels:
        await channel.close()
    return found


async def test_what_is_too_much_is_refused_whether_it_was_taken_up_or_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    admission = Admission(Busy(), max_rows=20 * (CALL_ROWS + 1))
    directory: Any = None
    server = build_server(admission, directory, port=0, refusal=admission.early_refusal)
    await server.start()
    try:
        found = await storm(f"127.0.0.1:{server.port}", 2_000, 3 / WORK_S)
        # grpc counts calls as ended a moment after their callers know.
        for _ in range(20):
            again = await storm(f"127.0.0.1:{server.port}", 1, 20)
            if again == [None]:
                break
    finally:
        await server.stop(grace_s=0.5)
    codes = collections.Counter("OK" if one is None else one.code().name for one in found)
    print("three times too much:", dict(codes))
    assert set(codes) == {"OK", "RESOURCE_EXHAUSTED"}
    for error in filter(None, found):
        status = rpc_status.from_call(error)
        assert status is not None
        reason, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        request = error_details_pb2.RequestInfo()
        assert [
            detail.Unpack(kind)
            for detail, kind in zip(status.details, (reason, request, retry), strict=True)
        ] == [True] * 3
        assert reason.reason == "OVERLOADED"
        assert request.request_id
        assert retry.retry_delay.ToTimedelta().total_seconds() >= 0.05
    assert again == [None], "it recovers"
    lines = [one.getMessage() for one in caplog.records if "refused calls=" in one.getMessage()]
    assert 0 < len(lines) < codes["RESOURCE_EXHAUSTED"] / 4, "the log is not flooded"
