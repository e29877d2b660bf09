"""Whether a Redis server will do, by what it says of itself (INFO)."""

import logging
from collections.abc import Collection, Mapping
from typing import Any

from shopcast_gateway.errors import StartupError

_OLDEST = (7, 0)

_log = logging.getLogger(__name__)


def policy_of_loss(info: Mapping[str, Any]) -> str:
    """The policy of a server that throws keys of ours away when it is full; empty of others."""
    policy = str(info.get("maxmemory_policy", "noeviction"))
    return policy if info.get("maxmemory") and policy.startswith("allkeys") else ""


def without_log(found: Mapping[str, Mapping[str, Any]], told: Collection[str]) -> frozenset[str]:
    """The servers that keep no log, of what each says of itself by its address; warns of those that
    had not been told of."""
    places = frozenset(place for place, info in found.items() if not info.get("aof_enabled"))
    for place in sorted(places.difference(told)):
        _log.warning(
            "the directory at %s keeps no log of what is written (appendonly no):"
            " what is acknowledged is lost when it ends",
            place,
        )
    return places


def check_fit(info: Mapping[str, Any], place: str) -> None:
    """Raises StartupError where a server will not do."""
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    if version < _OLDEST:
        raise StartupError(f"{place} runs Redis {info['redis_version']}: 7.0 or newer is needed.")
    if info.get("loading"):
        raise StartupError(f"{place} is still loading what it holds: start again when it is ready.")
    if policy := policy_of_loss(info):
        raise StartupError(
            f"{place} throws keys away when its memory is full (maxmemory-policy {policy}): set it"
            " to noeviction."
        )
