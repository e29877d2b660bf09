"""One running Triton server that belongs to this process and ends with it."""

import asyncio
import contextlib
import itertools
import os
import re
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from shopcast_gateway.errors import StartupError
from shopcast_gateway.held_folder import HeldFolder, no_room
from shopcast_gateway.triton import launcher
from shopcast_gateway.triton.environment import TritonEnvironment

HOST = "127.0.0.1"
_START_LIMIT_S = 60.0
_STOP_LIMIT_S = launcher.STOP_GRACE_S + 5.0
_POLL_S = 0.1
_MAX_SOCKET_PATH = 107  # bytes, of sockaddr_un
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports on 127.0.0.1; 0 means any free one."""

    grpc: int = 0
    metrics: int = 0


class TritonProcess:
    """A Triton server without any model loaded; a backend loads them through `grpc_address`.

    Whoever reaches Triton can have it run code as its user. So it listens on a socket in a folder
    that is its user's alone, and on no port.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        folder: HeldFolder,
        shm_prefix: str,
        ports: Ports | None,
        log: Path,
    ) -> None:
        self._process, self._folder, self._shm_prefix = process, folder, shm_prefix
        self._links = folder.path
        self.ports = ports
        self.log = log

    @classmethod
    async def start(
        cls,
        environment: TritonEnvironment,
        repository: Path,
        *,
        log: Path,
        ports: Ports | None = None,
    ) -> "TritonProcess":
        """Start the server; returns when it is live.

        repository: the model repository. log: file its output is appended to. ports: to listen on
        for everybody on this machine, in place of the socket.
        Raises StartupError when there is no repository, a port is taken, the system has no room for
        one more process or file, or the server ends or is not live within a minute.
        """
        ports = _reserve(ports) if ports else None
        shm_prefix = f"shopcast_{os.getpid()}_{next(_numbers)}_"
        with _open_log(log) as output:
            logged_before = output.tell()
            folder = HeldFolder("triton")
            links = folder.path
            try:
                _make_links(environment, repository, links)
                command = _command(environment, links, ports, shm_prefix)
                arguments = [launcher.__file__, str(links), shm_prefix, *command]
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", *arguments),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=_variables(environment, links),
                    start_new_session=True,  # Ctrl-C is the gateway's to handle
                )
            except BaseException as error:
                folder.remove()
                if isinstance(error, OSError):
                    raise no_room("Triton cannot be started", error) from None
                raise
        triton = cls(process, folder, shm_prefix, ports, log)
        try:
            await triton._wait_live(logged_before)
        except BaseException:
            await asyncio.shield(triton._end(b""))
            raise
        return triton

    @property
    def grpc_address(self) -> str:
        """Of the KServe v2 gRPC service: host:port, or unix: and the path of the socket."""
        if self.ports is None:
            return f"unix:{_socket(self._links)}"
        return f"{HOST}:{self.ports.grpc}"

    async def wait(self) -> int:
        """Wait for the server to end, by itself or not; returns its exit status."""
        return await self._process.wait()

    async def stop(self) -> None:
        """Let the server finish for a bounded time, then kill it; leaves nothing behind."""
        await self._end(launcher.STOP)

    async def kill(self) -> None:
        """End a server that does not answer at once; leaves nothing behind."""
        await self._end(b"")

    async def _end(self, word: bytes) -> None:
        stdin = self._process.stdin
        if stdin is not None and self._process.returncode is None:
            with contextlib.suppress(ConnectionError):
                stdin.write(word)
                stdin.close()
                await stdin.wait_closed()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_LIMIT_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        launcher.clean_up(self._links, self._shm_prefix)  # where the launcher itself was killed
        self._folder.remove()

    async def _wait_live(self, logged_before: int) -> None:
        try:
            async with asyncio.timeout(_START_LIMIT_S):
                while not await self._listens():
                    if self._process.returncode is not None:
                        cause = _gist(self.log, logged_before)
                        raise StartupError(f"Triton did not start ({cause}): see {self.log}")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise StartupError(
                f"Triton was not live within {_START_LIMIT_S:.0f} seconds: see {self.log}"
            ) from None

    async def _listens(self) -> bool:
        """Triton does once it is live."""
        try:
            if self.ports is None:
                _, writer = await asyncio.open_unix_connection(_socket(self._links))
            else:
                _, writer = await asyncio.open_connection(HOST, self.ports.grpc)
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True


