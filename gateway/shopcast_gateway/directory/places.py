"""Where a directory lies: a SQLite file, or a Redis that a URL names."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from shopcast_gateway.errors import StartupError

_SCHEMES = ("redis", "rediss", "unix")
_DATABASE = re.compile(r"/?[0-9]*/?")


def in_redis(place: str | Path) -> bool:
    """Whether a place is a URL of Redis; else it is a file.

    Raises StartupError for a URL of something else, and for one of Redis that lacks its slashes or
    whose port or database is no number.

    >>> in_redis("redis://localhost:6379/0"), in_redis("Redis://localhost"), in_redis("shopcast.db")
    (True, True, False)
    """
    if isinstance(place, Path):
        return False
    scheme, colon, rest = place.partition(":")
    ours = bool(colon) and scheme.lower() in _SCHEMES
    if not ours and "://" not in place:
        return False
    if not ours or not rest.startswith("//"):
        raise unusable(place)
    try:
        parts = urlsplit(place)
        _ = parts.port
    except ValueError:
        raise unusable(place) from None
    if parts.scheme != "unix" and not _DATABASE.fullmatch(parts.path):
        raise unusable(place)
    return True


def redis_url(place: str) -> str:
    """A URL as the client of Redis takes it: its scheme in small letters. Raises StartupError."""
    if not in_redis(place):
        raise unusable(place)
    scheme, _, rest = place.partition(":")
    return f"{scheme.lower()}:{rest}"


def shown(place: str | Path) -> str:
    """A place as it may be shown: a URL without what is secret in it. Raises StartupError.

    >>> shown("redis://user:secret@redis.example/0"), shown("unix:///run/redis.sock")
    ('redis.example:6379', '/run/redis.sock')
    """
    if isinstance(place, Path) or not in_redis(place):
        return str(place)
    parts = urlsplit(place)
    if parts.scheme == "unix":
        return parts.path
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"


def unusable(url: str) -> StartupError:
    """What to say of a URL that no directory can have."""
    return StartupError(
        f"The {url.split(':', 1)[0]}: URL of the directory is none that can be used: write"
        " redis://HOST:PORT/0, rediss://HOST:PORT/0, unix://PATH, or the path of a file."
    )
