"""The items of a log, as far as they are known at a moment."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shopcast_domain.features import MISSING, Codes, Floats, Ints
from shopcast_domain.item_text import item_text, match_name

ATTRIBUTES = ("title", "brand", "category", "price")
_BRAND, _CATEGORY, _PRICE = 1, 2, 3
Moments = float | Floats


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The items of a log by code. category, brand: int32 (I,) codes. categories: names
    by code, as match_name gives them. price: float64 (I,), NaN
    where unknown. text: int64 (I,), index into `texts`, whose first entry is the empty text.

    known_s: float64 (4, I), from when on each of ATTRIBUTES is known, seconds since the epoch, -inf
    for always. stages: int64 (I, 5), the text while so many of them are known. None where items had
    all they have from their first event on.
    """

    category: Codes
    brand: Codes
    price: Floats
    text: Ints
    texts: tuple[str, ...]
    categories: tuple[str, ...]
    known_s: Floats | None = None
    stages: Ints | None = None

    def text_at(self, item: Codes, at_s: Moments) -> Ints:
        """Index of the text that an item has at a moment. item, at_s, as below: (...), or what
        numpy broadcasts to it."""
        if self.known_s is None or self.stages is None:
            return self.text[item]
        known = (self.known_s[:, item] <= at_s).sum(axis=0)
        return self.stages[item, known]

    def category_at(self, item: Codes, at_s: Moments) -> Codes:
        """MISSING where it is not known yet."""
        return self._at(_CATEGORY, self.category, item, at_s, MISSING)

    def brand_at(self, item: Codes, at_s: Moments) -> Codes:
        """MISSING where it is not known yet."""
        return self._at(_BRAND, self.brand, item, at_s, MISSING)

    def price_at(self, item: Codes, at_s: Moments) -> Floats:
        """NaN where it is not known yet."""
        return self.price_known(item, at_s, self.price[item])

    def price_known(self, item: Codes, at_s: Moments, price: Floats) -> Floats:
        """Prices that stand for the items', NaN where these are not known yet."""
        if self.known_s is None:
            return price
        return np.where(self.known_s[_PRICE, item] <= at_s, price, np.nan)

    def in_category_s(self, item: Codes) -> Floats | None:
        """Since when each item counts for its category; None where all always do."""
        return None if self.known_s is None else self.known_s[_CATEGORY, item]

    def arrays(self) -> list[NDArray[Any]]:
        """What, with `texts`, tells the text of every item at every moment."""
        late = [array for array in (self.known_s, self.stages) if array is not None]
        return [self.text, *late]

    def _at(self, attribute: int, column: Codes, item: Codes, at_s: Moments, unknown: int) -> Codes:
        if self.known_s is None:
            return column[item]
        return np.where(self.known_s[attribute, item] <= at_s, column[item], unknown)


def build_catalogue(items: pl.DataFrame) -> Catalogue:
    """items: one row per item code, columns title, brand, category, price; where an attribute is
    known only from a moment on, the same with _from (items.ITEMS)."""
    rows = items.select(ATTRIBUTES).rows()
    texts: dict[str, int] = {"": 0}
    text = np.array([texts.setdefault(item_text(*row), len(texts)) for row in rows], np.int64)
    category, categories = _codes(items["category"].to_list())
    brand, _ = _codes(items["brand"].to_list())
    known_s = _known_s(items)
    stages = None if known_s is None else _stages(rows, known_s, text, texts)
    return Catalogue(
        category=category,
        brand=brand,
        price=items["price"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
        text=text,
        texts=tuple(texts),
        categories=categories,
        known_s=known_s,
        stages=stages,
    )


def _codes(names: list[str | None]) -> tuple[Codes, tuple[str, ...]]:
    known: dict[str, int] = {}
    codes = np.array(
        [
            known.setdefault(n, len(known)) if (n := match_name(name or "")) else MISSING
            for name in names
        ],
        dtype=np.int32,
    )
    return codes, tuple(known)


def _known_s(items: pl.DataFrame) -> Floats | None:
    names = [f"{name}_from" for name in ATTRIBUTES]
    late = [name for name in names if name in items.columns and items[name].count()]
    if not late:
        return None
    known_s = np.full((len(names), len(items)), -np.inf)
    for name in late:
        moments = items[name].dt.epoch("us").cast(pl.Float64) / 1e6
        known_s[names.index(name)] = moments.fill_null(-np.inf).to_numpy()
    return known_s


def _stages(
    rows: list[tuple[Any, ...]], known_s: Floats, text: Ints, texts: dict[str, int]
) -> Ints:
    """The texts of Catalogue.stages; those that are new are added to `texts`."""
    stages = np.repeat(text[:, None], len(ATTRIBUTES) + 1, axis=1)
    for item in np.flatnonzero((known_s > -np.inf).any(axis=0)).tolist():
        from_s = known_s[:, item]
        begins = np.concatenate([[-np.inf], np.sort(from_s), [np.inf]])
        for known in range(len(ATTRIBUTES) + 1):
            if begins[known] < begins[known + 1]:  # else no moment knows just so many
                told = [
                    v if at <= begins[known] else None
                    for v, at in zip(rows[item], from_s, strict=True)
                ]
                stages[item, known] = texts.setdefault(item_text(*told), len(texts))
    return stages
