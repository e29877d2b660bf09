"""Exposures as the arrays a model trains on."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shopcast_build.learning.timeline import Timeline
from shopcast_domain.features import FEATURES, Floats, Ints, compute_features

Progress = Callable[[int, int], None]


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
    an order, a basket, as the candidates of one request do.
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
    starts = np.concatenate(([0], np.flatnonzero(new_group) + 1, [n]))
    for begin, end in pairwise(starts.tolist()):
        window = timeline.window(int(person[begin]), int(position[begin]), feature_events)
        candidates = timeline.candidates(
            int(platform[begin]),
            item[begin:end],
            price[begin:end],
            quantity[begin:end],
            float(at_s[begin]),
        )
        features[begin:end] = compute_features(float(at_s[begin]), window, candidates)
        progress(end, n)
    return Examples(
        features=features,
        outcome=frame["outcome"].cast(pl.Int64).to_numpy(),
        person=person,
        platform=platform,
        text=timeline.catalogue.text[item],
        at_s=at_s,
        position=position,
        first=np.maximum(timeline.person_start[person], position - history_events),
    )
