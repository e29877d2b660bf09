"""Several workers on one port, on the real Triton: they share the calls, one model and the metrics;
one that ends is replaced, and callers of the others see nothing of it."""

import asyncio
import re
import signal
import socket
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tokens import AUDIENCE, ISSUER, Issuer
from versions import again, nothing, torn_graph

from shopcast.v1 import prediction_service_pb2 as pb
from shopcast.v1 import prediction_service_pb2_grpc as services
from shopcast.v1 import types_pb2
from shopcast_gateway.errors import StartupError
from shopcast_gateway.transport.binding import reserve_port
from shopcast_repository.serving import Trial, promote, try_out

if TYPE_CHECKING:
    from tests.conftest import Gateway

Serve = Callable[..., "Gateway"]
WaitUntil = Callable[..., Any]
WORKERS = 2
APART = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500)]


def request(user: int = 0, item: int = 0) -> pb.PredictRequest:
    return pb.PredictRequest(
        account=types_pb2.Account(platform="web", platform_user_id=f"u-{user}"),
        items=[types_pb2.Item(item_id=f"i-{item}", title=f"Trail shoe {item}")],
    )


class Looks:
    """A gateway as callers and those on call see it."""

    def __init__(self, gateway: "Gateway") -> None:
        self.gateway = gateway
        found = re.search(r"metrics on port (\d+)", gateway.said)
        assert found
        self._metrics = f"http://127.0.0.1:{found[1]}/metrics"

    def metrics(self) -> dict[tuple[str, tuple[str, ...]], float]:
        """By name, and the values of the labels in the order of their names."""
        text = urllib.request.urlopen(self._metrics, timeout=20).read().decode()  # noqa: S310 - ours
        families = text_string_to_metric_families(text)
        return {
            (one.name, tuple(one.labels[key] for key in sorted(one.labels))): one.value
            for family in families
            for one in family.samples
        }

    def metric(self, name: str, *labels: str) -> float:
        return self.metrics().get((name, labels), 0.0)

    def family(self, words: str) -> list[psutil.Process]:
        """The processes below with these words in their command."""
        found = []
        for process in self.gateway.family():
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if words in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        return self.family("shopcast_gateway.workers.worker")

    def callers(self, worker: psutil.Process) -> int:
        """How many connections a worker has."""
        port = int(self.gateway.address.rpartition(":")[2])
        found = worker.net_connections()
        return sum(one.laddr.port == port and one.status == "ESTABLISHED" for one in found)


