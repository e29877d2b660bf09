"""Who may connect: TLS on real loopback sockets, with certificates that change."""

import asyncio
import codecs
import logging
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Authority, encrypted
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from shopcast_client import ShopcastClient, Unavailable
from shopcast_gateway.errors import StartupError
from shopcast_gateway.transport import credentials
from shopcast_gateway.transport.credentials import Tls, TlsFiles, server_credentials
from shopcast_gateway.transport.server import build_server

ANY = "0.0.0.0"  # noqa: S104 - what must be refused
OURS, OTHERS = Authority("ours"), Authority("others")


class NobodyKnown:
    """A directory that has seen nobody."""

    async def resolve(self, account: Any, *, as_of_s: float | None) -> None:
        return None


@pytest.fixture
def one_way(tmp_path: Path) -> Tls:
    return Tls(*OURS.sign().write(tmp_path, "server"))


@pytest.fixture
def mutual(one_way: Tls, tmp_path: Path) -> Tls:
    ca = tmp_path / "clients.pem"
    ca.write_bytes(OURS.cert)
    return Tls(one_way.cert, one_way.key, ca)


@asynccontextmanager
async def serving(
    tls: Tls | None, before: Mapping[Path, bytes] | None = None
) -> AsyncIterator[str]:
    credentials = server_credentials(tls, before) if tls else None
    server = build_server(None, NobodyKnown(), port=0, credentials=credentials)  # type: ignore[arg-type]
    await server.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(0.5)


async def ask(client: ShopcastClient) -> None:
    assert await client.resolve_person(platform="web", user_id="u-1") is None


async def answered(target: str, **files: Any) -> None:
    async with ShopcastClient(target, timeout_s=20.0, **files) as client:
        await ask(client)


async def refused(target: str, **files: Any) -> str:
    async with ShopcastClient(target, timeout_s=20.0, **files) as client:
        with pytest.raises(Unavailable) as caught:
            await ask(client)
    return str(caught.value)


