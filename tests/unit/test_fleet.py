"""Who of several Tritons serves a version, and who joins again; the Tritons are fakes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from tokenizers import Tokenizer, models, pre_tokenizers
from virtual_time import now, timed

from shopcast_domain.manifest import BEHAVIOR, ENCODER, Golden, Manifest
from shopcast_domain.tokeniser import ItemTokeniser
from shopcast_gateway import fleet as fleets
from shopcast_gateway import probe
from shopcast_gateway.backend.balanced import BalancedBackend, Member
from shopcast_gateway.backend.rotation import Change, Moved, RotationStatus
from shopcast_gateway.backend.triton import TritonBackend
from shopcast_gateway.core.adoption import Refused
from shopcast_gateway.core.model import CALLS, Model
from shopcast_gateway.errors import StartupError, Unavailable
from shopcast_gateway.fleet import Addresses, Fleet, Seat
from shopcast_gateway.metrics import observe_rotation, observe_triton
from shopcast_gateway.triton.status import TritonStatus

DIM, VERSION = 8, 4
ADDRESSES = ("triton-a:8001", "triton-b:8001")


class FakeTriton:
    """Holds what was loaded. away: nobody answers there. off: added to its answers. slow: loading
    takes until it is set."""

    def __init__(self) -> None:
        self.away, self.off = False, 0.0
        self.held: set[str] = set()
        self.loads: list[str] = []
        self.calls = self.put_backs = 0
        self.slow: asyncio.Event | None = None
        self.closed = False
        self.tried_at: list[float] = []

    def restart(self) -> None:
        self.away, self.held = False, set()

    async def check_live(self) -> None:
        self.tried_at.append(now())
        if self.away:
            raise StartupError("No Triton server answers")

    async def load(self, model: str, _: int) -> None:
        if self.away:
            raise Unavailable("away")
        if self.slow is not None:
            await self.slow.wait()
        self.loads.append(model)
        self.held.add(model)

    async def infer(self, model: str, _: int, inputs: Any, output: str, **times: Any) -> Any:
        self.calls += 1
        if self.away or model not in self.held:
            raise Unavailable("away")
        if model == ENCODER:
            return np.full((len(inputs["input_ids"]), DIM), 0.5 + self.off, np.float32)
        shape = inputs["candidate_features"].shape
        return np.zeros((shape[0], shape[1], 3), np.float32)

    def answered_at(self, _: str) -> float:
        return 0.0

    def give_up(self, _: str) -> None:
        pass

    async def put_back(self) -> None:
        self.put_backs += 1

    async def close(self) -> None:
        self.closed = True


class World:
    """A version and two Tritons it may be adopted on. told: what the supervisor would hear."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, manifest: Manifest) -> None:
        tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "shoe": 1}, "[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokeniser = ItemTokeniser(tokenizer.to_str(), max_tokens=16, pad_id=0)
        golden = Golden(
            text="shoe",
            token_ids=tuple(tokeniser.encode(["shoe"])[0]),
            vector=(0.5,) * DIM,
            features=(0.0, 1.0),
            history=(),
            probabilities=tuple(manifest.calibration.apply(np.zeros((1, 1, 3)))[0, 0].tolist()),
        )
        names = {"behavior_version": VERSION, "vector_dim": DIM, "goldens": (golden,)}
        found = (manifest.model_copy(update=names), tokeniser)

        async def check(*_: Any) -> Any:
            return found

        self.tritons = {address: FakeTriton() for address in ADDRESSES}
        self.a, self.b = self.tritons.values()
        monkeypatch.setattr(fleets, "check", check)
        monkeypatch.setattr(TritonBackend, "open", lambda url, **_: self.tritons[url])
        self.registry = CollectorRegistry()
        self.rotation, self.health = RotationStatus(ADDRESSES), TritonStatus()
        observe_rotation(self.rotation, self.registry)
        observe_triton(self.health, self.registry)
        self.health.set_up(True)
        self.told: list[bool] = []
        self.fleet: Fleet
        self.watching: asyncio.Task[None] | None = None

    async def adopt(self) -> None:
        self.fleet = await Fleet.adopt(Path(), VERSION, Addresses(self.rotation))

    def watch(self, *, on_trial: bool = False) -> None:
        watching = self.fleet.watch(self.health, self.told.append, on_trial=on_trial)
        self.watching = asyncio.create_task(watching)

    async def ask(self) -> None:
        await self.fleet.model.try_behavior(timeout_s=5.0)

    def taking(self) -> list[float | None]:
        """1 for each that takes calls."""
        name = "shopcast_triton_in_rotation"
        return [self.registry.get_sample_value(name, {"address": one}) for one in ADDRESSES]

    def up(self) -> float | None:
        return self.registry.get_sample_value("shopcast_triton_up")


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch, manifest: Manifest) -> AsyncIterator[World]:
    monkeypatch.setattr(probe, "EVERY_S", 0.005)
    monkeypatch.setattr(fleets, "FIRST_PAUSE_S", 0.002)
    monkeypatch.setattr(fleets, "LONGEST_PAUSE_S", 0.01)
    made = World(monkeypatch, manifest)
    yield made
    if made.watching is not None:
        made.watching.cancel()
        await asyncio.gather(made.watching, return_exceptions=True)


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.001)


