"""Compressed messages, as they are on the wire."""

import asyncio
import gzip
from collections.abc import AsyncIterator

import grpc
import pytest
from hostile_server import FakePredictor
from http2_frames import DATA, END_STREAM, Wire, ask, frame, hello, message

from shopcast.v1 import prediction_service_pb2, types_pb2
from shopcast_gateway.transport.server import build_server

REQUEST = prediction_service_pb2.PredictRequest(
    account=types_pb2.Account(platform="web", platform_user_id="anna"),
    items=[types_pb2.Item(item_id=f"sku-{number}") for number in range(100)],
).SerializeToString()


@pytest.fixture
async def port(request: pytest.FixtureRequest) -> AsyncIterator[int]:
    server = build_server(FakePredictor(), None, port=0, compress=request.param)  # type: ignore[arg-type]
    await server.start()
    yield server.port
    await server.stop(0.5)


def call(port: int, body: bytes, *headers: tuple[bytes, bytes]) -> tuple[int, bytes]:
    """The flag and the bytes of the response to one call."""
    with Wire(port) as wire:
        wire.send(hello() + ask(1, more=headers) + frame(DATA, body, flags=END_STREAM, stream=1))
        while wire.status() is None:
            seen = len(wire.said)
            wire.look()
            assert not wire.closed, seen
        assert wire.status() == 0
        at, found = 0, b""
        while at + 9 <= len(wire.said):
            length, kind = int.from_bytes(wire.said[at : at + 3], "big"), wire.said[at + 3]
            if kind == DATA:
                found += wire.said[at + 9 : at + 9 + length]
            at += 9 + length
    return found[0], found[5:]


@pytest.mark.parametrize(("port", "compress"), [(False, False), (True, True)], indirect=["port"])
@pytest.mark.parametrize("accepts", [b"identity", b"identity,gzip"])
async def test_a_response_is_compressed_where_both_want_it(
    port: int, compress: bool, accepts: bytes
) -> None:
    wanted = compress and b"gzip" in accepts
    header = (b"grpc-accept-encoding", accepts)
    flag, data = await asyncio.to_thread(call, port, message(REQUEST), header)
    assert flag == wanted
    plain = gzip.decompress(data) if flag else data
    assert len(prediction_service_pb2.PredictResponse.FromString(plain).predictions) == 100
    assert len(data) < len(plain) or not wanted


@pytest.mark.parametrize("port", [False], indirect=True)
async def test_a_compressed_request_is_understood(port: int) -> None:
    body = message(gzip.compress(REQUEST), flag=1)
    flag, data = await asyncio.to_thread(call, port, body, (b"grpc-encoding", b"gzip"))
    assert flag == 0
    assert len(prediction_service_pb2.PredictResponse.FromString(data).predictions) == 100
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{port}", compression=grpc.Compression.Gzip
    ) as channel:
        answer = await channel.unary_unary("/shopcast.v1.PredictionService/Predict")(REQUEST)
    assert len(prediction_service_pb2.PredictResponse.FromString(answer).predictions) == 100
