"""Versions promoted while a gateway serves, on the real Triton: taken up, or refused and told."""

import asyncio
import collections
import json
import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import onnx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import numpy_helper
from redis_servers import RedisServer
from typer.testing import CliRunner
from versions import again, nothing, torn_graph

from shopcast_build.learning.reporter import Silent
from shopcast_build.release.exporting import Variant, export
from shopcast_cli.app import app
from shopcast_client import Item, PredictResult, ServiceLevel, ShopcastClient
from shopcast_domain.features import FEATURES
from shopcast_domain.manifest import BEHAVIOR, Manifest
from shopcast_domain.tokeniser import TOKENISER
from shopcast_repository.serving import Trial, promote, rollback, try_out

if TYPE_CHECKING:
    from tests.conftest import Built, Gateway

Serve = Callable[..., "Gateway"]
WaitUntil = Callable[..., Any]
Status = health_pb2.HealthCheckResponse


async def ask(address: str) -> PredictResult:
    async with ShopcastClient(address, timeout_s=20.0) as client:
        items = [Item("i-1", title="Trail shoe", price=89.0), Item("i-2", title="Lamp")]
        return await client.predict(platform="web", user_id="u-1", items=items)


class Looks:
    """What those on call see: health with its metadata, metrics and the log."""

    def __init__(self, gateway: "Gateway", metrics: int) -> None:
        self._gateway, self._metrics = gateway, metrics

    def health(self, service: str = "") -> tuple[int, str | None]:
        with grpc.insecure_channel(self._gateway.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service=service)
            answer, call = stub.Check.with_call(request, timeout=20.0, wait_for_ready=True)
            return answer.status, dict(call.trailing_metadata()).get("shopcast-refusal")

    def metric(self, name: str) -> float:
        address = f"http://127.0.0.1:{self._metrics}/metrics"
        with urllib.request.urlopen(address, timeout=20.0) as answer:
            text = answer.read().decode()
        found = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(found[0].split()[-1]) if found else 0.0

    def watch(self) -> Any:
        """What `platform watch` says of one second."""
        url = f"http://127.0.0.1:{self._metrics}/metrics"
        done = CliRunner().invoke(app, ["watch", "--metrics", url, "--every=1", "--once", "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def logged(self, words: str) -> bool:
        return self._gateway.logged(words)

    def log(self) -> str:
        return self._gateway.log.read_text()


def other_tokeniser(encoder: Path, behavior: Path, manifest: Manifest) -> Manifest:
    """Two letters trade their numbers."""
    path = encoder / TOKENISER
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    words["##a"], words["##e"], words["a"], words["e"] = (
        words["##e"], words["##a"], words["e"], words["a"],
    )  # fmt: skip
    for one, other in (("shoe", "shirt"), ("the", "of"), ("black", "white"), ("s", "t")):
        if one in words and other in words:
            words[one], words[other] = words[other], words[one]
    path.unlink()
    path.write_text(json.dumps(content))
    return manifest


def other_features(encoder: Path, behavior: Path, manifest: Manifest) -> Manifest:
    return manifest.model_copy(update={"features": (FEATURES[1], FEATURES[0], *FEATURES[2:])})


def swapped_graph(encoder: Path, behavior: Path, manifest: Manifest) -> Manifest:
    """Digests and all: as if another runtime computed something else."""
    path = encoder / "model.onnx"
    model = onnx.load(path)
    for weight in model.graph.initializer:
        array = numpy_helper.to_array(weight)
        if array.dtype == np.float32 and array.ndim == 2:
            weight.CopyFrom(numpy_helper.from_array(array * np.float32(1.03), weight.name))
    path.unlink()
    path.write_bytes(model.SerializeToString())
    return manifest


BAD = [
    pytest.param(other_tokeniser, "tokeniser", "gives other tokens", id="tokeniser"),
    pytest.param(other_features, "contract", "other features", id="feature order"),
    pytest.param(swapped_graph, "golden", "differs from build time", id="other arithmetic"),
    pytest.param(torn_graph, "load", "refused to load behavior", id="torn graph"),
]


@pytest.fixture(scope="module")
def models(built: "Built", tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(built.repository, tmp_path_factory.mktemp("adoption") / "models")


@pytest.fixture(scope="module")
def gateway(
    models: Path, serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> "Iterator[Gateway]":
    folder = tmp_path_factory.mktemp("gateway")
    gateway = serve(models, folder / "shop.db", "--metrics-port", 0).wait_ready()
    yield gateway
    assert gateway.stop() == 0


@pytest.fixture(scope="module")
def looks(gateway: "Gateway") -> Looks:
    return looks_of(gateway)


def looks_of(gateway: "Gateway") -> Looks:
    found = re.search(r"metrics on port (\d+)", gateway.said)
    assert found is not None
    return Looks(gateway, int(found[1]))


@contextmanager
def asking(address: str) -> Iterator[list[PredictResult | BaseException]]:
    """Ask all the time, beside what the test does."""
    answers: list[PredictResult | BaseException] = []
    stop = False

    async def loop() -> None:
        async with ShopcastClient(address, timeout_s=20.0) as client:
            while not stop:
                try:
                    answers.append(
                        await client.predict(
                            platform="web",
                            user_id="u-1",
                            items=[Item("i-1", title=f"Shoe {len(answers)}")],
                        )
                    )
                except Exception as error:
                    answers.append(error)
                await asyncio.sleep(0.05)

    thread = Thread(target=lambda: asyncio.run(loop()))
    thread.start()
    try:
        yield answers
    finally:
        stop = True
        thread.join()


def test_a_promoted_version_is_taken_up_without_a_failed_call(
    gateway: "Gateway", looks: Looks, models: Path, wait_until: WaitUntil
) -> None:
    number = again(models, nothing)
    with asking(gateway.address) as answers:
        wait_until(lambda: len(answers) > 5, "calls are answered")
        promote(models, number)
        wait_until(
            lambda: (
                not isinstance(answers[-1], BaseException)
                and answers[-1].evidence.model_version == str(number)
            ),
            "the new version answers",
        )
        time.sleep(1.0)
    failed = [answer for answer in answers if isinstance(answer, BaseException)]
    assert failed == []
    wait_until(lambda: len(gateway.tritons()) == 1, "the old Triton has ended")
    assert looks.metric("shopcast_model_version") == number
    assert looks.health("shopcast.adoption") == (Status.SERVING, None)
    rollback(models)
    wait_until(lambda: looks.metric("shopcast_model_version") == 1, "the old version serves")


def test_a_trial_answers_its_share_is_compared_and_harms_nobody(
    gateway: "Gateway", looks: Looks, models: Path, wait_until: WaitUntil
) -> None:
    number = again(models, nothing)
    gateway.meet("u-1")
    with asking(gateway.address) as answers:

        def version() -> str:
            newest = answers[-1]
            return "" if isinstance(newest, BaseException) else newest.evidence.model_version

        wait_until(lambda: len(answers) > 5, "calls are answered")
        try_out(models, Trial(version=number, share=1.0))
        wait_until(lambda: version() == str(number), "the version on trial answers")
        assert looks.metric("shopcast_model_version") == 1
        try_out(models, Trial(version=number, shadow=1.0))
        wait_until(lambda: version() == "1", "the version that serves answers again")
        wait_until(lambda: looks.metric("shopcast_shadow_items_total") > 9, "it is compared")
        assert looks.metric("shopcast_shadow_flips_total") == 0, "it is the same model"
        seen = looks.watch()
        assert (seen["serving"], seen["trial"]["version"], seen["triton_up"]) == (1, number, True)
        assert seen["trial"]["flip_share"] == 0
        assert list(seen["methods"]["PredictionService/Predict"]["codes"]) == ["OK"]
        assert seen["answers"].keys() == {"FULL"}
        pairs = looks.metric("shopcast_shadow_rank_correlations_total")
        assert looks.metric("shopcast_shadow_rank_correlation_sum") == pytest.approx(pairs)
        rollback(models)
        wait_until(lambda: len(gateway.tritons()) == 1, "the Triton of the trial has ended")
    print("answers:", collections.Counter(type(answer).__name__ for answer in answers))
    assert [answer for answer in answers if isinstance(answer, BaseException)] == []
    assert looks.metric("shopcast_model_version") == 1


def test_what_one_version_has_read_another_has_at_hand_while_the_store_is_away(
    built: "Built", serve: Serve, tmp_path: Path, wait_until: WaitUntil
) -> None:
    models = Path(shutil.copytree(built.repository, tmp_path / "models"))
    redis = RedisServer(tmp_path / "redis").start()
    try:
        key = ("--directory-key", tmp_path / "ring.key")
        gateway = serve(models, redis.url, *key).wait_ready()
        gateway.meet("u-1")

        async def asked() -> tuple[str, str]:
            async with ShopcastClient(gateway.address, timeout_s=5.0) as client:
                evidence = (
                    await client.predict(
                        platform="web",
                        user_id="u-1",
                        items=[Item("i-1", title="Trail shoe")],
                        lowest_level=ServiceLevel.STALE,
                    )
                ).evidence
            return evidence.level, evidence.model_version

        def answer() -> tuple[str, str]:
            return asyncio.run(asked())

        number = again(models, nothing)
        try_out(models, Trial(version=number, share=1.0))
        wait_until(lambda: gateway.logged(f"version {number} is on trial"), "the trial runs")
        assert answer() == ("full", str(number))
        redis.kill()
        assert answer() == ("stale", "1"), "nobody can tell that it is the trial's to answer"
        redis.start()
        assert answer() == ("full", str(number))
        promote(models, number)
        wait_until(lambda: gateway.logged(f"version {number} adopted"), "it serves")
        redis.kill()
        assert answer() == ("stale", str(number))
        assert gateway.stop() == 0
    finally:
        redis.kill()


@pytest.mark.parametrize(("change", "reason", "words"), BAD)
def test_a_version_that_does_otherwise_is_refused_and_everybody_is_told(
    gateway: "Gateway",
    looks: Looks,
    models: Path,
    wait_until: WaitUntil,
    change: Callable[[Path, Path, Manifest], Manifest],
    reason: str,
    words: str,
) -> None:
    number = again(models, change)
    counted = f'shopcast_model_refusals_total{{reason="{reason}"}}'
    before = looks.metric(counted)
    promote(models, number)
    wait_until(lambda: looks.metric(counted) == before + 1, "the refusal is counted")
    assert looks.metric("shopcast_model_version") == 1
    assert looks.metric("shopcast_model_wanted_version") == number
    assert looks.metric("shopcast_model_refused") == 1
    status, told = looks.health("shopcast.adoption")
    assert status == Status.NOT_SERVING
    assert told is not None
    assert told.startswith(f"version {number} is refused: ")
    assert words in told
    assert looks.health()[0] == Status.SERVING  # the gateway as a whole goes on
    assert looks.logged(f"version {number} is refused, version 1 goes on serving")
    assert asyncio.run(ask(gateway.address)).evidence.model_version == "1"
    rollback(models)
    wait_until(
        lambda: looks.health("shopcast.adoption") == (Status.SERVING, None), "all is well again"
    )
    assert looks.metric("shopcast_model_refused") == 0
    assert "Traceback" not in looks.log()


def test_a_file_changed_after_promotion_was_asked_for_is_refused(
    gateway: "Gateway", looks: Looks, models: Path, wait_until: WaitUntil
) -> None:
    number = again(models, nothing)
    counted = 'shopcast_model_refusals_total{reason="files"}'
    said = (models / "serving.json").read_text()
    path = models / BEHAVIOR / str(number) / "model.onnx"
    content = bytearray(path.read_bytes())
    promote(models, number)
    path.unlink()
    content[100] ^= 1
    path.write_bytes(content)
    wait_until(
        lambda: looks.metric(counted) == 1 or looks.metric("shopcast_model_version") == number,
        "the version is looked at",
    )
    if looks.metric("shopcast_model_version") == number:  # it was quicker than we were
        pytest.skip("the gateway had read the file before it was changed")
    assert "is not the file that was published" in (looks.health("shopcast.adoption")[1] or "")
    assert json.loads(said)["versions"] == [1]
    rollback(models)
    wait_until(
        lambda: looks.health("shopcast.adoption") == (Status.SERVING, None), "all is well again"
    )


def test_a_target_that_cannot_run_here_runs_as_its_fallback(
    gateway: "Gateway", looks: Looks, models: Path, wait_until: WaitUntil
) -> None:
    """The bundled Triton has no ONNX Runtime backend."""
    made = export(models, 1, Variant(target="onnxruntime"), Silent())
    number = made.behavior_version
    before = asyncio.run(ask(gateway.address))
    promote(models, number)
    wait_until(lambda: looks.metric("shopcast_model_version") == number, "it serves")
    assert looks.logged(f"encoder version {number} cannot run here as it was published")
    found = asyncio.run(ask(gateway.address))
    rollback(models)
    wait_until(lambda: looks.metric("shopcast_model_version") == 1, "the old version serves")
    after = asyncio.run(ask(gateway.address))
    # The hour of the day moves on: what is right now lies between what was and what will be.
    for one, *others in zip(found.predictions, before.predictions, after.predictions, strict=True):
        earlier, later = sorted(other.purchase_probability for other in others)
        assert earlier - 1e-3 < one.purchase_probability < later + 1e-3


def test_a_restart_serves_what_was_promoted_and_falls_back_from_what_is_refused(
    models: Path, serve: Serve, tmp_path: Path
) -> None:
    number = again(models, swapped_graph)
    promote(models, number)
    gateway = serve(models, tmp_path / "shop.db", "--metrics-port", 0).wait_ready()
    looks = looks_of(gateway)
    assert looks.metric("shopcast_model_version") == 1
    status, told = looks.health("shopcast.adoption")
    assert status == Status.NOT_SERVING
    assert f"version {number} is refused" in (told or "")
    assert looks.health()[0] == Status.SERVING
    assert gateway.stop() == 0
    rollback(models)
