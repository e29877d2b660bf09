"""The channel to a model server, on a real loopback socket; what answers there is fake."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from redis_servers import free_port
from tritonclient.grpc import service_pb2, service_pb2_grpc

from shopcast_gateway.backend.triton import TritonBackend


class Alive(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A Triton that lives, and no more."""

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)


async def test_no_proxy_is_asked_for_a_triton(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Alive(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        backend = await TritonBackend.connect(f"127.0.0.1:{port}", repository=tmp_path)
        await backend.close()
    finally:
        await server.stop(0)
