# SPDX-License-Identifier: Apache-2.0
"""Errors of the model: a value that cannot be what it claims to be.

``MeshError`` -> ``ModelError`` -> ``InvalidAddressError`` | ``InvalidIdentityError`` |
``InvalidNameError`` | ``InvalidPolicyError`` | ``InvalidServiceError`` |
``InvalidWorkloadError``
"""

__all__ = [
    "InvalidAddressError",
    "InvalidIdentityError",
    "InvalidNameError",
    "InvalidPolicyError",
    "InvalidServiceError",
    "InvalidWorkloadError",
    "MeshError",
    "ModelError",
]


class MeshError(Exception):
    """The root of every error that nodemesh raises on purpose."""


class ModelError(MeshError):
    """A value breaks a rule of the model. ``value`` is the offending text or object."""

    def __init__(self, message: str, *, value: object) -> None:
        super().__init__(message)
        self.value = value


class InvalidAddressError(ModelError):
    """Not an IP address that the mesh can use."""


class InvalidIdentityError(ModelError):
    """Not a SPIFFE ID of the form ``spiffe://<trust domain>/ns/<namespace>/sa/<account>``."""


class InvalidNameError(ModelError):
    """Not a DNS label, a DNS subdomain, a label key or a label value (RFC 1123, Kubernetes)."""


class InvalidPolicyError(ModelError):
    """A policy contradicts itself or says something that no policy can."""


class InvalidServiceError(ModelError):
    """A service contradicts itself: a port twice or out of range, two ways to find endpoints."""


class InvalidWorkloadError(ModelError):
    """A workload contradicts itself: an address twice, a port out of range."""
