"""How fast work gets done, seen while there is enough of it."""

import math
import time

IN_TIME = 0.7
"""Share of a caller's time that may have gone by, at the pace seen, when an answer is there."""
_KEPT = 0.95  # of what was seen, with each end
_LONGEST_S = 5.0  # between two ends: what takes longer hangs, which tells nothing of the pace


class Pace:
    """Measured from one end of some work to the next, while more of it is under way."""

    def __init__(self) -> None:
        self._spent_s = self._done = 0.0
        self._since = math.nan

    def ended(self, units: float, *, more: bool) -> None:
        """Some work has ended. units: of it that were done; 0 where it failed, and the time it took
        is that of what is done next. more: enough is under way for the time to the next end to
        count."""
        now = time.monotonic()
        if units:
            if not math.isnan(self._since):
                took_s = min(now - self._since, _LONGEST_S)
                self._spent_s = _KEPT * self._spent_s + took_s
                self._done = _KEPT * self._done + units
            self._since = now
        if not more:
            self._since = math.nan

    def units(self, time_s: float) -> float:
        """How many are done in a time; infinitely many before anything was seen."""
        return time_s * self._done / self._spent_s if self._spent_s > 0 else math.inf
