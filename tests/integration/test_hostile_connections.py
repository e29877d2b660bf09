"""A server against connections that no decent client makes. Whatever they do, it lives, its memory
is bounded, and a client that comes next gets the right answer."""

import resource
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import http2_frames as http2
import pytest
from hostile_server import MIB, PATIENCE_S, HostileServer
from http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Fields,
    Wire,
    frame,
    hello,
    message,
)
from message_strategies import CANARY

from shopcast.v1 import (
    identity_service_pb2,
    identity_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
    types_pb2,
)
from shopcast_gateway.transport.server import MAX_CALLS, MAX_MESSAGE_BYTES, MAX_METADATA_BYTES

CONNECTIONS = 2_000
BOUND_MIB = 160
"""By how much one attack may grow the process: 64 KiB for each of CONNECTIONS, which is what gRPC
keeps of one (measured: under 20), and what malloc does not give back."""
GOOD = prediction_service_pb2.PredictRequest(
    account=types_pb2.Account(platform="web", platform_user_id="anna"),
    items=[types_pb2.Item(item_id="sku-1")],
)
BODY = message(GOOD.SerializeToString())
NAMED = message(
    prediction_service_pb2.StreamPredictRequest(
        correlation_id="c", request=GOOD
    ).SerializeToString()
)
STREAM_PREDICT = "/shopcast.v1.PredictionService/StreamPredict"
STREAM_EVENTS = "/shopcast.v1.EventService/StreamEvents"
WATCH_CHANGES = "/shopcast.v1.IdentityService/WatchChanges"
LAST = 2**20 + 1
"""A stream above all others."""


def call(stream: int, more: Fields = (), **different: Any) -> bytes:
    """A prediction that is fine but for what is different."""
    asked = http2.ask(stream, more=more, **different)
    return asked + frame(DATA, BODY, flags=END_STREAM, stream=stream)


