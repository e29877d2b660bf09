"""Whose call it is: tokens that hold and those that do not, keys, names in certificates."""

import asyncio
import base64
import hashlib
import hmac
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
from certificates import Authority
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from tokens import AUDIENCE, ISSUER, MAKE, Issuer, jwks

from shopcast_gateway.errors import StartupError, Unauthenticated, Unavailable
from shopcast_gateway.transport import authentication, token_keys
from shopcast_gateway.transport.access_file import AccessFile, Entry, Tokens
from shopcast_gateway.transport.authentication import (
    Authenticator,
    TokenVerifier,
    bearer_token,
    certificate_names,
)
from shopcast_gateway.transport.token_keys import (
    FileKeys,
    Key,
    UrlKeys,
    fetch_url,
    parse_jwks,
    parse_keys,
)

ISSUERS = {name: Issuer(name, f"k-{name}") for name in MAKE}
OURS = ISSUERS["ES256"]
ALL = ("RS256", "ES256", "EdDSA")


class FixedKeys:
    """Keys that never change, and any of them for any token."""

    def __init__(self, data: bytes) -> None:
        self._keys = parse_keys(data)

    async def find(self, algorithm: str, kid: str | None) -> list[Key]:
        return [
            one
            for one in self._keys
            if one.algorithm == algorithm and (None in (kid, one.kid) or kid == one.kid)
        ]


def settings(**changes: Any) -> Tokens:
    return Tokens(
        **{
            "issuer": ISSUER,
            "audience": AUDIENCE,
            "algorithms": ALL,
            "keys": "keys.json",
            "leeway_s": 5,
            **changes,
        }
    )


VERIFIER = TokenVerifier(settings(), FixedKeys(jwks(*ISSUERS.values())))


def encoded(part: Any) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: Any, claims: Any, secret: bytes = b"") -> str:
    """A token with an HMAC of whatever key, or without a signature."""
    signed = f"{encoded(header)}.{encoded(claims)}"
    mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest() if secret else b""
    return f"{signed}.{encoded(mac)}"


DAY_S = 86_400  # a run of all tests takes less
CLAIMS = {"iss": ISSUER, "aud": AUDIENCE, "sub": "svc-shop", "exp": int(time.time()) + DAY_S}


@pytest.mark.parametrize("algorithm", ALL)
async def test_a_token_of_the_issuer_tells_its_subject(algorithm: str) -> None:
    until = int(time.time()) + 60
    found = await VERIFIER.verify(ISSUERS[algorithm].token("svc-a", exp=until))
    assert (found.subject, found.expires_s) == ("svc-a", until + 5)


async def test_one_of_several_audiences_is_enough() -> None:
    assert (await VERIFIER.verify(OURS.token(aud=["other", AUDIENCE]))).subject == "svc-shop"


async def test_clocks_may_differ_by_the_leeway() -> None:
    assert await VERIFIER.verify(OURS.token(exp=int(time.time()) - 2))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exp": 1}, "has expired"),
        ({"exp": int(time.time()) - 60}, "has expired"),
        ({"exp": None}, "lacks"),
        ({"iss": None}, "lacks"),
        ({"aud": None}, "lacks"),
        ({"sub": None}, "lacks"),
        ({"sub": 17}, "not valid"),
        ({"exp": "soon"}, "not valid"),
        ({"exp": [1]}, "not valid"),
        ({"exp": math.inf}, "not valid"),
        ({"aud": "another"}, "another audience"),
        ({"aud": [AUDIENCE, 1]}, "another audience"),
        ({"iss": f"{ISSUER}/"}, "another issuer"),
        ({"nbf": int(time.time()) + DAY_S}, "not valid"),
    ],
)
async def test_claims_that_do_not_hold_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(Unauthenticated, match=why):
        await VERIFIER.verify(OURS.token(**changes))


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE"])
async def test_a_token_without_a_signature_is_refused(name: str) -> None:
    with pytest.raises(Unauthenticated, match="algorithm is not accepted"):
        await VERIFIER.verify(forged({"alg": name, "typ": "JWT"}, CLAIMS))


