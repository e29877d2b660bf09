"""The admin port on real sockets: what it answers, what it refuses, and what is not there."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Authority
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tokens import AUDIENCE, ISSUER, Issuer

from shopcast_client import (
    InvalidRequest,
    Item,
    NotAuthorised,
    Refused,
    ServerError,
    ShopcastClient,
    Unavailable,
)
from shopcast_gateway.core.adoption_status import AdoptionStatus
from shopcast_gateway.transport.admin_server import build_admin_server
from shopcast_gateway.transport.authorisation import Access
from shopcast_gateway.transport.credentials import Tls, server_credentials
from shopcast_gateway.transport.model_admin_service import Administered
from shopcast_gateway.transport.server import build_server

ISSUED = Issuer()


def administered(repository: Path) -> Administered:
    return Administered(repository, AdoptionStatus(), lambda: None)


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[str]:
    server = build_admin_server(administered(tmp_path))
    await server.start()
    yield f"127.0.0.1:{server.port}"
    await server.stop(0.5)


async def test_nobody_predicts_there(target: str) -> None:
    async with ShopcastClient(target, timeout_s=20.0) as client:
        with pytest.raises(ServerError) as caught:
            await client.predict(platform="web", user_id="u-1", items=[Item("i-1")])
    assert caught.value.reason == "UNIMPLEMENTED"
    assert "calls about models go to the --admin-port" in str(caught.value)


async def test_nobody_administers_the_main_port() -> None:
    nothing: Any = None
    server = build_server(nothing, nothing, port=0)
    await server.start()
    async with ShopcastClient(f"127.0.0.1:{server.port}", timeout_s=20.0) as client:
        with pytest.raises(ServerError) as caught:
            await client.serving()
    await server.stop(0.5)
    assert caught.value.reason == "UNIMPLEMENTED"
    assert "calls about models go to the --admin-port" in str(caught.value)


async def test_health_is_told_there(target: str) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "shopcast.v1.ModelAdminService"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20.0)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_with_tls_it_answers_nobody_in_plain_text_nor_without_a_certificate(
    tmp_path: Path,
) -> None:
    ours = Authority("ours")
    (tmp_path / "clients.pem").write_bytes(ours.cert)
    tls = Tls(*ours.sign().write(tmp_path, "server"), tmp_path / "clients.pem")
    cert, key = ours.sign("operator").write(tmp_path, "client")
    (models := tmp_path / "models").mkdir()
    server = build_admin_server(administered(models), credentials=server_credentials(tls))
    await server.start()
    try:
        where = f"127.0.0.1:{server.port}"
        for files in ({}, {"ca": tls.client_ca}):
            async with ShopcastClient(where, timeout_s=2.0, **files) as client:
                with pytest.raises(Unavailable):
                    await client.serving()
        async with ShopcastClient(
            where, timeout_s=20.0, ca=tls.client_ca, cert=cert, key=key
        ) as client:
            with pytest.raises(Refused) as refused:
                await client.serving()
    finally:
        await server.stop(0.5)
    assert refused.value.reason == "NOT_POSSIBLE", "the folder holds nothing"


async def test_what_is_wrong_is_told_with_its_field(target: str) -> None:
    async with ShopcastClient(target, timeout_s=20.0) as client:
        with pytest.raises(InvalidRequest) as caught:
            await client.set_trial(0, share=float("nan"), shadow=1.5)
        assert [one.field for one in caught.value.violations] == ["version", "share", "shadow"]
        with pytest.raises(InvalidRequest):
            await client.set_trial(1)
        with pytest.raises(Refused) as refused:
            await client.promote_model(1)  # the folder holds nothing
    assert refused.value.reason == "NOT_POSSIBLE"


async def test_the_role_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "keys.pem").write_bytes(ISSUED.pem)
    file, token = tmp_path / "access.toml", tmp_path / "token"
    rules = f"""
[tokens]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
algorithms = ["ES256"]
keys = "keys.pem"
"""
    for name, role in (("shop", "predict"), ("release", "models")):
        rules += f'[[caller]]\nname = "{name}"\nsubjects = ["{name}"]\nroles = ["{role}"]\n'
    file.write_text(rules)
    server = build_admin_server(administered(tmp_path), access=Access(file, certificates=False))
    await server.start()
    for name, expected in (("shop", NotAuthorised), ("release", Refused)):
        token.write_text(ISSUED.token(name))
        place = f"127.0.0.1:{server.port}"
        async with ShopcastClient(place, timeout_s=20.0, token_file=token) as client:
            with pytest.raises(expected):
                await client.serving()
    await server.stop(0.5)
