"""The gateway as a process: it outlives its Triton, and leaves nothing behind when it ends."""

import asyncio
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis_servers import RedisServer

from shopcast_client import (
    Account,
    Event,
    EventKind,
    Item,
    LevelReason,
    PredictResult,
    ServiceLevel,
    ShopcastClient,
    ShopcastError,
    TooStale,
    Unavailable,
)
from shopcast_domain.events import Account as StoredAccount
from shopcast_gateway.directory.open import open_directory

if TYPE_CHECKING:
    from tests.conftest import Built, Gateway

Serve = Callable[..., "Gateway"]
WaitUntil = Callable[..., Any]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def ask(
    address: str,
    user_id: str = "u-1",
    *,
    timeout_s: float = 20.0,
    lowest_level: ServiceLevel = ServiceLevel.FULL,
    max_history_age: timedelta | None = None,
) -> PredictResult:
    """A new title each time, so that the encoder is asked too."""
    item = Item("i-1", title=f"Trail shoe {uuid.uuid4().hex}", price=89.0)
    async with ShopcastClient(address, timeout_s=timeout_s) as client:
        return await client.predict(
            platform="web",
            user_id=user_id,
            items=[item],
            lowest_level=lowest_level,
            max_history_age=max_history_age,
        )


@contextmanager
def health_of(address: str) -> Iterator[Callable[[], int]]:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        yield lambda: stub.Check(request, timeout=20.0, wait_for_ready=True).status


def leftovers(pid: int) -> set[Path]:
    """What a gateway's Triton has in shared memory and in the temporary folder."""
    regions = Path("/dev/shm").glob(f"shopcast_{pid}_*")
    folders = Path(tempfile.gettempdir()).glob(f"shopcast-triton-{pid}-*")
    return {*regions, *folders}


