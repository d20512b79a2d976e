# SPDX-License-Identifier: Apache-2.0
"""PKCS#10 requests (RFC 2986): made on the node, read by the authority."""

from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from wire.x509.certificate import alternative_names
from wire.x509.errors import X509Error
from wire.x509.keys import PrivateKey, describe_public_key

__all__ = ["CertificateRequest", "build_request"]


def build_request(key: PrivateKey, *, uri: str) -> str:
    """Make a PEM request for one URI name: empty subject, so the name is critical (RFC 5280)."""
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True
        )
        .sign(key.library_key, key.digest)
    )
    return request.public_bytes(serialization.Encoding.PEM).decode("ascii")


class CertificateRequest:
    """A request whose signature has been checked: the sender holds the key."""

    def __init__(self, request: x509.CertificateSigningRequest) -> None:
        """X509Error if the signature does not fit the key in it, or a field cannot be read."""
        try:
            valid = request.is_signature_valid
            names = alternative_names(request.extensions)
            self.library_key: Final = request.public_key()
        except (
            ValueError,
            UnsupportedAlgorithm,
            InvalidSignature,
            x509.DuplicateExtension,
        ) as error:
            raise X509Error(f"the request cannot be read: {error}") from error
        if not valid:
            raise X509Error("the signature of the request does not fit the key in it")
        self.uris: Final = names.uris
        self.public_kind: Final = describe_public_key(self.library_key)

    @classmethod
    def from_pem(cls, text: str) -> Self:
        """Parse PEM and check the signature. X509Error otherwise."""
        try:
            request = x509.load_pem_x509_csr(text.encode("ascii"))
        except (ValueError, x509.InvalidVersion) as error:
            raise X509Error("the request is not PEM PKCS#10") from error
        return cls(request)
