# SPDX-License-Identifier: Apache-2.0
"""Private keys that do not show themselves, and names for the public ones."""

from enum import StrEnum
from typing import Final, Self, assert_never

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from wire.x509.errors import X509Error

__all__ = ["Curve", "PrivateKey", "describe_public_key"]

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
"""The kinds that TLS 1.3 peers of a mesh can sign with (RFC 8446, section 4.2.3)."""

LEAST_RSA_BITS: Final = 2048
"""NIST SP 800-57: shorter moduli are no longer acceptable."""


class Curve(StrEnum):
    """Curves that keys are made on; both are in every TLS stack that a mesh peer may use."""

    P256 = "P-256"
    P384 = "P-384"


class PrivateKey:
    """A private key. Its ``repr`` names the kind only."""

    __slots__ = ("_key",)

    def __init__(self, key: PrivateKeyTypes) -> None:
        """Wrap a library key. X509Error for a kind that cannot sign in TLS 1.3."""
        if not isinstance(key, SigningKey):
            raise X509Error(f"a {type(key).__name__} cannot be used: use ECDSA, RSA or Ed25519")
        if isinstance(key, rsa.RSAPrivateKey) and key.key_size < LEAST_RSA_BITS:
            raise X509Error(f"an RSA key of {key.key_size} bits is too short: use P-256")
        self._key: SigningKey = key

    def __repr__(self) -> str:
        return f"<PrivateKey {self.kind}>"

    def __reduce__(self) -> str:
        raise TypeError("a private key is not pickled")

    @classmethod
    def generate(cls, curve: Curve = Curve.P256) -> Self:
        """Make a new ECDSA key from the system's randomness."""
        match curve:
            case Curve.P256:
                return cls(ec.generate_private_key(ec.SECP256R1()))
            case Curve.P384:
                return cls(ec.generate_private_key(ec.SECP384R1()))
            case _:
                assert_never(curve)

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Read PKCS#8, SEC1 or PKCS#1 PEM that has no passphrase. X509Error otherwise."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except TypeError as error:  # what the library raises for a missing passphrase
            raise X509Error(
                "the private key is encrypted: store it without a passphrase"
            ) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            # The library's text could quote the input; it is not repeated here.
            raise X509Error("the private key is not PEM in PKCS#8, SEC1 or PKCS#1 form") from error
        return cls(key)

    @classmethod
    def from_pkcs8_der(cls, der: bytes) -> Self:
        """Read PKCS#8 DER. X509Error if it is not."""
        try:
            key = serialization.load_der_private_key(der, password=None)
        except (TypeError, ValueError, UnsupportedAlgorithm) as error:
            raise X509Error("the private key is not PKCS#8 DER") from error
        return cls(key)

    def to_pem(self) -> bytes:
        """PKCS#8 PEM, not encrypted: for a file of mode 0600 and nothing else."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def to_pkcs8_der(self) -> bytes:
        """PKCS#8 DER, as TLS stacks want it."""
        return self._key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def public_der(self) -> bytes:
        """SubjectPublicKeyInfo; equal for a key and the certificates that hold it."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def kind(self) -> str:
        """Such as ``P-256`` or ``RSA-4096``."""
        return describe_public_key(self._key.public_key())

    @property
    def library_key(self) -> SigningKey:
        """The library's own key, for this package."""
        return self._key

    @property
    def digest(self) -> hashes.SHA256 | hashes.SHA384 | None:
        """The hash to sign with: as strong as the curve; None where the scheme has its own."""
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return None
        if isinstance(self._key, ec.EllipticCurvePrivateKey) and self._key.curve.key_size > 256:
            return hashes.SHA384()
        return hashes.SHA256()


_CURVE_NAMES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def describe_public_key(key: object) -> str:
    """Name the kind of a public key for a person: ``P-256``, ``RSA-2048``, ``Ed25519``."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _CURVE_NAMES.get(key.curve.name, key.curve.name)
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA-{key.key_size}"
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "Ed25519"
    return type(key).__name__.removesuffix("PublicKey").lstrip("_")
