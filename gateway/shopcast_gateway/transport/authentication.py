"""Who calls: by a bearer token, or by the certificate of the connection."""

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import jwt

from shopcast_gateway.errors import Unauthenticated
from shopcast_gateway.transport.access_file import AccessFile, Entry, Tokens
from shopcast_gateway.transport.token_keys import FileKeys, Key, Keys, UrlKeys

TOKEN_KEY = "authorization"  # noqa: S105 - the name of a header
MAX_TOKEN_CHARACTERS = 8192
MAX_REMEMBERED = 4096
UNLISTED = "(unlisted)"
"""Who is known to the issuer or the CA and not to the file; no entry can have this name."""

_SCHEME = "bearer "
_CERTIFICATE = {
    "peer_dns": "DNS",
    "peer_uri": "URI",
    "peer_email": "email",
    "x509_common_name": "CN",
}

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. name: of their entry, safe to log. key: tells callers of one entry apart, a
    digest. expires_s: Unix time at which their token ends."""

    name: str
    key: str = ""
    expires_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Identity:
    """What a token proves. expires_s: Unix time, leeway included."""

    subject: str
    expires_s: float


class TokenVerifier:
    """Verifies tokens: signature, issuer, audience and times. One that held is known again by its
    digest, while it lasts and its key is among the keys."""

    def __init__(self, tokens: Tokens, keys: Keys, *, now: Callable[[], float] = time.time) -> None:
        self._tokens, self._keys, self._now = tokens, keys, now
        self._held: OrderedDict[bytes, tuple[Identity, Key, str | None]] = OrderedDict()

    async def verify(self, token: str) -> Identity:
        """What a token proves. Raises Unauthenticated, and Unavailable where keys are away."""
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise Unauthenticated("the token is too long")
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        if (known := self._held.get(digest)) is not None:
            identity, key, kid = known
            if self._now() < identity.expires_s and key in await self._keys.find(
                key.algorithm, kid
            ):
                return identity
            self._held.pop(digest, None)
        algorithm, kid = _header(token)
        if algorithm not in self._tokens.algorithms:
            raise Unauthenticated("the token's algorithm is not accepted")
        keys = await self._keys.find(algorithm, kid)
        if not keys:
            raise Unauthenticated("the token's key is unknown")
        for key in keys:
            if (found := self._by_key(token, key)) is not None:
                self._held[digest] = found, key, kid
                if len(self._held) > MAX_REMEMBERED:
                    self._held.popitem(last=False)
                return found
        raise Unauthenticated("the token's signature does not hold")

    def _by_key(self, token: str, key: Key) -> Identity | None:
        """What a token proves; None where another key signed it. Raises Unauthenticated."""
        try:
            # The algorithm is the key's own: a token cannot choose how a key is used.
            claims = jwt.decode(
                token,
                key.public,
                algorithms=[key.algorithm],
                audience=self._tokens.audience,
                issuer=self._tokens.issuer,
                leeway=self._tokens.leeway_s,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            return Identity(claims["sub"], int(claims["exp"]) + self._tokens.leeway_s)
        except jwt.InvalidSignatureError:
            return None
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the token has expired") from None
        except jwt.InvalidAudienceError:
            raise Unauthenticated("the token is for another audience") from None
        except jwt.InvalidIssuerError:
            raise Unauthenticated("the token is of another issuer") from None
        except jwt.MissingRequiredClaimError:
            raise Unauthenticated("the token lacks exp, iss, aud or sub") from None
        except Exception:  # nothing that a token holds may be told, or be our mistake
            raise Unauthenticated("the token is not valid") from None


class Authenticator:
    """Finds the caller of a call by one file."""

    def __init__(self, file: AccessFile, verifier: TokenVerifier | None) -> None:
        self._verifier = verifier
        self._subjects = {name: one for one in file.caller for name in one.subjects}
        self._others = next((one for one in file.caller if one.any_subject), None)
        self._certificates = {name: one for one in file.caller for name in one.certificates}

    async def caller(self, context: Context) -> Caller:
        """Whose call it is. A token decides where there is one, else the certificate.

        Raises Unauthenticated, and Unavailable.
        """
        token = bearer_token(context)
        if token is None:
            return self._by_certificate(context.auth_context() or {})
        if self._verifier is None:
            raise Unauthenticated("tokens are not accepted")
        proven = await self._verifier.verify(token)
        entry = self._subjects.get(proven.subject, self._others)
        return _caller(entry, proven.subject, proven.expires_s)

    def _by_certificate(self, shown: Mapping[str, Iterable[bytes]]) -> Caller:
        names = sorted(certificate_names(shown))
        if not names:
            raise Unauthenticated("there is no token and no certificate")
        found = [self._certificates[name] for name in names if name in self._certificates]
        if len({one.name for one in found}) > 1:
            raise Unauthenticated("the certificate has the names of several callers")
        return _caller(found[0] if found else None, "", math.inf)


def _caller(entry: Entry | None, subject: str, expires_s: float) -> Caller:
    if entry is None:
        return Caller(UNLISTED, expires_s=expires_s)
    key = hashlib.sha256(subject.encode(errors="surrogatepass")).hexdigest()
    return Caller(entry.name, key if entry.any_subject else "", expires_s)


def token_keys(tokens: Tokens, folder: Path) -> Keys:
    """Where the keys of tokens come from. folder: that of the file. Raises StartupError."""
    if tokens.keys_url is not None:
        return UrlKeys(tokens.keys_url)
    return FileKeys(folder / (tokens.keys or ""))


def bearer_token(context: Context) -> str | None:
    """The token of a call; None where it sends none. Raises Unauthenticated."""
    sent = [value for key, value in context.invocation_metadata() or () if key == TOKEN_KEY]
    if not sent:
        return None
    value = sent[0]
    if len(sent) > 1 or not isinstance(value, str) or not value.lower().startswith(_SCHEME):
        raise Unauthenticated("authorization must be sent once, as Bearer and a token")
    return value[len(_SCHEME) :].strip()


def certificate_names(shown: Mapping[str, Iterable[bytes]]) -> set[str]:
    """The names in a client's certificate, such as `DNS:shop.internal`; none where there is none.

    shown: as of `ServicerContext.auth_context`; gRPC has verified the certificate.
    """
    return {
        f"{prefix}:{value.decode(errors='replace')}"
        for key, prefix in _CERTIFICATE.items()
        for value in shown.get(key, ())
    }


def _header(token: str) -> tuple[str, str | None]:
    """Algorithm and key id that a token names, of which nothing is believed yet."""
    try:
        header = jwt.get_unverified_header(token)
        algorithm, kid = header["alg"], header.get("kid")
    except Exception:  # whatever it is, it is no token
        raise Unauthenticated("the token is no JSON Web Token") from None
    if not isinstance(algorithm, str) or not (kid is None or isinstance(kid, str)):
        raise Unauthenticated("the token is no JSON Web Token")
    return algorithm, kid
