"""Random histories: a directory against a model of it that is a list of events and of links."""

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import strategies as st

from shopcast_domain.events import Account, Event, EventKind, Item
from shopcast_domain.features import MISSING
from shopcast_domain.item_text import item_text
from shopcast_gateway.directory.paths import connected
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.directory.pseudonym import Pseudonyms, person_code, person_id
from shopcast_gateway.directory.types import LinkKind, Reading
from shopcast_gateway.errors import NotFound

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
        self.links: dict[tuple[frozenset[Account], LinkKind], float] = {}

    def see(self, account: Account) -> None:
        if account not in self.order:
            self.order.append(account)

    def group(self, account: Account) -> set[Account]:
        """By spreading over the links until nothing is new."""
        found = {account} & set(self.order)
        while more := {one for ends, _ in self.links for one in ends if ends & found} - found:
            found |= more
        return found

    def confidence(self, account: Account, other: Account) -> float:
        """The best product of any path, by trying them all."""

        def best(at: Account, seen: frozenset[Account]) -> float:
            if at == other:
                return 1.0
            steps = [
                (next(iter(ends - {at})), sure)
                for (ends, _), sure in self.links.items()
                if at in ends and not ends - {at} & seen
            ]
            return max((sure * best(to, seen | {to}) for to, sure in steps), default=0.0)

        return best(account, frozenset({account}))

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

    def link(self, account: Account, other: Account, kind: LinkKind, confidence: float) -> bool:
        self.see(account)
        self.see(other)
        apart = other not in self.group(account)
        if account != other:
            self.links[frozenset({account, other}), kind] = confidence
        return apart

    def unlink(self, account: Account, other: Account, kind: LinkKind | None) -> int:
        gone = [
            link for link in self.links if link[0] == {account, other} and kind in (None, link[1])
        ]
        for link in gone:
            del self.links[link]
        return len(gone)

    def split(self, account: Account) -> int:
        gone = [link for link in self.links if account in link[0]]
        for link in gone:
            del self.links[link]
        return len(gone)

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
        # The newest, and what is certain besides: it is not pushed out by what is not.
        certain = [one for one in events if self.confidence(account, one.account) >= 1][:limit]
        return [one for n, one in enumerate(events) if n < limit or one in certain]

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
    assert reading.window_confidence.tolist() == [
        pytest.approx(model.confidence(account, one.account)) for one in expected
    ]
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
    brand=st.none(),
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
kinds = st.sampled_from((LinkKind.LOGIN, LinkKind.DEVICE))
operations: st.SearchStrategy[Operation] = st.one_of(
    st.tuples(st.just("record"), st.lists(events, max_size=8)),
    st.tuples(st.just("link"), st.tuples(accounts, accounts, kinds, st.sampled_from((1.0, 0.5)))),
    st.tuples(st.just("unlink"), st.tuples(accounts, accounts, st.none() | kinds)),
    st.tuples(st.just("split"), accounts),
    st.tuples(st.just("undo"), st.integers(0, 12)),
    st.tuples(st.just("read"), st.tuples(accounts, st.integers(0, 7), st.integers(0, 9))),
)


histories = st.lists(operations, max_size=14)
CROWDED_OUT: list[Operation] = [
    (
        "record",
        [
            Event("0", Account("a", "1"), EventKind.VIEW, 0.0, Item("i")),
            Event("0", Account("b", "1"), EventKind.VIEW, 1.0, Item("i")),
        ],
    ),
    ("link", (Account("a", "1"), Account("b", "1"), LinkKind.LOGIN, 0.5)),
    ("read", (Account("a", "1"), 2, 1)),
]
"""What is less than certain is newer than what is certain, and there is room for one."""
crowds = st.lists(operations, min_size=6, max_size=40)
_AT_ONCE = 8


