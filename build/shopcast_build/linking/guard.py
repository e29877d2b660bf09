"""Which links hold: the best of rivals, one account a platform, no crowds."""

from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

CERTAIN = 0.9999
"""The highest confidence: attributes never prove that two accounts are one person's."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """links: columns left, right, confidence, from the most certain on. What was refused, in pairs
    that were probable enough by themselves:

    households: nothing that is one person's own agrees. rivals: another account of the platform
    fits too well. clashes: a person would get a second account of a platform through others.
    crowds: people of too many accounts, whose links were all refused: crowd_links.
    """

    links: pl.DataFrame = field(repr=False)
    households: int
    rivals: int
    clashes: int
    crowds: int
    crowd_links: int


def guard(
    pairs: pl.DataFrame,
    platforms: NDArray[np.int64],
    *,
    min_confidence: float,
    max_accounts: int,
    within: bool,
) -> Guarded:
    """Decide which scored pairs are links.

    pairs: as LinkageModel.score gives them. platforms: (accounts,), the number of each account's.
    min_confidence: at least 0.5. within: a person may have several accounts on one platform.
    """
    likely = pl.col("odds") / (1 + pl.col("odds")) >= min_confidence
    own = pairs.filter(~pl.col("household"))
    weighed = _weighed(own, platforms, within=within).filter(likely)
    kept = weighed.filter(pl.col("confidence") >= min_confidence).select(
        "left", "right", pl.min_horizontal("confidence", CERTAIN)
    )
    kept = kept.sort("confidence", "left", "right", descending=[True, False, False])
    links = kept if within else kept.filter(_without_clashes(kept, platforms))
    sizes, person = _sizes(links, len(platforms))
    crowded = sizes[person[links["left"].to_numpy()]] > max_accounts
    return Guarded(
        links=links.filter(pl.Series(~crowded)),
        households=len(pairs.filter("household", likely)),
        rivals=len(weighed) - len(kept),
        clashes=len(kept) - len(links),
        crowds=int((sizes > max_accounts).sum()),
        crowd_links=int(crowded.sum()),
    )


def _weighed(pairs: pl.DataFrame, platforms: NDArray[np.int64], *, within: bool) -> pl.DataFrame:
    """The pairs with their confidence.

    Where a person has one account a platform, at most one of the accounts of a platform is an
    account's partner: P = odds / (1 + sum of the odds of all of them), seen from the side that has
    more rivals. So no two rivals have 0.5 each.
    """
    odds = pl.col("odds")
    if within:
        return pairs.with_columns(confidence=odds / (1 + odds))
    sides = pairs.with_columns(
        left_platform=pl.Series(platforms[pairs["left"].to_numpy()]),
        right_platform=pl.Series(platforms[pairs["right"].to_numpy()]),
    )
    rivalry = pl.max_horizontal(
        odds.sum().over("left", "right_platform"), odds.sum().over("right", "left_platform")
    )
    return sides.with_columns(confidence=odds / (1 + rivalry))


def _without_clashes(links: pl.DataFrame, platforms: NDArray[np.int64]) -> pl.Series:
    """Whether each link, from the most certain on, leaves its person one account a platform."""
    people: dict[int, tuple[set[int], set[int]]] = {}  # by account: accounts, platforms
    held = []
    for ends in links.select("left", "right").iter_rows():
        person, other = (people.setdefault(n, ({n}, {int(platforms[n])})) for n in ends)
        known = person is other
        fits = not known and person[1].isdisjoint(other[1])
        held.append(known or fits)
        if fits:
            person[0].update(other[0])
            person[1].update(other[1])
            people.update(dict.fromkeys(other[0], person))
    return pl.Series(held, dtype=pl.Boolean)


def _sizes(links: pl.DataFrame, n: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Accounts of each person, and the person of each of n accounts."""
    ends = links["left"].to_numpy(), links["right"].to_numpy()
    graph = coo_array((np.ones(len(links), np.int8), ends), shape=(n, n))
    _, person = connected_components(graph, directed=False)
    return np.bincount(person, minlength=n), person
