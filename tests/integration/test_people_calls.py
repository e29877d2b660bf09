"""Who is who, history, consent and erasure over real sockets, with the embedded directory."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from shopcast.v1 import event_service_pb2
from shopcast_client import (
    Account,
    ChangeKind,
    ChangesLost,
    Event,
    EventKind,
    InvalidRequest,
    Item,
    LinkKind,
    NotFound,
    Purpose,
    ShopcastClient,
    Unavailable,
)
from shopcast_gateway import errors
from shopcast_gateway.core.protocol import Prediction, PredictQuery
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.sqlite import SqliteDirectory
from shopcast_gateway.transport.server import GatewayServer, build_server

ANNA, PHONE = Account("web", "anna@example.com"), Account("app", "anna-phone")
NOW = datetime.now(UTC).replace(microsecond=0)


class NoPredictor:
    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
        raise NotImplementedError


def event(number: int, account: Account = ANNA, ago_s: float = 60.0, **changes: Any) -> Event:
    fields: dict[str, Any] = {
        "event_id": f"e-{number}",
        "account": account,
        "kind": EventKind.VIEW,
        "time": NOW - timedelta(seconds=ago_s),
        "item": Item("sku-1", title="Trail shoe"),
    }
    return Event(**(fields | changes))


async def versions() -> Sequence[str]:
    return ["3", "4"]


@pytest.fixture
def withdrawn() -> list[int]:
    """Grows whenever the server says that events may be used for less."""
    return []


@pytest.fixture
async def server(tmp_path: Path, withdrawn: list[int]) -> AsyncIterator[GatewayServer]:
    directory = await SqliteDirectory.open(tmp_path / "shop.db", Pseudonyms(bytes(32)))
    made = build_server(
        NoPredictor(),
        directory,
        port=0,
        withdrawn=lambda: withdrawn.append(1),
        model_versions=versions,
    )
    await made.start()
    yield made
    await made.stop(grace_s=0.5)
    await directory.close()


@pytest.fixture
async def client(server: GatewayServer) -> AsyncIterator[ShopcastClient]:
    async with ShopcastClient(f"127.0.0.1:{server.port}") as made:
        yield made


async def test_every_event_has_a_status_and_a_bad_one_keeps_no_other_out(
    client: ShopcastClient,
) -> None:
    late = event(3, time=NOW + timedelta(days=9))
    result = await client.record_events([event(1), event(1), event(2, item=Item("")), late])
    assert (result.recorded, result.duplicates, result.quarantined) == (1, 1, 0)
    assert [(one.position, one.field) for one in result.problems] == [
        (2, "events[2].item.item_id"), (3, "events[3].time"),
    ]  # fmt: skip
    flood = await client.record_events([event(100 + n, ago_s=30) for n in range(60)])
    assert (flood.recorded, flood.quarantined) == (50, 10)
    assert len(await client.history(platform="web", user_id=ANNA.user_id)) == 51
    nothing_valid = await client.record_events([late])
    assert len(nothing_valid.problems) == 1
    with pytest.raises(InvalidRequest, match="1 to 1,000"):
        await client.record_events([])


async def test_a_stream_answers_every_batch_once_it_is_kept(client: ShopcastClient) -> None:
    sent: list[int] = []

    async def batches() -> AsyncIterator[list[Event]]:
        for n in range(20):
            sent.append(n)
            yield [event(n * 10 + k, ago_s=n * 10 + k) for k in range(10)]

    answered = 0
    async for result in client.stream_events(batches()):
        assert result.recorded == 10
        answered += 1
        seen = await client.history(platform="web", user_id=ANNA.user_id, limit=1000)
        assert len(seen) >= 10 * answered
    assert answered == len(sent) == 20


async def test_a_sender_is_held_back_while_the_store_is_busy(
    client: ShopcastClient, server: GatewayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large batches: gRPC's window, not our memory, holds what the server has not read."""
    gate, sent = asyncio.Event(), 0
    record = SqliteDirectory.record

    async def held(self: SqliteDirectory, events: Sequence[Any]) -> Any:
        await gate.wait()
        return await record(self, events)

    monkeypatch.setattr(SqliteDirectory, "record", held)
    title = "x" * 900

    async def batches() -> AsyncIterator[list[Event]]:
        nonlocal sent
        for n in range(40):
            sent += 1
            yield [
                event(n * 500 + k, ago_s=n * 500 + k, item=Item("sku", title=title))
                for k in range(500)
            ]

    async def consume() -> int:
        return sum([result.recorded async for result in client.stream_events(batches())])

    running = asyncio.create_task(consume())
    await asyncio.sleep(1.5)
    held_back = sent
    assert held_back < 15  # of 40 batches of half a megabyte
    await asyncio.sleep(0.5)
    assert sent == held_back
    gate.set()
    assert await running == 40 * 500


