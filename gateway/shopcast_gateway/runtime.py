"""A gateway from start to end: directory, Triton, model, server; and down again in reverse."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from shopcast_domain.manifest import published_versions
from shopcast_gateway.core.admission import MAX_ROWS, Admission
from shopcast_gateway.core.adoption import Refused
from shopcast_gateway.core.adoption_status import AdoptionStatus, Refusal
from shopcast_gateway.directory.open import open_directory
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.engine import Engine, Switch, TritonDied, Tritons
from shopcast_gateway.errors import StartupError
from shopcast_gateway.metrics import serve_metrics
from shopcast_gateway.transport.authorisation import Access
from shopcast_gateway.transport.credentials import Tls, server_credentials
from shopcast_gateway.transport.exposure import check_exposure, check_metrics_exposure
from shopcast_gateway.transport.server import GatewayServer, build_server
from shopcast_repository.errors import RepositoryError
from shopcast_repository.serving import Serving as Said
from shopcast_repository.serving import read_serving
from shopcast_repository.versions import all_versions

_GRACE_S = 5.0
_LOOK_S = 1.0
_SWITCH_S = 5e-4
"""After which a thread that reads or computes lets the event loop go on, which waits for that in
every turn: Python's 5 ms would be all that it does."""
_AGAIN_S = (1.0, 10.0)  # pauses before a version that failed for a passing reason is tried again

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """repository: a Triton model repository. directory: the SQLite file, or a URL of Redis;
    directory_key: the file of its keys, if it is not where it usually is. triton_url: host:port of
    a Triton to use in place of the bundled one, whose environment lies in triton_home and whose
    output goes to triton_log. Ports: 0 takes a free one; metrics_port: None serves no metrics.
    max_rows: of predictions under way, as Admission counts them. tls: None is plain text.
    auth: the file of who may call what; None admits everybody.
    allow_...: lets other machines reach what is not protected from them."""

    repository: Path
    directory: str | Path
    host: str
    port: int
    triton_url: str | None
    triton_home: Path
    triton_log: Path
    metrics_port: int | None = None
    directory_key: Path | None = None
    max_rows: int = MAX_ROWS
    metrics_host: str = "127.0.0.1"
    tls: Tls | None = None
    auth: Path | None = None
    allow_insecure: bool = False
    allow_plaintext_metrics: bool = False


@dataclass(frozen=True, slots=True)
class Serving:
    """What is up. triton: address of its KServe v2 gRPC service. metrics: port of the metrics."""

    address: str
    version: int
    triton: str
    metrics: int | None


async def run(settings: ServeSettings, ready: Callable[[Serving], None]) -> None:
    """Serve until SIGINT or SIGTERM, then drain and stop everything that was started.

    ready: called once, when health says SERVING. Raises StartupError.
    """
    sys.setswitchinterval(_SWITCH_S)
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
    check_exposure(
        settings.host,
        settings.tls,
        authenticated=settings.auth is not None,
        allow_insecure=settings.allow_insecure,
    )
    if settings.metrics_port is not None:
        check_metrics_exposure(
            settings.metrics_host, allow_plaintext=settings.allow_plaintext_metrics
        )
    credentials = server_credentials(settings.tls) if settings.tls else None
    access = None
    if settings.auth is not None:
        mutual = settings.tls is not None and settings.tls.client_ca is not None
        access = Access(settings.auth, certificates=mutual)
    versions, seen = versions_to_try(settings.repository)
    status = AdoptionStatus()
    async with AsyncExitStack() as stack:
        directory = await open_directory(settings.directory, keys=settings.directory_key)
        stack.push_async_callback(directory.close)
        switch = Switch()
        admission = Admission(switch, max_rows=settings.max_rows)
        server = build_server(
            admission,
            directory,
            host=settings.host,
            port=settings.port,
            credentials=credentials,
            access=access,
            withdrawn=switch.forget,
            model_versions=lambda: asyncio.to_thread(_published, settings.repository),
            refusal=admission.refusal,
        )
        status.listeners.append(lambda now, _: server.tell_adoption(now.refusal))
        metrics = None
        if settings.metrics_port is not None:
            metrics = stack.enter_context(
                serve_metrics(status, host=settings.metrics_host, port=settings.metrics_port)
            )
        await server.start()
        stack.push_async_callback(server.stop, _GRACE_S)
        stack.push_async_callback(switch.close)
        tritons = Tritons(
            settings.repository,
            url=settings.triton_url,
            home=settings.triton_home,
            log=settings.triton_log,
        )
        status.want(versions[0])
        engine = await Engine.first_that_passes(tritons, directory, versions, status)
        switch.engine = engine
        # Once more, now that there is a Triton below: what came last stops first.
        stack.push_async_callback(server.stop, _GRACE_S)
        status.adopted(engine.version)
        server.set_serving(True)
        _log.info("version %d adopted, its goldens reproduce", engine.version)
        address = f"{settings.host}:{server.port}"
        ready(Serving(address, engine.version, engine.address, metrics))
        await _Supervisor(tritons, directory, switch, server, status, seen).run()


def _published(repository: Path) -> list[str]:
    return [str(version) for version in published_versions(repository)]


