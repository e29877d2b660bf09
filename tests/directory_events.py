"""What every Directory must do about events, items and vectors.

An implementation's tests subclass this suite and that of directory_people.py.
"""

import asyncio
from typing import Any

import numpy as np
import pytest

from shopcast_domain.events import Account, Event, EventKind, Item
from shopcast_domain.features import MISSING, compute_features
from shopcast_domain.item_text import item_text
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.directory.types import LinkKind

ANNA, ANNA_B = Account("shop-a", "anna"), Account("shop-b", "anna-7")
BERT = Account("shop-a", "bert")
SHOE = Item("s1", "Trail shoe", "Nordwind", "shoes > trainers", 89.0)
BOOT = Item("b1", "Boot", "Alpin", "shoes > boots", 120.0)
T0 = 1_750_000_000.0
LATER = T0 + 10_000


def event(
    event_id: str,
    account: Account = ANNA,
    kind: EventKind = EventKind.VIEW,
    at: float = 0.0,
    item: Item = SHOE,
) -> Event:
    return Event(event_id, account, kind, T0 + at, item)


async def link(directory: Directory, one: Account, other: Account) -> Any:
    return await directory.link(one, other, kind=LinkKind.LOGIN, confidence=1.0)


async def read(
    directory: Directory,
    account: Account = ANNA,
    items: tuple[Item, ...] = (),
    *,
    before_s: float = LATER,
    limit: int = 256,
) -> Any:
    return await directory.read(account, items, before_s=before_s, limit=limit)


