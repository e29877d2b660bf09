"""The server's certificate, and whose clients it admits; read anew when the files change."""

import codecs
import logging
import os
import ssl
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from shopcast_gateway.errors import StartupError

_SOON = timedelta(days=14)  # or a third of its time, for those that are renewed every day
_CURVES = ("secp256r1", "secp384r1")

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. cert: the server's certificate and what leads from it to its CA. client_ca: who
    signs the certificates that clients must show; None asks for none."""

    cert: Path
    key: Path
    client_ca: Path | None = None


def server_credentials(
    tls: Tls, before: Mapping[Path, bytes] | None = None
) -> grpc.ServerCredentials:
    """Credentials that follow the files: a new connection gets what they hold when it is made.

    Files that do not fit together leave those before in force. before: what they held when another
    process could use them, for those that do not fit now. Raises StartupError.
    """
    files = TlsFiles(tls)
    first = files.begin(before)
    return grpc.dynamic_ssl_server_credentials(
        first,
        files.changed,  # type: ignore[arg-type]  # None is no change, says gRPC
        require_client_authentication=tls.client_ca is not None,
    )


def soon_over(cert_held: bytes) -> str:
    """When a certificate ends or has ended, as a sentence; empty while there is time left."""
    certificate = _parsed(cert_held)
    if certificate is None:
        return ""
    ends = certificate.not_valid_after_utc
    left = ends - datetime.now(UTC)
    if left > min(_SOON, (ends - certificate.not_valid_before_utc) / 3):
        return ""
    day = f"{ends:%Y-%m-%d}"
    if left > timedelta():
        return f"the certificate ends on {day}"
    return f"the certificate ended on {day}, and clients that look at it do not connect"


def _parsed(cert_held: bytes) -> x509.Certificate | None:
    """None for what OpenSSL, which serves it, takes and this does not."""
    try:
        return x509.load_pem_x509_certificate(cert_held)
    except ValueError:
        return None


def _serves(certificate: x509.Certificate) -> bool:
    """Whether gRPC, which takes other keys too, answers a client with it."""
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.curve.name in _CURVES
    return isinstance(key, rsa.RSAPublicKey)


class _Unfit(Exception):
    """The files cannot be used as they are; says what to do."""


class TlsFiles:
    """The files, and what they held when they last fitted together."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self.held: Mapping[Path, bytes] = {}
        self._paths = [tls.cert, tls.key, *([tls.client_ca] if tls.client_ca else [])]
        self._seen: list[tuple[int, ...]] = []
        self._complaint = self._warned = ""

    def begin(
        self, before: Mapping[Path, bytes] | None = None
    ) -> grpc.ServerCertificateConfiguration:
        """What they hold, or as of server_credentials. Raises StartupError."""
        try:
            return self._read()
        except _Unfit as error:
            if before is None or not all(path in before for path in self._paths):
                raise StartupError(str(error)) from None
            self._complain(error)
            return self._take([before[path] for path in self._paths])

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What the files hold if they have changed and fit together; gRPC asks before each
        handshake, one at a time."""
        try:
            if self._marks() == self._seen:
                self._warn_of_end()
                return None
            new = self._read()
        except _Unfit as error:
            self._complain(error)
            return None
        _log.info("the certificate was read again from %s", self._tls.cert)
        return new

    def _complain(self, error: _Unfit) -> None:
        if str(error) != self._complaint:  # said once, not once a connection
            self._complaint = str(error)
            _log.error("the certificate before stays in use: %s", error)

    def _warn_of_end(self) -> None:
        said = soon_over(self.held[self._tls.cert])
        if said and said != self._warned:
            _log.warning("%s: renew %s", said, self._tls.cert)
        self._warned = said

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """What the files hold. Raises _Unfit."""
        marks, held = self._marks(), self._bytes()
        self._check(*held[:2])
        if self._bytes() != held:  # what was checked must be what is served
            raise _Unfit(f"{self._tls.cert} or what belongs to it is being written")
        if _or_unfit(self._tls.key, Path.stat).st_mode & stat.S_IRWXO:
            _log.warning("any user of this machine can get at %s: chmod o= it", self._tls.key)
        made = self._take(held)
        self._warn_of_end()
        self._seen, self._complaint = marks, ""
        return made

    def _take(self, held: list[bytes]) -> grpc.ServerCertificateConfiguration:
        cert, key, *client_ca = held
        self.held = dict(zip(self._paths, held, strict=True))
        return grpc.ssl_server_certificate_configuration(
            [(key, cert)], root_certificates=client_ca[0] if client_ca else None
        )

    def _marks(self) -> list[tuple[int, ...]]:
        """By which a change of the files is seen."""
        return [_or_unfit(path, _mark) for path in self._paths]

    def _bytes(self) -> list[bytes]:
        return [_or_unfit(path, _pem) for path in self._paths]

    def _check(self, cert_held: bytes, key_held: bytes) -> None:
        """Raises _Unfit where gRPC, which would not say why, could not use the files."""
        cert, key, client_ca = self._tls.cert, self._tls.key, self._tls.client_ca
        if problem := _problem(lambda context: context.load_verify_locations(cert)):
            raise _Unfit(f"{cert} is no certificate in PEM ({problem}): name one with --tls-cert")
        if b"ENCRYPTED" in key_held:
            raise _Unfit(
                f"the key in {key} has a passphrase, which nobody could type: name one without"
                " with --tls-key"
            )
        if problem := _problem(lambda context: context.load_cert_chain(cert, key, lambda: "")):
            raise _Unfit(
                f"{key} is no key in PEM that can be used with {cert} ({problem}): name the two"
                " that were made together with --tls-cert and --tls-key"
            )
        if (certificate := _parsed(cert_held)) and not _serves(certificate):
            raise _Unfit(
                f"{cert} has a key that gRPC serves to nobody: name one whose key is RSA, P-256 or"
                " P-384 with --tls-cert and --tls-key"
            )
        if client_ca and (
            problem := _problem(lambda context: context.load_verify_locations(client_ca))
        ):
            raise _Unfit(
                f"{client_ca} holds no certificate in PEM ({problem}): name that of the CA which"
                " signs clients' with --client-ca"
            )


def _pem(path: Path) -> bytes:
    # What editors of Windows put first, OpenSSL passes over and gRPC does not.
    return path.read_bytes().removeprefix(codecs.BOM_UTF8)


def _mark(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


def _or_unfit(path: Path, look: Callable[[Path], T]) -> T:
    try:
        return look(path)
    except OSError as error:
        raise _Unfit(
            f"{path} cannot be read ({os.strerror(error.errno or 0)}): name a file that this user"
            " may read"
        ) from None


def _problem(parse: Callable[[ssl.SSLContext], None]) -> str:
    """Why OpenSSL cannot read something, in its own word; empty where it can."""
    try:
        parse(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        return str(getattr(error, "reason", None) or type(error).__name__)
    return ""
