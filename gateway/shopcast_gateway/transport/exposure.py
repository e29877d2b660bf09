"""Who can reach an address, and what a server on it must have."""

import ipaddress
import socket

from shopcast_gateway.errors import StartupError
from shopcast_gateway.transport.credentials import Tls


def check_exposure(
    host: str,
    tls: Tls | None,
    *,
    authenticated: bool = False,
    allow_insecure: bool,
    option: str = "--host",
) -> None:
    """Raises StartupError for calls that other machines could make unseen, or unknown.

    authenticated: callers show a token or a certificate that a file knows. option: that named it.
    """
    if allow_insecure or (tls and (tls.client_ca or authenticated)) or loopback_only(host):
        return
    lacks, remedy = (
        ("admit anyone there", "--client-ca or --auth")
        if tls
        else (
            "be in plain text",
            "--tls-cert and --tls-key"
            if authenticated
            else "--tls-cert, --tls-key and --client-ca or --auth",
        )
    )
    raise StartupError(
        f"other machines may reach {host or 'that host'}, and calls would {lacks}: give {remedy},"
        f" bind 127.0.0.1 with {option}, or say that it is meant with --allow-insecure"
    )


def check_metrics_exposure(host: str, *, allow_plaintext: bool) -> None:
    """Raises StartupError for metrics that other machines could read unless that is meant."""
    if not allow_plaintext and not loopback_only(host):
        raise StartupError(
            f"other machines may reach {host or 'that host'}, and metrics are in plain text: bind"
            " 127.0.0.1 with --metrics-host, or say that it is meant with"
            " --allow-plaintext-metrics"
        )


def loopback_only(host: str) -> bool:
    """Whether all addresses of a host are this machine's own; a name without any is not."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(_loopback(str(address[0])) for *_, address in found)


def _loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback
