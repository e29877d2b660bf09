"""The gateway is told to end while calls run."""

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from faults.clients import Clients, requests, statuses

if TYPE_CHECKING:
    from faults.conftest import Tell
    from tests.conftest import Gateway

HANGING_S = 15.0
"""Three times what running calls are given."""


async def test_calls_that_run_when_the_gateway_is_ended_are_answered_or_sent_elsewhere(
    new_gateway: "Callable[..., Gateway]", tmp_path: Path, tell: "Tell"
) -> None:
    gateway = await asyncio.to_thread(new_gateway, tmp_path / "shop.db")
    family = gateway.family()
    async with Clients(gateway.address) as clients:
        small = clients.closed("small", requests(), callers=8, timeout_s=30.0)
        large = clients.closed("large", requests(items=500), callers=4, timeout_s=30.0)
        async with small, large:
            await clients.until_good("small", 0.0)
            await clients.until_good("large", 0.0)
            began = time.monotonic()
            status = await asyncio.to_thread(gateway.stop, signal.SIGTERM)
            ended = time.monotonic()
    running = [one for one in clients.outcomes if one.began < began <= one.ended]
    told = [one for one in clients.outcomes if one.ended >= began]
    tell(
        "drain under load",
        told,
        f"{len(running)} calls were running, of which {statuses(running)}",
        f"the last call answered {max(one.ended for one in told if one.began < ended) - began:.1f}"
        f" s after SIGTERM, ended after {ended - began:.1f} s",
    )
    assert status == 0
    assert running
    assert set(statuses(running)) <= {"OK", "UNAVAILABLE"}
    # What arrives in the moment in which grpc shuts its server it cancels by itself, now and then;
    # the service config, which these callers go without, sends it again.
    assert set(statuses(told)) <= {"OK", "UNAVAILABLE", "CANCELLED"}
    assert statuses(told).get("CANCELLED", 0) <= 3
    assert statuses(running).get("OK")
    assert max(one.ended - one.began for one in told) < HANGING_S, "none hangs"
    assert statuses(one for one in clients.outcomes if one.ended < began).keys() == {"OK"}
    psutil.wait_procs(family, timeout=20.0)
    assert not [process for process in family if process.is_running()]
    assert "Traceback" not in gateway.log.read_text()
