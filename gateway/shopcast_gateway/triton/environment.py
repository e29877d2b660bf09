"""The bundled Triton: a virtual environment of its own, made from a pinned list."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from shopcast_gateway.errors import StartupError

_PYTHONS = ((3, 11), (3, 12))  # those the pinned numpy has wheels for
_STAMP = ".shopcast-triton"
_SITE_FILE = "shopcast.pth"
_SITE = (
    "import os, sys; sys.dont_write_bytecode = True;"
    " sys.pycache_prefix = os.path.join(os.path.realpath(sys.prefix), 'bytecode');"
    " sys.path[:] = map(os.path.realpath, sys.path)"
    "  # no bytecode is written beside a version's model.py, and none that lies there is run\n"
)
"""For Triton's Python processes, which do not read the environment variables that say the same.
They come to the environment through a link of another name each time, and bytecode is found by the
name of its source."""
_COMPILE = (
    "import sys; sys.dont_write_bytecode = False;"
    " import collections, json, pathlib, struct, numpy.typing, onnxruntime"
)
"""What a model's process imports, compiled into that folder once: else each would anew, and NumPy
takes 0.6 s."""


@dataclass(frozen=True, slots=True)
class TritonEnvironment:
    """Where the parts of an installed Triton lie.

    server: the tritonserver binary. backends: its backend directory. python_bin: goes first on
    its PATH. libraries: go on its LD_LIBRARY_PATH.
    """

    server: Path
    backends: Path
    python_bin: Path
    libraries: tuple[Path, ...]


def default_folder() -> Path:
    """SHOPCAST_TRITON_HOME, or `.triton` under the current directory."""
    return Path(os.environ.get("SHOPCAST_TRITON_HOME") or ".triton").absolute()


def locate(folder: Path) -> TritonEnvironment:
    """The environment `install` made in `folder`. Raises StartupError when it is not all there."""
    environment = _layout(folder)
    parts = (environment.server, _stub(environment), environment.python_bin / "python")
    if _read_stamp(folder) != _stamp() or not all(part.exists() for part in parts):
        raise StartupError(
            f"Triton's environment is missing at {folder}: run `platform triton install`"
        )
    return environment


def install(folder: Path, *, progress: Callable[[str], None]) -> TritonEnvironment:
    """Make Triton's environment in `folder`, or do nothing when it is there and current.

    progress: told what is being done, one line at a time. Blocks for a minute or so.
    Raises StartupError.
    """
    try:
        return locate(folder)
    except StartupError:
        pass
    _check_machine()
    try:
        _clear(folder)
        progress(f"Making a virtual environment in {folder}")
        _run([sys.executable, "-m", "venv", str(folder)], "Python could not make an environment")
        progress("Installing Triton and ONNX Runtime (about 80 MB to download)")
        with_pins = ["--no-deps", "--only-binary", ":all:", "-r", str(_requirements())]
        quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-compile"]
        python = str(folder / "bin" / "python")
        pip = [python, "-m", "pip", "install", *quiet, *with_pins]
        _run(pip, "pip could not install Triton")
        environment = _layout(folder)
        stub = _stub(environment)
        shutil.copy2(_stub_of_this_python(environment), stub)
        _check_libraries(stub, environment.libraries)
        (_packages(folder) / _SITE_FILE).write_text(_SITE, encoding="utf-8")
        _run([python, "-c", _COMPILE], "ONNX Runtime cannot start on this system")
        _write_stamp(folder)
    except OSError as problem:
        raise StartupError(
            f"Triton's environment cannot be written to {folder} ({problem.strerror}): "
            "make room or rights there, or name another folder in SHOPCAST_TRITON_HOME"
        ) from problem
    progress("Triton is installed")
    return environment


def _requirements() -> Path:
    return Path(str(files("shopcast_gateway.triton") / "requirements.txt"))


def _stamp() -> dict[str, str]:
    """What an environment was made from; a difference means making it anew."""
    return {
        "requirements": hashlib.sha256(_requirements().read_bytes()).hexdigest(),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "base": sys.base_prefix,
        "site": _SITE + _COMPILE,
    }


def _read_stamp(folder: Path) -> object:
    try:
        return json.loads((folder / _STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_stamp(folder: Path) -> None:
    """Written last: an environment without it was interrupted."""
    draft = folder / f"{_STAMP}.draft"
    draft.write_text(json.dumps(_stamp()), encoding="utf-8")
    draft.replace(folder / _STAMP)


def _clear(folder: Path) -> None:
    """Empty a folder an earlier install made, and mark it as ours before anything else is in it."""
    mark = folder / _STAMP
    if folder.is_dir() and any(folder.iterdir()) and not mark.exists():
        raise StartupError(
            f"{folder} holds something else than Triton's environment: "
            "name another folder in SHOPCAST_TRITON_HOME"
        )
    if folder.exists():
        mark.write_text("", encoding="utf-8")  # should clearing be interrupted
        for entry in folder.iterdir():
            if entry == mark:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text("", encoding="utf-8")


def _check_machine() -> None:
    elsewhere = "run a Triton server elsewhere and give its address"
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise StartupError(f"The bundled Triton needs Linux on x86-64: {elsewhere}")
    if sys.version_info[:2] not in _PYTHONS:
        names = " or ".join(f"{major}.{minor}" for major, minor in _PYTHONS)
        raise StartupError(f"The bundled Triton needs Python {names}: use one, or {elsewhere}")


def _layout(folder: Path) -> TritonEnvironment:
    packages = _packages(folder)
    triton = packages / "pytriton" / "tritonserver"
    libraries = [packages / "nvidia_pytriton.libs"]
    # An interpreter outside the system's folders (pyenv, uv, conda) brings its own libpython.
    own = Path(sysconfig.get_config_var("LIBDIR") or "")
    if (own / _libpython()).is_file():
        libraries.insert(0, own)
    return TritonEnvironment(
        server=triton / "bin" / "tritonserver",
        backends=triton / "backends",
        python_bin=folder / "bin",
        libraries=tuple(libraries),
    )


def _packages(folder: Path) -> Path:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return folder / "lib" / f"python{version}" / "site-packages"


def _stub(environment: TritonEnvironment) -> Path:
    return environment.backends / "python" / "triton_python_backend_stub"


def _stub_of_this_python(environment: TritonEnvironment) -> Path:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stubs = environment.backends.parent / "python_backend_stubs"
    stub = stubs / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise StartupError(
            f"The bundled Triton has no part for Python {version}: use another version of Python"
        )
    return stub


def _libpython() -> str:
    return f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"


def _check_libraries(stub: Path, libraries: tuple[Path, ...]) -> None:
    """Start the stub without arguments: the loader speaks up when a library cannot be found."""
    environment = {"LD_LIBRARY_PATH": ":".join(map(str, libraries))}
    tried = subprocess.run([stub], env=environment, capture_output=True, text=True, check=False)
    if tried.returncode != 127:
        return
    if _libpython() in tried.stderr:
        package = _libpython().removesuffix(".so.1.0")
        raise StartupError(
            f"Triton needs the shared library {_libpython()}: install the package {package} "
            "(Debian, Ubuntu), or use a Python that was built with --enable-shared"
        )
    raise StartupError(f"Triton cannot start on this system: {_last_lines(tried.stderr)}")


def _run(command: list[str], problem: str) -> None:
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise StartupError(f"{problem}: {_last_lines(tried.stderr or tried.stdout)}")


def _last_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-600:] or "it gave no reason"