class DirectoryConformance:
    """Needs a fixture `directory`: an empty Directory."""

    # People

    async def test_an_account_never_seen_is_nobody(self, directory: Directory) -> None:
        assert await directory.resolve(ANNA) is None
        reading = await read(directory, items=(SHOE,))
        assert not reading.person_known
        assert len(reading.window) == 0
        assert reading.window_texts == reading.window_platforms == ()
        assert reading.candidate_known == (False,)
        assert reading.candidates.platform == MISSING

    async def test_the_same_user_id_on_another_platform_is_another_account(
        self, directory: Directory
    ) -> None:
        await directory.record([event("1")])
        assert await directory.resolve(Account("shop-b", "anna")) is None

    async def test_a_person_is_named_by_a_stable_id_and_pseudonyms(
        self, directory: Directory
    ) -> None:
        await directory.record([event("1")])
        person = await directory.resolve(ANNA)
        assert person is not None
        assert person.person_id.startswith("p_")
        assert len(bytes.fromhex(person.person_id[2:])) == 16
        ((platform, pseudonym),) = person.accounts
        assert platform == "shop-a"
        assert len(bytes.fromhex(pseudonym)) == 16
        assert "anna" not in repr(person)

    async def test_linked_accounts_share_one_history(self, directory: Directory) -> None:
        await directory.record([event("1", ANNA, at=1), event("2", ANNA_B, at=2), event("3", BERT)])
        result = await link(directory, ANNA, ANNA_B)
        assert result.merged
        for account in (ANNA, ANNA_B):
            reading = await read(directory, account)
            assert reading.window_platforms == ("shop-b", "shop-a")
            person = await directory.resolve(account)
            assert person is not None
            assert person.person_id == result.person_id
            assert [platform for platform, _ in person.accounts] == ["shop-a", "shop-b"]
        assert len((await read(directory, BERT)).window) == 1

    async def test_linking_creates_accounts_never_seen(self, directory: Directory) -> None:
        result = await link(directory, ANNA, ANNA_B)
        assert result.merged
        person = await directory.resolve(ANNA_B)
        assert person is not None
        assert person.person_id == result.person_id
        assert (await read(directory, ANNA_B)).person_known

    async def test_linking_twice_changes_nothing(self, directory: Directory) -> None:
        first = await link(directory, ANNA, ANNA_B)
        for one, other in ((ANNA, ANNA_B), (ANNA_B, ANNA)):
            again = await link(directory, one, other)
            assert (again.person_id, again.merged) == (first.person_id, False)

    async def test_linking_an_account_with_itself_creates_it(self, directory: Directory) -> None:
        result = await link(directory, ANNA, ANNA)
        assert not result.merged
        person = await directory.resolve(ANNA)
        assert person is not None
        assert person.person_id == result.person_id

    @pytest.mark.parametrize("larger", [ANNA, BERT])
    async def test_a_merge_keeps_the_id_of_the_person_seen_first(
        self, directory: Directory, larger: Account
    ) -> None:
        await directory.record([event("1", ANNA), event("2", BERT)])
        await directory.record([event(f"more-{n}", larger, at=n) for n in range(5)])
        older = await directory.resolve(ANNA)
        assert older is not None
        result = await link(directory, BERT, ANNA)
        assert result.person_id == older.person_id
        assert len((await read(directory, BERT)).window) == 7
        await directory.record([event("after", BERT, at=9), event("too", ANNA, at=10)])
        assert len((await read(directory, ANNA)).window) == 9

    async def test_merges_of_merges_end_in_the_oldest_person(self, directory: Directory) -> None:
        accounts = [Account("shop-a", f"user-{n}") for n in range(4)]
        await directory.record([event(f"{n}", one) for n, one in enumerate(accounts)])
        oldest = await directory.resolve(accounts[0])
        assert oldest is not None
        await link(directory, accounts[3], accounts[2])
        await link(directory, accounts[1], accounts[0])
        assert (await link(directory, accounts[3], accounts[1])).person_id == oldest.person_id
        assert len((await read(directory, accounts[2])).window) == 4

    # Events

    async def test_known_event_ids_change_nothing(self, directory: Directory) -> None:
        first = await directory.record([event("1"), event("2", at=1)])
        assert (first.recorded, first.duplicates) == (2, 0)
        changed = event("1", BERT, EventKind.BUY, 5, Item("s1", "Other title"))
        again = await directory.record([changed, event("3", at=2)])
        assert (again.recorded, again.duplicates) == (1, 1)
        assert await directory.resolve(BERT) is None
        reading = await read(directory, items=(Item("s1"),))
        assert reading.candidates.item_tally.tolist() == [[3, 0, 0, 0]]
        assert reading.candidates.platform_tally.tolist() == [3, 0, 0, 0]
        assert reading.candidate_texts[0].startswith("Trail shoe")

    async def test_an_event_id_twice_in_one_call_counts_once(self, directory: Directory) -> None:
        result = await directory.record([event("1", at=1), event("1", at=2)])
        assert (result.recorded, result.duplicates) == (1, 1)
        assert (await read(directory)).window.time_s.tolist() == [T0 + 1]

    async def test_event_ids_are_scoped_to_their_platform(self, directory: Directory) -> None:
        result = await directory.record([event("1", ANNA), event("1", ANNA_B)])
        assert (result.recorded, result.duplicates) == (2, 0)

    async def test_no_events_are_recorded_too(self, directory: Directory) -> None:
        result = await directory.record([])
        assert (result.recorded, result.duplicates) == (0, 0)

    async def test_the_window_is_the_newest_events_strictly_before(
        self, directory: Directory
    ) -> None:
        order = (3, 0, 4, 1, 2)
        await directory.record([event(f"{n}", at=n) for n in order[:3]])
        await directory.record([event(f"{n}", at=n) for n in order[3:]])
        reading = await read(directory, before_s=T0 + 4, limit=3)
        assert reading.window.time_s.tolist() == [T0 + 3, T0 + 2, T0 + 1]
        assert len((await read(directory, before_s=T0)).window) == 0
        assert len((await read(directory, limit=0)).window) == 0

    async def test_times_keep_their_microseconds(self, directory: Directory) -> None:
        await directory.record([event("1", at=0.123457)])
        reading = await read(directory, before_s=T0 + 0.123458)
        assert reading.window.time_s.tolist() == [pytest.approx(T0 + 0.123457, abs=1e-7)]
        assert len((await read(directory, before_s=T0 + 0.123457)).window) == 0

    async def test_events_of_one_moment_come_in_the_same_order_every_time(
        self, directory: Directory
    ) -> None:
        kinds = list(EventKind) * 4
        await directory.record([event(f"{n}", kind=kind) for n, kind in enumerate(kinds)])
        full = (await read(directory)).window.kind.tolist()
        assert sorted(full) == sorted(kinds)
        assert (await read(directory, limit=7)).window.kind.tolist() == full[:7]

    async def test_a_price_is_that_of_the_event_else_of_the_item(
        self, directory: Directory
    ) -> None:
        await directory.record(
            [
                event("1", at=1, item=Item("s1", price=80.0)),
                event("2", at=2, item=Item("s1", price=70.0)),
                event("3", at=3, item=Item("s1")),
                event("4", at=4, item=Item("x", "No price")),
            ]
        )
        np.testing.assert_equal((await read(directory)).window.price, [np.nan, 70.0, 70.0, 80.0])

    # Items

    async def test_what_is_known_of_a_candidate_is_filled_in(self, directory: Directory) -> None:
        await directory.record(
            [
                event("1", kind=EventKind.VIEW),
                event("2", kind=EventKind.BUY, at=1),
                event("3", BERT, EventKind.RETURN, 2, BOOT),
            ]
        )
        reading = await read(directory, items=(Item("b1"), Item("new"), Item("s1")))
        candidates, window = reading.candidates, reading.window
        assert reading.candidate_known == (True, False, True)
        assert reading.candidate_texts == (
            item_text("Boot", "Alpin", "shoes > boots", 120.0),
            "",
            item_text("Trail shoe", "Nordwind", "shoes > trainers", 89.0),
        )
        np.testing.assert_equal(candidates.price, [120.0, np.nan, 89.0])
        assert candidates.item_tally.tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 1, 0]]
        assert candidates.category_tally.tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 1, 0]]
        assert candidates.platform_tally.tolist() == [1, 0, 1, 1]
        assert candidates.item[1] == candidates.category[1] == candidates.brand[1] == MISSING
        assert window.item.tolist() == [candidates.item[2]] * 2
        assert window.category.tolist() == [candidates.category[2]] * 2
        assert window.brand.tolist() == [candidates.brand[2]] * 2
        assert window.platform.tolist() == [candidates.platform] * 2
        assert reading.window_texts == (reading.candidate_texts[2],) * 2

    async def test_no_candidates_and_no_events_still_have_the_right_shapes(
        self, directory: Directory
    ) -> None:
        reading = await read(directory)
        assert reading.candidates.item_tally.shape == (0, 4)
        assert reading.candidates.category_tally.shape == (0, 4)
        assert reading.candidates.platform_tally.shape == (4,)
        features = compute_features(LATER, reading.window, reading.candidates)
        assert features.shape[0] == 0

    async def test_a_reading_fits_the_features(self, directory: Directory) -> None:
        await directory.record([event("1"), event("2", ANNA_B, item=Item("bare"))])
        await link(directory, ANNA, ANNA_B)
        reading = await read(directory, items=(Item("s1"), Item("new", price=3.0)))
        features = compute_features(LATER, reading.window, reading.candidates)
        assert features.dtype == np.float32
        assert np.isfinite(features).all()
        assert reading.window.kind.dtype == np.int64

    async def test_attributes_of_the_request_win_and_are_not_kept(
        self, directory: Directory
    ) -> None:
        await directory.record([event("1"), event("2", item=BOOT)])
        asked = Item("s1", "New title", "ALPIN", "Shoes >  Boots", 5.0)
        reading = await read(directory, items=(asked, Item("b1")))
        assert reading.candidate_texts[0] == item_text("New title", "ALPIN", "Shoes > Boots", 5.0)
        codes = reading.candidates
        assert codes.category[0] == codes.category[1] != MISSING
        assert codes.brand[0] == codes.brand[1] != MISSING
        assert codes.price[0] == 5.0
        assert codes.category_tally[0].tolist() == [1, 0, 0, 0]
        kept = await read(directory, items=(Item("s1"),))
        assert kept.candidate_texts[0].startswith("Trail shoe")
        assert kept.candidates.price[0] == 89.0

    async def test_a_category_only_a_request_names_stays_unknown(
        self, directory: Directory
    ) -> None:
        await directory.record([event("1")])
        for _ in range(2):
            reading = await read(directory, items=(Item("s1", brand="Neu", category="neu"),))
            assert reading.candidates.category.tolist() == [MISSING]
            assert reading.candidates.brand.tolist() == [MISSING]
            assert reading.candidates.category_tally.tolist() == [[0, 0, 0, 0]]

    async def test_equal_brands_and_categories_match_over_platforms(
        self, directory: Directory
    ) -> None:
        there = Item("other-id", "Schuh", "NORDWIND ", "Shoes  >  Trainers")
        await directory.record([event("1", ANNA_B, item=there)])
        await link(directory, ANNA, ANNA_B)
        reading = await read(directory, items=(SHOE,))
        assert reading.candidates.category.tolist() == reading.window.category.tolist()
        assert reading.candidates.brand.tolist() == reading.window.brand.tolist()
        assert reading.candidates.item.tolist() == [MISSING]
        assert reading.candidates.category_tally.tolist() == [[1, 0, 0, 0]]

    async def test_the_same_item_id_on_another_platform_is_another_item(
        self, directory: Directory
    ) -> None:
        await directory.record([event("1", ANNA), event("2", ANNA_B, item=Item("s1", "Lamp"))])
        here = await read(directory, ANNA, (Item("s1"),))
        there = await read(directory, ANNA_B, (Item("s1"),))
        assert here.candidates.item[0] != there.candidates.item[0]
        assert there.candidate_texts == ("Lamp",)
        assert there.candidates.item_tally.tolist() == [[1, 0, 0, 0]]

    @pytest.mark.parametrize("one_call", [True, False])
    async def test_each_attribute_is_that_of_the_newest_event_that_carried_it(
        self, directory: Directory, one_call: bool
    ) -> None:
        events = [
            event("1", at=10, item=Item("s1", "Newest", category="lamps")),
            event("2", at=20, item=Item("s1")),
            event("3", at=5, item=Item("s1", "Older", "First brand", "shoes", 3.0)),
            event("4", at=7, item=Item("s1", brand="Second brand", price=4.0)),
            event("5", at=30, item=Item("s1", title=" ", price=float("nan"))),
        ]
        for batch in [events] if one_call else [[one] for one in events]:
            await directory.record(batch)
        reading = await read(directory, items=(Item("s1"), Item("x", category="shoes")))
        assert reading.candidate_texts[0] == item_text("Newest", "Second brand", "lamps", 4.0)
        assert reading.candidates.category_tally.tolist() == [[5, 0, 0, 0], [0, 0, 0, 0]]

    async def test_an_item_that_changes_category_takes_its_tally_along(
        self, directory: Directory
    ) -> None:
        await directory.record([event("1", item=Item("s1", category="shoes"))])
        await directory.record([event("2", item=Item("s2", category="shoes"))])
        await directory.record([event("3", at=1, item=Item("s1", category="boots"))])
        reading = await read(directory, items=(Item("s1"), Item("s2")))
        assert reading.candidates.category_tally[:, EventKind.VIEW].tolist() == [2, 1]

    async def test_hostile_texts_are_only_texts(self, directory: Directory) -> None:
        ids = ["'; DROP TABLE events; --", "null\0byte", "null", "😀", "a" * 256, "%", "\\u0000"]
        account = Account("shop-a", "x' OR '1'='1")
        await directory.record(
            [event(f"{n}", account, item=Item(one, f"title {n}")) for n, one in enumerate(ids)]
        )
        reading = await read(directory, account, tuple(map(Item, ids)))
        assert reading.candidate_texts == tuple(f"title {n}" for n in range(len(ids)))
        assert len(reading.window) == len(ids)

    async def test_a_thousand_candidates_are_answered_in_order(self, directory: Directory) -> None:
        await directory.record(
            [event(f"{n}", at=n, item=Item(f"i{n}", f"t {n}")) for n in range(0, 999, 3)]
        )
        items = tuple(Item(f"i{n}") for n in reversed(range(1000)))
        reading = await read(directory, items=items)
        assert reading.candidate_known == tuple(
            n % 3 == 0 and n < 999 for n in reversed(range(1000))
        )
        assert reading.candidate_texts[-4:] == ("t 3", "", "", "t 0")

    # Vectors

    async def test_vectors_are_kept_per_encoder(self, directory: Directory) -> None:
        kept = {bytes([n]) * 16: np.full(384, n / 7, dtype=np.float32) for n in range(1, 40)}
        await directory.keep_vectors("encoder-1", kept)
        await directory.keep_vectors("encoder-1", kept)
        absent = b"absent-digest-00"
        found = await directory.vectors("encoder-1", [*kept, absent])
        assert found.keys() == kept.keys()
        for digest, vector in kept.items():
            assert found[digest].dtype == np.float32
            np.testing.assert_array_equal(found[digest], vector)
        assert await directory.vectors("encoder-2", list(kept)) == {}
        assert await directory.vectors("encoder-1", []) == {}

    # Many at once

    async def test_concurrent_calls_lose_and_double_nothing(self, directory: Directory) -> None:
        accounts = [Account(f"shop-{n % 3}", f"user-{n}") for n in range(30)]

        async def record(n: int) -> int:
            # Every event is sent by two callers.
            events = [event(f"{n // 2}-{k}", accounts[n // 2], at=k) for k in range(4)]
            return (await directory.record(events)).recorded

        async def watch(n: int) -> None:
            reading = await read(directory, accounts[n])
            assert len(reading.window) in (0, 4, 8)  # all or none of a call

        async def join(n: int) -> None:
            await link(directory, accounts[n], accounts[n + 1])

        recorded, _, _ = await asyncio.gather(
            asyncio.gather(*map(record, range(60))),
            asyncio.gather(*map(watch, [*range(30)] * 3)),
            asyncio.gather(*map(join, range(0, 30, 2))),
        )
        assert sum(recorded) == 120
        tallies = [
            (await read(directory, one, (Item("s1"),))).candidates.item_tally[0, 0]
            for one in accounts[:3]
        ]
        assert sum(tallies) == 120
        assert [len((await read(directory, one)).window) for one in accounts] == [8] * 30
