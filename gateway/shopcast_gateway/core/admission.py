"""How much work may be under way at once: what is more is refused at once, not left to wait."""

import time

from shopcast_gateway.core.protocol import Prediction, Predictor, PredictQuery
from shopcast_gateway.errors import Overloaded

MAX_ROWS = 12_800
CALL_ROWS = 100
"""What a call costs besides its items, in items: one of 100 takes about twice the time of one of 1
(benchmarks/load.py)."""
_WEIGHT = 0.05  # of the newest call in the mean
_SOONEST_S, _LATEST_S = 0.05, 5.0


class Admission:
    """A predictor that refuses what would make everybody late.

    Bounded in rows, not in calls: a call takes its items and CALL_ROWS. One that is larger than the
    bound is let in when nothing else is there. max_rows: 1 or more.
    """

    def __init__(self, predictor: Predictor, *, max_rows: int = MAX_ROWS) -> None:
        self._predictor, self._max_rows = predictor, max_rows
        self._rows = 0
        self._mean_s = _SOONEST_S

    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
        """As Predictor.predict; raises Overloaded before any work is done."""
        rows = CALL_ROWS + len(query.items)
        if self._rows and self._rows + rows > self._max_rows:
            # What is there now will have gone after about as long as calls take.
            pause_s = min(max(self._mean_s, _SOONEST_S), _LATEST_S)
            raise Overloaded(f"{self._rows} rows are under way", retry_after_s=pause_s)
        self._rows += rows
        began = time.monotonic()
        try:
            return await self._predictor.predict(query, timeout_s=timeout_s)
        finally:
            self._rows -= rows
            self._mean_s += _WEIGHT * (time.monotonic() - began - self._mean_s)
