"""The text the encoder reads for an item, and the digest under which its vector is kept."""

import hashlib
import math
import re
import unicodedata
from functools import lru_cache

MAX_TEXT_CHARS = 400
"""Longer texts are cut; the encoder reads far fewer tokens than that."""

_BLANKS = re.compile(r"\s+")
_OF_WORDS = {"Lu", "Ll", "Lt", "Nd"}
"""Categories of letters that have a case, and of digits."""


def clean(text: str | None) -> str:
    """Normalise (NFKC), drop control characters, fold white space. None gives ''."""
    if not text:
        return ""
    normal = unicodedata.normalize("NFKC", text)
    if not normal.isprintable():
        normal = "".join(" " if unicodedata.category(c)[0] == "C" else c for c in normal)
    return _BLANKS.sub(" ", normal).strip()


@lru_cache(65_536)
def match_name(text: str) -> str:
    """The name under which brands and categories are the same on every platform.

    >>> match_name("Shoes >  Trainers") == match_name("SHOES > trainers")
    True
    """
    return clean(text).casefold()


def price_band(price: float | None) -> str:
    """Words for a price, in bands that double, so that small changes keep the text and its vector.

    >>> price_band(12.5), price_band(0.3), price_band(None)
    ('price 8 to 16', 'price under 1', '')
    """
    if price is None or not math.isfinite(price) or price < 0:
        return ""
    if price < 1:
        return "price under 1"
    low = 2 ** math.floor(math.log2(price))
    return f"price {low} to {low * 2}"


def item_text(
    title: str | None, brand: str | None, category: str | None, price: float | None
) -> str:
    """One line for the encoder: what is known of title, brand, category and price band.

    The brand is left out where the title already names it: every token costs time.
    '' when there is neither title, brand nor category: a price alone is no text.

    >>> item_text("Trail shoe", "Nordwind", "shoes > trainers", 89.0)
    'Trail shoe | Nordwind | shoes > trainers | price 64 to 128'
    >>> item_text("On Cloud 5", "On", None, None), item_text("Cotton socks", "On", None, None)
    ('On Cloud 5', 'Cotton socks | On')
    """
    name, maker, group = clean(title), clean(brand), clean(category)
    if _says(name.casefold(), maker.casefold()):
        maker = ""
    words = [word for word in (name, maker, group) if word]
    if not words:
        return ""
    band = price_band(price)
    return " | ".join([*words, band] if band else words)[:MAX_TEXT_CHARS]


def _says(title: str, brand: str) -> bool:
    """Whether a title names a brand as a word of its own. Scripts without case mostly write no
    blanks between words: there any part of the title counts.

    >>> _says("cotton socks", "on"), _says("on-cloud 5", "on"), _says("耐克运动鞋", "耐克")
    (False, True, True)
    """
    start = title.find(brand)
    while start >= 0:
        end = start + len(brand)
        if not (_within_word(title, start) or _within_word(title, end)):
            return True
        start = title.find(brand, start + 1)
    return False


def _within_word(text: str, at: int) -> bool:
    return 0 < at < len(text) and all(
        unicodedata.category(c) in _OF_WORDS for c in (text[at - 1], text[at])
    )


def text_digest(text: str) -> bytes:
    """16 bytes that stand for a text (BLAKE2b-128)."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
