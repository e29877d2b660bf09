"""The gRPC server: the four services health and reflection on one port."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from shopcast.v1 import (
    event_service_pb2,
    event_service_pb2_grpc,
    identity_service_pb2,
    identity_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
    privacy_service_pb2,
    privacy_service_pb2_grpc,
)
from shopcast_gateway.core.intake import Intake
from shopcast_gateway.core.protocol import Predictor
from shopcast_gateway.core.room import Room
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.errors import Overloaded
from shopcast_gateway.transport.authorisation import Access
from shopcast_gateway.transport.backlog import Backlog
from shopcast_gateway.transport.binding import bind
from shopcast_gateway.transport.health import HealthService
from shopcast_gateway.transport.interceptor import CallInterceptor, Deadlines
from shopcast_gateway.transport.prediction_service import PredictionService
from shopcast_gateway.transport.recording import CallRecorder, Tracer
from shopcast_gateway.transport.services import EventService, IdentityService, PrivacyService

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_METADATA_BYTES = 16 * 1024
MAX_CALLS = 256
_CANCEL_S = 2.0  # a cancelled call that has not ended by then does not end

_log = logging.getLogger(__name__)

_DESCRIPTORS = tuple(
    service
    for module in (
        prediction_service_pb2,
        event_service_pb2,
        identity_service_pb2,
        privacy_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
)
SERVICES: tuple[str, ...] = tuple(service.full_name for service in _DESCRIPTORS)
"""Full names of our services, as health and reflection know them."""
METHODS: tuple[str, ...] = tuple(
    f"/{service.full_name}/{method.name}" for service in _DESCRIPTORS for method in service.methods
)
"""Full names of our methods, as calls have them."""
_PREDICTIONS = [one for one in METHODS if one.startswith("/shopcast.v1.PredictionService/")]
_RECORDINGS = [f"/shopcast.v1.EventService/{one}" for one in ("RecordEvents", "StreamEvents")]
_MOST_CALLS, _FEW_CALLS = 250, 32  # of all other methods, which share a room

OPTIONS: tuple[tuple[str, int], ...] = (
    # With SO_REUSEPORT two servers would share a taken port without a word.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Metadata of a call, refused as RESOURCE_EXHAUSTED beyond. With one limit: between two, gRPC
    # refuses at random.
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    # Calls of one connection at a time, streams that say nothing included; a client holds back what
    # is more.
    ("grpc.max_concurrent_streams", MAX_CALLS),
    # gRPC drops calls of anybody, as CANCELLED, beyond 1,000 that wait for us. We refuse them, and
    # say when to try again; streams are bounded as above.
    ("grpc.server.max_pending_requests", 2**30),
    ("grpc.server.max_pending_requests_hard_limit", 2**30),
    # Who is gone without a word is noticed, and the streams they left end. It is ping_timeout_ms
    # that closes the connection; keepalive_timeout_ms would not (gRPC 1.85).
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients may ask whether we live as often as this, calls or none; who asks more is sent away.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Who connects must say so in HTTP/2 soon; who has no call for long is sent away.
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.max_connection_idle_ms", 600_000),
)
# A level and no algorithm: with one, gRPC sends it also to those who do not take it.
_COMPRESS = (("grpc.default_compression_level", 2),)


_SHARED_PORT = ("grpc.so_reuseport", 1)


class GatewayServer:
    """A bound server. Answers from `start` to `stop`; `port` is where."""

    def __init__(
        self,
        server: grpc.aio.Server,
        health: HealthService,
        draining: asyncio.Event,
        calls: CallInterceptor,
        port: int,
    ) -> None:
        self._server = server
        self._health = health
        self._draining = draining
        self._calls = calls
        self.port = port

    async def start(self) -> None:
        """Answer calls; health says NOT_SERVING until `set_serving(True)`."""
        await self._server.start()

    def set_serving(self, serving: bool) -> None:
        """What health says from now on, of each service and of the whole."""
        self._health.set_serving(serving)

    def set_accepting(self, accepting: bool) -> None:
        """Whether health tells clients that choose among gateways to call this one."""
        self._health.set_accepting(accepting)

    def tell_adoption(self, refusal: str | None) -> None:
        """Why the version that is to serve does not, for health to say; None where it does."""
        self._health.tell_adoption(refusal)

    def announce(self) -> None:
        """Health says NOT_SERVING from now on; calls are answered as before, until `stop`."""
        self._health.drain()

    async def stop(self, grace_s: float) -> None:
        """Drain: health turns NOT_SERVING, new calls are refused, running ones get `grace_s`.
        Returns a little later at the latest, whatever hangs."""
        if self._draining.is_set():
            await self._ended(self._server.wait_for_termination(), _CANCEL_S)
            return
        self._health.end()
        self._draining.set()
        started, running = time.monotonic(), self._calls.running
        _log.info("stopping: new calls are refused, %d running ones get %g s", running, grace_s)
        over = await self._ended(self._shut(grace_s), grace_s + _CANCEL_S)
        if not over or (running and time.monotonic() - started >= grace_s):
            _log.warning("stopping: calls that were not over after %g s were cancelled", grace_s)
        else:
            _log.info("stopping: all calls are over")

    async def _shut(self, grace_s: float) -> None:
        # What has arrived and is not begun would be cancelled. Nothing else may run between these
        # two, or more arrives.
        await self._calls.catch_up()
        await self._server.stop(grace_s)

    async def _ended(self, stop: Coroutine[Any, Any, Any], limit_s: float) -> bool:
        """Whether it has within the limit; it is left to itself else."""
        done, _ = await asyncio.wait({asyncio.create_task(stop)}, timeout=limit_s)
        return bool(done)

    async def wait(self) -> None:
        """Return when the server has stopped."""
        await self._server.wait_for_termination()


def _nothing() -> None:
    pass


async def _none() -> Sequence[str]:
    return ()


def build_server(
    predictor: Predictor,
    directory: Directory,
    *,
    host: str = "127.0.0.1",
    port: int = 50051,
    shared_port: bool = False,
    credentials: grpc.ServerCredentials | None = None,
    deadlines: Deadlines | None = None,
    access: Access | None = None,
    withdrawn: Callable[[], None] = _nothing,
    model_versions: Callable[[], Awaitable[Sequence[str]]] = _none,
    intake: Intake | None = None,
    refusal: Callable[[int], Overloaded | None] = lambda _: None,
    recorder: CallRecorder | None = None,
    tracer: Tracer | None = None,
    compress: bool = False,
) -> GatewayServer:
    """A server bound to host:port, not yet started. Call it where an event loop runs.

    port: 0 takes a free one. shared_port: with other processes, each of which gets some of the
    connections. credentials: None is plain text. deadlines: for calls that set none,
    and the cap on those that do. access: who may call what; None admits everybody.
    withdrawn: called when events of somebody may be used for less than before.
    model_versions: those published, which the receipt of an erasure names. intake: through which
    events are recorded; None is one of the directory's own. refusal: what any
    prediction would meet now, given how many calls wait; asked before one is read.
    recorder: is told of calls. tracer: traces them. compress: responses, for who takes them.
    Raises StartupError when the address cannot be had.
    """
    logging.getLogger("grpc._cython.cygrpc").addFilter(tells_nothing_sent)
    deadlines, draining = deadlines or Deadlines(), asyncio.Event()
    backlog = Backlog()
    intake = intake or Intake(directory)
    rest = Room("calls", most=_MOST_CALLS, few=_FEW_CALLS, smallest=1)
    refusals = {
        **dict.fromkeys(METHODS, rest.early_refusal),
        **dict.fromkeys(_PREDICTIONS, refusal),
        **dict.fromkeys(_RECORDINGS, intake.early_refusal),
    }
    rooms = {one: rest for one in METHODS if one not in _PREDICTIONS and one not in _RECORDINGS}
    calls = CallInterceptor(deadlines, backlog, refusals, rooms, access, recorder, tracer, draining)
    options = (*OPTIONS, *_COMPRESS * compress)
    if shared_port:
        options = (*(one for one in options if one[0] != _SHARED_PORT[0]), _SHARED_PORT)
    server = grpc.aio.server(interceptors=(calls,), options=options)
    backlog.of_newest_server()
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(predictor, deadlines), server
    )
    event_service_pb2_grpc.add_EventServiceServicer_to_server(
        EventService(directory, intake, deadlines), server
    )
    identity_service_pb2_grpc.add_IdentityServiceServicer_to_server(
        IdentityService(directory, draining, withdrawn), server
    )
    privacy_service_pb2_grpc.add_PrivacyServiceServicer_to_server(
        PrivacyService(directory, model_versions, withdrawn), server
    )
    health = HealthService(SERVICES)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
    reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
    bound = bind(server, host, port, credentials)
    return GatewayServer(server, health, draining, calls, bound)


def tells_nothing_sent(record: logging.LogRecord) -> bool:
    """grpc writes metadata that is no UTF-8 into the log, with a traceback each time."""
    return record.msg != "Invalid encoding on %s"
