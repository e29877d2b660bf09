"""The gRPC server of one process, with all that answers behind it but the model."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from shopcast_domain.manifest import published_versions
from shopcast_gateway.call_metrics import CallMetrics
from shopcast_gateway.core.admission import Admission
from shopcast_gateway.core.intake import Intake
from shopcast_gateway.core.stages import UNRECORDED, Recorder
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.engine import Switch
from shopcast_gateway.settings import ServeSettings
from shopcast_gateway.stage_metrics import StageMetrics
from shopcast_gateway.tracing import OtlpTracer, traced
from shopcast_gateway.transport.admin_server import ADMIN_METHODS
from shopcast_gateway.transport.authorisation import Access
from shopcast_gateway.transport.credentials import server_credentials
from shopcast_gateway.transport.server import METHODS, GatewayServer, build_server

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Frontend:
    """recorder: is told of predictions. admission: lets them through to the switch."""

    settings: ServeSettings
    directory: Directory
    switch: Switch
    admission: Admission
    recorder: Recorder
    registry: CollectorRegistry | None
    calls: CallMetrics | None
    access: Access | None
    tracer: OtlpTracer | None

    def build_server(
        self,
        port: int,
        *,
        shared: bool = False,
        withdrawn: Callable[[], None] | None = None,
        before: Mapping[Path, bytes] | None = None,
    ) -> GatewayServer:
        """A server bound to a port, as transport.server.build_server. shared: with other processes.
        withdrawn: called when somebody's events may be used for less; the switch forgets anyway.
        before: as of server_credentials.
        """

        def forget() -> None:
            self.switch.forget()
            if withdrawn is not None:
                withdrawn()

        settings = self.settings
        return build_server(
            self.admission,
            self.directory,
            host=settings.host,
            port=port,
            shared_port=shared,
            credentials=server_credentials(settings.tls, before) if settings.tls else None,
            access=self.access,
            withdrawn=forget,
            model_versions=lambda: asyncio.to_thread(_published, settings),
            intake=Intake(self.directory, recorder=self.recorder),
            refusal=self.admission.early_refusal,
            recorder=self.calls,
            tracer=self.tracer,
            compress=settings.compress,
        )

    def busy(self) -> bool:
        """Whether there is no room for what nobody waits for."""
        return self.admission.refusal(bulk=True) is not None


@asynccontextmanager
async def open_frontend(
    settings: ServeSettings, directory: Directory, access: Access | None
) -> AsyncIterator[Frontend]:
    """Everything but a server and a model; closes the switch at the end. Raises StartupError."""
    registry = None if settings.metrics_port is None else CollectorRegistry()
    recorder: Recorder = StageMetrics(registry) if registry else UNRECORDED
    calls = CallMetrics(registry, (*METHODS, *ADMIN_METHODS)) if registry else None
    switch = Switch(recorder)
    admission = Admission(
        switch, max_rows=max(1, settings.max_rows // settings.workers), recorder=recorder
    )
    async with traced(settings.otlp_endpoint) as tracer:
        try:
            yield Frontend(
                settings, directory, switch, admission, recorder, registry, calls, access, tracer
            )
        finally:
            await switch.put_on_trial(None, None)
            _log.info("stopping: the model is let go of, and its Triton stopped")
            await switch.close()


def access_of(settings: ServeSettings, before: Mapping[Path, bytes] | None = None) -> Access | None:
    """Who may call what; None admits everybody. before: as of Access. Raises StartupError."""
    if settings.auth is None:
        return None
    mutual = settings.tls is not None and settings.tls.client_ca is not None
    shared = settings.workers > 1
    return Access(settings.auth, certificates=mutual, shared=shared, before=before)


def _published(settings: ServeSettings) -> list[str]:
    return [str(version) for version in published_versions(settings.repository)]
