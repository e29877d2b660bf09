"""Gathering without timers: what goes together, what never goes, and who is told what."""

import asyncio
import time
from collections.abc import Callable, Sequence

import pytest

from shopcast_gateway.core import batching, silence
from shopcast_gateway.core.batching import SEND_MARGIN_S, Batcher, Bounds, Entry
from shopcast_gateway.core.stages import UNRECORDED, Recorder, Unrecorded
from shopcast_gateway.errors import ContractMismatch, DeadlineExpired, Unavailable

LONG_S = 30.0


class Server:
    """Doubles numbers; no call ends before `release` is set. spoilt: what it refuses."""

    def __init__(self, *spoilt: int) -> None:
        self.release = asyncio.Event()
        self.calls: list[list[int]] = []
        self.spoilt = set(spoilt)
        self.failure: Exception | None = None
        self.running = self.most_running = self.given_up = 0

    async def run(self, batch: Sequence[int], left_s: Callable[[], float]) -> list[int]:
        self.left_s = left_s
        self.calls.append(list(batch))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        finally:
            self.running -= 1
        if self.failure:
            raise self.failure
        if self.spoilt & set(batch):
            raise ContractMismatch
        return [2 * number for number in batch]


class Told(Unrecorded):
    """Keeps rows and late rows of each batch."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []

    def batch(self, model: str, rows: int, late: int) -> None:
        self.batches.append((rows, late))


def batcher(
    server: Server, *, calls: int = 1, most: int = 100, recorder: Recorder = UNRECORDED
) -> Batcher[int, int]:
    return Batcher(
        server.run,
        size=lambda number: number,
        fits=lambda sizes: len(sizes) <= most and max(sizes) <= 10 * min(sizes),
        calls=calls,
        recorder=recorder,
    )


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def answers(*entries: Entry[int, int]) -> list[int | BaseException]:
    return await asyncio.gather(*(entry.future for entry in entries), return_exceptions=True)


async def test_one_alone_goes_at_once_and_what_comes_meanwhile_goes_together() -> None:
    server = Server()
    gathering = batcher(server)
    first = gathering.put(1, timeout_s=LONG_S)
    await turns()
    assert server.calls == [[1]]
    others = []
    for number in (2, 3, 4):
        others.append(gathering.put(number, timeout_s=LONG_S))
        await turns()
    assert server.calls == [[1]], "no call may start"
    server.release.set()
    assert await answers(first, *others) == [2, 4, 6, 8]
    assert server.calls == [[1], [2, 3, 4]]


async def test_what_is_put_in_one_turn_goes_together() -> None:
    server = Server()
    server.release.set()
    gathering = batcher(server, calls=2)
    entries = [gathering.put(number, timeout_s=LONG_S) for number in (1, 2, 3)]
    assert await answers(*entries) == [2, 4, 6]
    assert server.calls == [[1, 2, 3]]


async def test_no_more_calls_than_allowed_and_no_more_work_than_fits() -> None:
    server = Server()
    gathering = batcher(server, calls=2, most=3)
    entries = [gathering.put(number, timeout_s=LONG_S) for number in range(1, 11)]
    await turns()
    assert list(map(len, server.calls)) == [3, 3]
    server.release.set()
    assert await answers(*entries) == [2 * number for number in range(1, 11)]
    assert server.most_running == 2
    assert list(map(len, server.calls)) == [3, 3, 3, 1]


async def test_the_longest_waiting_goes_with_those_of_its_size() -> None:
    server = Server()
    gathering = batcher(server, most=3)
    running = gathering.put(1, timeout_s=LONG_S)
    await turns()
    entries = [gathering.put(n, timeout_s=LONG_S) for n in (50, 2, 900, 49, 3, 51)]
    server.release.set()
    await answers(running, *entries)
    assert server.calls == [[1], [50, 49, 51], [2, 3], [900]]


async def test_much_from_one_does_not_keep_little_from_another_waiting() -> None:
    server = Server()
    gathering = batcher(server, most=1)
    much = [gathering.put(10 + n, timeout_s=LONG_S, place=n) for n in range(6)]
    await turns()
    assert gathering.after(1) == 4
    little = [gathering.put(20 + n, timeout_s=LONG_S, place=n) for n in range(2)]
    gathering.hurry(much[5], timeout_s=LONG_S, place=0)  # somebody else needs it
    server.release.set()
    await answers(*much, *little)
    assert [work for (work,) in server.calls] == [10, 15, 20, 11, 21, 12, 13, 14]


async def test_work_that_is_too_late_is_never_sent() -> None:
    server = Server()
    gathering = batcher(server)
    running = gathering.put(1, timeout_s=LONG_S)
    await turns()
    late, well = gathering.put(2, timeout_s=0.01), gathering.put(3, timeout_s=LONG_S)
    await asyncio.sleep(0.02)
    server.release.set()
    _, told, answer = await answers(running, late, well)
    assert isinstance(told, DeadlineExpired)
    assert answer == 6
    assert server.calls == [[1], [3]]


async def test_time_that_passes_between_the_choice_and_the_start_counts() -> None:
    server, told = Server(), Told()
    gathering = batcher(server, recorder=told)
    late, gone, well = (gathering.put(number, timeout_s=LONG_S) for number in (1, 2, 3))
    await asyncio.sleep(0)  # they are chosen, and go in the next turn
    late.deadline = time.monotonic() + SEND_MARGIN_S
    gone.future.cancel()
    server.release.set()
    assert await answers(well) == [6]
    assert server.calls == [[3]]
    assert isinstance(late.future.exception(), DeadlineExpired)
    assert told.batches == [(1, 0)]


async def test_no_call_is_made_for_a_batch_that_is_too_late_as_a_whole() -> None:
    server = Server()
    gathering = batcher(server)
    late = gathering.put(1, timeout_s=LONG_S)
    await asyncio.sleep(0)
    late.deadline = time.monotonic()
    (told,) = await answers(late)
    assert isinstance(told, DeadlineExpired)
    assert not server.calls
    server.release.set()
    assert await answers(gathering.put(2, timeout_s=LONG_S)) == [4], "its place is free again"


async def test_who_gives_up_frees_the_place() -> None:
    server = Server()
    gathering = batcher(server)
    running = gathering.put(1, timeout_s=LONG_S)
    await turns()
    gone, well = gathering.put(2, timeout_s=LONG_S), gathering.put(3, timeout_s=LONG_S)
    gone.future.cancel()
    server.release.set()
    await answers(running, well)
    assert server.calls == [[1], [3]]


async def test_a_call_that_has_begun_goes_on_though_nobody_waits_for_it() -> None:
    server = Server()
    gathering = batcher(server)
    gone = gathering.put(1, timeout_s=LONG_S)
    await turns()
    well = gathering.put(2, timeout_s=LONG_S)
    gone.future.cancel()
    await turns()
    assert server.calls == [[1]], "its place is not free before it has ended"
    server.release.set()
    assert await answers(well) == [4]
    assert server.given_up == 0


async def test_what_was_given_up_is_not_kept_while_a_call_hangs() -> None:
    server = Server()
    gathering = batcher(server)
    gathering.put(1, timeout_s=LONG_S)
    await turns()
    for number in range(2, 50):
        gathering.put(number, timeout_s=LONG_S).future.cancel()
        await turns()
    assert not gathering._waiting
    server.release.set()


@pytest.mark.parametrize(
    ("sizes", "fit"),
    [
        ([1] * 64, True),
        ([1] * 65, False),
        ([1, 100], True),  # too small to matter
        ([1_000, 999, 501], True),
        ([1_000, 900, 1, 1], False),  # more than half of it would be padding
        ([6_000, 6_000], False),
    ],
)
def test_what_fits_into_one_batch(sizes: list[int], fit: bool) -> None:
    assert Bounds(rows=64, small=200, largest=10_000).fit(sizes) is fit


async def test_a_failure_reaches_everybody_in_the_batch_and_nobody_else() -> None:
    server = Server()
    gathering = batcher(server)
    entries = [gathering.put(number, timeout_s=LONG_S) for number in (1, 2)]
    await turns()
    later = gathering.put(3, timeout_s=LONG_S)
    server.failure = Unavailable("away")
    server.release.set()
    told = await answers(*entries)
    assert [type(one) for one in told] == [Unavailable, Unavailable]
    server.failure = None
    assert await answers(later) == [6]


async def test_what_the_model_refuses_does_not_spoil_it_for_the_others() -> None:
    server = Server(2)
    server.release.set()
    gathering = batcher(server)
    entries = [gathering.put(number, timeout_s=LONG_S) for number in (1, 2, 3)]
    one, refused, three = await answers(*entries)
    assert (one, three) == (2, 6)
    assert isinstance(refused, ContractMismatch)
    assert server.calls == [[1, 2, 3], [1], [2], [3]]


async def test_closing_gives_up_what_waits_and_what_does_not_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "END_S", 0.02)
    server = Server()
    gathering = batcher(server)
    running = gathering.put(1, timeout_s=LONG_S)
    await turns()
    waiting = gathering.put(2, timeout_s=LONG_S)
    before = asyncio.all_tasks()
    await gathering.close()
    for entry in (running, waiting):  # told: nobody is to wait for its deadline
        assert isinstance(entry.future.exception(), Unavailable)
    assert server.calls == [[1]]
    assert len(before - asyncio.all_tasks()) == 1


async def test_a_batch_knows_how_long_it_is_waited_for() -> None:
    server = Server()
    gathering = batcher(server)
    first, second = (gathering.put(number, timeout_s=number * LONG_S) for number in (1, 2))
    await turns()
    assert server.left_s() == pytest.approx(2 * LONG_S, abs=5)
    second.future.cancel()
    assert server.left_s() == pytest.approx(LONG_S, abs=5)
    first.deadline += LONG_S  # somebody with more time waits for it, too
    assert server.left_s() == pytest.approx(2 * LONG_S, abs=5)
    first.future.cancel()
    assert server.left_s() == 0
    server.release.set()


@pytest.mark.parametrize("calls", [1, 2])
async def test_everything_is_answered_once_whatever_comes_and_goes(calls: int) -> None:
    server = Server()
    gathering = batcher(server, calls=calls, most=4)
    entries = []
    for number in range(1, 200):
        entries.append(gathering.put(number, timeout_s=LONG_S))
        if number % 7 == 0:
            entries[number // 2].future.cancel()
        if number == 20:
            server.release.set()
        if number % 3 == 0:
            await asyncio.sleep(0)
    told = await answers(*entries)
    for number, answer in enumerate(told, 1):
        assert answer == 2 * number or isinstance(answer, asyncio.CancelledError)
    assert sum(isinstance(answer, asyncio.CancelledError) for answer in told) < 30
    assert server.most_running == calls


async def test_how_many_calls_may_run_can_change() -> None:
    server = Server()
    allowed = 1
    gathering = Batcher(
        server.run, size=lambda number: number, fits=lambda _: False, calls=lambda: allowed
    )
    entries = [gathering.put(number, timeout_s=LONG_S) for number in range(1, 6)]
    await turns()
    assert server.running == 1
    allowed = 3
    entries.append(gathering.put(6, timeout_s=LONG_S))
    await turns()
    assert server.running == 3
    server.release.set()
    assert await answers(*entries) == [2, 4, 6, 8, 10, 12]
    assert server.most_running == 3


async def test_who_would_wait_in_vain_for_what_hangs_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(silence, "SILENT_S", 0.01)
    server = Server()
    gathering = batcher(server, calls=2)
    await gathering.check(0.0)  # nothing runs
    entries = [gathering.put(1, timeout_s=LONG_S)]
    await asyncio.sleep(0.03)
    await gathering.check(0.0)  # another call may start
    entries.append(gathering.put(2, timeout_s=LONG_S))
    await asyncio.sleep(0.03)
    with pytest.raises(Unavailable):
        await gathering.check(0.0)
    server.release.set()
    assert await answers(*entries) == [2, 4]
    await gathering.check(0.0)
