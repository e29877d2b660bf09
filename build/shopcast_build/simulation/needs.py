"""Shopping needs: when they arise, how they are pursued and which never come up."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shopcast_build.simulation.catalogue import DAY_S
from shopcast_build.simulation.people import Accounts
from shopcast_build.simulation.products import Floats, Ints
from shopcast_build.simulation.settings import MarketSettings
from shopcast_build.simulation.vocabulary import CATEGORIES

MAX_MEETINGS = 12  # exposures of one need
MEAN_MEETINGS = 4.0  # beyond the first, were it not for buying
COOLING_S = 14 * DAY_S


@dataclass(frozen=True, slots=True)
class Needs:
    """Needs of one block, arrays (needs,). home: account in which the need arose.

    shared: pursued on all of the person's platforms. wish: (needs, 3). price_wish: log.
    """

    home: Ints
    category: Ints
    shared: NDArray[np.bool_]
    start_s: Floats
    meetings: Ints
    wish: Floats
    price_wish: Floats

    def __len__(self) -> int:
        return len(self.home)


def _hour_s(rng: np.random.Generator, habit_h: Floats) -> Floats:
    """Second of the day around a habitual hour."""
    return ((habit_h + rng.normal(0, 2.0, len(habit_h))) % 24.0) * 3600.0


def arise(
    rng: np.random.Generator, settings: MarketSettings, accounts: Accounts, per_account: float
) -> Needs:
    """The needs of a block's accounts over the period, per_account of them at mean activity."""
    home = np.repeat(np.arange(len(accounts)), rng.poisson(per_account * accounts.activity))
    n = len(home)
    weight = np.log([c.weight for c in CATEGORIES])
    urge = accounts.taste[home] + weight + rng.gumbel(size=(n, len(CATEGORIES)))
    day = rng.integers(settings.days, size=n)
    return Needs(
        home=home,
        category=urge.argmax(axis=1),
        shared=rng.random(n) < settings.cross_platform_effect,
        start_s=day * DAY_S + _hour_s(rng, accounts.habit_h[home]),
        meetings=np.minimum(1 + rng.poisson(MEAN_MEETINGS, n), MAX_MEETINGS),
        wish=accounts.wish[home] + rng.normal(0, 0.4, (n, 3)),
        price_wish=accounts.budget[home] + rng.normal(0, 0.15, n),
    )


def next_time(rng: np.random.Generator, time_s: Floats, habit_h: Floats) -> Floats:
    """When the next item of a need is met: minutes later, later that day, or another day."""
    n = len(time_s)
    how = rng.random(n)
    soon = time_s + 180.0 + rng.exponential(240.0, n)
    later = time_s + 1800.0 + rng.exponential(3 * 3600.0, n)
    another_day = (np.floor(time_s / DAY_S) + 1 + rng.poisson(0.8, n)) * DAY_S
    return np.select([how < 0.55, how < 0.7], [soon, later], another_day + _hour_s(rng, habit_h))


def settle(needs: Needs, accounts: Accounts, last_s: Floats, bought_s: Floats) -> NDArray[np.bool_]:
    """Which needs arise at all: none while one of its category is open or has just been met.

    last_s: time of each need's last exposure. bought_s: when it ended in a buy, else infinity.
    Both reasons are known when the need would arise, so they do not bias what its exposures show.
    """
    platforms = accounts.of.shape[1]
    scope = np.where(accounts.cools_everywhere, platforms, accounts.platform)[needs.home]
    chain = (accounts.person[needs.home] * (platforms + 1) + scope) * len(CATEGORIES)
    chain += needs.category
    order = np.lexsort((needs.start_s, chain))
    starts = np.flatnonzero(np.diff(chain[order], prepend=-1))
    lengths = np.diff(starts, append=len(order))
    closed_s = np.where(np.isfinite(bought_s), bought_s + COOLING_S, last_s)
    kept = np.zeros(len(needs), dtype=bool)
    free_s = np.full(len(starts), -np.inf)
    for rank in range(int(lengths.max(initial=0))):
        chains = np.flatnonzero(lengths > rank)
        need = order[starts[chains] + rank]
        arises = needs.start_s[need] >= free_s[chains]
        kept[need] = arises
        free_s[chains] = np.where(arises, closed_s[need], free_s[chains])
    return kept
