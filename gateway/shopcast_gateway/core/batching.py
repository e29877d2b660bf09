"""Gathering what arrives while calls are under way, and sending it as one batch when one ends.

There is no timer: where a call may start, what is there goes at once, so that a single request
waits for nobody; the busier the server, the fuller the batches.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from shopcast_gateway.core.silence import Silence
from shopcast_gateway.core.stages import SPENT, UNRECORDED, Interval, Recorder, Spent
from shopcast_gateway.errors import ContractMismatch, DeadlineExpired, Unavailable

END_S = 5.0
"""How long what runs is waited for at the end."""
SEND_MARGIN_S = 0.002
"""Work with no more time left than this is not sent: time goes by from the last look at the clock
to the send."""
_MAX_PADDING = 2.0  # padded numbers for each that is meant
_AMONG = 128  # of those whose turn is next, a batch is made up

Work = TypeVar("Work")
Answer = TypeVar("Answer")


@dataclass(slots=True, eq=False)
class Entry(Generic[Work, Answer]):
    """Work that waits or runs. deadline: of time.monotonic, may be put off while it waits.

    Cancelling the future gives up its place. A call that has begun goes on to its end all the same:
    see backend.triton. turn: who has a lower one goes first. put_at: of time.monotonic.
    traceparent: of who put it.
    spent: its waiting, and once it has run what its batch spent.
    """

    work: Work
    future: "asyncio.Future[Answer]"
    deadline: float
    turn: int
    put_at: float
    traceparent: str | None = None
    spent: list[Interval] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may go as one batch, in which all are padded to the largest.

    rows: at most. small: padded size up to which padding costs less than another call. largest:
    padded size at most.
    """

    rows: int
    small: int
    largest: float = math.inf

    def fit(self, sizes: Sequence[int]) -> bool:
        """Whether work of these sizes may go together."""
        padded = len(sizes) * max(sizes)
        return len(sizes) <= self.rows and padded <= min(
            max(_MAX_PADDING * sum(sizes), self.small), self.largest
        )


