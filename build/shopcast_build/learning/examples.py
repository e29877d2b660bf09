"""Exposures as the arrays a model trains on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shopcast_build.learning.timeline import Timeline
from shopcast_domain.features import FEATURES, Floats, Ints, compute_features

Progress = Callable[[int, int], None]

_QUANTITY = FEATURES.index("quantity")  # 0 where no order is being placed

# Both for speed alone. A block is what is sorted by size at once; a batch is computed at once, and
# its candidates times events should fit into the processor's cache.
_BLOCK_GROUPS = 32_768
_BATCH_CELLS = 65_536


@dataclass(frozen=True, slots=True)
class Examples:
    """M exposures.

    features: float32 (M, len(FEATURES)). outcome: int64 (M,). person, platform, text: int64 (M,)
    codes. at_s: float64 (M,). position, first: int64 (M,): the history is the events
    [first, position) in the timeline's (person, time) order.
    """

    features: NDArray[np.float32]
    outcome: Ints
    person: Ints
    platform: Ints
    text: Ints
    at_s: Floats
    position: Ints
    first: Ints

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def at_orders(self) -> NDArray[np.bool_]:
        """Which exposures are lines of an order; the others are views and carts."""
        return self.features[:, _QUANTITY] > 0

    def take(self, rows: Ints) -> "Examples":
        """The given rows."""
        return Examples(*(getattr(self, name)[rows] for name in self.__slots__))


def build_examples(
    timeline: Timeline,
    exposures: pl.DataFrame,
    *,
    feature_events: int,
    history_events: int,
    progress: Progress = lambda done, total: None,
) -> Examples:
    """Compute every exposure's features as of its moment.

    Exposures that one person meets on one platform at one moment share a window and, where they are
    an order, a basket, as the candidates of one request do. Returned by time.
    """
    n = exposures.height
    frame = exposures.sort("time", "person", "platform", "item")
    person, platform, item = (
        frame[c].cast(pl.Int64).to_numpy() for c in ("person", "platform", "item")
    )
    at_s = frame["time"].dt.epoch("us").to_numpy() / 1e6
    price, quantity = (
        frame[c].cast(pl.Float64).fill_null(np.nan).to_numpy() for c in ("price", "quantity")
    )
    position = timeline.position(person, at_s)
    features = np.empty((n, len(FEATURES)), dtype=np.float32)
    new_group = (np.diff(person) != 0) | (np.diff(at_s) != 0) | (np.diff(platform) != 0)
    starts = np.concatenate(([0], np.flatnonzero(new_group) + 1))
    counts = np.diff(starts, append=n)
    lengths = np.minimum(position - timeline.person_start[person], feature_events)[starts]
    for block in range(0, len(starts), _BLOCK_GROUPS):
        groups = slice(block, block + _BLOCK_GROUPS)
        for batch in _batches(counts[groups], lengths[groups]):
            start = starts[groups][batch]
            rows = start[:, None] + np.arange(counts[groups][batch[0]])  # (groups, candidates)
            window = timeline.window(person[start], position[start], feature_events, at_s[start])
            candidates = timeline.candidates(
                platform[start], item[rows], price[rows], quantity[rows], at_s[start]
            )
            features[rows] = compute_features(at_s[start], window, candidates)
        progress(int((starts[groups] + counts[groups])[-1]), n)
    return Examples(
        features=features,
        outcome=frame["outcome"].cast(pl.Int64).to_numpy(),
        person=person,
        platform=platform,
        text=timeline.catalogue.text_at(item, at_s),
        at_s=at_s,
        position=position,
        first=np.maximum(timeline.person_start[person], position - history_events),
    )


def _batches(counts: Ints, lengths: Ints) -> Iterator[Ints]:
    """Indices of groups with equally many candidates and windows of like length.

    counts: candidates of each group, lengths: events of its window; int64 (G,).
    """
    order = np.lexsort((lengths, counts))
    first = 0
    while first < len(order):
        count, shortest = counts[order[first]], lengths[order[first]]
        # Later ones are no shorter, so no more than this many fit.
        ahead = order[first : first + max(1, int(_BATCH_CELLS // (count * (shortest + 1))))]
        ahead = ahead[counts[ahead] == count]
        cells = np.arange(1, len(ahead) + 1) * count * (lengths[ahead] + 1)
        size = max(1, int((cells <= _BATCH_CELLS).sum()))
        yield ahead[:size]
        first += size
