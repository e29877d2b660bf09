"""The vocabulary of the field: accounts, items, events and outcomes."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple


class EventKind(IntEnum):
    """What a shopper did with an item. The value is the index used in arrays and tensors."""

    VIEW = 0
    CART = 1
    BUY = 2
    RETURN = 3


class Outcome(IntEnum):
    """What became of an exposure. The value is the index into every (N, 3) array of the product."""

    VIEW = 0
    BUY = 1
    RETURN = 2


@dataclass(frozen=True, slots=True)
class Account:
    """One customer account on one platform. The user id is personal and never part of the repr."""

    platform: str
    user_id: str = field(repr=False)


class Item(NamedTuple):
    """An item as one platform sells it; ids are scoped to the platform.

    price: one piece, in major units of the currency that the build converted prices to
    (Training.currency), or of the platform's own where it converted nothing.
    """

    item_id: str
    title: str | None = None
    brand: str | None = None
    category: str | None = None
    price: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One thing a shopper did with an item.

    event_id: unique within the platform; what makes recording idempotent.
    time_s: seconds since the Unix epoch.
    quantity: pieces, at least 1.
    """

    event_id: str = field(repr=False)
    account: Account
    kind: EventKind
    time_s: float
    item: Item
    quantity: int = 1
