"""A gateway from start to end: directory, Triton, model, server; and down again in reverse."""

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from shopcast_gateway.backend.rotation import RotationStatus
from shopcast_gateway.call_metrics import CallMetrics
from shopcast_gateway.core.adoption_status import AdoptionStatus
from shopcast_gateway.core.stages import UNRECORDED, Recorder
from shopcast_gateway.core.trial import Trial
from shopcast_gateway.directory.open import open_directory
from shopcast_gateway.drain import Leaving
from shopcast_gateway.engine import Engine, Shared, Tritons
from shopcast_gateway.fleet import Addresses
from shopcast_gateway.frontend import access_of, open_frontend
from shopcast_gateway.held_folder import sweep
from shopcast_gateway.interpreter import make_ready
from shopcast_gateway.metrics import serve_metrics
from shopcast_gateway.open_files import check_open_files
from shopcast_gateway.promoted import versions_to_try
from shopcast_gateway.settings import ServeSettings
from shopcast_gateway.supervisor import Supervisor
from shopcast_gateway.tracing import OtlpTracer, traced
from shopcast_gateway.transport.admin_server import ADMIN_METHODS, build_admin_server
from shopcast_gateway.transport.binding import address_of
from shopcast_gateway.transport.credentials import server_credentials
from shopcast_gateway.transport.exposure import check_exposure, check_metrics_exposure
from shopcast_gateway.transport.model_admin_service import Administered, at_once
from shopcast_gateway.transport.server import GatewayServer
from shopcast_gateway.triton.status import TritonStatus
from shopcast_gateway.workers.pool import Pool, open_pool

_log = logging.getLogger(__name__)


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
    """Serve until SIGINT, SIGTERM or the end of the terminal, then drain and stop everything that
    was started.

    ready: called once, when health says SERVING. Raises StartupError.
    """
    make_ready()
    gateway = asyncio.create_task(_serve(settings, ready, lambda: leaving))
    leaving = Leaving(gateway, settings.drain)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
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
    check_open_files()
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
    sweep()
    access = access_of(settings)
    admin_credentials = server_credentials(settings.tls) if settings.tls else None
    versions, seen = versions_to_try(settings.repository)
    status, health = AdoptionStatus(), TritonStatus()
    urls = settings.triton_urls
    rotation = RotationStatus(urls) if len(urls) > 1 else None
    async with AsyncExitStack() as stack:
        directory = await open_directory(settings.directory, keys=settings.directory_key)
        stack.push_async_callback(directory.close)
        server: GatewayServer | Pool
        registry: CollectorRegistry | None
        calls: CallMetrics | None = None
        tracer: OtlpTracer | None = None
        recorder: Recorder = UNRECORDED
        busy: Callable[[], bool] = _never
        on_trial: Callable[[], Trial | None]
        if settings.workers > 1:
            server = pool = await stack.enter_async_context(open_pool(settings, status, access))
            switch, registry = pool.switch, pool.registry
            settled, on_trial = pool.settled, lambda: pool.trial
            health.listeners.append(pool.tell_triton)
            if rotation is not None:
                rotation.listeners.append(pool.tell_rotation)
            if settings.admin_port is not None:
                calls = CallMetrics(registry, ADMIN_METHODS) if registry else None
                tracer = await stack.enter_async_context(traced(settings.otlp_endpoint))
        else:
            frontend = await stack.enter_async_context(open_frontend(settings, directory, access))
            server = frontend.build_server(settings.port)
            switch, registry, recorder = frontend.switch, frontend.registry, frontend.recorder
            calls, tracer, busy = frontend.calls, frontend.tracer, frontend.busy
            settled, on_trial = at_once, lambda: switch.trial
        admin = None
        if settings.admin_port is not None:
            admin = build_admin_server(
                Administered(settings.repository, status, on_trial, settled),
                host=settings.admin_host,
                port=settings.admin_port,
                credentials=admin_credentials,
                access=access,
                recorder=calls,
                tracer=tracer,
            )
        status.listeners.append(lambda now, _: server.tell_adoption(now.refusal))
        metrics = None
        if registry is not None and settings.metrics_port is not None:
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
        if isinstance(server, GatewayServer):
            server.set_accepting(False)  # until a model is up, others answer better
            await server.start()
        ports: list[GatewayServer | Pool] = [server]
        stack.push_async_callback(_stop, ports, settings.drain.grace_s)
        if admin is not None:
            await admin.start()
            ports.append(admin)
        tritons = Tritons(
            settings.repository,
            url=urls[0] if urls else None,
            home=settings.triton_home,
            log=settings.triton_log,
            several=Addresses(rotation, settings.hedge_after_s) if rotation else None,
        )
        shared = Shared(directory, switch.histories, recorder)
        status.want(versions[0])
        engine = await Engine.first_that_passes(tritons, shared, versions, status)
        switch.engine = engine

        def announce() -> None:
            server.announce()
            if admin is not None:
                admin.announce()

        leaving().announce = announce
        if isinstance(server, Pool):
            await server.start()
        status.adopted(engine.version)
        health.set_up(True)
        server.set_serving(True)
        server.set_accepting(True)
        _log.info("version %d adopted, its goldens reproduce", engine.version)
        address = address_of(settings.host, server.port)
        ready(
            Serving(address, engine.version, engine.address, metrics, admin.port if admin else None)
        )
        await Supervisor(tritons, shared, switch, server, status, health, seen, busy=busy).run()


async def _stop(ports: Sequence[GatewayServer | Pool], grace_s: float) -> None:
    """All at once: what runs on one holds up no other."""
    await asyncio.gather(*(port.stop(grace_s) for port in ports))


def _never() -> bool:
    return False
