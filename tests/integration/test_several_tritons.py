"""A gateway over two Tritons that are elsewhere: what its callers see when they go and come."""

import asyncio
import re
import statistics
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from versions import again, nothing

from shopcast.v1 import prediction_service_pb2 as pb
from shopcast.v1 import prediction_service_pb2_grpc as services
from shopcast.v1 import types_pb2
from shopcast_gateway.triton.environment import TritonEnvironment
from shopcast_gateway.triton.process import Ports, TritonProcess
from shopcast_repository.serving import Trial, promote, try_out

if TYPE_CHECKING:
    from tests.conftest import Built, Gateway

Serve = Callable[..., "Gateway"]
WaitUntil = Callable[..., Any]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SOON_S = 90.0
CALLERS = 6


class Pair:
    """Two Tritons on ports of their own."""

    def __init__(self, environment: TritonEnvironment, repository: Path, folder: Path) -> None:
        self._environment, self._repository, self._folder = environment, repository, folder
        self.running: dict[int, TritonProcess] = {}
        self.ports: dict[int, Ports] = {}

    async def start(self, number: int) -> None:
        process = await TritonProcess.start(
            self._environment,
            self._repository,
            log=self._folder / f"triton{number}.log",
            ports=self.ports.get(number, Ports()),
        )
        self.running[number], self.ports[number] = process, process.ports

    async def kill(self, number: int) -> None:
        await self.running.pop(number).kill()

    def address(self, number: int) -> str:
        return f"127.0.0.1:{self.ports[number].grpc}"

    def suspend(self, number: int) -> None:
        """Let it stand still."""
        launcher = self.running[number]._process.pid
        for process in psutil.Process(launcher).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def answered(self, number: int) -> float:
        """Calls to `behavior` it has answered, as it says itself."""
        said = page(self.ports[number].metrics)
        found = re.findall(r'nv_inference_request_success\{model="behavior".*\} (\d+)', said)
        return sum(map(float, found))

    def versions(self, number: int) -> set[str]:
        """Versions of `behavior` that have answered since it was started, as it says itself."""
        said = page(self.ports[number].metrics)
        found = r'nv_inference_request_success\{model="behavior",version="(\d+)"\} ([1-9]\d*)'
        return {version for version, _ in re.findall(found, said)}

    def options(self) -> list[str]:
        return [f"--triton-url={self.address(number)}" for number in self.ports]


def page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20.0) as answer:
        return str(answer.read().decode())


def metric(gateway: "Gateway", name: str) -> float:
    port = re.search(r"metrics on port (\d+)", gateway.said)
    assert port
    for line in page(int(port[1])).splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[-1])
    raise AssertionError(name)


def in_rotation(gateway: "Gateway", address: str) -> bool:
    return metric(gateway, f'shopcast_triton_in_rotation{{address="{address}"}}') == 1


