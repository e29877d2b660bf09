"""Traces of calls for OpenTelemetry, sent to a collector over OTLP/HTTP.

Spans wait in a bounded queue that a thread empties; where the collector is away they are dropped,
and no answer waits. opentelemetry is optional: pip install 'shopcast[otlp]'.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shopcast_gateway.core.stages import Spent
from shopcast_gateway.errors import StartupError
from shopcast_gateway.transport.exposure import loopback_only
from shopcast_gateway.transport.recording import Metadata

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

SERVICE = "shopcast-gateway"
"""service.name of the spans, unless the environment says otherwise."""
_QUEUE_SPANS = 8_192
_MOST_CHARS = 512  # of a traceparent or tracestate
_FAREWELL_S = 3.0  # for what has not been sent at the end
_OURS = frozenset((2, 13, 14, 15))  # UNKNOWN, INTERNAL, UNAVAILABLE, DATA_LOSS: the server's fault
_GRPC_PORT = ":4317"  # of collectors, as a rule
_LATE = 4  # DEADLINE_EXCEEDED, too, by OpenTelemetry's conventions

_log = logging.getLogger(__name__)


@asynccontextmanager
async def traced(endpoint: str | None) -> "AsyncIterator[OtlpTracer | None]":
    """A tracer until the context ends, which takes a few seconds at most; None without endpoint.

    endpoint: URL of a collector, without the path of traces. Raises StartupError.
    """
    if endpoint is None:
        yield None
        return
    provider = _provider(endpoint)
    try:
        yield OtlpTracer(provider)
    finally:
        # A collector that is away is not waited for: the thread ends with the process.
        farewell = threading.Thread(target=provider.shutdown, daemon=True)
        farewell.start()
        await asyncio.to_thread(farewell.join, _FAREWELL_S)


def _provider(endpoint: str) -> "TracerProvider":
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from requests import Session
    except ImportError:
        raise StartupError(
            "traces need OpenTelemetry: pip install 'shopcast[otlp]', or leave --otlp-endpoint out"
        ) from None
    if not endpoint.startswith(("http://", "https://")):
        raise StartupError(
            "--otlp-endpoint is no URL of a collector: give one such as http://localhost:4318"
        )
    _keep_out_of_the_log()
    if urlsplit(endpoint).netloc.endswith(_GRPC_PORT):
        _log.warning(
            "traces are sent over HTTP, and port 4317 is where collectors take gRPC: where none"
            " arrive, give --otlp-endpoint the port for HTTP, 4318 as a rule"
        )
    name = OTELResourceDetector().detect().attributes.get("service.name", SERVICE)
    resource = Resource.create({"service.name": name})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    session = None
    if loopback_only(urlsplit(endpoint).hostname or ""):
        session = Session()
        session.trust_env = False  # a proxy does not lead to this machine
    exporter = OTLPSpanExporter(
        endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=5.0, session=session
    )
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=_QUEUE_SPANS))
    return provider


def _keep_out_of_the_log() -> None:
    """opentelemetry quotes what it cannot read: what a caller sent as tracestate, and headers for
    the collector, which may be secrets."""
    logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)
    logging.getLogger("opentelemetry.util.re").addFilter(_without_header)


def _without_header(record: logging.LogRecord) -> bool:
    record.msg = (
        "what is no header is left out of OTEL_EXPORTER_OTLP_HEADERS: give name=value, with commas"
        " between them"
    )
    record.args = ()
    return True


class OtlpTracer:
    """Implements `transport.recording.Tracer`."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = provider.get_tracer("shopcast_gateway")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, method: str, metadata: Metadata, request_id: str) -> "OtlpCall":
        """As Tracer.begin."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        carrier = {
            key: value
            for key, value in metadata
            if key in ("traceparent", "tracestate") and len(value) <= _MOST_CHARS
        }
        parent = self._propagator.extract(carrier, Context())
        service, _, name = method.lstrip("/").rpartition("/")
        attributes = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": name,
            "shopcast.request_id": request_id,
        }
        span = self._tracer.start_span(
            method.lstrip("/"), parent, kind=SpanKind.SERVER, attributes=attributes
        )
        return OtlpCall(self._tracer, span)


class OtlpCall:
    """Implements `transport.recording.CallTrace`."""

    def __init__(self, tracer: "Tracer", span: "Span") -> None:
        self._tracer, self._span = tracer, span
        of = span.get_span_context()
        self.traceparent = f"00-{of.trace_id:032x}-{of.span_id:016x}-{of.trace_flags:02x}"

    def end(self, code: int, spent: Spent) -> None:
        """As CallTrace.end; its stages become spans below it."""
        from opentelemetry.context import Context
        from opentelemetry.trace import StatusCode, set_span_in_context

        if self._span.is_recording():
            below = set_span_in_context(self._span, Context())
            for one in spent.intervals():
                stage = self._tracer.start_span(one.stage, below, start_time=one.began_ns)
                stage.end(one.ended_ns)
            self._span.set_attribute("rpc.grpc.status_code", code)
            if code in _OURS or code == _LATE:
                self._span.set_status(StatusCode.ERROR)
        self._span.end()