@pytest.fixture(scope="module", autouse=True)
def many_files() -> Iterator[None]:
    """The server inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, many_files: None) -> Iterator[HostileServer]:
    made = HostileServer(tmp_path_factory.mktemp("hostile"))
    yield made
    made.stop()


@pytest.fixture
def server(shared: HostileServer) -> Iterator[HostileServer]:
    """Lives, answers and is no larger than it may be, after the test too."""
    shared.check_health()
    before = shared.rss_mib()
    yield shared
    shared.check_health()
    grown = shared.rss_mib() - before
    print(f"memory {before:.0f} MiB, {grown:+.0f}; bound {BOUND_MIB:+}")
    assert grown < BOUND_MIB
    assert CANARY not in shared.log


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., HostileServer]]:
    """Start a server some of whose options are others."""
    with ExitStack() as stack:

        def made(**options: int) -> HostileServer:
            one = HostileServer(tmp_path, **{f"grpc.{k}": v for k, v in options.items()})
            stack.callback(one.stop)
            return one

        yield made


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def calm(server: HostileServer) -> list[str]:
    """The lines of its log, once it has said all there is to say of the calls before."""
    before, now = [""], server.log.splitlines()
    while now != before:
        time.sleep(0.3)
        before, now = now, server.log.splitlines()
    return now


def told(wire: Wire) -> Counter[str]:
    """What the server has done with a connection once it has answered, or ended it."""
    seen = Counter(wire.read((DATA, GOAWAY, RST_STREAM)))
    print(dict(seen))
    return seen


PADDING = http2.packed([(b"x-a", b"a" * 15_000)])
REQUESTS = range(1, 20_001, 2)
# What is sent, and what must come of it: an answer to the decent call at the end, or the end of the
# call or the connection.
ATTACKS: dict[str, tuple[bytes, str]] = {
    "another protocol": (b"GET / HTTP/1.1\r\nHost: shopcast\r\n\r\n", "closed"),
    "TLS": (bytes.fromhex("1603010200010001fc0303") + bytes(512), "closed"),
    "noise": (bytes(range(256)) * 40, "closed"),
    "noise after the preface": (PREFACE + b"\xff" * 5_000, "closed"),
    "no settings": (PREFACE + call(1), "closed"),
    "a frame of a mebibyte": (hello() + frame(DATA, bytes(MIB), stream=1), "closed"),
    "headers that cannot be read": (
        hello() + frame(HEADERS, b"\xff" * 50, flags=END_HEADERS, stream=1), "RST_STREAM",
    ),
    "headers without end": (
        hello() + http2.ask(1, flags=0) + frame(CONTINUATION, PADDING, stream=1) * 3_000,
        "RST_STREAM",
    ),
    "empty headers without end": (
        hello() + http2.ask(1, flags=0) + frame(CONTINUATION, stream=1) * 50_000, "RST_STREAM",
    ),
    "empty data without end": (
        hello() + http2.ask(1) + frame(DATA, stream=1) * 50_000, "RST_STREAM",
    ),
    "frames of an unknown kind": (
        hello() + frame(99, bytes(1_000), stream=1) * 5_000 + call(1), "DATA",
    ),
    "a stream of the server's": (hello() + call(2) + call(LAST), "DATA"),
    "a call on no stream": (hello() + call(0) + call(LAST), "DATA"),
    "data before headers": (hello() + frame(DATA, b"x", stream=9) + call(LAST), "DATA"),
    "a call without a message": (
        hello() + http2.ask(1, flags=END_HEADERS | END_STREAM) + call(LAST), "DATA",
    ),
    "half a message": (
        hello() + http2.ask(1) + frame(DATA, BODY[:9], flags=END_STREAM, stream=1) + call(LAST),
        "DATA",
    ),
    "a window beyond all": (
        hello() + frame(WINDOW_UPDATE, struct.pack(">I", 2**31 - 1)) * 9 + call(LAST), "DATA",
    ),
    "settings without end": (
        hello() + frame(SETTINGS, http2.setting(4, 65_535)) * 20_000 + call(1), "DATA",
    ),
    "pings without end": (hello() + frame(PING, bytes(8)) * 20_000, "GOAWAY"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_a_connection_that_is_not_as_it_should_be(server: HostileServer, name: str) -> None:
    sent, expected = ATTACKS[name]
    with Wire(server.port) as wire:
        seen = told(wire.send(sent))
    # What a server says before it hangs up may be lost.
    assert seen[expected] or (expected != "DATA" and seen["closed"]), seen


@pytest.mark.parametrize("path", [http2.PREDICT, STREAM_PREDICT, STREAM_EVENTS, WATCH_CHANGES])
def test_calls_that_are_taken_back_at_once(server: HostileServer, path: str) -> None:
    """Rapid reset: without a bound on streams, 10,000 of them had gRPC cancel calls of others."""
    body = b"".join(
        http2.ask(n, path) + frame(DATA, BODY, stream=n) + http2.reset(n) for n in REQUESTS
    )
    with Wire(server.port) as wire:
        wire.send(hello() + body)
        for _ in range(5):
            server.check_health()
        seen = told(wire)
    assert seen["RST_STREAM"], seen


METADATA: dict[str, tuple[Fields, int]] = {
    "a request id that is no UTF-8": ([(b"x-request-id", f"{CANARY}".encode() + b"\xff\xfe")], 0),
    "a request id that is no ASCII": ([(b"x-request-id", f"{CANARY}ü".encode())], 0),
    "a request id of two lines": ([(b"x-request-id", f"{CANARY}\r\nINFO x".encode())], 0),
    "a request id that is too long": ([(b"x-request-id", CANARY.ljust(9_000).encode())], 0),
    "a key that is none": ([(b"x\0\xff", CANARY.encode())], 13),
    "a key in capitals": ([(b"X-UP", CANARY.encode())], 13),
    "binary that is none": ([(b"x-bin", f"{CANARY}!*".encode())], 13),
    "binary": ([(b"x-bin", b"AAEC/w")], 0),
    "many keys": ([(b"x-%d" % n, b"v") for n in range(300)], 0),
    "a deadline that is over": ([(b"grpc-timeout", b"0n")], 4),
    "a deadline before now": ([(b"grpc-timeout", b"-1S")], 13),
    "a deadline in 11,000 years": ([(b"grpc-timeout", b"99999999H")], 0),
    "a deadline that no number holds": ([(b"grpc-timeout", b"9" * 90 + b"H")], 0),
    "a deadline that is none": ([(b"grpc-timeout", CANARY.encode())], 13),
    "a compression nobody knows": ([(b"grpc-encoding", CANARY.encode())], 13),
    "another content": ([(b"content-type", b"text/html")], 0),
}
"""What is sent, and the status that comes of it; 13 is INTERNAL by gRPC itself, which has not
brought such calls to us."""


@pytest.mark.parametrize("name", METADATA)
def test_metadata_that_is_not_as_it_should_be(server: HostileServer, name: str) -> None:
    more, expected = METADATA[name]
    lines = len(calm(server))
    with Wire(server.port) as wire:
        wire.send(hello() + call(1, more))
        until(lambda: bool(wire.read((HEADERS,))) and wire.status() is not None)
        print(f"status {wire.status()}")
        assert wire.status() == expected
    if expected == 0:
        until(lambda: sum("code=OK" in line for line in server.log.splitlines()[lines:]) == 1)
        assert len(calm(server)) == lines + 1


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"identity"])
def test_what_says_it_is_compressed_and_is_not(server: HostileServer, encoding: bytes) -> None:
    body = frame(DATA, message(b"not compressed", flag=1), flags=END_STREAM, stream=1)
    with Wire(server.port) as wire:
        wire.send(hello() + http2.ask(1, more=[(b"grpc-encoding", encoding)]) + body)
        assert told(wire)["RST_STREAM"]
        assert wire.status() == 13  # by gRPC itself


def test_what_is_too_large_is_refused_before_it_is_unpacked(server: HostileServer) -> None:
    seen = Counter[str]()
    gzip, plain = grpc.Compression.Gzip, grpc.Compression.NoCompression
    with grpc.insecure_channel(server.target, [("grpc.max_send_message_length", -1)]) as channel:
        predict = channel.unary_unary(http2.PREDICT)
        for size, compression, code in (
            (MAX_MESSAGE_BYTES, plain, "INVALID_ARGUMENT"),
            (MAX_MESSAGE_BYTES + 1, plain, "RESOURCE_EXHAUSTED"),
            (MAX_MESSAGE_BYTES, gzip, "INVALID_ARGUMENT"),
            (MAX_MESSAGE_BYTES + 1, gzip, "RESOURCE_EXHAUSTED"),
            (300 * MIB, gzip, "RESOURCE_EXHAUSTED"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                predict(bytes(size), timeout=PATIENCE_S, compression=compression)
            assert caught.value.code().name == code, (size, compression)
            seen[code] += 1
    with Wire(server.port) as wire:
        claim = frame(DATA, message(b"x", length=2**32 - 1), stream=1)
        assert told(wire.send(hello() + http2.ask(1) + claim))["RST_STREAM"]
        assert wire.status() == 8
    print(dict(seen))


def test_metadata_has_one_limit(server: HostileServer) -> None:
    """Between gRPC's own two it refuses at random, which no client could rely on."""
    seen = Counter[tuple[int, str]]()
    with grpc.insecure_channel(server.target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for size in (MAX_METADATA_BYTES - 2_000, MAX_METADATA_BYTES + 1) * 20:
            try:
                stub.Predict(GOOD, timeout=PATIENCE_S, metadata=(("x-a", "a" * size),))
                seen[size, "OK"] += 1
            except grpc.RpcError as error:
                code: Any = error
                seen[size, code.code().name] += 1
    print(dict(seen))
    assert seen == {
        (MAX_METADATA_BYTES - 2_000, "OK"): 20,
        (MAX_METADATA_BYTES + 1, "RESOURCE_EXHAUSTED"): 20,
    }


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"/shopcast.v1.PredictionService/{CANARY}", 12),
        (f"/{CANARY}ü/\x01", 12),
        ("/", 12),
        ("", 12),
        ("//shopcast.v1.PredictionService/Predict", 12),
        ("/shopcast.v1.PredictionService/Predict/" + "a" * 9_000, 12),
    ],
)
def test_a_method_that_is_not_there(server: HostileServer, path: str, code: int) -> None:
    with Wire(server.port) as wire:
        wire.send(hello() + call(1, path=path))
        until(lambda: bool(wire.read((HEADERS,))) and wire.status() is not None)
        assert wire.status() == code


