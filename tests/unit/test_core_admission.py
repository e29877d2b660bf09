"""What is let in, what is refused, and when to come again."""

import asyncio
import inspect
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import now, timed

from shopcast_cli.commands.serve import serve
from shopcast_domain.events import Account, Item
from shopcast_gateway.core import admission as admissions
from shopcast_gateway.core import pace as paces
from shopcast_gateway.core import room as rooms
from shopcast_gateway.core.admission import CALL_ROWS, MAX_ROWS, Admission
from shopcast_gateway.core.protocol import PredictQuery
from shopcast_gateway.errors import DeadlineExpired, Overloaded, Unavailable


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


async def test_bulk_work_leaves_room_to_those_who_wait() -> None:
    slow = Slow()
    admission = Admission(slow, max_rows=4 * (CALL_ROWS + 10))
    bulk = replace(query(10), bulk=True)
    running = [asyncio.create_task(admission.predict(bulk, timeout_s=9.0)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await admission.predict(bulk, timeout_s=9.0)
    assert admission.refusal() is None
    running += await begun(admission, 10)
    assert isinstance(admission.refusal(), Overloaded)
    slow.release.set()
    assert await asyncio.gather(*running) == [10] * 4
    assert admission.refusal() is None


async def test_calls_that_wait_to_be_looked_into_count_as_small_ones() -> None:
    admission = Admission(Slow(), max_rows=4 * (CALL_ROWS + 1))
    assert admission.early_refusal(3) is None
    assert isinstance(admission.early_refusal(4), Overloaded)


class Ordered(Slow):
    """Notes whose turn it is."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[tuple[int, bool]] = []
        self.gates: list[asyncio.Event] = []

    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Any:
        self.order.append((len(query.items), query.bulk))
        assert 0 < timeout_s <= 9.0
        self.gates.append(asyncio.Event())
        await self.gates[-1].wait()
        return len(query.items)

    async def let_one_go(self, number: int) -> None:
        self.gates[number].set()
        for _ in range(5):
            await asyncio.sleep(0)


async def test_some_run_and_the_others_have_their_turn_bulk_last() -> None:
    ordered = Ordered()
    admission = Admission(ordered, max_rows=100_000)
    large = await begun(admission, 1_000)
    running = [
        asyncio.create_task(admission.predict(replace(query(n), bulk=n > 700), timeout_s=9.0))
        for n in (900, 600, 800, 700)
    ]
    await asyncio.sleep(0)
    assert ordered.order == [(1_000, False)], "no room for another beside it"
    for number in range(5):
        await ordered.let_one_go(number)
    assert await asyncio.gather(*large, *running) == [1_000, 900, 600, 800, 700]
    assert ordered.order == [
        (1_000, False), (600, False), (700, False), (900, True), (800, True),
    ]  # fmt: skip


async def test_one_whose_turn_does_not_come_in_time_never_runs() -> None:
    ordered = Ordered()
    admission = Admission(ordered, max_rows=100_000)
    (large,) = await begun(admission, 1_000)
    with pytest.raises(DeadlineExpired):
        await admission.predict(query(900), timeout_s=0.01)
    gone = asyncio.create_task(admission.predict(query(800), timeout_s=9.0))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    small = await begun(admission, 1)
    assert ordered.order == [(1_000, False), (1, False)], "what has gone is not waited for"
    ordered.gates[0].set()
    ordered.gates[1].set()
    assert await asyncio.gather(large, *small) == [1_000, 1]
    assert admission.refusal(rows=10**9) is None, "nothing is counted any more"


async def test_bulk_work_that_is_late_is_not_kept_while_others_wait() -> None:
    slow = Slow()
    admission = Admission(slow)
    running = await begun(admission, 1_000, 900)
    bulk = replace(query(1), bulk=True)
    for _ in range(20):
        with pytest.raises(DeadlineExpired):
            await admission.predict(bulk, timeout_s=0)
    assert [len(waiting) for waiting in admission._waiting] == [1, 0]
    slow.release.set()
    assert await asyncio.gather(*running) == [1_000, 900]
    assert await admission.predict(bulk, timeout_s=9.0) == 1


class OneByOne:
    """Takes as long for each call, however many it has."""

    def __init__(self, each_s: float) -> None:
        self._each_s, self._free = each_s, asyncio.Lock()

    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Any:
        try:
            async with asyncio.timeout(timeout_s), self._free:
                await asyncio.sleep(self._each_s)
        except TimeoutError:
            raise DeadlineExpired from None


@pytest.mark.parametrize("deadline_s", [0.4, 1.0, 5.0])
def test_at_three_times_what_can_be_done_as_much_is_done_in_time_and_the_rest_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, deadline_s: float
) -> None:
    each_s, seconds = 0.02, 20
    for module in (admissions, paces, rooms):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=now))
    ends: Counter[str] = Counter()

    async def call(admission: Admission) -> None:
        began = now()
        try:
            await admission.predict(query(1), timeout_s=deadline_s)
            ends["answered"] += 1
        except Overloaded:
            assert now() == began
            ends["refused"] += 1
        except DeadlineExpired:
            ends["late"] += 1

    @timed
    async def test() -> None:
        admission = Admission(OneByOne(each_s))
        calls = []
        for _ in range(int(3 * seconds / each_s)):
            calls.append(asyncio.create_task(call(admission)))
            await asyncio.sleep(each_s / 3)
        await asyncio.gather(*calls)

    test()
    assert ends["answered"] >= 0.95 * seconds / each_s
    assert ends["late"] <= 0.01 * ends["answered"]
    assert ends["refused"]


def test_what_is_refused_further_on_does_not_make_it_look_fast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (admissions, paces, rooms):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=now))
    ends: Counter[str] = Counter()

    class Choosy(OneByOne):
        """Refuses two of three at once."""

        asked = 0

        async def predict(self, query: PredictQuery, *, timeout_s: float) -> Any:
            self.asked += 1
            if self.asked % 3:
                raise Overloaded("texts")
            return await super().predict(query, timeout_s=timeout_s)

    async def call(admission: Admission) -> None:
        try:
            await admission.predict(query(1), timeout_s=1.0)
            ends["answered"] += 1
        except Overloaded:
            ends["refused"] += 1
        except DeadlineExpired:
            ends["late"] += 1

    @timed
    async def test() -> None:
        admission, calls = Admission(Choosy(0.05)), []
        for _ in range(4_000):
            calls.append(asyncio.create_task(call(admission)))
            await asyncio.sleep(0.005)
        await asyncio.gather(*calls)

    test()
    assert ends["late"] <= 0.05 * ends["answered"]
    assert ends["answered"] >= 0.9 * 20 / 0.05


def test_once_what_hung_is_over_calls_are_let_in_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (admissions, paces, rooms):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=now))

    class Hanging(OneByOne):
        """Answers so many, then nobody in time."""

        left = 80

        async def predict(self, query: PredictQuery, *, timeout_s: float) -> Any:
            self.left -= 1
            if self.left < 0:
                await asyncio.sleep(timeout_s)
                raise DeadlineExpired
            return await super().predict(query, timeout_s=timeout_s)

    @timed
    async def test() -> None:
        model, answered = Hanging(0.001), []
        admission = Admission(model)
        for burst in range(4):
            model.left += 1_000 * (burst > 1)
            asked = (admission.predict(query(1), timeout_s=1.0) for _ in range(60))
            ends = await asyncio.gather(*asked, return_exceptions=True)
            answered.append(sum(end is None for end in ends))
            await asyncio.sleep(3_600)
        assert answered == [60, 20, 60, 60]

    test()


def test_calls_that_wait_to_be_looked_into_are_taken_to_have_as_long_as_those_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (admissions, paces, rooms):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=now))

    @timed
    async def test() -> None:
        for deadline_s, refused in ((0.5, True), (30.0, False)):
            admission = Admission(OneByOne(0.02))
            running = []
            for _ in range(200):
                running.append(
                    asyncio.create_task(admission.predict(query(1), timeout_s=deadline_s))
                )
                await asyncio.sleep(0.02)
            running += [
                asyncio.create_task(admission.predict(query(1), timeout_s=deadline_s))
                for _ in range(16)
            ]
            await asyncio.gather(*running)
            assert admission.early_refusal(0) is None
            assert (admission.early_refusal(40) is not None) is refused

    test()


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.booleans()), max_size=12))
def test_whatever_ends_early_all_room_is_given_back(calls: list[tuple[int, bool, bool]]) -> None:
    async def run() -> None:
        slow = Slow()
        admission = Admission(slow, max_rows=12 * CALL_ROWS)
        tasks = []
        for hundreds, bulk, cancelled in calls:
            asked = replace(query(hundreds * 100), bulk=bulk)
            tasks.append(asyncio.create_task(admission.predict(asked, timeout_s=9.0)))
            await asyncio.sleep(0)
            if cancelled:
                tasks[len(tasks) // 2].cancel()
        slow.release.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert admission.refusal(rows=10**9) is None
        assert await admission.predict(query(3), timeout_s=9.0) == 3

    asyncio.run(run())
