"""The numeric features of an exposure: one piece of code for training and serving.

An exposure is a person meeting candidate items on a platform at a time. All the model may know of
the person is the *window*: their newest events over all platforms, strictly before that time. Every
count, rate and recency of the person is derived from it, so leaving an event or a platform out of
the window leaves it out of the answer. Of the market it may know *tallies*: events by kind.

Identities (platform, item, category, brand) enter as integer codes. Any coding will do as long as
one call uses one coding throughout; MISSING matches nothing, not even itself.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shopcast_domain.events import EventKind

MISSING = -1
KINDS = len(EventKind)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Window:
    """The person's newest W events before the exposure, newest first; W may be 0.

    time_s: float64 (W,), seconds since the epoch, not increasing. kind: int64 (W,), EventKind.
    platform, item, category, brand: int64 (W,) codes. price: float64 (W,), NaN where unknown.
    quantity: float64 (W,), pieces.
    """

    time_s: Floats
    kind: Ints
    platform: Ints
    item: Ints
    category: Ints
    brand: Ints
    price: Floats
    quantity: Floats

    def __len__(self) -> int:
        return len(self.time_s)


@dataclass(frozen=True, slots=True)
class Candidates:
    """N candidate items met on one platform, with the market's tallies before the exposure.

    item, category, brand: int64 (N,) codes. price: float64 (N,), NaN where unknown.
    quantity: float64 (N,), pieces where the candidates are the lines of an order that is being
    placed, all NaN where the person only meets them.
    item_tally, category_tally: float64 (N, 4), everybody's events by EventKind; zeros if unknown.
    item_habit: int64 (N, 3), sums over everybody's events of the item, as HABIT has them.
    platform: code. platform_tally: float64 (4,).
    """

    platform: int
    item: Ints
    category: Ints
    brand: Ints
    price: Floats
    quantity: Floats
    item_tally: Floats
    item_habit: Ints
    category_tally: Floats
    platform_tally: Floats

    def __len__(self) -> int:
        return len(self.item)


_BY_KIND = ("views", "carts", "buys", "returns")
FEATURES: tuple[str, ...] = (
    *(f"person_{kind}" for kind in _BY_KIND),
    "person_buy_rate",
    "person_return_rate",
    "person_event_age",
    "person_buy_age",
    "person_platforms",
    *(f"person_here_{kind}" for kind in _BY_KIND),
    "person_here_event_age",
    *(f"pair_{kind}" for kind in _BY_KIND),
    "pair_age",
    *(f"person_category_{kind}" for kind in _BY_KIND),
    "person_category_age",
    "person_brand_views",
    "person_brand_buys",
    "person_brand_returns",
    *(f"item_{kind}" for kind in _BY_KIND),
    "item_buy_rate",
    "item_return_rate",
    "category_buy_rate",
    "category_return_rate",
    "platform_buy_rate",
    "platform_return_rate",
    "price",
    "price_against_bought",
    "price_against_viewed",
    "price_against_item",
    "quantity",
    "quantity_against_item",
    "quantity_against_bought",
    "quantity_against_pair",
    "value",
    "basket_lines",
    "basket_quantity",
    "basket_value",
    "value_in_basket",
    "price_in_basket",
    "quantity_in_basket",
    "hour_sin",
    "hour_cos",
    "weekday_sin",
    "weekday_cos",
)
"""Names of the columns, in order. Counts are log(1 + n); ages are log(1 + hours), NEVER_H hours if
there is none; price, quantity and value (price times quantity) are log(1 + x), 0 when unknown;
*_against_* are differences of such logs from a mean of them: over what the person bought or viewed,
over the person's buys of the item (pair), over everybody's events of the item; *_in_basket from
that over the basket, value_in_basket from the basket's value; 0 when either side is unknown. The
basket is the order that is being placed (Candidates.quantity), else the open cart: what the person
put into the cart on the platform within a day and since the last buy there. Hour and weekday are of
UTC."""

HABIT: tuple[str, ...] = ("priced", "log_price", "log_quantity")
"""Sums kept per item beside its tally: events that carry a price, and micro_log of their prices;
micro_log of the quantities of buys. Whole numbers, so that sums do not depend on the order."""


def micro_log(value: Floats) -> Ints:
    """log(1 + value) in millionths, rounded; 0 for NaN. Any shape."""
    return np.rint(np.nan_to_num(np.log1p(value), nan=0.0) * 1e6).astype(np.int64)


NEVER_H = 24.0 * 3650
_CART_H = 24.0
_DAY_S = 86_400.0
_SHRINK = 10.0  # pseudo-events with which a rate is pulled towards the next wider group's


def _rate(hits: Floats, trials: Floats, prior: Floats | float) -> Floats:
    """(hits + k prior) / (trials + k): the mean of a Beta posterior, k pseudo-events strong."""
    return (hits + _SHRINK * prior) / (trials + _SHRINK)


def _buy_rate(tally: Floats, prior: Floats | float) -> Floats:
    """Buys per meeting. tally: (..., 4). Where buys come without views each buy is a meeting."""
    views, buys = tally[..., EventKind.VIEW], tally[..., EventKind.BUY]
    return _rate(buys, np.maximum(views, buys), prior)


def _return_rate(tally: Floats, prior: Floats | float) -> Floats:
    """Returns per buy. tally: (..., 4)."""
    returns, buys = tally[..., EventKind.RETURN], tally[..., EventKind.BUY]
    return _rate(returns, np.maximum(buys, returns), prior)


def _age_feature(age_h: Floats, among: Bools) -> Floats:
    """log(1 + hours) since the newest event `among` (N, W); age_h: (W,). NEVER_H hours if none."""
    newest = np.where(among, age_h, NEVER_H).min(axis=-1, initial=NEVER_H)
    return np.log1p(newest)


def _against(log_price: Floats, priced: Floats, among: Bools) -> Floats:
    """log_price (N,) less the mean of `priced` (W,) where `among` (W,); 0 if either is unknown."""
    known = priced[among & ~np.isnan(priced)]
    if not known.size:
        return np.zeros_like(log_price)
    return np.nan_to_num(log_price - known.mean(), nan=0.0)


def _less(log_value: Floats, other: Floats | float) -> Floats:
    """A difference of logs; 0 if either is unknown."""
    return np.nan_to_num(log_value - other, nan=0.0)


def _habit(total: Ints, count: Floats) -> Floats:
    """The mean of micro_logs as a log; NaN without any."""
    return np.where(count > 0, total / np.maximum(count, 1.0) / 1e6, np.nan)


@dataclass(frozen=True, slots=True)
class _Basket:
    """What is about to be bought together. price, quantity: float64 (B,), price NaN if unknown."""

    price: Floats
    quantity: Floats

    def features(self, log_price: Floats, log_quantity: Floats, log_value: Floats) -> list[Floats]:
        """The basket_* and *_in_basket columns of N candidates, (N,) each."""
        lines = np.full(len(log_price), np.log1p(len(self.quantity)))
        if not len(self.quantity):
            return [np.zeros(len(log_price))] * 6
        value = np.log1p(np.nansum(self.price * self.quantity))
        known = ~np.isnan(self.price)
        usual_price = np.log1p(self.price[known]).mean() if known.any() else np.nan
        return [
            lines,
            np.full_like(lines, np.log1p(self.quantity.sum())),
            np.full_like(lines, value),
            _less(log_value, value),
            _less(log_price, usual_price),
            _less(log_quantity, np.log1p(self.quantity).mean()),
        ]


def _basket(window: Window, candidates: Candidates, age_h: Floats, here: Bools) -> _Basket:
    if not np.isnan(candidates.quantity).any():
        return _Basket(candidates.price, candidates.quantity)
    since_h = np.where(here & (window.kind == EventKind.BUY), age_h, _CART_H).min(initial=_CART_H)
    cart = here & (window.kind == EventKind.CART) & (age_h < since_h)
    return _Basket(window.price[cart], window.quantity[cart])


def compute_features(at_s: float, window: Window, candidates: Candidates) -> NDArray[np.float32]:
    """The numeric features of N candidates met at `at_s` (seconds since the epoch, UTC).

    Every event of the window must be from before `at_s`.
    Returns float32 (N, len(FEATURES)), finite.
    """
    n, w = len(candidates), len(window)
    age_h = np.maximum(at_s - window.time_s, 0.0) / 3600.0  # (W,)
    is_kind = np.eye(KINDS)[window.kind].reshape(w, KINDS)  # (W, 4)
    here = window.platform == candidates.platform  # (W,)

    def same(code: Ints, codes: Ints) -> Bools:
        return (code[:, None] == codes[None, :]) & (code[:, None] != MISSING)  # (N, W)

    pair = same(candidates.item, window.item)
    category = same(candidates.category, window.category)
    brand = same(candidates.brand, window.brand)

    platform_buy = _buy_rate(candidates.platform_tally, 0.1)
    platform_return = _return_rate(candidates.platform_tally, 0.05)
    category_buy = _buy_rate(candidates.category_tally, platform_buy)  # (N,)
    category_return = _return_rate(candidates.category_tally, platform_return)
    person = is_kind.sum(axis=0)  # (4,)
    bought = window.kind == EventKind.BUY
    viewed = window.kind == EventKind.VIEW
    log_price = np.log1p(candidates.price)  # (N,), NaN where unknown
    log_prices = np.log1p(window.price)  # (W,)
    log_quantity = np.log1p(candidates.quantity)  # (N,), NaN unless an order is being placed
    log_quantities = np.log1p(window.quantity)  # (W,)
    log_value = np.log1p(candidates.price * candidates.quantity)
    priced, price_sum, quantity_sum = candidates.item_habit.T
    pair_bought = pair & bought
    pair_habit = np.where(pair_bought, log_quantities, 0.0).sum(1) / np.maximum(
        pair_bought.sum(1), 1
    )
    day = 2 * np.pi * (at_s % _DAY_S) / _DAY_S
    week = 2 * np.pi * ((at_s / _DAY_S + 4) % 7) / 7  # the epoch was a Thursday

    for_all = (
        *np.log1p(person),
        _buy_rate(person, platform_buy),
        _return_rate(person, platform_return),
        _age_feature(age_h, np.ones(w, dtype=bool)),
        _age_feature(age_h, bought),
        len(np.unique(window.platform)),
        *np.log1p(is_kind[here].sum(axis=0)),
        _age_feature(age_h, here),
    )
    brand_counts = np.log1p(brand @ is_kind)  # (N, 4)
    columns = (
        np.tile(np.array(for_all, dtype=np.float64), (n, 1)),
        np.log1p(pair @ is_kind),
        _age_feature(age_h, pair),
        np.log1p(category @ is_kind),
        _age_feature(age_h, category),
        brand_counts[:, [EventKind.VIEW, EventKind.BUY, EventKind.RETURN]],
        np.log1p(candidates.item_tally),
        _buy_rate(candidates.item_tally, category_buy),
        _return_rate(candidates.item_tally, category_return),
        category_buy,
        category_return,
        np.full(n, platform_buy),
        np.full(n, platform_return),
        np.nan_to_num(log_price, nan=0.0),
        _against(log_price, log_prices, bought),
        _against(log_price, log_prices, viewed),
        _less(log_price, _habit(price_sum, priced)),
        np.nan_to_num(log_quantity, nan=0.0),
        _less(log_quantity, _habit(quantity_sum, candidates.item_tally[:, EventKind.BUY])),
        _against(log_quantity, log_quantities, bought),
        np.where(pair_bought.any(1), _less(log_quantity, pair_habit), 0.0),
        np.nan_to_num(log_value, nan=0.0),
        *_basket(window, candidates, age_h, here).features(log_price, log_quantity, log_value),
        np.tile([np.sin(day), np.cos(day), np.sin(week), np.cos(week)], (n, 1)),
    )
    return np.column_stack(columns).astype(np.float32)


HISTORY_NUMBERS: tuple[str, ...] = ("age", "here", "price")
"""Numbers beside each event's item vector and kind: log(1 + hours), same platform (0 or 1) and
log(1 + price), 0 when unknown."""


def history_numbers(age_s: Floats, here: Bools, price: Floats) -> NDArray[np.float32]:
    """What the model reads of each event beside its vector and kind.

    age_s: seconds from the event to the exposure. here: same platform. price: NaN where unknown.
    All of one shape (...); returns float32 (..., 3), finite.
    """
    age = np.log1p(np.maximum(age_s, 0.0) / 3600.0)
    return np.stack((age, here, np.nan_to_num(np.log1p(price), nan=0.0)), axis=-1).astype(
        np.float32
    )
