"""What `platform doctor` says of a sound installation, and of each thing that can be wrong."""

import asyncio
import dataclasses
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from certificates import Authority
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from typer.testing import CliRunner

from shopcast_cli.app import app
from shopcast_domain.features import FEATURES, HISTORY_NUMBERS
from shopcast_domain.manifest import (
    BEHAVIOR,
    CONFIG,
    ENCODER,
    FALLBACK,
    Artefact,
    Manifest,
    Plan,
    Tokeniser,
    manifest_path,
)
from shopcast_domain.tokeniser import TOKENISER
from shopcast_gateway.backend.triton import TritonBackend
from shopcast_gateway.directory.open import open_directory
from shopcast_gateway.doctor import checkup, machine, releases
from shopcast_gateway.doctor.checkup import CHECKS, examine
from shopcast_gateway.doctor.finding import Finding, Installation
from shopcast_gateway.errors import StartupError
from shopcast_gateway.transport.credentials import soon_over
from shopcast_gateway.triton import environment
from shopcast_repository import triton_config
from shopcast_repository.digests import sha256
from shopcast_repository.publishing import STAGING, publish
from shopcast_repository.served import padding_for, served_models, write_configs
from shopcast_repository.serving import SERVING, promote

TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "green", "shoe")
H100 = Plan(gpu="NVIDIA H100 80GB HBM3", compute_capability="9.0", tensorrt="10.3")
GIB = 2**30
ANY = "0.0.0.0"  # noqa: S104 - what must be refused


class Usage(NamedTuple):
    """As shutil.disk_usage answers."""

    total: int
    used: int
    free: int


