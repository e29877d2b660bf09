"""The token a client sends, and where it may go."""

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

MAX_TOKEN_CHARACTERS = 8192

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # RFC 6750, section 2.1
_PLACE = re.compile(r"(localhost|[0-9.]+|\[[0-9a-f:.]+\])(?::[0-9]+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A file of one bearer token, which may be replaced at any time."""

    path: str | os.PathLike[str]

    def read(self) -> str:
        """The token. Raises OSError, and ValueError which does not hold it."""
        with Path(self.path).open("rb") as file:
            data = file.read(2 * MAX_TOKEN_CHARACTERS)
        token = data.decode("ascii", errors="replace").strip()
        if len(token) > MAX_TOKEN_CHARACTERS or not _TOKEN.fullmatch(token):
            raise ValueError(f"{os.fspath(self.path)} holds no bearer token.")
        return token


def stays_here(target: str) -> bool:
    """Whether what is sent to a gRPC target does not leave this machine; unknown is no."""
    scheme, found, rest = target.partition(":")
    if found and scheme in ("unix", "unix-abstract"):
        return True
    if found and scheme in ("dns", "ipv4", "ipv6"):
        if rest.startswith("//"):  # dns://resolver/name asks a resolver of its own
            authority, _, rest = rest[2:].partition("/")
            if authority:
                return False
        target = rest
    return bool(target) and all(_loopback(place) for place in target.split(","))


def _loopback(place: str) -> bool:
    """place: a host, or one with a port; anything else is elsewhere."""
    found = _PLACE.fullmatch(unquote(place))
    if found is None:
        return False
    host = found[1].lower().strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
