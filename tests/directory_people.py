"""What every Directory must do about people: who is who, now and as it was, and what may be used.

A conformance suite of its own, because the other is long; an implementation's tests subclass both.
"""

import asyncio
import itertools
import json
import math
import time

import pytest

from shopcast_domain.events import Account, Event, EventKind, Item
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.directory.types import (
    Change,
    ChangeKind,
    EventStatus,
    LinkKind,
    LinkStatement,
    Purpose,
    Retention,
)
from shopcast_gateway.errors import ChangesLost, NotFound

ANNA, ANNA_B, ANNA_C = Account("shop-a", "anna"), Account("shop-b", "anna-7"), Account("c", "a.n")
BERT = Account("shop-a", "bert")
SHOE = Item("s1", "Trail shoe", "Nordwind", "shoes > trainers", 89.0)
T0 = 1_750_000_000.0
LATER = T0 + 10_000
LAMP = Item("lamp", "Lamp")


def event(
    event_id: str,
    account: Account = ANNA,
    kind: EventKind = EventKind.VIEW,
    at: float = 0.0,
    item: Item = SHOE,
) -> Event:
    return Event(event_id, account, kind, T0 + at, item)


async def link(
    directory: Directory,
    one: Account,
    other: Account,
    kind: LinkKind = LinkKind.LOGIN,
    confidence: float = 1.0,
    source: str = "",
) -> str:
    made = await directory.link(one, other, kind=kind, confidence=confidence, source=source)
    return made.person_id


async def id_of(directory: Directory, account: Account, as_of_s: float | None = None) -> str | None:
    person = await directory.resolve(account, as_of_s=as_of_s)
    return person and person.person_id


async def times(directory: Directory, account: Account, **options: float | Purpose) -> list[float]:
    reading = await directory.read(account, (), before_s=LATER, limit=100, **options)  # type: ignore[arg-type]
    return [time_s - T0 for time_s in reading.window.time_s.tolist()]


async def journal(directory: Directory, after: int = 0) -> list[Change]:
    return list(await directory.changes(after, limit=1000))


async def moment() -> float:
    """A time that lies between what was done before and what is done next."""
    await asyncio.sleep(0.005)
    now = time.time()
    await asyncio.sleep(0.005)
    return now


