"""From logs to answers: simulate, build, import and serve by command, on the real Triton."""

import asyncio
import csv
import json
import signal
import socket
import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import onnx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from onnx import numpy_helper

from shopcast.v1 import (
    event_service_pb2,
    event_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
    types_pb2,
)
from shopcast_build.learning.base_model import BUNDLED, load_base_model
from shopcast_client import (
    Account,
    Event,
    EventKind,
    Item,
    LinkKind,
    Outcome,
    Prediction,
    PredictResult,
    Purpose,
    ShopcastClient,
)
from shopcast_gateway.triton.environment import TritonEnvironment
from shopcast_gateway.triton.process import TritonProcess

if TYPE_CHECKING:
    from tests.conftest import Built, Gateway

Serve = Callable[..., "Gateway"]
SERVICES = [f"shopcast.v1.{name}Service" for name in ("Prediction", "Event", "Identity", "Privacy")]
CLOCK = 1e-3
"""How far probabilities may move because time passes between two calls: the hour of the day and the
age of events are features."""


def client(gateway: "Gateway") -> ShopcastClient:
    return ShopcastClient(gateway.address, timeout_s=30.0)


def rows(built: "Built") -> list[dict[str, str]]:
    found = []
    for path in sorted(built.events.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            found.extend(csv.DictReader(file))
    return found


def catalogue(built: "Built", platform: str) -> list[Item]:
    """The items of a platform's log, each once."""
    found = {
        row["item_id"]: Item(
            row["item_id"], row["title"], row["brand"], row["category"], float(row["price"])
        )
        for row in rows(built)
        if row["platform"] == platform
    }
    return list(found.values())


def busiest(built: "Built") -> tuple[Account, int]:
    """The account with the most events of the log, and how many."""
    counts = Counter((row["platform"], row["platform_user_id"]) for row in rows(built))
    ((platform, user), count), *_ = counts.most_common(1)
    return Account(platform, user), count


def shares(one: Prediction) -> tuple[float, float, float]:
    return one.view_probability, one.buy_probability, one.return_probability


def by_item(answer: PredictResult) -> dict[str, tuple[float, float, float]]:
    return {one.item_id: shares(one) for one in answer.predictions}


def event(account: Account, kind: EventKind, item: Item, ago: timedelta) -> Event:
    return Event(uuid.uuid4().hex, account, kind, datetime.now(UTC) - ago, item)


@pytest.fixture(scope="module")
def platforms(built: "Built") -> list[str]:
    return sorted(built.summary["events_by_platform"])


def stranger(platform: str) -> Account:
    return Account(platform, uuid.uuid4().hex)


async def ask(gateway: "Gateway", account: Account, items: Sequence[Item]) -> PredictResult:
    async with client(gateway) as open_client:
        return await open_client.predict(
            platform=account.platform, user_id=account.user_id, items=items
        )


def test_the_published_encoder_is_the_one_the_manifest_names(built: "Built") -> None:
    """Which one it is, validation decides; fine-tuned, its top two layers differ from BERT's."""
    manifest = json.loads((built.repository / "behavior" / "1" / "manifest.json").read_text())
    tuned = manifest["training"]["encoder"] == "fine-tuned"
    graph = onnx.load(built.repository / "encoder" / "1" / "model.onnx").graph
    published = {numpy_helper.to_array(one).tobytes() for one in graph.initializer}
    pretrained = load_base_model(BUNDLED).model.state_dict()
    kept = [
        pretrained[f"encoder.layer.{layer}.output.LayerNorm.weight"].numpy().tobytes() in published
        for layer in range(6)
    ]
    assert kept == [True, True, True, True, not tuned, not tuned]


def test_the_build_tells_what_it_made(built: "Built", platforms: list[str]) -> None:
    report = built.report
    assert report["version"] == 1
    assert set(report["trained_outcomes"]) == {"view", "buy", "return"}
    assert report["cleaning"]["read"] == sum(built.summary["events_by_kind"].values())
    assert report["published"] in report["metrics"]
    assert {"majority class", "untrained"} <= set(report["metrics"])
    manifest = json.loads((built.repository / "behavior" / "1" / "manifest.json").read_text())
    assert manifest["training"]["platforms"] == platforms
    assert manifest["training"]["exposures"] == report["exposures"]
    assert not list(built.repository.rglob(".staging"))


async def test_a_known_shopper_gets_probabilities_that_rest_on_their_events(
    built: "Built", gateway: "Gateway"
) -> None:
    account, events = busiest(built)
    items = catalogue(built, account.platform)[:20]
    answer = await ask(gateway, account, [Item(item.item_id) for item in items])
    assert [one.item_id for one in answer.predictions] == [item.item_id for item in items]
    for one in answer.predictions:
        assert sum(shares(one)) == pytest.approx(1.0, abs=1e-6)
        assert all(0 < share < 1 for share in shares(one))
        assert one.item_known
        assert one.text_known, "the directory knows what the log said of the item"
    evidence = answer.evidence
    assert (evidence.model_version, evidence.encoder_version) == ("1", "1")
    assert set(evidence.trained_outcomes) == set(Outcome)
    assert evidence.person_known
    assert evidence.events_used >= events
    used = {one.platform: one.events_used for one in evidence.platforms}
    assert used[account.platform] >= events
    assert sum(used.values()) == evidence.events_used
    assert evidence.newest_event_age is not None
    assert evidence.newest_event_age == min(one.newest_event_age for one in evidence.platforms)
    # The log ends last Monday, and this shopper may have stopped before.
    assert timedelta(0) < evidence.newest_event_age < timedelta(days=110)


def test_stubs_and_a_plain_channel_are_enough(built: "Built", gateway: "Gateway") -> None:
    account, _ = busiest(built)
    item = catalogue(built, account.platform)[0]
    request = prediction_service_pb2.PredictRequest(
        account=types_pb2.Account(platform=account.platform, platform_user_id=account.user_id),
        items=[types_pb2.Item(item_id=item.item_id)],
    )
    with grpc.insecure_channel(gateway.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = stub.Predict(request, timeout=30.0)
        (one,) = answer.predictions
        total = one.view_probability + one.buy_probability + one.return_probability
        assert total == pytest.approx(1.0, abs=1e-6)
        assert answer.evidence.person_known
        assert answer.evidence.HasField("newest_event_age")
        assert types_pb2.OUTCOME_RETURN in answer.evidence.trained_outcomes

        events = event_service_pb2_grpc.EventServiceStub(channel)
        seen = event_service_pb2.Event(
            event_id=uuid.uuid4().hex,
            account=types_pb2.Account(platform="web", platform_user_id=uuid.uuid4().hex),
            kind=types_pb2.EVENT_KIND_VIEW,
            item=types_pb2.Item(item_id="sku-1"),
        )
        seen.time.GetCurrentTime()
        batch = event_service_pb2.RecordEventsRequest(events=[seen])
        assert events.RecordEvents(batch, timeout=30.0).recorded == 1
        again = events.RecordEvents(batch, timeout=30.0)
        assert (again.recorded, again.duplicates) == (0, 1)


async def test_what_is_unknown_is_answered_and_said_to_be(
    gateway: "Gateway", platforms: list[str]
) -> None:
    account = stranger(platforms[0])
    titled = Item("never-sold-1", title=f"Trail shoe {uuid.uuid4().hex}", price=89.0)
    answer = await ask(gateway, account, [titled, Item("never-sold-2")])
    with_title, bare = answer.predictions
    assert not with_title.item_known
    assert not bare.item_known
    assert with_title.text_known
    assert not bare.text_known
    for one in answer.predictions:
        assert sum(shares(one)) == pytest.approx(1.0, abs=1e-6)
    evidence = answer.evidence
    assert not evidence.person_known
    assert (evidence.events_used, evidence.platforms) == (0, ())
    assert evidence.newest_event_age is None
    assert evidence.texts_encoded == 1
    again = await ask(gateway, account, [titled])
    assert again.evidence.texts_encoded == 0, "its vector is kept"
    elsewhere = await ask(gateway, stranger("a-platform-of-no-log"), [titled])
    assert sum(shares(elsewhere.predictions[0])) == pytest.approx(1.0, abs=1e-6)


async def test_an_event_counts_in_the_next_prediction(
    built: "Built", gateway: "Gateway", platforms: list[str]
) -> None:
    account = stranger(platforms[0])
    item, other = catalogue(built, platforms[0])[:2]
    answers = [await ask(gateway, account, [item, other])]
    for kind in (EventKind.VIEW, EventKind.CART, EventKind.BUY):
        async with client(gateway) as open_client:
            recorded = await open_client.record_events(
                [event(account, kind, item, timedelta(seconds=1))]
            )
        assert recorded.recorded == 1
        answers.append(await ask(gateway, account, [item, other]))
    assert [answer.evidence.events_used for answer in answers] == [0, 1, 2, 3]
    assert [answer.evidence.person_known for answer in answers] == [False, True, True, True]
    for before, after in pairwise(answers):
        moved = abs(by_item(after)[item.item_id][0] - by_item(before)[item.item_id][0])
        assert moved > 2 * CLOCK
    assert answers[-1].evidence.newest_event_age < timedelta(minutes=10)


async def test_an_event_of_a_clock_that_is_ahead_counts_too(
    gateway: "Gateway", platforms: list[str]
) -> None:
    account = stranger(platforms[0])
    async with client(gateway) as open_client:
        await open_client.record_events(
            [event(account, EventKind.VIEW, Item("i-1"), -timedelta(minutes=4))]
        )
    evidence = (await ask(gateway, account, [Item("i-1")])).evidence
    assert (evidence.events_used, evidence.newest_event_age) == (1, timedelta(0))


async def test_linked_accounts_have_one_history(
    built: "Built", gateway: "Gateway", platforms: list[str]
) -> None:
    here, elsewhere = stranger(platforms[0]), stranger(platforms[1])
    items = catalogue(built, platforms[0])[:5]
    looks = [
        event(elsewhere, EventKind.CART, item, timedelta(hours=3))
        for item in catalogue(built, platforms[1])[:6]
    ]
    async with client(gateway) as open_client:
        await open_client.record_events(
            [event(here, EventKind.VIEW, items[0], timedelta(hours=1)), *looks]
        )
        alone = await ask(gateway, here, items)
        link = await open_client.link_accounts(here, elsewhere, kind=LinkKind.LOGIN)
        assert link.merged
        together = await ask(gateway, here, items)
        again = await open_client.link_accounts(elsewhere, here, kind=LinkKind.LOGIN)
        assert (again.merged, again.person_id) == (False, link.person_id)
        person = await open_client.resolve_person(
            platform=elsewhere.platform, user_id=elsewhere.user_id
        )
    assert person is not None
    assert person.person_id == link.person_id
    assert [one.platform for one in person.accounts] == platforms[:2]
    assert [one.platform for one in alone.evidence.platforms] == platforms[:1]
    used = {one.platform: one.events_used for one in together.evidence.platforms}
    assert used == {platforms[0]: 1, platforms[1]: 6}
    moved = [
        abs(two[0] - one[0])
        for one, two in zip(by_item(alone).values(), by_item(together).values(), strict=True)
    ]
    assert max(moved) > 2 * CLOCK


async def test_a_weak_link_weighs_less_and_consent_leaves_a_platform_out(
    built: "Built", gateway: "Gateway", platforms: list[str]
) -> None:
    here, elsewhere = stranger(platforms[0]), stranger(platforms[1])
    items = catalogue(built, platforms[0])[:5]
    looks = [
        event(elsewhere, EventKind.CART, item, timedelta(hours=3))
        for item in catalogue(built, platforms[1])[:6]
    ]
    there = {"platform": here.platform, "user_id": here.user_id, "items": items}
    async with client(gateway) as open_client:
        await open_client.record_events(
            [event(here, EventKind.VIEW, items[0], timedelta(hours=1)), *looks]
        )
        await open_client.link_accounts(
            here, elsewhere, kind=LinkKind.PROBABILISTIC, confidence=0.6
        )
        weak = await open_client.predict(**there)
        certain = await open_client.predict(**there, min_link_confidence=1.0)
        await open_client.merge_people(here, elsewhere)
        merged = await open_client.predict(**there)
        await open_client.set_consent(elsewhere, {Purpose.PREDICTION: False})
        without = await open_client.predict(**there)
        for_risk = await open_client.predict(**there, purpose=Purpose.RISK)
    assert weak.evidence.uncertain_events_used == 6
    assert (weak.evidence.events_used, certain.evidence.events_used) == (7, 1)
    assert merged.evidence.uncertain_events_used == 0
    mixed = [
        0.6 * one[0] + 0.4 * other[0]
        for one, other in zip(by_item(merged).values(), by_item(certain).values(), strict=True)
    ]
    assert [one[0] for one in by_item(weak).values()] == pytest.approx(mixed, abs=2 * CLOCK)
    assert without.evidence.suppressed_platforms == (platforms[1],)
    assert without.evidence.events_used == 1
    assert (for_risk.evidence.events_used, for_risk.evidence.suppressed_platforms) == (7, ())


async def test_an_item_gets_the_same_answer_alone_in_company_and_again(
    built: "Built", gateway: "Gateway"
) -> None:
    account, _ = busiest(built)
    items = catalogue(built, account.platform)[:50]
    assert len(items) == 50
    many = by_item(await ask(gateway, account, items))
    backwards = by_item(await ask(gateway, account, items[::-1]))
    at_once = await asyncio.gather(*(ask(gateway, account, [item]) for item in items[:10]))
    for item in items:
        assert backwards[item.item_id] == pytest.approx(many[item.item_id], abs=CLOCK)
    for item, answer in zip(items[:10], at_once, strict=True):
        assert by_item(answer)[item.item_id] == pytest.approx(many[item.item_id], abs=CLOCK)
        again = await ask(gateway, account, [item])
        assert by_item(again)[item.item_id] == pytest.approx(many[item.item_id], abs=CLOCK)
    assert len({round(shares[0], 3) for shares in many.values()}) > 1, "items are told apart"


async def test_the_title_matters(gateway: "Gateway", built: "Built") -> None:
    account, _ = busiest(built)
    known = catalogue(built, account.platform)[0]
    other = next(
        item for item in catalogue(built, account.platform) if item.category != known.category
    )
    renamed = replace(other, item_id=known.item_id, price=known.price)
    one, two = [
        by_item(await ask(gateway, account, [item]))[known.item_id] for item in (known, renamed)
    ]
    assert one != pytest.approx(two, abs=CLOCK)


def test_health_and_reflection(gateway: "Gateway") -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", *SERVICES):
            request = health_pb2.HealthCheckRequest(service=service)
            status = health.Check(request, timeout=30.0).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        (reply,) = reflection.ServerReflectionInfo(requests, timeout=30.0)
        listed = {service.name for service in reply.list_services_response.service}
    assert {*SERVICES, "grpc.health.v1.Health"} <= listed


def test_the_commands_speak_to_a_running_gateway(
    gateway: "Gateway", platform: Callable[..., Any], platforms: list[str]
) -> None:
    account = ("--platform", platforms[0], "--user", uuid.uuid4().hex, "--target", gateway.address)
    item = ("--item", '{"item_id": "cli-1", "title": "Trail shoe", "price": 89}')
    slow = ("--timeout-s", 60, "--json")
    recorded = platform("record", *account, *item, "--kind", "cart", *slow)
    assert json.loads(recorded.stdout)["recorded"] == 1
    other = ("--other-platform", platforms[1], "--other-user", uuid.uuid4().hex)
    assert json.loads(platform("link", *account, *other, *slow).stdout)["merged"]
    answer = json.loads(platform("predict", *account, *item, *slow).stdout)
    assert answer["evidence"]["events_used"] == 1
    assert answer["predictions"][0]["item_known"]


def test_nothing_personal_is_in_logs_or_files(built: "Built", gateway: "Gateway") -> None:
    account, _ = busiest(built)
    store = Path(next(one for one in gateway.process.args if str(one).endswith(".db")))
    texts = [gateway.log, store.with_name(store.name + ".triton.log")]
    assert not [path for path in texts if account.user_id in path.read_text()]
    for path in store.parent.iterdir():
        assert account.user_id.encode() not in path.read_bytes(), path.name


def shared_memory(gateway: "Gateway") -> list[Path]:
    return list(Path("/dev/shm").glob(f"shopcast_{gateway.process.pid}_*"))


def is_there(path: str) -> bool:
    return Path(path).exists()


def is_free(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return False
    return True


async def test_stopping_leaves_nothing_behind_and_a_restart_remembers(
    repository: Path, store: Path, serve: Serve, listing: Callable[[Path], Any]
) -> None:
    before = listing(repository)
    account = stranger("web")
    first = serve(repository, store).wait_ready()
    assert not is_free(first.address)
    async with client(first) as open_client:
        await open_client.record_events(
            [event(account, EventKind.BUY, Item("i-1", title="Trail shoe"), timedelta(hours=1))]
        )
    used = by_item(await ask(first, account, [Item("i-1")]))
    family = first.family()
    assert any(process.name() == "tritonserver" for process in family)
    assert len(family) >= 4, "launcher, server and two Python processes"
    assert shared_memory(first)

    assert first.stop(signal.SIGTERM) == 0
    psutil.wait_procs(family, timeout=20.0)
    assert not [process for process in family if process.is_running()]
    assert not shared_memory(first)
    assert listing(repository) == before
    assert is_free(first.address)
    assert not is_there(first.triton.removeprefix("unix:"))
    assert sorted(path.suffix for path in store.parent.iterdir()) == [".db", ".key", ".log"]
    database = sqlite3.connect(store)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()

    second = serve(repository, store).wait_ready()
    answer = await ask(second, account, [Item("i-1")])
    assert answer.evidence.events_used == 1
    assert answer.evidence.texts_encoded == 0, "vectors are remembered too"
    assert by_item(answer)["i-1"] == pytest.approx(used["i-1"], abs=10 * CLOCK)
    assert second.stop(signal.SIGINT) == 0


async def test_a_triton_elsewhere_serves_as_well(
    built: "Built",
    triton_environment: TritonEnvironment,
    serve: Serve,
    store: Path,
    tmp_path: Path,
) -> None:
    triton = await TritonProcess.start(
        triton_environment, built.repository, log=tmp_path / "triton.log"
    )
    try:
        gateway = serve(built.repository, store, "--triton-url", triton.grpc_address)
        await asyncio.to_thread(gateway.wait_ready)
        assert gateway.triton == triton.grpc_address
        account, events = busiest(built)
        answer = await ask(gateway, account, catalogue(built, account.platform)[:3])
        assert answer.evidence.events_used >= events
        assert gateway.family() == [], "it started no Triton of its own"
        assert await asyncio.to_thread(gateway.stop) == 0
    finally:
        await triton.stop()
