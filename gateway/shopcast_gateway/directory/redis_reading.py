"""Requests for events and items as read.lua and history.lua take them, and what they answer."""

from collections.abc import Sequence
from typing import Any

from shopcast_domain.events import EventKind, Item
from shopcast_domain.features import MISSING
from shopcast_gateway.directory.attributes import attributes_of
from shopcast_gateway.directory.reading import Found, assemble, folded_names
from shopcast_gateway.directory.redis_packing import (
    Argument,
    PackedItem,
    in_threes,
    text_bytes,
    text_of_bytes,
    unpack_event,
    unpack_item,
    unpack_number,
    unpack_tally,
)
from shopcast_gateway.directory.types import HistoryEvent, Reading


def item_arguments(platform: str, items: Sequence[Item]) -> list[Argument]:
    """The platform and the items of a request, and the brands and categories they name."""
    carried = [attributes_of(item) for item in items]
    brands, categories = folded_names(carried, 1), folded_names(carried, 2)
    texts = (*(item.item_id for item in items), *brands, *categories)
    return [
        text_bytes(platform),
        *map(len, (items, brands, categories)),
        *map(text_bytes, texts),
    ]


def reading_of(reply: Sequence[Any], items: Sequence[Item]) -> Reading:
    """The answer of read.lua to a request for `items`."""
    known, suppressed, window, platform, platform_tally, packed, tallies, *names = reply
    brand_codes, category_codes, category_tallies = names
    rows, owners, kept_items = window
    seen = {item.number: item for item in map(unpack_item, kept_items)}
    places = list(in_threes(owners))
    confidences = [unpack_number(confidence) for _, _, confidence in places]
    platforms = [text_of_bytes(name) for name, _, _ in places]
    events, confidence = [], []
    for time_us, packed_event, place in in_threes(rows):
        event = unpack_event(packed_event)
        item = seen[event.item]
        price = item.price if event.price is None else event.price
        codes = (item.platform, item.number, item.category_code, item.brand_code)
        texts = (item.title, item.brand, item.category, item.price)
        events.append(
            (time_us, event.kind, *codes, price, event.quantity, platforms[place], *texts)
        )
        confidence.append(confidences[place])
    carried = [attributes_of(item) for item in items]
    return assemble(
        items,
        carried,
        Found(
            known=bool(known),
            events=events,
            confidence=confidence,
            platform=platform,
            platform_tally=unpack_tally(platform_tally),
            items={
                asked.item_id: _candidate(unpack_item(one), tally)
                for asked, one, tally in zip(items, packed, tallies, strict=True)
                if one
            },
            brands={
                name: (code,)
                for name, code in zip(folded_names(carried, 1), brand_codes, strict=True)
                if code != MISSING
            },
            categories={
                name: (code, *unpack_tally(tally))
                for name, code, tally in zip(
                    folded_names(carried, 2), category_codes, category_tallies, strict=True
                )
                if code != MISSING
            },
            suppressed=tuple(sorted(map(text_of_bytes, suppressed))),
        ),
    )


def _candidate(item: PackedItem, category_tally: bytes) -> tuple[Any, ...]:
    return (
        item.number,
        *(item.title, item.brand, item.category, item.price),
        *(item.category_code, item.brand_code),
        *(*item.tally, *item.habit, *unpack_tally(category_tally)),
    )


def history_of(reply: Sequence[Any]) -> tuple[HistoryEvent, ...]:
    """The answer of history.lua, as of all that reply with events."""
    rows, owners, packed_items = reply
    items = {item.number: item for item in map(unpack_item, packed_items)}
    accounts = list(in_threes(owners))
    shown = []
    for time_us, packed, place in in_threes(rows):
        event = unpack_event(packed)
        item = items[event.item]
        platform, pseudonym, confidence = accounts[place]
        shown.append(
            HistoryEvent(
                platform=text_of_bytes(platform),
                account_pseudonym=pseudonym.hex(),
                kind=EventKind(event.kind),
                item_id=item.item_id,
                title=item.title,
                price=event.price,
                quantity=event.quantity,
                time_s=time_us / 1e6,
                recorded_s=event.recorded_us / 1e6,
                confidence=unpack_number(confidence),
            )
        )
    return tuple(shown)
