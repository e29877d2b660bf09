"""What a probe makes of models that answer, fail or hang; models and server are fakes."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from itertools import cycle
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from shopcast_gateway import probe
from shopcast_gateway.core.adoption import Refused
from shopcast_gateway.errors import DeadlineExpired, Overloaded, StartupError, Unavailable
from shopcast_gateway.metrics import observe_triton
from shopcast_gateway.probe import Part, Probe
from shopcast_gateway.triton.status import TritonStatus

DEAD, LATE = Unavailable("its process is dead"), DeadlineExpired("no answer")


class FakeModel:
    """Answers, or raises what `fails` gives next."""

    def __init__(self) -> None:
        self.fails: Callable[[], Exception | None] = lambda: None
        self.looks = 0

    async def __call__(self, *, timeout_s: float) -> None:
        self.looks += 1
        error = self.fails()
        if error is not None:
            raise error


class World:
    """A probe of two models. loads: what was loaded. heals: loading helps. refuses: it raises."""

    def __init__(self, *, own: bool) -> None:
        self.encoder, self.behavior = FakeModel(), FakeModel()
        self.models = {"encoder": self.encoder, "behavior": self.behavior}
        self.loads: list[tuple[str, int]] = []
        self.given_up: list[str] = []
        self.heals, self.refuses, self.busy = True, None, False
        self.refuses: Exception | None
        self.told: list[bool] = []
        self.status, self.registry = TritonStatus(up=True), CollectorRegistry()
        observe_triton(self.status, self.registry)
        parts = (
            Part("encoder", 3, self.encoder, needed=False),
            Part("behavior", 4, self.behavior, needed=True),
        )
        self.replays, self.goldens = 0, self.fine
        self.goldens: Callable[[], Exception | None]
        watched = Probe(self, parts, self.replay, self.status, self.told.append, own=own)
        self.task = asyncio.create_task(watched.run())

    async def load(self, model: str, version: int) -> None:
        self.loads.append((model, version))
        if self.refuses is not None:
            raise self.refuses
        if self.heals:
            self.models[model].fails = lambda: None

    @staticmethod
    def fine() -> None:
        return None

    async def replay(self) -> None:
        self.replays += 1
        error = self.goldens()
        if error is not None:
            raise error

    def answered_at(self, _: str) -> float:
        return time.monotonic() if self.busy else 0.0

    def give_up(self, model: str) -> None:
        self.given_up.append(model)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    async def looks(self, count: int) -> None:
        """Wait for so many looks more at each model."""
        before = [model.looks for model in self.models.values()]
        await until(
            lambda: all(
                model.looks >= seen + count
                for model, seen in zip(self.models.values(), before, strict=True)
            )
        )


async def until(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.001)


@pytest.fixture(params=[True, False], ids=["own", "elsewhere"])
async def world(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setattr(probe, "EVERY_S", 0.002)
    monkeypatch.setattr(probe, "LONGEST_PAUSE_S", 0.01)
    made = World(own=request.param)
    yield made
    made.task.cancel()
    await asyncio.gather(made.task, return_exceptions=True)


own = pytest.mark.parametrize("world", [True], indirect=True)
elsewhere = pytest.mark.parametrize("world", [False], indirect=True)


async def test_models_that_answer_are_left_alone(world: World) -> None:
    await world.looks(20)
    assert (world.loads, world.told) == ([], [])


async def test_one_failure_is_none(world: World) -> None:
    rest = iter([DEAD])
    world.behavior.fails = lambda: next(rest, None)
    await world.looks(20)
    assert (world.loads, world.told) == ([], [])


async def test_a_model_that_fails_twice_is_loaded_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.behavior.fails = lambda: DEAD
    await until(lambda: world.metric("shopcast_triton_repairs_total", model="behavior") == 1)
    assert world.loads == [("behavior", 4)]
    assert world.told == [False, True]
    assert world.metric("shopcast_triton_up") == 1
    assert world.metric("shopcast_triton_repairs_total", model="encoder") == 0
    assert world.given_up == []  # those that wait may be answered by a process that lives
    assert [r.message for r in caplog.records if r.levelno == logging.ERROR] == [
        "behavior version 4 does not answer: it is loaded again"
    ]
    await world.looks(20)
    assert len(world.loads) == 1


@elsewhere
async def test_what_is_loaded_again_and_answers_otherwise_is_asked_by_nobody(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.goldens = lambda: Refused("golden", "golden 0: a probability differs")
    rest = iter([DEAD, DEAD])
    world.encoder.fails = lambda: next(rest, None)
    await until(lambda: world.replays > 2)
    assert world.told == [False], "though the encoder answers"
    assert world.metric("shopcast_triton_up") == 0
    assert "what was loaded again is not as it was: golden 0" in caplog.text
    await until(lambda: {model for model, _ in world.loads} == {"encoder", "behavior"})
    world.goldens = world.fine
    for model in world.models:  # either may be the one: both are loaded until they reproduce
        await until(lambda: world.metric("shopcast_triton_repairs_total", model=model) == 1)  # noqa: B023
    assert world.told == [False, True]


@own
async def test_a_triton_of_our_own_that_answers_otherwise_is_stopped(world: World) -> None:
    world.goldens = lambda: Refused("golden", "golden 0: a probability differs")
    world.behavior.fails = lambda: DEAD
    async with asyncio.timeout(10):
        await world.task
    assert world.told == [False]
    assert world.replays >= probe.REPAIRS


@pytest.mark.parametrize("error", [DEAD, LATE, TimeoutError(), ValueError("no threads")])
async def test_goldens_that_cannot_be_replayed_keep_nobody_out(
    world: World, error: Exception
) -> None:
    world.goldens = lambda: error
    world.behavior.fails = lambda: DEAD
    await until(lambda: world.metric("shopcast_triton_repairs_total", model="behavior") == 1)
    assert world.told == [False, True]


async def test_without_the_encoder_what_can_be_answered_is(world: World) -> None:
    world.refuses = DEAD
    world.encoder.fails = lambda: DEAD
    await until(lambda: world.metric("shopcast_triton_up") == 0)
    await until(lambda: world.loads)
    assert world.told == []


async def test_one_of_two_processes_that_is_dead_is_noticed(world: World) -> None:
    outcomes = cycle([DEAD, None])
    world.behavior.fails = lambda: next(outcomes)
    await until(lambda: world.loads)
    await world.looks(20)
    assert world.loads == [("behavior", 4)]
    assert world.told == []  # the other one answers


async def test_a_model_that_hangs_is_loaded_again_and_its_calls_given_up(world: World) -> None:
    world.behavior.fails = lambda: LATE
    await until(lambda: world.metric("shopcast_triton_repairs_total", model="behavior") == 1)
    assert world.told == [False, True]
    assert world.given_up == ["behavior"]


async def test_a_late_answer_or_two_is_no_hang(world: World) -> None:
    outcomes = cycle([LATE, LATE, None])
    world.behavior.fails = lambda: next(outcomes)
    await world.looks(20)
    assert (world.loads, world.told) == ([], [])


@pytest.mark.parametrize("error", [LATE, Overloaded("full"), OSError(24, "Too many open files")])
async def test_a_model_that_is_busy_and_a_lack_of_ours_are_no_failure(
    world: World, error: Exception
) -> None:
    world.busy = True
    world.behavior.fails = lambda: error
    await world.looks(20)
    assert (world.loads, world.told) == ([], [])


@own
@pytest.mark.parametrize("refuses", [StartupError("refused"), DEAD, None])
@pytest.mark.parametrize("model", ["encoder", "behavior"])
async def test_our_own_triton_is_given_up_when_repairs_fail(
    world: World, refuses: Exception | None, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.refuses, world.heals = refuses, False
    world.models[model].fails = lambda: DEAD
    await asyncio.wait_for(world.task, 10)
    assert len(world.loads) == probe.REPAIRS
    assert world.metric("shopcast_triton_repairs_total", model=model) == 0
    assert world.metric("shopcast_triton_up") == 0
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 2


@elsewhere
async def test_one_elsewhere_is_waited_for_and_both_models_are_loaded_when_it_is_back(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.refuses = DEAD
    for model in world.models.values():
        model.fails = lambda: DEAD
    await until(lambda: len(world.loads) > 10)
    assert world.told == [False]
    assert world.metric("shopcast_triton_up") == 0
    world.loads.clear()
    world.refuses = None
    await until(lambda: world.metric("shopcast_triton_up") == 1)
    assert {("encoder", 3), ("behavior", 4)} <= set(world.loads)
    assert world.told == [False, True]
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 2, "one for each"
    assert not world.task.done()


@pytest.mark.parametrize("refuses", [StartupError("refused"), DEAD, OSError(24, "Too many files")])
async def test_a_model_that_answers_again_without_being_loaded_serves(
    world: World, refuses: Exception
) -> None:
    world.refuses = refuses
    rest = iter([DEAD] * probe.FAILURES)
    world.behavior.fails = lambda: next(rest, None)
    await until(lambda: len(world.loads) > 2 * probe.REPAIRS)
    assert world.told == [False, True]
    assert world.metric("shopcast_triton_up") == 0  # it is still to be repaired
    assert not world.task.done(), "a Triton of our own is not stopped either"
    world.refuses = None
    await until(lambda: world.metric("shopcast_triton_repairs_total", model="behavior") == 1)


@own
async def test_a_model_that_answers_otherwise_is_given_up_though_it_was_not_loaded(
    world: World,
) -> None:
    world.refuses = DEAD
    world.goldens = lambda: Refused("golden", "golden 0: a probability differs")
    rest = iter([DEAD] * probe.FAILURES)
    world.behavior.fails = lambda: next(rest, None)
    await asyncio.wait_for(world.task, 10)
    assert world.loads.count(("behavior", 4)) == probe.REPAIRS
    assert world.told == [False], "nobody was to ask it"