class Batcher(Generic[Work, Answer]):
    """Runs work in batches, at most `calls` of them at once: a number, or what says it at the time.

    run: answers of a batch, one for each, in order; the function it is given says how many seconds
    are left to whoever has most time, 0 where nobody waits any more. size: how much of it there is;
    two of unlike size cost each other padding. fits: whether two or more of these sizes may go as
    one batch. model: what recorders know it by.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Work], Callable[[], float]], Awaitable[Sequence[Answer]]],
        *,
        size: Callable[[Work], int],
        fits: Callable[[Sequence[int]], bool],
        calls: int | Callable[[], int],
        model: str = "",
        recorder: Recorder = UNRECORDED,
    ) -> None:
        self._model, self.recorder = model, recorder
        self._run, self._size, self._fits = run, size, fits
        self._calls = calls if callable(calls) else lambda: calls
        self._waiting: dict[Entry[Work, Answer], None] = {}  # in the order in which they came
        self._turn = 0  # of whoever went last
        self._running: set[asyncio.Task[None]] = set()
        self._silence = Silence(f"{model or 'the'} model")
        self._woken = False

    @property
    def calls(self) -> int:
        """How many may run at once."""
        return self._calls()

    @property
    def others(self) -> bool:
        """Whether anything waits, or runs beside what is asked from."""
        return len(self._running) > 1 or bool(self._waiting)

    async def check(self, timeout_s: float) -> None:
        """Raises Unavailable where whoever has so much time would wait in vain, as Silence.check:
        calls that have begun go on to their end, so no other starts while all hang."""
        await self._silence.check(timeout_s, places=self._calls())

    def after(self, place: int) -> int:
        """How many of those that wait would go after work of that place."""
        return sum(entry.turn > self._turn + place for entry in self._waiting)

    def hurry(self, entry: Entry[Work, Answer], *, timeout_s: float, place: int) -> None:
        """Somebody else needs it, too: it is done for whoever has most time, and as early as the
        first needs it."""
        entry.deadline = max(entry.deadline, time.monotonic() + timeout_s)
        entry.turn = min(entry.turn, self._turn + place)

    def put(self, work: Work, *, timeout_s: float, place: int = 0) -> Entry[Work, Answer]:
        """Have work done. Its future raises DeadlineExpired where no call could start in time, else
        what `run` raises.

        place: among what one caller puts. The second of one goes with the second of another,
        whoever came first: much from one does not keep little from another waiting.
        """
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        caller = SPENT.get()
        traceparent = caller.traceparent if caller is not None else None
        entry: Entry[Work, Answer] = Entry(
            work, loop.create_future(), now + timeout_s, self._turn + place, now, traceparent
        )
        self._waiting[entry] = None
        entry.future.add_done_callback(lambda _: self._waiting.pop(entry, None))
        if not self._woken:  # not at once: what is put in the same turn goes together
            self._woken = True
            loop.call_soon(self._start)
        return entry

    async def close(self) -> None:
        """Give up what waits, and what has not ended after END_S: it is Unavailable."""
        _give_up(self._waiting)
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=END_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _start(self) -> None:
        self._woken = False
        while len(self._running) < self._calls() and (batch := self._next()):
            task = asyncio.create_task(self._answer(batch), context=Context())  # no one call's
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._start()

    def _next(self) -> list[Entry[Work, Answer]]:
        """The one whose turn it is, and of the next those nearest to it in size: nothing is put off
        for good, and little is padded."""
        waiting = sorted(_in_time(self._waiting), key=lambda entry: entry.turn)  # stable
        sized = [(self._size(entry.work), entry) for entry in waiting[:_AMONG]]
        if not sized:
            return []
        self._turn = max(self._turn, waiting[0].turn)
        first = sized[0][0]
        sized.sort(key=lambda one: abs(one[0] - first))  # stable, so that the first stays first
        count = 1
        while count < len(sized) and self._fits([size for size, _ in sized[: count + 1]]):
            count += 1
        batch = [entry for _, entry in sized[:count]]
        for entry in batch:
            del self._waiting[entry]
        return batch

    async def _answer(self, batch: Sequence[Entry[Work, Answer]]) -> None:
        # A batch has one trace: that of the first who has one.
        spent = Spent(next(filter(None, (entry.traceparent for entry in batch)), None))
        SPENT.set(spent)  # of this task alone
        now = time.monotonic()
        for entry in batch:
            queued_s = now - entry.put_at
            entry.spent.append(Interval.ended_now("queue", queued_s))
            self.recorder.stage("queue", queued_s)
        try:
            await self._run_once(batch, spent)
        except asyncio.CancelledError:
            _give_up(batch)
            raise
        finally:
            for one in spent.own:
                self.recorder.stage(one.stage, one.duration_s)

    async def _run_once(self, batch: Sequence[Entry[Work, Answer]], spent: Spent) -> None:
        batch = _in_time(batch)  # it was chosen in an earlier turn of the event loop
        if not batch:
            return
        now = time.monotonic()
        late = sum(entry.deadline <= now and not entry.future.done() for entry in batch)
        self.recorder.batch(self._model, len(batch), late)
        try:
            with self._silence.asking():
                answers = await self._run([entry.work for entry in batch], partial(_left_s, batch))
        except Exception as error:
            if len(batch) > 1 and isinstance(error, ContractMismatch):
                for entry in batch:  # one of them spoils it for the others
                    if not entry.future.done():
                        await self._run_once([entry], spent)
                return
            for entry in batch:
                if not entry.future.done():
                    entry.future.set_exception(error)
            return
        for entry, answer in zip(batch, answers, strict=True):
            if not entry.future.done():
                entry.spent += spent.own
                entry.future.set_result(answer)


def _left_s(batch: Iterable[Entry[Work, Answer]]) -> float:
    """To whoever has most time, in seconds."""
    latest = max((one.deadline for one in batch if not one.future.done()), default=-math.inf)
    return max(latest - time.monotonic(), 0.0)


def _give_up(entries: Iterable[Entry[Work, Answer]]) -> None:
    for entry in entries:
        if not entry.future.done():  # it is taken out of what waits in a later turn
            entry.future.set_exception(Unavailable("the model was let go of"))


def _in_time(entries: Iterable[Entry[Work, Answer]]) -> list[Entry[Work, Answer]]:
    """Those that somebody waits for; of what is too late the future is told so."""
    soonest, found = time.monotonic() + SEND_MARGIN_S, []
    for entry in entries:
        if entry.future.done():
            continue
        if entry.deadline <= soonest:
            entry.future.set_exception(DeadlineExpired("no call could start in time"))
        else:
            found.append(entry)
    return found