async def test_a_broken_batch_ends_the_stream_and_keeps_what_was_answered(
    client: ShopcastClient,
) -> None:
    async def batches() -> AsyncIterator[list[Event]]:
        yield [event(1)]
        yield []
        yield [event(2)]

    answered = []
    with pytest.raises(InvalidRequest, match="1 to 1,000"):
        async for result in client.stream_events(batches()):
            answered.append(result.recorded)  # noqa: PERF401 - kept though it fails
    assert answered == [1]
    assert len(await client.history(platform="web", user_id=ANNA.user_id)) == 1


async def test_what_the_batches_raise_reaches_the_caller(client: ShopcastClient) -> None:
    async def batches() -> AsyncIterator[list[Event]]:
        yield [event(1)]
        raise LookupError("the queue is gone")

    with pytest.raises(LookupError, match="the queue is gone"):
        async for _ in client.stream_events(batches()):
            pass


async def test_a_batch_too_large_for_a_stream_is_told(client: ShopcastClient) -> None:
    async def batches() -> AsyncIterator[list[Event]]:
        yield [event(n, item=Item("sku", title="x" * 9000)) for n in range(1000)]

    with pytest.raises(InvalidRequest, match="send fewer items or events"):
        async for _ in client.stream_events(batches()):
            pass


async def test_a_stream_that_is_left_sends_no_more(client: ShopcastClient) -> None:
    sent = 0

    async def batches() -> AsyncIterator[list[Event]]:
        nonlocal sent
        while True:
            sent += 1
            yield [event(sent)]

    async with aclosing(client.stream_events(batches())) as results:
        await anext(results)
    await asyncio.sleep(0.1)
    by_then = sent
    await asyncio.sleep(0.5)
    assert sent == by_then


