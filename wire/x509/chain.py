# SPDX-License-Identifier: Apache-2.0
"""Does a certificate chain to one of these roots? RFC 5280 path validation by the library.

The extensions are held to what SPIFFE and RFC 5280 ask for, not to the CA/Browser Forum's rules:
a mesh's authority is no web authority (istiod's and SPIRE's roots would fail those).
"""

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from wire.x509.certificate import Certificate
from wire.x509.errors import X509Error

__all__ = ["verify_chain"]


def verify_chain(
    leaf: Certificate,
    *,
    intermediates: Sequence[Certificate],
    roots: Sequence[Certificate],
    at: datetime,
) -> None:
    """Raise X509Error, with the cause, unless a valid path from ``leaf`` to a root exists.

    ``at`` is the time for which validity is judged. The roots are trusted as they are, but for
    their validity.
    """
    if not roots:
        raise X509Error("there is no root certificate to verify against")
    _check_validity([leaf, *intermediates], at)
    valid_roots = [root for root in roots if root.not_before <= at <= root.not_after]
    if not valid_roots:
        raise X509Error(f"every root certificate has expired or is not yet valid at {at:%FT%TZ}")
    verifier = (
        PolicyBuilder()
        .store(Store([root.library_certificate for root in valid_roots]))
        .time(at)
        .extension_policies(ca_policy=_authority_policy(), ee_policy=_leaf_policy())
        .build_client_verifier()
    )
    try:
        verifier.verify(leaf.library_certificate, [c.library_certificate for c in intermediates])
    except VerificationError as error:
        cause = _likely_cause(leaf, [*intermediates, *valid_roots], error)
        raise X509Error(f"the chain does not lead to a root: {cause}") from error


def _check_validity(chain: Sequence[Certificate], at: datetime) -> None:
    for number, certificate in enumerate(chain):
        what = "the leaf" if number == 0 else f"intermediate {certificate.subject!r}"
        if at > certificate.not_after:
            raise X509Error(f"{what} expired at {certificate.not_after:%FT%TZ}")
        if at < certificate.not_before:
            raise X509Error(
                f"{what} is not valid before {certificate.not_before:%FT%TZ}: "
                "is this machine's clock right?"
            )


def _likely_cause(
    leaf: Certificate, issuers: Sequence[Certificate], error: VerificationError
) -> str:
    """Say it in a sentence where the library only says that it ran out of candidates."""
    if not any(leaf.was_issued_by(issuer) for issuer in issuers):
        return f"none of the given certificates issued the leaf (its issuer is {leaf.issuer!r})"
    return str(error)


def _authority_policy() -> ExtensionPolicy:
    return (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _must_be_authority)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _must_sign_certificates)
    )


def _leaf_policy() -> ExtensionPolicy:
    return ExtensionPolicy.permit_all().require_present(
        x509.SubjectAlternativeName, Criticality.AGNOSTIC, None
    )


def _must_be_authority(
    _policy: object, _certificate: x509.Certificate, extension: x509.BasicConstraints
) -> None:
    if not extension.ca:
        raise ValueError("an issuer is not an authority (basicConstraints CA is not set)")


def _must_sign_certificates(
    _policy: object, _certificate: x509.Certificate, extension: x509.KeyUsage | None
) -> None:
    if extension is not None and not extension.key_cert_sign:
        raise ValueError("an issuer may not sign certificates (keyUsage lacks keyCertSign)")
