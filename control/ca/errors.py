# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in the authority: it cannot work, or it will not sign."""

from enum import StrEnum

from mesh.model.errors import MeshError

__all__ = ["AuthorityError", "Refusal", "RefusedError"]


class AuthorityError(MeshError):
    """The authority cannot work: a file is missing, too open, damaged or expired."""


class Refusal(StrEnum):
    """Why a request was not signed; also a metric label."""

    UNAUTHENTICATED = "unauthenticated"
    """No token, or not one that is known."""
    INVALID = "invalid"
    """The request breaks a rule; asking again unchanged will not help."""
    NOT_PERMITTED = "not_permitted"
    """The caller may not have this identity."""
    TOO_MANY = "too_many"
    """Over the rate limit; later it may work."""
    UNABLE = "unable"
    """The authority itself cannot sign at present."""


class RefusedError(MeshError):
    """One request is not signed. The text goes to the caller: it never quotes a token."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal
