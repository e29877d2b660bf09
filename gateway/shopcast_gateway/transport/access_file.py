"""The file of `serve --auth`: whose tokens and certificates are accepted, for which roles."""

import tomllib
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from shopcast_gateway.transport.exposure import loopback_only


class Role(StrEnum):
    """What a caller may do; `authorisation.METHODS` says which methods. ADMIN has every role."""

    PREDICT = "predict"
    RECORD = "record"
    READ = "read"
    IDENTITY = "identity"
    PRIVACY = "privacy"
    MODELS = "models"
    ADMIN = "admin"


Algorithm = Literal["RS256", "ES256", "EdDSA"]
Text = Annotated[str, Field(min_length=1, max_length=1024)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Quota(_Section):
    """A token bucket. burst: calls at once, after a pause; by default those of one second."""

    requests_per_s: float = Field(gt=0, le=1e6, allow_inf_nan=False)
    burst: float | None = Field(None, ge=1, le=1e6, allow_inf_nan=False)

    @property
    def size(self) -> float:
        """Calls that a full bucket holds, at least one."""
        return max(1.0, self.requests_per_s) if self.burst is None else self.burst


class Tokens(_Section):
    """Which JSON Web Tokens are accepted. keys: a file, PEM or JWKS; keys_url: a JWKS."""

    issuer: Text
    audience: Text
    algorithms: tuple[Algorithm, ...] = Field(min_length=1)
    keys: Text | None = None
    keys_url: Text | None = None
    leeway_s: float = Field(10.0, ge=0, le=60, allow_inf_nan=False)

    @field_validator("keys_url")
    @classmethod
    def _encrypted(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)
            host = parts.hostname or ""
            if not host or not (
                parts.scheme == "https" or (parts.scheme == "http" and loopback_only(host))
            ):
                raise ValueError("must begin with https://, or http:// on this machine")
            if parts.username is not None or parts.password is not None:
                raise ValueError("must hold no user and no password")
        return url

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.keys is None) == (self.keys_url is None):
            raise ValueError("give either keys or keys_url")
        return self


class Entry(_Section):
    """A caller. subjects: `sub` of their tokens; any_subject: that of no other entry.
    certificates: names as `DNS:`, `URI:`, `email:` or `CN:` and the name."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    roles: tuple[Role, ...] = Field(min_length=1)
    subjects: tuple[Text, ...] = ()
    any_subject: bool = False
    certificates: tuple[Annotated[str, Field(pattern=r"^(DNS|URI|email|CN):.+$")], ...] = ()
    quota: Quota | None = None

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if not (self.subjects or self.any_subject or self.certificates):
            raise ValueError("give subjects, any_subject or certificates")
        return self


class AccessFile(_Section):
    """The whole file. quotas: by role, of each caller that has none of its own."""

    tokens: Tokens | None = None
    caller: tuple[Entry, ...] = Field(min_length=1)
    quotas: dict[Role, Quota] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _unambiguous(self) -> Self:
        if self.tokens is None and any(one.subjects or one.any_subject for one in self.caller):
            raise ValueError("give [tokens], which subjects and any_subject need")
        for what, names in (
            ("name", [one.name for one in self.caller]),
            ("subject", [name for one in self.caller for name in one.subjects]),
            ("certificate", [name for one in self.caller for name in one.certificates]),
            ("any_subject", ["true" for one in self.caller if one.any_subject]),
        ):
            for name, times in Counter(names).items():
                if times > 1:
                    raise ValueError(f"{what} {name} is given {times} times: give it once")
        return self


def read_access(data: bytes) -> AccessFile:
    """The file. Raises ValueError that names what is wrong with which field."""
    try:
        return AccessFile.model_validate(tomllib.loads(data.decode()))
    except ValidationError as error:
        raise ValueError("; ".join(_told(error))) from None
    except ValueError as error:  # what is no TOML or no UTF-8
        raise ValueError(f"this is no TOML ({error}): correct it") from None


def _told(error: ValidationError) -> Iterator[str]:
    for one in error.errors(include_url=False, include_input=False, include_context=False):
        field = ""
        for part in one["loc"]:
            field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
        problem = one["msg"].removeprefix("Value error, ")
        yield f"{field}: {problem}" if field else problem
