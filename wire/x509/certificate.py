# SPDX-License-Identifier: Apache-2.0
"""One certificate, with the fields that a mesh asks for."""

from collections.abc import Iterable
from datetime import datetime
from functools import cached_property
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from wire.x509.errors import X509Error
from wire.x509.keys import describe_public_key

__all__ = ["Certificate", "alternative_names", "parse_certificates"]

_PEM_MARK: Final = b"-----BEGIN CERTIFICATE-----"


class Certificate:
    """A parsed certificate. Equal when the bytes are. X509Error where a field cannot be read."""

    def __init__(self, certificate: x509.Certificate) -> None:
        """Wrap a library certificate; reads the names once, so that a bad one fails here."""
        self.library_certificate: Final = certificate
        try:
            names = alternative_names(certificate.extensions)
            constraints = _basic_constraints(certificate)
            usage = _key_usage(certificate)
            self.public_der: Final[bytes] = certificate.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            self.public_kind: Final = describe_public_key(certificate.public_key())
        except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
            raise X509Error(f"a certificate cannot be read: {error}") from error
        self.uris: Final[tuple[str, ...]] = names.uris
        self.dns_names: Final[tuple[str, ...]] = names.dns_names
        self.is_authority: Final = bool(constraints and constraints.ca)
        self.path_length: Final = constraints.path_length if constraints else None
        self.may_sign_certificates: Final = usage is None or usage.key_cert_sign

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Certificate) and self.der == other.der

    def __hash__(self) -> int:
        return hash(self.der)

    def __repr__(self) -> str:
        return f"<Certificate {self.serial} {', '.join(self.uris) or self.subject}>"

    @classmethod
    def from_der(cls, der: bytes) -> Self:
        """Parse DER. X509Error if it is not a certificate."""
        try:
            return cls(x509.load_der_x509_certificate(der))
        except (ValueError, x509.InvalidVersion) as error:
            raise X509Error(f"a certificate is not DER X.509: {error}") from error

    @cached_property
    def der(self) -> bytes:
        """The bytes."""
        return self.library_certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> str:
        """PEM text, with a line end."""
        return self.library_certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")

    @property
    def serial(self) -> str:
        """Lower-case hexadecimal of even length, as openssl and Envoy print it."""
        text = f"{self.library_certificate.serial_number:x}"
        return text.zfill(len(text) + len(text) % 2)

    @property
    def subject(self) -> str:
        """RFC 4514 text; empty for our leaves, whose name is the URI."""
        return self.library_certificate.subject.rfc4514_string()

    @property
    def issuer(self) -> str:
        """RFC 4514 text."""
        return self.library_certificate.issuer.rfc4514_string()

    @property
    def not_before(self) -> datetime:
        """Start of validity, UTC."""
        return self.library_certificate.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """End of validity, UTC."""
        return self.library_certificate.not_valid_after_utc

    @cached_property
    def is_self_signed(self) -> bool:
        """The issuer is the subject, and the certificate's own key made the signature."""
        return self.was_issued_by(self)

    def was_issued_by(self, issuer: "Certificate") -> bool:
        """Name and signature fit ``issuer``; validity is not looked at."""
        try:
            self.library_certificate.verify_directly_issued_by(issuer.library_certificate)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        return True


class AlternativeNames:
    """What a subjectAltName extension holds, by kind."""

    def __init__(self, names: Iterable[x509.GeneralName]) -> None:
        """Sort the names; kinds that nobody here asks for are only counted."""
        listed = list(names)
        self.uris = tuple(n.value for n in listed if isinstance(n, x509.UniformResourceIdentifier))
        self.dns_names = tuple(n.value for n in listed if isinstance(n, x509.DNSName))
        self.others = len(listed) - len(self.uris) - len(self.dns_names)


def alternative_names(extensions: x509.Extensions) -> AlternativeNames:
    """Read the subjectAltName; empty if there is none."""
    try:
        extension = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return AlternativeNames(())
    return AlternativeNames(extension.value)


def parse_certificates(data: bytes) -> tuple[Certificate, ...]:
    """Parse one or more PEM certificates, in order. X509Error if there is none or one is broken."""
    if _PEM_MARK not in data:
        raise X509Error("there is no PEM certificate in it")
    try:
        return tuple(Certificate(c) for c in x509.load_pem_x509_certificates(data))
    except X509Error:
        raise
    except (ValueError, x509.InvalidVersion) as error:
        raise X509Error(f"a PEM certificate is damaged: {error}") from error


def _basic_constraints(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None


def _key_usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None
