"""A worker that is told what to answer with, and what it tells of it; its engines are fakes."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from virtual_time import VirtualLoop, now, timed

from shopcast_gateway.backend.rotation import Ejected, Moved
from shopcast_gateway.core.adoption_status import AdoptionStatus
from shopcast_gateway.engine import Engine, Switch
from shopcast_gateway.errors import QuotaExceeded, StartupError, Unavailable
from shopcast_gateway.fleet import Addresses
from shopcast_gateway.logs import Logs
from shopcast_gateway.settings import ServeSettings
from shopcast_gateway.transport.authentication import Caller
from shopcast_gateway.transport.authorisation import Access
from shopcast_gateway.workers import pool as pools
from shopcast_gateway.workers import worker
from shopcast_gateway.workers.link import Link
from shopcast_gateway.workers.messages import (
    FROM_WORKER,
    TO_WORKER,
    Assignment,
    Begin,
    Failed,
    Failing,
    OnTrial,
    Place,
    Report,
    Spent,
    Stop,
)
from shopcast_gateway.workers.pool import Pool
from shopcast_gateway.workers.pool import Worker as Attended
from shopcast_gateway.workers.worker import _Worker

ELSEWHERE = "triton:8001"  # one server for every engine
PAIR = {"triton-a:8001": True, "triton-b:8001": True}


class FakeEngine:
    def __init__(self, version: int, number: int, addresses: Addresses) -> None:
        self.version, self.number, self.status = version, number, addresses.status
        self.rotation: dict[str, bool] = {}
        self.took_over: int | None = None

    def follow(self, rotation: dict[str, bool]) -> None:
        self.rotation = rotation

    async def take_over(self, other: "FakeEngine") -> None:
        self.took_over = other.number

    async def retire(self) -> None:
        pass


class FakeServer:
    def __init__(self) -> None:
        self.started, self.serving = asyncio.Event(), False
        self.stopping, self.calls_ended = asyncio.Event(), asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        self.serving = serving

    def set_accepting(self, accepting: bool) -> None:
        pass

    def tell_adoption(self, refusal: str | None) -> None:
        pass

    async def start(self) -> None:
        self.started.set()

    async def stop(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self.stopping.set()
        await self.calls_ended.wait()


class FakeLink:
    """received: what comes over it, one after the other; nothing after that."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.received: asyncio.Queue[Any] = asyncio.Queue()

    async def receive(self) -> Any:
        return await self.received.get()

    async def close(self) -> None:
        pass

    def send(self, message: Any) -> None:
        assert FROM_WORKER.validate_json(FROM_WORKER.dump_json(message)) == message
        self.sent.append(message)


