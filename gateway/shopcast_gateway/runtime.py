"""A gateway from start to end: directory, Triton, model, server; and down again in reverse."""

import asyncio
import logging
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from shopcast_gateway.backend.triton import TritonBackend
from shopcast_gateway.core.adoption import Refused, adopt, adopt_newest, check_published
from shopcast_gateway.core.prediction import ModelPredictor
from shopcast_gateway.core.protocol import Prediction, Predictor, PredictQuery
from shopcast_gateway.core.vectors import ItemVectors
from shopcast_gateway.directory.open import open_directory
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.errors import StartupError, Unavailable
from shopcast_gateway.transport.server import GatewayServer, build_server
from shopcast_gateway.triton.environment import locate
from shopcast_gateway.triton.process import Ports, TritonProcess

_GRACE_S = 5.0
_RESTARTS = 5
_RESTARTS_WITHIN_S = 600.0
_DEATH_S = 5.0  # a Triton that failed a call by dying has ended by then

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """repository: a Triton model repository. directory: the SQLite file. triton_url: host:port of a
    Triton to use in place of the bundled one, whose environment lies in triton_home and whose
    output goes to triton_log. Ports: 0 takes a free one."""

    repository: Path
    directory: Path
    host: str
    port: int
    triton_url: str | None
    triton_home: Path
    triton_log: Path


@dataclass(frozen=True, slots=True)
class Serving:
    """What is up. triton: address of its KServe v2 gRPC service."""

    address: str
    version: int
    triton: str


async def run(settings: ServeSettings, ready: Callable[[Serving], None]) -> None:
    """Serve until SIGINT or SIGTERM, then drain and stop everything that was started.

    ready: called once, when health says SERVING. Raises StartupError.
    """
    gateway = asyncio.create_task(_serve(settings, ready))
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if not stopping:  # a second signal must not cut the clean-up short
            stopping = True
            gateway.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        await gateway
    except asyncio.CancelledError:
        if not stopping:
            raise


async def _serve(settings: ServeSettings, ready: Callable[[Serving], None]) -> None:
    check_published(settings.repository)
    async with AsyncExitStack() as stack:
        directory = await open_directory(settings.directory)
        stack.push_async_callback(directory.close)
        switch = _Switch()
        server = build_server(switch, directory, host=settings.host, port=settings.port)
        await server.start()
        stack.push_async_callback(server.stop, _GRACE_S)
        triton: _BundledTriton | None = None
        url = settings.triton_url
        if url is None:
            triton = _BundledTriton(settings)
            stack.push_async_callback(triton.stop)
            url = await triton.start()
        stack.push_async_callback(switch.close)
        switch.engine = await _Engine.start(url, settings.repository, directory)
        # Once more, now that there is a Triton below: what came last stops first.
        stack.push_async_callback(server.stop, _GRACE_S)
        server.set_serving(True)
        ready(Serving(f"{settings.host}:{server.port}", switch.engine.version, url))
        if triton is None:
            await server.wait()
        else:
            await _supervise(triton, server, switch, settings.repository, directory)


@dataclass(frozen=True, slots=True)
class _Engine:
    """A model on a Triton, and what answers with it."""

    predictor: Predictor
    version: int
    vectors: ItemVectors
    backend: TritonBackend

    @classmethod
    async def start(
        cls, url: str, repository: Path, directory: Directory, *, version: int | None = None
    ) -> "_Engine":
        """Adopt a version, the newest that passes by default. Raises StartupError, Refused."""
        backend = await TritonBackend.connect(url, repository=repository)
        try:
            if version is None:
                model = await adopt_newest(repository, backend)
            else:
                model = await adopt(repository, version, backend)
        except BaseException:
            await backend.close()
            raise
        vectors = ItemVectors(model, directory)
        predictor = ModelPredictor(model, vectors, directory)
        return cls(predictor, model.manifest.behavior_version, vectors, backend)

    async def close(self) -> None:
        """Keep what was encoded, and let go of the Triton."""
        await self.vectors.close()
        await self.backend.close()


class _Switch:
    """Answers with the engine that is there, or UNAVAILABLE while there is none or it is off."""

    engine: _Engine | None = None
    off = False

    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
        if self.engine is None or self.off:
            raise Unavailable("no model is loaded")
        return await self.engine.predictor.predict(query, timeout_s=timeout_s)

    async def close(self) -> None:
        """Take the engine out."""
        engine, self.engine = self.engine, None
        if engine is not None:
            await engine.close()


class _BundledTriton:
    """The bundled server, which may be started again on the same ports."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._environment = locate(settings.triton_home)
        self._process: TritonProcess | None = None
        self._starts: deque[float] = deque(maxlen=_RESTARTS)

    async def start(self) -> str:
        """Start it, or start it again; returns its address. Raises StartupError."""
        now = time.monotonic()
        if len(self._starts) == _RESTARTS and now - self._starts[0] < _RESTARTS_WITHIN_S:
            raise StartupError(
                f"Triton ended {_RESTARTS} times within {_RESTARTS_WITHIN_S / 60:.0f} minutes: see"
                f" {self._settings.triton_log}"
            )
        self._starts.append(now)
        self._process = await TritonProcess.start(
            self._environment,
            self._settings.repository,
            log=self._settings.triton_log,
            ports=self._process.ports if self._process else Ports(),
        )
        return self._process.grpc_address

    async def ended(self) -> int:
        """Wait for the running server to end; returns its exit status."""
        assert self._process is not None  # noqa: S101 - started before it is waited for
        return await self._process.wait()

    async def ends_within(self, seconds: float) -> bool:
        """Whether the running server ends, by itself, in that time."""
        try:
            await asyncio.wait_for(self.ended(), seconds)
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Stop it if it runs."""
        if self._process is not None:
            await self._process.stop()


async def _supervise(
    triton: _BundledTriton,
    server: GatewayServer,
    switch: _Switch,
    repository: Path,
    directory: Directory,
) -> None:
    """Bring Triton and its models back whenever it ends. Raises StartupError when that fails."""
    assert switch.engine is not None  # noqa: S101 - supervised once it serves
    version = switch.engine.version
    while True:
        status = await triton.ended()
        _log.error("Triton ended with status %d: starting it again", status)
        server.set_serving(False)
        switch.off = True
        url = await triton.start()
        # By now the calls of the old engine have failed. Its channel would be slow to reconnect.
        await switch.close()
        try:
            switch.engine = await _Engine.start(url, repository, directory, version=version)
        except (Refused, StartupError) as error:
            if await triton.ends_within(_DEATH_S):
                continue
            raise StartupError(
                f"version {version} cannot serve after Triton was started again ({error}): publish"
                " it again with `platform build-model`"
            ) from None
        switch.off = False
        server.set_serving(True)
        _log.info("Triton is back, version %d serves", version)