async def play(directory: Directory, history: list[Operation]) -> None:
    """Do as a history says with a directory that is empty, comparing what is read on the way."""
    model = Model()
    for name, arguments in history:
        if name == "record":
            result = await directory.record(arguments)
            assert result.recorded == model.record(arguments)
            assert result.duplicates == len(arguments) - result.recorded
        elif name == "link":
            one, other, kind, sure = arguments
            linked = await directory.link(one, other, kind=kind, confidence=sure)
            assert linked.merged == model.link(*arguments)
            assert linked.person_id == model.person(one)
        elif name in ("unlink", "split"):
            await take_apart(directory, model, name, arguments)
        elif name == "undo":
            await undo(directory, model, arguments)
        else:
            await compare(directory, model, *arguments)
    for account in ACCOUNTS:
        await compare(directory, model, account, 7, 1000)


async def take_apart(directory: Directory, model: Model, name: str, arguments: Any) -> None:
    one, other, kind = (arguments, arguments, None) if name == "split" else arguments
    if not {one, other} <= set(model.order):
        with pytest.raises(NotFound):
            await (directory.split(one) if name == "split" else directory.unlink(one, other))
        return
    if name == "split":
        gone = await directory.split(one)
        removed = model.split(one)
    else:
        gone = await directory.unlink(one, other, kind=kind)
        removed = model.unlink(one, other, kind)
        assert gone.other_person_id == model.person(other)
    assert gone.removed == removed
    assert gone.person_id == model.person(one)


async def undo(directory: Directory, model: Model, number: int) -> None:
    """Whatever it does, taking it back once more leads to the same people as before."""
    before = await directory.resolve_many(ACCOUNTS)
    entries = len(await directory.changes(0, limit=1000))
    try:
        done = await directory.undo(number)
    except NotFound:
        return
    if len(await directory.changes(0, limit=1000)) > entries:
        await directory.undo(done.number)
        assert await directory.resolve_many(ACCOUNTS) == before


async def compare(
    directory: Directory, model: Model, account: Account, before_s: float, limit: int
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


async def play_at_once(directories: Sequence[Directory], history: list[Operation]) -> None:
    """Do as a history says, several calls at a time over several clients of one directory that is
    empty: whatever order they are done in, accounts, people, links and events must fit."""

    async def do(directory: Directory, operation: Operation) -> None:
        name, arguments = operation
        with suppress(NotFound):
            if name == "record":
                await directory.record(arguments)
            elif name == "link":
                one, other, kind, sure = arguments
                await directory.link(one, other, kind=kind, confidence=sure)
            elif name == "unlink":
                one, other, kind = arguments
                await directory.unlink(one, other, kind=kind)
            elif name == "split":
                await directory.split(arguments)
            elif name == "undo":
                await directory.undo(arguments)
            else:
                account, before_s, limit = arguments
                await directory.read(account, (), before_s=before_s, limit=limit)

    for start in range(0, len(history), _AT_ONCE):
        await asyncio.gather(
            *(
                do(directories[n % len(directories)], operation)
                for n, operation in enumerate(history[start : start + _AT_ONCE])
            )
        )
    directory = directories[0]
    people = {one.person_id: one for one in await directory.resolve_many(ACCOUNTS) if one}
    held = [account for person in people.values() for account in person.accounts]
    assert len(held) == len(set(held))
    told, _ = await directory.people("", limit=100)
    assert {one["person_id"] for one in told} == set(people)
    kept = 0
    for one in told:
        names = [account["pseudonym"] for account in one["accounts"]]
        links = [(link["account"], link["other"]) for link in one["links"]]
        assert connected(names[0], links) == set(names)
        assert {event["account"] for event in one["events"]} <= set(names)
        kept += len(one["events"])
    sent = [event for name, events in history if name == "record" for event in events]
    assert kept == len({(event.account.platform, event.event_id) for event in sent})
    stats = await directory.stats()
    assert (stats.accounts, stats.people) == (len(held), len(people))
    assert (stats.events, stats.links) == (kept, sum(len(one["links"]) for one in told))
