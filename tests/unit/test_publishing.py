import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shopcast_domain.manifest import (
    BEHAVIOR,
    ENCODER,
    MANIFEST,
    Manifest,
    manifest_path,
    published_versions,
    read_manifest,
)
from shopcast_repository import triton_config
from shopcast_repository.digests import sha256
from shopcast_repository.errors import PublishError
from shopcast_repository.publishing import STAGING, publish
from shopcast_repository.served import served_models, write_configs
from shopcast_repository.serving import SERVING, promote


class Writer:
    """Writes a small release; fails halfway with `error` if there is one."""

    def __init__(self, manifest: Manifest, content: str = "graph", error: Exception | None = None):
        self._manifest, self._content, self._error = manifest, content, error

    def __call__(self, encoder: Path, behavior: Path, version: int) -> Manifest:
        assert list(encoder.iterdir()) == list(behavior.iterdir()) == []
        for folder in (encoder, behavior):
            (folder / "model.onnx").write_text(f"{self._content} {folder.name} {version}")
        if self._error is not None:
            raise self._error
        (encoder / "tokenizer.json").write_text("{}")
        manifest = self._manifest.model_copy(
            update={"encoder_version": version, "behavior_version": version}
        )
        write_configs(manifest, {ENCODER: encoder, BEHAVIOR: behavior})
        return manifest


def snapshot(repository: Path) -> dict[str, bytes]:
    """Every file of a repository but the lock and the record of what serves."""
    return {
        path.relative_to(repository).as_posix(): path.read_bytes()
        for path in sorted(repository.rglob("*"))
        if path.is_file() and path.name not in (".publish.lock", ".serving.lock", SERVING)
    }


def assert_whole(repository: Path, versions: list[int]) -> None:
    """Exactly these versions are there, each as its manifest says."""
    assert published_versions(repository) == versions
    for version in versions:
        manifest = read_manifest(manifest_path(repository, BEHAVIOR, version))
        assert manifest_path(repository, ENCODER, version).read_bytes() == (
            manifest_path(repository, BEHAVIOR, version).read_bytes()
        )
        on_disk = {
            path.relative_to(repository).as_posix(): sha256(path)
            for model in (ENCODER, BEHAVIOR)
            for path in (repository / model / str(version)).rglob("*")
            if path.name != MANIFEST
        }
        assert manifest.files == on_disk
    assert not (repository / STAGING).exists()
    folders = {
        int(path.name)
        for model in (ENCODER, BEHAVIOR)
        for path in (repository / model).glob("[0-9]*")
    }
    assert folders == set(versions)


@pytest.fixture
def repository(tmp_path: Path, manifest: Manifest) -> Path:
    """A repository in which version 1 is published."""
    publish(tmp_path / "repository", Writer(manifest))
    return tmp_path / "repository"


def test_versions_count_up_and_earlier_ones_stay(repository: Path, manifest: Manifest) -> None:
    before = snapshot(repository)
    published = publish(repository, Writer(manifest, "other"))
    assert published.behavior_version == published.encoder_version == 2
    assert_whole(repository, [1, 2])
    assert before.items() <= snapshot(repository).items()


def test_the_manifest_lists_every_file_with_its_digest(
    repository: Path, manifest: Manifest
) -> None:
    published = publish(repository, Writer(manifest))
    assert sorted(published.files) == [
        "behavior/2/config.pbtxt",
        "behavior/2/model.onnx",
        "encoder/2/config.pbtxt",
        "encoder/2/model.onnx",
        "encoder/2/tokenizer.json",
    ]
    assert published == read_manifest(manifest_path(repository, BEHAVIOR, 2))


def test_triton_finds_a_configuration_of_each_model(repository: Path, manifest: Manifest) -> None:
    for model, config in served_models(manifest).items():
        assert triton_config.read(repository / model / "config.pbtxt") == config


def test_a_version_is_never_given_twice(repository: Path, manifest: Manifest) -> None:
    (repository / BEHAVIOR / "7").mkdir()
    assert publish(repository, Writer(manifest)).behavior_version == 8


@pytest.mark.parametrize(
    "error", [ValueError("the graphs differ"), KeyboardInterrupt()], ids=lambda e: type(e).__name__
)
def test_what_goes_wrong_while_writing_leaves_everything_as_it_was(
    repository: Path, manifest: Manifest, error: Exception
) -> None:
    before = snapshot(repository)
    with pytest.raises(type(error)):
        publish(repository, Writer(manifest, error=error))
    assert snapshot(repository) == before
    assert_whole(repository, [1])
    publish(repository, Writer(manifest))
    assert_whole(repository, [1, 2])


def assert_one_sentence(error: PublishError, *words: str) -> None:
    text = str(error)
    assert "\n" not in text
    assert ". " not in text
    for word in (*words, "nothing was changed"):
        assert word in text


