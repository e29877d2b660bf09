"""How much work may be under way at once: what is more is refused at once, not left to wait."""

import asyncio
import math
import time
from dataclasses import dataclass

from shopcast_gateway.core.pace import IN_TIME, Pace
from shopcast_gateway.core.protocol import Prediction, Predictor, PredictQuery
from shopcast_gateway.core.stages import UNRECORDED, Recorder, timed
from shopcast_gateway.errors import DeadlineExpired, Overloaded

MAX_ROWS = 8_000
CALL_ROWS = 100
"""What a call costs besides its items, in items: one of 100 takes about twice the time of one of 1
(benchmarks/load.py)."""
_WEIGHT = 0.05  # of the newest call in a mean
_SOONEST_S, _LATEST_S = 0.05, 5.0

_RUNNING_ROWS = 1_600
"""Rows of the calls that are being worked on at once: enough to fill the batches of the model, and
few enough to leave the event loop time to refuse what comes meanwhile."""
_BUSY_ROWS = _RUNNING_ROWS // 2
"""With fewer under way nobody is refused for the pace, which says little then of what could be."""
_BULK_SHARE = 0.75  # of max_rows, which bulk work may take


class Admission:
    """A predictor that lets some calls run and some wait, and refuses what would make all late.

    Bounded in rows, not in calls: a call takes its items and CALL_ROWS. One that is larger than a
    bound is let in when nothing else is there. Bulk work may fill three quarters of the room, and
    runs when nobody waits for an answer. Nor is let in who would be answered too late, at the pace
    at which calls end: who is let in only to give up in vain would keep all others waiting.

    max_rows: of all that run and wait, 1 or more.
    """

    def __init__(
        self, predictor: Predictor, *, max_rows: int = MAX_ROWS, recorder: Recorder = UNRECORDED
    ) -> None:
        self._predictor, self._max_rows, self._recorder = predictor, max_rows, recorder
        self._rows, self._running = 0, 0
        # In the order in which they came; the second is bulk.
        self._waiting: tuple[dict[_Turn, None], dict[_Turn, None]] = {}, {}
        self._mean_s = _SOONEST_S
        self._pace = Pace()
        self._patience_s = math.inf  # the mean of what callers give

    @property
    def rows(self) -> int:
        """Of all that run and wait."""
        return self._rows

    def early_refusal(self, waiting: int) -> Overloaded | None:
        """As refusal, of a call that is refused for it before it is read. What its deadline is
        nobody knows yet: it is taken for as long as those lately."""
        if refusal := self.refusal(waiting, timeout_s=self._patience_s):
            self._recorder.refusal("early")
        return refusal

    def refusal(
        self,
        waiting: int = 0,
        rows: int = CALL_ROWS + 1,
        *,
        bulk: bool = False,
        timeout_s: float = math.inf,
    ) -> Overloaded | None:
        """What a call of so many rows would meet now; without a number, the smallest one.

        waiting: calls that nobody has looked into yet, taken for small ones. timeout_s: how long it
        may take.
        """
        bound = self._max_rows * _BULK_SHARE if bulk else self._max_rows
        before = self._rows + waiting * (CALL_ROWS + 1)
        in_time = max(self._pace.units(IN_TIME * timeout_s), _BUSY_ROWS)
        if not before or before + rows <= min(bound, in_time):
            return None
        # What is there now will have gone after about as long as calls take.
        pause_s = min(max(self._mean_s, _SOONEST_S), _LATEST_S)
        why = "" if before + rows > bound else ", after which it would be late"
        return Overloaded(f"{before} rows are under way{why}", retry_after_s=pause_s)

    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
        """As Predictor.predict; raises Overloaded before any work is done, and DeadlineExpired
        where its turn did not come in time."""
        rows = CALL_ROWS + len(query.items)
        if refusal := self.refusal(rows=rows, bulk=query.bulk):
            self._recorder.refusal("bulk" if query.bulk else "rows")
            raise refusal
        if not query.bulk:
            before_s = self._patience_s if math.isfinite(self._patience_s) else timeout_s
            self._patience_s = before_s + _WEIGHT * (timeout_s - before_s)
        if refusal := self.refusal(rows=rows, timeout_s=timeout_s):
            self._recorder.refusal("deadline")
            raise refusal
        began = time.monotonic()
        self._add(rows)
        try:
            with timed("admission", self._recorder):
                await self._turn(rows, timeout_s, bulk=query.bulk)
            try:
                left_s = timeout_s - (time.monotonic() - began)
                return await self._predictor.predict(query, timeout_s=left_s)
            finally:
                self._running -= rows
                self._start()
                self._pace.ended(rows, more=self._running > 0)
        finally:
            self._add(-rows)
            self._mean_s += _WEIGHT * (time.monotonic() - began - self._mean_s)

    def _add(self, rows: int) -> None:
        self._rows += rows
        self._recorder.admitted(self._rows)

    async def _turn(self, rows: int, timeout_s: float, *, bulk: bool) -> None:
        turn = _Turn(rows, asyncio.get_running_loop().create_future())
        self._waiting[bulk][turn] = None
        self._start()
        try:
            async with asyncio.timeout(timeout_s):
                await turn.come
        except BaseException as error:
            if turn.come.done() and not turn.come.cancelled():  # it came and nobody is there
                self._running -= rows
            self._waiting[bulk].pop(turn, None)
            self._start()
            if isinstance(error, TimeoutError):
                raise DeadlineExpired("its turn did not come in time") from None
            raise

    def _start(self) -> None:
        """Let those run that there is room for: in the order in which they came, bulk work last."""
        while waiting := self._waiting[0] or self._waiting[1]:
            turn = next(iter(waiting))
            if not turn.come.done():  # else it was cancelled, and has not woken to take itself out
                if self._running and self._running + turn.rows > _RUNNING_ROWS:
                    return
                self._running += turn.rows
                turn.come.set_result(None)
            del waiting[turn]


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """A call of so many rows, and the future that tells that it may run."""

    rows: int
    come: "asyncio.Future[None]"
