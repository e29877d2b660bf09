"""What workers count, in files, as one with what their parent counts; the workers are processes."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Counter
from prometheus_client.exposition import generate_latest

from shopcast_gateway.settings import ServeSettings
from shopcast_gateway.workers import worker
from shopcast_gateway.workers.registry import METRICS_FOLDER, PoolRegistry

METHOD = "/shopcast.v1.PredictionService/Predict"
# All that a worker counts, and one call of it; told when it is done, and ends when its input does.
COUNT = f"""
import os, sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from shopcast_gateway.call_metrics import CallMetrics
from shopcast_gateway.metrics import second_calls
from shopcast_gateway.stage_metrics import StageMetrics
from shopcast_gateway.workers.registry import METRICS_FOLDER, allocate
allocate(Path(os.environ[METRICS_FOLDER]))
registry = CollectorRegistry()
StageMetrics(registry).stage("score", 0.1)
second_calls(registry)
calls = CallMetrics(registry, ["{METHOD}"])
calls.began("{METHOD}")
calls.began("{METHOD}")
calls.ended("{METHOD}", "OK", 0.01)
print(os.getpid(), flush=True)
sys.stdin.read()
"""


Count = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def count(tmp_path: Path) -> Iterator[Count]:
    """Starts a process that has counted one call and answers another."""
    started: list[subprocess.Popen[str]] = []

    def start() -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", COUNT],
            env=os.environ | {METRICS_FOLDER: str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == str(process.pid)
        return process

    yield start
    for process in started:
        end(process)


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()


def values(registry: PoolRegistry) -> dict[str, float]:
    """The counts of calls, by name; of histograms only how many."""
    told = {}
    for metric in registry.collect():
        for sample in metric.samples:
            if not sample.name.endswith(("_bucket", "_sum")) and sample.value:
                told[sample.name] = sample.value
    return told


def test_who_has_ended_leaves_its_counts_and_no_files(tmp_path: Path, count: Count) -> None:
    registry = PoolRegistry(tmp_path)
    Counter("shopcast_requests", "Of the parent.", ["method", "code"], registry=registry).labels(
        METHOD, "OK"
    ).inc()
    processes = [count() for _ in range(2)]
    alive = values(registry)
    assert alive["shopcast_requests_total"] == 3
    assert alive["shopcast_request_seconds_count"] == 2
    assert alive["shopcast_requests_in_flight"] == 2
    for ended, process in enumerate(processes, 1):
        end(process)
        registry.fold(process.pid)
        left = values(registry)
        assert left.pop("shopcast_requests_in_flight", 0) == 2 - ended, "no call of it goes on"
        assert left == {n: v for n, v in alive.items() if n != "shopcast_requests_in_flight"}
    assert list(tmp_path.iterdir()) == []


def test_some_metrics_may_be_asked_for(tmp_path: Path, count: Count) -> None:
    registry = PoolRegistry(tmp_path)
    Counter("shopcast_of_the_parent", "Of the parent.", registry=registry)
    count()
    names = ["shopcast_requests_total", "shopcast_of_the_parent_total"]
    told = generate_latest(registry.restricted_registry(names)).decode()
    lines = [line for line in told.splitlines() if not line.startswith("#")]
    assert {line.partition("{")[0].partition(" ")[0] for line in lines} == set(names)


def test_all_files_have_their_room_from_the_start(tmp_path: Path, count: Count) -> None:
    count()
    files = list(tmp_path.iterdir())
    assert len(files) == 3
    for file in files:
        assert file.stat().st_blocks * 512 >= file.stat().st_size, "there are no holes in it"
        assert file.read_bytes()[-1] == 0, "and it need not grow"


def test_without_room_a_worker_begins_without_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setenv(METRICS_FOLDER, str(tmp_path))
    monkeypatch.setattr(os, "posix_fallocate", full)
    settings = ServeSettings(
        repository=tmp_path,
        directory=tmp_path / "shop.db",
        host="127.0.0.1",
        port=0,
        triton_urls=(),
        triton_home=tmp_path,
        triton_log=tmp_path / "log",
        metrics_port=0,
    )
    assert worker._with_room(settings).metrics_port is None
    assert f"{tmp_path} has no room for its metrics (No space left" in caplog.text
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setenv(METRICS_FOLDER, str(tmp_path))
    assert worker._with_room(settings) is settings
