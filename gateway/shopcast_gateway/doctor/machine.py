"""What the machine has: Python, packages, ports, space."""

import errno
import platform
import shutil
import socket
import sys
from contextlib import suppress
from importlib import import_module, metadata
from pathlib import Path

from shopcast_gateway.directory.places import in_redis
from shopcast_gateway.doctor.finding import (
    Answer,
    Installation,
    failed,
    nearest_folder,
    ok,
    parts,
    warning,
)
from shopcast_gateway.errors import StartupError
from shopcast_gateway.triton import environment

_OLDEST = (3, 11)
_MODULES = {
    "grpcio": "grpc",
    "grpcio-health-checking": "grpc_health.v1.health",
    "grpcio-reflection": "grpc_reflection.v1alpha.reflection",
    "numpy": "numpy",
    "prometheus-client": "prometheus_client",
    "protobuf": "google.protobuf",
    "pydantic": "pydantic",
    "tokenizers": "tokenizers",
    "tritonclient": "tritonclient.grpc",
}
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Triton's Python backend passes tensors
_FOLDER_BYTES = 2**30
_SHARED_BYTES = 64 * 2**20


def python(installation: Installation) -> list[Answer]:
    """Whether this Python runs the gateway, and the bundled Triton where that is to serve."""
    here = f"Python {platform.python_version()}"
    if sys.version_info[:2] < _OLDEST:
        return [failed(f"{here} is too old", f"use Python {'.'.join(map(str, _OLDEST))} or newer")]
    if not installation.triton_urls:
        try:
            environment._check_machine()
        except StartupError as error:
            found, remedy = parts(error, "run a Triton server elsewhere")
            system = f"{platform.system()} on {platform.machine()}"
            return [failed(f"{found}, and this is {here}, {system}", f"{remedy} with --triton-url")]
    return [ok(here)]


def packages(installation: Installation) -> list[Answer]:
    """Whether what the gateway imports is there, and ONNX Runtime in Triton's environment."""
    versions, answers = [], []
    for package, module in _MODULES.items():
        try:
            import_module(module)
            versions.append(f"{package} {metadata.version(package)}")
        except Exception as error:  # a broken library raises whatever it likes
            answers.append(
                failed(
                    f"{package} cannot be imported ({type(error).__name__})",
                    "install it with `pip install 'shopcast[gateway]'`",
                )
            )
    if (home := _triton(installation)) is not None:
        site_packages = home.backends.parents[2]
        named = metadata.distributions(name="onnxruntime", path=[str(site_packages)])
        found = next(iter(named), None)
        if found is None:
            answers.append(
                failed(
                    f"ONNX Runtime is missing in Triton's environment {installation.triton_home}",
                    "remove that folder and run `platform triton install`",
                )
            )
        else:
            versions.append(f"in Triton's environment onnxruntime {found.version}")
    return answers or [ok(", ".join(versions))]


def _triton(installation: Installation) -> environment.TritonEnvironment | None:
    if installation.triton_urls:
        return None
    try:
        return environment.locate(installation.triton_home)
    except StartupError:  # which the check of Triton tells
        return None


def ports(installation: Installation) -> list[Answer]:
    """Whether the ports that serving would bind can be had."""
    wanted = {"--port": (installation.host, installation.port)}
    if installation.metrics_port is not None:
        wanted["--metrics-port"] = installation.metrics_host, installation.metrics_port
    if installation.admin_port is not None:
        wanted["--admin-port"] = installation.admin_host, installation.admin_port
    first: dict[int, str] = {}
    problems: list[Answer | None] = []
    for option, (host, port) in wanted.items():
        if port and port in first:
            twice = f"{first[port]} and {option} both name port {port}"
            problems.append(failed(twice, f"choose another with {option}"))
        else:
            first[port] = option
            problems.append(_why_not(host, port, option))
    if found := [one for one in problems if one is not None]:
        return found
    named = dict.fromkeys(
        f"{f'port {port}' if port else 'any port'} on {host}" for host, port in wanted.values()
    )
    return [ok(f"{' and '.join(named)} can be had")]


def _why_not(host: str, port: int, option: str) -> Answer | None:
    """Bind the port for a moment; None where that works."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except PermissionError:
        return failed(f"port {port} on {host} is reserved", f"choose one above 1023 with {option}")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return failed(
                f"port {port} on {host} is already in use",
                f"choose another with {option} or stop what listens there; if that is the gateway"
                f" itself, say {option} 0 here",
            )
        host_option = option.replace("port", "host")
        return failed(
            f"{host} is not an address of this machine", f"choose another with {host_option}"
        )
    return None


def space(installation: Installation) -> list[Answer]:
    """Whether there is room for models, for events, and for tensors on their way to Triton."""
    answers, told = [], []
    places = [("the repository", installation.repository)]
    with suppress(StartupError):  # which the check of the directory tells
        if not in_redis(installation.directory):
            places.append(("the directory", Path(installation.directory).parent))
    for what, path in places:
        folder = nearest_folder(path)
        free = shutil.disk_usage(folder).free
        told.append(f"{_size(free)} for {what}")
        if free < _FOLDER_BYTES:
            answers.append(
                warning(
                    f"{_size(free)} is free for {what} in {folder}",
                    f"make room there: at least {_size(_FOLDER_BYTES)}",
                )
            )
    if not installation.triton_urls:
        try:
            free = shutil.disk_usage(_SHARED_MEMORY).free
        except OSError:
            free = 0
        told.append(f"{_size(free)} in {_SHARED_MEMORY}")
        if free < _SHARED_BYTES:
            answers.append(
                warning(
                    f"{_size(free)} is free in {_SHARED_MEMORY}, which Triton passes tensors"
                    " through",
                    f"give it at least {_size(_SHARED_BYTES)}, in a container with --shm-size",
                )
            )
    return answers or [ok(f"free are {', '.join(told)}")]


def _size(count: int) -> str:
    """Bytes as people read them.

    >>> _size(2**30), _size(5 * 2**20)
    ('1.0 GiB', '5 MiB')
    """
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
