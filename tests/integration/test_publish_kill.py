"""Whatever writes to a repository, killed at any moment, leaves every version whole or gone."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shopcast_domain.manifest import (
    BEHAVIOR,
    ENCODER,
    MANIFEST,
    manifest_path,
    published_versions,
    read_manifest,
)
from shopcast_repository import triton_config
from shopcast_repository.digests import sha256
from shopcast_repository.publishing import STAGING
from shopcast_repository.serving import read_serving, serving_version
from shopcast_repository.verification import verify

# Reads lines "WHAT K REPOSITORY". For each a child does it to the repository and kills itself
# before the K-th time it touches the file system; the answer is how the child ended.
PUBLISHER = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from shopcast_domain import manifest as m
from shopcast_repository.publishing import publish
from shopcast_repository.pruning import prune
from shopcast_repository.served import write_configs
from shopcast_repository.serving import promote, rollback

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
    manifest = m.Manifest(
        created=now, shopcast_version="0", software={},
        encoder_version=version, behavior_version=version,
        trained_outcomes=("view", "buy"), vector_dim=8, history_events=4, feature_events=4,
        features=("a",), history_numbers=("b",),
        tokeniser=m.Tokeniser(sha256="", vocabulary=1, max_tokens=16, pad_id=0),
        calibration=m.Calibration(scale=1, bias=(0, 0, 0)), decision_weights=(1, 1, 1),
        artefact=m.Artefact(
            backends={"encoder": "python", "behavior": "python"}, layers=1, parameters=1
        ),
        training=m.Training(
            base_model="b", base_model_licence="l", published_as="p", encoder="fine-tuned",
            scorer="head", log_start=now, log_end=now, data_sha256="", train=span,
            validation=span, test=span,
            gap_days=1, exposures={}, platforms=(), settings={},
        ),
        metrics={}, files={}, gate=m.Gate(checks=()),
        parity=m.Parity(exposures=1, between=0, bound=0.01, rows=(
            m.ParityRow(how="alone", worst=0, p999=0, same_label=1, auc_change=None),
        )),
        goldens=(m.Golden(
            text="t", token_ids=(1,), vector=(1,), features=(1,), history=(),
            probabilities=(1, 0, 0),
        ),),
    )
    write_configs(manifest, {"encoder": encoder, "behavior": behavior})
    return manifest

DO = {
    "publish": lambda repository: publish(repository, write),
    "promote": lambda repository: promote(repository, 2),
    "rollback": rollback,
    "prune": lambda repository: prune(repository, 1),
}

def do_until(what, kill_at, repository):
    touched = 0
    def count(event, _):
        nonlocal touched
        touched += event.startswith(TOUCHES)
        if touched == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    DO[what](repository)

for line in sys.stdin:
    what, kill_at, repository = line.rstrip("\\n").split(" ", 2)
    child = os.fork()
    if child == 0:
        do_until(what, int(kill_at), Path(repository))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

NEVER = 0


class Publisher:
    """Does one thing after the other to repositories, in processes that may be killed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def publish(self, repository: Path, *, kill_at: int = NEVER) -> int:
        """Returns the exit status of the process that published."""
        return self.do("publish", repository, kill_at=kill_at)

    def do(self, what: str, repository: Path, *, kill_at: int = NEVER) -> int:
        """Returns the exit status of the process that did it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what} {kill_at} {repository}\n")
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
        assert verify(repository, version) == []
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


@pytest.mark.parametrize(("what", "before", "after"), [("promote", 1, 2), ("rollback", 2, 1)])
def test_a_killed_change_of_what_serves_is_done_or_not(
    publisher: Publisher, tmp_path: Path, what: str, before: int, after: int
) -> None:
    start = tmp_path / "start"
    start.mkdir()
    for done in ("publish", "publish", "promote")[: before + 1]:
        assert publisher.do(done, start) == 0
    assert serving_version(start) == before
    found = []
    while True:
        repository = tmp_path / f"killed-{len(found) + 1}"
        shutil.copytree(start, repository)
        status = publisher.do(what, repository, kill_at=len(found) + 1)
        assert assert_whole(repository) == [1, 2]
        found.append(serving_version(repository))
        if status == 0:
            break
        assert status == -signal.SIGKILL
        assert publisher.do("publish", repository) == 0  # no lock is left, and nothing in the way
        shutil.rmtree(repository)
    assert set(found) == {before, after}
    assert found == sorted(found, key=[before, after].index)
    assert found.count(before) > 5


def test_a_killed_pruning_leaves_whole_versions(publisher: Publisher, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    for _ in range(4):
        assert publisher.publish(start) == 0
    found = []
    while True:
        repository = tmp_path / f"killed-{len(found) + 1}"
        shutil.copytree(start, repository)
        status = publisher.do("prune", repository, kill_at=len(found) + 1)
        versions = assert_whole(repository)
        assert {1, 4} <= set(versions)  # the one that serves, and the newest
        found.append(len(versions))
        if status == 0:
            break
        assert status == -signal.SIGKILL
        assert publisher.do("prune", repository) == 0
        assert assert_whole(repository) == [1, 4]
        assert_tidy(repository, [1, 4])
        shutil.rmtree(repository)
    assert found == sorted(found, reverse=True)
    assert set(found) == {4, 3, 2}
    said = read_serving(start)
    assert said is not None
    assert said.versions == (1,)