@pytest.mark.parametrize("timeout_s", [-1.0, 0.0, 1e-9, 1e9])
def test_deadlines_of_a_client(server: HostileServer, timeout_s: float) -> None:
    """One that is over may be met by an answer that was faster than the clock."""
    with grpc.insecure_channel(server.target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            assert stub.Predict(GOOD, timeout=timeout_s).predictions
            print("OK")
        except grpc.RpcError as error:
            failed: Any = error
            print(failed.code().name)
            assert timeout_s < 1
            assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_call_byte_by_byte(server: HostileServer) -> None:
    with Wire(server.port) as wire:
        for byte in hello() + call(1):
            wire.send(bytes([byte]))
            time.sleep(0.001)
        assert told(wire)["DATA"]


def test_connections_cut_in_the_middle_of_a_request(server: HostileServer) -> None:
    whole = hello() + call(1)
    for at in range(0, len(whole), 2):
        wire = Wire(server.port).send(whole[:at])
        if at % 4:
            wire.reset()
        else:
            wire.socket.close()
    until(lambda: server.connections() <= 1)


@pytest.mark.parametrize("sent", [b"", PREFACE, hello()], ids=["nothing", "preface", "settings"])
def test_thousands_of_connections_that_say_nothing_more(server: HostileServer, sent: bytes) -> None:
    most = min(CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)
    before = server.rss_mib()
    with ExitStack() as stack:
        for _ in range(most):
            stack.enter_context(Wire(server.port)).send(sent)
        until(lambda: server.connections() >= most)
        server.check_health()
        print(f"{most} connections: {server.rss_mib() - before:+.0f} MiB")
    until(lambda: server.connections() < 10)


def test_more_connections_than_files(start: Callable[..., HostileServer]) -> None:
    """Nobody can connect meanwhile; once they go, it serves as before."""
    server = start()
    server.allow_files(server.files() + 50)
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(Wire(server.port)).send(hello())
        until(lambda: server.connections() >= 40)
    server.check_health()
    assert len(server.log) < MIB


@pytest.mark.parametrize("path", [STREAM_PREDICT, STREAM_EVENTS])
def test_streams_that_say_nothing(server: HostileServer, path: str) -> None:
    """A connection has as many as it may, and what is more is refused; these go, others come."""
    more, streams, refused = 44, range(1, 2 * MAX_CALLS + 88, 2), []
    opened = b"".join(http2.ask(one, path) for one in streams)
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(server.port)) for _ in range(8)]
        for wire in wires:
            wire.send(hello()).read((SETTINGS,))
            wire.send(frame(SETTINGS, flags=ACK) + opened)
        for wire in wires:
            until(lambda wire=wire: wire.look().count("RST_STREAM") >= more)  # type: ignore[misc]
            refused.append(wire.look().count("RST_STREAM"))
        server.check_health()
        for wire in wires:
            wire.send(b"".join(map(http2.reset, streams)))
            # A place is free once the server has seen to what was taken back: one tries again.
            for stream in range(LAST, LAST + 1_000, 2):
                if "DATA" in wire.send(call(stream)).look():
                    break
            else:
                pytest.fail("no place became free")
    print(f"refused of {len(streams)} on each connection: {refused}")


