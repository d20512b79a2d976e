# SPDX-License-Identifier: Apache-2.0
"""Who a workload is: a SPIFFE ID (SPIFFE-ID specification, Istio's path layout)."""

import re
from dataclasses import dataclass

from mesh.model.errors import InvalidIdentityError
from mesh.model.names import is_dns_label, is_dns_subdomain

__all__ = ["Identity", "check_trust_domain", "parse_identity"]

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_SPIFFE_ID = re.compile(r"spiffe://([^/?#@:]+)/ns/([^/]+)/sa/([^/]+)")
_SPIFFE_ID_MAX_BYTES = 2048


def check_trust_domain(text: str) -> None:
    """Raise InvalidIdentityError unless ``text`` may be a trust domain.

    SPIFFE-ID section 2.1: 1 to 255 of ``a-z 0-9 . - _``, lower case.
    """
    if _TRUST_DOMAIN.fullmatch(text) is None:
        raise InvalidIdentityError(
            f"{text!r} is not a trust domain (1 to 255 of a-z, 0-9, '.', '-' and '_')", value=text
        )


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """A trust domain, a namespace and a service account; ``str()`` gives the SPIFFE ID.

    Raises InvalidIdentityError when made of parts that could not be in a SPIFFE ID, so that no
    name can smuggle in a slash.
    """

    trust_domain: str
    namespace: str
    service_account: str

    def __post_init__(self) -> None:
        check_trust_domain(self.trust_domain)
        if not is_dns_label(self.namespace):
            raise InvalidIdentityError(
                f"namespace {self.namespace!r} is not a DNS label", value=self.namespace
            )
        if not is_dns_subdomain(self.service_account):
            # Kubernetes names service accounts by DNS subdomains: dots are allowed.
            raise InvalidIdentityError(
                f"service account {self.service_account!r} is not a DNS subdomain",
                value=self.service_account,
            )

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"


def parse_identity(text: str) -> Identity:
    """Read a SPIFFE ID. Raises InvalidIdentityError unless it has Istio's layout exactly."""
    match = _SPIFFE_ID.fullmatch(text) if len(text) <= _SPIFFE_ID_MAX_BYTES else None
    if match is None:
        raise InvalidIdentityError(
            f"{text[:200]!r} is not a SPIFFE ID of the form "
            "spiffe://<trust domain>/ns/<namespace>/sa/<service account>",
            value=text,
        )
    return Identity(*match.groups())
