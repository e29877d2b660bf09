"""What keeps a gateway answering while versions come and Tritons go; the engines are fakes."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from shopcast_gateway import engine as engines
from shopcast_gateway import supervisor
from shopcast_gateway.core.adoption import Refused
from shopcast_gateway.core.adoption_status import AdoptionStatus
from shopcast_gateway.core.histories import Histories
from shopcast_gateway.engine import Engine, Shared, Switch, TritonDied, Tritons
from shopcast_gateway.errors import StartupError, Unavailable
from shopcast_gateway.metrics import observe, observe_triton
from shopcast_gateway.triton.status import TritonStatus
from shopcast_repository.serving import SERVING, Serving, Trial


class FakePrior:
    async def predict(self, query: Any, *, timeout_s: float) -> Any:
        raise Unavailable("no model, and base rates will not do")


class FakeEngine:
    """Ends when it is told to."""

    def __init__(self, version: int) -> None:
        self.prior = FakePrior()
        self.version = version
        self.died: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = self.watched = False
        self.rotation: dict[str, bool] = {}
        self.took_over: FakeEngine | None = None

    async def take_over(self, other: "FakeEngine") -> None:
        self.took_over = other

    async def ended(self) -> int:
        return await asyncio.shield(self.died)

    async def watch(
        self, status: TritonStatus, able: Callable[[bool], None], *, on_trial: bool = False
    ) -> None:
        self.able, self.watched = able, True
        await asyncio.shield(self.given_up)

    async def kill(self) -> None:
        self.died.set_result(9)

    async def close(self) -> None:
        self.closed = True

    retire = close


class FakeServer:
    def __init__(self) -> None:
        self.serving = True

    def set_serving(self, serving: bool) -> None:
        self.serving = serving

    async def wait(self) -> None:
        await asyncio.get_running_loop().create_future()


class World:
    """A supervisor with version 1 in service. starts: what starting a version gives or raises, one
    after the other in a list, once `hold` is set if there is one."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.server, self.switch = folder, FakeServer(), Switch()
        self.status, self.registry = AdoptionStatus(), CollectorRegistry()
        observe(self.status, self.registry)
        self.health = TritonStatus(up=True)
        observe_triton(self.health, self.registry)
        self.first = FakeEngine(1)
        self.switch.engine = self.first  # type: ignore[assignment]
        self.status.want(1)
        self.status.adopted(1)
        self.starts: dict[int, Any] = {}
        self.started: list[int] = []
        self.hold: asyncio.Event | None = None

        async def start(tritons: Tritons, directory: object, version: int) -> Any:
            self.started.append(version)
            if self.hold is not None:
                await self.hold.wait()
            found = self.starts.get(version) or FakeEngine(version)
            if isinstance(found, list):
                found = found.pop(0) if found else FakeEngine(version)
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(Engine, "start", start)
        monkeypatch.setattr(supervisor, "_LOOK_S", 0.01)
        monkeypatch.setattr(engines, "_AGAIN_S", (0.01, 0.01))
        for number in (1, 2, 3):
            made = folder / "behavior" / str(number) / "manifest.json"
            made.parent.mkdir(parents=True)
            made.touch()
        tritons = Tritons(folder, url=None, home=folder, log=folder / "log")
        seen = self.say(1)
        shared = Shared(None, Histories())  # type: ignore[arg-type]
        self.task = asyncio.create_task(
            supervisor.Supervisor(
                tritons, shared, self.switch, self.server, self.status, self.health, seen,  # type: ignore[arg-type]
            ).run()
        )  # fmt: skip

    def say(self, *versions: int, trial: Trial | None = None) -> Serving:
        said = Serving(versions=versions, trial=trial)
        (self.folder / SERVING).write_text(said.model_dump_json())
        return said

    @property
    def version(self) -> int:
        assert self.switch.engine is not None
        return self.switch.engine.version

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


async def until(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.01)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = World(tmp_path, monkeypatch)
    yield made
    made.task.cancel()
    await asyncio.gather(made.task, return_exceptions=True)


