# SPDX-License-Identifier: Apache-2.0
"""security.istio.io/v1 AuthorizationPolicy: what of it a layer 4 decision can see, and what not."""

from dataclasses import dataclass
from enum import StrEnum, unique

from mesh.model.labels import NO_LABELS, Labels
from mesh.model.network_policy import IpNetwork
from mesh.model.policy import Origin, PolicyKind, PolicyName

__all__ = [
    "Action",
    "AuthorizationPolicy",
    "AuthorizationRule",
    "Match",
    "MatchKind",
    "Operation",
    "Source",
]


@unique
class Action(StrEnum):
    """AuthorizationPolicy.Action. AUDIT decides nothing; CUSTOM belongs to a waypoint."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"
    CUSTOM = "CUSTOM"


@unique
class MatchKind(StrEnum):
    """Istio's string forms: ``abc``, ``abc*``, ``*abc``, ``*``."""

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    PRESENCE = "presence"


@dataclass(frozen=True, slots=True, order=True)
class Match:
    """One string form; ``text`` is without its star."""

    kind: MatchKind
    text: str = ""

    def match(self, value: str) -> bool:
        """Whether a value matches; the empty one stands for none and matches nothing."""
        match self.kind:
            case MatchKind.EXACT:
                return bool(value) and value == self.text
            case MatchKind.PREFIX:
                return bool(value) and value.startswith(self.text)
            case MatchKind.SUFFIX:
                return bool(value) and value.endswith(self.text)
            case MatchKind.PRESENCE:
                return bool(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One ``from.source``: every field that is given must match (values within one are ORed).

    Principals are compared without ``spiffe://``: ``cluster.local/ns/shop/sa/web``. Service
    accounts are ``namespace/name``, the policy's own namespace already filled in.
    ``remote_ip_blocks`` equal ``ip_blocks`` where no proxy stands between, as here.
    """

    principals: tuple[Match, ...] = ()
    not_principals: tuple[Match, ...] = ()
    namespaces: tuple[Match, ...] = ()
    not_namespaces: tuple[Match, ...] = ()
    service_accounts: tuple[str, ...] = ()
    not_service_accounts: tuple[str, ...] = ()
    ip_blocks: tuple[IpNetwork, ...] = ()
    not_ip_blocks: tuple[IpNetwork, ...] = ()
    remote_ip_blocks: tuple[IpNetwork, ...] = ()
    not_remote_ip_blocks: tuple[IpNetwork, ...] = ()
    layer7: tuple[str, ...] = ()
    """Fields that only HTTP can answer, such as ``requestPrincipals``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One ``to.operation``. Empty ``ports`` means any; ``layer7`` names hosts, methods, paths."""

    ports: tuple[int, ...] = ()
    not_ports: tuple[int, ...] = ()
    layer7: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationRule:
    """One rule: any of ``sources`` (none: anybody) AND any of ``operations`` (none: anything).

    ``conditions`` are those ``when`` entries that layer 4 can answer, each as a source or
    operation of its own; all must match.
    """

    sources: tuple[Source, ...] = ()
    operations: tuple[Operation, ...] = ()
    conditions: tuple[Source | Operation, ...] = ()
    layer7: tuple[str, ...] = ()
    """Keys of ``when`` that only HTTP can answer."""
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationPolicy:
    """One AuthorizationPolicy. ALLOW without rules allows nothing."""

    namespace: str
    name: str
    action: Action = Action.ALLOW
    selector: Labels = NO_LABELS
    dry_run: bool = False
    """Annotation ``istio.io/dry-run: "true"``: logged and counted, decides nothing."""
    targets_waypoint: bool = False
    """It has targetRefs: a waypoint's affair."""
    rules: tuple[AuthorizationRule, ...] = ()
    origin: Origin

    @property
    def key(self) -> PolicyName:
        """Kind, namespace and name."""
        return PolicyName(PolicyKind.AUTHORIZATION_POLICY, self.namespace, self.name)
