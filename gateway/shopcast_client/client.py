"""The client: one channel, and the calls of every service."""

import os
from types import TracebackType
from typing import Self

import grpc

from shopcast_client.calls import Connection
from shopcast_client.credentials import Pem, channel_credentials
from shopcast_client.events import EventCalls
from shopcast_client.models import ModelCalls
from shopcast_client.people import PeopleCalls
from shopcast_client.predictions import PredictionCalls
from shopcast_client.privacy import PrivacyCalls
from shopcast_client.retries import CHANNEL_OPTIONS
from shopcast_client.tokens import TokenFile, stays_here

_LONGEST_S = 366 * 86_400.0  # gRPC overflows somewhere beyond


class ShopcastClient(PredictionCalls, EventCalls, PeopleCalls, PrivacyCalls, ModelCalls):
    """Calls a Shopcast server; an async context manager, for one event loop.

    Keep one open for as long as you make calls and share it between tasks. What runs when it is
    closed raises Unavailable, and may have been done. Every call raises a
    ShopcastError and no other error of the network's; UNAVAILABLE is retried within the timeout,
    but for calls whose second answer would be another, which say so.
    The calls of ModelCalls are answered on a gateway's admin port, the others on its main one.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = 2.0,
        ca: Pem | None = None,
        cert: Pem | None = None,
        key: Pem | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token_file: str | os.PathLike[str] | None = None,
    ) -> None:
        """Names the server; `async with` connects.

        target: "host:port", or any gRPC target; calls are spread over the addresses that it has, as
        in "ipv4:10.0.0.1:50051,10.0.0.2:50051" or a DNS name. timeout_s: for a whole call, retries
        included; more than 0, and at most 366 days.
        ca: the CA of the server's certificate, PEM, as bytes or the path of a file; the connection
        is TLS then. cert, key: the client's own, for a server that asks for them. credentials: in
        their place, any of gRPC's. With none of these, plain text.
        As of any gRPC client, grpc_proxy, https_proxy or http_proxy name a proxy, and no_proxy what
        is called without it; this machine always is.
        token_file: path of a file with a bearer token, read afresh for each call; not sent in plain
        text to another machine.
        Raises ValueError for what is no timeout, certificate, key or token or may not be sent, and
        OSError for what cannot be read. A cert or key that is bytes is looked at on Linux only.
        """
        if not (isinstance(timeout_s, int | float) and 0 < timeout_s <= _LONGEST_S):
            raise ValueError("timeout_s must be more than 0 and at most 366 days.")
        self._target = target
        self._timeout_s = timeout_s
        if credentials is None:
            credentials = channel_credentials(ca, cert, key)
        elif ca or cert or key:
            raise ValueError("Give either credentials or ca, cert and key.")
        self._credentials = credentials
        self._token_file = None if token_file is None else TokenFile(token_file)
        if self._token_file is not None:
            if credentials is None and not stays_here(target):
                raise ValueError(
                    "A token is not sent in plain text to another machine: give ca, so that the"
                    " connection is TLS."
                )
            self._token_file.read()
        self._open: Connection | None = None

    async def __aenter__(self) -> Self:
        """Raises RuntimeError where the client is open."""
        if self._open is not None:
            raise RuntimeError("The client is open: enter it once, and share it between tasks.")
        options = [*CHANNEL_OPTIONS]
        if stays_here(self._target):  # gRPC itself asks a proxy for this machine, too
            options.append(("grpc.enable_http_proxy", 0))
        if self._credentials is None:
            channel = grpc.aio.insecure_channel(self._target, options)
        else:
            channel = grpc.aio.secure_channel(self._target, self._credentials, options)
        self._open = Connection(channel)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        connection, self._open = self._connection, None
        await connection.channel.close()
