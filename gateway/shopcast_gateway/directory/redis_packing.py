"""What the Redis scripts take and give, as bytes: redis_scripts/library has the other half."""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from shopcast_domain.events import Account
from shopcast_domain.features import KINDS
from shopcast_gateway.directory.pseudonym import PSEUDONYM_BYTES, Pseudonyms, person_code

Argument = bytes | str | int | float

EXACT = 2**53 - 1  # Lua's numbers, and scores, are doubles
_ITEM = struct.Struct("<IIii4I8d")
_ITEM_NUMBER = struct.Struct("<I")
_RECORDED = slice(PSEUDONYM_BYTES + 4, PSEUDONYM_BYTES + 11)
_FACT = _RECORDED.stop
_NO_PRICE, _CENTS, _PRICE = range(3)
_ONE, _BYTE, _MANY = range(3)


def microseconds(time_s: float) -> int:
    """Times are kept and compared as whole microseconds, of which a double holds 285 years."""
    return max(-EXACT, min(round(time_s * 1e6), EXACT))


def text_bytes(text: str) -> bytes:
    """UTF-8; what is no valid Unicode passes too, since an error would quote it."""
    return text.encode(errors="surrogatepass")


def text_of_bytes(content: bytes) -> str:
    """The text that text_bytes took."""
    return content.decode(errors="surrogatepass")


def all_pseudonyms(pseudonyms: Pseudonyms, account: Account) -> bytes:
    """Pseudonyms under every key, the newest first."""
    return b"".join(pseudonyms.all_of(account))


def identity(pseudonyms: Pseudonyms, account: Account) -> bytes:
    """The code of the person an account would be, then its pseudonyms."""
    return person_code(pseudonyms.of(account)) + all_pseudonyms(pseudonyms, account)


def pack_fact(kind: int, price: float | None, quantity: int) -> bytes:
    """Kind, price and quantity of an event in 1 to 17 bytes. Raises OverflowError.

    The first byte is kind + 4 * how the price follows + 16 * how the quantity does.

    >>> len(pack_fact(0, None, 1)), len(pack_fact(2, 89.95, 3)), len(pack_fact(2, 1 / 3, 1))
    (1, 6, 9)
    """
    price_shape, price_bytes = _NO_PRICE, b""
    if price is not None:
        cents = round(price * 100) if price < 2**25 else -1
        if 0 <= cents < 2**32 and cents / 100 == price:
            price_shape, price_bytes = _CENTS, cents.to_bytes(4, "little")
        else:
            price_shape, price_bytes = _PRICE, struct.pack("<d", price)
    quantity_shape, quantity_bytes = _ONE, b""
    if quantity != 1:
        quantity_shape = _BYTE if 0 <= quantity < 256 else _MANY
        quantity_bytes = quantity.to_bytes(
            1 if quantity_shape == _BYTE else 8, "little", signed=quantity_shape == _MANY
        )
    shape = kind + 4 * price_shape + 16 * quantity_shape
    return bytes((shape,)) + price_bytes + quantity_bytes


@dataclass(frozen=True, slots=True)
class PackedEvent:
    """An event as it is kept. item: its number, 0 in the quarantine, where item_id says it."""

    item: int
    recorded_us: int
    kind: int
    price: float | None
    quantity: int
    item_id: str


def unpack_event(packed: bytes) -> PackedEvent:
    """An event of a reply."""
    shape, at = packed[_FACT], _FACT + 1
    price: float | None = None
    if (price_shape := shape // 4 % 4) == _CENTS:
        price, at = int.from_bytes(packed[at : at + 4], "little") / 100, at + 4
    elif price_shape == _PRICE:
        (price,), at = struct.unpack_from("<d", packed, at), at + 8
    quantity = 1
    if (quantity_shape := shape // 16) == _BYTE:
        quantity, at = packed[at], at + 1
    elif quantity_shape == _MANY:
        quantity, at = int.from_bytes(packed[at : at + 8], "little", signed=True), at + 8
    return PackedEvent(
        item=_ITEM_NUMBER.unpack_from(packed, PSEUDONYM_BYTES)[0],
        recorded_us=int.from_bytes(packed[_RECORDED], "little"),
        kind=shape % 4,
        price=price,
        quantity=quantity,
        item_id=text_of_bytes(packed[at:]),
    )


@dataclass(frozen=True, slots=True)
class PackedItem:
    """An item as it is kept. habit: sums of features.HABIT."""

    number: int
    platform: int
    category_code: int
    brand_code: int
    tally: tuple[int, ...]
    habit: tuple[int, ...]
    title: str | None
    brand: str | None
    category: str | None
    price: float | None
    item_id: str


def unpack_item(packed: bytes) -> PackedItem:
    """An item of a reply."""
    numbers = _ITEM.unpack_from(packed)
    title, brand, category, item_id = text_of_bytes(packed[_ITEM.size :]).split("\0", 3)
    price = numbers[11]
    return PackedItem(
        number=numbers[0],
        platform=numbers[1],
        category_code=numbers[2],
        brand_code=numbers[3],
        tally=numbers[4:8],
        habit=tuple(map(int, numbers[8:11])),
        title=title or None,
        brand=brand or None,
        category=category or None,
        price=None if math.isnan(price) else price,
        item_id=item_id,
    )


def unpack_tally(packed: bytes) -> tuple[int, ...]:
    """Events by kind; zeros where there is nothing."""
    return tuple(map(int, struct.unpack("<4d", packed))) if packed else (0,) * KINDS


def unpack_number(packed: bytes) -> float:
    """A number that is not whole."""
    (number,) = struct.unpack("<d", packed)
    return float(number)


def in_threes(reply: Sequence[Any]) -> Iterable[tuple[Any, Any, Any]]:
    """A flat reply in rows of three."""
    return zip(reply[::3], reply[1::3], reply[2::3], strict=True)
