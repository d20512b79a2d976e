# SPDX-License-Identifier: Apache-2.0
"""The grammar of names: DNS labels and subdomains (RFC 1123) as Kubernetes uses them."""

import re

from mesh.model.errors import InvalidNameError

__all__ = ["check_dns_label", "check_dns_subdomain", "is_dns_label", "is_dns_subdomain"]

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN_MAX = 253


def is_dns_label(text: str) -> bool:
    """Whether ``text`` is 1 to 63 of ``a-z 0-9 -`` and neither starts nor ends with ``-``."""
    return _LABEL.fullmatch(text) is not None


def is_dns_subdomain(text: str) -> bool:
    """Whether ``text`` is at most 253 characters of DNS labels joined by dots."""
    return len(text) <= _SUBDOMAIN_MAX and all(is_dns_label(part) for part in text.split("."))


def check_dns_label(text: str, what: str) -> None:
    """Raise InvalidNameError, naming ``what`` was meant, unless ``text`` is a DNS label."""
    if not is_dns_label(text):
        raise InvalidNameError(
            f"{what} {text!r} is not a DNS label (1 to 63 of a-z, 0-9 and -, not at the ends)",
            value=text,
        )


def check_dns_subdomain(text: str, what: str) -> None:
    """Raise InvalidNameError, naming ``what`` was meant, unless ``text`` is a DNS subdomain."""
    if not is_dns_subdomain(text):
        raise InvalidNameError(
            f"{what} {text!r} is not a DNS subdomain (labels of a-z, 0-9 and - joined by dots)",
            value=text,
        )