@pytest.mark.parametrize("algorithm", ALL)
async def test_a_public_key_is_no_secret_of_an_hmac(algorithm: str) -> None:
    header = {"alg": "HS256", "kid": f"k-{algorithm}"}
    token = forged(header, CLAIMS, ISSUERS[algorithm].pem)
    with pytest.raises(Unauthenticated, match="algorithm is not accepted"):
        await VERIFIER.verify(token)
    # Nor where the header lies about what it is.
    token = forged({**header, "alg": algorithm}, CLAIMS, ISSUERS[algorithm].pem)
    with pytest.raises(Unauthenticated, match="signature does not hold"):
        await VERIFIER.verify(token)


async def test_an_algorithm_that_the_file_leaves_out_is_refused() -> None:
    only = TokenVerifier(settings(algorithms=("ES256",)), FixedKeys(jwks(*ISSUERS.values())))
    await only.verify(OURS.token())
    with pytest.raises(Unauthenticated, match="algorithm is not accepted"):
        await only.verify(ISSUERS["RS256"].token())


async def test_another_key_of_the_same_name_is_refused() -> None:
    with pytest.raises(Unauthenticated, match="signature does not hold"):
        await VERIFIER.verify(Issuer("ES256", "k-ES256").token())


async def test_a_key_that_nobody_knows_is_refused() -> None:
    with pytest.raises(Unauthenticated, match="key is unknown"):
        await VERIFIER.verify(Issuer("ES256", "k9").token())


async def test_a_key_that_the_token_brings_along_is_not_used() -> None:
    mine = Issuer("ES256", "k-ES256")
    token = jwt.encode(CLAIMS, mine.private, "ES256", {"kid": "k-ES256", "jwk": mine.jwk})
    with pytest.raises(Unauthenticated, match="signature does not hold"):
        await VERIFIER.verify(token)


async def test_a_changed_token_is_refused() -> None:
    header, _, signature = OURS.token().split(".")
    token = f"{header}.{encoded({**CLAIMS, 'sub': 'svc-admin'})}.{signature}"
    with pytest.raises(Unauthenticated, match="signature does not hold"):
        await VERIFIER.verify(token)


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "a.b.c", "x" * 8192, "é", "\x00", forged([], {}), forged({"alg": 5}, {})],
)
async def test_garbage_is_refused(token: str) -> None:
    with pytest.raises(Unauthenticated):
        await VERIFIER.verify(token)


async def test_a_huge_token_is_refused_unread() -> None:
    with pytest.raises(Unauthenticated, match="too long"):
        await VERIFIER.verify(OURS.token(more="x" * 9000))


