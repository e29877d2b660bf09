"""What is published, what serves, and whether it is whole."""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shopcast_cli.app import app
from shopcast_domain.manifest import (
    BEHAVIOR,
    ENCODER,
    Check,
    Gate,
    Manifest,
    ManifestError,
    manifest_path,
)
from shopcast_repository import locking
from shopcast_repository.comparison import compare
from shopcast_repository.errors import RepositoryError
from shopcast_repository.locking import deciding, sole_writer
from shopcast_repository.pruning import prune, superfluous
from shopcast_repository.publishing import publish
from shopcast_repository.served import write_configs
from shopcast_repository.serving import (
    SERVING,
    Trial,
    promote,
    read_serving,
    rollback,
    serving_version,
    try_out,
)
from shopcast_repository.verification import verify
from shopcast_repository.versions import all_versions, find_manifest

FAILED = Gate(checks=(Check(name="calibrated", passed=False, finding="it is off"),), forced=True)


def release(repository: Path, manifest: Manifest, **changes: object) -> Manifest:
    """Publish a small version."""

    def write(encoder: Path, behavior: Path, version: int) -> Manifest:
        return fill(encoder, behavior, manifest, version, **changes)

    return publish(repository, write)


def fill(
    encoder: Path, behavior: Path, manifest: Manifest, version: int, **changes: object
) -> Manifest:
    """Write the files of a small version."""
    numbers = {"encoder_version": version, "behavior_version": version}
    made = manifest.model_copy(update=numbers | changes)
    for folder in (encoder, behavior):
        (folder / "model.onnx").write_bytes(b"graph %d" % version)
        (folder / "model.py").write_bytes(b"code")
    (encoder / "tokenizer.json").write_text("{}")
    (behavior / "card").mkdir()
    (behavior / "card" / "quality.svg").write_text("<svg/>")
    write_configs(made, {ENCODER: encoder, BEHAVIOR: behavior})
    return made


@pytest.fixture
def repository(tmp_path: Path, manifest: Manifest) -> Path:
    """Versions 1, 2 and 3; the first one serves."""
    found = tmp_path / "repository"
    for _ in range(3):
        release(found, manifest)
    return found


def test_the_first_version_serves_and_later_ones_wait(repository: Path) -> None:
    said = read_serving(repository)
    assert said is not None
    assert (said.version, said.before) == (1, None)
    assert all_versions(repository) == [1, 2, 3]


def test_rolling_back_undoes_promotions_one_by_one(repository: Path) -> None:
    for version in (2, 3):
        promote(repository, version)
    assert [rollback(repository).version for _ in range(2)] == [2, 1]
    with pytest.raises(RepositoryError, match="no version served"):
        rollback(repository)
    said = read_serving(repository)
    assert said is not None
    told = [(change.action, change.version, change.before) for change in said.changes]
    assert told == [
        ("first", 1, None), ("promote", 2, 1), ("promote", 3, 2), ("rollback", 2, 3),
        ("rollback", 1, 2),
    ]  # fmt: skip


def test_a_trial_leaves_what_serves_and_ends_with_a_promotion_or_one_call_back(
    repository: Path, manifest: Manifest
) -> None:
    promote(repository, 2)
    tried = try_out(repository, Trial(version=3, share=0.1))
    assert (tried.version, tried.before) == (2, 1)
    assert tried.trial is not None
    assert (tried.trial.version, tried.trial.share, tried.trial.shadow) == (3, 0.1, 0.0)
    assert read_serving(repository) == tried
    again = try_out(repository, Trial(version=3, share=0.1))
    assert again != tried, "one that was over begins anew"
    assert prune(repository, 1) == []
    assert try_out(repository, Trial(version=3, share=0.5)).versions == (1, 2)
    ended = rollback(repository)
    assert (ended.version, ended.trial) == (2, None)
    try_out(repository, Trial(version=1, shadow=1.0))
    assert promote(repository, 3).trial is None
    with pytest.raises(RepositoryError, match="serves already"):
        try_out(repository, Trial(version=3, share=0.5))
    release(repository, manifest, gate=FAILED)
    with pytest.raises(RepositoryError, match="it is off"):
        try_out(repository, Trial(version=4, share=0.5))
    (repository / ENCODER / "2" / "model.onnx").write_bytes(b"another graph")
    with pytest.raises(RepositoryError, match="version 2 is not whole"):
        try_out(repository, Trial(version=2, share=0.5))
    assert serving_version(repository) == 3


def test_promoting_what_serves_changes_nothing_to_roll_back_to(repository: Path) -> None:
    promote(repository, 2)
    assert promote(repository, 2).versions == (1, 2)
    assert promote(repository, 1).versions == (2, 1)


def test_a_version_that_failed_its_gate_takes_force(repository: Path, manifest: Manifest) -> None:
    release(repository, manifest, gate=FAILED)
    with pytest.raises(RepositoryError, match="it is off"):
        promote(repository, 4)
    assert serving_version(repository) == 1
    said = promote(repository, 4, force=True)
    assert said.version == 4
    assert said.changes[-1].forced


def test_a_version_that_is_not_whole_does_not_serve(repository: Path) -> None:
    (repository / ENCODER / "2" / "model.onnx").write_bytes(b"another graph")
    with pytest.raises(RepositoryError, match="not whole"):
        promote(repository, 2, force=True)
    assert serving_version(repository) == 1


def test_where_nobody_has_said_what_serves_it_is_the_newest(
    repository: Path, manifest: Manifest
) -> None:
    (repository / SERVING).unlink()
    assert serving_version(repository) == 3
    assert promote(repository, 2).versions == (3, 2)
    (repository / SERVING).unlink()
    release(repository, manifest)
    said = read_serving(repository)
    assert said is not None
    assert said.versions == (3,)


@pytest.mark.parametrize("text", ["", "{}", '{"versions": []}', '{"versions": ["x"]}', "[1]"])
def test_a_broken_record_of_what_serves_is_named(repository: Path, text: str) -> None:
    (repository / SERVING).write_text(text)
    with pytest.raises(RepositoryError, match=r"serving\.json does not say which version serves"):
        serving_version(repository)


