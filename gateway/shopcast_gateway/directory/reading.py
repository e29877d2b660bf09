"""A Reading from the rows a store found."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shopcast_domain.events import Item
from shopcast_domain.features import HABIT, KINDS, MISSING, Candidates, Window
from shopcast_domain.item_text import match_name
from shopcast_gateway.directory.attributes import Attributes, attributes_of, merge, text_of
from shopcast_gateway.directory.types import Reading

NO_TALLY = (0,) * KINDS
_NO_HABIT = (0,) * len(HABIT)
_EVENT_COLUMNS = 13


@dataclass(frozen=True, slots=True)
class Found:
    """What a store found for a request.

    events: rows of time_us, kind, codes of platform, item, category and brand, price (else the
    item's), quantity, platform's name, then the item's title, brand, category and price.
    confidence: of each event. platform: code and tally. items: by item id, of the candidates it
    knows: code, title, brand, category, price, codes of category and brand, tally, habit, tally of
    the category. brands: code by folded name. categories: code and tally by folded name.
    """

    known: bool
    events: Sequence[Sequence[Any]]
    confidence: Sequence[float]
    platform: int
    platform_tally: Sequence[float]
    items: Mapping[str, tuple[Any, ...]]
    brands: Mapping[str, tuple[int, ...]]
    categories: Mapping[str, tuple[int, ...]]
    suppressed: tuple[str, ...]


def unread(items: Sequence[Item]) -> Reading:
    """What is known of a shopper and items when no store can be asked: what the items carry."""
    nothing = Found(
        known=False,
        events=(),
        confidence=(),
        platform=MISSING,
        platform_tally=NO_TALLY,
        items={},
        brands={},
        categories={},
        suppressed=(),
    )
    return assemble(items, [attributes_of(item) for item in items], nothing)


def folded_names(carried: Sequence[Attributes], place: int) -> list[str]:
    """The different brands (place 1) or categories (place 2) a request names, folded."""
    texts = (attributes[place] for attributes in carried)
    return list(dict.fromkeys(match_name(str(text)) for text in texts if text is not None))


def assemble(items: Sequence[Item], carried: Sequence[Attributes], found: Found) -> Reading:
    """The answer to a request for `items`. carried: the attributes each of them carries."""
    columns = list(zip(*found.events, strict=True)) or [()] * _EVENT_COLUMNS
    time_us, kind, platforms, item, category, brand, price, quantity, names, *attributes = columns
    window = Window(
        time_s=np.array(time_us, dtype=np.float64) / 1e6,
        kind=_ints(kind),
        platform=_ints(platforms),
        item=_ints(item),
        category=_ints(category),
        brand=_ints(brand),
        price=np.array(price, dtype=np.float64),
        quantity=np.array(quantity, dtype=np.float64),
    )
    rows = [
        _candidate(mine, found.items.get(one.item_id), found.brands, found.categories)
        for one, mine in zip(items, carried, strict=True)
    ]
    texts, names_of, codes, category_codes, brand_codes, prices, item_tallies, habits, tallies = (
        zip(*rows, strict=True) if rows else [()] * 9
    )
    return Reading(
        person_known=found.known,
        window=window,
        window_texts=tuple(map(text_of, *attributes)),
        window_platforms=names,
        window_confidence=np.array(found.confidence, dtype=np.float64),
        candidates=Candidates(
            platform=found.platform,
            item=_ints(codes),
            category=_ints(category_codes),
            brand=_ints(brand_codes),
            price=np.array(prices, dtype=np.float64),
            quantity=np.full(len(items), np.nan),
            item_tally=_tallies(item_tallies),
            item_habit=np.array(habits, dtype=np.int64).reshape(-1, len(HABIT)),
            category_tally=_tallies(tallies),
            platform_tally=np.array(found.platform_tally, dtype=np.float64),
        ),
        candidate_texts=texts,
        candidate_categories=names_of,
        candidate_known=tuple(one.item_id in found.items for one in items),
        suppressed=found.suppressed,
    )


def _candidate(
    carried: Attributes,
    kept: tuple[Any, ...] | None,
    brands: Mapping[str, tuple[int, ...]],
    categories: Mapping[str, tuple[int, ...]],
) -> tuple[Any, ...]:
    """Text, name of the category, codes of item, category and brand, price, the item's tally and
    habit, and the category's tally, of one candidate.

    kept: as Found.items has it, or None. What the request carries wins.
    """
    code, category, brand = MISSING, MISSING, MISSING
    item_tally = category_tally = NO_TALLY
    habit = _NO_HABIT
    attributes = carried
    if kept is not None:
        code, category, brand = kept[0], kept[5], kept[6]
        item_tally, habit, category_tally = kept[7:11], kept[11:14], kept[14:]
        attributes = merge(carried, kept[1:5])
    if carried[1] is not None:
        brand = brands.get(match_name(carried[1]), (MISSING,))[0]
    if carried[2] is not None:
        category, *tally = categories.get(match_name(carried[2]), (MISSING, *NO_TALLY))
        category_tally = tuple(tally)
    text, price = text_of(*attributes), attributes[3]
    name = match_name(attributes[2]) if attributes[2] is not None else ""
    return text, name, code, category, brand, price, item_tally, habit, category_tally


def _ints(codes: Iterable[int]) -> NDArray[np.int64]:
    return np.array(codes, dtype=np.int64)


def _tallies(tallies: Iterable[tuple[int, ...]]) -> NDArray[np.float64]:
    return np.array(tallies, dtype=np.float64).reshape(-1, KINDS)
