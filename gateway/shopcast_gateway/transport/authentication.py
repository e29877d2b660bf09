"""Who calls: by a bearer token, or by the certificate of the connection."""

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import jwt

from shopcast_gateway.errors import Unauthenticated
from shopcast_gateway.transport.access_file import AccessFile, Tokens
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
class Identity:
    """What a token proves. expires_s: Unix time, leeway included."""

    subject: str
    expires_s: float
    signed_by: Key


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. name: of their entry, safe to log. key: tells callers of one entry apart, a
    digest. expires_s: Unix time at which their token ends. proof: by what they were known, a token
    or the names of a certificate; not to be logged."""

    name: str
    key: str = ""
    expires_s: float = math.inf
    proof: Identity | frozenset[str] = field(default=frozenset(), repr=False, compare=False)


class TokenVerifier:
    """Verifies tokens: signature, issuer, audience and times. One that held is known again by its
    digest, while it lasts and its key is among the keys."""

    def __init__(self, tokens: Tokens, keys: Keys, *, now: Callable[[], float] = time.time) -> None:
        self._tokens, self._keys, self._now = tokens, keys, now
        self._held: OrderedDict[bytes, tuple[Identity, str | None]] = OrderedDict()

    def holds(self, key: Key) -> bool:
        """As Keys.holds, and whether its algorithm is accepted."""
        return key.algorithm in self._tokens.algorithms and self._keys.holds(key)

    async def verify(self, token: str) -> Identity:
        """What a token proves. Raises Unauthenticated, and Unavailable where keys are away."""
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise Unauthenticated("the token is too long")
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        if (known := self._held.get(digest)) is not None:
            identity, kid = known
            key = identity.signed_by
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
                self._held[digest] = found, kid
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
            return Identity(claims["sub"], int(claims["exp"]) + self._tokens.leeway_s, key)
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
        return self._by_token(proven)

    def again(self, caller: Caller) -> Caller:
        """Who a caller is by now, who was known by this file or another. Raises Unauthenticated."""
        if not isinstance(caller.proof, Identity):
            return self._by_names(caller.proof)
        if self._verifier is None or not self._verifier.holds(caller.proof.signed_by):
            raise Unauthenticated("the token's key is not accepted any more")
        return self._by_token(caller.proof)

    def _by_token(self, proven: Identity) -> Caller:
        entry = self._subjects.get(proven.subject, self._others)
        if entry is None:
            return Caller(UNLISTED, "", proven.expires_s, proven)
        key = hashlib.sha256(proven.subject.encode(errors="surrogatepass")).hexdigest()
        return Caller(entry.name, key if entry.any_subject else "", proven.expires_s, proven)

    def _by_certificate(self, shown: Mapping[str, Iterable[bytes]]) -> Caller:
        names = frozenset(certificate_names(shown))
        if not names:
            raise Unauthenticated("there is no token and no certificate")
        return self._by_names(names)

    def _by_names(self, names: frozenset[str]) -> Caller:
        found = {self._certificates[name].name for name in names if name in self._certificates}
        if len(found) > 1:
            raise Unauthenticated("the certificate has the names of several callers")
        return Caller(found.pop() if found else UNLISTED, proof=names)


def token_keys(
    tokens: Tokens,
    folder: Path,
    *,
    clock: Callable[[], float] = time.monotonic,
    before: Mapping[Path, bytes] | None = None,
) -> Keys:
    """Where the keys of tokens come from. folder: that of the file. before: as of Followed. Raises
    StartupError."""
    if tokens.keys_url is not None:
        return UrlKeys(tokens.keys_url, clock=clock)
    return FileKeys(folder / (tokens.keys or ""), clock=clock, before=before)


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