async def test_a_client_that_trusts_the_ca_is_answered(one_way: Tls, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(OURS.cert)
    async with serving(one_way) as target:
        await answered(target, ca=OURS.cert)
        await answered(target, ca=ca)
        await answered(target, ca=str(ca))
        await answered(target.replace("127.0.0.1", "localhost"), ca=ca)


async def test_plain_text_and_tls_do_not_meet(one_way: Tls) -> None:
    async with serving(one_way) as target:
        await refused(target)
    async with serving(None) as target:
        await refused(target, ca=OURS.cert)


async def test_a_client_of_another_ca_does_not_trust_it(one_way: Tls) -> None:
    async with serving(one_way) as target:
        assert "certificate" in await refused(target, ca=OTHERS.cert)


async def test_a_name_that_the_certificate_lacks_is_not_trusted(one_way: Tls) -> None:
    async with serving(one_way) as target:
        await refused(target.replace("127.0.0.1", "127.0.0.1.nip"), ca=OURS.cert)


async def test_only_clients_of_the_ca_are_admitted(mutual: Tls, tmp_path: Path) -> None:
    cert, key = OURS.sign("shop").write(tmp_path, "client")
    stranger = OTHERS.sign("stranger")
    async with serving(mutual) as target:
        await answered(target, ca=OURS.cert, cert=cert, key=key)
        await refused(target, ca=OURS.cert)
        await refused(target, ca=OURS.cert, cert=stranger.cert, key=stranger.key)
        await refused(target)


async def test_a_certificate_that_is_replaced_is_served_to_new_connections(one_way: Tls) -> None:
    async with (
        serving(one_way) as target,
        ShopcastClient(target, timeout_s=20.0, ca=OURS.cert) as before,
    ):
        await ask(before)
        OTHERS.sign().write(one_way.cert.parent, "server")
        await answered(target, ca=OTHERS.cert)
        await refused(target, ca=OURS.cert)
        await ask(before)


async def test_a_ca_that_is_replaced_admits_others(mutual: Tls) -> None:
    assert mutual.client_ca
    old, new = OURS.sign("old"), OTHERS.sign("new")
    async with serving(mutual) as target:
        await answered(target, ca=OURS.cert, cert=old.cert, key=old.key)
        mutual.client_ca.write_bytes(OTHERS.cert)
        await answered(target, ca=OURS.cert, cert=new.cert, key=new.key)
        await refused(target, ca=OURS.cert, cert=old.cert, key=old.key)


@pytest.mark.parametrize(
    "content",
    [OTHERS.sign().cert, OURS.sign().cert[:200], b"", None],
    ids=["of another key", "half written", "emptied", "gone"],
)
async def test_files_that_do_not_fit_keep_the_certificate_before(
    one_way: Tls, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(one_way) as target:
        if content is None:
            one_way.cert.unlink()
        else:
            one_way.cert.write_bytes(content)
        for _ in range(3):
            await answered(target, ca=OURS.cert)
        (told,) = (r.getMessage() for r in caplog.records if r.levelno == logging.ERROR)
        assert told.startswith("the certificate before stays in use: ")
        assert str(one_way.cert) in told
        OTHERS.sign().write(one_way.cert.parent, "server")
        await answered(target, ca=OTHERS.cert)
    assert "PRIVATE" not in caplog.text


KEYS = {
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
}


@pytest.mark.parametrize("kind", KEYS)
async def test_a_key_that_grpc_serves_to_nobody_does_not_replace_one_that_it_does(
    one_way: Tls, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(one_way) as target:
        OURS.sign(key=KEYS[kind]).write(one_way.cert.parent, "server")
        await answered(target, ca=OURS.cert)
    assert f"the certificate before stays in use: {one_way.cert} has a key" in caplog.text
    with pytest.raises(StartupError, match="RSA, P-256 or P-384"):
        server_credentials(one_way)


async def test_a_byte_order_mark_is_passed_over(mutual: Tls) -> None:
    for path in (mutual.cert, mutual.key, mutual.client_ca):
        assert path
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    shop = OURS.sign("shop")
    async with serving(mutual) as target:
        await answered(target, ca=OURS.cert, cert=shop.cert, key=shop.key)


async def test_what_grpc_cannot_serve_is_not_told_of_as_a_port_that_is_taken(mutual: Tls) -> None:
    assert mutual.client_ca
    mutual.client_ca.write_bytes(b"-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n")
    pair = grpc.ssl_server_credentials(
        [(mutual.key.read_bytes(), mutual.cert.read_bytes())],
        mutual.client_ca.read_bytes(),
        require_client_auth=True,
    )
    with pytest.raises(StartupError, match="--client-ca"):
        build_server(None, NobodyKnown(), port=0, credentials=pair)  # type: ignore[arg-type]


def test_a_certificate_that_ends_while_it_is_served_is_told_once(
    one_way: Tls, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = TlsFiles(one_way)
    files.begin()
    said = ["", "the certificate ends on 2026-02-01", "the certificate ended on 2026-02-01"]
    for sentence in said:
        monkeypatch.setattr(credentials, "soon_over", lambda _, told=sentence: told)
        for _ in range(2):
            assert files.changed() is None
    assert [record.getMessage() for record in caplog.records] == [
        f"{sentence}: renew {one_way.cert}" for sentence in said[1:]
    ]


async def test_who_begins_while_files_do_not_fit_serves_what_another_process_has_of_them(
    one_way: Tls, caplog: pytest.LogCaptureFixture
) -> None:
    files = TlsFiles(one_way)
    files.begin()
    one_way.cert.write_bytes(OTHERS.sign().cert)
    assert files.changed() is None
    async with serving(one_way, files.held) as target:
        for _ in range(2):
            await answered(target, ca=OURS.cert)
        assert caplog.text.count("the certificate before stays in use: ") == 2, "once by each"
        OTHERS.sign().write(one_way.cert.parent, "server")
        await answered(target, ca=OTHERS.cert)
    with pytest.raises(StartupError, match="is no key in PEM that can be used"):
        one_way.cert.write_bytes(OURS.sign().cert)
        server_credentials(one_way, {})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cert", None, "(No such file or directory): name a file"),
        ("key", None, "(No such file or directory): name a file that this user may read"),
        ("client_ca", None, "(No such file or directory): name a file that this user may read"),
        ("cert", b"nothing", "is no certificate in PEM ("),
        ("key", OTHERS.sign().key, "is no key in PEM that can be used with"),
        ("key", b"\xff\x00", "is no key in PEM that can be used with"),
        ("key", encrypted(OTHERS.sign().key), "has a passphrase, which nobody could type"),
        ("client_ca", b"", "holds no certificate in PEM ("),
        ("client_ca", OTHERS.sign().key, "holds no certificate in PEM ("),
    ],
)
def test_files_that_cannot_be_used_are_told_at_the_start(
    mutual: Tls, name: str, content: bytes | None, said: str
) -> None:
    spoilt: Path = getattr(mutual, name)
    spoilt.unlink()
    if content is not None:
        spoilt.write_bytes(content)
    with pytest.raises(StartupError) as caught:
        server_credentials(mutual)
    assert said in str(caught.value)
    assert str(spoilt) in str(caught.value)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o604, True)])
