"""What is looked at, and what a check says of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Installation:
    """What `platform serve` would be started with. Port 0 stands for any free one; metrics_port,
    admin_port: None serves none of that; triton_urls: of those in place of the bundled Triton in
    triton_home. The others are as of ServeSettings, which needs packages that may be missing."""

    repository: Path
    directory: str | Path
    host: str
    port: int
    metrics_port: int | None
    triton_home: Path
    triton_urls: tuple[str, ...] = ()
    directory_key: Path | None = None
    metrics_host: str = "127.0.0.1"
    admin_port: int | None = None
    admin_host: str = "127.0.0.1"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None
    auth: Path | None = None
    allow_insecure: bool = False
    allow_plaintext_metrics: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a check says. found, remedy: one sentence each; None where there is nothing to do."""

    state: State
    found: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """An answer with the name of its check."""

    name: str
    state: State
    found: str
    remedy: str | None


class Skip(Exception):
    """A check has nothing to look at. One sentence says why."""


def ok(found: str) -> Answer:
    """All is well."""
    return Answer("ok", found)


def warning(found: str, remedy: str) -> Answer:
    """It serves, but not as it should."""
    return Answer("warning", found, remedy)


def failed(found: str, remedy: str) -> Answer:
    """It does not serve, or must not."""
    return Answer("failed", found, remedy)


def parts(error: Exception, otherwise: str) -> tuple[str, str]:
    """What our errors say, and behind their last colon, what to do.

    otherwise: what to do where the error says nothing of it.

    >>> parts(ValueError("port 7 is taken: choose another"), "?")
    ('port 7 is taken', 'choose another')
    >>> parts(ValueError("port 7 is taken"), "wait")
    ('port 7 is taken', 'wait')
    """
    found, _, remedy = str(error).rstrip(".").rpartition(": ")
    return (found, remedy) if found else (remedy, otherwise)


def nearest_folder(path: Path) -> Path:
    """The path, or the first folder above it that is there."""
    path = path.absolute()
    return next(one for one in (path, *path.parents) if one.exists())
