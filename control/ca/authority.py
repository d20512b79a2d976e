# SPDX-License-Identifier: Apache-2.0
"""The signing key and its certificates, on disk and in memory.

The files are named as in Istio's ``cacerts`` secret, so that an intermediate made for istiod fits::

    DIR/ (0700)
      ca-key.pem      the signing key (0600)
      ca-cert.pem     its certificate: a self-made root, or an intermediate of yours
      cert-chain.pem  optional: the issuers between ca-cert.pem and a root
      root-cert.pem   the roots that workloads trust; several while a root is being replaced
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from control.ca.errors import AuthorityError
from control.ca.files import (
    ensure_private_directory,
    read_private,
    read_public,
    write_atomically,
)
from wire.x509 import (
    Certificate,
    Curve,
    Issuer,
    PrivateKey,
    X509Error,
    leaf_profile,
    make_root,
    parse_certificates,
    verify_chain,
)

__all__ = ["Authority", "AuthorityStore"]

log = logging.getLogger(__name__)

KEY_FILE: Final = "ca-key.pem"
CERTIFICATE_FILE: Final = "ca-cert.pem"
CHAIN_FILE: Final = "cert-chain.pem"
ROOTS_FILE: Final = "root-cert.pem"

ROOT_LIFETIME: Final = timedelta(days=3650)
"""Ten years, as Istio's self-made root: it is replaced on purpose, never in a hurry."""

EXPIRY_WARNING: Final = timedelta(days=30)
"""From when on the log asks for a new authority certificate."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A checked set: the key fits, and the chain leads to one of the roots."""

    issuer: Issuer
    intermediates: tuple[Certificate, ...]
    """From the issuer upward, without the root; empty when the issuer is the root."""
    roots: tuple[Certificate, ...]
    """The one that this chain leads to comes first."""

    @property
    def not_after(self) -> datetime:
        """When the first certificate of the chain expires: no leaf may live longer."""
        return min(c.not_after for c in (self.issuer.certificate, *self.intermediates, *self._top))

    @property
    def roots_pem(self) -> str:
        """What is handed to workloads as their trust bundle."""
        return "".join(root.pem for root in self.roots)

    @property
    def _top(self) -> tuple[Certificate, ...]:
        return self.roots[:1]