def tokeniser(tokens: tuple[str, ...] = TOKENS) -> str:
    vocabulary = {token: number for number, token in enumerate(tokens)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=TOKENS[1]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return str(made.to_str())


def release(repository: Path, manifest: Manifest, **changes: object) -> Manifest:
    """Publish a small version with a tokeniser that gives the golden's token ids."""

    def write(encoder: Path, behavior: Path, version: int) -> Manifest:
        for folder in (encoder, behavior):
            (folder / "model.onnx").write_bytes(b"graph %d" % version)
        (encoder / TOKENISER).write_text(tokeniser())
        said = Tokeniser(
            sha256=sha256(encoder / TOKENISER), vocabulary=len(TOKENS), max_tokens=16, pad_id=0
        )
        numbers = {"encoder_version": version, "behavior_version": version}
        created = {"created": datetime.now(UTC) - timedelta(days=1)}
        reads = {"features": FEATURES, "history_numbers": HISTORY_NUMBERS}
        made = manifest.model_copy(update={"tokeniser": said} | reads | numbers | created | changes)
        write_configs(made, {ENCODER: encoder, BEHAVIOR: behavior})
        return made

    return publish(repository, write)


def on_gpu(target: str = "tensorrt", plan: Plan | None = H100) -> Artefact:
    return Artefact(
        target=target,
        device="cuda",
        backends={ENCODER: target, BEHAVIOR: target},
        padding=padding_for(target, max_tokens=16, history_events=4),
        plan=plan,
        layers=4,
        parameters=1000,
    )


def install_triton(home: Path) -> None:
    """What `locate` looks for, with nothing that runs."""
    site_packages = environment._layout(home).backends.parents[2]
    for path in (
        environment._layout(home).server,
        environment._stub(environment._layout(home)),
        home / "bin" / "python",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    about = site_packages / "onnxruntime-1.32.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime\nVersion: 1.32.0\n")
    environment._write_stamp(home)


def nvidia_smi(folder: Path, answer: str, status: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{answer}'\nexit {status}\n")
    program.chmod(0o755)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest) -> Path:
    """Two versions, of which the first serves; a directory with its key; Triton's environment."""
    folder = tmp_path_factory.mktemp("sound")
    release(folder / "models", manifest)
    release(folder / "models", manifest)
    install_triton(folder / "triton")
    asyncio.run(make_directory(folder / "store.db"))
    return folder


@pytest.fixture
def sound(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """A copy of what was made, which can serve on a machine with room and without a GPU."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100 * GIB, 0, 100 * GIB))
    monkeypatch.setattr(environment.platform, "machine", lambda: "x86_64")
    return Installation(
        repository=tmp_path / "models",
        directory=tmp_path / "store.db",
        host="127.0.0.1",
        port=0,
        metrics_port=0,
        triton_home=tmp_path / "triton",
    )


async def make_directory(path: Path) -> None:
    await (await open_directory(path)).close()


def said(installation: Installation, name: str, **changes: Any) -> list[Finding]:
    """What one check says; the command is the same checks, one after the other."""
    changed = dataclasses.replace(installation, **changes)
    answers = checkup._answers(CHECKS[name], changed)
    return [Finding(name, a.state, a.found, a.remedy) for a in answers]


def only(installation: Installation, name: str, **changes: Any) -> Finding:
    (finding,) = said(installation, name, **changes)
    assert finding.found
    assert "\n" not in finding.found
    assert (finding.remedy is None) == (finding.state in ("ok", "skipped"))
    return finding


def with_manifest(repository: Path, version: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite both copies of a manifest."""
    for model in (ENCODER, BEHAVIOR):
        path = manifest_path(repository, model, version)
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def run(installation: Installation, *words: str) -> tuple[int, str]:
    given = [
        "--repository", installation.repository, "--directory", installation.directory,
        "--port", installation.port, "--triton-home", installation.triton_home,
    ]  # fmt: skip
    done = CliRunner().invoke(app, ["doctor", *map(str, given), *words])
    assert done.stderr == ""
    return done.exit_code, done.stdout


# As a whole


def test_a_sound_installation_passes_every_check(sound: Installation) -> None:
    found = examine(sound)
    assert [one.name for one in found] == list(CHECKS)
    assert {(one.state, one.remedy) for one in found} == {("ok", None)}


def test_people_get_a_line_per_finding_and_the_remedy_beneath(sound: Installation) -> None:
    status, shown = run(sound)
    assert status == 0
    lines = shown.splitlines()
    assert all(line.startswith("✓ ") for line in lines[:-1])
    assert lines[-1] == "14 checks: 14 ok"
    (sound.repository / STAGING).mkdir()
    shutil.rmtree(sound.triton_home)
    status, shown = run(sound)
    assert status == 1
    lines = shown.splitlines()
    assert lines[-1] == "14 checks: 11 ok, 1 warning, 1 failed, 1 skipped"
    at = next(number for number, line in enumerate(lines) if line.startswith("✗ triton"))
    assert lines[at + 1].strip() == "run `platform triton install`"
    assert lines[at + 1].startswith("   ")
    assert any(line.startswith("! repository") for line in lines)
    assert any(line.startswith("- backends") for line in lines)


def test_machines_get_the_findings_and_whether_it_is_healthy(sound: Installation) -> None:
    (sound.repository / STAGING).mkdir()
    status, shown = run(sound, "--json")
    told = json.loads(shown)
    assert status == 0  # a warning does not fail
    assert told["healthy"] is True
    assert told["checks"] == {"failed": 0, "warning": 1, "ok": 13, "skipped": 0}
    assert {frozenset(one) for one in told["findings"]} == {
        frozenset(("name", "state", "found", "remedy"))
    }
    (sound.repository / SERVING).write_text("[]")
    status, shown = run(sound, "--json")
    assert status == 1
    assert json.loads(shown)["healthy"] is False
    assert json.loads(shown)["checks"]["failed"] == 1


def test_a_check_in_two_states_counts_once_as_the_worse(sound: Installation) -> None:
    (sound.repository / STAGING).mkdir()
    (sound.repository / ENCODER / "1" / "model.onnx").write_bytes(b"x")
    told = json.loads(run(sound, "--json")[1])
    states = [one["state"] for one in told["findings"] if one["name"] == "repository"]
    assert states == ["failed", "warning"]
    assert told["checks"] == {"failed": 1, "warning": 0, "ok": 13, "skipped": 0}


@pytest.mark.parametrize("there", [True, False])
def test_it_creates_and_changes_nothing(
    sound: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    if not there:
        for path in (sound.directory, Path(f"{sound.directory}.key")):
            path.unlink()
        for folder in (sound.repository, sound.triton_home):
            shutil.rmtree(folder)
    before = everything(tmp_path)
    assert run(sound)[0] == (0 if there else 1)
    CliRunner().invoke(app, ["doctor", "--port", "0"])  # with every path left to its default
    assert everything(tmp_path) == before


def test_a_check_that_breaks_is_a_finding(
    sound: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Installation) -> Any:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setitem(CHECKS, "space", broken)
    found = only(sound, "space")
    assert found.state == "failed"
    assert "ZeroDivisionError: two lines" in found.found
    status, shown = run(sound)
    assert status == 1
    assert "Traceback" not in shown


def test_it_runs_where_packages_are_missing_and_names_them(sound: Installation) -> None:
    blocked = "import sys; sys.modules['tokenizers'] = None; sys.argv[0] = 'platform'; "
    script = blocked + "from shopcast_cli.entry import main; main()"
    options = ["--repository", str(sound.repository), "--port", "0", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", script, "doctor", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=sound.repository.parent,
    )
    assert done.returncode == 1, done.stderr
    told = {one["name"]: one for one in json.loads(done.stdout)["findings"]}
    assert told["packages"]["state"] == "failed"
    assert "tokenizers cannot be imported" in told["packages"]["found"]
    assert "pip install 'shopcast[gateway]'" in told["packages"]["remedy"]
    assert told["vocabulary"] == {
        "name": "vocabulary", "state": "skipped", "found": "tokenizers is missing, see packages",
        "remedy": None,
    }  # fmt: skip
    assert told["ports"]["state"] == "ok"


# The machine


def test_a_python_that_is_too_old_is_told(
    sound: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert only(sound, "python").state == "ok"
    monkeypatch.setattr(machine, "_OLDEST", (3, 99))
    assert only(sound, "python").remedy == "use Python 3.99 or newer"


def test_a_python_without_a_triton_is_told_unless_triton_is_elsewhere(
    sound: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_PYTHONS", ((3, 99),))
    found = only(sound, "python")
    assert found.state == "failed"
    assert "needs Python 3.99" in found.found
    assert "--triton-url" in str(found.remedy)
    assert only(sound, "python", triton_urls=("triton:8001",)).state == "ok"


def test_packages_are_named_with_their_versions(sound: Installation) -> None:
    found = only(sound, "packages").found
    for package in ("grpcio", "tritonclient", "tokenizers", "pydantic", "numpy"):
        assert f"{package} " in found
    assert "onnxruntime 1.32.0" in found
    assert "onnxruntime" not in only(sound, "packages", triton_urls=("triton:8001",)).found


def test_triton_without_onnxruntime_is_told(sound: Installation) -> None:
    (about,) = sound.triton_home.rglob("onnxruntime-*.dist-info")
    shutil.rmtree(about)
    found = only(sound, "packages")
    assert found.state == "failed"
    assert "platform triton install" in str(found.remedy)


def test_a_taken_port_is_named(sound: Installation) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        found = only(sound, "ports", port=port)
        assert found.state == "failed"
        assert f"port {port}" in found.found
        assert "--port" in str(found.remedy)
        found = only(sound, "ports", metrics_port=port)
        assert found.state == "failed"
        assert "--metrics-port" in str(found.remedy)
    assert only(sound, "ports", port=port, metrics_port=None).state == "ok"


def test_one_port_does_not_serve_both(sound: Installation) -> None:
    found = only(sound, "ports", port=50051, metrics_port=50051)
    assert found.state == "failed"
    assert found.found == "--port and --metrics-port both name port 50051"
    assert "--metrics-port" in str(found.remedy)
    found = only(sound, "ports", admin_port=50051, metrics_port=50051)
    assert found.found == "--metrics-port and --admin-port both name port 50051"


def test_a_foreign_address_is_told(sound: Installation) -> None:
    found = only(sound, "ports", host="192.0.2.1", metrics_port=None)  # TEST-NET, nobody's
    assert found.state == "failed"
    assert "--host" in str(found.remedy)


def test_little_space_is_a_warning(sound: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {machine._SHARED_MEMORY: 2**20}
    monkeypatch.setattr(
        shutil, "disk_usage", lambda folder: Usage(GIB, 0, free.get(folder, 10 * GIB))
    )
    found = only(sound, "space")
    assert found.state == "warning"
    assert "1 MiB is free in /dev/shm" in found.found
    assert "--shm-size" in str(found.remedy)
    assert only(sound, "space", triton_urls=("triton:8001",)).state == "ok"
    free = {sound.repository: GIB - 1}
    found = only(sound, "space")
    assert found.state == "warning"
    assert str(sound.repository) in found.found


# Triton


def test_a_missing_environment_is_told_with_the_command_that_makes_it(
    sound: Installation, tmp_path: Path
) -> None:
    found = only(sound, "triton", triton_home=tmp_path / "nowhere")
    assert found.state == "failed"
    assert found.remedy == "run `platform triton install`"
    assert only(sound, "backends", triton_home=tmp_path / "nowhere").state == "skipped"


def test_a_triton_elsewhere_is_asked(
    sound: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = []

    class Answering:
        async def close(self) -> None:
            closed.append(True)

    async def connect(url: str, *, repository: Path) -> Answering:
        if url != "triton:8001":
            raise StartupError(f"No Triton server answers at {url}: start it")
        return Answering()

    monkeypatch.setattr(TritonBackend, "connect", connect)
    nowhere = tmp_path / "nowhere"
    assert only(sound, "triton", triton_urls=("triton:8001",), triton_home=nowhere).state == "ok"
    assert closed == [True]
    found = only(sound, "triton", triton_urls=("other:1",))
    assert (found.state, found.remedy) == ("failed", "start it")
    several = said(sound, "triton", triton_urls=("triton:8001", "other:1"))
    assert [one.state for one in several] == ["ok", "failed"]


# Who may call


def test_an_address_that_others_reach_is_told(sound: Installation) -> None:
    assert "only from this machine, in plain text, and whoever" in only(sound, "access").found
    found = only(sound, "access", host=ANY)
    assert found.state == "failed"
    assert found.remedy is not None
    assert "--allow-insecure" in found.remedy
    assert only(sound, "access", host=ANY, allow_insecure=True).state == "ok"
    assert only(sound, "access", admin_host=ANY).state == "ok", "there is no such port"
    found = only(sound, "access", admin_host=ANY, admin_port=0)
    assert "--admin-host" in str(found.remedy)
    found = only(sound, "access", metrics_host=ANY)
    assert "--allow-plaintext-metrics" in str(found.remedy)
    assert only(sound, "access", metrics_host=ANY, allow_plaintext_metrics=True).state == "ok"


def test_certificates_and_the_file_of_callers_are_read(sound: Installation, tmp_path: Path) -> None:
    ours = Authority("ours")
    cert, key = ours.sign().write(tmp_path, "server")
    (ca := tmp_path / "clients.pem").write_bytes(ours.cert)
    tls = {"tls_cert": cert, "tls_key": key}
    found = only(sound, "access", host=ANY, **tls)
    assert "--client-ca or --auth" in str(found.remedy)
    found = only(sound, "access", host=ANY, **tls, client_ca=ca)
    assert "over TLS, and who shows a certificate of the CA may call" in found.found
    missing = only(sound, "access", tls_cert=cert, tls_key=tmp_path / "none.key")
    assert missing.state == "failed"
    assert "none.key cannot be read" in missing.found
    (auth := tmp_path / "auth.toml").write_text("[callers]\nwho = 3")
    wrong = only(sound, "access", auth=auth)
    assert wrong.state == "failed"
    assert "auth.toml" in wrong.found


@pytest.mark.parametrize(
    ("left", "state", "said"),
    [
        (timedelta(hours=20), "ok", "over TLS"),
        (timedelta(minutes=10), "warning", "the certificate ends on "),
        (timedelta(days=-1), "failed", "the certificate ended on "),
    ],
)
def test_a_certificate_that_has_ended_or_will_soon_is_told(
    sound: Installation, tmp_path: Path, left: timedelta, state: str, said: str
) -> None:
    cert, key = Authority("ours").sign(left=left).write(tmp_path, "server")
    found = only(sound, "access", tls_cert=cert, tls_key=key)
    assert found.state == state
    assert said in found.found
    assert state == "ok" or "renew " in str(found.remedy)


def test_a_certificate_in_a_form_that_only_openssl_reads_ends_nothing() -> None:
    trusted = Authority("ours").sign(left=timedelta(days=-1)).cert
    assert soon_over(trusted)
    assert soon_over(trusted.replace(b" CERTIFICATE", b" TRUSTED CERTIFICATE")) == ""


def test_certificates_come_in_pairs(sound: Installation) -> None:
    done = CliRunner().invoke(app, ["doctor", "--tls-cert", "server.pem"])
    assert done.exit_code == 2
    assert "--tls-key" in done.stderr


# The repository


def test_what_is_no_repository_is_told(sound: Installation, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in ("nowhere", "file", "bin"):
        found = only(sound, "repository", repository=tmp_path / place)
        assert found.state == "failed"
        for name in ("vocabulary", "warm-up", "gpu", "backends", "clock"):
            assert only(sound, name, repository=tmp_path / place).state == "skipped"


def test_a_repository_that_cannot_be_read_is_told(
    sound: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> list[int]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(releases, "all_versions", refuse)
    found = only(sound, "repository")
    assert (found.state, found.remedy) == ("failed", "let this user read it")


@pytest.mark.parametrize(("version", "state"), [(1, "failed"), (2, "warning")])
def test_a_flipped_byte_names_the_version_and_the_file(
    sound: Installation, version: int, state: str
) -> None:
    path = sound.repository / BEHAVIOR / str(version) / "model.onnx"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    found = only(sound, "repository")
    assert found.state == state
    assert f"version {version} is not whole: behavior/{version}/model.onnx" in found.found


def test_a_missing_manifest_is_told(sound: Installation) -> None:
    manifest_path(sound.repository, BEHAVIOR, 2).unlink()
    found = only(sound, "repository")
    assert found.state == "warning"
    assert "behavior/2 has no manifest.json" in found.found
    manifest_path(sound.repository, BEHAVIOR, 1).unlink()
    states = [one.state for one in said(sound, "repository")]
    assert states == ["failed", "warning", "warning"]


def test_a_record_that_names_what_is_not_published_is_told(sound: Installation) -> None:
    shutil.rmtree(sound.repository / BEHAVIOR / "1")
    first, orphan = said(sound, "repository")
    assert first.state == "failed"
    assert "serving.json names version 1" in first.found
    assert "platform models promote" in str(first.remedy)
    assert orphan.state == "warning"
    assert "encoder/1 belongs to no published version" in orphan.found
    assert only(sound, "vocabulary").state == "skipped"


@pytest.mark.parametrize("text", ["", "{}", '{"versions": ["x"]}'])
def test_a_record_that_cannot_be_read_is_told(sound: Installation, text: str) -> None:
    (sound.repository / SERVING).write_text(text)
    found = only(sound, "repository")
    assert found.state == "failed"
    assert "platform models promote" in str(found.remedy)


def test_where_nobody_said_what_serves_it_is_a_warning(sound: Installation) -> None:
    (sound.repository / SERVING).unlink()
    found = only(sound, "repository")
    assert found.state == "warning"
    assert "platform models promote" in str(found.remedy)


@pytest.mark.parametrize(("version", "state"), [(1, "failed"), (2, "warning")])
def test_a_newer_schema_asks_for_an_upgrade(sound: Installation, version: int, state: str) -> None:
    with_manifest(sound.repository, version, lambda one: one.update(schema_version=7))
    found = only(sound, "repository")
    assert found.state == state
    assert "schema 7" in found.found
    assert "upgrade shopcast" in str(found.remedy)


@pytest.mark.parametrize(("version", "state"), [(1, "failed"), (2, "warning")])
def test_a_manifest_that_cannot_be_read_is_told(
    sound: Installation, version: int, state: str
) -> None:
    manifest_path(sound.repository, BEHAVIOR, version).write_text('{"schema_version": 1}')
    found = only(sound, "repository")
    assert found.state == state
    assert f"version {version}: " in found.found
    assert "publish the model again" in str(found.remedy)


# The version that serves


def test_other_features_than_are_computed_are_told(sound: Installation) -> None:
    assert only(sound, "features").state == "ok"

    def other(content: dict[str, Any]) -> None:
        content["features"].reverse()

    with_manifest(sound.repository, 1, other)
    found = only(sound, "features")
    assert found.state == "failed"
    assert "other features" in found.found


def test_a_changed_tokeniser_is_told(sound: Installation) -> None:
    path = sound.repository / ENCODER / "1" / TOKENISER
    before = path.read_text()
    path.write_text(tokeniser((*TOKENS, "more")))
    assert "has 10 tokens, the manifest says 9" in only(sound, "vocabulary").found
    path.write_text(before + " ")
    assert "digest" in only(sound, "vocabulary").found
    path.write_text("{}")
    assert "no tokeniser" in only(sound, "vocabulary").found
    path.unlink()
    assert only(sound, "vocabulary").state == "failed"


def test_other_token_ids_than_at_build_time_are_told(sound: Installation) -> None:
    def other(content: dict[str, Any]) -> None:
        content["goldens"][0]["token_ids"] = [2, 6, 8, 3]

    with_manifest(sound.repository, 1, other)
    found = only(sound, "vocabulary")
    assert found.state == "failed"
    assert "golden 0 gives other tokens" in found.found


@pytest.mark.parametrize("model", [ENCODER, BEHAVIOR])
@pytest.mark.parametrize("how", ["missing", "another"])
def test_a_configuration_for_a_triton_started_by_hand_is_that_of_the_version_that_serves(
    sound: Installation, model: str, how: str
) -> None:
    path = sound.repository / model / CONFIG
    if how == "missing":
        path.unlink()
    else:
        path.write_text("name: 'another'")
    found = only(sound, "repository")
    assert found.state == "warning"
    assert f"{model}/{CONFIG} is missing or not that of version 1" in found.found
    assert "platform models promote 1" in found.remedy
    promote(sound.repository, 1)
    assert only(sound, "repository").state == "ok"


@pytest.mark.parametrize("model", [ENCODER, BEHAVIOR])
def test_a_configuration_that_warms_up_something_else_is_told(
    sound: Installation, model: str
) -> None:
    path = sound.repository / model / "1" / CONFIG
    whole = path.read_text()
    proto = triton_config.read_proto(path)
    spare = proto.model_warmup.pop()
    path.write_text(str(proto))
    assert "does not warm up" in only(sound, "warm-up").found
    proto.model_warmup.extend([spare, spare])
    path.write_text(str(proto))
    assert "and" in only(sound, "warm-up").found
    assert only(sound, "warm-up").state == "failed"
    path.write_text(whole.replace("max_batch_size: 64", "max_batch_size: 32"))
    assert "does not say what the manifest says" in only(sound, "warm-up").found
    path.write_text("hello")
    assert only(sound, "warm-up").state == "failed"
    path.unlink()
    assert "is missing" in only(sound, "warm-up").found


def test_every_shape_that_is_padded_to_is_warmed_up(
    sound: Installation, manifest: Manifest
) -> None:
    made = release(sound.repository, manifest, artefact=on_gpu("onnxruntime-tensorrt", None))
    promote(sound.repository, 3)
    assert only(sound, "warm-up").state == "ok"
    path = sound.repository / BEHAVIOR / "3" / FALLBACK
    triton_config.write(served_models(made)[BEHAVIOR], path)
    assert "behavior/3/fallback.pbtxt" in only(sound, "warm-up").found


# What it runs on


def test_without_a_gpu_the_fallback_serves(
    sound: Installation, manifest: Manifest, tmp_path: Path
) -> None:
    assert "needs none" in only(sound, "gpu").found
    release(sound.repository, manifest, artefact=on_gpu())
    promote(sound.repository, 3)
    found = only(sound, "gpu")
    assert found.state == "warning"
    assert "nvidia-smi is not installed" in found.found
    assert "ONNX fallback on the CPU" in str(found.remedy)
    assert "`platform export --target tensorrt --device cuda`" in str(found.remedy)
    assert only(sound, "gpu", triton_urls=("triton:8001",)).state == "skipped"
    (sound.repository / ENCODER / "3" / FALLBACK).unlink()
    assert only(sound, "gpu").state == "failed"


@pytest.mark.parametrize(
    ("answer", "status", "state", "words"),
    [
        ("NVIDIA H100 80GB HBM3, 9.0, 550.54.15", 0, "ok", "driver 550.54.15"),
        ("NVIDIA A100-SXM4-80GB, 8.0, 550.54.15", 0, "warning", "here is NVIDIA A100-SXM4-80GB"),
        ("NVIDIA H100 80GB HBM3, 8.9, 550.54.15", 0, "warning", "(8.9)"),
        ("No devices were found", 0, "warning", "No devices were found"),
        ("Failed to initialize NVML", 9, "warning", "Failed to initialize NVML"),
        ("", 0, "warning", "it says nothing"),
    ],
)
def test_a_plan_runs_on_the_gpu_it_was_made_for(
    sound: Installation,
    manifest: Manifest,
    tmp_path: Path,
    answer: str,
    status: int,
    state: str,
    words: str,
) -> None:
    release(sound.repository, manifest, artefact=on_gpu())
    promote(sound.repository, 3)
    nvidia_smi(tmp_path / "bin", answer, status)
    found = only(sound, "gpu")
    assert found.state == state
    assert words in found.found


def test_any_gpu_does_where_there_is_no_plan(
    sound: Installation, manifest: Manifest, tmp_path: Path
) -> None:
    release(sound.repository, manifest, artefact=on_gpu("onnxruntime", None))
    promote(sound.repository, 3)
    nvidia_smi(tmp_path / "bin", "NVIDIA L4, 8.9, 550.54.15")
    assert only(sound, "gpu").state == "ok"


def test_a_backend_that_triton_lacks_is_named(sound: Installation, manifest: Manifest) -> None:
    release(sound.repository, manifest, artefact=on_gpu())
    promote(sound.repository, 3)
    found = only(sound, "backends")
    assert found.state == "warning"
    assert "backend tensorrt" in found.found
    assert "--triton-url" in str(found.remedy)
    (environment.locate(sound.triton_home).backends / "tensorrt").mkdir()
    assert only(sound, "backends").state == "ok"
    assert only(sound, "backends", triton_urls=("triton:8001",)).state == "skipped"


# The directory


def test_a_directory_that_is_not_there_yet_is_fine(sound: Installation, tmp_path: Path) -> None:
    found = only(sound, "directory", directory=tmp_path / "new" / "other.db")
    assert found.state == "ok"
    assert "not there yet" in found.found
    (tmp_path / "empty.db").touch()
    assert only(sound, "directory", directory=tmp_path / "empty.db").state == "ok"
    assert not (tmp_path / "new").exists()


def test_a_place_where_nothing_can_be_written_is_told(
    sound: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    found = only(sound, "directory", directory=tmp_path / "file" / "other.db")
    assert found.state == "failed"
    assert "--directory" in str(found.remedy)
    assert only(sound, "directory", directory=tmp_path / "models").state == "failed"
    assert "is no file" in only(sound, "directory", directory=Path()).found
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert only(sound, "directory").state == "failed"


def test_keys_of_the_environment_are_the_directorys(
    sound: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Path(sound.directory).with_name("store.db.key")
    monkeypatch.setenv("SHOPCAST_DIRECTORY_KEY", key.read_bytes().hex())
    key.unlink()
    assert only(sound, "directory").state == "ok"
    monkeypatch.setenv("SHOPCAST_DIRECTORY_KEY", "00" * 32)
    assert "under another key" in only(sound, "directory").found


def test_keys_in_another_order_are_told(
    sound: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Path(f"{sound.directory}.key").read_bytes()
    for ring in ((bytes(32), old), (old, bytes(32))):
        monkeypatch.setenv("SHOPCAST_DIRECTORY_KEY", ",".join(key.hex() for key in ring))
        if ring[1] == old:
            asyncio.run(make_directory(Path(sound.directory)))
    assert "not the first of those given" in only(sound, "directory").found


def test_a_lost_key_is_told(sound: Installation) -> None:
    Path(f"{sound.directory}.key").unlink()
    found = only(sound, "directory")
    assert found.state == "failed"
    assert "backup" in str(found.remedy)


def test_a_key_that_others_may_read_is_told(sound: Installation) -> None:
    Path(f"{sound.directory}.key").chmod(0o640)
    found = only(sound, "directory")
    assert found.state == "failed"  # as the gateway does not start with it
    assert "chmod 600" in str(found.remedy)


def test_another_key_is_told(sound: Installation) -> None:
    key = Path(f"{sound.directory}.key")
    key.write_bytes(bytes(32))
    assert "under another key" in only(sound, "directory").found
    key.write_bytes(b"short")
    assert only(sound, "directory").state == "failed"


def test_a_damaged_directory_is_told(sound: Installation) -> None:
    whole = sound.directory.read_bytes()
    for content in (b"a shopping list\n" * 1000, whole[: len(whole) // 2], whole[:4096]):
        sound.directory.write_bytes(content)
        found = only(sound, "directory")
        assert found.state == "failed"
        assert "damaged or no directory file" in found.found
        assert "backup" in str(found.remedy)


def test_another_applications_database_is_told(sound: Installation) -> None:
    sound.directory.unlink()
    with closing(sqlite3.connect(sound.directory)) as other:
        other.execute("CREATE TABLE notes (text)")
    assert "another application" in only(sound, "directory").found


@pytest.mark.parametrize(("version", "words"), [(99, "upgrade"), (1, "import the events")])
def test_a_directory_of_another_version_is_told(
    sound: Installation, version: int, words: str
) -> None:
    with closing(sqlite3.connect(sound.directory)) as store:
        store.execute(f"PRAGMA user_version = {version}")
    found = only(sound, "directory")
    assert found.state == "failed"
    assert words in str(found.remedy)


def test_a_directory_in_use_is_read_without_a_trace(sound: Installation, tmp_path: Path) -> None:
    with closing(sqlite3.connect(sound.directory, isolation_level=None)) as gateway:
        gateway.execute("INSERT INTO brands (name) VALUES ('x')")
        before = {path.name for path in tmp_path.iterdir()}
        assert "store.db-wal" in before
        assert only(sound, "directory").state == "ok"
        assert {path.name for path in tmp_path.iterdir()} == before
        for name in ("copy.db", "copy.db-wal", "copy.db.key"):
            shutil.copy(tmp_path / name.replace("copy", "store"), tmp_path / name)
        assert only(sound, "directory", directory=tmp_path / "copy.db").state == "skipped"
        assert not (tmp_path / "copy.db-shm").exists()


# The clock


def test_a_clock_before_the_newest_version_is_told(sound: Installation, manifest: Manifest) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=20)  # clocks of two machines differ a little
    release(sound.repository, manifest, created=soon)
    assert only(sound, "clock").state == "ok"
    release(sound.repository, manifest, created=soon + timedelta(days=300))
    found = only(sound, "clock")
    assert (found.state, found.remedy) == ("failed", "set the clock")


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12"])
def test_the_clock_is_read_alike_in_every_time_zone(
    sound: Installation, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    import time

    now = datetime.now(UTC).replace(tzinfo=None)
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        release(sound.repository, manifest, created=now - timedelta(hours=1))
        assert only(sound, "clock").state == "ok"
        release(sound.repository, manifest, created=now + timedelta(hours=1))
        assert only(sound, "clock").state == "failed"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_manifest_that_cannot_be_read_does_not_hide_the_others_time(
    sound: Installation,
) -> None:
    manifest_path(sound.repository, BEHAVIOR, 2).write_text("{}")
    assert only(sound, "clock").state == "ok"
