"""The numeric features of an exposure: one piece of code for training and serving.

An exposure is a person meeting candidate items on a platform at a time. All the model may know of
the person is the *window*: their newest events over all platforms, strictly before that time. Every
count, rate and recency of the person is derived from it, so leaving an event or a platform out of
the window leaves it out of the answer. Of the market it may know *tallies*: events by kind.

Identities (platform, item, category, brand) enter as integer codes. Any coding will do as long as
one call uses one coding throughout; MISSING matches nothing, not even itself.

Serving asks for one window, training for many at once. So arrays may have leading axes, written
`...` below, which are alike in all arguments of a call; windows of unlike length are padded with
events of kind MISSING. What comes of one window never depends on its neighbours or on padding.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shopcast_domain.events import EventKind

MISSING = -1
KINDS = len(EventKind)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Codes = NDArray[np.signedinteger[Any]]
"""Integers of any width: identities, kinds."""


@dataclass(frozen=True, slots=True)
class Window:
    """The person's newest W events before the exposure, newest first; W may be 0.

    time_s: float64 (..., W), seconds since the epoch, not increasing. kind: (..., W), EventKind;
    MISSING where there is no event, and then item, category, brand are MISSING, too.
    platform, item, category, brand: (..., W) codes. price: float64 (..., W), NaN where unknown.
    quantity: float64 (..., W), pieces.
    """

    time_s: Floats
    kind: Codes
    platform: Codes
    item: Codes
    category: Codes
    brand: Codes
    price: Floats
    quantity: Floats

    def __len__(self) -> int:
        return self.time_s.shape[-1]


@dataclass(frozen=True, slots=True)
class Candidates:
    """N candidate items met on one platform, with the market's tallies before the exposure.

    item, category, brand: (..., N) codes. price: float64 (..., N), NaN where unknown.
    quantity: float64 (..., N), pieces where the candidates are the lines of an order that is being
    placed, all NaN where the person only meets them.
    item_tally, category_tally: float64 (..., N, 4), everybody's events by EventKind; zeros if
    unknown. item_habit: int64 (..., N, 3), sums over everybody's events of the item, as HABIT has
    them. platform: (...) code. platform_tally: float64 (..., 4).
    """

    platform: int | Codes
    item: Codes
    category: Codes
    brand: Codes
    price: Floats
    quantity: Floats
    item_tally: Floats
    item_habit: Ints
    category_tally: Floats
    platform_tally: Floats

    def __len__(self) -> int:
        return self.item.shape[-1]


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


def _or_zero(value: Floats) -> Floats:
    """Zero for NaN. A fifth of what np.nan_to_num takes, which looks for infinities, too."""
    return np.where(np.isnan(value), 0.0, value)


def micro_log(value: Floats) -> Ints:
    """log(1 + value) in millionths, rounded; 0 for NaN. Any shape."""
    return np.rint(_or_zero(np.log1p(value)) * 1e6).astype(np.int64)


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
    """log(1 + hours) since the newest event `among` (..., W); NEVER_H hours if there is none."""
    newest: Floats = np.where(among, age_h, NEVER_H).min(axis=-1, initial=NEVER_H)
    return np.log1p(newest)


def _on_grid(value: Floats, bits: int) -> Floats:
    """Rounded to multiples of 2**-bits: sums of such numbers are exact up to 2**(53 - bits), so a
    mean is the same whatever the order of events within a moment and however it is padded."""
    return np.ldexp(np.rint(np.ldexp(value, bits)), -bits)


def _log(value: Floats) -> Floats:
    """log(1 + value), to be averaged; NaN stays NaN."""
    return _on_grid(np.log1p(value), 32)


def _mean(value: Floats, among: Bools) -> Floats:
    """Over what is known of `value` `among`, both (..., W): (...), NaN without any."""
    known = among & ~np.isnan(value)
    count = known.sum(axis=-1)
    total = np.where(known, value, 0.0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _less(log_value: Floats, other: Floats) -> Floats:
    """A difference of logs; 0 if either is unknown."""
    return _or_zero(log_value - other)


def _habit(total: Ints, count: Floats | Ints) -> Floats:
    """The mean of micro_logs as a log; NaN without any."""
    return np.where(count > 0, total / np.maximum(count, 1.0) / 1e6, np.nan)


@dataclass(frozen=True, slots=True)
class _Basket:
    """What is about to be bought together: the lines `among` price and quantity, (..., B) each;
    price NaN if unknown."""

    price: Floats
    quantity: Floats
    among: Bools

    def features(self, log_price: Floats, log_quantity: Floats, log_value: Floats) -> Floats:
        """The basket_* and *_in_basket columns of N candidates: (..., N) each -> (..., N, 6)."""
        lines = self.among.sum(axis=-1)[..., None]
        worth = _or_zero(_on_grid(self.price * self.quantity, 20))
        value = np.log1p(np.where(self.among, worth, 0.0).sum(axis=-1))[..., None]
        pieces = np.where(self.among, self.quantity, 0.0).sum(axis=-1)[..., None]
        columns = (
            np.log1p(lines),
            np.log1p(pieces),
            value,
            _less(log_value, value),
            _less(log_price, _mean(_log(self.price), self.among)[..., None]),
            _less(log_quantity, _mean(_log(self.quantity), self.among)[..., None]),
        )
        stacked = np.stack(np.broadcast_arrays(*columns, log_price)[:6], axis=-1)
        return np.where(lines[..., None] > 0, stacked, 0.0)


def _basket(window: Window, candidates: Candidates, age_h: Floats, here: Bools) -> _Basket:
    """The order that is being placed, else the open cart."""
    is_order = ~np.isnan(candidates.quantity).any(axis=-1, keepdims=True)
    bought = here & (window.kind == EventKind.BUY)
    since_h = np.where(bought, age_h, _CART_H).min(axis=-1, keepdims=True, initial=_CART_H)
    in_cart = here & (window.kind == EventKind.CART) & (age_h < since_h)
    lines = np.broadcast_to(is_order, candidates.quantity.shape)
    return _Basket(
        np.concatenate((candidates.price, window.price), axis=-1),
        np.concatenate((candidates.quantity, window.quantity), axis=-1),
        np.concatenate((lines, in_cart & ~is_order), axis=-1),
    )


def _distinct(code: Codes, among: Bools) -> Ints:
    """How many different codes there are `among`; both (..., W). Returns (...)."""
    ordered = np.sort(np.where(among, code, np.iinfo(code.dtype).max), axis=-1)
    count = among.sum(axis=-1)
    first = np.ones_like(among)
    first[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    return (first & (np.arange(among.shape[-1]) < count[..., None])).sum(axis=-1)


def compute_features(
    at_s: float | Floats, window: Window, candidates: Candidates
) -> NDArray[np.float32]:
    """The numeric features of N candidates met at `at_s` (...) (seconds since the epoch, UTC).

    Every event of the window must be from before `at_s`.
    Returns float32 (..., N, len(FEATURES)), finite.
    """
    at = np.asarray(at_s, dtype=np.float64)
    n = len(candidates)
    age_h = np.maximum(at[..., None] - window.time_s, 0.0) / 3600.0  # (..., W)
    known = window.kind != MISSING  # (..., W)
    is_kind = window.kind[..., None] == np.arange(KINDS)  # (..., W, 4)
    by_kind = is_kind.astype(np.float32)  # counts below 2**24 are exact
    here = known & (window.platform == np.asarray(candidates.platform)[..., None])

    def same(code: Codes, codes: Codes) -> Bools:
        met = code[..., :, None]
        return (met == codes[..., None, :]) & (met != MISSING)  # (..., N, W)

    def counts(among: Bools) -> Floats:
        return np.log1p((among @ by_kind).astype(np.float64))  # (..., N, 4)

    pair = same(candidates.item, window.item)
    category = same(candidates.category, window.category)
    brand = same(candidates.brand, window.brand)

    platform_buy = _buy_rate(candidates.platform_tally, 0.1)[..., None]  # (..., 1)
    platform_return = _return_rate(candidates.platform_tally, 0.05)[..., None]
    category_buy = _buy_rate(candidates.category_tally, platform_buy)  # (..., N)
    category_return = _return_rate(candidates.category_tally, platform_return)
    person = is_kind.sum(axis=-2, dtype=np.float64)  # (..., 4)
    bought = is_kind[..., EventKind.BUY]
    viewed = is_kind[..., EventKind.VIEW]
    log_price = np.log1p(candidates.price)  # (..., N), NaN where unknown
    log_quantity = np.log1p(candidates.quantity)  # (..., N), NaN unless an order is being placed
    log_value = np.log1p(candidates.price * candidates.quantity)
    prices, quantities = _log(window.price), _log(window.quantity)  # (..., W)
    compared_price, compared_quantity = _log(candidates.price), _log(candidates.quantity)
    priced, price_sum, quantity_sum = np.moveaxis(candidates.item_habit, -1, 0)
    pair_bought = pair & bought[..., None, :]
    day = 2 * np.pi * (at % _DAY_S) / _DAY_S
    week = 2 * np.pi * ((at / _DAY_S + 4) % 7) / 7  # the epoch was a Thursday

    def for_all(*columns: Floats) -> Floats:
        """The same for every candidate: each (..., k) -> (..., N, sum of k)."""
        row = np.concatenate(columns, axis=-1)[..., None, :]
        return np.broadcast_to(row, (*row.shape[:-2], n, row.shape[-1]))

    columns = (
        for_all(
            np.log1p(person),
            _buy_rate(person[..., None, :], platform_buy),
            _return_rate(person[..., None, :], platform_return),
            _age_feature(age_h, known)[..., None],
            _age_feature(age_h, bought)[..., None],
            _distinct(window.platform, known)[..., None].astype(np.float64),
            np.log1p((here[..., None] & is_kind).sum(axis=-2, dtype=np.float64)),
            _age_feature(age_h, here)[..., None],
        ),
        counts(pair),
        _age_feature(age_h[..., None, :], pair)[..., None],
        counts(category),
        _age_feature(age_h[..., None, :], category)[..., None],
        counts(brand)[..., [EventKind.VIEW, EventKind.BUY, EventKind.RETURN]],
        np.log1p(candidates.item_tally),
        _buy_rate(candidates.item_tally, category_buy)[..., None],
        _return_rate(candidates.item_tally, category_return)[..., None],
        category_buy[..., None],
        category_return[..., None],
        for_all(platform_buy, platform_return),
        _or_zero(log_price)[..., None],
        _less(compared_price, _mean(prices, bought)[..., None])[..., None],
        _less(compared_price, _mean(prices, viewed)[..., None])[..., None],
        _less(log_price, _habit(price_sum, priced))[..., None],
        _or_zero(log_quantity)[..., None],
        _less(log_quantity, _habit(quantity_sum, candidates.item_tally[..., EventKind.BUY]))[
            ..., None
        ],
        _less(compared_quantity, _mean(quantities, bought)[..., None])[..., None],
        _less(compared_quantity, _mean(quantities[..., None, :], pair_bought))[..., None],
        _or_zero(log_value)[..., None],
        _basket(window, candidates, age_h, here).features(
            compared_price, compared_quantity, log_value
        ),
        for_all(np.stack((np.sin(day), np.cos(day), np.sin(week), np.cos(week)), axis=-1)),
    )
    return np.concatenate(columns, axis=-1, dtype=np.float32, casting="same_kind")


HISTORY_NUMBERS: tuple[str, ...] = ("age", "here", "price")
"""Numbers beside each event's item vector and kind: log(1 + hours), same platform (0 or 1) and
log(1 + price), 0 when unknown."""


def history_numbers(age_s: Floats, here: Bools, price: Floats) -> NDArray[np.float32]:
    """What the model reads of each event beside its vector and kind.

    age_s: seconds from the event to the exposure. here: same platform. price: NaN where unknown.
    All of one shape (...); returns float32 (..., 3), finite.
    """
    age = np.log1p(np.maximum(age_s, 0.0) / 3600.0)
    return np.stack((age, here, _or_zero(np.log1p(price))), axis=-1).astype(np.float32)
