"""The wheel holds every package, and the thin install is the client and the contracts only."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "protos": ["shopcast"],
    "gateway": [
        "shopcast_client",
        "shopcast_domain",
        "shopcast_repository",
        "shopcast_gateway",
        "shopcast_cli",
    ],
    "build": ["shopcast_build"],
}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("shopcast-*.whl"))


def test_the_wheel_holds_every_file_of_every_package(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", *SOURCES], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    expected = {
        path.split("/", 1)[1]
        for path in tracked
        if path.split("/")[1] in SOURCES[path.split("/")[0]]
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected
    assert "shopcast_gateway/triton/requirements.txt" in held


def test_the_thin_install_is_the_client_only(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "thin", with_pip=True)
    python = tmp_path / "thin" / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    check = (
        "import sys, shopcast_client, shopcast.v1.prediction_service_pb2_grpc;"
        "heavy = {'numpy', 'torch', 'pydantic', 'typer', 'tritonclient', 'shopcast_domain'};"
        "sys.exit(bool(heavy & set(sys.modules)))"
    )
    subprocess.run([str(python), "-W", "error", "-c", check], check=True, cwd=tmp_path)
    installed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format=freeze"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = {line.split("==")[0].lower() for line in installed.splitlines()}
    assert names <= {
        *("shopcast", "grpcio", "grpcio-status", "googleapis-common-protos", "protobuf"),
        *("typing-extensions", "typing_extensions", "pip", "setuptools"),
    }
    said = subprocess.run(
        [str(tmp_path / "thin" / "bin" / "platform"), "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 1
    assert "pip install 'shopcast[cli]'" in said.stderr


def test_the_editable_install_finds_every_package() -> None:
    for source, packages in SOURCES.items():
        for package in packages:
            check = f"import {package}; print({package}.__file__)"
            found = subprocess.run(
                [sys.executable, "-c", check], check=True, capture_output=True, text=True, cwd="/"
            ).stdout
            assert Path(found.strip()) == ROOT / source / package / "__init__.py"
