# SPDX-License-Identifier: Apache-2.0
"""Policies out of a mesh file, each an object as Kubernetes takes it.

``networking.k8s.io/v1`` NetworkPolicy (Kubernetes API reference, NetworkPolicySpec),
``security.istio.io/v1`` AuthorizationPolicy and PeerAuthentication (Istio's security API).
"""

import re
from collections.abc import Callable
from typing import Final

from agent.sources.authorization_fields import authorization_policy
from agent.sources.policy_fields import Fields, Raw
from agent.sources.problems import FieldPath
from mesh.model.names import is_dns_label, is_dns_subdomain
from mesh.model.network_policy import (
    IpBlock,
    IpNetwork,
    NetworkPeer,
    NetworkPolicy,
    NetworkPort,
    NetworkRule,
    PodPeer,
    PolicyTypes,
)
from mesh.model.peer_authentication import MtlsMode, PeerAuthentication
from mesh.model.policies import Policy
from mesh.model.policy import EVERYTHING, Origin, PolicyName
from mesh.model.service import Protocol

__all__ = ["claim", "read_policy"]

_NETWORKING: Final = ("networking.k8s.io/v1",)
_SECURITY: Final = ("security.istio.io/v1", "security.istio.io/v1beta1")
_TOP: Final = ("apiVersion", "kind", "metadata", "spec", "status")
_PORT_NAME: Final = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9](-?[a-z0-9])*")
"""A service name (RFC 6335, section 5.1), as Kubernetes takes it for a port: no capitals."""
_METADATA: Final = (
    *("name", "namespace", "labels", "annotations"),
    *("creationTimestamp", "uid", "resourceVersion", "generation", "managedFields", "selfLink"),
    *("generateName", "ownerReferences", "finalizers"),
    *("deletionTimestamp", "deletionGracePeriodSeconds"),
)
"""All of ObjectMeta: what ``kubectl get -o yaml`` prints beside the name says nothing here."""

_NAME: Final = "a name (RFC 1123 subdomain: a-z, 0-9 and -, joined by dots, at most 253)"
_NAMESPACE: Final = "a namespace (RFC 1123 label: 1 to 63 of a-z, 0-9 and -, not at the ends)"

_Make = Callable[[Fields, Raw, str, str, FieldPath], Policy | None]


def read_policy(fields: Fields, value: object, path: FieldPath) -> Policy | None:
    """One policy, or None; what is wrong with it is in ``fields.problems``."""
    before = len(fields.problems)
    raw = fields.mapping(value, path, _TOP)
    if value is not None and not isinstance(value, dict):
        return None  # which was told
    kind = fields.choice(raw, "kind", path, tuple(_KINDS))
    if "kind" not in raw:
        fields.refuse(path, 'the field "kind" is missing')
    if kind is None:
        return None
    versions, make = _KINDS[kind]
    if fields.choice(raw, "apiVersion", path, versions) is None and "apiVersion" not in raw:
        fields.refuse(path, 'the field "apiVersion" is missing')
    metadata = fields.mapping(raw.get("metadata"), (*path, "metadata"), _METADATA)
    name = fields.text(metadata, "name", (*path, "metadata"))
    namespace = fields.text(metadata, "namespace", (*path, "metadata"), "default")
    if name and not is_dns_subdomain(name):
        fields.refuse((*path, "metadata", "name"), f"{name[:80]!r} is not {_NAME}")
    if not is_dns_label(namespace):
        fields.refuse((*path, "metadata", "namespace"), f"{namespace[:80]!r} is not {_NAMESPACE}")
    for key in ("labels", "annotations"):
        fields.labels(metadata.get(key), (*path, "metadata", key))
    policy = make(fields, raw, namespace, name, path)
    return policy if len(fields.problems) == before else None


def claim(fields: Fields, policy: Policy, path: FieldPath, seen: dict[PolicyName, Origin]) -> bool:
    """Whether it is the first of its kind, namespace and name; else both places are told."""
    first = seen.setdefault(policy.key, policy.origin)
    if first is policy.origin:
        return True
    here = first.file == policy.origin.file
    where = f"in line {first.line}" if here else f"at {first}"
    fields.refuse((*path, "metadata", "name"), f"{policy.key} is {where} too")
    return False


def _network_policy(
    fields: Fields, raw: Raw, namespace: str, name: str, path: FieldPath
) -> NetworkPolicy:
    where = (*path, "spec")
    known = ("podSelector", "policyTypes", "ingress", "egress")
    spec = fields.mapping(raw.get("spec"), where, known)
    if "podSelector" not in spec:
        fields.refuse(where, 'the field "podSelector" is missing ({} selects every pod)')
    types = PolicyTypes(0)
    for value, place in fields.items(spec, "policyTypes", where):
        if value in ("Ingress", "Egress"):
            types |= PolicyTypes[value.upper()]
        else:
            fields.refuse(place, f"must be Ingress or Egress, not {value!r}")
    if not spec.get("policyTypes"):
        # As the API defaults it: Ingress always, Egress where there are rules for it.
        types = PolicyTypes.INGRESS | (PolicyTypes.EGRESS if spec.get("egress") else types)
    return NetworkPolicy(
        namespace=namespace,
        name=name,
        pods=fields.selector(spec.get("podSelector"), (*where, "podSelector")),
        types=types,
        ingress=tuple(
            _network_rule(fields, one, place, "from")
            for one, place in fields.items(spec, "ingress", where)
        ),
        egress=tuple(
            _network_rule(fields, one, place, "to")
            for one, place in fields.items(spec, "egress", where)
        ),
        origin=fields.origin(path),
    )


