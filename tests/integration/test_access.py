"""Who may call what, on real sockets: tokens with keys of a server, certificates, changed files."""

import asyncio
import logging
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Authority
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tokens import AUDIENCE, ISSUER, Issuer, jwks

from shopcast_client import (
    Account,
    Event,
    EventKind,
    Item,
    NotAuthorised,
    Overloaded,
    ShopcastClient,
    Unavailable,
)
from shopcast_gateway.directory.types import EventStatus, RecordResult
from shopcast_gateway.transport import token_keys
from shopcast_gateway.transport.authorisation import Access
from shopcast_gateway.transport.credentials import Tls, server_credentials
from shopcast_gateway.transport.server import build_server

CA = Authority("ours")
OURS, NEW = Issuer(), Issuer("EdDSA", "k2")
WHO = ("people", "show", "--platform", "web", "--user", "u-1", "--timeout-s", 20)


class NobodyKnown:
    """A directory that has seen nobody."""

    async def resolve(self, account: Any, *, as_of_s: float | None) -> None:
        return None

    async def erase(self, account: Any) -> None:
        return None

    async def changes(self, after: int, *, limit: int) -> tuple[()]:
        return ()

    async def record(self, events: Any) -> RecordResult:
        return RecordResult((EventStatus.RECORDED,) * len(events))


class KeyServer:
    """A JWKS on a loopback port. body: None answers with an error; moved: redirects."""

    def __init__(self) -> None:
        self.body: bytes | None = jwks(OURS)
        self.moved = ""
        self.asked = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked += 1
                if server.moved and self.path == "/keys":
                    self.send_response(302)
                    self.send_header("Location", server.moved)
                    self.end_headers()
                    return
                self.send_response(503 if server.body is None else 200)
                self.end_headers()
                self.wfile.write(server.body or b"")

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/keys"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def key_server() -> Iterator[KeyServer]:
    server = KeyServer()
    yield server
    server.close()


def rules(key_server: KeyServer, *, roles: str = '"read"', more: str = "") -> str:
    return f"""
[tokens]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
algorithms = ["ES256", "EdDSA"]
keys_url = "{key_server.url}"

[[caller]]
name = "shop"
subjects = ["svc-shop"]
roles = [{roles}]
{more}"""


@pytest.fixture
def file(tmp_path: Path, key_server: KeyServer) -> Path:
    path = tmp_path / "access.toml"
    path.write_text(rules(key_server))
    return path


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "shop.token"
    path.write_text(OURS.token() + "\n")
    return path


def put(path: Path, text: str) -> None:
    path.write_text(text)


def held(path: Path) -> str:
    return path.read_text()


def remove(path: Path) -> None:
    path.unlink()


@asynccontextmanager
async def serving(file: Path | None, tls: Tls | None = None) -> AsyncIterator[str]:
    mutual = tls is not None and tls.client_ca is not None
    server = build_server(
        None,  # type: ignore[arg-type]
        NobodyKnown(),  # type: ignore[arg-type]
        port=0,
        credentials=server_credentials(tls) if tls else None,
        access=Access(file, certificates=mutual) if file else None,
    )
    await server.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(0.5)


def client(target: str, **more: Any) -> ShopcastClient:
    return ShopcastClient(target, timeout_s=20.0, **more)


async def ask(caller: ShopcastClient) -> None:
    assert await caller.resolve_person(platform="web", user_id="u-1") is None


async def refused(caller: ShopcastClient) -> str:
    with pytest.raises(NotAuthorised) as caught:
        await ask(caller)
    assert caught.value.request_id
    return caught.value.reason


async def test_a_token_is_answered_and_read_afresh_for_each_call(file: Path, token: Path) -> None:
    async with serving(file) as target, client(target, token_file=token) as caller:
        await ask(caller)
        put(token, OURS.token(exp=int(time.time()) - 60))
        assert await refused(caller) == "UNAUTHENTICATED"
        put(token, OURS.token())
        await ask(caller)
        put(token, "not a token")
        assert await refused(caller) == "NO_TOKEN"
        remove(token)
        assert await refused(caller) == "NO_TOKEN"


