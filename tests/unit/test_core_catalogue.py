"""Items at hand: what is given, for how long, and how much of it is kept."""

from dataclasses import asdict
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shopcast_domain.events import Item
from shopcast_gateway.core.catalogue import MAX_CARRIED, Catalogue
from shopcast_gateway.directory.attributes import attributes_of
from shopcast_gateway.directory.reading import Found, assemble
from shopcast_gateway.directory.types import Reading

NAMES = [f"i{number}" for number in range(12)]


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Shop:
    """A store that knows the items below `known`. asked: of the last read."""

    def __init__(self, known: int = 8) -> None:
        self.known, self.views = known, 0
        self.asked: tuple[Item, ...] = ()

    def read(self, items: tuple[Item, ...], platform: str = "web") -> Reading:
        self.asked = items
        shift = 100 * len(platform)
        kept = {
            name: (
                *(number + shift, f"Thing {number} of {platform}", None, "Hats", 2.0 * number),
                *(number % 3, -1),
                *(self.views, number, 2, 1),
                *(number, 10 * number, 20),
                *(30, 20, 10, number),
            )
            for number, name in enumerate(NAMES[: self.known])
        }
        found = Found(
            known=True,
            events=[(10**6, 0, 3, 7, 1, 2, 9.0, 1, "web", "Hat", None, None, 9.0)],
            confidence=[1.0],
            platform=len(platform),
            platform_tally=(500 + self.views, 400, 300, 200),
            items=kept,
            brands={},
            categories={"shoes": (8, 11, 12, 13, 14)},
            suppressed=(),
        )
        return assemble(items, [attributes_of(item) for item in items], found)


def read(
    catalogue: Catalogue, shop: Shop, items: tuple[Item, ...], platform: str = "web"
) -> Reading:
    at_hand = catalogue.look_up(platform, items)
    return at_hand.complete(shop.read(at_hand.missing, platform))


def assert_same(one: Reading, other: Reading) -> None:
    np.testing.assert_equal(_plain(one), _plain(other))
    for name, column in asdict(other.candidates).items():
        if isinstance(column, np.ndarray):
            assert getattr(one.candidates, name).dtype == column.dtype, name


def _plain(reading: Reading) -> dict[str, Any]:
    return asdict(reading)


ITEMS = st.builds(
    Item,
    st.sampled_from(NAMES),
    title=st.sampled_from([None, None, "Boot"]),
    brand=st.none(),
    category=st.sampled_from([None, None, "Shoes", "Unheard of"]),
    price=st.sampled_from([None, None, 3.0]),
)
REQUESTS = st.tuples(
    st.sampled_from(["web", "store"]),
    st.lists(ITEMS, min_size=1, max_size=6, unique_by=lambda item: item.item_id).map(tuple),
)


@given(requests=st.lists(REQUESTS, max_size=12), room=st.integers(1, 8))
def test_an_answer_is_as_if_all_had_been_read(
    requests: list[tuple[str, tuple[Item, ...]]], room: int
) -> None:
    shop, catalogue = Shop(), Catalogue(items=room)
    for platform, items in requests:
        assert_same(read(catalogue, shop, items, platform), shop.read(items, platform))


def test_an_item_is_at_hand_for_a_while_and_what_is_not_is_read() -> None:
    clock, shop = Clock(), Shop()
    catalogue = Catalogue(max_age_s=5.0, clock=clock)
    hat, shoe, new = Item("i1"), Item("i2"), Item("i11", title="New")
    read(catalogue, shop, (hat,))
    clock.now_s += 2.0
    shop.views = 7
    found = read(catalogue, shop, (new, hat, shoe))
    assert shop.asked == (new, shoe), "nobody has met the new one: it is not kept"
    assert found.candidates.item_tally[:, 0].tolist() == [0, 0, 7]
    assert found.candidates.platform_tally[0] == 507
    clock.now_s += 3.5
    found = read(catalogue, shop, (hat, shoe, new))
    assert shop.asked == (hat, new), "the hat was read 5.5 s ago"
    assert found.candidates.item_tally[:, 0].tolist() == [7, 7, 0]


def test_the_age_counts_from_before_the_read() -> None:
    clock, shop = Clock(), Shop()
    catalogue = Catalogue(max_age_s=5.0, clock=clock)
    at_hand = catalogue.look_up("web", (Item("i1"),))
    before = shop.read(at_hand.missing)
    clock.now_s += 4.0
    at_hand.complete(before)
    clock.now_s += 2.0
    assert catalogue.look_up("web", (Item("i1"),)).missing == (Item("i1"),)


def test_what_is_at_hand_is_given_even_when_others_take_its_place_meanwhile() -> None:
    shop, catalogue = Shop(), Catalogue(items=2)
    items = (Item("i1"), Item("i2"), Item("i3"))
    read(catalogue, shop, items[:2])
    at_hand = catalogue.look_up("web", items)
    read(catalogue, shop, (Item("i4"), Item("i5")))
    assert at_hand.missing == items[2:]
    assert_same(at_hand.complete(shop.read(at_hand.missing)), shop.read(items))


def test_there_are_never_more_than_so_many() -> None:
    shop, catalogue = Shop(), Catalogue(items=3)
    for number in range(8):
        read(catalogue, shop, (Item(f"i{number}"),), "web" if number % 2 else "store")
    held = [
        name
        for name in NAMES
        for platform in ("web", "store")
        if not catalogue.look_up(platform, (Item(name),)).missing
    ]
    assert held == ["i5", "i6", "i7"]
    assert sum(map(len, catalogue._rows.values())) == 3
    read(catalogue, shop, tuple(map(Item, NAMES)))
    assert list(catalogue._rows) == ["web"], "nothing of the other platform is left"


def test_long_texts_of_callers_take_no_room() -> None:
    shop, catalogue = Shop(), Catalogue()
    for length, kept in ((MAX_CARRIED, True), (MAX_CARRIED + 1, False)):
        item = Item("i1", title="x" * (length - 4), brand="yyyy")
        read(catalogue, shop, (item,))
        assert (catalogue.look_up("web", (item,)).missing == ()) == kept