class Callers:
    """Callers with a connection each, who never retry. seen: what became of their calls, since it
    was last read."""

    def __init__(self, target: str) -> None:
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(target, options) for _ in range(CALLERS)]
        self._stubs = [services.PredictionServiceStub(one) for one in self._channels]
        self._health = health_pb2_grpc.HealthStub(self._channels[0])
        self._seen: list[tuple[str, float]] = []
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(CALLERS)]

    async def ask(self, number: int = 0, timeout_s: float = 10.0) -> tuple[str, float]:
        """The status of a call of one of them, and the seconds it took."""
        title = f"Trail shoe {uuid.uuid4().hex}"  # so that the encoder is asked too
        request = pb.PredictRequest(
            account=types_pb2.Account(platform="web", platform_user_id="u"),
            items=[types_pb2.Item(item_id="sku", title=title)],
        )
        began, status = time.monotonic(), "OK"
        try:
            await self._stubs[number].Predict(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            status = error.code().name
        return status, time.monotonic() - began

    async def wait_for(self, health: int) -> None:
        """Until the gateway says that it serves, or does not."""
        request = health_pb2.HealthCheckRequest()
        async with asyncio.timeout(SOON_S):
            async for answer in self._health.Watch(request):
                if answer.status == health:
                    return

    def look(self, when: str) -> Counter[str]:
        """What they saw, and begin anew."""
        seen, self._seen = self._seen, []
        found = Counter(status for status, _ in seen)
        times = sorted(took for _, took in seen) or [0.0]
        print(
            f"{when}: {dict(found)}, median {1e3 * statistics.median(times):.0f} ms,"
            f" longest {1e3 * times[-1]:.0f} ms"
        )
        return found

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def close(self) -> None:
        await self.stop()
        await asyncio.gather(*(one.close() for one in self._channels))

    async def _run(self, number: int) -> None:
        while True:
            self._seen.append(await self.ask(number))
            await asyncio.sleep(0.1)


@pytest.fixture
async def pair(
    built: "Built", triton_environment: TritonEnvironment, tmp_path: Path
) -> AsyncIterator[Pair]:
    pair = Pair(triton_environment, built.repository, tmp_path)
    await asyncio.gather(pair.start(0), pair.start(1))
    yield pair
    for process in pair.running.values():
        await process.kill()


@asynccontextmanager
async def calling(gateway: "Gateway") -> AsyncIterator[Callers]:
    await asyncio.to_thread(gateway.wait_ready)
    callers = Callers(gateway.address)
    try:
        yield callers
    finally:
        await callers.close()


async def until(wait_until: WaitUntil, holds: Callable[[], Any], what: str) -> None:
    """While the callers go on."""
    await asyncio.to_thread(wait_until, holds, what, timeout_s=SOON_S)


@pytest.mark.parametrize("workers", [1, 2])
async def test_one_that_dies_costs_no_call_and_both_say_unavailable(
    pair: Pair, built: "Built", serve: Serve, tmp_path: Path, wait_until: WaitUntil, workers: int
) -> None:
    more = (*pair.options(), "--metrics-port", 0, "--workers", workers)
    gateway = serve(built.repository, tmp_path / "shop.db", *more)
    async with calling(gateway) as callers:
        await asyncio.sleep(3)
        assert set(callers.look("both")) == {"OK"}
        assert pair.answered(0)
        assert pair.answered(1)

        await pair.kill(0)
        away = pair.address(0)
        await until(wait_until, lambda: not in_rotation(gateway, away), "it is left out")
        await asyncio.sleep(3)
        assert set(callers.look("one killed")) == {"OK"}
        assert metric(gateway, "shopcast_triton_retries_total") >= 1
        assert metric(gateway, f'shopcast_triton_ejections_total{{address="{away}"}}') == 1
        assert metric(gateway, "shopcast_triton_up") == 1
        await callers.wait_for(SERVING)

        began = time.monotonic()
        await pair.start(0)
        await until(wait_until, lambda: in_rotation(gateway, away), "it takes part again")
        print(f"in rotation {time.monotonic() - began:.1f} s after its start began")
        before = pair.answered(0)
        await asyncio.sleep(3)
        assert set(callers.look("back again")) == {"OK"}
        assert pair.answered(0) > before + 5

        await callers.stop()
        await asyncio.gather(pair.kill(0), pair.kill(1))
        found = [await callers.ask(number % CALLERS) for number in range(20)]
        print(f"both away: {Counter(status for status, _ in found)},", end=" ")
        print(f"longest {1e3 * max(took for _, took in found):.0f} ms")
        assert {status for status, _ in found} == {"UNAVAILABLE"}
        assert max(took for _, took in found) < 2.5
        await callers.wait_for(NOT_SERVING)
        assert (await callers.ask())[0] == "UNAVAILABLE"
        assert metric(gateway, "shopcast_triton_up") == 0

        await pair.start(1)
        await callers.wait_for(SERVING)
        assert (await callers.ask())[0] == "OK"
    assert gateway.stop() == 0
    assert "Traceback" not in gateway.log.read_text()


async def test_one_that_stands_still_costs_no_call(
    pair: Pair, built: "Built", serve: Serve, tmp_path: Path, wait_until: WaitUntil
) -> None:
    more = (*pair.options(), "--metrics-port", 0, "--hedge-after", 500)
    gateway = serve(built.repository, tmp_path / "shop.db", *more)
    async with calling(gateway) as callers:
        await asyncio.sleep(3)
        assert set(callers.look("both")) == {"OK"}
        pair.suspend(1)
        still = pair.address(1)
        await until(wait_until, lambda: not in_rotation(gateway, still), "it is left out")
        await asyncio.sleep(3)
        assert set(callers.look("one stands still")) == {"OK"}
    assert gateway.stop() == 0
    assert "Traceback" not in gateway.log.read_text()


async def test_one_that_is_away_at_the_start_joins_later(
    pair: Pair, built: "Built", serve: Serve, tmp_path: Path, wait_until: WaitUntil
) -> None:
    await pair.kill(0)
    more = (*pair.options(), "--metrics-port", 0)
    gateway = serve(built.repository, tmp_path / "shop.db", *more)
    async with calling(gateway) as callers:
        await asyncio.sleep(1)
        assert set(callers.look("one away")) == {"OK"}
        assert not in_rotation(gateway, pair.address(0))
        await pair.start(0)
        await until(wait_until, lambda: in_rotation(gateway, pair.address(0)), "it joins")
        await asyncio.sleep(1)
        assert set(callers.look("both")) == {"OK"}
        assert pair.answered(0)
    assert gateway.stop() == 0
    assert "Traceback" not in gateway.log.read_text()


async def test_a_version_on_trial_comes_back_with_its_triton(
    repository: Path,
    triton_environment: TritonEnvironment,
    serve: Serve,
    tmp_path: Path,
    wait_until: WaitUntil,
) -> None:
    second = again(repository, nothing)
    promote(repository, 1)
    pair = Pair(triton_environment, repository, tmp_path)
    await asyncio.gather(pair.start(0), pair.start(1))
    try:
        gateway = serve(repository, tmp_path / "shop.db", *pair.options(), "--metrics-port", 0)
        gateway.wait_ready()
        try_out(repository, Trial(version=second, share=0.0, shadow=1.0))
        both = {"1", str(second)}
        async with calling(gateway) as callers:
            for number in (0, 1):
                await until(wait_until, lambda n=number: pair.versions(n) == both, "both asked")
            await pair.kill(0)
            away = pair.address(0)
            await until(wait_until, lambda: not in_rotation(gateway, away), "it is left out")
            await pair.start(0)
            await until(wait_until, lambda: in_rotation(gateway, away), "it takes part again")
            await until(wait_until, lambda: pair.versions(0) == both, "in the trial, too")
            await asyncio.sleep(3)
            assert set(callers.look("one away and back, with a trial")) == {"OK"}
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log.read_text()
    finally:
        for process in pair.running.values():
            await process.kill()