def test_verify_finds_a_flipped_byte_in_any_file(repository: Path) -> None:
    assert verify(repository, 2) == []
    files = [p for m in (ENCODER, BEHAVIOR) for p in (repository / m / "2").rglob("*")]
    files = [path for path in files if path.is_file()]
    assert len(files) == 10
    for path in files:
        whole = path.read_bytes()
        for place in {0, len(whole) // 2, len(whole) - 1}:
            flipped = bytearray(whole)
            flipped[place] ^= 1
            path.write_bytes(flipped)
            try:
                problems = verify(repository, 2)
            except ManifestError as error:
                problems = [str(error)]
            assert problems, path
            assert any(path.name in problem for problem in problems), (path, problems)
        path.write_bytes(whole)
    assert verify(repository, 2) == []


def test_verify_finds_what_is_missing_and_what_was_added(repository: Path) -> None:
    (repository / BEHAVIOR / "2" / "card" / "quality.svg").unlink()
    (repository / ENCODER / "2" / "surprise.py").write_text("import os")
    found = verify(repository, 2)
    assert found == [
        "behavior/2/card/quality.svg cannot be read (No such file or directory)",
        "encoder/2/surprise.py was not published",
    ]


def test_verify_finds_another_manifest_and_a_linked_folder(
    repository: Path, tmp_path: Path
) -> None:
    (repository / BEHAVIOR / "2" / "card" / "manifest.json").write_text("{}")
    (repository / ENCODER / "2" / "more").symlink_to(tmp_path)
    assert verify(repository, 2) == [
        "behavior/2/card/manifest.json was not published",
        "encoder/2/more was not published",
    ]


def test_a_copied_version_is_not_another_one(repository: Path) -> None:
    for model in (ENCODER, BEHAVIOR):
        shutil.copytree(repository / model / "2", repository / model / "9")
    assert verify(repository, 9) == ["behavior/9/manifest.json is the manifest of another version"]
    with pytest.raises(ManifestError, match="that of version 2"):
        find_manifest(repository, 9)


def test_pruning_keeps_the_newest_what_serves_and_what_served(
    repository: Path, manifest: Manifest
) -> None:
    for _ in range(3):
        release(repository, manifest)
    promote(repository, 3)
    assert superfluous(repository, 2) == [2, 4]
    assert prune(repository, 2) == [2, 4]
    assert all_versions(repository) == [1, 3, 5, 6]
    assert {p.name for p in (repository / ENCODER).iterdir() if p.is_dir()} == {"1", "3", "5", "6"}
    assert release(repository, manifest).behavior_version == 7
    assert rollback(repository).version == 1


def test_nothing_is_moved_out_of_the_repository(
    repository: Path, manifest: Manifest, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("kept")
    (repository / ".staging").symlink_to(outside)
    assert prune(repository, 1) == [2]
    (repository / ".staging").symlink_to(outside)
    release(repository, manifest)
    assert [path.name for path in outside.iterdir()] == ["mine"]


def test_pruning_keeps_what_a_gateway_may_have_gone_back_to(
    repository: Path, manifest: Manifest
) -> None:
    """One that refused versions 2 and 3 goes on with version 1."""
    release(repository, manifest)
    promote(repository, 2)
    promote(repository, 3)
    assert prune(repository, 1) == []
    assert all_versions(repository) == [1, 2, 3, 4]


def test_rolling_back_refuses_what_is_not_whole(repository: Path) -> None:
    promote(repository, 2)
    before = (repository / SERVING).read_bytes()
    (repository / ENCODER / "1" / "model.onnx").write_bytes(b"another graph")
    with pytest.raises(RepositoryError, match="version 1 is not whole"):
        rollback(repository)
    (repository / BEHAVIOR / "1" / "config.pbtxt").unlink()
    with pytest.raises(RepositoryError, match="version 1 is not whole"):
        rollback(repository)
    assert (repository / SERVING).read_bytes() == before


def test_a_version_whose_manifest_is_lost_can_be_mended(
    repository: Path, manifest: Manifest
) -> None:
    lost = manifest_path(repository, BEHAVIOR, 2)
    lost.unlink()
    assert prune(repository, 9) == []
    assert release(repository, manifest).behavior_version == 4
    shutil.copy(manifest_path(repository, ENCODER, 2), lost)
    assert verify(repository, 2) == []


def test_a_broken_record_is_found_before_the_work(repository: Path, manifest: Manifest) -> None:
    (repository / SERVING).write_text("{")

    def write(encoder: Path, behavior: Path, version: int) -> Manifest:
        raise AssertionError

    with pytest.raises(RepositoryError, match="does not say which version serves"):
        publish(repository, write)
    assert all_versions(repository) == [1, 2, 3]


def test_a_link_in_place_of_the_lock_is_not_followed(repository: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in (".serving.lock", ".serving.json.partial"):
        (repository / name).unlink(missing_ok=True)
        (repository / name).symlink_to(victim)
        try:
            promote(repository, 2)
        except RepositoryError as error:
            assert "cannot be written" in str(error)
        assert victim.read_text() == "mine"
        (repository / name).unlink(missing_ok=True)


def test_only_plain_numbers_are_versions(repository: Path, manifest: Manifest) -> None:
    for name in ("²", "007", "0", "1e3", "9" * 20):
        shutil.copytree(repository / BEHAVIOR / "1", repository / BEHAVIOR / name)
        (repository / ENCODER / name).mkdir()
    assert all_versions(repository) == [1, 2, 3]
    assert prune(repository, 1) == [2]
    assert release(repository, manifest).behavior_version == 4


def test_bytecode_beside_a_model_is_found(repository: Path) -> None:
    planted = repository / ENCODER / "2" / "__pycache__" / "model.cpython-311.pyc"
    planted.parent.mkdir()
    planted.write_bytes(b"code")
    assert verify(repository, 2) == [f"{planted.relative_to(repository)} was not published"]


def test_one_manifest_that_cannot_be_parsed_does_not_hide_the_others(repository: Path) -> None:
    manifest_path(repository, BEHAVIOR, 2).write_text("[" * 200_000)
    status, shown, told = run("list", "--repository", str(repository))
    assert (status, told) == (0, "")
    assert "unreadable" in shown


def test_a_second_writer_is_told(
    repository: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "_DECIDING_WAIT_S", 0.1)
    promote(repository, 2)
    for held, attempts in (
        (sole_writer, (lambda: release(repository, manifest), lambda: prune(repository, 1))),
        (
            deciding,
            (
                lambda: release(repository, manifest),
                lambda: prune(repository, 1),
                lambda: promote(repository, 3),
                lambda: rollback(repository),
            ),
        ),
    ):
        with held(repository):
            for attempt in attempts:
                with pytest.raises(RepositoryError, match="another process is writing"):
                    attempt()
    assert all_versions(repository) == [1, 2, 3]
    assert serving_version(repository) == 2


def test_going_back_does_not_wait_for_a_publication(repository: Path, manifest: Manifest) -> None:
    promote(repository, 2)

    def write(encoder: Path, behavior: Path, version: int) -> Manifest:
        assert rollback(repository).version == 1
        assert promote(repository, 3).version == 3
        return fill(encoder, behavior, manifest, version)

    assert publish(repository, write).behavior_version == 4
    assert serving_version(repository) == 3


def test_who_decides_is_waited_for(repository: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with deciding(repository):
            waiting = pool.submit(promote, repository, 2)
            time.sleep(0.2)
            assert not waiting.done()
            assert serving_version(repository) == 1
        assert waiting.result(timeout=5).version == 2


def test_what_differs_between_versions_is_named(manifest: Manifest) -> None:
    other = manifest.model_copy(
        update={
            "behavior_version": 2,
            "metrics": {"after fine-tuning": {"log_loss": 0.4}, "majority class": {}},
            "training": manifest.training.model_copy(update={"settings": {"seed": 8}}),
        }
    )
    assert compare(manifest, manifest) == []
    found = {one.field: (one.first, one.second) for one in compare(manifest, other)}
    assert found == {
        "training.settings.seed": (7, 8),
        "metrics.log_loss": (None, 0.4),
    }


def one_sentence(text: str) -> str:
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    return text


def run(*words: str) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, ["models", *words])
    return found.exit_code, found.stdout, found.stderr


@pytest.mark.parametrize("command", ["list", "verify", "rollback", "prune"])
def test_what_is_no_repository_is_said_in_one_sentence(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("mine")
    for place, words in (
        ("nowhere", "is not there"), ("file", "is a file"), (".", "is no model repository"),
    ):  # fmt: skip
        status, _, told = run(command, "--repository", str(tmp_path / place))
        assert status == 1
        assert words in one_sentence(told)


def test_a_card_that_is_no_text_is_said_in_one_sentence(repository: Path) -> None:
    card = repository / BEHAVIOR / "1" / "model_card.md"
    card.write_bytes(b"caf\xe9")
    status, _, told = run("show", "1", "--repository", str(repository))
    assert status == 1
    assert "is no UTF-8 text: run `platform models verify 1`" in one_sentence(told)


def test_a_number_no_version_has_is_wrong_usage() -> None:
    assert run("promote", str(2**63), "--target", "127.0.0.1:1")[0] == 2


def test_bad_versions_are_said_in_one_sentence(repository: Path) -> None:
    place = ("--repository", str(repository))
    for words in (("show", "9"), ("diff", "1", "9"), ("promote", "9"), ("verify", "9")):
        status, _, told = run(*words, *place)
        assert status == 1
        assert "there is no version 9" in one_sentence(told)
    path = manifest_path(repository, BEHAVIOR, 2)
    newer = json.loads(path.read_text())
    path.write_text(json.dumps(newer | {"schema_version": 7}))
    for words in (("show", "2"), ("promote", "2")):
        status, _, told = run(*words, *place)
        assert status == 1
        assert "upgrade shopcast" in one_sentence(told)
    status, shown, _ = run("list", *place)  # the others are still to be seen
    assert status == 0
    assert "unreadable" in shown
    path.unlink()
    status, _, told = run("show", "2", *place)
    assert status == 1
    assert "there is no version 2" in one_sentence(told)


def test_commands_tell_people_and_machines(repository: Path) -> None:
    place = ("--repository", str(repository))
    status, shown, _ = run("list", *place, "--json")
    assert status == 0
    assert [(one["version"], one["serving"]) for one in json.loads(shown)] == [
        (1, True), (2, False), (3, False),
    ]  # fmt: skip
    assert run("promote", "3", *place)[1].startswith("version 3 serves; `platform models rollback`")
    assert json.loads(run("rollback", *place, "--json")[1])["versions"] == [1]
    assert run("verify", *place)[0] == 0
    (repository / BEHAVIOR / "2" / "model.onnx").write_bytes(b"x")
    status, shown, _ = run("verify", *place, "--json")
    assert status == 1
    assert [one["whole"] for one in json.loads(shown)] == [True, False, True]
    assert json.loads(run("show", "1", *place, "--json")[1])["behavior_version"] == 1
    assert json.loads(run("diff", "1", "3", *place, "--json")[1]) == []
    assert json.loads(run("prune", "--keep", "1", "--dry-run", *place, "--json")[1]) == {
        "removed": [2], "dry_run": True,
    }  # fmt: skip
    assert all_versions(repository) == [1, 2, 3]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_disk_that_takes_nothing_leaves_what_serves(
    repository: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    before = (repository / SERVING).read_bytes()

    def full(path: Path, content: bytes) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RepositoryError, match="make room or rights"):
        promote(repository, 2)
    assert (repository / SERVING).read_bytes() == before


@pytest.mark.parametrize("change", [lambda where: promote(where, 2), rollback])
def test_a_folder_that_may_not_be_written_leaves_what_serves(
    repository: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    promote(repository, 3)
    before = (repository / SERVING).read_bytes()
    write = Path.write_bytes

    def forbidden(path: Path, content: bytes) -> int:
        if path.parent == repository / BEHAVIOR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", forbidden)
    with pytest.raises(RepositoryError, match="make room or rights"):
        change(repository)
    assert (repository / SERVING).read_bytes() == before