def versions_to_try(repository: Path) -> tuple[list[int], Said | None]:
    """Published versions in the order in which they may serve: the one that is to, those that did
    before it, and where nobody has said so, from the newest down; and what was said. Raises
    StartupError."""
    try:
        published, said = all_versions(repository), read_serving(repository)
    except RepositoryError as error:
        raise StartupError(str(error)) from None
    if said is None:
        return published[::-1], None
    versions = [version for version in said.versions[::-1] if version in published]
    if not versions:
        raise StartupError(
            f"the version that is to serve is not in {repository}: name one that is with `platform"
            " models promote`"
        )
    return versions, said


class _Supervisor:
    """Brings Triton and its model back whenever it ends, and takes up what is promoted."""

    def __init__(
        self,
        tritons: Tritons,
        directory: Directory,
        switch: Switch,
        server: GatewayServer,
        status: AdoptionStatus,
        seen: Said | None,
    ) -> None:
        """seen: what was to serve when the engine was chosen."""
        self._tritons, self._directory, self._switch = tritons, directory, switch
        self._server, self._status, self._seen = server, status, seen
        self._complaint = ""

    async def run(self) -> None:
        """Until the server stops. Raises StartupError when Triton does not come back."""
        stopped = asyncio.create_task(self._server.wait())
        changed = asyncio.create_task(self._change())
        taking: asyncio.Task[None] | None = None
        engine = self._engine
        ended = asyncio.create_task(engine.ended())
        try:
            while True:
                done, _ = await asyncio.wait(
                    {stopped, ended, taking or changed}, return_when=asyncio.FIRST_COMPLETED
                )
                if stopped in done:
                    return
                if ended in done:
                    await self._bring_back(engine, ended.result(), taking)
                if taking is not None and taking.done():
                    taking.result()
                    taking, changed = None, asyncio.create_task(self._change())
                elif taking is None and changed.done():
                    taking = asyncio.create_task(self._take_up(changed.result()))
                if self._engine is not engine:
                    ended.cancel()
                    engine = self._engine
                    ended = asyncio.create_task(engine.ended())
        finally:
            # Not `stopped`: it waits on the server's own future, which stopping it still needs.
            for task in (changed, ended, taking):
                if task is not None:
                    task.cancel()
            if taking is not None:
                await asyncio.gather(taking, return_exceptions=True)

    @property
    def _engine(self) -> Engine:
        assert self._switch.engine is not None  # noqa: S101 - supervised once it serves
        return self._switch.engine

    async def _change(self) -> int:
        """The version that is to serve, once somebody says so anew."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                said = await asyncio.to_thread(read_serving, self._tritons.repository)
            except RepositoryError as error:
                if str(error) != self._complaint:  # said once, not once a second
                    self._complaint = str(error)
                    _log.error("%s", error)
                continue
            if said is not None and said != self._seen:
                self._seen = said
                return said.version

    async def _take_up(self, version: int) -> None:
        """Let a version serve if it may; else the one before goes on."""
        self._status.want(version)
        if version == self._engine.version:
            return
        try:
            engine = await self._start(version)
        except (Refused, StartupError) as error:
            _log.error(
                "version %d is refused, version %d goes on serving: %s",
                version,
                self._engine.version,
                error,
            )
            reason = error.reason if isinstance(error, Refused) else "load"
            self._status.refused(version, Refusal(reason, str(error)))
            return
        except Exception as error:  # no room, no file handles: what serves must go on
            _log.exception("version %d could not be taken up", version)
            self._status.refused(version, Refusal("load", type(error).__name__))
            return
        self._switch.replace(engine)
        self._status.adopted(version)
        _log.info("version %d adopted, its goldens reproduce", version)

    async def _start(self, version: int) -> Engine:
        """A version on a Triton, in several attempts where a busy machine may have been the cause.
        Raises as `Engine.start`."""
        for pause_s in _AGAIN_S:
            try:
                return await Engine.start(self._tritons, self._directory, version)
            except (Refused, TritonDied) as error:
                if isinstance(error, Refused) and error.reason != "replay":
                    raise
                _log.warning("version %d is tried again in %g s: %s", version, pause_s, error)
            await asyncio.sleep(pause_s)
        return await Engine.start(self._tritons, self._directory, version)

    async def _bring_back(
        self, engine: Engine, exit_status: int, taking: asyncio.Task[None] | None
    ) -> None:
        """Answer again after the Triton of an engine has ended; with the version that is being
        taken up, if it may serve."""
        _log.error("Triton ended with status %d: starting it again", exit_status)
        self._server.set_serving(False)
        self._switch.off = True
        if taking is not None:
            await taking
        if self._engine is engine:
            await self._revive(engine.version)
        self._switch.off = False
        self._server.set_serving(True)
        _log.info("Triton is back, version %d serves", self._engine.version)

    async def _revive(self, version: int) -> None:
        """Start Triton again with the same version, or if it may not serve any more, with one
        before it. Raises StartupError when none may, or Triton keeps ending."""
        # By now the calls of the old engine have failed.
        await self._switch.close()
        while True:
            self._tritons.count_death()
            others, _ = versions_to_try(self._tritons.repository)
            versions = [version, *(other for other in others if other != version)]
            with suppress(TritonDied):
                self._switch.engine = await Engine.first_that_passes(
                    self._tritons, self._directory, versions, self._status
                )
                self._status.adopted(self._engine.version)
                return
