"""How much work may be under way at once: what is more is refused at once, not left to wait."""

import asyncio
import math
import time
from dataclasses import dataclass

from shopcast_gateway.core.protocol import Prediction, Predictor, PredictQuery
from shopcast_gateway.core.room import Room
from shopcast_gateway.core.stages import UNRECORDED, Recorder, timed
from shopcast_gateway.errors import DeadlineExpired, Overloaded

MAX_ROWS = 8_000
CALL_ROWS = 100
"""What a call costs besides its items, in items: one of 100 takes about twice the time of one of 1
(benchmarks/load.py)."""
_RUNNING_ROWS = 1_600
"""Rows of the calls that are being worked on at once: enough to fill the batches of the model, and
few enough to leave the event loop time to refuse what comes meanwhile."""
_BULK_SHARE = 0.75  # of max_rows, which bulk work may take


class Admission:
    """A predictor that lets some calls run and some wait, and refuses what would be late, or make
    all late.

    Bounded in rows, not in calls, as Room is: a call takes its items and CALL_ROWS. Bulk work may
    fill three quarters of the room, and runs when nobody waits for an answer. max_rows: of all that
    run and wait, 1 or more.
    """

    def __init__(
        self, predictor: Predictor, *, max_rows: int = MAX_ROWS, recorder: Recorder = UNRECORDED
    ) -> None:
        self._predictor, self._recorder = predictor, recorder
        few, smallest = _RUNNING_ROWS // 2, CALL_ROWS + 1
        self._room = Room("rows", most=max_rows, few=few, smallest=smallest)
        self._running = 0
        # In the order in which they came; the second is bulk.
        self._waiting: tuple[dict[_Turn, None], dict[_Turn, None]] = {}, {}

    @property
    def rows(self) -> int:
        """Of all that run and wait."""
        return self._room.taken

    def early_refusal(self, waiting: int) -> Overloaded | None:
        """As Room.early_refusal."""
        if refusal := self._room.early_refusal(waiting):
            self._recorder.refusal("early")
        return refusal

    def refusal(
        self, rows: int = CALL_ROWS + 1, *, bulk: bool = False, timeout_s: float = math.inf
    ) -> Overloaded | None:
        """What a call of so many rows would meet now; without a number, the smallest one."""
        share = _BULK_SHARE if bulk else 1.0
        return self._room.refusal(rows, share=share, timeout_s=timeout_s)

    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
        """As Predictor.predict; raises Overloaded before any work is done, and DeadlineExpired
        where its turn did not come in time."""
        rows = CALL_ROWS + len(query.items)
        if not query.bulk:
            self._room.expect(timeout_s)
        if refusal := self.refusal(rows, bulk=query.bulk):
            self._recorder.refusal("bulk" if query.bulk else "rows")
            raise refusal
        if refusal := self.refusal(rows, timeout_s=timeout_s):
            self._recorder.refusal("deadline")
            raise refusal
        began = time.monotonic()
        try:
            with self._room.take(rows):
                self._recorder.admitted(self.rows)
                with timed("admission", self._recorder):
                    await self._turn(rows, timeout_s, bulk=query.bulk)
                try:
                    left_s = timeout_s - (time.monotonic() - began)
                    return await self._predictor.predict(query, timeout_s=left_s)
                finally:
                    self._running -= rows
                    self._start()
        finally:
            self._recorder.admitted(self.rows)

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
