"""The model server dies, or does not answer: callers are told in time, and it comes back."""

import asyncio
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from faults.clients import PRIOR, Clients, requests, statuses
from faults.processes import metric, stubs_of, triton_of

if TYPE_CHECKING:
    from faults.conftest import Tell
    from tests.conftest import Gateway

STANDS_STILL_S = 4.0


@pytest.mark.parametrize("what", ["Triton", "the model's processes"])
async def test_a_model_server_that_is_killed_comes_back_and_base_rates_are_told_meanwhile(
    gateway: "Gateway", tell: "Tell", what: str
) -> None:
    before = metric(gateway, "shopcast_triton_restarts_total")
    async with Clients(gateway.address) as clients:
        strict = clients.closed("strict", requests(), callers=4, timeout_s=4.0)
        lenient = clients.closed("lenient", requests(lowest_level=PRIOR), callers=2, timeout_s=10.0)
        async with strict, lenient:
            await clients.until_good("strict", 0.0)
            began = time.monotonic()
            victims = [triton_of(gateway)] if what == "Triton" else stubs_of(gateway, "behavior")
            for victim in victims:
                victim.kill()
            await clients.until(
                lambda: not all(one.good for one in clients.of("strict", since=began)), "it shows"
            )
            again_s = await clients.until_good("strict", began)
    told = [one for one in clients.outcomes if one.ended >= began]
    tell(f"{what} killed", told, f"good again after {again_s:.1f} s")
    strict_saw = statuses(one for one in told if one.who == "strict")
    assert strict_saw.get("UNAVAILABLE")
    assert set(strict_saw) <= {"OK", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert set(statuses(clients.of("lenient"))) == {"OK"}
    assert any(one.level == "PRIOR" for one in clients.of("lenient", since=began))
    await clients.until(lambda: metric(gateway, "shopcast_triton_up") == 1, "both models answer")
    if what == "Triton":
        assert metric(gateway, "shopcast_triton_restarts_total") > before


@pytest.mark.parametrize("what", ["Triton", "the model's processes"])
async def test_a_model_server_that_stands_still_makes_nobody_wait_beyond_the_deadline(
    gateway: "Gateway", tell: "Tell", what: str
) -> None:
    victims: list[psutil.Process] = (
        [triton_of(gateway)] if what == "Triton" else stubs_of(gateway, "behavior")
    )
    async with Clients(gateway.address) as clients:
        strict = clients.closed("strict", requests(), callers=4, timeout_s=1.0)
        lenient = clients.closed("lenient", requests(lowest_level=PRIOR), callers=2, timeout_s=2.5)
        async with strict, lenient:
            await clients.until_good("strict", 0.0)
            began = time.monotonic()
            try:
                for victim in victims:
                    victim.send_signal(signal.SIGSTOP)
                await asyncio.sleep(STANDS_STILL_S)
            finally:
                for victim in victims:
                    victim.send_signal(signal.SIGCONT)
            goes_on = time.monotonic()
            again_s = await clients.until_good("strict", goes_on)
    told = [one for one in clients.outcomes if one.ended >= began]
    tell(
        f"{what} stopped for {STANDS_STILL_S:.0f} s",
        told,
        f"good again {again_s:.1f} s after it went on",
    )
    strict_saw = statuses(one for one in told if one.who == "strict")
    assert strict_saw.get("DEADLINE_EXCEEDED")
    assert set(strict_saw) <= {"OK", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert set(statuses(clients.of("lenient"))) == {"OK"}
    if what == "Triton":  # it may find out about processes of its models, just as the time is up
        assert any(one.reason == "MODEL_SLOW" for one in told)


async def test_while_it_stands_still_everybody_who_takes_base_rates_gets_them_at_once(
    gateway: "Gateway", tell: "Tell"
) -> None:
    victim = triton_of(gateway)
    async with Clients(gateway.address) as clients:
        assert (await clients.ask("first", requests(), 20.0)).good
        try:
            victim.send_signal(signal.SIGSTOP)
            noticed = await clients.crowd(requests(lowest_level=PRIOR), seconds=STANDS_STILL_S)
        finally:
            victim.send_signal(signal.SIGCONT)
        async with clients.closed("after", requests(), callers=2, timeout_s=4.0):
            again_s = await clients.until_good("after", time.monotonic())
    tell(
        "Triton stopped, under many calls", clients.of("crowd"), f"good again after {again_s:.1f} s"
    )
    assert set(statuses(noticed)) == {"OK"}
    assert any(one.reason == "MODEL_AWAY" for one in noticed)
