# SPDX-License-Identifier: Apache-2.0
"""Peers as policies can tell them apart, and what a rule asks of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from mesh.model.authorization_policy import Match, Source
from mesh.model.labels import NO_LABELS, Labels
from mesh.model.policy import LabelSelector

__all__ = ["ANYBODY", "UNKNOWN_PEER", "Features", "HasNamedPort", "IsPod", "PeerTest", "Proves"]


class Features(NamedTuple):
    """Everything that a peer class stands for; peers with equal features are judged alike."""

    trust_domain: str
    namespace: str
    service_account: str
    namespace_labels: Labels
    """Those with a key that some namespaceSelector looks at."""
    labels: Labels
    """Those with a key that some podSelector of a peer looks at."""
    ports: tuple[tuple[str, int, int], ...]
    """(name, protocol, number) of the ports that some egress rule calls by name."""

    @property
    def principal(self) -> str:
        """The SPIFFE ID without its scheme, as AuthorizationPolicies write it."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"


UNKNOWN_PEER: Final[Features | None] = None
"""A peer that is no workload of the mesh, or a host-network one: policies see its address only."""


@dataclass(frozen=True, slots=True)
class IsPod:
    """A NetworkPolicy peer: a pod by labels, whoever it proves to be or not."""

    namespace: str | None
    """Only this namespace; None: any whose labels ``namespaces`` selects."""
    namespaces: LabelSelector
    pods: LabelSelector

    def holds(self, peer: Features | None, *, attested: bool) -> bool:  # noqa: ARG002 - one shape
        """Whether the peer is meant."""
        if peer is None:
            return False
        if self.namespace is not None and peer.namespace != self.namespace:
            return False
        return self.namespaces.match(peer.namespace_labels) and self.pods.match(peer.labels)


@dataclass(frozen=True, slots=True)
class HasNamedPort:
    """A peer whose port of this name has this number: egress rules name ports of the peer."""

    name: str
    protocol: int
    port: int

    def holds(self, peer: Features | None, *, attested: bool) -> bool:  # noqa: ARG002 - one shape
        """Whether the peer is meant."""
        return peer is not None and (self.name, self.protocol, self.port) in peer.ports


@dataclass(frozen=True, slots=True)
class Proves:
    """An AuthorizationPolicy source: what the peer's proven identity must and must not be.

    Who has proven nothing has no principal and no namespace: it meets no positive field and every
    negative one, as in Istio.
    """

    source: Source

    def holds(self, peer: Features | None, *, attested: bool) -> bool:
        """Whether the peer is meant."""
        proven = peer if attested else None
        principal = proven.principal if proven else ""
        namespace = proven.namespace if proven else ""
        account = f"{namespace}/{proven.service_account}" if proven else ""
        source = self.source
        return (
            _any(source.principals, principal, empty=True)
            and not _any(source.not_principals, principal)
            and _any(source.namespaces, namespace, empty=True)
            and not _any(source.not_namespaces, namespace)
            and (not source.service_accounts or account in source.service_accounts)
            and account not in source.not_service_accounts
        )


PeerTest = IsPod | HasNamedPort | Proves
"""One thing that a rule asks; all of a rule's must hold."""

ANYBODY: Final[tuple[PeerTest, ...]] = ()


def _any(matches: Iterable[Match], value: str, *, empty: bool = False) -> bool:
    matches = tuple(matches)
    return any(one.match(value) for one in matches) if matches else empty


def restrict(labels: Labels, keys: frozenset[str]) -> Labels:
    """The pairs whose key is among ``keys``; ``labels`` itself where that is all of them."""
    kept = {key: value for key, value in labels.items() if key in keys}
    if not kept:
        return NO_LABELS
    return labels if len(kept) == len(labels) else Labels(kept)