class World:
    """A worker and what it does. attached: engines, in the order in which they were made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.attached: list[FakeEngine] = []
        self.switch, self.link = Switch(), FakeLink()
        self.registry = CollectorRegistry()

        async def attach(
            _: Path, version: int, addresses: Addresses, *__: Any, number: int, rotation: Any
        ) -> Any:
            self.attached.append(FakeEngine(version, number, addresses))
            self.attached[-1].follow(rotation)
            return self.attached[-1]

        monkeypatch.setattr(Engine, "attach", attach)
        settings = SimpleNamespace(repository=Path(), hedge_after_s=None)
        frontend = SimpleNamespace(
            switch=self.switch,
            registry=self.registry,
            settings=settings,
            directory=None,
            recorder=None,
            busy=lambda: False,
        )
        self.worker = _Worker(self.link, frontend)  # type: ignore[arg-type]

    async def follow(self, serving: Place | None, trial: Place | None = None) -> None:
        on_trial = None if trial is None else OnTrial(trial, share=0.5, shadow=0.0)
        assigned = Assignment(1, serving, on_trial, able=True, refusal=None, leaving=False)
        await self.worker._follow(assigned)
        await self.worker._try_out(on_trial)


@pytest.fixture
def settings(tmp_path: Path) -> ServeSettings:
    return ServeSettings(
        repository=tmp_path,
        directory=tmp_path / "shop.db",
        host="127.0.0.1",
        port=0,
        triton_urls=(),
        triton_home=tmp_path,
        triton_log=tmp_path / "log",
        workers=1,
    )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def place(number: int, version: int, rotation: dict[str, bool] | None = None) -> Place:
    return Place(number, version, ", ".join(rotation or {ELSEWHERE: True}), rotation or {})


async def test_engines_on_one_server_are_told_apart(world: World) -> None:
    await world.follow(place(1, 1), place(2, 2))
    await world.follow(place(1, 1), place(3, 3))  # the end of the trial before was never told
    assert world.switch.trial is not None
    assert world.switch.trial.version == 3
    await world.follow(place(3, 3))
    await world.follow(place(4, 3))
    assert [(one.number, one.version) for one in world.attached] == [
        *((1, 1), (2, 2), (3, 3)),
        *((3, 3), (4, 3)),
    ]
    assert [one.took_over for one in world.attached] == [None, 1, 1, 1, 3]
    await asyncio.sleep(0.01)
    assert world.switch.held == (4,), "what was before has ended"


async def test_who_cannot_be_tried_out_keeps_no_worker_from_answering(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FakeServer()
    world.worker._frontend.build_server = lambda *_, **__: server  # type: ignore[method-assign, assignment]
    attach = Engine.attach

    async def fails(repository: Path, version: int, *more: Any, **options: Any) -> Any:
        if version == 2:
            raise Unavailable("away")
        return await attach(repository, version, *more, **options)

    monkeypatch.setattr(Engine, "attach", fails)
    monkeypatch.setattr(worker, "_AGAIN_S", 0.01)
    trial = OnTrial(place(2, 2), share=0.5, shadow=0.0)
    world.worker._wanted = Assignment(3, place(1, 1), trial, able=True, refusal=None, leaving=False)
    world.worker._news.set()
    begin: Any = SimpleNamespace(port=0, files={})
    working = asyncio.create_task(world.worker._carry_out(begin))
    async with asyncio.timeout(10):
        await server.started.wait()
        while len(world.link.sent) < 3:  # noqa: ASYNC110 - it goes on trying
            await asyncio.sleep(0.01)
    working.cancel()
    assert set(world.link.sent) == {Report(3, (1,))}
    assert server.serving
    assert world.switch.trial is None


async def test_who_lets_calls_end_still_gives_signs_of_life(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FakeServer()
    world.worker._frontend.build_server = lambda *_, **__: server  # type: ignore[method-assign, assignment]
    world.worker._frontend.access = None  # type: ignore[misc]
    monkeypatch.setattr(worker, "_REPORT_S", 0.01)
    begin: Any = SimpleNamespace(port=0, files={})
    working = asyncio.create_task(world.worker.run(begin))
    assigned = Assignment(1, place(1, 1), None, able=True, refusal=None, leaving=False)
    world.link.received.put_nowait(assigned)
    async with asyncio.timeout(10):
        await server.started.wait()
        world.link.received.put_nowait(Stop(600.0))
        await server.stopping.wait()
        world.link.sent.clear()
        while len(world.link.sent) < 3:  # noqa: ASYNC110 - signs of life, while calls run
            await asyncio.sleep(0.01)
        server.calls_ended.set()
        await working
    assert server.grace_s == 600.0


async def test_a_worker_does_not_read_a_directory_from_end_to_end_that_its_parent_has_read(
    settings: ServeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_directory(*_: Any, checked: bool = False, **__: Any) -> Any:
        raise StartupError("this takes no time" if checked else "this takes minutes")

    async def over(*_: Any) -> FakeLink:
        return link

    link = FakeLink()
    link.received.put_nowait(Begin(settings, 0, 0))
    monkeypatch.setattr(worker, "open_directory", open_directory)
    monkeypatch.setattr(Link, "over", over)
    monkeypatch.setattr(Logs, "set_up", lambda *_: None)
    nothing: Any = None
    await worker.work(nothing)
    assert link.sent == [Failed("this takes no time")]


async def test_who_can_open_no_port_says_why(world: World) -> None:
    def build_server(*_: Any, **__: Any) -> Any:
        raise StartupError("the certificate is another's")

    world.worker._frontend.build_server = build_server  # type: ignore[method-assign]
    world.worker._frontend.access = None  # type: ignore[misc]
    assigned = Assignment(1, place(1, 1), None, able=True, refusal=None, leaving=False)
    world.link.received.put_nowait(assigned)
    begin: Any = SimpleNamespace(port=0, files={})
    with pytest.raises(StartupError, match="another's"):
        await asyncio.wait_for(world.worker.run(begin), 10)


async def test_what_is_the_same_as_before_is_kept(world: World) -> None:
    await world.follow(place(1, 1, PAIR), place(2, 2, PAIR))
    fewer = PAIR | {"triton-b:8001": False}
    await world.follow(place(1, 1, fewer), place(2, 2, fewer))
    first, second = world.attached
    assert first.rotation == second.rotation == fewer
    assert (world.switch.engine, world.switch.trial_engine) == (first, second)


async def test_who_fails_its_calls_is_told_with_the_engine(world: World) -> None:
    await world.follow(place(7, 1, PAIR))
    status = world.attached[0].status
    assert tuple(status.addresses) == tuple(PAIR)
    for change in (Moved("triton-a:8001", True), Ejected("triton-a:8001"), "retry", "hedge"):
        status.tell(change)  # type: ignore[arg-type]
    assert world.link.sent == [Failing(7, "triton-a:8001")]
    for name in ("retries", "hedges"):
        assert world.registry.get_sample_value(f"shopcast_triton_{name}_total") == 1


def test_who_looks_after_workers_waits_for_those_that_hold_an_engine() -> None:
    nothing: Any = None
    attended, engine = Attended(nothing, nothing, 0), FakeEngine(1, 5, Addresses(nothing))
    assert attended.holds(engine, 3), "it has said nothing yet"  # type: ignore[arg-type]
    for report, holds in (
        (Report(2, (6,)), True),
        (Report(3, (5, 6)), True),
        (Report(3, (6,)), False),
    ):
        attended.report = report
        assert attended.holds(engine, 3) == holds  # type: ignore[arg-type]


@timed
async def test_a_silence_that_is_too_long_is_told() -> None:
    attended, began = Attended(None, FakeLink(), 0), now()  # type: ignore[arg-type]
    attended.report = Report(1, ())
    with pytest.raises(TimeoutError):
        await attended.receive()
    assert now() - began == pytest.approx(pools.SILENCE_S)


@timed
async def test_what_the_whole_machine_stood_still_is_no_silence_of_a_worker() -> None:
    link, loop = FakeLink(), asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    attended, report = Attended(None, link, 0), Report(2, ())  # type: ignore[arg-type]
    attended.report = Report(1, ())
    receiving = asyncio.create_task(attended.receive())
    await asyncio.sleep(5)
    loop.now += 3600
    await asyncio.sleep(0.5)
    link.received.put_nowait(report)
    assert await receiving is report


async def test_workers_have_settled_once_all_that_answer_have_done_what_they_were_told(
    settings: ServeSettings,
) -> None:
    pool = Pool(settings, AdoptionStatus(), 0, None, None)
    process, link = None, SimpleNamespace(send=lambda _: None)
    first, second, starting = (
        Attended(process, link, number)  # type: ignore[arg-type]
        for number in range(3)
    )
    first.report = second.report = Report(0, ())
    pool._workers.update((first, second, starting))
    pool.set_serving(True)
    settled = asyncio.create_task(pool.settled())
    for one in (first, second):
        await asyncio.sleep(0.01)
        assert not settled.done()
        pool._take(one, Report(1, ()), asyncio.get_running_loop().create_future())
    await settled


async def test_what_is_on_trial_runs_once_all_that_answer_have_it(settings: ServeSettings) -> None:
    pool = Pool(settings, AdoptionStatus(), 0, None, None)
    process, link = None, SimpleNamespace(send=lambda _: None)
    workers = [Attended(process, link, number) for number in range(3)]  # type: ignore[arg-type]
    pool._workers.update(workers)
    assert pool.trial is None
    nothing: Any = None
    trial: Any = SimpleNamespace(version=2, share=0.5, shadow=0.0)
    engine: Any = FakeEngine(2, 6, Addresses(nothing))
    engine.address = ELSEWHERE
    await pool.switch.put_on_trial(trial, engine)
    for reports, runs in (
        ([Report(1, (5,)), Report(1, (5,))], False),
        ([Report(1, (5, 6)), Report(1, (5,))], False),
        ([Report(1, (5, 6)), Report(1, (5, 6))], True),
    ):
        workers[0].report, workers[1].report = reports
        assert pool.trial is (trial if runs else None)


class FakeAttended:
    """Says nothing and does not end by itself."""

    report, compared = None, dict[int, Any]()

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.ended = False

    def send(self, message: Any) -> None:
        self.told.append(message)

    async def receive(self) -> None:
        await asyncio.Event().wait()

    async def end(self) -> None:
        self.ended = True


async def test_who_replaces_a_worker_gets_the_files_that_are_in_force(
    settings: ServeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, fake = tmp_path / "access.toml", FakeAttended()
    held = b'[[caller]]\nname = "shop"\nroles = ["predict"]\ncertificates = ["CN:shop"]\n'
    file.write_bytes(held)
    access = Access(file, certificates=True)

    async def start(*_: Any) -> FakeAttended:
        return fake

    monkeypatch.setattr(Attended, "start", start)
    pool = Pool(settings, AdoptionStatus(), 0, None, None, access)
    file.write_text("half")
    starting = asyncio.create_task(pool.start())
    async with asyncio.timeout(10):
        while not fake.told:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    [begin, *_] = fake.told
    assert begin.files == {file: held}
    begin = Begin(settings, 0, 0, {file: b"\xff\x00 no text"})
    received = TO_WORKER.validate_json(TO_WORKER.dump_json(begin))
    assert isinstance(received, Begin)
    assert received.files == begin.files
    assert "no text" not in repr(begin)
    for task in (starting, *pool._keeping):
        task.cancel()
    await asyncio.gather(starting, *pool._keeping, return_exceptions=True)


async def test_who_replaces_a_worker_begins_with_the_quotas_as_they_are(
    settings: ServeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, fake = tmp_path / "access.toml", FakeAttended()
    file.write_text(
        '[[caller]]\nname = "shop"\nroles = ["predict"]\ncertificates = ["CN:shop"]\n'
        "quota = {requests_per_s = 0.001, burst = 3}\n"
    )
    parent, worker = (Access(file, certificates=True, shared=True) for _ in range(2))
    parent.admit(Caller("shop"), "/shopcast.v1.PredictionService/Predict")
    parent.admit(Caller("shop"), "/shopcast.v1.PredictionService/Predict")

    async def start(*_: Any) -> FakeAttended:
        return fake

    monkeypatch.setattr(Attended, "start", start)
    pool = Pool(settings, AdoptionStatus(), 0, None, None, parent)
    starting = asyncio.create_task(pool.start())
    async with asyncio.timeout(10):
        while not fake.told:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    for message in fake.told:
        if isinstance(message, Spent):
            worker.quotas.charge(message.spendings)
    worker.admit(Caller("shop"), "/shopcast.v1.PredictionService/Predict")
    with pytest.raises(QuotaExceeded):
        worker.admit(Caller("shop"), "/shopcast.v1.PredictionService/Predict")
    for task in (starting, *pool._keeping):
        task.cancel()
    await asyncio.gather(starting, *pool._keeping, return_exceptions=True)


async def test_who_waits_to_replace_a_worker_holds_up_no_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    async def attend(self: Pool, number: int, up: "asyncio.Future[None]") -> str:
        nonlocal tries
        tries += 1
        if not up.done():
            up.set_result(None)
        return "it came to an end"

    monkeypatch.setattr(Pool, "_attend", attend)
    monkeypatch.setattr(pools, "_PAUSES_S", (60.0, 60.0))
    settings: Any = SimpleNamespace(workers=1)
    pool = Pool(settings, AdoptionStatus(), 0, None, None)
    await pool.start()
    async with asyncio.timeout(5):
        while tries < 2:  # noqa: ASYNC110 - then it pauses
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        await pool.stop(60.0)
    assert tries == 2


async def test_a_worker_that_is_being_started_when_all_stop_serves_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, spawned, fake = asyncio.Event(), asyncio.Event(), FakeAttended()

    async def start(*_: Any) -> FakeAttended:
        asked.set()
        await spawned.wait()
        return fake

    monkeypatch.setattr(Attended, "start", start)
    settings: Any = SimpleNamespace(workers=1)
    pool = Pool(settings, AdoptionStatus(), 0, None, None)
    starting = asyncio.create_task(pool.start())
    await asked.wait()
    stopping = asyncio.create_task(pool.stop(60.0))
    await asyncio.sleep(0)
    spawned.set()
    async with asyncio.timeout(5):
        await stopping
    assert fake.ended
    assert not fake.told
    starting.cancel()