async def test_a_version_serves_on_all_where_it_passes(world: World) -> None:
    await world.adopt()
    assert [triton.loads for triton in (world.a, world.b)] == [[ENCODER, BEHAVIOR]] * 2
    calls = world.fleet.model.calls
    assert callable(calls)
    assert calls() == 2 * CALLS
    before = world.a.calls, world.b.calls
    for _ in range(10):
        await world.ask()
    assert (world.a.calls - before[0], world.b.calls - before[1]) == (5, 5)
    world.watch()
    await until(lambda: world.taking() == [1, 1])
    await world.fleet.close()
    assert world.a.closed
    assert world.b.closed


async def test_who_is_away_joins_later(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.a.away = True
    await world.adopt()
    world.watch()
    await until(lambda: len(world.a.tried_at) > 5)
    assert world.taking() == [0, 1]
    await world.ask()
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1, "said once"
    world.a.restart()
    await until(lambda: world.taking() == [1, 1])
    assert world.told == []


async def test_who_answers_otherwise_takes_no_calls(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.b.off = 0.3
    await world.adopt()
    world.watch()
    await until(lambda: len(world.b.tried_at) > 3)
    assert world.taking() == [1, 0]
    calls = world.fleet.model.calls
    assert callable(calls)
    assert calls() == CALLS
    (said,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "golden 0: the vector differs" in said
    world.b.off = 0.0
    await until(lambda: world.taking() == [1, 1])


async def test_where_it_passes_nowhere_it_is_refused_and_put_back(world: World) -> None:
    world.a.off = world.b.off = 0.3
    with pytest.raises(Refused) as caught:
        await world.adopt()
    assert caught.value.reason == "golden"
    for triton in (world.a, world.b):
        assert (triton.put_backs, triton.closed) == (1, True)


async def test_where_nobody_answers_the_message_says_whom_was_asked(world: World) -> None:
    world.a.away = world.b.away = True
    with pytest.raises(StartupError, match="any of triton-a:8001, triton-b:8001"):
        await world.adopt()


async def test_who_takes_long_is_not_waited_for_and_joins(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets, "STRAGGLERS_S", 0.01)
    world.b.slow = asyncio.Event()
    await world.adopt()
    world.watch()
    await until(lambda: world.taking() == [1, 0])
    world.b.slow.set()
    await until(lambda: world.taking() == [1, 1])
    assert world.b.loads == [ENCODER, BEHAVIOR], "once"


async def test_who_was_away_gets_its_models_back(world: World) -> None:
    await world.adopt()
    world.watch()
    await until(lambda: world.taking() == [1, 1])
    world.a.away = True
    while world.taking() != [0, 1]:
        await world.ask()  # nobody notices
        await asyncio.sleep(0.001)
    assert world.up() == 1
    world.a.restart()
    await until(lambda: world.taking() == [1, 1])
    assert world.a.loads == [ENCODER, BEHAVIOR] * 2
    assert world.b.loads == [ENCODER, BEHAVIOR]
    assert world.told == []


async def test_who_answers_for_a_trial_is_looked_after_and_not_told_as_who_serves(
    world: World,
) -> None:
    moved: list[Change] = []
    await world.adopt()
    world.rotation.listeners.append(moved.append)
    world.watch(on_trial=True)
    first, _ = ADDRESSES
    world.a.away = True
    await until(lambda: Moved(first, False, on_trial=True) in moved)
    moved.clear()
    world.a.restart()
    await until(lambda: Moved(first, True, on_trial=True) in moved)
    assert world.fleet.rotation == dict.fromkeys(ADDRESSES, True)
    assert world.taking() == [0, 0], "as before: this says nothing of who serves"


async def test_when_all_are_away_that_is_told_until_one_is_back(world: World) -> None:
    await world.adopt()
    world.watch()
    await until(lambda: world.taking() == [1, 1])
    world.a.away = world.b.away = True
    await until(lambda: world.taking() == [0, 0])
    assert world.told == [False]
    assert world.up() == 0
    with pytest.raises(Unavailable):
        await world.ask()
    world.b.restart()
    await until(lambda: world.taking() == [0, 1])
    assert world.told == [False, True]
    assert world.up() == 1
    await world.ask()


async def test_where_another_process_looks_after_them_those_take_calls_that_it_says(
    world: World,
) -> None:
    for triton in (world.a, world.b):
        triton.held = {ENCODER, BEHAVIOR}
    rotation = dict.fromkeys(ADDRESSES, True)
    world.fleet = await Fleet.attach(Path(), VERSION, Addresses(world.rotation), rotation)
    for _ in range(10):
        await world.ask()
    assert (world.a.calls, world.b.calls) == (5, 5)
    world.fleet.follow(rotation | {ADDRESSES[0]: False})
    for _ in range(10):
        await world.ask()
    assert (world.a.calls, world.b.calls) == (5, 15)
    world.fleet.follow(dict.fromkeys(ADDRESSES, False))
    with pytest.raises(Unavailable):
        await world.ask()
    world.fleet.follow(rotation)
    await world.ask()
    assert world.a.loads == world.b.loads == [], "nothing is loaded from here"


async def test_who_failed_another_process_is_left_out_until_it_answers_but_not_the_last(
    world: World,
) -> None:
    await world.adopt()
    world.watch()
    await until(lambda: world.taking() == [1, 1])
    world.a.away = True
    first, last = ADDRESSES
    world.fleet.eject(first)
    world.fleet.eject(last)
    assert world.fleet.rotation == {first: False, last: True}
    await until(lambda: world.taking() == [0, 1])
    world.a.restart()
    await until(lambda: world.taking() == [1, 1])
    name = "shopcast_triton_ejections_total"
    ejected = [world.registry.get_sample_value(name, {"address": one}) for one in ADDRESSES]
    assert ejected == [1, 0]


def test_pauses_before_it_is_tried_again_double(manifest: Manifest) -> None:
    @timed
    async def test() -> None:
        triton: Any = FakeTriton()
        triton.away = True
        member = Member("triton-a:8001", triton)
        model = Model(manifest, None, triton)  # type: ignore[arg-type] # no text is read
        status = RotationStatus([member.address])
        balanced = BalancedBackend([member], status)
        fleet = Fleet([Seat(member, triton, model)], balanced, model, status)
        watching = asyncio.create_task(fleet.watch(TritonStatus(), lambda _: None))
        await asyncio.sleep(40)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        gaps = np.diff([100.0, *triton.tried_at])
        assert gaps.round().tolist() == [1, 2, 4, 8, 8, 8, 8]

    test()
