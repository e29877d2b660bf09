"""The HTTP server that Prometheus asks: whoever connects takes little from those who call."""

import io
import logging
import socket
import threading
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from shopcast_gateway.frames import frames_of

AT_ONCE = 16
"""Connections that are served at once; what is more is closed."""
SILENCE_S = 5.0
"""After which a connection is closed that sends nothing, or takes nothing of what it asked for."""

_log = logging.getLogger(__name__)


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Answers every path, each connection in a thread of its own."""

    daemon_threads = True

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        """port: 0 takes a free one. Raises OSError."""
        (self.address_family, *_, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )
        self._room = threading.BoundedSemaphore(AT_ONCE)
        super().__init__((str(address[0]), port), MetricsHandler)
        metrics = make_wsgi_app(registry)

        def app(*request: Any) -> Any:
            try:
                return metrics(*request)
            except Exception as error:
                _log.error("metrics could not be told: %s", frames_of(error))
                raise

        self.set_app(app)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Have a connection served, where there is room."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In the thread of the connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: who asked has gone, or was silent."""


class MetricsHandler(WSGIRequestHandler):
    """One connection."""

    timeout = SILENCE_S

    def get_stderr(self) -> Any:
        """Nowhere: what matters has been logged."""
        return io.StringIO()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is theirs
        """Nothing."""