async def test_what_is_promoted_is_taken_up(world: World) -> None:
    world.say(1, 2)
    await until(lambda: world.version == 2)
    await until(lambda: world.first.closed)
    assert world.metric("shopcast_model_version") == 2
    world.say(1)
    await until(lambda: world.version == 1)
    assert world.metric("shopcast_model_adoptions_total") == 3


@pytest.mark.parametrize(
    "error", [Refused("golden", "it differs"), OSError(28, "No space left on device"), ValueError()]
)
async def test_whatever_goes_wrong_with_a_version_the_one_before_goes_on(
    world: World, error: Exception
) -> None:
    world.starts[2] = error
    world.say(1, 2)
    await until(lambda: world.status.refusal is not None)
    assert world.version == 1
    assert not world.first.closed
    assert world.server.serving
    assert not world.task.done()
    assert world.metric("shopcast_model_refused") == 1
    world.say(1)
    await until(lambda: world.status.refusal is None)
    assert world.metric("shopcast_model_refused") == 0
    assert world.metric("shopcast_model_adoptions_total") == 1  # nothing was taken up anew
    world.say(1, 3)
    await until(lambda: world.version == 3)


async def test_a_triton_that_ends_while_a_version_is_taken_up_is_noticed(world: World) -> None:
    world.hold = asyncio.Event()
    world.say(1, 2)
    await until(lambda: world.started == [2])
    assert world.metric("shopcast_model_wanted_version") == 2  # said before it serves
    world.first.died.set_result(9)
    await until(lambda: not world.server.serving)
    world.hold.set()
    await until(lambda: world.server.serving)
    assert (world.version, world.started) == (2, [2])
    assert not world.switch.off


async def test_a_version_is_ready_for_the_calls_of_the_one_before(world: World) -> None:
    world.say(1, 2)
    await until(lambda: world.version == 2)
    second: Any = world.switch.engine
    assert second.took_over is world.first
    world.say(2, trial=Trial(version=3, share=0.5))
    await until(lambda: world.switch.trial is not None)
    third: Any = world.switch.trial_engine
    assert third.took_over is second


async def test_who_stops_while_a_version_gets_ready_leaves_nothing_of_it(world: World) -> None:
    second = world.starts[2] = FakeEngine(2)
    getting_ready = asyncio.Event()

    async def take_over(other: FakeEngine) -> None:
        getting_ready.set()
        await asyncio.Event().wait()

    second.take_over = take_over  # type: ignore[method-assign]
    world.say(1, 2)
    await getting_ready.wait()
    world.task.cancel()
    await asyncio.gather(world.task, return_exceptions=True)
    assert second.closed


async def test_a_trial_that_begins_holds_up_nothing_that_is_promoted(world: World) -> None:
    second = world.starts[2] = FakeEngine(2)
    getting_ready = asyncio.Event()

    async def take_over(other: FakeEngine) -> None:
        getting_ready.set()
        await asyncio.Event().wait()

    second.take_over = take_over  # type: ignore[method-assign]
    world.say(1, trial=Trial(version=2, share=0.5))
    await getting_ready.wait()
    world.say(1, 3)
    await until(lambda: world.version == 3)
    assert second.closed
    assert world.switch.trial is None
    world.say(1, 3, trial=Trial(version=2, share=0.5))
    del world.starts[2]
    await until(lambda: world.switch.trial is not None)


async def test_a_trial_that_begins_holds_up_no_triton_that_comes_back(world: World) -> None:
    world.hold = asyncio.Event()
    world.say(1, trial=Trial(version=2, share=0.1))
    await until(lambda: world.started == [2])
    world.first.died.set_result(9)
    await until(lambda: world.started == [2, 1])
    world.hold.set()
    await until(lambda: world.server.serving and world.switch.trial is not None)
    assert world.version == 1


async def test_what_was_replaced_holds_up_no_triton_that_comes_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = asyncio.Event()
    monkeypatch.setattr(world.first, "retire", hanging.wait)
    world.say(1, 2)
    await until(lambda: world.version == 2)
    second: Any = world.switch.engine
    second.died.set_result(9)
    await until(lambda: world.started == [2, 2] and world.server.serving)
    hanging.set()


async def test_goldens_that_were_late_once_when_triton_returns_roll_nothing_back(
    world: World,
) -> None:
    world.say(1, 2)
    await until(lambda: world.version == 2)
    world.starts[2] = [Refused("replay", "it is late")]
    second: Any = world.switch.engine
    second.died.set_result(9)
    await until(lambda: world.switch.engine not in (None, second) and world.server.serving)
    assert (world.version, world.started) == (2, [2, 2, 2])


async def test_a_trial_whose_models_cannot_be_repaired_ends(world: World) -> None:
    world.say(1, trial=Trial(version=2, share=0.5))
    await until(lambda: world.switch.trial is not None)
    tried: Any = world.switch.trial_engine
    await until(lambda: tried.watched)
    tried.able(False)
    assert world.server.serving, "the other one answers"
    tried.given_up.set_result(None)
    await until(lambda: world.switch.trial is None)
    assert world.server.serving


async def test_it_comes_back_with_the_old_version_if_the_new_one_is_refused(world: World) -> None:
    world.hold, world.starts[2] = asyncio.Event(), Refused("golden", "it differs")
    world.say(1, 2)
    await until(lambda: world.started == [2])
    world.first.died.set_result(9)
    await until(lambda: not world.server.serving)
    world.hold.set()
    await until(lambda: world.server.serving)
    assert (world.version, world.started) == (1, [2, 1])


@pytest.mark.parametrize("error", [Refused("replay", "it is late"), TritonDied("it ended")])
async def test_a_passing_failure_is_tried_again(world: World, error: Exception) -> None:
    world.starts[2] = [error, error]
    world.say(1, 2)
    await until(lambda: world.version == 2)
    assert world.started == [2, 2, 2]
    assert world.metric("shopcast_model_refused") == 0
    world.starts[3] = [error, error, error]
    world.say(1, 2, 3)
    await until(lambda: world.status.refusal is not None)
    assert (world.version, world.started[3:]) == (2, [3, 3, 3])


async def test_a_lasting_failure_is_not(world: World) -> None:
    world.starts[2] = [Refused("golden", "it differs")]
    world.say(1, 2)
    await until(lambda: world.status.refusal is not None)
    assert world.started == [2]


async def test_when_triton_returns_and_the_version_is_broken_the_one_before_serves(
    world: World,
) -> None:
    world.say(1, 2)
    await until(lambda: world.version == 2)
    world.starts[2] = Refused("files", "a byte differs")
    second: Any = world.switch.engine
    second.died.set_result(9)
    await until(lambda: world.version == 1 and world.server.serving)
    assert world.status.refusal is not None
    assert world.metric("shopcast_model_version") == 1


async def test_when_triton_returns_and_the_record_is_broken_what_served_goes_on(
    world: World,
) -> None:
    world.say(1, 2)
    await until(lambda: world.version == 2)
    (world.folder / SERVING).write_text("{")
    second: Any = world.switch.engine
    second.died.set_result(9)
    await until(lambda: world.switch.engine not in (None, second) and world.server.serving)
    assert world.version == 2
    assert not world.task.done()


async def test_when_triton_returns_and_what_served_is_broken_too_no_other_is_guessed(
    world: World,
) -> None:
    (world.folder / SERVING).write_text("{")
    world.starts[1] = Refused("files", "a byte differs")
    world.first.died.set_result(9)
    with pytest.raises(StartupError, match="version 1: a byte differs"):
        await asyncio.wait_for(world.task, 10)
    assert set(world.started) == {1}


async def test_a_broken_record_is_said_once_and_changes_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    (world.folder / SERVING).write_text("{")
    await asyncio.sleep(0.2)
    assert world.version == 1
    assert len([r for r in caplog.records if "does not say which version" in r.message]) == 1
    world.say(1, 2)
    await until(lambda: world.version == 2)


