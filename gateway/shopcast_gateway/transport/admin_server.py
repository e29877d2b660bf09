"""The gRPC server of the admin port: models, health and reflection, where nobody predicts."""

import asyncio
import logging

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from shopcast.v1 import model_admin_service_pb2, model_admin_service_pb2_grpc
from shopcast_gateway.transport.authorisation import Access
from shopcast_gateway.transport.backlog import Backlog
from shopcast_gateway.transport.binding import bind
from shopcast_gateway.transport.convert_models import MAX_WAIT_S
from shopcast_gateway.transport.health import HealthService
from shopcast_gateway.transport.interceptor import CallInterceptor, Deadlines
from shopcast_gateway.transport.model_admin_service import Administered, ModelAdminService
from shopcast_gateway.transport.recording import CallRecorder, Tracer
from shopcast_gateway.transport.server import OPTIONS, GatewayServer, tells_nothing_sent

_DEFAULT_S = 30.0  # reading every byte of a version, which promoting does, takes seconds
_DESCRIPTOR = model_admin_service_pb2.DESCRIPTOR.services_by_name["ModelAdminService"]

ADMIN_SERVICES: tuple[str, ...] = (_DESCRIPTOR.full_name,)
"""Full names of our services on the admin port."""
ADMIN_METHODS: tuple[str, ...] = tuple(
    f"/{_DESCRIPTOR.full_name}/{method.name}" for method in _DESCRIPTOR.methods
)
"""Full names of their methods, as calls have them."""


def build_admin_server(
    administered: Administered,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    credentials: grpc.ServerCredentials | None = None,
    access: Access | None = None,
    recorder: CallRecorder | None = None,
    tracer: Tracer | None = None,
) -> GatewayServer:
    """A server bound to host:port, not yet started. Call it where an event loop runs.

    The options are those of `build_server`. Health says SERVING until it drains, with a model or
    without: that is when it may be needed. Raises StartupError when the address cannot be had.
    """
    logging.getLogger("grpc._cython.cygrpc").addFilter(tells_nothing_sent)
    draining, backlog = asyncio.Event(), Backlog()
    deadlines = Deadlines(default_s=_DEFAULT_S + MAX_WAIT_S, max_s=_DEFAULT_S + MAX_WAIT_S)
    calls = CallInterceptor(deadlines, backlog, {}, {}, access, recorder, tracer, draining)
    server = grpc.aio.server(interceptors=(calls,), options=OPTIONS)
    backlog.of_newest_server()
    model_admin_service_pb2_grpc.add_ModelAdminServiceServicer_to_server(
        ModelAdminService(administered, draining), server
    )
    health = HealthService(ADMIN_SERVICES)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = (*ADMIN_SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
    reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
    bound = bind(server, host, port, credentials, prefix="admin-")
    made = GatewayServer(server, health, draining, calls, bound)
    made.set_serving(True)
    administered.status.listeners.append(lambda now, _: made.tell_adoption(now.refusal))
    return made