@pytest.fixture(scope="module")
def gateway(
    built: "Built", serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> "Iterator[Gateway]":
    gateway = serve(built.repository, tmp_path_factory.mktemp("runtime") / "shop.db").wait_ready()
    yield gateway
    assert gateway.stop() == 0


async def test_a_triton_that_is_killed_is_replaced(
    gateway: "Gateway", wait_until: WaitUntil
) -> None:
    assert (await ask(gateway.address)).predictions
    (triton,) = gateway.tritons()
    with health_of(gateway.address) as health:
        assert health() == SERVING
        triton.kill()
        wait_until(lambda: health() == NOT_SERVING, "health says so")
        refused = 0
        # Callers go on asking, and are told to try again.
        while health() == NOT_SERVING:
            try:
                await ask(gateway.address, timeout_s=1.0)
            except Unavailable:
                refused += 1
        assert refused
        assert health() == SERVING
    assert (await ask(gateway.address)).predictions
    (successor,) = gateway.tritons()
    assert successor.pid != triton.pid
    assert gateway.logged("Triton ended with status")


async def test_base_rates_are_told_while_triton_is_away_to_whom_they_will_do(
    gateway: "Gateway", wait_until: WaitUntil
) -> None:
    assert (await ask(gateway.address, lowest_level=ServiceLevel.PRIOR)).evidence.level == "full"
    (triton,) = gateway.tritons()
    with health_of(gateway.address) as health:
        triton.kill()
        for known in (False, True):  # at once, and when the gateway has noticed
            if known:
                wait_until(lambda: health() == NOT_SERVING, "health says so")
            answer = await ask(gateway.address, timeout_s=2.0, lowest_level=ServiceLevel.PRIOR)
            assert answer.evidence.level is ServiceLevel.PRIOR
            assert answer.evidence.level_reason is LevelReason.MODEL_AWAY
            (one,) = answer.predictions
            assert one.purchase_probability > 0
            told = one.view_probability + one.purchase_probability
            assert told == pytest.approx(1.0, abs=1e-6)
            with pytest.raises(Unavailable):
                await ask(gateway.address, timeout_s=0.5, lowest_level=ServiceLevel.NO_HISTORY)
        wait_until(lambda: health() == SERVING, "Triton is back")
    answer = await ask(gateway.address, lowest_level=ServiceLevel.PRIOR)
    assert (answer.evidence.level, answer.evidence.level_reason) == (ServiceLevel.FULL, None)


async def test_a_history_at_hand_is_told_while_the_store_is_away_to_whom_it_will_do(
    built: "Built", serve: Serve, tmp_path: Path
) -> None:
    redis = RedisServer(tmp_path / "redis").start()
    try:
        key = ("--directory-key", tmp_path / "ring.key")
        gateway = serve(built.repository, redis.url, *key).wait_ready()
        anna = Account("web", "anna")
        event = Event("e-1", anna, EventKind.VIEW, datetime.now(UTC), Item("i-1", title="Shoe"))
        async with ShopcastClient(gateway.address, timeout_s=20.0) as client:
            await client.record_events([event])

            async def stale(**limits: Any) -> PredictResult:
                return await ask(
                    gateway.address,
                    "anna",
                    timeout_s=2.0,
                    lowest_level=ServiceLevel.STALE,
                    **limits,
                )

            assert (await stale()).evidence.level is ServiceLevel.FULL
            redis.kill()
            evidence = (await stale()).evidence
            assert evidence.level is ServiceLevel.STALE
            assert evidence.level_reason is LevelReason.STORE_AWAY
            assert (evidence.person_known, evidence.events_used) == (True, 1)
            assert evidence.history_age is not None
            assert timedelta() < evidence.history_age < timedelta(seconds=60)
            with pytest.raises(TooStale):
                await stale(max_history_age=timedelta())
            with pytest.raises(Unavailable):
                await ask(gateway.address, "anna", timeout_s=2.0)
            with pytest.raises(Unavailable):  # nothing is at hand of others
                await ask(gateway.address, "bert", timeout_s=2.0, lowest_level=ServiceLevel.STALE)
            redis.start()
            assert (await stale()).evidence.level is ServiceLevel.FULL
            assert await client.erase_person(anna)
            redis.kill()
            with pytest.raises(Unavailable):  # whoever was erased is not in any copy
                await stale()
        assert gateway.stop() == 0
    finally:
        redis.kill()


async def test_a_triton_that_dies_while_it_comes_back_is_replaced_too(
    gateway: "Gateway", wait_until: WaitUntil
) -> None:
    (triton,) = gateway.tritons()
    triton.kill()

    def loading() -> psutil.Process | None:
        """The successor, once it has a Python process: a model is being loaded."""
        for one in gateway.tritons():
            with suppress(psutil.NoSuchProcess):
                if one.pid != triton.pid and one.children():
                    return one
        return None

    successor = wait_until(loading, "the successor loads a model")
    successor.kill()
    gone = {triton.pid, successor.pid}
    with health_of(gateway.address) as health:
        wait_until(
            lambda: {one.pid for one in gateway.tritons()} - gone and health() == SERVING,
            "the second successor serves",
        )
    assert (await ask(gateway.address)).predictions
    assert "Traceback" not in gateway.log.read_text()


def test_a_model_that_was_changed_meanwhile_does_not_come_back(
    repository: Path, serve: Serve, tmp_path: Path, wait_until: WaitUntil
) -> None:
    gateway = serve(repository, tmp_path / "shop.db").wait_ready()
    family = gateway.family()
    changed = repository / "behavior" / "1" / "model.onnx"
    changed.unlink()  # a link to what other tests use
    changed.write_bytes(b"changed")
    gateway.tritons()[0].kill()
    wait_until(lambda: gateway.process.poll() is not None, "the gateway ends")
    assert gateway.process.returncode == 1
    *_, sentence = gateway.log.read_text().splitlines()
    assert sentence.startswith("error: no published version in")
    assert "behavior/1/model.onnx is not the file that was published" in sentence
    assert "Traceback" not in gateway.log.read_text()
    psutil.wait_procs(family, timeout=20.0)
    assert not [process for process in family if process.is_running()]
    assert not leftovers(gateway.process.pid)


async def test_two_gateways_share_one_directory_file(
    built: "Built", gateway: "Gateway", serve: Serve
) -> None:
    directory = next(Path(one) for one in gateway.process.args if str(one).endswith("shop.db"))
    second = serve(built.repository, directory).wait_ready()
    assert second.address != gateway.address
    assert second.triton != gateway.triton
    user = uuid.uuid4().hex
    for number, writer in enumerate((gateway, second)):
        event = Event(
            f"{user}-{number}",
            Account("web", user),
            EventKind.VIEW,
            datetime.now(UTC),
            Item("i-1", title="Trail shoe"),
        )
        async with ShopcastClient(writer.address, timeout_s=20.0) as client:
            assert (await client.record_events([event])).recorded == 1
        for reader in (gateway, second):
            assert (await ask(reader.address, user)).evidence.events_used == number + 1
    assert second.stop() == 0
    assert (await ask(gateway.address, user)).evidence.events_used == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_that_is_broken_off_leaves_nothing(
    built: "Built", serve: Serve, tmp_path: Path, wait_until: WaitUntil, number: signal.Signals
) -> None:
    gateway = serve(built.repository, tmp_path / "shop.db")
    wait_until(gateway.tritons, "Triton is being started")
    family = gateway.family()
    assert gateway.stop(number) == 0
    assert "Traceback" not in gateway.log.read_text()
    psutil.wait_procs(family, timeout=20.0)
    assert not [process for process in family if process.is_running()]
    assert not leftovers(gateway.process.pid)
    assert "serving" not in gateway.log.with_suffix(".out").read_text()


async def test_a_gateway_that_is_killed_takes_its_triton_along_and_loses_no_event(
    built: "Built", serve: Serve, tmp_path: Path
) -> None:
    gateway = serve(built.repository, tmp_path / "shop.db").wait_ready()
    family = gateway.family()
    assert len(family) >= 4, "launcher, server and two Python processes"
    assert leftovers(gateway.process.pid)
    acknowledged: list[str] = []

    async def record(caller: int) -> None:
        async with ShopcastClient(gateway.address, timeout_s=5.0) as client:
            with suppress(ShopcastError):
                for number in range(10_000):
                    user = f"{caller}-{number}"
                    event = Event(
                        user, Account("web", user), EventKind.VIEW, datetime.now(UTC), Item("i-1")
                    )
                    assert (await client.record_events([event])).recorded == 1
                    acknowledged.append(user)

    callers = [asyncio.create_task(record(caller)) for caller in range(8)]
    await asyncio.sleep(1.0)
    assert await asyncio.to_thread(gateway.stop, signal.SIGKILL) == -signal.SIGKILL
    await asyncio.gather(*callers)
    assert len(acknowledged) > 20
    directory = await open_directory(tmp_path / "shop.db")
    try:
        kept = await directory.resolve_many([StoredAccount("web", user) for user in acknowledged])
        assert all(kept)
    finally:
        await directory.close()
    psutil.wait_procs(family, timeout=20.0)
    assert not [process for process in family if process.is_running()]
    assert not leftovers(gateway.process.pid)
    with pytest.raises(ShopcastError):
        await ask(gateway.address, timeout_s=1.0)