async def test_while_no_model_answers_predictions_are_refused(world: World) -> None:
    await until(lambda: world.first.watched)
    world.first.able(False)
    assert not world.server.serving
    with pytest.raises(Unavailable):
        await world.switch.predict(None, timeout_s=1.0)  # type: ignore[arg-type]
    world.first.able(True)
    assert world.server.serving
    assert not world.switch.off


async def test_a_version_that_is_taken_up_meanwhile_serves(world: World) -> None:
    await until(lambda: world.first.watched)
    world.first.able(False)
    world.say(1, 2)
    await until(lambda: world.server.serving)
    assert world.version == 2
    assert not world.switch.off


async def test_a_triton_that_is_given_up_is_replaced(world: World) -> None:
    await until(lambda: world.first.watched)
    world.first.able(False)
    world.first.given_up.set_result(None)
    await until(lambda: world.started == [1] and world.server.serving)
    assert world.first.died.done()
    assert not world.switch.off
    assert world.metric("shopcast_triton_restarts_total") == 1
    assert world.metric("shopcast_triton_up") == 1
    successor: Any = world.switch.engine
    await until(lambda: successor.watched)


def test_tritons_that_keep_ending_are_started_ever_more_slowly_and_then_no_more(
    tmp_path: Path,
) -> None:
    tritons = Tritons(tmp_path, url=None, home=tmp_path, log=tmp_path / "log")
    assert [tritons.count_death() for _ in range(4)] == [0.0, 1.0, 2.0, 4.0]
    with pytest.raises(StartupError, match="Triton ended 5 times"):
        tritons.count_death()


async def test_an_engine_leaves_no_server_whatever_fails() -> None:
    class Part:
        closed = stopped = False

        def __init__(self, error: Exception | None = None) -> None:
            self.error = error

        async def close(self) -> None:
            self.closed = True
            if self.error:
                raise self.error

        async def stop(self) -> None:
            self.stopped = True

    vectors, backend, triton = Part(OSError("full")), Part(ValueError("gone")), Part()
    engine = Engine(1, None, vectors, backend, triton, "", None)  # type: ignore[arg-type]
    with pytest.raises((OSError, ValueError)):
        await engine.close()
    assert vectors.closed
    assert backend.closed
    assert triton.stopped


async def test_a_trial_begins_changes_and_ends(world: World) -> None:
    world.say(1, trial=Trial(version=2, share=0.5))
    await until(lambda: world.switch.trial is not None)
    trial, engine = world.switch.trial, world.switch.trial_engine
    assert trial is not None
    assert (trial.version, trial.share, trial.shadow, world.version) == (2, 0.5, 0.0, 1)
    world.say(1, trial=Trial(version=2, shadow=0.25))
    await until(lambda: trial.shadow == 0.25)
    assert world.switch.trial_engine is engine
    assert trial.share == 0
    world.say(1, 2)
    await until(lambda: world.version == 2)
    assert world.switch.trial is None
    assert world.started == [2, 2]


async def test_a_version_that_may_not_serve_is_not_tried(world: World) -> None:
    world.starts[2] = Refused("golden", "it does otherwise")
    world.say(1, trial=Trial(version=2, share=0.5))
    await until(lambda: 2 in world.status.refusals)
    assert world.switch.trial is None
    assert world.status.refusal is None, "what is to serve does"


async def test_a_trial_whose_triton_ends_is_over(world: World) -> None:
    world.say(1, trial=Trial(version=2, share=0.5))
    await until(lambda: world.switch.trial is not None)
    engine: Any = world.switch.trial_engine
    engine.died.set_result(9)
    await until(lambda: world.switch.trial is None)
    assert world.server.serving
    assert world.version == 1
    world.say(1, trial=Trial(version=2, share=0.5, at=datetime.now(UTC)))
    await until(lambda: world.switch.trial is not None)
