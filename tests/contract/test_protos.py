"""The committed stubs are what the .proto files give, and the files keep the buf style."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from google.rpc import status_pb2

PROTOS = Path(__file__).parents[2] / "protos"
FILES = sorted(PROTOS.rglob("*.proto"))
BIN = Path(sys.executable).parent
GOOGLE = Path(status_pb2.__file__).parents[2]
PROTOC = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{GOOGLE}"]


def test_the_committed_stubs_are_current(tmp_path: Path) -> None:
    plugins = [f"--plugin=protoc-gen-{p}={BIN / f'protoc-gen-{p}'}" for p in ("mypy", "mypy_grpc")]
    outputs = [f"--{p}_out={tmp_path}" for p in ("python", "grpc_python", "mypy", "mypy_grpc")]
    subprocess.run(
        [*PROTOC, *plugins, *outputs, *FILES],
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


def lint(root: Path, image: Path) -> subprocess.CompletedProcess[str]:
    """buf's opinion of the protos in `root`. buf has no google/rpc of its own; protoc gives it what
    googleapis-common-protos has."""
    subprocess.run(
        [
            *(one for one in PROTOC if one != f"-I{PROTOS}"),
            f"-I{root}",
            "--include_imports",
            "--include_source_info",
            f"--descriptor_set_out={image}",
            *sorted(root.rglob("*.proto")),
        ],
        check=True,
        capture_output=True,
    )
    config = ["--config", PROTOS / "buf.yaml", "--path", "shopcast"]
    return subprocess.run(
        [BIN / "buf", "lint", image, *config], capture_output=True, text=True, check=False
    )


def test_the_protos_pass_buf_lint(tmp_path: Path) -> None:
    told = lint(PROTOS, tmp_path / "protos.binpb")
    assert told.returncode == 0, told.stdout + told.stderr


def test_buf_lint_sees_what_is_wrong(tmp_path: Path) -> None:
    bad = tmp_path / "shopcast" / "v1" / "bad.proto"
    bad.parent.mkdir(parents=True)
    bad.write_text('syntax = "proto3";\npackage shopcast.v1;\nmessage wrong_name {}\n')
    assert "wrong_name" in lint(tmp_path, tmp_path / "protos.binpb").stdout


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_folder_proto_package_and_python_package_agree(file: Path) -> None:
    folder = file.parent.relative_to(PROTOS)
    module = importlib.import_module(".".join((*folder.parts, f"{file.stem}_pb2")))
    assert module.DESCRIPTOR.package == ".".join(folder.parts)
    assert module.DESCRIPTOR.name == str(file.relative_to(PROTOS))