class OneKey:
    """The key of one issuer at a time."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer

    async def find(self, algorithm: str, kid: str | None) -> list[Key]:
        return list(parse_keys(jwks(self.issuer)))


async def test_a_token_that_held_is_known_while_it_lasts_and_its_key_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys, token, ahead_s = OneKey(OURS), OURS.token(exp=int(time.time()) + 60), [0.0]
    verifier = TokenVerifier(settings(), keys, now=lambda: time.time() + ahead_s[0])
    found = await verifier.verify(token)
    with monkeypatch.context() as patch:
        patch.setattr(jwt, "decode", None)  # what is known is not verified again
        assert await verifier.verify(token) == found
        with pytest.raises(Unauthenticated):
            await verifier.verify(OURS.token())
        ahead_s[0] = 66
        with pytest.raises(Unauthenticated):
            await verifier.verify(token)
    ahead_s[0] = 0
    assert await verifier.verify(token) == found
    keys.issuer = Issuer("ES256", OURS.kid)
    with pytest.raises(Unauthenticated, match="signature does not hold"):
        await verifier.verify(token)


async def test_few_tokens_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "MAX_REMEMBERED", 2)
    verifier, tokens = TokenVerifier(settings(), OneKey(OURS)), [OURS.token(n) for n in "abc"]
    for token in tokens:
        await verifier.verify(token)
    monkeypatch.setattr(jwt, "decode", None)
    for token in tokens[1:]:
        await verifier.verify(token)
    with pytest.raises(Unauthenticated):
        await verifier.verify(tokens[0])


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
_headers = st.fixed_dictionaries(
    {"alg": st.sampled_from([*ALL, "HS256", "none"]) | _json},
    optional={"kid": st.just("k-ES256") | _json, "crit": _json, "b64": _json, "typ": _json},
)


@given(
    st.text()
    | st.binary().map(lambda data: data.decode("latin-1"))
    | st.builds(forged, _headers | _json, _json, st.binary(max_size=64))
)
def test_whatever_is_sent_is_refused_and_breaks_nothing(token: str) -> None:
    with pytest.raises(Unauthenticated):
        asyncio.run(VERIFIER.verify(token))


@given(st.dictionaries(st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat"]), _json))
def test_whatever_the_issuer_signs_is_accepted_or_refused(changes: dict[str, Any]) -> None:
    signed = jwt.api_jws.encode(
        json.dumps({**CLAIMS, **changes}).encode(), OURS.private, "ES256", {"kid": OURS.kid}
    )
    try:
        found = asyncio.run(VERIFIER.verify(signed))
    except Unauthenticated:
        return
    assert isinstance(found.subject, str)
    assert math.isfinite(found.expires_s)


# -- keys


def test_keys_are_read_in_every_form() -> None:
    pems = b"".join(one.pem for one in ISSUERS.values())
    assert [one.algorithm for one in parse_keys(pems)] == list(ISSUERS)
    assert [one.kid for one in parse_keys(jwks(*ISSUERS.values()))] == ["k-" + one for one in ALL]
    (of_certificate,) = parse_keys(Authority("issuer").cert)
    assert of_certificate.algorithm == "ES256"


@pytest.mark.parametrize(
    "more", [{"kid": 7}, {"kid": ["k"]}, {"use": "enc"}, {"key_ops": ["encrypt"]}, {"key_ops": 1}]
)
def test_a_key_that_is_for_something_else_or_oddly_named_is_left_out(more: dict[str, Any]) -> None:
    odd, good = next(iter(ISSUERS.values())).jwk | more, Issuer().jwk
    (found,) = parse_keys(json.dumps({"keys": [odd, good]}).encode())
    assert found.kid == good["kid"]


def private_pem(key: Any) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_pem(key: Any) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "holds 0 keys"),
        (b"nothing", "holds 0 keys"),
        (private_pem(OURS.private), "private key"),
        (public_pem(rsa.generate_private_key(65537, 1024)), "2048 bits"),  # noqa: S505
        (public_pem(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (OURS.pem.replace(b"MFk", b"AAA"), "cannot be read"),
        (OURS.pem * 33, "holds 33 keys"),
        (b"{", "no JWKS"),
        (b'{"keys": 5}', "no JWKS"),
        (b'{"keys": [5]}', "no JWKS"),
        (b'{"keys": []}', "holds 0 keys"),
        (b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "holds 0 keys"),
        (b'{"keys": [{"kty": "EC", "crv": "P-256", "x": "", "y": ""}]}', "holds 0 keys"),
        (json.dumps({"keys": [{**OURS.jwk, "d": "AA"}]}).encode(), "private key"),
        (json.dumps({"keys": [{**OURS.jwk, "use": "enc"}]}).encode(), "holds 0 keys"),
        (json.dumps({"keys": [{**OURS.jwk, "alg": "HS256"}]}).encode(), "holds 0 keys"),
        (b"{" + b" " * 300_000, "more than"),
    ],
)
def test_what_is_no_public_key_is_said(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_keys(data)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_key_file_is_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, clock = tmp_path / "keys.pem", Clock()
    path.write_bytes(OURS.pem)
    keys = FileKeys(path, clock=clock)
    assert await keys.find("ES256", "any")
    path.write_bytes(ISSUERS["EdDSA"].pem)
    assert not await keys.find("EdDSA", None)  # looked at a moment ago
    clock.now_s += 1
    assert await keys.find("EdDSA", None)
    path.write_bytes(b"half")
    for _ in range(3):
        clock.now_s += 1
        assert await keys.find("EdDSA", None)
    assert caplog.text.count("what was read before stays in force") == 1
    path.unlink()
    clock.now_s += 1
    assert await keys.find("EdDSA", None)
    path.write_bytes(OURS.pem)
    clock.now_s += 1
    assert await keys.find("ES256", None)


@pytest.mark.parametrize(("mode", "warned"), [(0o644, False), (0o646, True)])
def test_a_file_that_anyone_may_change_is_warned_of(
    tmp_path: Path, mode: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.pem"
    path.write_bytes(OURS.pem)
    path.chmod(mode)
    FileKeys(path)
    assert (f"can change {path}" in caplog.text) is warned


def test_a_key_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"none\.pem cannot be read \(No such file"):
        FileKeys(tmp_path / "none.pem")


class FakeUrl:
    """What a URL gives, and how often it was asked."""

    def __init__(self, *issuers: Issuer) -> None:
        self.issuers: tuple[Issuer, ...] | None = issuers
        self.times = 0
        self.threads: set[int] = set()

    def __call__(self, url: str) -> bytes:
        self.times += 1
        self.threads.add(threading.get_ident())
        if self.issuers is None:
            raise OSError("away")
        return jwks(*self.issuers)


async def test_keys_of_a_url_are_kept_and_fetched_off_the_loop() -> None:
    fetch, clock = FakeUrl(OURS), Clock()
    keys = UrlKeys("https://x", fetch=fetch, clock=clock)
    for _ in range(5):
        assert await keys.find("ES256", OURS.kid)
    assert await asyncio.gather(*(keys.find("ES256", OURS.kid) for _ in range(5)))
    assert fetch.times == 1
    assert threading.get_ident() not in fetch.threads


async def test_fetches_that_hang_take_no_thread_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_keys, "_TIMEOUT_S", 0.005)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    go, clock = threading.Event(), Clock()

    def fetch(url: str) -> bytes:
        go.wait(10)
        return jwks(OURS)

    keys = UrlKeys("https://x", fetch=fetch, clock=clock)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await keys.find("ES256", OURS.kid)
        clock.now_s += 10
    async with asyncio.timeout(5):
        await asyncio.to_thread(go.set)
    monkeypatch.undo()
    assert await keys.find("ES256", OURS.kid)


async def test_many_calls_wait_for_one_fetch() -> None:
    fetch = FakeUrl(OURS)
    keys = UrlKeys("https://x", fetch=fetch, clock=Clock())
    assert all(await asyncio.gather(*(keys.find("ES256", OURS.kid) for _ in range(20))))
    assert fetch.times == 1


async def test_an_unknown_key_is_looked_for_but_not_often() -> None:
    fetch, clock = FakeUrl(OURS), Clock()
    keys, new = UrlKeys("https://x", fetch=fetch, clock=clock), Issuer("ES256", "k2")
    assert await keys.find("ES256", OURS.kid)
    fetch.issuers = (OURS, new)
    for number in range(50):
        assert not await keys.find("ES256", f"guess-{number}")
    assert fetch.times == 1
    clock.now_s += 10
    assert await keys.find("ES256", new.kid)
    assert fetch.times == 2


async def test_keys_outlast_a_short_outage_and_not_a_long_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fetch, clock = FakeUrl(OURS), Clock()
    keys = UrlKeys("https://secret.example", fetch=fetch, clock=clock)
    assert await keys.find("ES256", OURS.kid)
    fetch.issuers = None
    clock.now_s += 3000
    assert await keys.find("ES256", OURS.kid)
    await asyncio.sleep(0.05)
    clock.now_s += 1000
    with pytest.raises(Unavailable):
        await keys.find("ES256", OURS.kid)
    fetch.issuers = (OURS,)
    clock.now_s += 10
    assert await keys.find("ES256", OURS.kid)
    assert "secret.example" not in caplog.text


async def test_a_key_that_was_withdrawn_is_gone_after_minutes() -> None:
    fetch, clock = FakeUrl(OURS), Clock()
    keys = UrlKeys("https://x", fetch=fetch, clock=clock)
    assert await keys.find("ES256", OURS.kid)
    fetch.issuers = (Issuer("ES256", "k2"),)
    clock.now_s += 301
    await keys.find("ES256", OURS.kid)  # begins the fetch
    await asyncio.sleep(0.05)
    assert not await keys.find("ES256", OURS.kid)


async def test_a_caller_that_hangs_up_does_not_end_the_fetch_of_others() -> None:
    go = threading.Event()

    def fetch(url: str) -> bytes:
        go.wait(10)
        return jwks(OURS)

    keys = UrlKeys("https://x", fetch=fetch, clock=Clock())
    first = asyncio.create_task(keys.find("ES256", OURS.kid))
    second = asyncio.create_task(keys.find("ES256", OURS.kid))
    await asyncio.sleep(0.01)
    first.cancel()
    go.set()
    assert await second


def test_a_body_of_any_size_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="more than"):
        parse_jwks(b" " * 300_000)
    with pytest.raises(OSError):
        fetch_url("http://127.0.0.1:1/keys")


def test_a_body_that_comes_byte_by_byte_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_keys, "_TIMEOUT_S", 0.2)
    over = threading.Event()

    def trickle(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not over.wait(0.02):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as server:
        (thread := threading.Thread(target=trickle, args=(server,), daemon=True)).start()
        with pytest.raises(TimeoutError):
            fetch_url(f"http://127.0.0.1:{server.getsockname()[1]}/keys")
        over.set()
        thread.join()


@contextmanager
def saying(body: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """The URL of a server that answers one request with a body; what it was asked."""
    asked: list[bytes] = []

    def answer(server: socket.socket) -> None:
        with suppress(OSError):
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(4096))
                connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)

    with socket.create_server(("127.0.0.1", 0)) as server:
        (thread := threading.Thread(target=answer, args=(server,), daemon=True)).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/keys", asked
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_no_proxy_says_which_keys_are_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    with saying(b"ours") as (url, asked), saying(b"of the proxy") as (proxy, of_proxy):
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert fetch_url(url) == b"ours"
        assert asked and not of_proxy


def test_a_proxy_leads_to_the_keys_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_keys, "loopback_only", lambda _: False)
    with saying(b"") as (proxy, of_proxy):
        monkeypatch.setenv("https_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with suppress(OSError):
            fetch_url("https://login.example/keys")
        assert of_proxy[0].startswith(b"CONNECT login.example:443 ")


# -- the caller of a call


class FakeContext:
    def __init__(self, *sent: tuple[str, Any], shown: dict[str, list[bytes]] | None = None) -> None:
        self._sent, self._shown = sent, shown or {}

    def invocation_metadata(self) -> tuple[tuple[str, Any], ...]:
        return self._sent

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._shown


def entries(*more: Entry, any_subject: bool = False) -> AccessFile:
    return AccessFile(
        tokens=settings(),
        caller=(
            Entry(
                name="shop",
                roles=("predict",),
                subjects=("svc-shop",),
                certificates=("DNS:shop.internal", "CN:shop", "URI:spiffe://us/shop"),
                any_subject=any_subject,
            ),
            *more,
        ),
    )


async def caller(context: Any, file: AccessFile | None = None) -> tuple[str, str]:
    found = await Authenticator(file or entries(), VERIFIER).caller(context)
    return found.name, found.key


def bearer(token: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {token}")


async def test_a_subject_is_the_caller_of_its_entry() -> None:
    assert await caller(FakeContext(bearer(OURS.token()))) == ("shop", "")
    assert await caller(FakeContext(bearer(OURS.token("else")))) == ("(unlisted)", "")


async def test_subjects_of_one_entry_are_told_apart_without_being_told() -> None:
    file = entries(any_subject=True)
    one = await caller(FakeContext(bearer(OURS.token("ada@example.org"))), file)
    other = await caller(FakeContext(bearer(OURS.token("bob@example.org"))), file)
    assert (one[0], other[0]) == ("shop", "shop")
    assert one != other
    assert "ada" not in repr(one)


@pytest.mark.parametrize(
    "shown",
    [
        {"peer_dns": [b"other", b"shop.internal"]},
        {"peer_uri": [b"spiffe://us/shop"]},
        {"x509_common_name": [b"shop"]},
    ],
)
async def test_a_certificate_is_known_by_any_of_its_names(shown: dict[str, list[bytes]]) -> None:
    assert (await caller(FakeContext(shown=shown)))[0] == "shop"


async def test_names_of_one_kind_are_not_those_of_another() -> None:
    shown = {"peer_email": [b"shop"], "peer_dns": [b"shop", b"spiffe://us/shop"]}
    assert (await caller(FakeContext(shown=shown)))[0] == "(unlisted)"
    assert certificate_names({"transport_security_type": [b"ssl"]}) == set()


async def test_a_certificate_of_two_callers_is_of_none() -> None:
    other = Entry(name="other", roles=("read",), certificates=("DNS:other",))
    shown = {"peer_dns": [b"other", b"shop.internal"]}
    with pytest.raises(Unauthenticated, match="several callers"):
        await caller(FakeContext(shown=shown), entries(other))


async def test_a_bad_token_is_not_made_good_by_a_certificate() -> None:
    shown = {"x509_common_name": [b"shop"]}
    with pytest.raises(Unauthenticated, match="expired"):
        await caller(FakeContext(bearer(OURS.token(exp=1)), shown=shown))


@pytest.mark.parametrize(
    "sent",
    [
        [],
        [("authorization", "")],
        [("authorization", "Basic dXNlcjpwYXNz")],
        [("authorization", "Bearer")],
        [("authorization", b"Bearer x")],
        [bearer("x"), bearer("y")],
    ],
)
async def test_without_one_token_nobody_is_known(sent: list[tuple[str, Any]]) -> None:
    with pytest.raises(Unauthenticated):
        await caller(FakeContext(*sent))


async def test_tokens_are_refused_where_none_are_expected() -> None:
    file = AccessFile(caller=(Entry(name="a", roles=("read",), certificates=("CN:a",)),))
    context: Any = FakeContext(bearer(OURS.token()))
    with pytest.raises(Unauthenticated, match="tokens are not accepted"):
        await Authenticator(file, None).caller(context)


def test_the_scheme_may_be_written_as_one_likes() -> None:
    context: Any = FakeContext(("authorization", "bEaReR  abc "))
    assert bearer_token(context) == "abc"


@pytest.mark.parametrize("spoil", [lambda one: one.token(exp=1), lambda one: one.token() + "x"])
async def test_no_error_holds_the_token_or_its_claims(spoil: Callable[[Issuer], str]) -> None:
    token = spoil(OURS)
    with pytest.raises(Unauthenticated) as caught:
        await VERIFIER.verify(token)
    assert not any(part in repr(caught.value) for part in (*token.split("."), "svc-shop", ISSUER))
    assert caught.value.__cause__ is None