async def test_without_a_token_no_call_of_any_shape_is_answered(file: Path) -> None:
    async def none() -> AsyncIterator[Any]:
        for _ in ():
            yield _

    async with serving(file) as target, client(target) as caller:
        assert await refused(caller) == "UNAUTHENTICATED"
        for stream in (
            caller.watch_changes(),
            caller.stream_events(none()),
            caller.stream_predict(none()),
        ):
            with pytest.raises(NotAuthorised) as caught:
                async for _ in stream:
                    pass
            assert caught.value.reason == "UNAUTHENTICATED"


async def test_what_is_no_message_is_refused_before_it_is_read(file: Path) -> None:
    async with serving(file) as target, grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary("/shopcast.v1.IdentityService/ResolvePerson")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\xff" * 100)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_role_is_for_its_methods(
    file: Path, token: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(file) as target, client(target, token_file=token) as caller:
        with pytest.raises(NotAuthorised) as caught:
            await caller.erase_person(Account("web", "u-1"))
        assert caught.value.reason == "PERMISSION_DENIED"
        with pytest.raises(NotAuthorised):
            async for _ in caller.watch_changes():
                pass
    told = [one.getMessage() for one in caplog.records if one.name == "shopcast_gateway.audit"]
    assert told[0] == (
        "method=/shopcast.v1.PrivacyService/ErasePerson code=PERMISSION_DENIED caller=shop"
        f" request_id={caught.value.request_id}"
    )
    assert len(told) == 2
    assert not any(part in caplog.text for part in (*held(token).split("."), "u-1", "svc-"))