class Callers:
    """Clients with a connection each, none of which tries again."""

    def __init__(self, address: str, count: int) -> None:
        self._channels = [grpc.aio.insecure_channel(address, options=APART) for _ in range(count)]
        self._stubs = [services.PredictionServiceStub(one) for one in self._channels]
        self.failed: dict[int, list[str]] = {}
        self.answered = 0
        self.versions: set[str] = set()

    async def __aenter__(self) -> "Callers":
        await asyncio.gather(*(self._call(at, wait=True) for at in range(len(self._stubs))))
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(one.close() for one in self._channels))

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Each calls again and again."""
        tasks = [asyncio.create_task(self._keep(at)) for at in range(len(self._stubs))]
        yield
        for task in tasks:
            task.cancel()

    async def _keep(self, at: int) -> None:
        while True:
            await self._call(at)
            await asyncio.sleep(0.1)

    async def _call(self, at: int, *, wait: bool = False) -> None:
        try:
            answer = await self._stubs[at].Predict(
                request(at, self.answered % 50), timeout=20.0, wait_for_ready=wait
            )
        except grpc.aio.AioRpcError as error:
            self.failed.setdefault(at, []).append(error.code().name)
        else:
            self.answered += 1
            self.versions.add(answer.evidence.model_version)


async def until(holds: Callable[[], Any], wait_until: WaitUntil, what: str) -> Any:
    return await asyncio.to_thread(wait_until, holds, what)


@pytest.fixture
def looks(repository: Path, store: Path, serve: Serve) -> Iterator[Looks]:
    gateway = serve(repository, store, "--workers", WORKERS, "--metrics-port", 0).wait_ready()
    yield Looks(gateway)
    if gateway.process.poll() is None:
        gateway.stop()


def test_calls_and_metrics_are_shared_and_a_dead_worker_is_replaced(
    looks: Looks, wait_until: WaitUntil
) -> None:
    ok = ("shopcast_requests_total", "OK", "/shopcast.v1.PredictionService/Predict")

    async def see() -> None:
        async with Callers(looks.gateway.address, 12) as callers:
            first, second = looks.workers()
            assert looks.callers(first) + looks.callers(second) == 12
            assert looks.callers(first), "each has some"
            assert looks.callers(second)
            assert looks.metric(*ok) == 12
            assert looks.metric("shopcast_workers") == WORKERS
            assert looks.metric("shopcast_model_version") == 1
            with callers.calling():
                await until(lambda: callers.answered > 100, wait_until, "all call")
                assert not callers.failed
                hit = looks.callers(first)
                first.kill()
                told = "shopcast_workers_replaced_total"
                await until(lambda: looks.metric(told) == 1, wait_until, "it is noticed")
                await until(lambda: looks.metric("shopcast_workers") == WORKERS, wait_until, "back")
                answered = callers.answered
                await until(lambda: callers.answered > answered + 100, wait_until, "all call again")
            await asyncio.sleep(0.5)
            assert len(callers.failed) <= hit, "callers of the other see nothing"
            assert {code for one in callers.failed.values() for code in one} <= {"UNAVAILABLE"}
            assert looks.metric(*ok) >= callers.answered - hit, "no counter goes back"
            in_flight = ("shopcast_requests_in_flight", "/shopcast.v1.PredictionService/Predict")
            assert looks.metric(*in_flight) == 0, "nor does what the dead one had remain"
            assert looks.metric("shopcast_admission_rows") == 0
            print(f"{callers.answered} answers, failures of a connection: {callers.failed}")

    asyncio.run(see())
    log = looks.gateway.log.read_text()
    assert {"worker=0", "worker=1"} <= set(re.findall(r"worker=\d", log))


def test_versions_and_trials_reach_every_worker_and_no_call_fails(
    looks: Looks, repository: Path, wait_until: WaitUntil
) -> None:
    second = again(repository, nothing)
    broken = again(repository, torn_graph)
    looks.gateway.meet(*(f"u-{number}" for number in range(8)))

    async def see() -> None:
        async with Callers(looks.gateway.address, 8) as callers:
            with callers.calling():
                try_out(repository, Trial(version=second, share=0.5, shadow=1.0))
                compared = lambda: looks.metric("shopcast_shadow_predictions_total", "compared")  # noqa: E731
                await until(lambda: compared() > 20, wait_until, "shadows are compared")
                await until(
                    lambda: looks.metric("shopcast_trial_answers_total") > 20, wait_until, "canary"
                )
                assert looks.metric("shopcast_shadow_flips_total") == 0, "it is the same again"
                assert len(looks.gateway.tritons()) == 2
                promote(repository, second)
                serving = lambda: looks.metric("shopcast_model_version")  # noqa: E731
                await until(lambda: serving() == second, wait_until, "the second serves")
                await until(
                    lambda: len(looks.gateway.tritons()) == 1, wait_until, "one Triton is left"
                )
                callers.versions.clear()
                answered = callers.answered
                await until(lambda: callers.answered > answered + 50, wait_until, "all call")
                assert callers.versions == {str(second)}
                promote(repository, broken)
                refused = lambda: looks.metric("shopcast_model_refused")  # noqa: E731
                await until(lambda: refused() == 1, wait_until, "the third is refused")
            assert not callers.failed
            print(f"{callers.answered} answers, none failed")

    asyncio.run(see())


def test_they_outlive_their_triton_and_leave_nothing(looks: Looks, wait_until: WaitUntil) -> None:
    async def see() -> None:
        async with Callers(looks.gateway.address, 4) as callers:
            before = {one.pid for one in looks.workers()}
            for one in (looks.gateway.process, *looks.workers()):
                one.send_signal(signal.SIGHUP)
            [triton] = looks.gateway.tritons()
            triton.kill()
            restarts = lambda: looks.metric("shopcast_triton_restarts_total")  # noqa: E731
            await until(lambda: restarts() == 1, wait_until, "it is started again")
            await until(lambda: looks.metric("shopcast_triton_up") == 1, wait_until, "it is up")
            with callers.calling():
                answered = callers.answered
                await until(lambda: callers.answered > answered + 20, wait_until, "all answer")
            assert {one.pid for one in looks.workers()} == before
            below = looks.gateway.family()
            with callers.calling():
                await asyncio.sleep(0.3)
                assert await asyncio.to_thread(looks.gateway.stop) == 0
            await until(
                lambda: not any(one.is_running() for one in below), wait_until, "all have ended"
            )

    asyncio.run(see())


def test_they_keep_one_quota(repository: Path, store: Path, serve: Serve, tmp_path: Path) -> None:
    issued = Issuer()
    (tmp_path / "keys.pem").write_bytes(issued.pem)
    burst, calls = 30, 100
    (tmp_path / "access.toml").write_text(f"""
