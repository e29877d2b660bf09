"""Events as record.lua takes them."""

import math
import struct
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from shopcast_domain.events import Account, Event
from shopcast_domain.features import micro_log
from shopcast_domain.item_text import match_name
from shopcast_gateway.directory.attributes import attributes_of
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.redis_packing import (
    Argument,
    identity,
    microseconds,
    pack_fact,
    text_bytes,
)
from shopcast_gateway.directory.types import EventStatus, FloodRules

STATUSES: Mapping[int, EventStatus] = {
    ord("r"): EventStatus.RECORDED,
    ord("d"): EventStatus.DUPLICATE,
    ord("q"): EventStatus.QUARANTINED,
}
_HEADER = struct.Struct("<4I3d")
_EVENT = struct.Struct("<7I3dB")

_Thing = TypeVar("_Thing", bound=Hashable)


class _Places(dict[_Thing, int]):
    """The place of everything asked for, from 1, in the order in which it was first."""

    def __missing__(self, key: _Thing) -> int:
        self[key] = len(self) + 1
        return self[key]


def record_arguments(
    pseudonyms: Pseudonyms, events: Sequence[Event], floods: FloodRules | None
) -> list[Argument]:
    """The arguments of record.lua, in which every text, account and item stands once. Raises
    OverflowError."""
    texts: _Places[str] = _Places()
    accounts: _Places[Account] = _Places()
    items: _Places[tuple[int, int]] = _Places()
    packed: list[bytes] = []
    carried_by = [attributes_of(event.item) for event in events]
    prices = [math.nan if carried[3] is None else carried[3] for carried in carried_by]
    quantities = [float(event.quantity) for event in events]
    logs = micro_log(np.array([prices, quantities])).T.tolist()
    for event, (title, brand, category, price), log in zip(events, carried_by, logs, strict=True):
        platform = event.account.platform
        named = [
            0 if text is None else texts[text]
            for text in (
                title,
                brand,
                category,
                None if brand is None else match_name(brand),
                None if category is None else match_name(category),
            )
        ]
        fact = pack_fact(event.kind, price, event.quantity)
        head = _EVENT.pack(
            accounts[event.account],
            items[texts[platform], texts[event.item.item_id]],
            *named,
            microseconds(event.time_s),
            *log,
            len(fact),
        )
        packed.append(b"".join((head, fact, *pseudonyms.all_of_event(platform, event.event_id))))
    owners = [
        struct.pack("<I", texts[account.platform]) + identity(pseudonyms, account)
        for account in accounts
    ]
    rules = (math.inf,) * 3
    if floods is not None:
        rules = (floods.looks_per_second, floods.looks_per_minute, floods.orders_per_minute)
    return [
        pseudonyms.fingerprints()[0],
        _HEADER.pack(len(texts), len(owners), len(items), len(packed), *rules),
        *map(text_bytes, texts),
        *owners,
        *(struct.pack("<II", *names) for names in items),
        *packed,
    ]
