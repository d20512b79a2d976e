# SPDX-License-Identifier: Apache-2.0
"""Decides what is signed: pure, given the authority and the time.

Of a request only the key and the one SPIFFE ID are used. Subject, other names and asked-for
extensions never reach a certificate.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from control.ca.authority import Authority
from control.ca.errors import Refusal, RefusedError
from mesh.model.errors import InvalidIdentityError
from mesh.model.identity import Identity, parse_identity
from wire.x509 import Certificate, CertificateRequest, X509Error, leaf_profile

__all__ = ["IssueRules", "Issued", "Wish", "issue", "read_wish"]

LONGEST_REQUEST: Final = 16 * 1024
"""Bytes of PEM. A P-384 request with one name has under 1 KB."""

ACCEPTED_KEYS: Final = frozenset({"P-256", "P-384"})
"""P-256 or stronger, as far as every TLS stack of the mesh can verify it (aws-lc, ring, Go)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueRules:
    """What holds for every leaf."""

    trust_domain: str
    max_lifetime: timedelta = timedelta(hours=24)
    """Longest lifetime, and the one of a request that asks for none. Istio's default."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A request that may be signed if its caller may have the identity."""

    identity: Identity
    request: CertificateRequest
    lifetime: timedelta


@dataclass(frozen=True, slots=True)
class Issued:
    """What goes back to the caller, and what goes into the log."""

    identity: Identity
    leaf: Certificate
    cert_chain: tuple[str, ...]
    """PEM: the leaf, its issuers, and last the roots in one entry, as istiod answers."""


def read_wish(csr: str, *, seconds: int, impersonated: str, rules: IssueRules) -> Wish:
    """Check a request. RefusedError says which rule it breaks.

    ``seconds`` is the lifetime asked for, 0 for the default; ``impersonated`` is the identity named
    beside the request, empty if none was.
    """
    if len(csr) > LONGEST_REQUEST:
        raise _invalid(f"the request has more than {LONGEST_REQUEST} bytes")
    if seconds < 0:
        raise _invalid(f"a lifetime of {seconds} seconds cannot be")
    try:
        request = CertificateRequest.from_pem(csr)
    except X509Error as error:
        raise _invalid(str(error)) from error
    if request.public_kind not in ACCEPTED_KEYS:
        raise _invalid(
            f"the key is {request.public_kind}: use one of {', '.join(sorted(ACCEPTED_KEYS))}"
        )
    identity = _identity(request, rules.trust_domain)
    if impersonated and impersonated != str(identity):
        raise _invalid(
            f"the request is for {identity}, but ImpersonatedIdentity is {impersonated[:200]!r}"
        )
    most = int(rules.max_lifetime.total_seconds())
    return Wish(identity, request, timedelta(seconds=min(seconds, most) if seconds else most))


def _identity(request: CertificateRequest, trust_domain: str) -> Identity:
    if len(request.uris) != 1:
        # X.509-SVID, section 2: exactly one URI name.
        raise _invalid(
            f"the request names {len(request.uris)} URIs: exactly one SPIFFE ID is needed"
        )
    try:
        identity = parse_identity(request.uris[0])
    except InvalidIdentityError as error:
        raise _invalid(str(error)) from error
    if identity.trust_domain != trust_domain:
        raise _invalid(
            f"the trust domain {identity.trust_domain!r} is not this authority's, {trust_domain!r}"
        )
    return identity


def issue(wish: Wish, authority: Authority, *, now: datetime) -> Issued:
    """Sign. RefusedError if the authority's own certificate has run out."""
    if now >= authority.not_after:
        raise RefusedError(
            Refusal.UNABLE,
            f"the authority's own certificate expired at {authority.not_after:%FT%TZ}",
        )
    leaf = authority.issuer.sign_request(
        wish.request,
        leaf_profile(str(wish.identity)),
        now=now,
        not_after=min(now + wish.lifetime, authority.not_after),
    )
    above = tuple(c.pem for c in authority.intermediates)
    return Issued(wish.identity, leaf, (leaf.pem, *above, authority.roots_pem))


def _invalid(message: str) -> RefusedError:
    return RefusedError(Refusal.INVALID, message)
