"""What a TLS channel is made of."""

import os
import ssl
from collections.abc import Callable
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
    if not isinstance(cert, bytes) and not isinstance(key, bytes):
        # Only files can be checked: ssl takes nothing else.
        paths = (cert, key)
        if not _parsed(lambda context: context.load_cert_chain(*paths, password="")):
            raise ValueError(
                f"{_name(key, 'key')} is no private key, without passphrase and in PEM, that"
                f" belongs to the certificate in {_name(cert, 'cert')}."
            )
    return grpc.ssl_channel_credentials(root, own, chain)


def _read(pem: Pem) -> bytes:
    return pem if isinstance(pem, bytes) else Path(pem).read_bytes()


def _name(pem: Pem, otherwise: str) -> str:
    return otherwise if isinstance(pem, bytes) else os.fspath(pem)


def _parsed(parse: Callable[[ssl.SSLContext], None]) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        parse(context)
    except (ssl.SSLError, ValueError):
        return False
    return True
