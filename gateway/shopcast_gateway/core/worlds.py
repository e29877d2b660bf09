"""Histories that may or may not be the person's, and what to believe of each.

Two accounts joined by a link of confidence 0.7 are one person's in 7 of 10 such cases. So the
answer is the mean over both cases, weighted by how likely they are: the probability given the
events of both, and the probability given those that are certain. With several links of different
confidence the cases are nested: whatever is surer is there whenever the less sure is.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

MAX_UNCERTAIN = 2
"""Levels of confidence that are told apart below certainty; each costs one more scoring."""


def worlds(confidence: NDArray[np.float64]) -> list[tuple[float, NDArray[np.bool_]]]:
    """Weights, which sum to 1, and masks of the events that are there.

    confidence: of each event, over 0 to 1. The first world has only what is certain.

    >>> [(round(w, 2), m.tolist()) for w, m in worlds(np.array([1.0, 0.7, 0.5]))]
    [(0.3, [True, False, False]), (0.2, [True, True, False]), (0.5, [True, True, True])]
    """
    if (confidence == 1).all():
        return [(1.0, np.ones(len(confidence), dtype=np.bool_))]
    levels = _merged(np.unique(confidence[confidence < 1])[::-1].tolist(), confidence)
    bounds = [1.0, *(level for level, _ in levels), 0.0]
    lowest = [1.0, *(least for _, least in levels)]
    return [
        (bounds[n] - bounds[n + 1], confidence >= least)
        for n, least in enumerate(lowest)
        if bounds[n] > bounds[n + 1]
    ]


def _merged(levels: list[float], confidence: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Level and least confidence that belongs to it, highest first, at most MAX_UNCERTAIN; those
    next to each other are joined at the mean of their events."""
    groups = [[level] for level in levels]
    while len(groups) > MAX_UNCERTAIN:
        gaps = [one[-1] - other[0] for one, other in pairwise(groups)]
        nearest = int(np.argmin(gaps))
        groups[nearest : nearest + 2] = [groups[nearest] + groups[nearest + 1]]
    return [(float(confidence[np.isin(confidence, group)].mean()), group[-1]) for group in groups]
