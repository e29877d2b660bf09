"""A gateway from start to end: directory, Triton, model, server; and down again in reverse."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry

from shopcast_domain.manifest import published_versions
from shopcast_gateway.backend.rotation import RotationStatus
from shopcast_gateway.call_metrics import CallMetrics
from shopcast_gateway.core.admission import MAX_ROWS, Admission
from shopcast_gateway.core.adoption_status import AdoptionStatus
from shopcast_gateway.core.stages import UNRECORDED, Recorder
from shopcast_gateway.directory.open import open_directory
from shopcast_gateway.drain import Drain, Leaving
from shopcast_gateway.engine import Engine, Switch, Tritons
from shopcast_gateway.fleet import Addresses
from shopcast_gateway.metrics import serve_metrics
from shopcast_gateway.promoted import versions_to_try
from shopcast_gateway.stage_metrics import StageMetrics, observe_admission
from shopcast_gateway.supervisor import Supervisor
from shopcast_gateway.tracing import traced
from shopcast_gateway.transport.admin_server import ADMIN_METHODS, build_admin_server
from shopcast_gateway.transport.authorisation import Access
from shopcast_gateway.transport.credentials import Tls, server_credentials
from shopcast_gateway.transport.exposure import check_exposure, check_metrics_exposure
from shopcast_gateway.transport.model_admin_service import Administered
from shopcast_gateway.transport.server import METHODS, build_server
from shopcast_gateway.triton.status import TritonStatus

_SWITCH_S = 5e-4
"""After which a thread that reads or computes lets the event loop go on, which waits for that in
every turn: Python's 5 ms would be all that it does."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """repository: a Triton model repository. directory: the SQLite file, or a URL of Redis;
    directory_key: the file of its keys, if it is not where it usually is. triton_urls: host:port of
    each Triton to use in place of the bundled one, whose environment lies in triton_home and whose
    output goes to triton_log. hedge_after_s: as of BalancedBackend, if there are several. Ports:
    0 takes a free one; metrics_port, admin_port: None serves none of that.
    max_rows: of predictions under way, as Admission counts them. tls: None is plain text.
    auth: the file of who may call what; None admits everybody.
    otlp_endpoint: URL of a collector of traces; None traces nothing. compress: responses. drain:
    how it stops. allow_...: lets other machines reach what is not protected from them."""

    repository: Path
    directory: str | Path
    host: str
    port: int
    triton_urls: Sequence[str]
    triton_home: Path
    triton_log: Path
    hedge_after_s: float | None = None
    metrics_port: int | None = None
    directory_key: Path | None = None
    max_rows: int = MAX_ROWS
    metrics_host: str = "127.0.0.1"
    admin_port: int | None = None
    admin_host: str = "127.0.0.1"
    tls: Tls | None = None
    auth: Path | None = None
    allow_insecure: bool = False
    allow_plaintext_metrics: bool = False
    otlp_endpoint: str | None = None
    compress: bool = False
    drain: Drain = field(default_factory=Drain)


@dataclass(frozen=True, slots=True)
class Serving:
    """What is up. triton: address of its KServe v2 gRPC service. metrics, admin: ports of
    the metrics and of the administration."""

    address: str
    version: int
    triton: str
    metrics: int | None
    admin: int | None = None


async def run(settings: ServeSettings, ready: Callable[[Serving], None]) -> None:
    """Serve until SIGINT or SIGTERM, then drain and stop everything that was started.

    ready: called once, when health says SERVING. Raises StartupError.
    """
    sys.setswitchinterval(_SWITCH_S)
    gateway = asyncio.create_task(_serve(settings, ready, lambda: leaving))
    leaving = Leaving(gateway, settings.drain)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leaving.signalled, number)
    try:
        await gateway
    except asyncio.CancelledError:
        if not leaving.begun:
            raise
        _log.info("stopping: done")


async def _serve(
    settings: ServeSettings, ready: Callable[[Serving], None], leaving: Callable[[], Leaving]
) -> None:
    check_exposure(
        settings.host,
        settings.tls,
        authenticated=settings.auth is not None,
        allow_insecure=settings.allow_insecure,
    )
    if settings.admin_port is not None:
        check_exposure(
            settings.admin_host,
            settings.tls,
            authenticated=settings.auth is not None,
            allow_insecure=settings.allow_insecure,
            option="--admin-host",
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
    status, health = AdoptionStatus(), TritonStatus()
    registry = None if settings.metrics_port is None else CollectorRegistry()
    urls = settings.triton_urls
    rotation = RotationStatus(urls) if len(urls) > 1 else None
    async with AsyncExitStack() as stack:
        directory = await open_directory(settings.directory, keys=settings.directory_key)
        stack.push_async_callback(directory.close)
        tracer = await stack.enter_async_context(traced(settings.otlp_endpoint))
        recorder: Recorder = StageMetrics(registry) if registry else UNRECORDED
        switch = Switch(recorder)
        admission = Admission(switch, max_rows=settings.max_rows, recorder=recorder)
        calls = CallMetrics(registry, (*METHODS, *ADMIN_METHODS)) if registry else None
        server = build_server(
            admission,
            directory,
            host=settings.host,
            port=settings.port,
            credentials=credentials,
            access=access,
            withdrawn=switch.forget,
            model_versions=lambda: asyncio.to_thread(_published, settings.repository),
            refusal=admission.early_refusal,
            recorder=calls,
            tracer=tracer,
            compress=settings.compress,
        )
        admin = None
        if settings.admin_port is not None:
            admin = build_admin_server(
                Administered(settings.repository, status, lambda: switch.trial),
                host=settings.admin_host,
                port=settings.admin_port,
                credentials=credentials,
                access=access,
                recorder=calls,
                tracer=tracer,
            )
        status.listeners.append(lambda now, _: server.tell_adoption(now.refusal))
        metrics = None
        if registry and settings.metrics_port is not None:
            observe_admission(admission, registry)
            metrics = stack.enter_context(
                serve_metrics(
                    status,
                    health,
                    lambda: switch.trial,
                    registry,
                    rotation,
                    host=settings.metrics_host,
                    port=settings.metrics_port,
                )
            )
        server.set_accepting(False)  # until a model is up, others answer better
        await server.start()
        stack.push_async_callback(server.stop, settings.drain.grace_s)
        if admin is not None:
            await admin.start()
            stack.push_async_callback(admin.stop, settings.drain.grace_s)
        stack.push_async_callback(_close, switch)
        stack.push_async_callback(switch.put_on_trial, None, None)
        tritons = Tritons(
            settings.repository,
            url=urls[0] if urls else None,
            home=settings.triton_home,
            log=settings.triton_log,
            recorder=recorder,
            several=Addresses(rotation, settings.hedge_after_s) if rotation else None,
        )
        status.want(versions[0])
        engine = await Engine.first_that_passes(tritons, directory, versions, status)
        switch.engine = engine
        # Once more, now that there is a Triton below: what came last stops first.
        stack.push_async_callback(server.stop, settings.drain.grace_s)
        if admin is not None:
            stack.push_async_callback(admin.stop, settings.drain.grace_s)
        leaving().announce = server.announce
        status.adopted(engine.version)
        health.set_up(True)
        server.set_serving(True)
        server.set_accepting(True)
        _log.info("version %d adopted, its goldens reproduce", engine.version)
        address = f"{settings.host}:{server.port}"
        ready(
            Serving(address, engine.version, engine.address, metrics, admin.port if admin else None)
        )
        await Supervisor(
            tritons,
            directory,
            switch,
            server,
            status,
            health,
            seen,
            busy=lambda: admission.refusal(bulk=True) is not None,
        ).run()


async def _close(switch: Switch) -> None:
    _log.info("stopping: the model is let go of, and its Triton stopped")
    await switch.close()


def _published(repository: Path) -> list[str]:
    return [str(version) for version in published_versions(repository)]
