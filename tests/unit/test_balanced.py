"""Several model servers as one: who gets a call, who is asked too, who is left out. The servers are
fakes, and so is time: nothing waits."""

import asyncio
from collections import Counter
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from virtual_time import now, timed

from shopcast_gateway.backend import balanced
from shopcast_gateway.backend.balanced import FAILURES, HANG_S, BalancedBackend, Member
from shopcast_gateway.backend.retry_budget import CALLS_A_RETRY, RESERVE
from shopcast_gateway.backend.rotation import RotationStatus
from shopcast_gateway.errors import (
    ContractMismatch,
    DeadlineExpired,
    Overloaded,
    Unavailable,
)
from shopcast_gateway.metrics import observe_rotation

AWAY = Unavailable("away")
LONG_S = 60.0


class FakeServer:
    """Answers with its number after `takes_s`, or fails so."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.takes_s, self.fails = 0.01, None
        self.fails: Exception | None
        self.calls = self.ended = self.cancelled = 0
        self.answered: dict[str, float] = {}
        self.hanging: dict[str, list[asyncio.Future[None]]] = {}
        self.closed = False

    async def infer(
        self, model: str, version: int, inputs: Any, output: str, *, timeout_s: float, **_: Any
    ) -> Any:
        self.calls += 1
        given_up = asyncio.get_running_loop().create_future()
        self.hanging.setdefault(model, []).append(given_up)
        fails = self.fails
        try:
            await asyncio.wait_for(given_up, min(self.takes_s, timeout_s))
            raise AWAY
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.ended += 1
        if self.takes_s > timeout_s:
            raise DeadlineExpired("late")
        if fails is not None:
            raise fails
        self.answered[model] = now()
        return np.array([self.number], np.float32)

    async def close(self) -> None:
        self.closed = True

    def answered_at(self, model: str) -> float:
        return self.answered.get(model, 0.0)

    def give_up(self, model: str) -> None:
        for waiting in self.hanging.pop(model, []):
            if not waiting.done():
                waiting.set_result(None)


class World:
    """Servers that all take calls."""

    def __init__(self, count: int = 2, *, hedge_after_s: float | None = None) -> None:
        self.servers = [FakeServer(number) for number in range(count)]
        self.members = [Member(f"triton-{one.number}:8001", one) for one in self.servers]
        for member in self.members:
            member.join()
        self.registry = CollectorRegistry()
        status = RotationStatus([member.address for member in self.members])
        observe_rotation(status, self.registry)
        self.backend = BalancedBackend(self.members, status, hedge_after_s=hedge_after_s)

    async def ask(self, model: str = "behavior", *, timeout_s: float = LONG_S) -> int:
        """The number of the server that answered."""
        return int((await self.backend.infer(model, 1, {}, "logits", timeout_s=timeout_s))[0])

    async def outcomes(self, count: int, **more: Any) -> "Counter[Any]":
        """Of calls one after the other."""
        found: Counter[Any] = Counter()
        for _ in range(count):
            try:
                found[await self.ask(**more)] += 1
            except Exception as error:
                found[type(error)] += 1
        return found

    def count(self, name: str, **labels: str) -> float:
        found = self.registry.get_sample_value(f"shopcast_triton_{name}_total", labels)
        assert found is not None
        return found


@timed
async def test_calls_are_shared_out_evenly() -> None:
    world = World(3)
    assert await world.outcomes(30) == {0: 10, 1: 10, 2: 10}
    assert sorted(await asyncio.gather(*(world.ask() for _ in range(6)))) == [0, 0, 1, 1, 2, 2]


@timed
async def test_a_slow_server_gets_fewer() -> None:
    world = World()
    world.servers[0].takes_s = 0.1

    async def caller() -> Counter[Any]:
        return await world.outcomes(25)

    found = sum(await asyncio.gather(*(caller() for _ in range(4))), Counter())
    assert found[0] + found[1] == 100
    assert found[1] > 3 * found[0]


@timed
async def test_what_fails_is_asked_elsewhere_and_who_fails_is_left_out() -> None:
    world = World()
    world.servers[0].fails = AWAY
    assert await world.outcomes(100) == {1: 100}
    assert world.servers[0].calls == FAILURES
    assert (world.count("retries"), world.count("hedges")) == (FAILURES, 0)
    assert world.count("ejections", address="triton-0:8001") == 1
    assert world.count("ejections", address="triton-1:8001") == 0
    assert world.members[0].left.is_set()
    world.servers[0].fails = None
    world.members[0].join()
    assert await world.outcomes(10) == {0: 5, 1: 5}


@timed
async def test_failures_count_by_model_and_in_a_row() -> None:
    world = World()
    first = world.servers[0]
    for _ in range(10):
        first.fails = AWAY
        assert await world.outcomes(FAILURES - 1) == {1: FAILURES - 1}
        first.fails = None
        assert await world.outcomes(20) == {0: 10, 1: 10}
    assert world.backend.up == 2
    # Of one model everything fails, while the other one answers in between.
    for _ in range(FAILURES):
        first.fails = AWAY
        await world.outcomes(2, model="encoder")
        first.fails = None
        await world.outcomes(2)
    assert world.backend.up == 1


@timed
async def test_the_last_one_is_never_ejected() -> None:
    world = World()
    for server in world.servers:
        server.fails = AWAY
    assert await world.outcomes(20) == {Unavailable: 20}
    assert world.backend.up == 1
    for server in world.servers:
        server.fails = None
    assert sum((await world.outcomes(5)).values()) == 5


@timed
async def test_where_nobody_takes_calls_that_is_said_at_once() -> None:
    world = World()
    for member in world.members:
        member.leave()
    began = now()
    assert await world.outcomes(50) == {Unavailable: 50}
    assert now() == began
    assert [server.calls for server in world.servers] == [0, 0]


@timed
async def test_servers_that_all_fail_are_not_hammered() -> None:
    world = World(3)
    for server in world.servers:
        server.fails = AWAY
    for member in world.members:  # so that nobody is ejected
        member.failures = _Forgetful()
    calls = 500
    assert await world.outcomes(calls) == {Unavailable: calls}
    sent = sum(server.calls for server in world.servers)
    print(f"{calls} calls, {sent} sent, {world.count('retries_refused'):.0f} retries refused")
    assert sent <= calls * (1 + 1 / CALLS_A_RETRY) + RESERVE
    assert sent - calls == world.count("retries")
    assert world.count("retries_refused") > calls / 2


class _Forgetful(Counter[str]):
    def __getitem__(self, _: str) -> int:
        return 0


@timed
async def test_a_retry_ends_with_the_deadline() -> None:
    world = World()
    world.servers[0].takes_s, world.servers[0].fails = 0.3, AWAY
    world.servers[1].takes_s = 10.0
    began = now()
    with pytest.raises(DeadlineExpired):
        await world.ask(timeout_s=1.0)
    assert now() - began == pytest.approx(1.0)
    assert world.servers[1].calls == 1


@pytest.mark.parametrize("error", [ContractMismatch("shape"), Overloaded("full")])
def test_what_would_fail_elsewhere_too_is_not_sent_there(error: Exception) -> None:
    @timed
    async def test() -> None:
        world = World()
        for server in world.servers:
            server.fails = error
        assert await world.outcomes(20) == {type(error): 20}
        assert sum(server.calls for server in world.servers) == 20
        assert (world.backend.up, world.count("retries")) == (2, 0)

    test()


@timed
async def test_a_call_that_hangs_is_answered_elsewhere_and_goes_on() -> None:
    world = World()
    world.servers[0].takes_s = 30.0
    began = now()
    assert await world.ask() == 1
    assert now() - began == pytest.approx(HANG_S, abs=0.1)
    assert world.count("retries") == 1
    assert world.members[0].outstanding == 1, "it is still under way"
    await asyncio.sleep(30)
    assert (world.servers[0].ended, world.servers[0].cancelled) == (1, 0)
    assert world.members[0].outstanding == 0


@timed
async def test_with_a_short_deadline_a_share_of_it_is_enough_to_hang() -> None:
    world = World()
    world.servers[0].takes_s = 30.0
    began = now()
    assert await world.ask(timeout_s=1.0) == 1
    assert now() - began == pytest.approx(balanced.HANG_SHARE, abs=0.1)


@timed
async def test_what_is_wanted_sooner_hangs_sooner_and_goes_nowhere_once_it_is_late() -> None:
    world = World(3)
    for server in world.servers:
        server.takes_s = 30.0
    began = now()
    with pytest.raises(DeadlineExpired):
        await world.backend.infer("behavior", 1, {}, "logits", timeout_s=20.0, wanted_s=1.0)
    assert now() - began == pytest.approx(20.0, abs=0.1)
    assert sorted(one.calls for one in world.servers) == [0, 1, 1]
    for server in world.servers[1:]:
        server.takes_s = 0.01
    world.members[0].turn = 0  # it is its turn
    began = now()
    asked = world.backend.infer("behavior", 1, {}, "logits", timeout_s=20.0, wanted_s=1.0)
    assert (await asked)[0] != 0
    assert now() - began == pytest.approx(balanced.HANG_SHARE, abs=0.1)


@timed
async def test_a_server_that_stands_still_is_ejected_and_its_calls_answered_elsewhere() -> None:
    world = World()
    world.servers[0].takes_s = 1000.0
    began = now()
    found = await asyncio.gather(*(world.ask() for _ in range(20)))
    assert set(found) == {1}
    assert now() - began < HANG_S + 0.1
    assert world.backend.up == 1
    assert world.count("ejections", address="triton-0:8001") == 1


@timed
async def test_where_all_are_slow_nobody_is_ejected() -> None:
    world = World()
    for server in world.servers:
        server.takes_s = 3 * HANG_S
    found = await asyncio.gather(*(world.ask() for _ in range(12)))
    assert Counter(found) == {0: 6, 1: 6}
    assert world.backend.up == 2
    assert world.count("retries") <= RESERVE + 12 / CALLS_A_RETRY


@timed
async def test_a_busy_server_does_not_hang() -> None:
    world = World()
    world.servers[0].takes_s = 3 * HANG_S

    async def keep_answering() -> None:
        for _ in range(100):
            world.servers[0].answered["behavior"] = now()
            await asyncio.sleep(0.1)

    answering = asyncio.create_task(keep_answering())
    assert await world.ask() == 0
    assert (world.count("retries"), world.backend.up) == (0, 2)
    await answering


@timed
async def test_hedging_the_first_answer_wins_and_the_other_call_is_not_cancelled() -> None:
    world = World(hedge_after_s=0.05)
    world.servers[0].takes_s = 1.0
    began = now()
    assert await world.ask() == 1
    assert now() - began == pytest.approx(0.06)
    assert (world.count("hedges"), world.count("retries")) == (1, 0)
    await asyncio.sleep(1)
    assert (world.servers[0].ended, world.servers[0].cancelled) == (1, 0)
    world.servers[1].takes_s = 2.0  # and the first one may win, too
    world.servers[0].takes_s = 0.08
    assert [await world.ask() for _ in range(2)] == [0, 0]
    assert world.backend.up == 2


@timed
async def test_hedges_are_paid_for() -> None:
    world = World(hedge_after_s=0.05)
    for server in world.servers:
        server.takes_s = 0.1
    calls = 200
    await world.outcomes(calls)
    sent = sum(server.calls for server in world.servers)
    assert world.count("hedges") == sent - calls <= RESERVE + calls / CALLS_A_RETRY
    assert world.count("retries_refused") > 0


@timed
async def test_a_hedge_that_fails_spoils_nothing() -> None:
    world = World(hedge_after_s=0.05)
    world.servers[0].takes_s = 0.5
    for error in (AWAY, Overloaded("full")):
        world.servers[1].fails = error
        world.members[1].turn = world.members[0].turn + 1  # the slow one is asked first
        assert await world.ask() == 0


@timed
async def test_who_hangs_up_takes_no_call_along() -> None:
    world = World()
    asking = asyncio.create_task(world.ask())
    await asyncio.sleep(0.005)
    asking.cancel()
    await asyncio.sleep(1)
    assert asking.cancelled()
    assert [one.cancelled for one in world.servers] == [0, 0]
    assert sum(one.ended for one in world.servers) == 1
    assert [one.outstanding for one in world.members] == [0, 0]


@timed
async def test_closing_closes_all() -> None:
    world = World()
    await world.backend.close()
    assert all(server.closed for server in world.servers)