def test_a_key_that_anyone_may_read_is_warned_of(
    one_way: Tls, mode: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    one_way.key.chmod(mode)
    server_credentials(one_way)
    assert (str(one_way.key) in caplog.text) is warned


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"cert": b"", "key": b""}, "Give ca"),
        ({"ca": OURS.cert, "key": b""}, "Give ca"),
        ({"ca": b"nothing"}, "ca is no certificate in PEM"),
        ({"ca": OURS.cert, "cert": OURS.sign().cert, "key": OTHERS.sign().key}, "^key is no priv"),
        ({"ca": OURS.cert, "cert": b"", "key": b""}, "^key is no private key"),
    ],
)
def test_a_client_says_what_is_wrong_with_what_it_is_given(
    given: dict[str, bytes], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        ShopcastClient("127.0.0.1:1", **given)  # type: ignore[arg-type]


def test_a_client_says_which_files_are_wrong(tmp_path: Path) -> None:
    cert, key = OURS.sign().write(tmp_path, "client")
    for spoilt in (OTHERS.sign().key, encrypted(OURS.sign().key)):
        key.write_bytes(spoilt)
        with pytest.raises(ValueError, match=f"^{key} is no private key"):
            ShopcastClient("127.0.0.1:1", ca=OURS.cert, cert=cert, key=key)
        with pytest.raises(ValueError, match=f"^key is no private key.*{cert}"):
            ShopcastClient("127.0.0.1:1", ca=OURS.cert, cert=cert, key=spoilt)
    with pytest.raises(FileNotFoundError, match=r"none\.pem"):
        ShopcastClient("127.0.0.1:1", ca=tmp_path / "none.pem")


async def test_a_command_calls_with_its_files(
    mutual: Tls, tmp_path: Path, platform: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    cert, key = OURS.sign("shop").write(tmp_path, "client")
    who = ("people", "show", "--platform", "web", "--user", "u-1", "--timeout-s", 20)
    async with serving(mutual) as target:
        where = (*who, "--target", target)
        files = ("--ca", mutual.client_ca, "--cert", cert, "--key", key)
        variables = {
            "SHOPCAST_CA": str(mutual.client_ca),
            "SHOPCAST_CERT": str(cert),
            "SHOPCAST_KEY": str(key),
        }
        for done in (
            await asyncio.to_thread(platform, *where, *files),
            await asyncio.to_thread(platform, *where, **variables),
        ):
            assert "this account has never been seen" in done.stderr
        done = await asyncio.to_thread(platform, *where)
        assert "No connection to Shopcast" in done.stderr
        done = await asyncio.to_thread(platform, *where, "--ca", tmp_path / "none.pem")
        assert "none.pem cannot be read (No such file or directory)" in done.stderr
        done = await asyncio.to_thread(platform, *where, "--cert", cert)
        assert done.returncode == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--host", ANY), "give --tls-cert, --tls-key and --client-ca"),
        (("--host", "::"), "give --tls-cert, --tls-key and --client-ca"),
        (("--admin-port", 0, "--admin-host", ANY), "bind 127.0.0.1 with --admin-host"),
        (("--metrics-port", 0, "--metrics-host", ANY), "--allow-plaintext-metrics"),
        (("--tls-cert", "none.pem", "--tls-key", "none.key"), "none.pem cannot be read"),
    ],
)
def test_serve_ends_before_anything_is_started(
    more: tuple[object, ...],
    said: str,
    tmp_path: Path,
    platform: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    (tmp_path / "models").mkdir()
    places = ("--repository", tmp_path / "models", "--directory", tmp_path / "shop.db")
    done = platform("serve", *places, "--port", 0, *more)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
