"""A gateway whose Triton goes on running and does not answer: noticed, and put right."""

import asyncio
import re
import signal
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import onnx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shopcast_client import Item, PredictResult, ShopcastClient, ShopcastError
from shopcast_gateway.triton.environment import TritonEnvironment
from shopcast_gateway.triton.process import Ports, TritonProcess

if TYPE_CHECKING:
    from tests.conftest import Built, Gateway

Serve = Callable[..., "Gateway"]
WaitUntil = Callable[..., Any]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SOON_S = 60.0
"""For a repair, which takes about ten seconds on a quiet machine."""


async def ask(address: str, title: str | None = None, *, timeout_s: float = 5.0) -> PredictResult:
    """title: a new one if none is given, so that the encoder is asked too."""
    item = Item("i-1", title=title or f"Trail shoe {uuid.uuid4().hex}", price=89.0)
    async with ShopcastClient(address, timeout_s=timeout_s) as client:
        return await client.predict(platform="web", user_id="u-1", items=[item])


@contextmanager
def health_of(gateway: "Gateway") -> Iterator[Callable[[], int]]:
    with grpc.insecure_channel(gateway.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        yield lambda: stub.Check(request, timeout=20.0, wait_for_ready=True).status


def metric(gateway: "Gateway", name: str) -> float:
    port = re.search(r"metrics on port (\d+)", gateway.said)
    assert port
    with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics", timeout=20.0) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
    raise AssertionError(name)


def repairs(gateway: "Gateway", model: str) -> float:
    return metric(gateway, f'shopcast_triton_repairs_total{{model="{model}"}}')


def stubs_of(gateway: "Gateway", model: str) -> list[psutil.Process]:
    """The Python processes of a model."""
    found = []
    for process in gateway.family():
        with suppress(psutil.NoSuchProcess):
            if "stub" in process.name() and f"/{model}/" in " ".join(process.cmdline()):
                found.append(process)
    assert len(found) == 2
    return found


@pytest.fixture
def gateway(built: "Built", serve: Serve, tmp_path: Path) -> "Iterator[Gateway]":
    gateway = serve(built.repository, tmp_path / "shop.db", "--metrics-port", 0).wait_ready()
    yield gateway
    assert gateway.stop() == 0
    assert "Traceback" not in gateway.log.read_text()


@pytest.mark.parametrize(
    ("number", "count"),
    [(signal.SIGKILL, 2), (signal.SIGKILL, 1), (signal.SIGSTOP, 2)],
    ids=["killed", "one-of-two-killed", "stopped"],
)
async def test_a_model_whose_processes_do_not_answer_is_loaded_again(
    gateway: "Gateway", wait_until: WaitUntil, number: signal.Signals, count: int
) -> None:
    assert (await ask(gateway.address)).predictions
    assert metric(gateway, "shopcast_triton_up") == 1
    (triton,) = gateway.tritons()
    for stub in stubs_of(gateway, "behavior")[:count]:
        stub.send_signal(number)
    began = time.monotonic()
    with health_of(gateway) as health:
        if count == 2:
            wait_until(lambda: health() == NOT_SERVING, "health says so", timeout_s=SOON_S)
        wait_until(lambda: repairs(gateway, "behavior") == 1, "it is repaired", timeout_s=SOON_S)
        print(f"repaired after {time.monotonic() - began:.1f} s")
        assert health() == SERVING
    for _ in range(6):
        assert (await ask(gateway.address)).predictions
    assert [one.pid for one in gateway.tritons()] == [triton.pid]
    assert repairs(gateway, "encoder") == 0
    assert metric(gateway, "shopcast_triton_restarts_total") == 0
    assert metric(gateway, "shopcast_triton_up") == 1
    said = "behavior version 1 does not answer: it is loaded again"
    assert gateway.log.read_text().count(said) == 1


async def test_while_the_encoder_is_away_items_that_are_known_are_predicted(
    gateway: "Gateway",
) -> None:
    assert (await ask(gateway.address, "Trail shoe")).predictions
    for stub in stubs_of(gateway, "encoder"):
        stub.kill()
    failed = 0
    end = time.monotonic() + SOON_S
    with health_of(gateway) as health:
        while not repairs(gateway, "encoder"):
            assert time.monotonic() < end
            assert (await ask(gateway.address, "Trail shoe")).predictions
            assert health() == SERVING
            failed += metric(gateway, "shopcast_triton_up") == 0
    assert failed
    assert (await ask(gateway.address)).predictions


async def test_a_triton_that_stands_still_is_replaced(
    gateway: "Gateway", wait_until: WaitUntil
) -> None:
    (triton,) = gateway.tritons()
    began = time.monotonic()
    triton.suspend()
    with health_of(gateway) as health:
        wait_until(lambda: health() == NOT_SERVING, "health says so")
        wait_until(lambda: health() == SERVING, "a successor serves")
        print(f"replaced after {time.monotonic() - began:.1f} s")
    assert (await ask(gateway.address)).predictions
    (successor,) = gateway.tritons()
    assert successor.pid != triton.pid
    assert not triton.is_running()
    assert metric(gateway, "shopcast_triton_restarts_total") == 1
    assert metric(gateway, "shopcast_triton_up") == 1


def other_answers(graph: bytes) -> bytes:
    """A behaviour model that answers, and something else."""
    model = onnx.load_from_string(graph)
    node = model.graph.node[-1]
    node.output[0] = "as_published"
    doubled = onnx.helper.make_node("Add", ["as_published", "as_published"], ["logits"])
    model.graph.node.append(doubled)
    return bytes(model.SerializeToString())


async def test_a_triton_elsewhere_that_was_away_gets_its_models_back_if_they_are_the_same(
    repository: Path,
    triton_environment: TritonEnvironment,
    serve: Serve,
    tmp_path: Path,
    wait_until: WaitUntil,
) -> None:
    async def start(ports: Ports) -> TritonProcess:
        log = tmp_path / "triton.log"
        return await TritonProcess.start(triton_environment, repository, log=log, ports=ports)

    triton = await start(Ports())
    try:
        more = ("--triton-url", triton.grpc_address, "--metrics-port", 0)
        gateway = serve(repository, tmp_path / "shop.db", *more).wait_ready()
        assert (await ask(gateway.address)).predictions
        await triton.kill()
        with health_of(gateway) as health:
            wait_until(lambda: health() == NOT_SERVING, "health says so", timeout_s=SOON_S)
            with pytest.raises(ShopcastError):
                await ask(gateway.address)
            assert metric(gateway, "shopcast_triton_up") == 0
            triton = await start(triton.ports)
            began = time.monotonic()
            wait_until(lambda: health() == SERVING, "it serves again", timeout_s=SOON_S)
            wait_until(
                lambda: metric(gateway, "shopcast_triton_up") == 1,
                "both models answer",
                timeout_s=SOON_S,
            )
            print(f"back after {time.monotonic() - began:.1f} s")
        assert (await ask(gateway.address)).predictions
        assert (repairs(gateway, "encoder"), repairs(gateway, "behavior")) == (1, 1)
        assert gateway.log.read_text().count("does not answer: it is loaded again") == 2

        await triton.kill()
        graph = repository / "behavior" / "1" / "model.onnx"
        published = graph.read_bytes()
        with health_of(gateway) as health:
            wait_until(lambda: health() == NOT_SERVING, "health says so", timeout_s=SOON_S)
            graph.unlink()  # tests share the file itself
            graph.write_bytes(other_answers(published))
            triton = await start(triton.ports)
            told = "what was loaded again is not as it was: golden 0: a probability differs"
            wait_until(lambda: told in gateway.log.read_text(), "it is noticed", timeout_s=SOON_S)
            await asyncio.sleep(3)
            assert health() == NOT_SERVING
            with pytest.raises(ShopcastError):
                await ask(gateway.address)
            graph.write_bytes(published)
            wait_until(lambda: health() == SERVING, "it serves again", timeout_s=SOON_S)
        assert (await ask(gateway.address)).predictions
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log.read_text()
    finally:
        await triton.stop()
