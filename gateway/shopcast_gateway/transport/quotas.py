"""How often callers may call: token buckets, for a bounded number of callers."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable

from shopcast_gateway.errors import QuotaExceeded
from shopcast_gateway.transport.access_file import Quota

MAX_BUCKETS = 10_000


class _Bucket:
    def __init__(self, left: float, now_s: float) -> None:
        self.left, self.filled_s = left, now_s

    def fill(self, quota: Quota, now_s: float) -> None:
        self.left = min(quota.size, self.left + (now_s - self.filled_s) * quota.requests_per_s)
        self.filled_s = now_s


class Quotas:
    """A bucket for each key; those longest unused are forgotten, and begin full again."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_buckets: int = MAX_BUCKETS,
    ) -> None:
        self._clock, self._max = clock, max_buckets
        self._buckets: OrderedDict[tuple[Hashable, Quota], _Bucket] = OrderedDict()

    def spend(self, quotas: Iterable[tuple[Hashable, Quota]]) -> None:
        """Count one call against each quota, under its key, or against none.

        Raises QuotaExceeded, with when all have room again.
        """
        now_s = self._clock()
        asked = [(self._bucket(key, quota, now_s), quota) for key, quota in quotas]
        wait_s = max(
            ((1.0 - bucket.left) / quota.requests_per_s for bucket, quota in asked), default=0.0
        )
        if wait_s > 1e-9:  # less is the rounding of a bucket that has just filled
            raise QuotaExceeded("the caller's quota is used up", retry_after_s=max(wait_s, 0.001))
        for bucket, _ in asked:
            bucket.left -= 1.0

    def _bucket(self, key: Hashable, quota: Quota, now_s: float) -> _Bucket:
        # With the quota in the key, one that is changed begins anew.
        bucket = self._buckets.setdefault((key, quota), _Bucket(quota.size, now_s))
        self._buckets.move_to_end((key, quota))
        if len(self._buckets) > self._max:
            self._buckets.popitem(last=False)
        bucket.fill(quota, now_s)
        return bucket
