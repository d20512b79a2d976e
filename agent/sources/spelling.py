# SPDX-License-Identifier: Apache-2.0
"""Facts in the spelling of a mesh file, as plain values: what ``convert`` reads, the other way.

Of what only HTTP can answer the names are known and not the values, so those are written as ``*``.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mesh.model.authorization_policy import (
    AuthorizationPolicy,
    AuthorizationRule,
    Match,
    MatchKind,
    Operation,
    Source,
)
from mesh.model.labels import Labels
from mesh.model.namespace import Namespace
from mesh.model.network_policy import (
    IpBlock,
    NetworkPeer,
    NetworkPolicy,
    NetworkPort,
    NetworkRule,
    PolicyTypes,
)
from mesh.model.node import Node
from mesh.model.peer_authentication import PeerAuthentication
from mesh.model.policies import Policy
from mesh.model.policy import LabelSelector
from mesh.model.workload import Workload
from mesh.state import MeshState

__all__ = ["Facts", "spell_mesh", "spell_policy"]

Raw = dict[str, Any]


class Facts(NamedTuple):
    """What policies look at, as it was at one moment: to be read in any thread."""

    nodes: Sequence[Node]
    namespaces: Sequence[Namespace]
    workloads: Sequence[Workload]
    policies: Sequence[Policy]

    @classmethod
    def of(cls, state: MeshState) -> "Facts":
        """Take them from a state."""
        stores = (state.nodes, state.namespaces, state.workloads, state.policies)
        return cls(*(list(store.values()) for store in stores))  # type: ignore[arg-type]


def spell_mesh(facts: Facts, *, trust_domain: str, root_namespace: str) -> Raw:
    """A mesh file of them."""
    return {
        "apiVersion": "nodemesh.io/v1alpha1",
        "kind": "Mesh",
        "trustDomain": trust_domain,
        "rootNamespace": root_namespace,
        "nodes": [{"name": node.name, "addresses": _texts(node.addresses)} for node in facts.nodes],
        "namespaces": [
            {"name": one.name, "labels": _labels(one.labels)} for one in facts.namespaces
        ],
        "workloads": [_workload(one) for one in facts.workloads],
        "policies": [spell_policy(one) for one in facts.policies],
    }


def _workload(workload: Workload) -> Raw:
    return {
        "name": workload.name,
        "namespace": workload.namespace,
        "node": workload.node,
        "addresses": _texts(workload.addresses),
        "serviceAccount": workload.identity.service_account,
        "labels": _labels(workload.labels),
        "ports": [
            {"name": one.name, "port": one.port, "protocol": one.protocol.name}
            for one in workload.ports
        ],
        "hostNetwork": workload.host_network,
    }


def spell_policy(policy: Policy) -> Raw:
    """One policy as kubectl takes it."""
    metadata: Raw = {"name": policy.name, "namespace": policy.namespace}
    if isinstance(policy, NetworkPolicy):
        spec = _network(policy)
    elif isinstance(policy, AuthorizationPolicy):
        spec = _authorization(policy)
        if policy.dry_run:
            metadata["annotations"] = {"istio.io/dry-run": "true"}
    else:
        spec = _authentication(policy)
    group = "networking.k8s.io" if isinstance(policy, NetworkPolicy) else "security.istio.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": policy.key.kind.value,
        "metadata": metadata,
        "spec": spec,
    }


def _network(policy: NetworkPolicy) -> Raw:
    return {
        "podSelector": _selector(policy.pods),
        "policyTypes": [str(one.name).capitalize() for one in PolicyTypes if one in policy.types],
        "ingress": [_network_rule(one, "from") for one in policy.ingress],
        "egress": [_network_rule(one, "to") for one in policy.egress],
    }


def _network_rule(rule: NetworkRule, peers: str) -> Raw:
    return {
        peers: [_network_peer(one) for one in rule.peers],
        "ports": [_network_port(one) for one in rule.ports],
    }


def _network_peer(peer: NetworkPeer) -> Raw:
    if isinstance(peer, IpBlock):
        return {"ipBlock": {"cidr": str(peer.network), "except": _texts(peer.excepts)}}
    found: Raw = {"podSelector": _selector(peer.pods)}
    if peer.namespaces is not None:
        found["namespaceSelector"] = _selector(peer.namespaces)
    return found


def _network_port(port: NetworkPort) -> Raw:
    values = {"protocol": port.protocol.name, "port": port.port, "endPort": port.end_port}
    return {key: value for key, value in values.items() if value is not None}


def _authorization(policy: AuthorizationPolicy) -> Raw:
    spec: Raw = {
        "action": policy.action.value,
        "rules": [_authorization_rule(one) for one in policy.rules],
    }
    if policy.targets_waypoint:
        spec["targetRefs"] = [{"kind": "Gateway", "name": "waypoint"}]
    elif len(policy.selector):
        spec["selector"] = {"matchLabels": _labels(policy.selector)}
    return spec


def _authorization_rule(rule: AuthorizationRule) -> Raw:
    when = [entry for one in rule.conditions for entry in _conditions(one)]
    when += [{"key": key, "values": ["*"]} for key in rule.layer7]
    return _filled(
        {
            "from": [{"source": _source(one)} for one in rule.sources],
            "to": [{"operation": _operation(one)} for one in rule.operations],
            "when": when,
        }
    )


def _source(source: Source) -> Raw:
    found = {
        "principals": _matches(source.principals),
        "notPrincipals": _matches(source.not_principals),
        "namespaces": _matches(source.namespaces),
        "notNamespaces": _matches(source.not_namespaces),
        "serviceAccounts": list(source.service_accounts),
        "notServiceAccounts": list(source.not_service_accounts),
        "ipBlocks": _texts(source.ip_blocks),
        "notIpBlocks": _texts(source.not_ip_blocks),
        "remoteIpBlocks": _texts(source.remote_ip_blocks),
        "notRemoteIpBlocks": _texts(source.not_remote_ip_blocks),
    }
    return _filled({**found, **{name: ["*"] for name in source.layer7}})


def _operation(operation: Operation) -> Raw:
    found = {"ports": _texts(operation.ports), "notPorts": _texts(operation.not_ports)}
    return _filled({**found, **{name: ["*"] for name in operation.layer7}})


_KEYS = {
    "principals": ("source.principal", "notPrincipals"),
    "namespaces": ("source.namespace", "notNamespaces"),
    "serviceAccounts": ("source.serviceAccount", "notServiceAccounts"),
    "ipBlocks": ("source.ip", "notIpBlocks"),
    "remoteIpBlocks": ("remote.ip", "notRemoteIpBlocks"),
    "ports": ("destination.port", "notPorts"),
}
"""Conditions by the field of a source or operation that asks the same, and its other half."""


def _conditions(condition: Source | Operation) -> Iterable[Raw]:
    raw = _source(condition) if isinstance(condition, Source) else _operation(condition)
    for field, (key, opposite) in _KEYS.items():
        entry = _filled({"values": raw.get(field), "notValues": raw.get(opposite)})
        if entry:
            yield {"key": key, **entry}


def _authentication(policy: PeerAuthentication) -> Raw:
    spec: Raw = {"mtls": {"mode": policy.mode.value}}
    if len(policy.selector):
        spec["selector"] = {"matchLabels": _labels(policy.selector)}
    if policy.port_modes:
        spec["portLevelMtls"] = {str(port): {"mode": mode} for port, mode in policy.port_modes}
    return spec


def _selector(selector: LabelSelector) -> Raw:
    return {
        "matchLabels": _labels(selector.labels),
        "matchExpressions": [
            _filled({"key": one.key, "operator": one.operator.value, "values": list(one.values)})
            for one in selector.expressions
        ],
    }


def _matches(matches: Iterable[Match]) -> list[str]:
    forms = {MatchKind.EXACT: "{}", MatchKind.PREFIX: "{}*", MatchKind.SUFFIX: "*{}"}
    return [forms.get(one.kind, "*").format(one.text) for one in matches]


def _filled(raw: Mapping[str, Any]) -> Raw:
    """Without what is empty: there it would not say the same as nothing."""
    return {key: value for key, value in raw.items() if value}


def _labels(labels: Labels) -> dict[str, str]:
    return dict(labels.items())


def _texts(values: Iterable[object]) -> list[str]:
    return [str(value) for value in values]