[tokens]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
algorithms = ["ES256"]
keys = "keys.pem"
[[caller]]
name = "shop"
subjects = ["svc-shop"]
roles = ["predict"]
quota = {{ requests_per_s = 1, burst = {burst} }}
""")
    options = ("--workers", WORKERS, "--auth", tmp_path / "access.toml")
    gateway = serve(repository, store, *options).wait_ready()
    sent = [("authorization", f"Bearer {issued.token('svc-shop')}")]

    async def see() -> None:
        channels = [grpc.aio.insecure_channel(gateway.address, options=APART) for _ in range(12)]
        stubs = [services.PredictionServiceStub(one) for one in channels]
        codes: Counter[str] = Counter()
        began = time.monotonic()
        for number in range(calls):
            stub = stubs[number % len(stubs)]
            try:
                await stub.Predict(request(), timeout=20.0, metadata=sent, wait_for_ready=True)
                codes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                codes[error.code().name] += 1
            await asyncio.sleep(0.02)
        filled = time.monotonic() - began
        print(f"{dict(codes)} within {filled:.1f} s of a quota of {burst} and 1 a second")
        assert codes["OK"] + codes["RESOURCE_EXHAUSTED"] == calls
        late = 10  # what was let in before the other worker heard of it
        assert burst <= codes["OK"] <= burst + filled + late
        await asyncio.gather(*(one.close() for one in channels))

    asyncio.run(see())
    assert gateway.stop() == 0


def test_they_end_with_who_looks_after_them(looks: Looks, wait_until: WaitUntil) -> None:
    below = looks.gateway.family()
    assert len(below) > WORKERS
    for worker in looks.workers():
        worker.send_signal(signal.SIGTERM)  # not theirs to follow
    worker.suspend()  # even one that stands still
    looks.gateway.process.kill()
    looks.gateway.process.wait()
    wait_until(lambda: not any(one.is_running() for one in below), "all have ended")


def test_a_port_is_had_at_once_that_was_one_process_own_before() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()  # who closes first is remembered for a minute
    with reserve_port("127.0.0.1", port), pytest.raises(StartupError, match="already in use"):
        reserve_port("127.0.0.1", port)


@pytest.mark.parametrize("listens", [False, True])
def test_a_port_that_others_have_is_not_shared_with_them(
    repository: Path, store: Path, serve: Serve, listens: bool
) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        if listens:
            other.listen()
        port = other.getsockname()[1]
        gateway = serve(repository, store, "--workers", WORKERS, "--port", port)
        assert gateway.process.wait(60) == 1
    assert "is already in use" in gateway.log.read_text()
