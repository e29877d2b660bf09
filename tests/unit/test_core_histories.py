"""Copies of histories: how many, how old, and for which items."""

import tracemalloc

import numpy as np
import pytest

from shopcast_domain.events import Account, Item
from shopcast_domain.features import MISSING
from shopcast_domain.item_text import match_name
from shopcast_gateway.core.histories import Histories
from shopcast_gateway.core.protocol import PredictQuery
from shopcast_gateway.directory import attributes
from shopcast_gateway.directory.attributes import attributes_of
from shopcast_gateway.directory.reading import Found, assemble
from shopcast_gateway.directory.types import Reading

LIMIT = 64
HAT, SHOE = Item("hat", title="Hat", price=5.0), Item("shoe", category="Shoes")


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def query(user_id: str, *items: Item) -> PredictQuery:
    return PredictQuery(Account("web", user_id), items or (HAT,))


def reading(*items: Item, events: int = 2) -> Reading:
    """A store that knows the hat."""
    past = [
        (10**6 * n, 0, 3, 7, 1, 2, 9.0, 1, "web", "Hat", None, None, 9.0) for n in range(events)
    ]
    kept = (7, "Hat", None, None, 9.0, 1, 2, 5, 4, 3, 2, 1, 1, 1, 50, 40, 30, 20)
    found = Found(
        known=True,
        events=past,
        confidence=[1.0] * events,
        platform=3,
        platform_tally=(500, 400, 300, 200),
        items={"hat": kept},
        brands={},
        categories={"shoes": (8, 11, 12, 13, 14)},
        suppressed=("app",),
    )
    return assemble(items, [attributes_of(item) for item in items], found)


def keep(histories: Histories, asked: PredictQuery, *, events: int = 2) -> Reading:
    made = reading(*asked.items, events=events)
    histories.keep(asked, LIMIT, made, histories.begin())
    return made


def test_a_copy_is_given_for_a_while() -> None:
    clock = Clock()
    histories = Histories(max_age_s=10.0, clock=clock)
    assert histories.age_s(query("anna"), LIMIT) is None
    made = keep(histories, query("anna"))
    clock.now_s += 9.0
    assert histories.age_s(query("anna"), LIMIT) == pytest.approx(9.0)
    assert histories.recall(query("anna"), LIMIT) is made
    assert histories.age_s(query("bob"), LIMIT) is None
    clock.now_s += 2.0
    assert histories.age_s(query("anna"), LIMIT) is None
    keep(histories, query("bob"))
    assert len(histories) == 1, "what is too old leaves the memory"


def test_the_age_counts_from_when_the_read_began() -> None:
    clock = Clock()
    histories = Histories(clock=clock)
    begun = histories.begin()
    clock.now_s += 3.0
    histories.keep(query("anna"), LIMIT, reading(HAT), begun)
    assert histories.age_s(query("anna"), LIMIT) == pytest.approx(3.0)


def test_there_are_never_more_than_so_many_readings_and_bytes() -> None:
    few = Histories(readings=2)
    for name in ("anna", "bob", "anna", "carol"):
        keep(few, query(name))
    assert len(few) == 2
    assert few.age_s(query("bob"), LIMIT) is None, "read longest ago"
    narrow = Histories(size_bytes=20_000)
    for name in ("anna", "bob", "carol"):
        keep(narrow, query(name), events=9)  # 7 to 8 kB
    assert len(narrow) == 2
    keep(narrow, query("bob"), events=9)
    assert len(narrow) == 2, "the same again takes no more room"
    keep(narrow, query("dora"), events=99)
    assert len(narrow) == 0


@pytest.mark.parametrize(
    ("items", "events", "letter", "lengths"),
    [
        (1, 0, "a", (0, 0, 0)),
        (20, 20, "a", (0, 0, 0)),
        (20, 20, "a", (60, 12, 20)),
        (20, 0, "商", (1_000, 200, 300)),  # the most that the contract allows
        (20, 0, "\N{SHOPPING TROLLEY}", (100, 100, 100)),
    ],
)
def test_the_bytes_are_those_of_the_memory(
    items: int, events: int, letter: str, lengths: tuple[int, int, int]
) -> None:
    bound, number = 1_000_000, 0
    histories = Histories(size_bytes=bound)
    tracemalloc.start()
    try:
        while len(histories) == number:  # until the first has made room
            number += 1
            wanted = [
                Item(
                    f"i-{number}-{row}",
                    *(f"{letter * (n - 6)}{row:06}" if n else None for n in lengths),
                    1.5 + row,
                )
                for row in range(items)
            ]
            keep(histories, query(f"u-{number}", *wanted), events=events)
        del wanted
        for cached in (attributes._kept_clean, attributes._kept_text, match_name):
            cached.cache_clear()
        kept = tracemalloc.get_traced_memory()[0]
        histories.clear()
        freed = kept - tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert bound / 3 < freed <= bound


def test_a_copy_is_of_so_many_events() -> None:
    histories = Histories()
    keep(histories, query("anna"))
    assert histories.age_s(query("anna"), LIMIT + 1) is None, "another version reads more of them"


def test_what_is_withdrawn_is_gone_and_what_was_being_read_is_not_kept() -> None:
    histories = Histories()
    keep(histories, query("anna"))
    begun = histories.begin()
    histories.clear()
    assert len(histories) == 0
    histories.keep(query("bob"), LIMIT, reading(HAT), begun)
    assert len(histories) == 0
    keep(histories, query("bob"))
    assert len(histories) == 1


def test_other_items_are_as_the_request_has_them() -> None:
    histories, new = Histories(), Item("new", title="Scarf", price=3.0)
    kept = keep(histories, query("anna", HAT, SHOE))
    dearer = Item("hat", title="Hat", price=6.0)
    asked = query("anna", new, SHOE, HAT, dearer)
    given = histories.recall(asked, LIMIT)
    assert given.window is kept.window
    assert (given.person_known, given.suppressed) == (True, ("app",))
    assert given.candidate_known == (False, False, True, False)
    both = reading(*asked.items)
    assert given.candidate_texts == both.candidate_texts
    assert given.candidate_categories == both.candidate_categories == ("", "shoes", "", "")
    assert given.candidates.platform == 3
    assert given.candidates.item.tolist() == [MISSING, MISSING, 7, MISSING]
    assert given.candidates.category.tolist() == [MISSING, 8, 1, MISSING]
    np.testing.assert_array_equal(given.candidates.price, [3.0, np.nan, 5.0, 6.0])
    np.testing.assert_array_equal(given.candidates.platform_tally, [500, 400, 300, 200])
    np.testing.assert_array_equal(given.candidates.item_tally[2], [5, 4, 3, 2])
    np.testing.assert_array_equal(given.candidates.category_tally[1], [11, 12, 13, 14])
    assert not given.candidates.item_tally[[0, 1, 3]].any()
    strangers = histories.recall(query("anna", new), LIMIT)
    assert strangers.candidate_known == (False,)
    assert len(strangers.candidates) == 1


def test_the_copy_stays_as_it_was_read() -> None:
    histories = Histories()
    kept = keep(histories, query("anna", HAT))
    histories.recall(query("anna", SHOE, HAT), LIMIT).candidates.item_tally[:] = -1
    assert histories.recall(query("anna", HAT), LIMIT) is kept
    assert kept.candidates.item_tally.tolist() == [[5, 4, 3, 2]]
