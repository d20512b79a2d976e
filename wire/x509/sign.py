# SPDX-License-Identifier: Apache-2.0
"""Signing certificates: what a leaf, a server certificate and a root look like.

Names of URIs are not put into the authority's name constraints, though RFC 5280 knows them:
rustls-webpki and others refuse a chain that has them, or skip them.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wire.x509.certificate import Certificate
from wire.x509.errors import X509Error
from wire.x509.keys import PrivateKey
from wire.x509.request import CertificateRequest

__all__ = ["Issuer", "Profile", "leaf_profile", "make_root", "server_profile"]

CLOCK_SKEW: Final = timedelta(minutes=2)
"""How far into the past validity begins, for peers whose clock is late; as Istio's authority."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The names and uses of an end-entity certificate."""

    names: tuple[x509.GeneralName, ...]
    usages: tuple[x509.ObjectIdentifier, ...]


def leaf_profile(uri: str) -> Profile:
    """Describe a workload: one URI name, client and server (X.509-SVID, sections 2 and 4)."""
    return Profile(
        names=(x509.UniformResourceIdentifier(uri),),
        usages=(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    )


def server_profile(hosts: Sequence[str]) -> Profile:
    """Describe a server that is dialled by DNS name or address. X509Error if there is none."""
    if not hosts:
        raise X509Error("a server certificate needs at least one name or address")
    return Profile(
        names=tuple(_host_name(host) for host in hosts),
        usages=(ExtendedKeyUsageOID.SERVER_AUTH,),
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        try:
            return x509.DNSName(host)
        except ValueError as error:
            raise X509Error(f"{host!r} is neither an address nor an ASCII DNS name") from error


class Issuer:
    """A certificate that may sign others, and its key."""

    def __init__(self, certificate: Certificate, key: PrivateKey) -> None:
        """X509Error unless the key belongs to the certificate and it may sign."""
        if certificate.public_der != key.public_der:
            raise X509Error("the private key does not belong to the certificate")
        if not certificate.is_authority:
            raise X509Error(
                "the certificate is not an authority's (basicConstraints CA is not set)"
            )
        if not certificate.may_sign_certificates:
            raise X509Error("the certificate may not sign others (keyUsage lacks keyCertSign)")
        self.certificate: Final = certificate
        self._key: Final = key

    def sign_request(
        self, request: CertificateRequest, profile: Profile, *, now: datetime, not_after: datetime
    ) -> Certificate:
        """Certify the key of a request; nothing else of it is used. X509Error if it had no life."""
        key = request.library_key
        return self._sign(key, profile, now=now, not_after=not_after)

    def sign_key(
        self, key: PrivateKey, profile: Profile, *, now: datetime, not_after: datetime
    ) -> Certificate:
        """Certify a key of our own. X509Error if the certificate had no life."""
        return self._sign(key.library_key.public_key(), profile, now=now, not_after=not_after)

    def _sign(
        self,
        key: CertificatePublicKeyTypes,
        profile: Profile,
        *,
        now: datetime,
        not_after: datetime,
    ) -> Certificate:
        issuer = self.certificate.library_certificate
        end = min(not_after, self.certificate.not_after)
        if end <= now:
            raise X509Error(f"a certificate that ends at {end:%FT%TZ} would be of no use now")
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(issuer.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - CLOCK_SKEW, self.certificate.not_before))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(profile.usages), critical=False)
            # Critical because the subject is empty: RFC 5280, section 4.2.1.6.
            .add_extension(x509.SubjectAlternativeName(profile.names), critical=True)
            .add_extension(_authority_key(issuer), critical=False)
        )
        return Certificate(builder.sign(self._key.library_key, self._key.digest))


def make_root(
    key: PrivateKey, *, organisation: str, now: datetime, lifetime: timedelta
) -> Certificate:
    """Make a self-signed root that signs leaves only: no authority below it."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, "nodemesh root"),
        ]
    )
    public = key.library_key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    return Certificate(builder.sign(key.library_key, key.digest))


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        key = issuer.public_key()
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)
