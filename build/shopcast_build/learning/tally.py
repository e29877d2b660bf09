"""Counts of everybody's events before a moment, in four bytes an event."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shopcast_domain.features import KINDS, MISSING, Codes, Floats, Ints

Keep = Callable[[NDArray[Any]], NDArray[Any]]
"""Takes an array that is finished, and gives it back from where it is to live."""


def lower_bound(values: NDArray[Any], low: Ints, high: Ints, wanted: NDArray[Any]) -> Ints:
    """Where in `values`, sorted within each [low, high), the first one not below `wanted` is.

    low, high: int64, wanted: of one shape. Returns int64 of that shape, high if there is none.
    """
    low, size = low.copy(), high - low
    while size.any():
        half = size >> 1
        middle = low + half
        below = values[np.minimum(middle, len(values) - 1)] < wanted
        below &= size > 0
        low = np.where(below, middle + 1, low)
        size = np.where(below, size - half - 1, half)
    return low


def sorted_ranks(group: Codes, since: Ints | None = None) -> tuple[NDArray[np.uint32], Ints]:
    """Stable order by group: ranks uint32 (E,), and where each group starts in it, int64.

    group: (E,), not negative, E below 2**32. since: (E,), ranks that stand in for lower ones.
    Sorts keys in place: 12 bytes an event at the peak.
    """
    starts = np.concatenate(([0], np.bincount(group).cumsum()))
    keys = group.astype(np.uint64)
    keys <<= np.uint64(32)
    own = np.arange(len(group), dtype=np.uint32)
    keys |= own if since is None else np.maximum(own, since).astype(np.uint32)
    keys.sort()
    return keys.astype(np.uint32), starts  # the lower half of each key


class Tally:
    """The ranks in time of the events of each code and kind, sorted, so that a binary search
    finds those before a rank; beside them, running sums of whole numbers."""

    def __init__(
        self,
        code: Codes,
        kind: Codes,
        keep: Keep,
        values: Sequence[Codes] = (),
        *,
        since: Ints | None = None,
    ) -> None:
        """code: (E,), MISSING is not counted; kind, values: (E,); all in the order of time. since:
        (E,), the rank that an event counts after where that is later; then there are no values."""
        group = code.astype(np.int64)
        group += 1
        group *= KINDS
        group += kind
        ranks, self._starts = sorted_ranks(group, since)
        del group
        self._sums = [keep(_running(v, ranks)) for v in values]
        self._ranks = keep(ranks)

    def before(self, code: Codes, rank: Ints) -> tuple[Floats, Ints]:
        """Of the first `rank` events, (...) each, those per code.

        Returns how many of each kind, float64 (..., 4), and the sums, int64 (..., len(values)).
        """
        group = (code[..., None].astype(np.int64) + 1) * KINDS + np.arange(KINDS)
        # Codes beyond the last one that occurs have no events, and MISSING is to have none.
        last = len(self._starts) - 1
        group = np.where(code[..., None] == MISSING, last, np.minimum(group, last))
        start = self._starts[group]
        end = self._starts[np.minimum(group + 1, last)]
        wanted = np.broadcast_to(rank[..., None], group.shape)
        found = lower_bound(self._ranks, start, end, wanted)
        sums = np.empty((*code.shape, len(self._sums)), dtype=np.int64)
        for n, running in enumerate(self._sums):
            sums[..., n] = (running[found] - running[start]).sum(axis=-1)
        return (found - start).astype(np.float64), sums


def _running(values: Codes, order: NDArray[np.uint32]) -> Ints:
    """Sums of the first n values in an order, for n from 0: int64 (E + 1,)."""
    sums = np.zeros(len(order) + 1, dtype=np.int64)
    np.cumsum(values[order], out=sums[1:])
    return sums
