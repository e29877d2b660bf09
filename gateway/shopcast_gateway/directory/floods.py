"""What one account can do: rules that keep apart what no person can have caused."""

from collections import Counter
from collections.abc import Callable, Iterable

from shopcast_domain.events import EventKind
from shopcast_gateway.directory.types import FloodRules

SECOND_US, MINUTE_US = 1_000_000, 60_000_000

Kept = Iterable[tuple[int, int, int]]
"""Seconds since the epoch, whether looks (0) or orders (1), and how many events there are."""


class Screen:
    """Counts the events of a batch on top of those that are kept. kept_in: of an account, what is
    kept in the minute that begins at a time in microseconds; asked once for each."""

    def __init__(self, rules: FloodRules, kept_in: Callable[[int, int], Kept]) -> None:
        self._rules, self._kept_in = rules, kept_in
        self._loaded: set[tuple[int, int]] = set()
        self._seconds: Counter[tuple[int, int]] = Counter()
        self._minutes: Counter[tuple[int, int, int]] = Counter()

    def passes(self, account: int, kind: EventKind, time_us: int) -> bool:
        """Whether there is room for one more; it takes the room."""
        minute, second = time_us // MINUTE_US, time_us // SECOND_US
        if (account, minute) not in self._loaded:
            self._loaded.add((account, minute))
            for at, ordered, count in self._kept_in(account, minute * MINUTE_US):
                self._minutes[account, minute, ordered] += count
                if not ordered:
                    self._seconds[account, at] += count
        ordered = int(kind >= EventKind.BUY)
        if ordered:
            full = self._minutes[account, minute, 1] >= self._rules.orders_per_minute
        else:
            full = (
                self._seconds[account, second] >= self._rules.looks_per_second
                or self._minutes[account, minute, 0] >= self._rules.looks_per_minute
            )
        if full:
            return False
        self._minutes[account, minute, ordered] += 1
        if not ordered:
            self._seconds[account, second] += 1
        return True
