"""Which events are recorded, and which are refused while others wait; in virtual time."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from virtual_time import now, timed

from shopcast_gateway.core import pace as paces
from shopcast_gateway.core import room as rooms
from shopcast_gateway.core.intake import CALL_EVENTS, Intake
from shopcast_gateway.directory.types import RecordResult
from shopcast_gateway.errors import Overloaded, Unavailable

EVENT_S = 0.001


class Disk:
    """Takes a millisecond an event, one call after the other. Whoever stops waiting is not
    written, if that has not begun. away: nothing can be written. hangs_s: before each call."""

    def __init__(self) -> None:
        self.written, self.away, self.hangs_s = 0, False, 0.0
        self._free = asyncio.Lock()

    async def record(self, events: Sequence[Any]) -> RecordResult:
        if self.away:
            raise Unavailable("the directory cannot be used now")
        async with self._free:
            await asyncio.sleep(self.hangs_s + EVENT_S * len(events))
        self.written += len(events)
        return RecordResult(())


@pytest.fixture(autouse=True)
def virtual(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (paces, rooms):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=now))


def events(count: int) -> Sequence[Any]:
    return [None] * count


@pytest.mark.parametrize("size", [10, 100])
def test_at_three_times_what_can_be_written_as_much_is_written_in_time(size: int) -> None:
    ends: Counter[str] = Counter()

    async def call(intake: Intake) -> None:
        began = now()
        try:
            async with asyncio.timeout(1.0):
                await intake.record(events(size), timeout_s=1.0)
        except Overloaded as refused:
            assert now() == began
            assert refused.retry_after_s > 0
            ends["refused"] += 1
        except TimeoutError:
            ends["late"] += 1
        else:
            ends["recorded"] += 1

    @timed
    async def test() -> None:
        disk = Disk()
        intake, calls, seconds = Intake(disk), [], 20
        for _ in range(int(3 * seconds / EVENT_S / size)):
            calls.append(asyncio.create_task(call(intake)))
            await asyncio.sleep(EVENT_S * size / 3)
        await asyncio.gather(*calls)
        assert ends["recorded"] * size >= 0.95 * seconds / EVENT_S
        assert ends["late"] <= 0.02 * ends["recorded"]
        assert ends["recorded"] + ends["late"] >= disk.written / size, "the caller knows"

    test()


def test_many_events_of_callers_with_time_are_bounded_too() -> None:
    @timed
    async def test() -> None:
        intake = Intake(Disk(), max_events=2 * (1_000 + CALL_EVENTS))
        running = [
            asyncio.create_task(intake.record(events(1_000), timeout_s=60.0)) for _ in range(2)
        ]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await intake.record(events(1), timeout_s=60.0)
        assert intake.early_refusal(0) is not None
        await asyncio.gather(*running)
        assert intake.early_refusal(0) is None
        await intake.record(events(1), timeout_s=60.0)

    test()


def test_a_failure_makes_room_again() -> None:
    @timed
    async def test() -> None:
        disk = Disk()
        intake = Intake(disk, max_events=10)
        disk.away = True
        for _ in range(3):
            with pytest.raises(Unavailable):
                await intake.record(events(3), timeout_s=60.0)
        disk.away = False
        await intake.record(events(3), timeout_s=60.0)
        assert disk.written == 3

    test()


def test_once_what_hung_is_over_events_are_taken_as_before() -> None:
    async def recorded(intake: Intake) -> int:
        asked = (intake.record(events(5), timeout_s=1.0) for _ in range(60))
        ends = await asyncio.gather(
            *(asyncio.wait_for(one, 1.0) for one in asked), return_exceptions=True
        )
        return sum(isinstance(end, RecordResult) for end in ends)

    @timed
    async def test() -> None:
        disk = Disk()
        intake = Intake(disk)
        assert await recorded(intake) == 60
        running = asyncio.create_task(recorded(intake))
        await asyncio.sleep(0.1)
        disk.hangs_s = 9.0
        assert await running == 20
        disk.hangs_s = 0.0
        for _ in range(2):
            await asyncio.sleep(3_600)
            assert await recorded(intake) == 60

    test()
