# SPDX-License-Identifier: Apache-2.0
"""The one error of this package."""

__all__ = ["X509Error"]


class X509Error(ValueError):
    """A key, request or certificate cannot be used; the text says which and why."""
