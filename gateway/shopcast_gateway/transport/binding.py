"""Binding a server to an address, and why that cannot be done."""

import errno
import socket

import grpc

from shopcast_gateway.errors import StartupError


def address_of(host: str, port: int) -> str:
    """A host and a port as gRPC takes them.

    >>> address_of("::1", 50051)
    '[::1]:50051'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind(
    server: grpc.aio.Server,
    host: str,
    port: int,
    credentials: grpc.ServerCredentials | None,
    *,
    prefix: str = "",
) -> int:
    """The port it is bound to; of 0, a free one. prefix: of the options --host and --port that
    named the address. Raises StartupError when it cannot be had."""
    address = address_of(host, port)
    try:
        if credentials:
            return server.add_secure_port(address, credentials)
        return server.add_insecure_port(address)
    except RuntimeError:
        raise StartupError(_why_not(host, port, prefix, encrypted=bool(credentials))) from None


def reserve_port(host: str, port: int) -> socket.socket:
    """A socket that keeps a port for processes of ours that share it, and takes no connection.

    port: 0 takes a free one. Raises StartupError when somebody else has it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kept = socket.socket(family, socket.SOCK_STREAM)
    try:
        if port:  # with SO_REUSEPORT a port that others share would be shared without a word
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            kept.bind((host, port))
        except OSError:  # nobody listens: a server that did not share it has left connections
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            kept.bind((host, port))
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        kept.close()
        raise StartupError(_why_not(host, port, "")) from None
    return kept


def _why_not(host: str, port: int, prefix: str, *, encrypted: bool = False) -> str:
    """grpc does not tell why it could not bind; the operating system does. encrypted: whether it
    may be the certificates, which it writes to stderr."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except PermissionError:
        return f"port {port} on {host} is reserved: choose one above 1023 with --{prefix}port"
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return f"{host} is not an address of this machine: choose another with --{prefix}host"
    else:
        if encrypted:
            return (
                "gRPC cannot serve with the certificates, and says why above: name others with"
                " --tls-cert, --tls-key and --client-ca"
            )
    return (
        f"port {port} on {host} is already in use: "
        f"choose another with --{prefix}port or stop what listens there"
    )
