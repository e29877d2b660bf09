"""The store goes away, or does not answer: who takes less than everything is answered meanwhile."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from faults.clients import NO_HISTORY, Clients, requests, statuses
from redis_servers import RedisServer

if TYPE_CHECKING:
    from faults.conftest import Tell
    from tests.conftest import Gateway

AWAY_S = 3.0


@pytest.fixture(scope="module")
def on_redis(
    new_gateway: "Callable[..., Gateway]",
    redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> "Iterator[Gateway]":
    key = tmp_path_factory.mktemp("key") / "ring.key"
    gateway = new_gateway(redis.url, "--directory-key", key)
    yield gateway
    assert gateway.stop() == 0


@pytest.mark.parametrize("what", ["away", "slow"])
async def test_a_store_that_does_not_answer_costs_history_and_nothing_else(
    on_redis: "Gateway", redis: RedisServer, tell: "Tell", what: str
) -> None:
    async with Clients(on_redis.address) as clients:
        strict = clients.closed("strict", requests(), callers=4, timeout_s=1.0)
        lenient = clients.closed(
            "lenient", requests(lowest_level=NO_HISTORY), callers=2, timeout_s=2.5
        )
        async with strict, lenient:
            await clients.until_good("strict", 0.0)
            await clients.until_good("lenient", 0.0)
            began = time.monotonic()
            if what == "away":
                redis.kill()
            else:
                redis.send(signal.SIGSTOP)
            try:
                await asyncio.sleep(AWAY_S)
            finally:
                if what == "away":
                    await asyncio.to_thread(redis.start)
                else:
                    redis.send(signal.SIGCONT)
            back = time.monotonic()
            again_s = await clients.until_good("strict", back)
            await clients.until_good("lenient", back)
    told = [one for one in clients.outcomes if one.ended >= began]
    tell(
        f"store {what} for {back - began:.1f} s", told, f"good again {again_s:.1f} s after its end"
    )
    failure = "UNAVAILABLE" if what == "away" else "DEADLINE_EXCEEDED"
    strict_saw = statuses(one for one in told if one.who == "strict")
    assert strict_saw.get(failure)
    assert set(strict_saw) <= {"OK", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert set(statuses(clients.of("lenient"))) == {"OK"}
    lowered = [one for one in clients.of("lenient") if not one.good]
    assert {one.level for one in lowered} <= {"STALE", "NO_HISTORY"}
    assert f"STORE_{what.upper()}" in {one.reason for one in lowered}
    assert "Traceback" not in on_redis.log.read_text()


async def test_while_the_store_stands_still_everybody_who_takes_less_is_answered_at_once(
    on_redis: "Gateway", redis: RedisServer, tell: "Tell"
) -> None:
    async with Clients(on_redis.address) as clients:
        assert (await clients.ask("first", requests(), 20.0)).good
        try:
            redis.send(signal.SIGSTOP)
            noticed = await clients.crowd(requests(lowest_level=NO_HISTORY), seconds=2 * AWAY_S)
        finally:
            redis.send(signal.SIGCONT)
        async with clients.closed("after", requests(), callers=2, timeout_s=4.0):
            again_s = await clients.until_good("after", time.monotonic())
    tell("store slow, under many calls", clients.of("crowd"), f"good again after {again_s:.1f} s")
    assert set(statuses(noticed)) == {"OK"}
    assert any(one.reason == "STORE_AWAY" for one in noticed)
