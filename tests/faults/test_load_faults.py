"""More, larger and shorter calls than are good for anybody, and callers that do not read."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

import grpc
import pytest
from faults.clients import Clients, Request, quantile_ms, recorded, requests, statuses, unseen
from faults.processes import executed, memory_mib, metric, stubs_of, triton_of

from shopcast.v1 import prediction_service_pb2 as pb
from shopcast.v1 import prediction_service_pb2_grpc as services

if TYPE_CHECKING:
    from faults.conftest import Tell
    from tests.conftest import Gateway

TIMES = 3
SECONDS = 6
FEW = 0.2
"""Of the calls, which may be late where the machine is shared."""
STORM = 3_000
LATE = "shopcast_late_executions_total"
PROBES = 4
"""Looks of the gateway at a model that may fall into some seconds, at the most."""
WRITES = 5_000
"""Requests of a stream, of 10 KB each: far more than may lie between a caller who does not read and
the gateway."""
MEMORY_MIB = 150.0


async def test_three_times_too_much_is_refused_in_part_and_the_rest_is_answered(
    gateway: "Gateway", tell: "Tell"
) -> None:
    async with Clients(gateway.address) as clients:
        async with clients.closed("closed loop", requests(), callers=16, timeout_s=20.0):
            await asyncio.sleep(3.0)
        rate = len(clients.outcomes) / 3.0
        began = time.monotonic()
        await clients.open(
            "3x",
            requests(),
            rate=TIMES * rate,
            calls=round(TIMES * rate * SECONDS),
            timeout_s=lambda _: 5.0,
        )
        ended = time.monotonic()
        async with clients.closed("afterwards", requests(), callers=4, timeout_s=20.0):
            again_s = await clients.until_good("afterwards", ended)
    over = clients.of("3x")
    thirds = [began + at * SECONDS / 3 for at in range(4)]
    answered = [
        sum(one.good and start <= one.ended < end for one in over)
        for start, end in pairwise(thirds)
    ]
    tell(
        "overload",
        clients.outcomes,
        f"{rate:.0f} calls/s in a closed loop, {TIMES * rate:.0f} sent, answered in each third: "
        + ", ".join(map(str, answered)),
        f"good again {again_s:.1f} s after the last call",
    )
    assert set(statuses(over)) <= {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
    assert statuses(over).get("RESOURCE_EXHAUSTED")
    assert statuses(over).get("DEADLINE_EXCEEDED", 0) <= FEW * len(over)
    refused = [one for one in over if one.status == "RESOURCE_EXHAUSTED"]
    assert {one.reason for one in refused} == {"OVERLOADED"}
    assert all(one.retry_after_s is not None and one.retry_after_s > 0 for one in refused)
    assert min(answered) > 0, "goodput never collapses"
    assert statuses(clients.of("afterwards")) == {"OK": len(clients.of("afterwards"))}


@pytest.mark.parametrize(
    ("what", "request_"),
    [
        ("texts that nobody has seen than can be encoded", unseen()),
        ("events than can be written", recorded(events=100)),
    ],
)
async def test_of_three_times_too_much_that_takes_long_as_much_as_ever_is_done_in_time(
    gateway: "Gateway", tell: "Tell", what: str, request_: Request
) -> None:
    async with Clients(gateway.address) as clients:
        async with clients.closed("closed loop", request_, callers=8, timeout_s=20.0):
            await asyncio.sleep(3.0)
        rate = len(clients.outcomes) / 3.0
        began = time.monotonic()
        await clients.open(
            "3x",
            request_,
            rate=TIMES * rate,
            calls=round(TIMES * rate * SECONDS),
            timeout_s=lambda _: 1.0,
        )
        lasted_s = time.monotonic() - began
    over = clients.of("3x")
    good = sum(one.good for one in over)
    refused = [one for one in over if one.status == "RESOURCE_EXHAUSTED"]
    tell(
        f"more {what}",
        clients.outcomes,
        f"{rate:.0f} calls/s in a closed loop, {TIMES * rate:.0f} sent, {good / lasted_s:.0f}"
        f" answered, the others told after {quantile_ms(refused, 0.5):.0f} ms (median)",
    )
    assert {one.reason for one in refused} == {"OVERLOADED"}
    assert good > 0.25 * rate * lasted_s, "who is let in is answered in time"
    assert statuses(over).get("DEADLINE_EXCEEDED", 0) <= FEW * len(over)


async def test_small_requests_are_answered_beside_a_flood_of_large_ones(
    gateway: "Gateway", tell: "Tell"
) -> None:
    async with Clients(gateway.address) as clients:
        async with clients.closed("small, alone", requests(), callers=2, timeout_s=20.0):
            await asyncio.sleep(3.0)
        large = clients.closed("large", requests(items=1_000), callers=4, timeout_s=20.0)
        small = clients.closed("small, beside", requests(), callers=2, timeout_s=20.0)
        async with large, small:
            await asyncio.sleep(6.0)
    alone, beside = clients.of("small, alone"), clients.of("small, beside")
    tell(
        "flood of requests with 1,000 items",
        clients.outcomes,
        f"small ones take {quantile_ms(beside, 0.5) / quantile_ms(alone, 0.5):.1f} times as long"
        f" (p99 {quantile_ms(beside, 0.99) / quantile_ms(alone, 0.99):.1f} times)",
    )
    assert statuses(clients.of("large")).get("OK")
    assert set(statuses(clients.of("large"))) <= {"OK", "RESOURCE_EXHAUSTED"}
    assert len(beside) > 10
    assert all(one.good for one in (*alone, *beside))


async def test_a_storm_of_short_deadlines_leaves_nothing_behind(
    gateway: "Gateway", tell: "Tell"
) -> None:
    before = [triton_of(gateway).pid, *(one.pid for one in stubs_of(gateway, "behavior"))]
    logged = len(gateway.log.read_text())
    async with Clients(gateway.address) as clients:
        at_first = executed(gateway, "behavior")
        await clients.open(
            "storm",
            requests(),
            rate=800.0,
            calls=STORM,
            timeout_s=lambda number: (1 + number % 20) / 1000,
        )
        at_end = executed(gateway, "behavior")
        await asyncio.sleep(3.0)
        later = executed(gateway, "behavior") - at_end
        ended = time.monotonic()
        async with clients.closed("afterwards", requests(), callers=4, timeout_s=20.0):
            await clients.until_good("afterwards", ended)
    storm = clients.of("storm")
    tell(
        "storm of deadlines of 1 to 20 ms",
        clients.outcomes,
        f"the model was asked {at_end - at_first} times, and {later} times in the 3 s after"
        " (the gateway's own looks included)",
        f"rows of batches that started too late: {metric(gateway, LATE):.0f}",
    )
    assert set(statuses(storm)) <= {"OK", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
    assert statuses(storm).get("DEADLINE_EXCEEDED")
    assert later <= PROBES, "calls that were late were still worked on"
    assert metric(gateway, LATE) == 0
    assert at_end - at_first < STORM / 2
    assert statuses(clients.of("afterwards")) == {"OK": len(clients.of("afterwards"))}
    after = [triton_of(gateway).pid, *(one.pid for one in stubs_of(gateway, "behavior"))]
    assert after == before
    assert "Traceback" not in gateway.log.read_text()[logged:]


class Deaf:
    """A stream that asks and never reads. sent: requests that it got rid of."""

    def __init__(self, address: str) -> None:
        self.sent = 0
        # Without probes of the bandwidth its window stays what it is: 64 KiB.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
        self._channel = grpc.aio.insecure_channel(address, options)
        self._call = services.PredictionServiceStub(self._channel).StreamPredict(self._asked())

    async def _asked(self) -> AsyncIterator[pb.StreamPredictRequest]:
        make = requests(items=20, title="walking shoe " * 40)
        for number in range(WRITES):
            yield pb.StreamPredictRequest(correlation_id=str(number), request=make(number))
            self.sent += 1

    async def close(self) -> None:
        self._call.cancel()
        with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await self._call.code()
        await self._channel.close()


async def held_back(streams: list[Deaf]) -> list[int]:
    """How much each has sent when none gets rid of more."""
    before: list[int] = []
    while (sent := [one.sent for one in streams]) != before:
        before = sent
        await asyncio.sleep(2.0)
    return sent


async def test_a_caller_that_never_reads_holds_up_nobody_but_itself(
    gateway: "Gateway", tell: "Tell"
) -> None:
    async with (
        Clients(gateway.address) as clients,
        clients.closed("others", requests(), callers=4, timeout_s=20.0),
    ):
        await clients.until_good("others", 0.0)
        before = memory_mib(gateway)
        deaf = [Deaf(gateway.address) for _ in range(2)]
        try:
            sent = await held_back(deaf)
            grown = memory_mib(gateway) - before
        finally:
            for one in deaf:
                await one.close()
        await clients.until_good("others", time.monotonic())
    tell(
        f"{len(deaf)} streams that never read",
        clients.outcomes,
        f"each had sent {min(sent)} to {max(sent)} requests when it was held back,"
        f" the gateway's memory grew by {grown:.0f} MiB",
    )
    assert all(one.good for one in clients.outcomes)
    assert 0 < min(sent) <= max(sent) < WRITES / 2
    assert grown < MEMORY_MIB
