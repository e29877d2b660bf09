"""What a TLS channel is made of."""

import os
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

Pem = bytes | str | os.PathLike[str]
"""PEM as bytes, or the path of a file of it."""


def channel_credentials(
    ca: Pem | None, cert: Pem | None, key: Pem | None
) -> grpc.ChannelCredentials | None:
    """Credentials for a channel; None where nothing is given.

    Raises ValueError for what gRPC could not use, which would not say so, and OSError.
    """
    if ca is None and cert is None and key is None:
        return None
    if ca is None or (cert is None) != (key is None):
        raise ValueError("Give ca alone, or ca, cert and key.")
    root = _read(ca)
    if not _parsed(lambda context: context.load_verify_locations(cadata=root.decode("ascii"))):
        raise ValueError(f"{_name(ca, 'ca')} is no certificate in PEM.")
    if cert is None or key is None:
        return grpc.ssl_channel_credentials(root)
    chain, own = _read(cert), _read(key)
    with _file(cert) as cert_file, _file(key) as key_file:
        if cert_file and key_file and not _fit(cert_file, key_file):
            raise ValueError(
                f"{_name(key, 'key')} is no private key, without passphrase and in PEM, that"
                f" belongs to the certificate in {_name(cert, 'cert')}."
            )
    return grpc.ssl_channel_credentials(root, own, chain)


def _read(pem: Pem) -> bytes:
    return pem if isinstance(pem, bytes) else Path(pem).read_bytes()


@contextmanager
def _file(pem: Pem) -> Iterator[str | None]:
    """The path of a file of it, since ssl takes nothing else. Bytes get one that is in memory only;
    None where the system has no such files."""
    if not isinstance(pem, bytes):
        yield os.fspath(pem)
    elif sys.platform != "linux":
        yield None
    else:
        number = os.memfd_create("pem")
        try:
            os.write(number, pem)
            path = Path(f"/proc/self/fd/{number}")
            yield os.fspath(path) if path.exists() else None  # there may be no /proc
        finally:
            os.close(number)


def _name(pem: Pem, otherwise: str) -> str:
    return otherwise if isinstance(pem, bytes) else os.fspath(pem)


def _fit(cert_file: str, key_file: str) -> bool:
    return _parsed(lambda context: context.load_cert_chain(cert_file, key_file, password=""))


def _parsed(parse: Callable[[ssl.SSLContext], None]) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        parse(context)
    except (ssl.SSLError, ValueError):
        return False
    return True
