"""Who may call what, how often, and until when."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TypeVar

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from shopcast_gateway.errors import (
    PermissionDenied,
    QuotaExceeded,
    StartupError,
    Unauthenticated,
)
from shopcast_gateway.transport.access_file import AccessFile, Quota, Role, Tokens, read_access
from shopcast_gateway.transport.authentication import (
    Authenticator,
    Caller,
    Context,
    TokenVerifier,
    token_keys,
)
from shopcast_gateway.transport.followed import Followed
from shopcast_gateway.transport.quotas import Owner, Quotas
from shopcast_gateway.transport.token_keys import FileKeys, Keys

_HEALTH = f"/{health_pb2.DESCRIPTOR.services_by_name['Health'].full_name}/"
_SERVICES: dict[str, dict[Role, tuple[str, ...]]] = {
    "PredictionService": {Role.PREDICT: ("Predict", "BatchPredict", "StreamPredict")},
    "EventService": {Role.RECORD: ("RecordEvents", "StreamEvents"), Role.READ: ("GetHistory",)},
    "IdentityService": {
        Role.READ: ("ResolvePerson", "BatchResolvePeople", "FindPerson"),
        Role.IDENTITY: (
            "LinkAccounts",
            "MergePeople",
            "UnlinkAccounts",
            "SplitAccount",
            "UndoChange",
            "WatchChanges",
        ),
    },
    "ModelAdminService": {
        Role.MODELS: (
            "ListModels",
            "GetServing",
            "PromoteModel",
            "RollBackModel",
            "SetTrial",
            "EndTrial",
        )
    },
    "PrivacyService": {Role.PRIVACY: ("SetConsent", "GetConsent", "ExportPerson", "ErasePerson")},
}
METHODS: dict[str, Role] = {
    f"/shopcast.v1.{service}/{method}": role
    for service, roles in _SERVICES.items()
    for role, methods in roles.items()
    for method in methods
}
"""The role that each method asks for, by its full name; what is not listed is nobody's."""

_FOR_ANY_ROLE = f"/{reflection.SERVICE_NAME}/"

M = TypeVar("M")


class Access:
    """Decides about calls by a file, which is read again when it changes."""

    def __init__(
        self,
        path: Path,
        *,
        certificates: bool,
        shared: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        before: Mapping[Path, bytes] | None = None,
    ) -> None:
        """certificates: whether clients show some. shared: as of Quotas. now: Unix time. before: as
        of Followed. Raises StartupError."""
        self._path, self._before = path, before
        self._folder, self._monotonic, self._now = path.parent, monotonic, now
        self._certificates = certificates
        self.quotas = Quotas(clock=monotonic, shared=shared)
        self._keys: Keys | None = None
        self._keys_from: tuple[str | None, str | None] | None = None
        self._followed = Followed(path, self._read, clock=monotonic, before=before)
        self._before = None  # from now on what this process has read is newer

    def look(self) -> Mapping[Path, bytes]:
        """The bytes that are in force of its files."""
        self._followed.held()
        keys = self._keys.look() if isinstance(self._keys, FileKeys) else {}
        return {self._path: self._followed.data, **keys}

    def guards(self, method: str) -> bool:
        """Whether a method is for callers that are known; health is for everybody."""
        return not method.startswith(_HEALTH)

    async def caller(self, context: Context) -> Caller:
        """Whose call it is. Raises Unauthenticated, and Unavailable where keys are away."""
        return await self._followed.held().authenticator.caller(context)

    def admit(self, caller: Caller, method: str) -> None:
        """Let a call in. Raises PermissionDenied and QuotaExceeded."""
        self._allow(caller, method)
        self.quotas.spend(self._followed.held().quotas(caller, method))

    async def messages(
        self, caller: Caller, method: str, asked: AsyncIterator[M]
    ) -> AsyncGenerator[M, None]:
        """The messages of a stream, none faster than the quota and none after the caller's time.

        Raises Unauthenticated and PermissionDenied.
        """
        async for one in asked:
            while True:
                self.still(caller, method)
                try:
                    self.quotas.spend(self._followed.held().quotas(caller, method))
                    break
                except QuotaExceeded as error:
                    await asyncio.sleep(min(error.retry_after_s, 1.0))
            yield one

    def still(self, caller: Caller, method: str) -> None:
        """Raises Unauthenticated and PermissionDenied where a call in progress must end."""
        if self._now() > caller.expires_s:
            raise Unauthenticated("the token has expired meanwhile")
        if self._followed.held().authenticator.again(caller) != caller:
            raise PermissionDenied("the caller is known as another, or none, meanwhile")
        self._allow(caller, method)

    def _allow(self, caller: Caller, method: str) -> None:
        roles = self._followed.held().roles.get(caller.name, frozenset())
        asked = METHODS.get(method)
        if asked is None:
            allowed = bool(roles) and method.startswith(_FOR_ANY_ROLE)
        else:
            allowed = asked in roles or Role.ADMIN in roles
        if not allowed:
            raise PermissionDenied(f"caller {caller.name} may not")

    def _read(self, data: bytes) -> "_Policy":
        file = read_access(data)
        if not self._certificates and any(one.certificates for one in file.caller):
            raise ValueError("caller.certificates: clients show none without --client-ca: give it")
        # Keys at hand go on where they come from the same place: the issuer may be away.
        if file.tokens is not None and _keys_from(file.tokens) != self._keys_from:
            try:
                self._keys = token_keys(
                    file.tokens, self._folder, clock=self._monotonic, before=self._before
                )
            except StartupError as error:
                raise ValueError(f"tokens.keys: {error}") from None
            self._keys_from = _keys_from(file.tokens)
        return _Policy(file, self._keys)


def _keys_from(tokens: Tokens) -> tuple[str | None, str | None]:
    return tokens.keys, tokens.keys_url


class _Policy:
    """One state of the file."""

    def __init__(self, file: AccessFile, keys: Keys | None) -> None:
        self.file = file
        verifier = TokenVerifier(file.tokens, keys) if file.tokens and keys else None
        self.authenticator = Authenticator(file, verifier)
        self.roles = {one.name: frozenset(one.roles) for one in file.caller}
        self._own = {one.name: one.quota for one in file.caller}

    def quotas(self, caller: Caller, method: str) -> list[tuple[Owner, Quota]]:
        """The caller's quota, or where they have none, that of the method's role."""
        who, role = (caller.name, caller.key), METHODS.get(method)
        if own := self._own.get(caller.name):
            return [(who, own)]
        if role is not None and (shared := self.file.quotas.get(role)):
            return [((*who, role), shared)]
        return []
