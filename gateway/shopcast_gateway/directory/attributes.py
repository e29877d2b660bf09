"""What a directory keeps of an item's attributes."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from shopcast_domain import item_text as texts
from shopcast_domain.events import Item
from shopcast_domain.features import HABIT, KINDS, MISSING, Candidates, Window
from shopcast_gateway.directory.types import Reading

Attributes = tuple[str | None, str | None, str | None, float | None]
"""Title, brand, category and price; None where unknown."""

_CACHED = 65_536  # distinct attribute texts, or texts, kept at hand

_clean = lru_cache(_CACHED)(texts.clean)

text_of = lru_cache(_CACHED)(texts.item_text)
"""`item_text`, remembered: a request asks for the same few hundred again and again."""


def attributes_of(item: Item) -> Attributes:
    """The attributes an item carries, cleaned; a blank text or an impossible price is unknown."""
    price = item.price
    if price is not None and not (math.isfinite(price) and price >= 0):
        price = None
    return (
        _clean(item.title) or None,
        _clean(item.brand) or None,
        _clean(item.category) or None,
        price,
    )


def merge(carried: Attributes, kept: Attributes) -> Attributes:
    """What a request carries, filled up with what is kept."""
    title, brand, category, price = carried
    return (
        kept[0] if title is None else title,
        kept[1] if brand is None else brand,
        kept[2] if category is None else category,
        kept[3] if price is None else price,
    )


def unread(items: Sequence[Item]) -> Reading:
    """What is known of a shopper and items when no directory can be asked: what the items carry."""
    carried = [attributes_of(item) for item in items]
    count = len(items)
    nothing = np.zeros(0, dtype=np.int64)
    missing = np.full(count, MISSING, dtype=np.int64)
    prices = [np.nan if price is None else price for *_, price in carried]
    return Reading(
        person_known=False,
        window=Window(
            time_s=np.zeros(0),
            kind=nothing,
            platform=nothing,
            item=nothing,
            category=nothing,
            brand=nothing,
            price=np.zeros(0),
            quantity=np.zeros(0),
        ),
        window_texts=(),
        window_platforms=(),
        window_confidence=np.zeros(0),
        candidates=Candidates(
            platform=MISSING,
            item=missing,
            category=missing,
            brand=missing,
            price=np.array(prices, dtype=np.float64),
            quantity=np.full(count, np.nan),
            item_tally=np.zeros((count, KINDS)),
            item_habit=np.zeros((count, len(HABIT)), dtype=np.int64),
            category_tally=np.zeros((count, KINDS)),
            platform_tally=np.zeros(KINDS),
        ),
        candidate_texts=tuple(text_of(*attributes) for attributes in carried),
        candidate_known=(False,) * count,
    )