async def test_a_watch_that_is_left_asks_no_more(
    client: ShopcastClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, asked = SqliteDirectory.changes, 0

    async def counted(self: SqliteDirectory, after: int, *, limit: int) -> Any:
        nonlocal asked
        asked += 1
        return await changes(self, after, limit=limit)

    monkeypatch.setattr(SqliteDirectory, "changes", counted)
    await client.link_accounts(ANNA, PHONE, kind=LinkKind.LOGIN)
    async with aclosing(client.watch_changes()) as watched:
        await anext(watched)
    await asyncio.sleep(0.1)
    by_then = asked
    await asyncio.sleep(1.0)
    assert asked == by_then


async def test_bytes_that_are_no_message_end_a_stream_with_a_reason(
    server: GatewayServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.stream_stream(
            "/shopcast.v1.EventService/StreamEvents",
            request_serializer=lambda data: data,
            response_deserializer=event_service_pb2.StreamEventsResponse.FromString,
        )(iter([b"\xff\xff garbage"]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


async def test_people_are_joined_taken_apart_and_undone(client: ShopcastClient) -> None:
    await client.record_events([event(1), event(2, PHONE)])
    before = datetime.now(UTC)
    one = await client.resolve_person(platform="web", user_id=ANNA.user_id)
    other = await client.resolve_person(platform="app", user_id=PHONE.user_id)
    assert one is not None
    assert other is not None
    linked = await client.link_accounts(
        ANNA, PHONE, kind=LinkKind.PROBABILISTIC, confidence=0.8, source="nightly"
    )
    assert (linked.person_id, linked.merged) == (one.person_id, True)
    assert not (await client.merge_people(ANNA, PHONE, source="support")).merged
    found = await client.find_person(other.person_id)
    assert found is not None
    assert found.person_id == one.person_id
    both = await client.resolve_people([PHONE, Account("web", "nobody"), ANNA])
    assert both == (found, None, found)
    then = await client.resolve_person(platform="app", user_id=PHONE.user_id, as_of=before)
    assert then == other
    apart = await client.unlink_accounts(ANNA, PHONE)
    assert (apart.person_id, apart.other_person_id, apart.removed) == (
        one.person_id, other.person_id, 2,
    )  # fmt: skip
    assert (await client.split_account(PHONE)).removed == 0
    changes = []
    async for change in client.watch_changes():
        changes.append(change)
        if len(changes) == 4:
            break
    assert [change.kind for change in changes] == [ChangeKind.LINKED] * 2 + [
        ChangeKind.UNLINKED
    ] * 2
    assert (changes[0].link_kind, changes[0].confidence) == (LinkKind.PROBABILISTIC, 0.8)
    again = await client.undo_change(changes[-1].number)
    assert again.kind is ChangeKind.LINKED
    with pytest.raises(NotFound):
        await client.undo_change(10_000)
    with pytest.raises(NotFound) as caught:
        await client.unlink_accounts(ANNA, Account("web", "bert@example.com"))
    assert "bert" not in str(caught.value)
    assert await client.find_person("p_" + "0" * 32) is None


async def test_a_watch_after_a_change_that_is_lost_is_told_so(client: ShopcastClient) -> None:
    await client.link_accounts(ANNA, PHONE, kind=LinkKind.LOGIN)
    with pytest.raises(ChangesLost, match="begin after 0") as caught:
        await anext(client.watch_changes(after=2))
    assert caught.value.reason == "CHANGES_LOST"
    assert (await anext(client.watch_changes(after=0))).number == 1


async def test_a_batch_that_would_answer_too_much_is_refused(client: ShopcastClient) -> None:
    """One large person, asked for over and over."""
    for n in range(150):
        await client.link_accounts(ANNA, Account("app", f"phone-{n}"), kind=LinkKind.DEVICE)
    assert len(await client.resolve_people([ANNA] * 100)) == 100
    with pytest.raises(InvalidRequest, match="20,000 accounts"):
        await client.resolve_people([ANNA] * 200)


async def test_a_watch_goes_on_and_ends_with_the_server(
    client: ShopcastClient, server: GatewayServer
) -> None:
    seen: list[Any] = []

    async def watch() -> None:
        async for change in client.watch_changes():
            seen.append(change)  # noqa: PERF401 - watched while it grows

    watching = asyncio.create_task(watch())
    for n in range(3):
        await client.link_accounts(ANNA, Account("app", f"phone-{n}"), kind=LinkKind.DEVICE)
        async with asyncio.timeout(5):
            while len(seen) <= n:  # noqa: ASYNC110 - a watch tells nobody else
                await asyncio.sleep(0.02)
    began = asyncio.get_running_loop().time()
    await server.stop(grace_s=5.0)
    await watching
    assert asyncio.get_running_loop().time() - began < 3
    assert [change.number for change in seen] == sorted({change.number for change in seen})


async def test_consent_is_kept_and_told(client: ShopcastClient) -> None:
    assert await client.consents(ANNA) == {}
    await client.record_events([event(1), event(2, PHONE)])
    await client.link_accounts(ANNA, PHONE, kind=LinkKind.LOGIN)
    said = await client.set_consent(ANNA, {Purpose.MARKETING: False}, all_platforms=True)
    assert said["app"][Purpose.MARKETING] is said["web"][Purpose.MARKETING] is False
    assert await client.consents(PHONE) == said
    past = await client.history(platform="web", user_id=ANNA.user_id, purpose=Purpose.MARKETING)
    assert past == ()
    past = await client.history(platform="web", user_id=ANNA.user_id, purpose=Purpose.RISK)
    assert {one.platform for one in past} == {"web", "app"}
    assert past[0].title == "Trail shoe"
    assert past[0].time == NOW - timedelta(seconds=60)


async def test_whoever_keeps_copies_is_told_of_what_is_withdrawn(
    client: ShopcastClient, withdrawn: list[int]
) -> None:
    await client.record_events([event(1)])
    await client.link_accounts(ANNA, PHONE, kind=LinkKind.LOGIN)
    await client.consents(ANNA)
    assert not withdrawn
    await client.set_consent(ANNA, {Purpose.RISK: False})
    assert len(withdrawn) == 1
    await client.unlink_accounts(ANNA, PHONE)
    assert len(withdrawn) == 2
    await client.split_account(ANNA)
    assert len(withdrawn) == 3
    await client.erase_person(ANNA)
    assert len(withdrawn) == 4
    with pytest.raises(NotFound):  # a call that fails may have done its work
        await client.undo_change(10**6)
    assert len(withdrawn) == 5
    for confidence, times in ((0.5, 5), (0.5, 5), (0.8, 5), (0.4, 6)):
        await client.link_accounts(ANNA, PHONE, kind=LinkKind.DEVICE, confidence=confidence)
        assert len(withdrawn) == times


async def test_who_changed_something_and_got_no_answer_is_told_to_look(
    client: ShopcastClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise errors.Unavailable("the connection broke")

    monkeypatch.setattr(SqliteDirectory, "erase", away)
    monkeypatch.setattr(SqliteDirectory, "link", away)
    monkeypatch.setattr(SqliteDirectory, "consents", away)
    for change in (
        client.erase_person(ANNA),
        client.link_accounts(ANNA, PHONE, kind=LinkKind.LOGIN),
    ):
        with pytest.raises(Unavailable, match="whether it was done; look before you send it again"):
            await change
    with pytest.raises(Unavailable, match="try again"):
        await client.consents(ANNA)


async def test_a_person_takes_everything_along_and_goes(
    client: ShopcastClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await client.record_events([event(1), event(2, PHONE)])
    await client.link_accounts(ANNA, PHONE, kind=LinkKind.LOGIN)
    data = await client.export_person(PHONE)
    assert data is not None
    assert [one["item_id"] for one in data["events"]] == ["sku-1", "sku-1"]
    receipt = await client.erase_person(ANNA)
    assert receipt is not None
    assert (receipt.platforms, receipt.accounts, receipt.events) == (("app", "web"), 2, 2)
    assert receipt.model_versions == ("3", "4")
    assert receipt.person_id == data["person_id"]
    assert await client.erase_person(ANNA) is None
    assert await client.export_person(PHONE) is None
    assert await client.history(platform="app", user_id=PHONE.user_id) == ()
    assert "anna" not in caplog.text
