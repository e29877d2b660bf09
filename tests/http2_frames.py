"""HTTP/2 by hand (RFC 9113 and 7541), for what no client library would send."""

import re
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0, 1, 3, 4, 6, 7, 8, 9,
)  # fmt: skip
KINDS = {
    DATA: "DATA", HEADERS: "HEADERS", RST_STREAM: "RST_STREAM", SETTINGS: "SETTINGS", PING: "PING",
    GOAWAY: "GOAWAY", WINDOW_UPDATE: "WINDOW_UPDATE",
}  # fmt: skip
END_STREAM, ACK, END_HEADERS = 1, 1, 4
PREDICT = "/shopcast.v1.PredictionService/Predict"

Fields = Iterable[tuple[bytes, bytes]]


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def hello() -> bytes:
    """What every connection begins with."""
    return PREFACE + frame(SETTINGS)


def setting(number: int, value: int) -> bytes:
    return struct.pack(">HI", number, value)


def ask(
    stream: int,
    path: str = PREDICT,
    more: Fields = (),
    *,
    content_type: bytes = b"application/grpc",
    flags: int = END_HEADERS,
) -> bytes:
    """The headers of a call."""
    fields = (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()),
        (b":authority", b"shopcast"), (b"te", b"trailers"), (b"content-type", content_type),
    )  # fmt: skip
    return frame(HEADERS, packed((*fields, *more)), flags=flags, stream=stream)


def message(data: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message; flag 1 says that it is compressed. length: what it claims to be."""
    return struct.pack(">BI", flag, len(data) if length is None else length) + data


def reset(stream: int) -> bytes:
    return frame(RST_STREAM, struct.pack(">I", 8), stream=stream)


def packed(fields: Fields) -> bytes:
    """HPACK without its tables: every field a literal that is not remembered."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def _text(data: bytes) -> bytes:
    left, length = len(data) - 127, b"\x7f"
    if left < 0:
        return bytes([len(data)]) + data
    while left > 127:
        length += bytes([left & 127 | 128])
        left >>= 7
    return length + bytes([left]) + data


class Wire:
    """A connection. Everything the server says is kept in `said`."""

    def __init__(self, port: int, timeout_s: float = 30.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self.said = b""
        self.closed = False

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> "Wire":
        """As much as the server takes before it hangs up."""
        with suppress(ConnectionError, TimeoutError):
            self.socket.sendall(data)
        return self

    def read(self, until: Iterable[int] = (), *, timeout_s: float = 30.0) -> list[str]:
        """The frames until one of a kind, or the end of the connection; fails after `timeout_s`."""
        kinds = set(until)
        self.socket.settimeout(timeout_s)
        while not self.closed and not kinds & {kind for kind, _ in self.frames()}:
            try:
                data = self.socket.recv(65536)
            except ConnectionError:
                data = b""
            self.said += data
            self.closed = not data
        return self.seen()

    def look(self) -> list[str]:
        """What the server has done so far."""
        with suppress(TimeoutError):
            self.read((), timeout_s=0.1)
        return self.seen()

    def seen(self) -> list[str]:
        """The kinds of the frames so far, and whether that was all."""
        return [KINDS.get(kind, str(kind)) for kind, _ in self.frames()] + ["closed"] * self.closed

    def status(self) -> int | None:
        """The grpc-status of the first call that has ended; the server writes it plainly."""
        found = re.search(rb"grpc-status[\x01\x02](\d{1,2})", self.said)
        return int(found[1]) if found else None

    def frames(self) -> list[tuple[int, int]]:
        """Kind and stream of each whole frame so far."""
        found, at = [], 0
        while at + 9 <= len(self.said):
            length = int.from_bytes(self.said[at : at + 3], "big")
            kind, _, stream = struct.unpack(">BBI", self.said[at + 3 : at + 9])
            at += 9 + length
            if at <= len(self.said):
                found.append((kind, stream))
        return found

    def reset(self) -> None:
        """Hang up with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
