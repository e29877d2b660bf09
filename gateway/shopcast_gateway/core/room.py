"""How much work is under way at once, and which calls are refused: too much, or too late."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from shopcast_gateway.core.pace import IN_TIME, Pace
from shopcast_gateway.errors import Overloaded

_WEIGHT = 0.05  # of the newest call in a mean
_SOONEST_S, _LATEST_S = 0.05, 5.0


class Room:
    """Bounded in units of work, and in time: nobody is let in who would be answered too late, at
    the pace at which work gets done. Who is let in only to give up in vain keeps all others
    waiting.

    name: of the units. most: that may be under way. few: while there are not more, nobody is
    refused for the pace, which says little then of what could be. smallest: what a call takes at
    least. A call that is larger than a bound is let in when nothing else is there.
    """

    def __init__(self, name: str, *, most: int, few: int, smallest: int) -> None:
        self._name, self._most, self._few, self._smallest = name, most, few, smallest
        self.taken = 0
        """Units of all work that is under way."""
        self._mean_s = _SOONEST_S
        self._pace = Pace()
        self._patience_s = math.inf  # the mean of what callers give

    def expect(self, timeout_s: float) -> None:
        """A caller gives so much time."""
        before_s = self._patience_s if math.isfinite(self._patience_s) else timeout_s
        self._patience_s = before_s + _WEIGHT * (timeout_s - before_s)

    def refusal(
        self, units: int, *, waiting: int = 0, share: float = 1.0, timeout_s: float = math.inf
    ) -> Overloaded | None:
        """What a call of so many units would meet now.

        waiting: calls that nobody has looked into yet, taken for small ones. share: of the room,
        that it may fill. timeout_s: how long it may take.
        """
        before = self.taken + waiting * self._smallest
        bound = self._most * share
        in_time = max(self._pace.units(IN_TIME * timeout_s), self._few)
        if not before or before + units <= min(bound, in_time):
            return None
        # What is there now will have gone after about as long as calls take.
        pause_s = min(max(self._mean_s, _SOONEST_S), _LATEST_S)
        why = "" if before + units > bound else ", after which it would be late"
        return Overloaded(f"{before} {self._name} are under way{why}", retry_after_s=pause_s)

    def early_refusal(self, waiting: int) -> Overloaded | None:
        """What any call would meet that has not been read yet. What its deadline is nobody knows:
        it is taken for as long as those lately."""
        return self.refusal(self._smallest, waiting=waiting, timeout_s=self._patience_s)

    @contextmanager
    def take(self, units: int) -> Iterator[None]:
        """Room for a call, while it runs or waits. Its work is done unless the block raises."""
        began, done = time.monotonic(), 0
        self.taken += units
        try:
            yield
            done = units
        finally:
            self.taken -= units
            self._mean_s += _WEIGHT * (time.monotonic() - began - self._mean_s)
            self._pace.ended(done, more=self.taken > 0)
