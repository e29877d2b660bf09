"""An issuer of the tests: keys, tokens, and what a server of keys gives."""

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER, AUDIENCE = "https://login.example", "shopcast"
MAKE: dict[str, Any] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


class Issuer:
    """Signs with a key of its own, named `kid`."""

    def __init__(self, algorithm: str = "ES256", kid: str = "k1") -> None:
        self.algorithm, self.kid = algorithm, kid
        self.private: Any = MAKE[algorithm]()

    def token(self, subject: str = "svc-shop", **changes: Any) -> str:
        """changes: of claims; None leaves one out."""
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "exp": int(time.time()) + 300,
            **changes,
        }
        return jwt.encode(
            {name: value for name, value in claims.items() if value is not None},
            self.private,
            algorithm=self.algorithm,
            headers={"kid": self.kid},
        )

    @property
    def pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def jwk(self) -> dict[str, Any]:
        made = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.private.public_key())
        return {**json.loads(made), "kid": self.kid, "use": "sig"}


def jwks(*issuers: Issuer) -> bytes:
    return json.dumps({"keys": [one.jwk for one in issuers]}).encode()
