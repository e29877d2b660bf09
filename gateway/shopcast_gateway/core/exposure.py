"""What the behaviour model is asked about, one by one and together.

numpy costs by the call, not by the number: the features of many people are computed at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shopcast_domain.features import (
    MISSING,
    Candidates,
    Ints,
    Window,
    compute_features,
    history_numbers,
)

Vectors = NDArray[np.float32]

# What stands where a person has fewer events or candidates than another of the batch.
_NO_EVENT = {"time_s": 0.0, "price": np.nan, "quantity": 0.0}
_NO_CANDIDATE = {"price": np.nan, "quantity": np.nan}
_TALLIES = ("item_tally", "item_habit", "category_tally")


@dataclass(frozen=True, slots=True)
class History:
    """The events the behaviour model attends to. vectors: float32 (h, d). kind: int64 (h,).
    numbers: float32 (h, 3), as history_numbers gives them. h may be 0."""

    vectors: Vectors
    kind: Ints
    numbers: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scene:
    """One person and n candidates. vectors: float32 (n, d). features: float32 (n, features)."""

    history: History
    vectors: Vectors
    features: NDArray[np.float32]

    @property
    def size(self) -> int:
        """Numbers that are sent."""
        return self.history.vectors.size + self.vectors.size + self.features.size


@dataclass(frozen=True, slots=True)
class Exposure:
    """A person meeting n candidates at `at_s`, as the directory knows both.

    window: the newest events, of which the model attends to as many as there are
    history_vectors, float32 (h, d). vectors: of the candidates, float32 (n, d).
    """

    at_s: float
    window: Window
    candidates: Candidates
    history_vectors: Vectors
    vectors: Vectors

    @property
    def size(self) -> int:
        """Numbers that are compared and sent."""
        compared = len(self.window) * len(self.candidates)
        return compared + self.history_vectors.size + self.vectors.size

    @property
    def is_order(self) -> bool:
        """Whether the candidates are the lines of an order, of which each tells of the others."""
        return not np.isnan(self.candidates.quantity).any()


def scenes(exposures: Sequence[Exposure], feature_events: int) -> list[Scene]:
    """What is sent for each exposure; each is as it would be alone. feature_events: of each window,
    which its features are over."""
    # Of an order each line tells of the others: one that is not there must not count as one.
    met = [one for one in exposures if not one.is_order]
    together = iter(_scenes(met, feature_events) if met else ())
    return [
        _scenes([one], feature_events)[0] if one.is_order else next(together) for one in exposures
    ]


def _scenes(exposures: Sequence[Exposure], feature_events: int) -> list[Scene]:
    window = Window(
        **{
            name: _padded([getattr(one.window, name) for one in exposures], _NO_EVENT.get(name))
            for name in Window.__slots__
        }
    )
    offered = [one.candidates for one in exposures]
    platform = np.array([one.platform for one in offered], dtype=np.int64)
    candidates = Candidates(
        platform=platform,
        platform_tally=np.stack([one.platform_tally for one in offered]),
        **{
            name: _padded(
                [getattr(one, name) for one in offered],
                0 if name in _TALLIES else _NO_CANDIDATE.get(name),
            )
            for name in Candidates.__slots__
            if name not in ("platform", "platform_tally")
        },
    )
    at_s = np.array([one.at_s for one in exposures])
    newest = Window(
        **{name: getattr(window, name)[:, :feature_events] for name in Window.__slots__}
    )
    features = compute_features(at_s, newest, candidates)
    numbers = history_numbers(
        at_s[:, None] - window.time_s, window.platform == platform[:, None], window.price
    )
    made = []
    for row, one in enumerate(exposures):
        held = len(one.history_vectors)
        history = History(one.history_vectors, one.window.kind[:held], numbers[row, :held])
        made.append(Scene(history, one.vectors, features[row, : len(one.candidates)]))
    return made


def _padded(rows: Sequence[NDArray[Any]], nothing: float | None) -> NDArray[Any]:
    """Arrays of one dtype, (n, ...) each, stacked along a new first axis; codes of what is not
    there are MISSING."""
    if len(rows) == 1:
        return rows[0][None]
    longest = max(len(row) for row in rows)
    fill = MISSING if nothing is None else nothing
    stacked = np.full((len(rows), longest, *rows[0].shape[1:]), fill, dtype=rows[0].dtype)
    for number, row in enumerate(rows):
        stacked[number, : len(row)] = row
    return stacked