def test_a_full_disk_leaves_everything_as_it_was(repository: Path, manifest: Manifest) -> None:
    before = snapshot(repository)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(PublishError) as failed:
        publish(repository, Writer(manifest, error=full))
    assert_one_sentence(failed.value, "No space left on device", str(repository), "has room")
    assert snapshot(repository) == before
    assert_whole(repository, [1])


@pytest.mark.parametrize("call", ["fsync", "rename"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_disk_that_fills_up_later_leaves_the_earlier_version_whole(
    repository: Path,
    manifest: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    nth: int,
) -> None:
    owner = os if call == "fsync" else Path
    calls = 0
    real = getattr(owner, call)

    def failing(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, call, failing)
        with pytest.raises(PublishError) as failed:
            publish(repository, Writer(manifest))
    assert_one_sentence(failed.value, "No space left on device")
    assert published_versions(repository) == [1]
    assert not (repository / STAGING).exists()
    publish(repository, Writer(manifest))
    versions = published_versions(repository)
    assert len(versions) == 2
    assert_whole(repository, versions)


def failing_second(real: Callable[..., object]) -> Callable[..., object]:
    calls: list[object] = []

    def call(*args: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    return call


def test_a_failure_at_the_very_end_changes_nothing(
    repository: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The behaviour model fails to move into place, after the encoder has."""
    before = snapshot(repository)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing_second(Path.rename))
        with pytest.raises(PublishError, match="nothing was changed"):
            publish(repository, Writer(manifest))
    assert snapshot(repository) == before


def test_a_failure_after_publication_says_that_it_is_published(
    repository: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / SERVING).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", failing_second(Path.replace))
        with pytest.raises(PublishError, match="version 2 is published"):
            publish(repository, Writer(manifest))
    assert_whole(repository, [1, 2])


def test_each_version_keeps_its_own_configuration(repository: Path, manifest: Manifest) -> None:
    first = served_models(manifest)
    wider = manifest.model_copy(update={"vector_dim": 16, "history_events": 8})
    second = served_models(publish(repository, Writer(wider)))
    for version, configs in ((1, first), (2, second)):
        for model in (ENCODER, BEHAVIOR):
            path = repository / model / str(version) / "config.pbtxt"
            assert triton_config.read(path) == configs[model]
    for version, configs in ((1, first), (2, second)):  # for a Triton started by hand
        promote(repository, version)
        for model in (ENCODER, BEHAVIOR):
            assert triton_config.read(repository / model / "config.pbtxt") == configs[model]


def test_a_file_in_the_way_of_the_repository_is_an_error_in_one_sentence(
    tmp_path: Path, manifest: Manifest
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("mine")
    for repository in (blocked, blocked / "inside"):
        with pytest.raises(PublishError) as failed:
            publish(repository, Writer(manifest))
        assert_one_sentence(failed.value, str(repository), "can be written")
    assert blocked.read_text() == "mine"


def test_a_file_in_the_way_of_a_model_is_an_error_in_one_sentence(
    tmp_path: Path, manifest: Manifest
) -> None:
    (tmp_path / BEHAVIOR).write_text("mine")
    with pytest.raises(PublishError) as failed:
        publish(tmp_path, Writer(manifest))
    assert_one_sentence(failed.value, str(tmp_path))
    assert (tmp_path / BEHAVIOR).read_text() == "mine"
    assert published_versions(tmp_path) == []
    assert not (tmp_path / STAGING).exists()


def test_of_two_publishers_at_once_one_is_turned_away(repository: Path, manifest: Manifest) -> None:
    def write(encoder: Path, behavior: Path, version: int) -> Manifest:
        with pytest.raises(PublishError, match="another process is writing") as refused:
            publish(repository, Writer(manifest, "the other"))
        assert "\n" not in str(refused.value)
        return Writer(manifest)(encoder, behavior, version)

    publish(repository, write)
    assert_whole(repository, [1, 2])


def test_what_a_kill_left_is_swept_by_the_next_publication(
    repository: Path, manifest: Manifest
) -> None:
    half = repository / STAGING / ENCODER / "model.onnx"
    half.parent.mkdir(parents=True)
    half.write_text("half")
    orphan = repository / ENCODER / "2" / "model.onnx"
    orphan.parent.mkdir()
    orphan.write_text("whole, but no behaviour model names it")
    (repository / ENCODER / ".config.pbtxt.partial").write_text("half")
    publish(repository, Writer(manifest))
    assert_whole(repository, [1, 2])
    assert orphan.read_text().startswith("graph")
    assert not (repository / ENCODER / ".config.pbtxt.partial").exists()


def test_other_folders_of_the_repository_are_left_alone(
    repository: Path, manifest: Manifest
) -> None:
    other = repository / "somebody-elses-model" / "1" / "model.onnx"
    other.parent.mkdir(parents=True)
    other.write_text("theirs")
    publish(repository, Writer(manifest))
    assert other.read_text() == "theirs"


def test_a_published_manifest_is_plain_json(repository: Path) -> None:
    content = json.loads(manifest_path(repository, BEHAVIOR, 1).read_bytes())
    assert content["schema_version"] == 1
    assert content["behavior_version"] == 1