def _socket(links: Path) -> Path:
    """Triton puts a colon and a port behind whatever address it is given."""
    return links / "grpc:1"


def _make_links(environment: TritonEnvironment, repository: Path, links: Path) -> None:
    """Links to all Triton needs, in a folder; the launcher removes it.

    Triton's Python backend pastes paths into a shell command, so it must only see plain ones.
    """
    if not repository.is_dir():
        raise StartupError(f"There is no model repository at {repository}: build a model first")
    if len(os.fsencode(_socket(links))) > _MAX_SOCKET_PATH:
        raise StartupError(
            f"{tempfile.gettempdir()} is too long a path for a socket: set TMPDIR to a shorter one"
        )
    (links / "repository").symlink_to(repository.resolve())
    (links / "backends").symlink_to(environment.backends.resolve())
    (links / "python").symlink_to(environment.python_bin.parent.resolve())
    for number, folder in enumerate(environment.libraries):
        (links / f"lib{number}").symlink_to(folder.resolve())


def _command(
    environment: TritonEnvironment, links: Path, ports: Ports | None, shm_prefix: str
) -> list[str]:
    if ports is None:
        address, _, port = str(_socket(links)).rpartition(":")
        listening = [
            f"--grpc-address=unix:{address}",
            f"--grpc-port={port}",
            "--allow-metrics=false",
        ]
    else:
        listening = [
            f"--grpc-address={HOST}",
            f"--grpc-port={ports.grpc}",
            f"--metrics-address={HOST}",
            f"--metrics-port={ports.metrics}",
        ]
    return [
        str(environment.server),
        f"--model-repository={links / 'repository'}",
        f"--backend-directory={links / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        *listening,
        "--allow-http=false",
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
        "--exit-timeout-secs=8",
    ]


def _variables(environment: TritonEnvironment, links: Path) -> dict[str, str]:
    """All Triton gets to see of our environment: nothing it does not need."""
    libraries = (str(links / f"lib{number}") for number in range(len(environment.libraries)))
    return {
        "PATH": f"{links / 'python' / environment.python_bin.name}:/usr/bin:/bin",
        "LD_LIBRARY_PATH": ":".join(libraries),
        "HOME": str(links),
        "TMPDIR": str(links),
        "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime tells its makers of machine and sessions else
    }


def _reserve(ports: Ports) -> Ports:
    """Find free ports for those left open. Raises StartupError naming one that is taken."""
    with contextlib.ExitStack() as stack:

        def bind(port: int) -> int:
            probe = stack.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as problem:
                raise StartupError(
                    f"Port {port} on {HOST} cannot be used for Triton ({problem.strerror}): "
                    "end what uses it or choose another port"
                ) from problem
            return int(probe.getsockname()[1])

        return Ports(grpc=bind(ports.grpc), metrics=bind(ports.metrics))


def _open_log(log: Path) -> IO[bytes]:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return open(log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600))
    except OSError as problem:
        raise StartupError(
            f"Triton's log {log} cannot be written ({problem.strerror}): choose another file"
        ) from problem


def _gist(log: Path, start: int) -> str:
    """The last error Triton logged from `start` on, shortened."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read()[-20_000:].decode(errors="replace").splitlines()
    return gist(lines)


def gist(lines: Sequence[str]) -> str:
    """The first error among log lines, else the last line; without Triton's prefix, shortened."""
    said = [line.strip() for line in lines if line.strip()]
    errors = [line for line in said if line.startswith("E") or "error" in line.lower()]
    chosen = (errors[:1] or said[-1:] or ["it gave no reason"])[0]
    return re.sub(r"^[EWI]\d{4} [\d:.]+ \d+ \S+\] ", "", chosen).strip('"')[:300]
