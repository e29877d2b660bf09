"""What a directory keeps of an item's attributes."""

import math
from functools import lru_cache

from shopcast_domain import item_text as texts
from shopcast_domain.events import Item

Attributes = tuple[str | None, str | None, str | None, float | None]
"""Title, brand, category and price; None where unknown."""

_CACHED = 32_768
"""Distinct attributes, and texts, kept at hand: 20 MB with usual titles, 0.2 GB at worst."""
_CACHED_CHARS = 200
"""Longer ones are worked out anew each time: callers choose what they send."""

_kept_clean = lru_cache(_CACHED)(texts.clean)
_kept_text = lru_cache(_CACHED)(texts.item_text)


def text_of(title: str | None, brand: str | None, category: str | None, price: float | None) -> str:
    """`item_text`, remembered: a request asks for the same few hundred again and again."""
    long = title is not None and len(title) > _CACHED_CHARS
    return (texts.item_text if long else _kept_text)(title, brand, category, price)


def _clean(text: str | None) -> str:
    return (texts.clean if text and len(text) > _CACHED_CHARS else _kept_clean)(text)


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