def _network_rule(fields: Fields, value: object, path: FieldPath, peers: str) -> NetworkRule:
    raw = fields.mapping(value, path, (peers, "ports"))
    found = [_network_peer(fields, one, place) for one, place in fields.items(raw, peers, path)]
    ports = [_network_port(fields, one, place) for one, place in fields.items(raw, "ports", path)]
    return NetworkRule(
        tuple(peer for peer in found if peer is not None),
        tuple(port for port in ports if port is not None),
        fields.origin(path),
    )


def _network_peer(fields: Fields, value: object, path: FieldPath) -> NetworkPeer | None:
    raw = fields.mapping(value, path, ("podSelector", "namespaceSelector", "ipBlock"))
    # None is none, as the API has it: a selector that is there but empty selects everything.
    raw = {key: one for key, one in raw.items() if one is not None}
    if not raw:
        fields.refuse(path, "names no peer: podSelector, namespaceSelector or ipBlock is needed")
        return None
    if "ipBlock" in raw:
        if len(raw) > 1:
            fields.refuse(path, "ipBlock cannot stand beside a selector")
        return _ip_block(fields, raw["ipBlock"], (*path, "ipBlock"))
    namespaces = None
    if "namespaceSelector" in raw:
        place = (*path, "namespaceSelector")
        namespaces = fields.selector(raw["namespaceSelector"], place)
    pods = EVERYTHING
    if "podSelector" in raw:
        pods = fields.selector(raw["podSelector"], (*path, "podSelector"))
    return PodPeer(namespaces, pods)


def _ip_block(fields: Fields, value: object, path: FieldPath) -> IpBlock | None:
    raw = fields.mapping(value, path, ("cidr", "except"))
    if "cidr" not in raw:
        fields.refuse(path, 'the field "cidr" is missing')
        return None
    network: IpNetwork | None = fields.network(raw["cidr"], (*path, "cidr"))
    excepts = fields.networks(raw, "except", path)
    if network is None:
        return None
    return fields.attempt(path, lambda: IpBlock(network, excepts))


def _network_port(fields: Fields, value: object, path: FieldPath) -> NetworkPort | None:
    raw = fields.mapping(value, path, ("protocol", "port", "endPort"))
    protocol = fields.choice(raw, "protocol", path, ("TCP", "UDP", "SCTP")) or "TCP"
    port: int | str | None = raw.get("port")
    if isinstance(port, str) and not port.isdecimal():
        if not _PORT_NAME.fullmatch(port):
            fields.refuse((*path, "port"), "must be a port number or a name like http-web")
    elif port is not None:
        port = fields.port(port, (*path, "port"))
    end = raw.get("endPort")
    end_port = None if end is None else fields.port(end, (*path, "endPort"))
    return fields.attempt(path, lambda: NetworkPort(Protocol[protocol], port, end_port))


def _peer_authentication(
    fields: Fields, raw: Raw, namespace: str, name: str, path: FieldPath
) -> PeerAuthentication:
    where = (*path, "spec")
    spec = fields.mapping(raw.get("spec"), where, ("selector", "mtls", "portLevelMtls"))
    place = (*where, "selector")
    selector = fields.mapping(spec.get("selector"), place, ("matchLabels",))
    labels = fields.labels(selector.get("matchLabels"), (*place, "matchLabels"))
    modes: list[tuple[int, MtlsMode]] = []
    ports = spec.get("portLevelMtls") or {}
    if not isinstance(ports, dict):
        fields.refuse((*where, "portLevelMtls"), "must be a mapping of ports")
        ports = {}
    if ports and not len(labels):
        fields.refuse((*where, "portLevelMtls"), "needs a selector: ports are those of workloads")
    for key, value in ports.items():
        field = (*where, "portLevelMtls", key)
        port = fields.port(key, field)
        mode = _mode(fields, value, field)
        if any(port == known for known, _ in modes):
            fields.refuse(field, f"port {port} is given twice", at_key=True)
        elif port is not None:
            modes.append((port, mode))
    return PeerAuthentication(
        namespace=namespace,
        name=name,
        selector=labels,
        mode=_mode(fields, spec.get("mtls"), (*where, "mtls")),
        port_modes=tuple(sorted(modes)),
        origin=fields.origin(path),
    )


def _mode(fields: Fields, value: object, path: FieldPath) -> MtlsMode:
    raw = fields.mapping(value, path, ("mode",))
    return MtlsMode(fields.choice(raw, "mode", path, [one.value for one in MtlsMode]) or "UNSET")


_KINDS: Final[dict[str, tuple[tuple[str, ...], _Make]]] = {
    "NetworkPolicy": (_NETWORKING, _network_policy),
    "AuthorizationPolicy": (_SECURITY, authorization_policy),
    "PeerAuthentication": (_SECURITY, _peer_authentication),
}