async def test_health_is_open_and_reflection_is_not(file: Path) -> None:
    async with serving(file) as target, grpc.aio.insecure_channel(target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ServerReflectionInfo(iter(asked)).read()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        sent = (("authorization", f"Bearer {OURS.token()}"),)
        found = await stub.ServerReflectionInfo(iter(asked), metadata=sent).read()
        names = {one.name for one in found.list_services_response.service}
        assert "shopcast.v1.PredictionService" in names


async def test_keys_are_fetched_once_and_again_for_a_new_one(
    file: Path, token: Path, key_server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(file) as target, client(target, token_file=token) as caller:
        await asyncio.gather(*(ask(caller) for _ in range(10)))
        assert key_server.asked == 1
        key_server.body = jwks(OURS, NEW)
        put(token, NEW.token())
        assert await refused(caller) == "UNAUTHENTICATED"  # too soon
        assert key_server.asked == 1
        monkeypatch.setattr(token_keys, "_PAUSE_S", 0.0)
        await ask(caller)
        assert key_server.asked == 2


@pytest.mark.parametrize("body", [None, b"nothing", b"x" * 300_000])
async def test_without_keys_calls_are_to_be_tried_again(
    file: Path,
    token: Path,
    key_server: KeyServer,
    body: bytes | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    key_server.body = body
    async with serving(file) as target, client(target, token_file=token) as caller:
        with pytest.raises(Unavailable):
            await ask(caller)
    assert key_server.asked == 1
    assert "the keys of tokens cannot be fetched" in caplog.text


async def test_a_redirection_of_keys_is_not_followed(
    file: Path, token: Path, key_server: KeyServer
) -> None:
    key_server.moved = key_server.url.replace("/keys", "/elsewhere")
    async with serving(file) as target, client(target, token_file=token) as caller:
        with pytest.raises(Unavailable):
            await ask(caller)
    assert key_server.asked == 1


async def test_a_certificate_is_a_caller(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(CA.cert)
    tls = Tls(*CA.sign().write(tmp_path, "server"), ca)
    file = tmp_path / "access.toml"
    put(file, '[[caller]]\nname = "shop"\nroles = ["read"]\ncertificates = ["CN:shop"]\n')
    shop, other = CA.sign("shop"), CA.sign("other")
    async with serving(file, tls) as target:
        async with client(target, ca=ca, cert=shop.cert, key=shop.key) as caller:
            await ask(caller)
            with pytest.raises(NotAuthorised) as caught:
                await caller.erase_person(Account("web", "u-1"))
            assert caught.value.reason == "PERMISSION_DENIED"
        async with client(target, ca=ca, cert=other.cert, key=other.key) as caller:
            assert await refused(caller) == "PERMISSION_DENIED"
        put(file, '[[caller]]\nname = "o"\nroles = ["read"]\ncertificates = ["DNS:localhost"]')
        await asyncio.sleep(1.1)
        async with client(target, ca=ca, cert=other.cert, key=other.key) as caller:
            await ask(caller)


async def test_a_token_over_tls_is_enough(file: Path, token: Path, tmp_path: Path) -> None:
    async with (
        serving(file, Tls(*CA.sign().write(tmp_path, "server"))) as target,
        client(target, ca=CA.cert, token_file=token) as caller,
    ):
        await ask(caller)


async def test_a_file_that_changes_holds_for_the_calls_after_it(
    file: Path, token: Path, key_server: KeyServer
) -> None:
    async with serving(file) as target, client(target, token_file=token) as caller:
        await ask(caller)
        put(file, "half [")
        await asyncio.sleep(1.1)
        await ask(caller)
        put(file, rules(key_server, roles='"privacy"'))
        await asyncio.sleep(1.1)
        assert await refused(caller) == "PERMISSION_DENIED"
        assert await caller.erase_person(Account("web", "u-1")) is None
    assert key_server.asked == 1


async def test_an_open_stream_ends_once_its_caller_may_not(
    file: Path, token: Path, key_server: KeyServer
) -> None:
    put(file, rules(key_server, roles='"record"'))
    going = asyncio.Event()

    view = Event("e-1", Account("web", "u-1"), EventKind.VIEW, datetime.now(UTC), Item("i-1"))

    async def batches() -> AsyncIterator[list[Event]]:
        yield [view]
        await going.wait()
        yield [view]

    async with serving(file) as target, client(target, token_file=token) as caller:
        results = caller.stream_events(batches())
        assert (await anext(results)).recorded == 1
        put(file, rules(key_server))
        await asyncio.sleep(1.1)
        going.set()
        with pytest.raises(NotAuthorised) as caught:
            await anext(results)
        assert caught.value.reason == "PERMISSION_DENIED"


async def test_one_callers_quota_leaves_the_others_alone(
    file: Path, token: Path, key_server: KeyServer, tmp_path: Path
) -> None:
    other = tmp_path / "other.token"
    other.write_text(OURS.token("svc-other"))
    more = """quota = { requests_per_s = 0.5, burst = 2 }
[[caller]]
name = "other"
subjects = ["svc-other"]
roles = ["read"]
"""
    put(file, rules(key_server, more=more))
    async with (
        serving(file) as target,
        client(target, token_file=token) as caller,
        client(target, token_file=other) as second,
    ):
        await ask(caller)
        await ask(caller)
        with pytest.raises(Overloaded) as caught:
            await ask(caller)
        assert caught.value.reason == "QUOTA_EXCEEDED"
        assert "refuses more for now: Your quota is used up" in str(caught.value)
        assert caught.value.retry_after_s
        assert 0 < caught.value.retry_after_s <= 2
        for _ in range(5):
            await ask(second)


async def test_commands_send_the_token_of_a_file(
    file: Path, token: Path, platform: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    async with serving(file) as target:
        where = (*WHO, "--target", target)
        for done in (
            await asyncio.to_thread(platform, *where, "--token-file", token),
            await asyncio.to_thread(platform, *where, SHOPCAST_TOKEN_FILE=str(token)),
        ):
            assert "this account has never been seen" in done.stderr
        done = await asyncio.to_thread(platform, *where)
        assert "did not admit the call" in done.stderr
        done = await asyncio.to_thread(platform, *where, "--token-file", token.parent / "none")
        assert "none cannot be read (No such file or directory)" in done.stderr


def test_a_token_does_not_leave_the_machine_in_plain_text(
    token: Path, platform: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    done = platform(*WHO, "--target", "192.0.2.1:50051", "--token-file", token)
    assert done.returncode == 1
    assert "A token is not sent in plain text to another machine: give ca" in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("[[caller]]\n", "caller[0].name: Field required"),
        ('[[caller]]\nname="a"\nroles=["read"]\ncertificates=["CN:a"]\n', "--client-ca"),
    ],
)
def test_serve_ends_before_anything_is_started(
    text: str | None,
    said: str,
    tmp_path: Path,
    platform: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    (tmp_path / "models").mkdir()
    file = tmp_path / "access.toml"
    if text is not None:
        put(file, text)
    places = ("--repository", tmp_path / "models", "--directory", tmp_path / "shop.db")
    done = platform("serve", *places, "--port", 0, "--auth", file)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {file}")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "shop.db").exists()
