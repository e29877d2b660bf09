"""Where a directory lies: a SQLite file, or a Redis that a URL names."""

from pathlib import Path
from urllib.parse import urlsplit

from shopcast_gateway.errors import StartupError

_SCHEMES = ("redis://", "rediss://", "unix://")


def in_redis(place: str | Path) -> bool:
    """Whether a place is a URL of Redis; else it is a file.

    >>> in_redis("redis://localhost:6379/0"), in_redis("shopcast.db")
    (True, False)
    """
    return str(place).startswith(_SCHEMES)


def shown(place: str | Path) -> str:
    """A place as it may be shown: a URL without what is secret in it. Raises StartupError.

    >>> shown("redis://user:secret@redis.example/0"), shown("unix:///run/redis.sock")
    ('redis.example:6379', '/run/redis.sock')
    """
    if isinstance(place, Path) or "://" not in place:
        return str(place)
    try:
        parts = urlsplit(place)
        port = parts.port
    except ValueError:
        raise unusable(place) from None
    if parts.scheme == "unix":
        return parts.path
    return f"{parts.hostname or 'localhost'}:{port or 6379}"


def unusable(url: str) -> StartupError:
    """What to say of a URL that is none Redis has."""
    return StartupError(
        f"The {url.split(':', 1)[0]}: URL of the directory is none that Redis has: write"
        " redis://HOST:PORT/0, rediss://HOST:PORT/0 or unix://PATH."
    )
