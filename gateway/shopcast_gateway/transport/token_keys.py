"""The public keys that tokens are verified with: of a file, or of a URL."""

import asyncio
import http.client
import json
import logging
import re
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias
from urllib.parse import urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from shopcast_gateway.errors import Unavailable
from shopcast_gateway.transport.exposure import loopback_only
from shopcast_gateway.transport.followed import Followed

MAX_KEYS = 32
_MAX_BYTES = 256 * 1024
_CHUNK_BYTES = 16 * 1024
_MIN_RSA_BITS = 2048
_TIMEOUT_S = 5.0
_REFRESH_S = 300.0  # keys that are older are fetched again
_KEEP_S = 3600.0  # keys that are older are used no more
_PAUSE_S = 10.0  # between two fetches, whatever tokens name

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_log = logging.getLogger(__name__)

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Key:
    """A public key. kid: its name in a JWKS. algorithm: the only one it is used with."""

    kid: str | None
    algorithm: str
    public: PublicKey


class Keys(Protocol):
    """Where keys come from."""

    async def find(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        """Keys that may have signed a token; none where its key is unknown. Raises Unavailable."""
        ...

    def holds(self, key: Key) -> bool:
        """Whether a key that was found is still among them, so far as is known."""
        ...


class FileKeys:
    """Keys of a file, read again when it changes."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        before: Mapping[Path, bytes] | None = None,
    ) -> None:
        """before: as of Followed. Raises StartupError."""
        self._path = path
        self._file = Followed(path, parse_keys, clock=clock, before=before)

    def look(self) -> Mapping[Path, bytes]:
        """The file's bytes that are in force."""
        self._file.held()
        return {self._path: self._file.data}

    async def find(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        """As Keys.find."""
        return _fitting(self._file.held(), algorithm, kid)

    def holds(self, key: Key) -> bool:
        """As Keys.holds."""
        return key in self._file.held()


class UrlKeys:
    """Keys of a JWKS behind a URL, fetched in a thread of their own, kept, and fetched again for a
    key that is not among them, though not more often than every ten seconds."""

    def __init__(
        self,
        url: str,
        *,
        fetch: Callable[[str], bytes] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._fetch, self._clock = url, fetch or fetch_url, clock
        self._keys: Sequence[Key] = ()
        self._got_s = self._tried_s = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        # The threads of all would be taken, one try after the other, by an issuer that hangs.
        self._thread = ThreadPoolExecutor(1, "token-keys")

    async def find(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        """As Keys.find."""
        if self._age_s() > _KEEP_S:
            await self._renew()
        elif self._age_s() > _REFRESH_S:
            self._start()  # those at hand will do meanwhile
        if not (found := self._fitting(algorithm, kid)):
            await self._renew()
            found = self._fitting(algorithm, kid)
        if self._age_s() > _KEEP_S:
            raise Unavailable("the keys of tokens cannot be fetched")
        return found

    def holds(self, key: Key) -> bool:
        """As Keys.holds."""
        if self._age_s() > _REFRESH_S:
            self._start()
        return key in self._keys

    def _age_s(self) -> float:
        return self._clock() - self._got_s

    def _fitting(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        return _fitting(self._keys, algorithm, kid)

    async def _renew(self) -> None:
        if (task := self._start()) is not None:
            await asyncio.shield(task)  # others may wait for it too

    def _start(self) -> asyncio.Task[None] | None:
        """The fetch under way, a new one, or None where it is too soon."""
        if self._fetching is None and self._clock() - self._tried_s >= _PAUSE_S:
            self._tried_s = self._clock()
            self._fetching = asyncio.create_task(self._get())
        return self._fetching

    async def _get(self) -> None:
        try:
            async with asyncio.timeout(2 * _TIMEOUT_S):
                loop = asyncio.get_running_loop()
                data = await loop.run_in_executor(self._thread, self._fetch, self._url)
            self._keys, self._got_s = parse_jwks(data), self._clock()
        except (OSError, ValueError, http.client.HTTPException) as error:
            # The type only: a URL may hold what is nobody's business.
            _log.error("the keys of tokens cannot be fetched (%s)", type(error).__name__)
        finally:
            self._fetching = None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What was checked is the URL, not where it leads."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """None: no redirection is followed."""


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Asks this machine without a proxy: in plain text its keys are believed because no other
    machine is asked."""
    parts = urlsplit(url)
    here = parts.scheme == "http" or loopback_only(parts.hostname or "")
    proxies = [urllib.request.ProxyHandler({})] if here else []
    return urllib.request.build_opener(_NoRedirect, *proxies)


def fetch_url(url: str) -> bytes:
    """The body behind a URL, or its beginning where it is too long. Raises OSError and
    ValueError."""
    opener, data = _opener(url), b""
    until_s = time.monotonic() + _TIMEOUT_S
    with opener.open(url, timeout=_TIMEOUT_S) as response:  # which bounds each wait for a byte
        while len(data) <= _MAX_BYTES and (more := response.read1(_CHUNK_BYTES)):
            data += more
            if time.monotonic() > until_s:
                raise TimeoutError
    return data


def _fitting(keys: Sequence[Key], algorithm: str, kid: str | None) -> Sequence[Key]:
    """A key without a kid, as in PEM, may be any token's; so may any key of one without."""
    return [
        key
        for key in keys
        if key.algorithm == algorithm and (kid is None or key.kid is None or key.kid == kid)
    ]


def parse_keys(data: bytes) -> Sequence[Key]:
    """Public keys or certificates in PEM, or a JWKS. Raises ValueError."""
    return parse_jwks(data) if data.lstrip().startswith(b"{") else _parse_pem(data)


def _parse_pem(data: bytes) -> Sequence[Key]:
    keys = []
    for block in _PEM.finditer(data):
        if b"PRIVATE" in block[1]:
            raise ValueError("this holds a private key: give the public one only")
        try:
            public = (
                x509.load_pem_x509_certificate(block[0]).public_key()
                if block[1] == b"CERTIFICATE"
                else load_pem_public_key(block[0])
            )
        except Exception:
            raise ValueError("a key in PEM cannot be read: give public keys") from None
        keys.append(Key(None, *_usable(public)))
    return _some(keys)


def parse_jwks(data: bytes) -> Sequence[Key]:
    """The keys of a JWKS that verify signatures with one of our algorithms. Raises ValueError."""
    if len(data) > _MAX_BYTES:
        raise ValueError(f"this has more than {_MAX_BYTES:,} bytes: give fewer keys")
    try:
        listed = json.loads(data)["keys"]
        given = [dict(one) for one in listed]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("this is no JWKS, an object with a list `keys`: correct it") from None
    keys = []
    for one in given:
        kid, named = one.get("kid"), one.get("alg")
        if one.get("kty") not in ("RSA", "EC", "OKP") or not _for_signatures(one):
            continue
        if "d" in one:
            raise ValueError("this holds a private key: give the public ones only")
        try:
            algorithm, public = _usable(jwt.PyJWK(one).key)
        except Exception:  # of another curve, too short, or garbled: nothing we verify with
            _log.warning("a key of a JWKS is left out: it is none of our algorithms")
            continue
        if kid is not None and not isinstance(kid, str):  # else it would be any token's
            _log.warning("a key of a JWKS is left out: its kid is no text")
        elif named in (None, algorithm):
            keys.append(Key(kid, algorithm, public))
    return _some(keys)


def _for_signatures(key: Mapping[str, Any]) -> bool:
    operations = key.get("key_ops", ["verify"])
    return key.get("use", "sig") == "sig" and (
        isinstance(operations, list) and "verify" in operations
    )


def _some(keys: Sequence[Key]) -> Sequence[Key]:
    if not 0 < len(keys) <= MAX_KEYS:
        raise ValueError(
            f"this holds {len(keys)} keys that could be used: give 1 to {MAX_KEYS} public keys, RSA"
            " of 2048 bits or more, P-256 or Ed25519, in PEM or as a JWKS"
        )
    return keys


def _usable(key: object) -> tuple[str, PublicKey]:
    """A key and its algorithm. Raises ValueError."""
    match key:
        case rsa.RSAPublicKey() if key.key_size >= _MIN_RSA_BITS:
            return "RS256", key
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1):
            return "ES256", key
        case ed25519.Ed25519PublicKey():
            return "EdDSA", key
    raise ValueError("give public keys that are RSA of 2048 bits or more, P-256 or Ed25519")
