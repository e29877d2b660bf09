"""A publication killed at any moment leaves the old version or the new one, never half of one."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shopcast_build.learning import triton_config
from shopcast_build.learning.publishing import STAGING, sha256
from shopcast_domain.manifest import (
    BEHAVIOR,
    ENCODER,
    MANIFEST,
    manifest_path,
    published_versions,
    read_manifest,
)

# Reads lines "K REPOSITORY". For each a child publishes into the repository and kills itself
# before the K-th time it touches the file system; the answer is how the child ended.
PUBLISHER = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from shopcast_build.learning import triton_config
from shopcast_build.learning.publishing import publish
from shopcast_domain import manifest as m

CONFIGS = {
    "encoder": triton_config.encoder(width=8, max_tokens=16),
    "behavior": triton_config.behavior(width=8, features=1, max_events=4, max_candidates=10),
}
TOUCHES = ("open", "os.", "shutil.", "halfway")

def write(encoder, behavior, version):
    for folder in (encoder, behavior):
        with (folder / "model.onnx").open("w") as graph:
            graph.write(f"{version} half of the graph")
            graph.flush()
            sys.audit("halfway")
            graph.write("and the other half")
    (encoder / "tokenizer.json").write_text("{}")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    span = (now, now)
    return m.Manifest(
        created=now, shopcast_version="0", encoder_version=version, behavior_version=version,
        trained_outcomes=("view", "buy"), vector_dim=8, history_events=4, feature_events=4,
        features=("a",), history_numbers=("b",),
        tokeniser=m.Tokeniser(sha256="", vocabulary=1, max_tokens=16, pad_id=0),
        calibration=m.Calibration(scale=1, bias=(0, 0, 0)), decision_weights=(1, 1, 1),
        training=m.Training(
            base_model="b", published_as="p", encoder="fine-tuned", scorer="head",
            log_start=now, log_end=now, train=span,
            validation=span, test=span,
            gap_days=1, exposures={}, platforms=(), settings={},
        ),
        metrics={}, parity={}, files={},
        goldens=(m.Golden(
            text="t", token_ids=(1,), vector=(1,), features=(1,), history=(),
            probabilities=(1, 0, 0),
        ),),
    )

def publish_until(kill_at, repository):
    touched = 0
    def count(event, _):
        nonlocal touched
        touched += event.startswith(TOUCHES)
        if touched == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    publish(repository, write, CONFIGS)

for line in sys.stdin:
    kill_at, repository = line.rstrip("\\n").split(" ", 1)
    child = os.fork()
    if child == 0:
        publish_until(int(kill_at), Path(repository))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

NEVER = 0


class Publisher:
    """Runs publications one after the other, in processes that may be killed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def publish(self, repository: Path, *, kill_at: int = NEVER) -> int:
        """Returns the exit status of the process that published."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{kill_at} {repository}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@pytest.fixture(scope="module")
def publisher() -> Iterator[Publisher]:
    with subprocess.Popen(
        [sys.executable, "-c", PUBLISHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Publisher(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0


def assert_whole(repository: Path) -> list[int]:
    """Every published version is as its manifest says, and Triton's configuration is there."""
    versions = published_versions(repository)
    for version in versions:
        manifest = read_manifest(manifest_path(repository, BEHAVIOR, version))
        assert manifest.behavior_version == manifest.encoder_version == version
        assert len(manifest.files) == 5
        for name, digest in manifest.files.items():
            assert sha256(repository / name) == digest
        assert manifest_path(repository, ENCODER, version).is_file()
        for model in (ENCODER, BEHAVIOR):
            triton_config.read(repository / model / str(version) / "config.pbtxt")
    return versions


def assert_tidy(repository: Path, versions: list[int]) -> None:
    """Nothing is left over beside these versions."""
    assert not (repository / STAGING).exists()
    for model in (ENCODER, BEHAVIOR):
        found = {path.name for path in (repository / model).iterdir()}
        assert found == {"config.pbtxt", *map(str, versions)}


@pytest.mark.parametrize("earlier", [0, 1])
def test_a_killed_publication_is_whole_or_not_there(
    publisher: Publisher, tmp_path: Path, earlier: int
) -> None:
    start = tmp_path / "start"
    start.mkdir()
    for _ in range(earlier):
        assert publisher.publish(start) == 0
    old = list(range(1, earlier + 1))
    assert assert_whole(start) == old

    found = []
    while True:
        kill_at = len(found) + 1
        repository = tmp_path / f"killed-{kill_at}"
        shutil.copytree(start, repository)
        status = publisher.publish(repository, kill_at=kill_at)
        versions = assert_whole(repository)
        if status == 0:
            break  # it was done before there was anything left to kill
        assert status == -signal.SIGKILL
        assert versions in (old, [*old, earlier + 1])
        found.append(len(versions))

        assert publisher.publish(repository) == 0
        after = assert_whole(repository)
        assert after[: len(versions)] == versions
        assert len(after) == len(versions) + 1
        assert_tidy(repository, after)
        shutil.rmtree(repository)

    assert versions == [*old, earlier + 1]
    assert found == sorted(found)  # once published, it stays
    assert found.count(earlier) > 20
    assert found.count(earlier + 1) >= 1


def test_the_lock_of_a_killed_publisher_is_let_go(publisher: Publisher, tmp_path: Path) -> None:
    assert publisher.publish(tmp_path, kill_at=12) == -signal.SIGKILL
    assert publisher.publish(tmp_path) == 0
    assert (tmp_path / BEHAVIOR / "1" / MANIFEST).is_file()
