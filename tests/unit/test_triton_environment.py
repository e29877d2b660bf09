import sys
from pathlib import Path

import pytest

from shopcast_gateway.errors import StartupError
from shopcast_gateway.triton import environment
from shopcast_gateway.triton.process import gist


def refuse(problem: str) -> None:
    raise AssertionError(f"nothing should be done, but: {problem}")


def test_an_empty_folder_has_no_environment(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="run `platform triton install`"):
        environment.locate(tmp_path)


def test_a_stamp_without_the_rest_is_no_environment(tmp_path: Path) -> None:
    environment._write_stamp(tmp_path)
    with pytest.raises(StartupError, match="run `platform triton install`"):
        environment.locate(tmp_path)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(StartupError, match="holds something else"):
        environment.install(tmp_path, progress=refuse)
    assert (tmp_path / "letters.txt").read_text() == "dear"


def test_an_unsupported_python_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_PYTHONS", ((3, 99),))
    with pytest.raises(StartupError, match=r"needs Python 3\.99"):
        environment.install(tmp_path / "new", progress=refuse)
    assert not (tmp_path / "new").exists()


def test_another_machine_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.platform, "machine", lambda: "aarch64")
    with pytest.raises(StartupError, match="Linux on x86-64"):
        environment.install(tmp_path, progress=refuse)


def test_a_missing_libpython_names_the_package(tmp_path: Path) -> None:
    library = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    stub = tmp_path / "stub"
    stub.write_text(f"#!/bin/sh\necho 'cannot open shared object file: {library}' >&2\nexit 127\n")
    stub.chmod(0o755)
    with pytest.raises(StartupError, match=f"install the package {library.split('.so')[0]}"):
        environment._check_libraries(stub, ())


def test_the_folder_can_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHOPCAST_TRITON_HOME", str(tmp_path))
    assert environment.default_folder() == tmp_path
    monkeypatch.delenv("SHOPCAST_TRITON_HOME")
    assert environment.default_folder() == Path.cwd() / ".triton"


def test_every_requirement_is_pinned_exactly() -> None:
    lines = environment._requirements().read_text("utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(line.count("==") == 1 and line.replace("==", "").strip() for line in pins)
    numpy = next(line for line in pins if line.startswith("numpy=="))
    assert numpy < "numpy==2", "the Python backend reads wrong values beside numpy 2"


def test_the_gist_of_a_log_is_its_first_error() -> None:
    lines = [
        'I1123 18:03:54.752539 8244 server.cc:674] "starting"',
        'E1123 18:03:54.752539 8244 main.cc:535] "failed to start HTTP service"',
        'E1123 18:03:54.752539 8244 main.cc:540] "giving up"',
    ]
    assert gist(lines) == "failed to start HTTP service"
    assert gist([]) == "it gave no reason"
