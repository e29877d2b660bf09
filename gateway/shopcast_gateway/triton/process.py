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
from shopcast_gateway.triton import launcher
from shopcast_gateway.triton.environment import TritonEnvironment

HOST = "127.0.0.1"
_START_LIMIT_S = 60.0
_STOP_LIMIT_S = launcher.STOP_GRACE_S + 5.0
_POLL_S = 0.1
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports on 127.0.0.1; 0 means any free one."""

    grpc: int = 0
    http: int = 0
    metrics: int = 0


class TritonProcess:
    """A Triton server without any model loaded; a backend loads them through `grpc_address`."""

    def __init__(self, process: asyncio.subprocess.Process, ports: Ports, log: Path) -> None:
        self._process = process
        self.ports = ports
        self.log = log

    @classmethod
    async def start(
        cls,
        environment: TritonEnvironment,
        repository: Path,
        *,
        log: Path,
        ports: Ports = Ports(),
    ) -> "TritonProcess":
        """Start the server; returns when it is live.

        repository: the model repository. log: file its output is appended to.
        Raises StartupError when there is no repository, a port is taken, or the server ends or is
        not live within a minute.
        """
        ports = _reserve(ports)
        shm_prefix = f"shopcast_{os.getpid()}_{next(_numbers)}_"
        with _open_log(log) as output:
            logged_before = output.tell()
            links = _make_links(environment, repository)
            command = _command(environment, links, ports, shm_prefix)
            arguments = [sys.executable, "-I", launcher.__file__, str(links), shm_prefix, *command]
            process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=_variables(environment, links),
                start_new_session=True,  # Ctrl-C is the gateway's to handle
            )
        triton = cls(process, ports, log)
        try:
            await triton._wait_live(logged_before)
        except BaseException:
            await asyncio.shield(triton._end(b""))
            raise
        return triton

    @property
    def grpc_address(self) -> str:
        """host:port of the KServe v2 gRPC service."""
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

    async def _wait_live(self, logged_before: int) -> None:
        try:
            async with asyncio.timeout(_START_LIMIT_S):
                while not await _is_live(self.ports.http):
                    if self._process.returncode is not None:
                        cause = _gist(self.log, logged_before)
                        raise StartupError(f"Triton did not start ({cause}): see {self.log}")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise StartupError(
                f"Triton was not live within {_START_LIMIT_S:.0f} seconds: see {self.log}"
            ) from None


def _make_links(environment: TritonEnvironment, repository: Path) -> Path:
    """A folder of links to all Triton needs; the launcher removes it.

    Triton's Python backend pastes paths into a shell command, so it must only see plain ones.
    """
    if not repository.is_dir():
        raise StartupError(f"There is no model repository at {repository}: build a model first")
    links = Path(tempfile.mkdtemp(prefix=f"shopcast-triton-{os.getpid()}-"))
    (links / "repository").symlink_to(repository.resolve())
    (links / "backends").symlink_to(environment.backends.resolve())
    (links / "python").symlink_to(environment.python_bin.parent.resolve())
    for number, folder in enumerate(environment.libraries):
        (links / f"lib{number}").symlink_to(folder.resolve())
    return links


def _command(
    environment: TritonEnvironment, links: Path, ports: Ports, shm_prefix: str
) -> list[str]:
    return [
        str(environment.server),
        f"--model-repository={links / 'repository'}",
        f"--backend-directory={links / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        f"--grpc-address={HOST}",
        f"--grpc-port={ports.grpc}",
        f"--http-address={HOST}",
        f"--http-port={ports.http}",
        f"--metrics-address={HOST}",
        f"--metrics-port={ports.metrics}",
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

        return Ports(grpc=bind(ports.grpc), http=bind(ports.http), metrics=bind(ports.metrics))


async def _is_live(http_port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(HOST, http_port)
    except OSError:
        return False
    try:
        writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: triton\r\nConnection: close\r\n\r\n")
        status = await asyncio.wait_for(reader.readline(), 5.0)
        return status.split()[1:2] == [b"200"]
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _open_log(log: Path) -> IO[bytes]:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("ab")
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