class IdentityConformance:
    """Needs a fixture `directory`: an empty Directory with the usual flood rules."""

    # Merging and splitting

    async def test_a_merge_leaves_an_alias_and_a_split_restores(self, directory: Directory) -> None:
        await directory.record([event("1", ANNA, at=1), event("2", ANNA_B, at=2)])
        anna, other = await id_of(directory, ANNA), await id_of(directory, ANNA_B)
        assert anna is not None
        assert other is not None
        assert await link(directory, ANNA, ANNA_B) == anna
        for person_id in (anna, other):
            person = await directory.find(person_id)
            assert person is not None
            assert person.person_id == anna
            assert len(person.accounts) == 2
        gone = await directory.unlink(ANNA_B, ANNA)
        assert (gone.person_id, gone.other_person_id) == (other, anna)
        assert (gone.removed, gone.split) == (1, True)
        assert await id_of(directory, ANNA_B) == other
        person = await directory.find(other)
        assert person is not None
        assert [platform for platform, _ in person.accounts] == ["shop-b"]
        assert await times(directory, ANNA) == [1]
        assert await times(directory, ANNA_B) == [2]

    async def test_many_links_are_made_in_their_order(self, directory: Directory) -> None:
        def state(one: Account, other: Account) -> LinkStatement:
            return LinkStatement(one, other, LinkKind.LOGIN)

        made = await directory.link_many(
            [state(ANNA, ANNA_B), state(BERT, ANNA_C), state(ANNA_B, ANNA), state(ANNA_C, ANNA)]
        )
        assert [one.merged for one in made] == [True, True, False, True]
        anna = await id_of(directory, ANNA)
        assert {made[0].person_id, made[2].person_id, made[3].person_id} == {anna}
        assert made[1].person_id != anna
        assert len(await journal(directory)) == 3
        assert await directory.link_many([]) == []

    async def test_nobody_is_found_by_an_id_nobody_had(self, directory: Directory) -> None:
        await directory.record([event("1")])
        for person_id in ("p_" + "0" * 32, "", "p_", "anna", "P_" + "0" * 32):
            assert await directory.find(person_id) is None

    async def test_a_link_of_another_kind_still_holds(self, directory: Directory) -> None:
        await link(directory, ANNA, ANNA_B, LinkKind.LOGIN)
        person = await link(directory, ANNA_B, ANNA, LinkKind.DEVICE)
        gone = await directory.unlink(ANNA, ANNA_B, kind=LinkKind.LOGIN)
        assert (gone.removed, gone.split) == (1, False)
        assert gone.person_id == gone.other_person_id == person
        again = await directory.unlink(ANNA, ANNA_B, kind=LinkKind.LOGIN)
        assert (again.removed, again.split) == (0, False)
        assert (await directory.unlink(ANNA, ANNA_B)).split

    async def test_another_way_between_two_accounts_holds(self, directory: Directory) -> None:
        for one, other in ((ANNA, ANNA_B), (ANNA_B, ANNA_C), (ANNA_C, ANNA)):
            await link(directory, one, other)
        assert not (await directory.unlink(ANNA, ANNA_B)).split
        person = await directory.resolve(ANNA)
        assert person is not None
        assert len(person.accounts) == 3
        gone = await directory.unlink(ANNA_B, ANNA_C)
        assert gone.split
        assert await id_of(directory, ANNA) == await id_of(directory, ANNA_C)

    async def test_what_falls_apart_keeps_the_events_of_its_accounts(
        self, directory: Directory
    ) -> None:
        accounts = [Account("p", f"u{n}") for n in range(6)]
        await directory.record([event(f"{n}", one, at=n) for n, one in enumerate(accounts)])
        for one, other in itertools.pairwise(accounts):
            await link(directory, one, other)
        await directory.record([event(f"more-{n}", a, at=10 + n) for n, a in enumerate(accounts)])
        await directory.unlink(accounts[2], accounts[3])
        assert sorted(await times(directory, accounts[0])) == [0, 1, 2, 10, 11, 12]
        assert sorted(await times(directory, accounts[5])) == [3, 4, 5, 13, 14, 15]

    async def test_splitting_takes_one_account_out(self, directory: Directory) -> None:
        await directory.record([event("1", ANNA, at=1), event("2", ANNA_B, at=2)])
        own = await id_of(directory, ANNA_B)
        anna = await link(directory, ANNA, ANNA_B)
        await link(directory, ANNA_B, ANNA_C)
        await link(directory, ANNA_C, ANNA)
        gone = await directory.split(ANNA_B)
        assert (gone.person_id, gone.other_person_id) == (own, anna)
        assert (gone.removed, gone.split) == (2, True)
        assert await times(directory, ANNA_B) == [2]
        alone = await directory.split(ANNA_B)
        assert (alone.person_id, alone.other_person_id) == (own, own)
        assert (alone.removed, alone.split) == (0, False)

    async def test_a_hub_falls_into_all_its_parts(self, directory: Directory) -> None:
        hub, *others = accounts = [Account("p", f"u{n}") for n in range(300)]
        await directory.record([event(f"{n}", one, at=n) for n, one in enumerate(accounts)])
        alone = [await id_of(directory, one) for one in accounts]
        await directory.link_many([LinkStatement(hub, one, LinkKind.DEVICE) for one in others])
        await link(directory, others[7], others[8])
        gone = await directory.split(hub)
        assert (gone.removed, gone.person_id, gone.other_person_id) == (299, alone[0], alone[1])
        found = [person and person.person_id for person in await directory.resolve_many(accounts)]
        assert found == [*alone[:9], alone[8], *alone[10:]]
        assert await times(directory, others[7]) == [9, 8]
        assert await times(directory, hub) == [0]

    async def test_accounts_never_seen_cannot_be_taken_apart(self, directory: Directory) -> None:
        await directory.record([event("1")])
        for attempt in (
            directory.unlink(ANNA, BERT),
            directory.unlink(BERT, ANNA),
            directory.split(BERT),
            directory.undo(1),
        ):
            with pytest.raises(NotFound) as refusal:
                await attempt
            assert "bert" not in str(refusal.value)
        assert await directory.resolve(BERT) is None

    async def test_many_are_resolved_at_once(self, directory: Directory) -> None:
        await link(directory, ANNA, ANNA_B)
        await directory.record([event("1", BERT)])
        found = await directory.resolve_many([BERT, Account("x", "y"), ANNA, ANNA_B, ANNA])
        assert found[1] is None
        assert found[0] == await directory.resolve(BERT)
        assert found[2] == found[3] == found[4] == await directory.resolve(ANNA)
        assert await directory.resolve_many([]) == ()

    # The journal

    async def test_every_change_is_in_the_journal(self, directory: Directory) -> None:
        await directory.record([event("1", ANNA), event("2", ANNA_B), event("3", BERT)])
        anna, other = await id_of(directory, ANNA), await id_of(directory, ANNA_B)
        before = time.time()
        await link(directory, ANNA, ANNA_B, LinkKind.PROBABILISTIC, 0.9, "nightly")
        await link(directory, ANNA, ANNA_B, LinkKind.PROBABILISTIC, 0.9, "nightly")  # no change
        await link(directory, ANNA, ANNA_B, LinkKind.DEVICE)
        await directory.unlink(ANNA, ANNA_B, kind=LinkKind.DEVICE)
        await directory.unlink(ANNA_B, ANNA)
        made = await journal(directory)
        assert [change.kind for change in made] == [
            ChangeKind.LINKED, ChangeKind.LINKED, ChangeKind.UNLINKED, ChangeKind.UNLINKED
        ]  # fmt: skip
        merged, same, still, apart = made
        assert (merged.person_id, merged.other_person_id) == (anna, other)
        assert (merged.link_kind, merged.confidence) == (LinkKind.PROBABILISTIC, 0.9)
        assert merged.source == "nightly"
        assert (same.person_id, same.other_person_id) == (anna, None)
        assert (still.link_kind, still.other_person_id) == (LinkKind.DEVICE, None)
        assert (apart.person_id, apart.other_person_id) == (anna, other)
        assert apart.confidence == 0.9
        assert all(before - 1 <= change.at_s <= time.time() + 1 for change in made)
        numbers = [change.number for change in made]
        assert numbers == sorted(set(numbers))
        assert await journal(directory, numbers[1]) == made[2:]
        assert list(await directory.changes(0, limit=1)) == made[:1]

    async def test_another_confidence_replaces_the_one_before(self, directory: Directory) -> None:
        await directory.record([event("1", ANNA_B)])
        await link(directory, ANNA, ANNA_B, LinkKind.PROBABILISTIC, 0.6, "one")
        await link(directory, ANNA, ANNA_B, LinkKind.PROBABILISTIC, 0.8, "two")
        reading = await directory.read(ANNA, (), before_s=LATER, limit=9)
        assert reading.window_confidence.tolist() == [pytest.approx(0.8)]
        assert [change.confidence for change in await journal(directory)] == [0.6, 0.8]
        assert (await directory.unlink(ANNA, ANNA_B)).removed == 1

    async def test_a_link_that_was_surer_before_is_told(self, directory: Directory) -> None:
        async def weakened(one: Account, other: Account, confidence: float) -> bool:
            made = await directory.link(
                one, other, kind=LinkKind.DEVICE, confidence=confidence, source=f"{confidence}"
            )
            return made.weakened

        told = [await weakened(ANNA, ANNA_B, sure) for sure in (0.5, 0.5, 0.8)]
        assert told == [False, False, False]
        assert await weakened(ANNA_B, ANNA, 0.4)
        assert not await weakened(ANNA_B, ANNA_C, 0.1)
        assert not await weakened(ANNA, ANNA, 0.1)

    async def test_a_change_can_be_taken_back_and_that_too(self, directory: Directory) -> None:
        await directory.record([event("1", ANNA, at=1), event("2", ANNA_B, at=2)])
        other = await id_of(directory, ANNA_B)
        await link(directory, ANNA, ANNA_B, LinkKind.PROBABILISTIC, 0.7, "model-3")
        (linked,) = await journal(directory)
        undone = await directory.undo(linked.number)
        assert (undone.kind, undone.other_person_id) == (ChangeKind.UNLINKED, other)
        assert await id_of(directory, ANNA_B) == other
        assert await directory.undo(linked.number) == undone  # nothing to take back any more
        redone = await directory.undo(undone.number)
        assert (redone.kind, redone.confidence, redone.source) == (
            ChangeKind.LINKED, 0.7, "model-3"
        )  # fmt: skip
        assert await id_of(directory, ANNA_B) == linked.person_id
        assert len(await journal(directory)) == 3

    async def test_who_was_this_on_the_third(self, directory: Directory) -> None:
        start = await moment()
        await directory.record([event("1", ANNA, at=1), event("2", ANNA_B, at=2)])
        anna, other = await id_of(directory, ANNA), await id_of(directory, ANNA_B)
        apart = await moment()
        await link(directory, ANNA, ANNA_B)
        together = await moment()
        await directory.record([event("3", ANNA, at=3)])
        await link(directory, ANNA_B, ANNA_C)
        await directory.unlink(ANNA, ANNA_B)
        end = await moment()
        assert await id_of(directory, ANNA, start) is None
        assert await id_of(directory, ANNA_B, apart) == other
        assert await id_of(directory, ANNA_B, together) == anna
        assert await id_of(directory, ANNA_B, end) == other
        assert await id_of(directory, ANNA_C, together) is None
        assert await id_of(directory, ANNA_C, end) == other
        person = await directory.resolve(ANNA, as_of_s=together)
        assert person is not None
        assert [platform for platform, _ in person.accounts] == ["shop-a", "shop-b"]

        async def seen(as_of_s: float | None) -> list[float]:
            found = await directory.history(ANNA, before_s=LATER, limit=9, as_of_s=as_of_s)
            return [one.time_s - T0 for one in found]

        assert await directory.history(ANNA, before_s=LATER, limit=9, as_of_s=0.0) == ()
        assert await seen(start) == []
        assert await seen(apart) == [1]
        assert await seen(together) == [2, 1]
        assert await seen(end) == await seen(None) == [3, 1]

    async def test_taking_back_a_change_of_confidence_restores_what_was_before(
        self, directory: Directory
    ) -> None:
        await link(directory, ANNA, ANNA_B, LinkKind.DEVICE, 0.9, "sure")
        await link(directory, ANNA, ANNA_B, LinkKind.DEVICE, 0.2, "wrong")
        _, wrong = await journal(directory)
        restored = await directory.undo(wrong.number)
        assert (restored.kind, restored.confidence, restored.source) == (
            ChangeKind.LINKED, 0.9, "sure"
        )  # fmt: skip
        assert await id_of(directory, ANNA_B) == await id_of(directory, ANNA)

    async def test_what_came_after_a_change_is_not_taken_back_with_it(
        self, directory: Directory
    ) -> None:
        await link(directory, ANNA, ANNA_B, source="bad batch")
        await directory.unlink(ANNA, ANNA_B)
        await link(directory, ANNA, ANNA_B, source="verified")
        made = await journal(directory)
        assert await directory.undo(made[0].number) == made[2]
        assert await journal(directory) == made
        assert await id_of(directory, ANNA_B) == await id_of(directory, ANNA)

    # History

    async def test_a_history_says_what_was_done_where(self, directory: Directory) -> None:
        await directory.record(
            [
                event("1", ANNA, EventKind.BUY, 1, Item("s1", "Shoe", price=8.5)),
                Event("2", ANNA_B, EventKind.RETURN, T0 + 2, LAMP, 3),
            ]
        )
        await link(directory, ANNA, ANNA_B, LinkKind.DEVICE, 0.5)
        newest, oldest = await directory.history(ANNA, before_s=LATER, limit=9)
        person = await directory.resolve(ANNA)
        assert person is not None
        assert (newest.platform, newest.account_pseudonym) == person.accounts[1]
        assert (newest.kind, newest.item_id, newest.title) == (EventKind.RETURN, "lamp", "Lamp")
        assert (newest.price, newest.quantity, newest.time_s) == (None, 3, T0 + 2)
        assert (newest.confidence, oldest.confidence) == (0.5, 1.0)
        assert (oldest.platform, oldest.price) == ("shop-a", 8.5)
        assert abs(oldest.recorded_s - time.time()) < 60
        assert len(await directory.history(ANNA, before_s=LATER, limit=1)) == 1
        assert len(await directory.history(ANNA, before_s=T0 + 2, limit=9)) == 1
        assert await directory.history(BERT, before_s=LATER, limit=9) == ()

    # Weak links

    async def test_a_path_is_as_sure_as_its_links_together(self, directory: Directory) -> None:
        await directory.record(
            [event(f"{n}", one, at=n) for n, one in enumerate((ANNA, ANNA_B, ANNA_C))]
        )
        await link(directory, ANNA, ANNA_B, LinkKind.PROBABILISTIC, 0.8)
        await link(directory, ANNA_B, ANNA_C, LinkKind.PROBABILISTIC, 0.5)
        await link(directory, ANNA_C, ANNA, LinkKind.DEVICE, 0.1)

        async def sure(account: Account) -> list[float]:
            reading = await directory.read(account, (), before_s=LATER, limit=9)
            return [round(float(one), 9) for one in reading.window_confidence]

        assert await sure(ANNA) == [0.4, 0.8, 1.0]
        assert await sure(ANNA_C) == [1.0, 0.5, 0.4]
        await link(directory, ANNA, ANNA_B, LinkKind.LOGIN)
        assert await sure(ANNA) == [0.5, 1.0, 1.0]
        assert await times(directory, ANNA, min_confidence=0.6) == [1, 0]
        assert await times(directory, ANNA, min_confidence=0.5) == [2, 1, 0]
        assert await times(directory, ANNA_C, min_confidence=1.0) == [2]

    async def test_the_limit_counts_only_what_may_be_used(self, directory: Directory) -> None:
        await link(directory, ANNA, ANNA_B, LinkKind.PROBABILISTIC, 0.5)
        await directory.record([event(f"b{n}", ANNA_B, at=100 + n) for n in range(9)])
        await directory.record([event(f"a{n}", ANNA, at=n) for n in range(3)])
        reading = await directory.read(ANNA, (), before_s=LATER, limit=2, min_confidence=0.9)
        assert reading.window.time_s.tolist() == [T0 + 2, T0 + 1]

    async def test_what_is_uncertain_does_not_push_out_what_is_certain(
        self, directory: Directory
    ) -> None:
        await directory.record([event(f"a{n}", ANNA, at=n) for n in range(20)])
        await directory.record([event(f"b{n}", ANNA_B, at=100 + n) for n in range(20)])
        await link(directory, ANNA, ANNA_B, LinkKind.PROBABILISTIC, 0.01)
        reading = await directory.read(ANNA, (), before_s=LATER, limit=8)
        ago = (reading.window.time_s - T0).tolist()
        assert ago == [*range(119, 111, -1), *range(19, 11, -1)]
        assert reading.window_confidence.tolist() == [0.01] * 8 + [1.0] * 8
        assert len(reading.window_texts) == len(reading.window_platforms) == 16
        reading = await directory.read(ANNA_B, (), before_s=LATER, limit=8)
        assert (reading.window.time_s - T0).tolist() == [*range(119, 111, -1)]

    # Consent

    async def test_what_is_refused_is_not_read(self, directory: Directory) -> None:
        await directory.record([event("1", ANNA, at=1), event("2", ANNA_B, at=2)])
        await link(directory, ANNA, ANNA_B)
        said = await directory.set_consent(ANNA_B, {Purpose.PREDICTION: False})
        assert said["shop-b"][Purpose.PREDICTION] is False
        assert said["shop-b"][Purpose.RISK] is True
        assert said["shop-a"] == dict.fromkeys(Purpose, True)
        assert await directory.consents(ANNA) == said
        for account in (ANNA, ANNA_B):
            reading = await directory.read(account, (SHOE,), before_s=LATER, limit=9)
            assert reading.window_platforms == ("shop-a",)
            assert reading.suppressed == ("shop-b",)
            assert reading.person_known
        assert await times(directory, ANNA, purpose=Purpose.RISK) == [2, 1]
        found = await directory.history(ANNA, before_s=LATER, limit=9, purpose=Purpose.PREDICTION)
        assert [one.platform for one in found] == ["shop-a"]
        assert len(await directory.history(ANNA, before_s=LATER, limit=9)) == 2
        await directory.set_consent(ANNA_B, {Purpose.PREDICTION: True})
        assert await times(directory, ANNA) == [2, 1]
        assert (await directory.read(ANNA, (), before_s=LATER, limit=9)).suppressed == ()

    async def test_a_refusal_can_be_for_all_platforms(self, directory: Directory) -> None:
        await directory.record([event("1", ANNA), event("2", ANNA_B), event("3", BERT)])
        await link(directory, ANNA, ANNA_B)
        await directory.set_consent(
            ANNA, {Purpose.PREDICTION: False, Purpose.RISK: False}, everywhere=True
        )
        assert await times(directory, ANNA_B) == []
        reading = await directory.read(ANNA_B, (), before_s=LATER, limit=9)
        assert reading.suppressed == ("shop-a", "shop-b")
        assert await times(directory, BERT) == [0]
        await directory.set_consent(ANNA, {Purpose.PREDICTION: True})
        assert await times(directory, ANNA_B) == [0]
        assert (await directory.consents(ANNA))["shop-a"][Purpose.RISK] is False

    async def test_a_refusal_comes_before_the_first_event(self, directory: Directory) -> None:
        assert await directory.consents(ANNA) == {}
        await directory.set_consent(ANNA, {Purpose.PREDICTION: False})
        await directory.record([event("1")])
        assert await times(directory, ANNA) == []

    # Floods

    async def test_what_no_person_can_do_is_kept_apart(self, directory: Directory) -> None:
        flood = [event(f"f{n}", at=n / 1000) for n in range(200)]
        result = await directory.record(flood)
        assert (result.recorded, result.quarantined) == (50, 150)
        assert result.statuses[:50] == (EventStatus.RECORDED,) * 50
        again = await directory.record(flood)
        assert again.duplicates == 200
        assert len(await times(directory, ANNA)) == 50
        reading = await directory.read(BERT, (SHOE,), before_s=LATER, limit=9)
        assert reading.candidates.item_tally.tolist() == [[50, 0, 0, 0]]
        drip = [(await directory.record([event(f"d{n}", at=0.5)])).quarantined for n in range(3)]
        assert drip == [1, 1, 1]
        assert (await directory.record([event("next", at=1.0)])).recorded == 1
        other = await directory.record([event("other", BERT, at=0.5)])
        assert other.recorded == 1
        stats = await directory.stats()
        assert (stats.events, stats.quarantined) == (52, 153)

    async def test_a_minute_has_a_limit_too(self, directory: Directory) -> None:
        start = 10.0 - T0 % 60  # a whole minute, and ten seconds
        crowd = [event(f"{n}", at=start + n // 20) for n in range(700)]
        assert (await directory.record(crowd)).quarantined == 100

    async def test_a_large_order_is_none(self, directory: Directory) -> None:
        order = [event(f"{n}", kind=EventKind.BUY, item=Item(f"i{n}")) for n in range(900)]
        assert (await directory.record(order)).recorded == 900

    # Privacy

    async def test_a_person_is_exported_whole(self, directory: Directory) -> None:
        await directory.record(
            [event("1", ANNA, at=1), event("2", ANNA_B, at=2, item=LAMP), event("3", BERT)]
        )
        await link(directory, ANNA, ANNA_B, LinkKind.PROBABILISTIC, 0.9, "nightly")
        await directory.set_consent(ANNA_B, {Purpose.MARKETING: False})
        found = await directory.export(ANNA)
        assert found is not None
        assert json.loads(json.dumps(found)) == found
        person = await directory.resolve(ANNA)
        assert person is not None
        assert found["person_id"] == person.person_id
        assert [(one["platform"], one["pseudonym"]) for one in found["accounts"]] == list(
            person.accounts
        )
        assert found["accounts"][1]["refused"] == ["marketing"]
        assert [(one["platform"], one["item_id"], one["kind"]) for one in found["events"]] == [
            ("shop-b", "lamp", "view"), ("shop-a", "s1", "view")
        ]  # fmt: skip
        (only,) = found["links"]
        assert (only["kind"], only["confidence"], only["source"]) == (
            "probabilistic", 0.9, "nightly"
        )  # fmt: skip
        (entry,) = found["journal"]
        assert (entry["link_kind"], entry["source"]) == ("probabilistic", "nightly")
        assert found["quarantined"] == []
        assert "anna" not in json.dumps(found)
        assert await directory.export(Account("shop-a", "nobody")) is None

    async def test_a_copy_is_found_by_every_id_that_leads_to_the_person(
        self, directory: Directory
    ) -> None:
        await directory.record([event("1", ANNA, at=1), event("2", ANNA_B, at=2)])
        ids = [await id_of(directory, account) for account in (ANNA, ANNA_B)]
        await link(directory, ANNA, ANNA_B)
        copy = await directory.export(ANNA)
        assert copy is not None
        assert [await directory.export_found(one) for one in ids] == [copy, copy]
        assert await directory.export_found("p_" + "0" * 32) is None
        assert await directory.export_found("nobody") is None

    async def test_everybody_is_told_page_by_page(self, directory: Directory) -> None:
        assert await directory.people("", limit=5) == ([], "")
        accounts = [Account("p", f"u{n}") for n in range(11)]
        await directory.record([event(f"{n}", one, at=n) for n, one in enumerate(accounts)])
        await link(directory, accounts[0], accounts[10])
        found, cursor, pages = [], "", 0
        while True:
            page, cursor = await directory.people(cursor, limit=3)
            found += page
            pages += 1
            if not cursor:
                break
        assert pages == 4
        expected = [await directory.export(account) for account in accounts[:10]]
        assert found == expected
        assert len(found[0]["accounts"]) == 2

    async def test_an_erased_person_is_gone(self, directory: Directory) -> None:
        await directory.record(
            [event("1", ANNA, at=1), event("2", ANNA_B, at=2), event("3", BERT, at=3)]
        )
        await directory.record([event(f"f{n}", at=9 + n / 1000) for n in range(60)])
        before = await moment()
        await link(directory, ANNA, ANNA_B)
        await link(directory, BERT, ANNA_C)
        person_id = await id_of(directory, ANNA)
        receipt = await directory.erase(ANNA_B)
        assert receipt is not None
        assert receipt.person_id == person_id
        assert receipt.platforms == ("shop-a", "shop-b")
        assert (receipt.accounts, receipt.events, receipt.links) == (2, 62, 1)
        assert receipt.journal_entries == 1
        for account in (ANNA, ANNA_B):
            assert await directory.resolve(account) is None
            assert await directory.resolve(account, as_of_s=before) is None
            assert await directory.history(account, before_s=LATER, limit=9) == ()
            assert await directory.export(account) is None
            assert not (await directory.read(account, (), before_s=LATER, limit=9)).person_known
        assert await directory.find(str(person_id)) is None
        kept, erased = await journal(directory)
        assert kept.kind == ChangeKind.LINKED
        assert (erased.kind, erased.person_id) == (ChangeKind.ERASED, person_id)
        assert (erased.other_person_id, erased.link_kind, erased.confidence) == (None, None, None)
        assert await directory.erase(ANNA) is None
        with pytest.raises(NotFound):
            await directory.undo(erased.number)
        assert await times(directory, BERT) == [3]
        stats = await directory.stats()
        assert (stats.accounts, stats.people, stats.events) == (2, 1, 1)
        reading = await directory.read(BERT, (SHOE,), before_s=LATER, limit=9)
        assert reading.candidates.item_tally.tolist() == [[52, 0, 0, 0]]
        assert (await directory.record([event("1", ANNA, at=1)])).recorded == 1

    async def test_the_journal_does_not_name_who_was_erased(self, directory: Directory) -> None:
        """Not even in entries about others, made while they were one person with them."""
        await directory.record([event("1", ANNA), event("2", ANNA_B), event("3", ANNA_C)])
        await link(directory, ANNA, ANNA_B)
        await link(directory, ANNA_B, ANNA_C)
        await directory.unlink(ANNA, ANNA_B)
        person_id = await id_of(directory, ANNA)
        second = await id_of(directory, ANNA_B)
        assert any(change.person_id == person_id for change in await journal(directory))
        await directory.erase(ANNA)
        kept, erased = await journal(directory)
        assert (erased.kind, erased.person_id) == (ChangeKind.ERASED, person_id)
        assert kept.person_id == second
        assert person_id not in json.dumps(await directory.export(ANNA_C))

    async def test_the_journal_tells_two_who_stay_apart(self, directory: Directory) -> None:
        """Also where the older of them is not the one who was on the side of who was erased."""
        third = Account("shop-d", "dora")
        await directory.record([event(f"{n}", one) for n, one in enumerate((ANNA, BERT, third))])
        bert, dora = await id_of(directory, BERT), await id_of(directory, third)
        await link(directory, ANNA, third)
        await link(directory, third, BERT)
        await directory.unlink(ANNA, third)
        await directory.unlink(third, BERT)
        await directory.erase(ANNA)
        linked, unlinked, _ = await journal(directory)
        assert (linked.person_id, linked.other_person_id) == (dora, bert)
        assert (unlinked.person_id, unlinked.other_person_id) == (bert, dora)
        assert (await directory.undo(unlinked.number)).kind == ChangeKind.LINKED
        assert await id_of(directory, third) == bert

    async def test_the_journal_names_the_older_account_in_place_of_who_was_erased(
        self, directory: Directory
    ) -> None:
        await directory.record([event("1", ANNA), event("2", ANNA_B), event("3", ANNA_C)])
        second = await id_of(directory, ANNA_B)
        await link(directory, ANNA, ANNA_B)
        await link(directory, ANNA, ANNA_C)
        await link(directory, ANNA_C, ANNA_B)
        await directory.split(ANNA)
        await directory.erase(ANNA)
        kept, _ = await journal(directory)
        assert (kept.person_id, kept.other_person_id) == (second, None)

    async def test_a_number_that_no_change_has_is_nobodys(self, directory: Directory) -> None:
        await link(directory, ANNA, ANNA_B)
        for number in (0, -1, 2**53, 2**63 - 1):
            with pytest.raises(NotFound):
                await directory.undo(number)
        assert len(await directory.changes(-1, limit=9)) == 1

    async def test_who_goes_on_after_a_change_that_is_lost_is_told(
        self, directory: Directory
    ) -> None:
        assert list(await directory.changes(0, limit=9)) == []
        await link(directory, ANNA, ANNA_B)
        await directory.erase(ANNA)
        (erased,) = await journal(directory)
        assert erased.number == 2
        assert list(await directory.changes(2, limit=9)) == []
        for number in (3, 2**53, 2**63 - 1):
            with pytest.raises(ChangesLost):
                await directory.changes(number, limit=9)

    async def test_links_of_several_kinds_go_as_one_and_are_noted_in_their_order(
        self, directory: Directory
    ) -> None:
        await directory.record([event("1", ANNA), event("2", ANNA_B)])
        other = await id_of(directory, ANNA_B)
        for kind in (LinkKind.OPERATOR, LinkKind.LOGIN, LinkKind.DEVICE):
            await link(directory, ANNA_B, ANNA, kind)
        after = (await journal(directory))[-1].number
        assert (await directory.unlink(ANNA_B, ANNA)).removed == 3
        gone = await journal(directory, after)
        assert [(one.link_kind, one.other_person_id) for one in gone] == [
            (LinkKind.DEVICE, other), (LinkKind.LOGIN, other), (LinkKind.OPERATOR, other)
        ]  # fmt: skip
        assert (await directory.stats()).people == 2

    async def test_all_links_of_a_split_go_as_one_and_are_noted_in_their_order(
        self, directory: Directory
    ) -> None:
        await directory.record([event("1", ANNA), event("2", ANNA_B), event("3", ANNA_C)])
        anna, second = await id_of(directory, ANNA), await id_of(directory, ANNA_B)
        await link(directory, ANNA_B, ANNA_C)
        await link(directory, ANNA_C, ANNA)
        await link(directory, ANNA_B, ANNA, LinkKind.LOGIN)
        await link(directory, ANNA_B, ANNA, LinkKind.DEVICE)
        after = (await journal(directory))[-1].number
        gone = await directory.split(ANNA_B)
        assert (gone.person_id, gone.other_person_id, gone.removed) == (second, anna, 4 - 1)
        noted = await journal(directory, after)
        assert [(one.person_id, one.other_person_id, one.link_kind) for one in noted] == [
            (anna, second, LinkKind.DEVICE),
            (anna, second, LinkKind.LOGIN),
            (anna, second, LinkKind.LOGIN),
        ]
        assert (await directory.stats()).people == 2
        assert (await directory.undo(noted[1].number)).kind == ChangeKind.LINKED
        assert await id_of(directory, ANNA_B) == anna

    # Upkeep

    async def test_stats_count(self, directory: Directory) -> None:
        empty = await directory.stats()
        assert (empty.accounts, empty.people, empty.events, empty.changes) == (0, 0, 0, 0)
        await directory.record([event("1", ANNA), event("2", ANNA_B, item=LAMP), event("3", BERT)])
        await link(directory, ANNA, ANNA_B)
        stats = await directory.stats()
        assert (stats.accounts, stats.people, stats.links, stats.changes) == (3, 2, 1, 1)
        assert (stats.events, stats.items, stats.quarantined) == (3, 2, 0)
        assert stats.accounts_by_key == (3,)
        assert stats.size_bytes > 0

    async def test_only_what_is_kept_stays(self, directory: Directory) -> None:
        await link(directory, ANNA, ANNA_B)
        now = time.time()
        ages = [1, 2, 3, 50, 60]
        await directory.record(
            [
                Event(f"{n}", (ANNA, ANNA_B)[n % 2], EventKind.VIEW, now - 86_400 * age, SHOE)
                for n, age in enumerate(ages)
            ]
        )
        await directory.record(
            [Event(f"b{n}", BERT, EventKind.VIEW, now - 3600 * n, SHOE) for n in range(4)]
        )

        async def count(account: Account) -> int:
            return len(await directory.history(account, before_s=now + 9, limit=99))

        assert await directory.compact(Retention()) == 0
        assert await directory.compact(Retention(max_age_s=86_400 * 30)) == 2
        assert (await count(ANNA), await count(BERT)) == (3, 4)
        told: list[tuple[int, int]] = []
        removed = await directory.compact(
            Retention(max_events=2), progress=lambda done, total: told.append((done, total))
        )
        assert removed == 3
        assert told == sorted(told)
        assert told[-1] == (3, 3)  # accounts
        assert (await count(ANNA), await count(BERT)) == (2, 2)
        newest = await directory.history(ANNA_B, before_s=now + 9, limit=9)
        assert math.isclose(newest[0].time_s, now - 86_400, abs_tol=1e-3)
        reading = await directory.read(BERT, (SHOE,), before_s=now + 9, limit=9)
        assert reading.candidates.item_tally.sum() + reading.candidates.platform_tally.sum() > 0

    async def test_vectors_of_other_encoders_can_go(self, directory: Directory) -> None:
        import numpy as np

        for encoder in ("old", "new"):
            await directory.keep_vectors(encoder, {b"d" * 16: np.ones(4, np.float32)})
        assert (await directory.stats()).vectors == 2
        await directory.compact(Retention(), encoders=["new"])
        assert await directory.vectors("old", [b"d" * 16]) == {}
        assert len(await directory.vectors("new", [b"d" * 16])) == 1

    # Many at once

    async def test_concurrent_links_and_unlinks_lose_no_account(self, directory: Directory) -> None:
        accounts = [Account(f"shop-{n % 3}", f"user-{n}") for n in range(12)]
        await directory.record([event(f"{n}", one, at=n) for n, one in enumerate(accounts)])

        async def churn(n: int) -> None:
            for step in range(6):
                one, other = accounts[(n + step) % 12], accounts[(n * 5 + step * 7 + 1) % 12]
                if one == other:
                    continue
                if (n + step) % 3:
                    await link(directory, one, other)
                else:
                    await directory.unlink(one, other)

        async def watch() -> None:
            for _ in range(10):
                for person in await directory.resolve_many(accounts):
                    assert person is not None
                    assert len(person.accounts) == len(set(person.accounts))

        await asyncio.gather(*map(churn, range(12)), watch())
        people = {one.person_id: one for one in await directory.resolve_many(accounts) if one}
        held = [account for person in people.values() for account in person.accounts]
        assert len(held) == len(set(held)) == 12
        windows = {person.person_id: len(person.accounts) for person in people.values()}
        for account in accounts:
            assert (
                len(await times(directory, account))
                == windows[str(await id_of(directory, account))]
            )
