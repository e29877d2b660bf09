"""The socket between a worker and the process that looks after it: one JSON message a line."""

import asyncio
import socket
from contextlib import suppress
from typing import Generic, TypeVar

from pydantic import TypeAdapter

_LINE_BYTES = 2**24  # all files of certificates and callers fit

S = TypeVar("S")
R = TypeVar("R")


class Link(Generic[S, R]):
    """One end: sends S and receives R."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        sends: TypeAdapter[S],
        receives: TypeAdapter[R],
    ) -> None:
        self._reader, self._writer = reader, writer
        self._sends, self._receives = sends, receives

    @classmethod
    async def over(
        cls, end: socket.socket, sends: TypeAdapter[S], receives: TypeAdapter[R]
    ) -> "Link[S, R]":
        """Over one of two sockets that are connected; it is closed with the link."""
        reader, writer = await asyncio.open_connection(sock=end, limit=_LINE_BYTES)
        return cls(reader, writer, sends, receives)

    def send(self, message: S) -> None:
        """Send a message; to nobody if the other end has gone."""
        if not self._writer.is_closing():
            self._writer.write(self._sends.dump_json(message) + b"\n")

    async def receive(self) -> R | None:
        """The next message; None when the other end has gone."""
        with suppress(ConnectionError):
            if (line := await self._reader.readline()).endswith(b"\n"):
                return self._receives.validate_json(line)
        return None

    async def close(self) -> None:
        """Let go of the socket, once what was sent has left."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()