class AuthorityStore:
    """The authority in force; read again when its files change, kept when the change is bad."""

    def __init__(self, directory: Path, *, trust_domain: str, curve: Curve = Curve.P256) -> None:
        """``curve`` is used for a root that is made here."""
        self._directory = directory
        self._trust_domain = trust_domain
        self._curve = curve
        self._current: Authority | None = None
        self._seen: object = None
        self._reported: str | None = None

    @property
    def current(self) -> Authority:
        """The authority in force. AuthorityError before the first ``open``."""
        if self._current is None:
            raise AuthorityError("the authority has not been opened")
        return self._current

    def open(self, *, now: datetime) -> Authority:
        """Load the files, or make a root where there are none. AuthorityError otherwise."""
        ensure_private_directory(self._directory)
        present = {name for name in (KEY_FILE, CERTIFICATE_FILE) if self._path(name).exists()}
        if not present:
            self._make_root(now)
        self._seen = self._signature()
        self._current = self._load(now)
        return self._current

    def reload(self, *, now: datetime) -> bool:
        """Load again if a file changed; true if another authority is in force now.

        A bad change keeps the last good one, and is logged once for each cause.
        """
        signature = self._signature()
        if signature == self._seen:
            return False
        try:
            loaded = self._load(now)
        except AuthorityError as error:
            # Not remembered as seen: files are replaced one by one, the next look may succeed.
            if str(error) != self._reported:
                self._reported = str(error)
                log.warning("kept the old authority", extra={"fields": {"cause": error}})
            return False
        self._seen, self._current, self._reported = signature, loaded, None
        fields = {"serial": loaded.issuer.certificate.serial, "expires": loaded.not_after}
        log.info("the authority's files changed and are in force", extra={"fields": fields})
        return True

    def _make_root(self, now: datetime) -> None:
        key = PrivateKey.generate(self._curve)
        root = make_root(key, organisation=self._trust_domain, now=now, lifetime=ROOT_LIFETIME)
        pem = root.pem.encode("ascii")
        write_atomically(self._path(KEY_FILE), key.to_pem(), mode=0o600, replace=False)
        write_atomically(self._path(CERTIFICATE_FILE), pem, mode=0o644)
        if not self._path(ROOTS_FILE).exists():
            write_atomically(self._path(ROOTS_FILE), pem, mode=0o644)
        fields = {"directory": self._directory, "expires": root.not_after, "key": key.kind}
        log.info("made a root certificate", extra={"fields": fields})

    def _load(self, now: datetime) -> Authority:
        certificate = self._certificates(CERTIFICATE_FILE)
        upward = self._certificates(CHAIN_FILE) if self._path(CHAIN_FILE).exists() else ()
        if not self._path(ROOTS_FILE).exists() and not certificate[0].is_self_signed:
            raise AuthorityError(
                f"{self._path(ROOTS_FILE)} is missing: put the root of your intermediate there"
            )
        roots = (
            self._certificates(ROOTS_FILE) if self._path(ROOTS_FILE).exists() else certificate[:1]
        )
        try:
            key = PrivateKey.from_pem(read_private(self._path(KEY_FILE)))
            issuer = Issuer(certificate[0], key)
        except X509Error as error:
            raise AuthorityError(f"{self._path(KEY_FILE)}: {error}") from error
        chain = [c for c in (*certificate[1:], *upward) if not c.is_self_signed]
        return self._checked(issuer, chain, roots, now)

    def _checked(
        self,
        issuer: Issuer,
        chain: Iterable[Certificate],
        roots: tuple[Certificate, ...],
        now: datetime,
    ) -> Authority:
        own = issuer.certificate
        intermediates = tuple(dict.fromkeys(c for c in chain if c != own))
        top = self._root_of(own, intermediates, roots)
        ordered = (top, *(root for root in roots if root != top))
        if not own.is_self_signed:
            intermediates = (own, *intermediates)
        authority = Authority(issuer=issuer, intermediates=intermediates, roots=ordered)
        self._prove(authority, now)
        if authority.not_after - now < EXPIRY_WARNING:
            fields = {"expires": authority.not_after, "directory": self._directory}
            log.warning("the authority's certificate expires soon", extra={"fields": fields})
        return authority

    def _root_of(
        self,
        own: Certificate,
        intermediates: tuple[Certificate, ...],
        roots: tuple[Certificate, ...],
    ) -> Certificate:
        last = own
        for _ in intermediates:  # bounded: certificates that issued each other would never end
            above = next((c for c in intermediates if last.was_issued_by(c)), None)
            if above is None:
                break
            last = above
        for root in roots:
            if last == root or last.was_issued_by(root):
                return root
        raise AuthorityError(
            f"{self._path(CERTIFICATE_FILE)} does not lead to a certificate in "
            f"{self._path(ROOTS_FILE)} (the last issuer known is {last.issuer!r})"
        )

    def _prove(self, authority: Authority, now: datetime) -> None:
        """Sign a leaf that nobody gets, and verify it as a peer will: dates, path length, uses."""
        own = authority.issuer.certificate
        for certificate in (own, *authority.intermediates, authority.roots[0]):
            if not certificate.not_before <= now < certificate.not_after:
                raise AuthorityError(
                    f"the authority certificate {certificate.subject!r} is valid from "
                    f"{certificate.not_before:%FT%TZ} to {certificate.not_after:%FT%TZ} only, "
                    f"and it is {now:%FT%TZ}"
                )
        probe = authority.issuer.sign_key(
            PrivateKey.generate(),
            leaf_profile(f"spiffe://{self._trust_domain}/ns/probe/sa/probe"),
            now=now,
            not_after=now + timedelta(minutes=1),
        )
        try:
            verify_chain(
                probe, intermediates=authority.intermediates, roots=authority.roots[:1], at=now
            )
        except X509Error as error:
            raise AuthorityError(
                f"{self._path(CERTIFICATE_FILE)} cannot issue usable certificates: {error}"
            ) from error

    def _certificates(self, name: str) -> tuple[Certificate, ...]:
        path = self._path(name)
        try:
            return parse_certificates(read_public(path))
        except X509Error as error:
            raise AuthorityError(f"{path}: {error}") from error

    def _path(self, name: str) -> Path:
        return self._directory / name

    def _signature(self) -> tuple[tuple[str, int, int, int] | None, ...]:
        names = (KEY_FILE, CERTIFICATE_FILE, CHAIN_FILE, ROOTS_FILE)
        return tuple(_stat(self._path(name)) for name in names)


def _stat(path: Path) -> tuple[str, int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (path.name, status.st_ino, status.st_size, status.st_mtime_ns)
