"""What a directory keeps of an item's attributes."""

import math
from functools import lru_cache

from shopcast_domain import item_text as texts
from shopcast_domain.events import Item

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
