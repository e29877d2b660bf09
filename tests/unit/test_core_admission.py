"""What is let in, what is refused, and when to come again."""

import asyncio
import inspect
import time
from typing import Any

import pytest

from shopcast_cli.commands.serve import serve
from shopcast_domain.events import Account, Item
from shopcast_gateway.core.admission import CALL_ROWS, MAX_ROWS, Admission
from shopcast_gateway.core.protocol import PredictQuery
from shopcast_gateway.errors import Overloaded, Unavailable


class Slow:
    """Answers when told to."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.asked = 0

    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Any:
        self.asked += 1
        await self.release.wait()
        if len(query.items) == 7:
            raise Unavailable("away")
        return len(query.items)


def query(items: int) -> PredictQuery:
    return PredictQuery(Account("web", "a"), tuple(Item(f"i{n}") for n in range(items)))


async def begun(admission: Admission, *sizes: int) -> list["asyncio.Task[Any]"]:
    tasks = [asyncio.create_task(admission.predict(query(n), timeout_s=9.0)) for n in sizes]
    await asyncio.sleep(0)
    return tasks


async def test_it_is_bounded_in_rows_and_refuses_before_any_work() -> None:
    slow = Slow()
    admission = Admission(slow, max_rows=3 * CALL_ROWS + 300)
    running = await begun(admission, 100, 100)
    began = time.monotonic()
    with pytest.raises(Overloaded) as refused:
        await admission.predict(query(101), timeout_s=9.0)
    assert time.monotonic() - began < 1.0
    assert slow.asked == 2
    assert 0.05 <= refused.value.retry_after_s <= 5.0
    running += await begun(admission, 100)  # a smaller one has room
    assert slow.asked == 3
    slow.release.set()
    assert await asyncio.gather(*running) == [100, 100, 100]


async def test_every_end_of_a_call_makes_room() -> None:
    slow = Slow()
    admission = Admission(slow, max_rows=CALL_ROWS + 10)
    (gone,) = await begun(admission, 10)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    slow.release.set()
    with pytest.raises(Unavailable):
        await admission.predict(query(7), timeout_s=9.0)
    assert await admission.predict(query(10), timeout_s=9.0) == 10


async def test_one_larger_than_the_bound_is_answered_alone() -> None:
    slow = Slow()
    admission = Admission(slow, max_rows=10)
    running = await begun(admission, 500)
    with pytest.raises(Overloaded):
        await admission.predict(query(1), timeout_s=9.0)
    slow.release.set()
    assert await asyncio.gather(*running) == [500]


async def test_the_pause_that_is_told_follows_how_long_calls_take() -> None:
    slow = Slow()
    admission = Admission(slow, max_rows=1)
    pauses = []
    for _ in range(2):
        running = await begun(admission, 1)
        with pytest.raises(Overloaded) as refused:
            await admission.predict(query(1), timeout_s=9.0)
        pauses.append(refused.value.retry_after_s)
        await asyncio.sleep(0.2)
        slow.release.set()
        await asyncio.gather(*running)
        slow.release.clear()
    assert pauses[1] > pauses[0]


def test_what_serve_says_is_what_there_is() -> None:
    option = inspect.signature(serve).parameters["max_rows"]
    assert option.default == MAX_ROWS
    assert f"takes {CALL_ROWS} and its items" in option.annotation.__metadata__[0].help
