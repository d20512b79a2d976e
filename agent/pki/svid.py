# SPDX-License-Identifier: Apache-2.0
"""An SVID: certificate chain and key that prove an identity (X.509-SVID, SPIFFE).

An :class:`Svid` in hand is usable: the constructor proves that the key belongs to the leaf, that
the leaf names the identity, and that the chain leads to a root.
"""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from datetime import datetime
from typing import Self

from agent.errors import PkiError, SvidExpiredError
from mesh.model.identity import Identity
from wire.x509 import Certificate, PrivateKey, X509Error, verify_chain

__all__ = ["Svid", "SvidInvalidError"]


class SvidInvalidError(PkiError):
    """Certificate, key and roots do not make an SVID. ``field`` is chain, private_key or roots."""

    def __init__(self, field_name: str, message: str) -> None:
        super().__init__(f"{field_name}: {message}")
        self.field = field_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Svid:
    """Everything a TLS stack needs to be ``identity``, as DER.

    Raises:
        SvidInvalidError: the parts do not fit together; the field is named.
        SvidExpiredError: they fit, but the leaf has expired at ``at``.

    """

    identity: Identity
    chain: tuple[bytes, ...]
    """The leaf first, then its issuers; no root."""
    private_key: bytes = field(repr=False)
    """PKCS#8."""
    roots: tuple[bytes, ...] = field(repr=False)
    """The trust bundle: what peers are verified against. Several while a root is replaced."""
    at: InitVar[datetime]
    """The time for which it is proven."""

    not_before: datetime = field(init=False)
    not_after: datetime = field(init=False)
    """When the first certificate of the chain expires."""
    serial: str = field(init=False)
    """Of the leaf, hexadecimal."""
    issuer: str = field(init=False)
    """Of the leaf, RFC 4514."""

    def __post_init__(self, at: datetime) -> None:
        """Prove it, and note what the leaf says."""
        chain = _parse("chain", self.chain)
        roots = _parse("roots", self.roots)
        leaf = chain[0]
        self._check_key(leaf)
        if leaf.uris != (str(self.identity),):
            named = ", ".join(leaf.uris) or "no URI"
            raise SvidInvalidError("chain", f"the leaf names {named}, not {self.identity} alone")
        if leaf.is_authority:
            raise SvidInvalidError("chain", "the leaf is an authority's certificate")
        if at > leaf.not_after:
            raise SvidExpiredError(
                f"the certificate of {self.identity} expired at {leaf.not_after:%FT%TZ}"
            )
        try:
            verify_chain(leaf, intermediates=chain[1:], roots=roots, at=at)
        except X509Error as error:
            raise SvidInvalidError("chain", str(error)) from error
        note = object.__setattr__  # the dataclass is frozen for everyone else
        note(self, "not_before", leaf.not_before)
        note(self, "not_after", min(certificate.not_after for certificate in chain))
        note(self, "serial", leaf.serial)
        note(self, "issuer", leaf.issuer)

    def _check_key(self, leaf: Certificate) -> None:
        try:
            key = PrivateKey.from_pkcs8_der(self.private_key)
        except X509Error as error:
            raise SvidInvalidError("private_key", str(error)) from error
        if key.public_der != leaf.public_der:
            raise SvidInvalidError("private_key", "the key does not belong to the leaf certificate")

    @classmethod
    def of(
        cls,
        identity: Identity,
        *,
        chain: Sequence[Certificate],
        key: PrivateKey,
        roots: Sequence[Certificate],
        at: datetime,
    ) -> Self:
        """Make one of parsed parts; a root that a careless chain repeats is left out of it."""
        leaf, *above = chain
        issuers = dict.fromkeys(c for c in above if not c.is_self_signed)
        return cls(
            identity=identity,
            chain=(leaf.der, *(c.der for c in issuers)),
            private_key=key.to_pkcs8_der(),
            roots=tuple(dict.fromkeys(root.der for root in roots)),
            at=at,
        )


def _parse(field_name: str, ders: Sequence[bytes]) -> list[Certificate]:
    if not ders:
        raise SvidInvalidError(field_name, "it is empty")
    try:
        return [Certificate.from_der(der) for der in ders]
    except X509Error as error:
        raise SvidInvalidError(field_name, str(error)) from error
