"""A CA of the tests, and what it signs."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

HOUR = datetime.timedelta(hours=1)
Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    cert: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """The two in files, the key for its owner only."""
        cert, key = folder / f"{name}.pem", folder / f"{name}.key"
        key.touch(mode=0o600)
        cert.write_bytes(self.cert)
        key.write_bytes(self.key)
        return cert, key


class Authority:
    """Signs certificates of 127.0.0.1 and localhost, for servers and for clients."""

    def __init__(self, name: str) -> None:
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        made = self._certificate(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.cert = pem(made.sign(self._key, hashes.SHA256()))

    def sign(
        self,
        name: str = "gateway",
        *,
        left: datetime.timedelta = datetime.timedelta(days=1),
        key: Key | None = None,
    ) -> Pair:
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        made = self._certificate(subject, key.public_key(), left).add_extension(
            x509.SubjectAlternativeName([here, x509.DNSName("localhost")]), critical=False
        )
        return Pair(pem(made.sign(self._key, hashes.SHA256())), key_pem(key))

    def _certificate(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey,
        left: datetime.timedelta = datetime.timedelta(days=1),
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=10) if left.days < 0 else now - HOUR)
            .not_valid_after(now + left)
        )


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: Key, passphrase: bytes = b"") -> bytes:
    """A key in PEM, encrypted where there is a passphrase."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption(),
    )


def encrypted(key: bytes) -> bytes:
    """The same key behind a passphrase."""
    found = serialization.load_pem_private_key(key, None)
    assert isinstance(found, ec.EllipticCurvePrivateKey)
    return key_pem(found, b"secret")
