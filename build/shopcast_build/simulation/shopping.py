"""How people shop: pursuing a need they meet items, and buy some and send some back."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shopcast_build.simulation.catalogue import DAY_S, Catalogue
from shopcast_build.simulation.needs import MAX_MEETINGS, Needs, arise, next_time, settle
from shopcast_build.simulation.outcomes import (
    Meetings,
    buy_logit,
    cart_logit,
    return_logit,
    sigmoid,
)
from shopcast_build.simulation.people import Accounts
from shopcast_build.simulation.products import Floats, Ints
from shopcast_build.simulation.settings import MarketSettings
from shopcast_build.simulation.vocabulary import CATEGORIES

Bools = NDArray[np.bool_]

_NEED_STREAM = 4
_CONSIDERED = 6  # items a person glances at for each one they open


@dataclass(frozen=True, slots=True)
class Exposures:
    """Meetings of accounts with items in one block, by need, then time; arrays are (exposures,).

    time_s: seconds after the start of the period. need: number within the block.
    buy, returned: true probabilities of buying, and of sending back once bought.
    carted, bought, sent_back: what came of it. cart_s, buy_s, return_s: when, valid where it did.
    """

    account: Ints
    item: Ints
    need: Ints
    time_s: Floats
    buy: Floats
    returned: Floats
    carted: Bools
    bought: Bools
    sent_back: Bools
    cart_s: Floats
    buy_s: Floats
    return_s: Floats
    quantity: Ints


def _where(rng: np.random.Generator, accounts: Accounts, needs: Needs, who: Ints) -> Ints:
    """The account each need `who` is pursued on next: its home, or any by activity if shared."""
    home = needs.home[who]
    choices = accounts.of[accounts.person[home]]  # (n, platforms)
    weight = np.where(choices >= 0, accounts.activity[choices], 0.0).cumsum(axis=1)
    drawn = rng.random(len(who))[:, None] * weight[:, -1:]
    chosen = choices[np.arange(len(who)), (drawn >= weight).sum(axis=1)]
    return np.where(needs.shared[who], chosen, home)


def _browse(
    rng: np.random.Generator,
    catalogue: Catalogue,
    needs: Needs,
    who: Ints,
    platform: Ints,
    time_s: Floats,
) -> Ints:
    """The item opened next: popular, wished for and affordable; sometimes of any category."""
    n = len(who)
    astray = rng.random(n) < 0.12
    category = np.where(astray, rng.integers(len(CATEGORIES), size=n), needs.category[who])
    first, last = catalogue.first[platform, category], catalogue.last[platform, category]
    cumulative = np.concatenate([[0.0], catalogue.popularity])
    low, high = cumulative[first], cumulative[last]
    drawn = low[:, None] + rng.random((n, _CONSIDERED)) * (high - low)[:, None]
    items = np.searchsorted(catalogue.popularity, drawn, side="right")  # (n, considered)
    items = np.clip(items, first[:, None], last[:, None] - 1)
    attraction = (
        0.5 * (needs.wish[who][:, None, :] * catalogue.look[items]).sum(axis=2)
        - 1.5 * np.abs(catalogue.price_position[items] - needs.price_wish[who][:, None])
        + rng.gumbel(size=items.shape)
    )
    attraction[catalogue.launch_s[items] > time_s[:, None]] = -np.inf
    best = attraction.argmax(axis=1)
    rows = np.arange(n)
    nothing_yet = np.isneginf(attraction[rows, best])
    return np.where(nothing_yet, first, items[rows, best])


def shop(
    settings: MarketSettings,
    catalogue: Catalogue,
    accounts: Accounts,
    block: int,
    needs_per_account: float,
) -> Exposures:
    """Everything that the people of a block meet within the period, and what comes of it."""
    rng = np.random.default_rng([settings.seed, _NEED_STREAM, block])
    needs = arise(rng, settings, accounts, needs_per_account)
    n, end_s = len(needs), settings.days * DAY_S
    seen = np.full((n, MAX_MEETINGS), -1)  # items by need and meeting
    in_cart = np.zeros((n, MAX_MEETINGS), dtype=bool)
    time_s = needs.start_s.copy()
    last_s = needs.start_s.copy()
    bought_s = np.full(n, np.inf)
    open_ = np.ones(n, dtype=bool)
    steps: list[tuple[NDArray[np.generic], ...]] = []

    for step in range(MAX_MEETINGS):
        who = np.flatnonzero(open_ & (needs.meetings > step))
        if step:
            habit_h = accounts.habit_h[needs.home[who]]
            time_s[who] = next_time(rng, time_s[who], habit_h)
        who = who[time_s[who] < end_s]
        size, at_s = len(who), time_s[who]
        account = _where(rng, accounts, needs, who)
        platform = accounts.platform[account]
        item = _browse(rng, catalogue, needs, who, platform, at_s)
        if step:
            earlier = rng.random((size, step)) + 1.5 * in_cart[who, :step]
            earlier[catalogue.platform[seen[who, :step]] != platform[:, None]] = -1.0
            again = earlier.argmax(axis=1)
            rows = np.arange(size)
            back = (earlier[rows, again] >= 0) & (rng.random(size) < 0.4)
            item = np.where(back, seen[who, again], item)
        same = seen[who, :step] == item[:, None]
        met = Meetings(
            account=account,
            item=item,
            wish=needs.wish[who],
            price_wish=needs.price_wish[who],
            needed=catalogue.category[item] == needs.category[who],
            earlier=step,
            seen=same.any(axis=1),
            carted=(same & in_cart[who, :step]).any(axis=1),
        )
        logit = buy_logit(catalogue, accounts, met)
        buy = sigmoid(logit)
        returned = sigmoid(return_logit(catalogue, accounts, met))
        bought = rng.random(size) < buy
        puts = rng.random(size) < np.where(bought, 0.6, sigmoid(cart_logit(logit)))
        puts &= ~met.carted
        sent_back = bought & (rng.random(size) < returned)
        cart_s = at_s + rng.uniform(20, 120, size)
        buy_s = at_s + 180.0 + np.minimum(rng.exponential(1500.0, size), 10_000.0)
        return_s = buy_s + rng.uniform(1.0, 13.0, size) * DAY_S
        quantity = np.where(rng.random(size) < 0.08, rng.integers(2, 4, size), 1)
        seen[who, step], in_cart[who, step] = item, puts
        last_s[who] = at_s
        bought_s[who[bought]] = buy_s[bought]
        open_[who[bought]] = False
        steps.append(
            (
                account, item, who, at_s, buy, returned,
                puts, bought, sent_back, cart_s, buy_s, return_s, quantity,
            )
        )  # fmt: skip

    arose = settle(needs, accounts, last_s, bought_s)
    columns = [np.concatenate(parts) for parts in zip(*steps, strict=True)]
    kept = np.flatnonzero(arose[columns[2]])
    kept = kept[np.lexsort((columns[3][kept], columns[2][kept]))]
    return Exposures(*(column[kept] for column in columns))