def test_streams_that_nobody_reads(server: HostileServer) -> None:
    """With a window of nothing the server may send no byte of an answer."""
    with grpc.insecure_channel(server.target) as channel:
        identity = identity_service_pb2_grpc.IdentityServiceStub(channel)
        for n in range(50):
            identity.LinkAccounts(
                identity_service_pb2.LinkAccountsRequest(
                    account=types_pb2.Account(platform="web", platform_user_id=f"a{n}"),
                    other=types_pb2.Account(platform="web", platform_user_id=f"b{n}"),
                    kind=identity_service_pb2.LINK_KIND_LOGIN,
                )
            )
    unread = PREFACE + frame(SETTINGS, http2.setting(4, 0))
    for n in range(MAX_CALLS // 2):
        predict, watch = 4 * n + 1, 4 * n + 3
        unread += http2.ask(predict, STREAM_PREDICT) + frame(DATA, NAMED * 200, stream=predict)
        unread += http2.ask(watch, WATCH_CHANGES)
        unread += frame(DATA, message(b""), flags=END_STREAM, stream=watch)
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(Wire(server.port)).send(unread)
        for _ in range(5):
            server.check_health()
            time.sleep(0.2)


def test_who_does_not_begin_with_http2_is_sent_away(start: Callable[..., HostileServer]) -> None:
    server = start(server_handshake_timeout_ms=1_000)
    with ExitStack() as stack:
        for sent in (b"", PREFACE[:5], PREFACE):
            wire = stack.enter_context(Wire(server.port)).send(sent)
            assert "closed" in wire.read()
    server.check_health()


def test_who_has_no_call_is_sent_away_and_comes_back(start: Callable[..., HostileServer]) -> None:
    server = start(max_connection_idle_ms=1_000)
    with (
        grpc.insecure_channel(server.target) as channel,
        Wire(server.port) as wire,
        Wire(server.port) as busy,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        stub.Predict(GOOD, timeout=PATIENCE_S)
        busy.send(hello() + http2.ask(1, STREAM_PREDICT))
        assert "GOAWAY" in wire.send(hello()).read((GOAWAY,))
        until(lambda: server.connections() == 1)  # the client's has gone too
        stub.Predict(GOOD, timeout=PATIENCE_S)
        assert "DATA" in busy.send(frame(DATA, NAMED, stream=1)).read((DATA, GOAWAY))


@pytest.mark.parametrize("more", [b"", http2.ask(1, STREAM_PREDICT)], ids=["no call", "a stream"])
def test_who_is_gone_without_a_word_is_noticed(
    start: Callable[..., HostileServer], more: bytes
) -> None:
    """A client that answers pings, as grpc does by itself, keeps its silent stream."""
    server = start(**{"keepalive_time_ms": 1_000, "http2.ping_timeout_ms": 1_000})
    with grpc.insecure_channel(server.target) as channel, Wire(server.port) as wire:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        over = threading.Event()

        def silent() -> Iterator[prediction_service_pb2.StreamPredictRequest]:
            over.wait(PATIENCE_S)
            yield prediction_service_pb2.StreamPredictRequest(correlation_id="c", request=GOOD)

        answers = stub.StreamPredict(silent())
        seen = wire.send(hello() + more).read()
        assert "PING" in seen
        assert "closed" in seen
        over.set()
        assert [one.correlation_id for one in answers] == ["c"]


def test_who_pings_as_often_as_allowed_may_stay(start: Callable[..., HostileServer]) -> None:
    def ping(port: int) -> Counter[str]:
        with Wire(port) as wire:
            wire.send(hello())
            for n in range(1, 11):
                time.sleep(0.05)
                wire.send(frame(PING, struct.pack(">Q", n)))
            return Counter(wire.send(call(LAST)).read((DATA, GOAWAY)))

    allowed = ping(start(**{"http2.min_ping_interval_without_data_ms": 1}).port)
    assert not allowed["GOAWAY"], allowed
    too_often = ping(start().port)
    assert too_often["GOAWAY"] or too_often["closed"], too_often
