"""The committed stubs are what the .proto files give, and the files keep the buf style."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PROTOS = Path(__file__).parents[2] / "protos"
FILES = sorted(PROTOS.rglob("*.proto"))
BIN = Path(sys.executable).parent


def test_the_committed_stubs_are_current(tmp_path: Path) -> None:
    plugins = [f"--plugin=protoc-gen-{p}={BIN / f'protoc-gen-{p}'}" for p in ("mypy", "mypy_grpc")]
    outputs = [f"--{p}_out={tmp_path}" for p in ("python", "grpc_python", "mypy", "mypy_grpc")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *plugins, *outputs, *FILES],
        check=True,
        capture_output=True,
    )

    def stubs(root: Path) -> dict[str, str]:
        return {
            str(p.relative_to(root)): p.read_text()
            for p in root.rglob("*_pb2*.py*")
            if "__pycache__" not in p.parts
        }

    fresh, committed = stubs(tmp_path), stubs(PROTOS)
    assert committed.keys() == fresh.keys()
    stale = [name for name in fresh if fresh[name] != committed[name]]
    assert not stale, "regenerate the stubs with `make stubs`"


def test_the_protos_pass_buf_lint() -> None:
    lint = subprocess.run(
        [BIN / "buf", "lint", PROTOS], capture_output=True, text=True, check=False
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_folder_proto_package_and_python_package_agree(file: Path) -> None:
    folder = file.parent.relative_to(PROTOS)
    module = importlib.import_module(".".join((*folder.parts, f"{file.stem}_pb2")))
    assert module.DESCRIPTOR.package == ".".join(folder.parts)
    assert module.DESCRIPTOR.name == str(file.relative_to(PROTOS))
