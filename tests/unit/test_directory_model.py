"""Random histories: the directory against a model of it that is a list of events."""

import asyncio
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shopcast_domain.events import Account, Event, EventKind, Item
from shopcast_domain.features import MISSING
from shopcast_domain.item_text import item_text
from shopcast_gateway.directory.pseudonym import Pseudonyms, person_code, person_id
from shopcast_gateway.directory.sqlite import SqliteDirectory
from shopcast_gateway.directory.types import LinkKind, Reading

PSEUDONYMS = Pseudonyms(bytes(32))
ACCOUNTS = [Account(platform, user) for platform in ("a", "b", "c") for user in ("1", "2")]
ITEM_IDS = ("i", "j", "k")
FOLDED = {"shoes": "shoes", "SHOES ": "shoes", "lamps": "lamps"}

Operation = tuple[str, Any]


class Model:
    """What the documentation promises, in the plainest way."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.order: list[Account] = []  # as first seen
        self.groups: list[set[Account]] = []

    def see(self, account: Account) -> None:
        if account not in self.order:
            self.order.append(account)
            self.groups.append({account})

    def group(self, account: Account) -> set[Account]:
        return next((group for group in self.groups if account in group), set())

    def record(self, events: list[Event]) -> int:
        known = {(event.account.platform, event.event_id) for event in self.events}
        recorded = 0
        for event in events:
            key = (event.account.platform, event.event_id)
            if key not in known:
                known.add(key)
                recorded += 1
                self.see(event.account)
                self.events.append(event)
        return recorded

    def link(self, account: Account, other: Account) -> bool:
        self.see(account)
        self.see(other)
        one, two = self.group(account), self.group(other)
        if one is not two:
            self.groups.remove(two)
            one |= two
        return one is not two

    def person(self, account: Account) -> str | None:
        group = self.group(account)
        first = next((one for one in self.order if one in group), None)
        return first and person_id(person_code(PSEUDONYMS.of(first)))

    def window(self, account: Account, before_s: float, limit: int) -> list[Event]:
        group = self.group(account)
        events = [one for one in self.events if one.account in group and one.time_s < before_s]
        events.sort(
            key=lambda one: (one.time_s, PSEUDONYMS.of_event(one.account.platform, one.event_id)),
            reverse=True,
        )
        return events[:limit]

    def item(self, platform: str, item_id: str) -> Item:
        """Each attribute of the newest event that carried it, the later recorded at a tie."""

        def newest(attribute: Callable[[Item], Any]) -> Any:
            carried = [
                (event.time_s, n, attribute(event.item))
                for n, event in enumerate(self.events)
                if (event.account.platform, event.item.item_id) == (platform, item_id)
                and attribute(event.item) is not None
            ]
            return max(carried)[2] if carried else None

        return Item(
            item_id,
            newest(lambda item: item.title),
            None,
            newest(lambda item: item.category),
            newest(lambda item: item.price),
        )

    def tally(self, wanted: Callable[[Event], bool]) -> list[float]:
        return [
            float(sum(wanted(event) and event.kind is kind for event in self.events))
            for kind in EventKind
        ]

    def category(self, event: Event) -> str | None:
        text = self.item(event.account.platform, event.item.item_id).category
        return None if text is None else FOLDED[text]


def text_of(item: Item) -> str:
    return item_text(item.title, item.brand, item.category, item.price)


def same(one: float | None, other: float) -> bool:
    return math.isnan(other) if one is None else one == other


def check(model: Model, account: Account, before_s: float, limit: int, reading: Reading) -> None:
    window, candidates = reading.window, reading.candidates
    expected = model.window(account, before_s, limit)
    items = [model.item(one.account.platform, one.item.item_id) for one in expected]
    assert window.time_s.tolist() == [one.time_s for one in expected]
    assert window.kind.tolist() == [one.kind for one in expected]
    assert reading.window_platforms == tuple(one.account.platform for one in expected)
    assert reading.window_texts == tuple(map(text_of, items))
    for event, item, price in zip(expected, items, window.price, strict=True):
        assert same(item.price if event.item.price is None else event.item.price, price)
    assert reading.person_known == (account in model.order)
    seen = {(one.account.platform, one.item.item_id) for one in model.events}
    platform_tally = model.tally(lambda one: one.account.platform == account.platform)
    assert candidates.platform_tally.tolist() == platform_tally
    for n, item_id in enumerate(ITEM_IDS):
        name = (account.platform, item_id)
        item = model.item(*name)
        category = None if item.category is None else FOLDED[item.category]
        assert reading.candidate_known[n] == (name in seen) == (candidates.item[n] != MISSING)
        assert reading.candidate_texts[n] == text_of(item)
        assert same(item.price, candidates.price[n])
        assert candidates.item_tally[n].tolist() == model.tally(
            lambda one, name=name: (one.account.platform, one.item.item_id) == name
        )
        assert candidates.category_tally[n].tolist() == model.tally(
            lambda one, category=category: category is not None and model.category(one) == category
        )
        for event, code, category_code in zip(expected, window.item, window.category, strict=True):
            is_it = (event.account.platform, event.item.item_id) == name
            assert (code == candidates.item[n]) == is_it
            if category is not None:
                same_category = model.category(event) == category
                assert (category_code == candidates.category[n]) == same_category


accounts = st.sampled_from(ACCOUNTS)
items = st.builds(
    Item,
    st.sampled_from(ITEM_IDS),
    title=st.sampled_from((None, "T1", "T2")),
    category=st.sampled_from((None, *FOLDED)),
    price=st.sampled_from((None, 0.0, 9.5)),
)
events = st.builds(
    Event,
    st.integers(0, 30).map(str),
    accounts,
    st.sampled_from(EventKind),
    st.integers(0, 6).map(float),
    items,
)
operations: st.SearchStrategy[Operation] = st.one_of(
    st.tuples(st.just("record"), st.lists(events, max_size=8)),
    st.tuples(st.just("link"), st.tuples(accounts, accounts)),
    st.tuples(st.just("read"), st.tuples(accounts, st.integers(0, 7), st.integers(0, 9))),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(operations, max_size=14))
def test_any_history_reads_as_the_model_says(history: list[Operation]) -> None:
    async def play(path: Path) -> None:
        model = Model()
        directory = await SqliteDirectory.open(path, PSEUDONYMS)
        try:
            for name, arguments in history:
                if name == "record":
                    result = await directory.record(arguments)
                    assert result.recorded == model.record(arguments)
                    assert result.duplicates == len(arguments) - result.recorded
                elif name == "link":
                    linked = await directory.link(*arguments, kind=LinkKind.LOGIN, confidence=1)
                    assert linked.merged == model.link(*arguments)
                    assert linked.person_id == model.person(arguments[0])
                else:
                    await compare(directory, model, *arguments)
            for account in ACCOUNTS:
                await compare(directory, model, account, 7, 1000)
        finally:
            await directory.close()

    async def compare(
        directory: SqliteDirectory, model: Model, account: Account, before_s: float, limit: int
    ) -> None:
        person = await directory.resolve(account)
        assert (person and person.person_id) == model.person(account)
        if person:
            assert person.accounts == tuple(
                sorted((one.platform, PSEUDONYMS.of(one).hex()) for one in model.group(account))
            )
        asked = [Item(item_id) for item_id in ITEM_IDS]
        reading = await directory.read(account, asked, before_s=before_s, limit=limit)
        check(model, account, before_s, limit, reading)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder) / "directory.sqlite"))
