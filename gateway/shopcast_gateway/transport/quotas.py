"""How often callers may call: token buckets, for a bounded number of callers."""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shopcast_gateway.errors import QuotaExceeded
from shopcast_gateway.transport.access_file import Quota

MAX_BUCKETS = 10_000

Owner = tuple[str, ...]
"""Whose bucket it is."""


@dataclass(frozen=True, slots=True)
class Spending:
    """Calls that were let in, by the owner and the quota that they were counted against. calls:
    less where a bucket has filled since."""

    owner: Owner
    quota: Quota
    calls: float


class _Bucket:
    def __init__(self, left: float, now_s: float) -> None:
        self.left, self.filled_s = left, now_s

    def fill(self, quota: Quota, now_s: float) -> None:
        self.left = min(quota.size, self.left + (now_s - self.filled_s) * quota.requests_per_s)
        self.filled_s = now_s


class Quotas:
    """A bucket for each owner; those longest unused are forgotten, and begin full again.

    Several processes keep one quota by telling each other what they let in, a moment later.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_buckets: int = MAX_BUCKETS,
        shared: bool = False,
    ) -> None:
        """shared: with other processes, so that somebody takes what was spent."""
        self._clock, self._max, self._shared = clock, max_buckets, shared
        self._buckets: OrderedDict[tuple[Owner, Quota], _Bucket] = OrderedDict()
        self._spent: Counter[tuple[Owner, Quota]] = Counter()

    def spend(self, quotas: Iterable[tuple[Owner, Quota]]) -> None:
        """Count one call against each quota, of its owner, or against none.

        Raises QuotaExceeded, with when all have room again.
        """
        now_s = self._clock()
        asked = [(self._bucket(owner, quota, now_s), owner, quota) for owner, quota in quotas]
        wait_s = max(
            ((1.0 - bucket.left) / quota.requests_per_s for bucket, _, quota in asked), default=0.0
        )
        if wait_s > 1e-9:  # less is the rounding of a bucket that has just filled
            raise QuotaExceeded("the caller's quota is used up", retry_after_s=max(wait_s, 0.001))
        for bucket, owner, quota in asked:
            bucket.left -= 1.0
            if self._shared:
                self._spent[owner, quota] += 1

    def take_spent(self) -> tuple[Spending, ...]:
        """What was let in here since this was asked last."""
        taken = tuple(Spending(*of, calls) for of, calls in self._spent.items())
        self._spent.clear()
        return taken

    def charge(self, spent: Iterable[Spending]) -> None:
        """Count what another process let in. A bucket may then owe some calls, for as long as they
        take to fill."""
        now_s = self._clock()
        for one in spent:
            self._bucket(one.owner, one.quota, now_s).left -= one.calls

    def lacking(self) -> tuple[Spending, ...]:
        """What a process that begins with full buckets is to be charged, to know what this does."""
        now_s, lacking = self._clock(), []
        for (owner, quota), bucket in self._buckets.items():
            bucket.fill(quota, now_s)
            lacking.append(Spending(owner, quota, quota.size - bucket.left))
        return tuple(lacking)

    def _bucket(self, owner: Owner, quota: Quota, now_s: float) -> _Bucket:
        # With the quota in its key, one that is changed begins anew.
        bucket = self._buckets.setdefault((owner, quota), _Bucket(quota.size, now_s))
        self._buckets.move_to_end((owner, quota))
        if len(self._buckets) > self._max:
            self._buckets.popitem(last=False)
        bucket.fill(quota, now_s)
        return bucket
