# SPDX-License-Identifier: Apache-2.0
"""Worlds of workloads and policies, as hypothesis makes them up."""

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

from hypothesis import strategies as st

from mesh.compile import NodeConfig
from mesh.model.authorization_policy import (
    Action,
    AuthorizationPolicy,
    AuthorizationRule,
    Match,
    MatchKind,
    Operation,
    Source,
)
from mesh.model.events import (
    NamespaceAdded,
    NamespaceRemoved,
    PolicyAdded,
    PolicyRemoved,
    WorkloadAdded,
    WorkloadRemoved,
)
from mesh.model.identity import Identity
from mesh.model.labels import NO_LABELS, Labels
from mesh.model.namespace import Namespace
from mesh.model.network_policy import (
    IpBlock,
    NetworkPolicy,
    NetworkPort,
    NetworkRule,
    PodPeer,
    PolicyTypes,
)
from mesh.model.peer_authentication import MtlsMode, PeerAuthentication
from mesh.model.policy import EVERYTHING, LabelSelector, Operator, Origin, Requirement
from mesh.model.service import Protocol
from mesh.model.workload import DATAPLANE_MODE_LABEL, Workload, WorkloadPort, pod_uid
from mesh.state import MeshState

NODE = NodeConfig("n1")
ORIGIN = Origin("p.yaml", 1)
NAMESPACES = ("a", "b", "istio-system")
APPS = ("x", "y", "z")
PORTS = (53, 80, 81, 443, 8080)
PROTOCOLS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
ASKED = (*PROTOCOLS, 1, 47)
"""ICMP and GRE too: rules without ports speak of every protocol."""
ASKED_PORTS = (*PORTS, 79, 82, 8079, 8081, 65535)
"""The neighbours too."""
ADDRESSES = tuple(
    ip_address(text) for text in ("10.0.0.1", "10.0.1.1", "10.1.0.1", "fd00::1", "fd00:1::1")
)
BLOCKS = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.0.0.0/16",
        "10.0.1.0/24",
        "10.0.0.1/32",
        "::/0",
        "::/64",
        "fd00::/16",
        "fd00::/64",
    )
)

labels = st.dictionaries(st.sampled_from(("app", "tier")), st.sampled_from(APPS), max_size=2).map(
    Labels
)
requirements = st.one_of(
    st.builds(
        Requirement,
        st.sampled_from(("app", "tier")),
        st.sampled_from((Operator.IN, Operator.NOT_IN)),
        st.lists(st.sampled_from(APPS), min_size=1, max_size=2, unique=True).map(tuple),
    ),
    st.builds(
        Requirement,
        st.sampled_from(("app", "tier")),
        st.sampled_from((Operator.EXISTS, Operator.DOES_NOT_EXIST)),
    ),
)
selectors = st.one_of(
    st.just(EVERYTHING),
    st.builds(LabelSelector, labels, st.lists(requirements, max_size=1).map(tuple)),
)
chosen = st.one_of(st.just(NO_LABELS), labels)
blocks = st.lists(st.sampled_from(BLOCKS), max_size=2, unique=True).map(tuple)
ports = st.one_of(
    st.builds(NetworkPort, st.sampled_from(PROTOCOLS), st.sampled_from((*PORTS, "web", None))),
    st.builds(
        NetworkPort,
        st.sampled_from(PROTOCOLS),
        st.sampled_from((1, 80)),
        st.sampled_from((80, 81, 8080, 65535)),
    ),
)


@st.composite
def ip_blocks(draw):
    network = draw(st.sampled_from(BLOCKS))
    holes = [
        one
        for one in BLOCKS
        if one.version == network.version and one != network and one.subnet_of(network)
    ]
    return IpBlock(
        network, tuple(draw(st.lists(st.sampled_from(holes), max_size=2))) if holes else ()
    )


peers = st.one_of(
    st.builds(PodPeer, st.one_of(st.none(), selectors), selectors),
    ip_blocks(),
)
network_rules = st.builds(
    NetworkRule,
    st.lists(peers, max_size=2).map(tuple),
    st.lists(ports, max_size=2).map(tuple),
    st.just(ORIGIN),
)
rule_lists = st.lists(network_rules, max_size=2).map(tuple)
matches = st.one_of(
    st.just(Match(MatchKind.PRESENCE)),
    st.sampled_from(("a", "b", "cluster.local/ns/a/sa/s", "cluster.local/ns/b/sa/t")).flatmap(
        lambda text: st.sampled_from(
            (
                Match(MatchKind.EXACT, text),
                Match(MatchKind.PREFIX, text[:16]),
                Match(MatchKind.SUFFIX, text[-5:]),
            )
        )
    ),
)
match_lists = st.lists(matches, max_size=1).map(tuple)
accounts = st.lists(st.sampled_from(("a/s", "b/t")), max_size=1).map(tuple)
FIELDS = {
    "principals": match_lists,
    "not_principals": match_lists,
    "namespaces": match_lists,
    "not_namespaces": match_lists,
    "service_accounts": accounts,
    "not_service_accounts": accounts,
    "ip_blocks": blocks,
    "not_ip_blocks": blocks,
    "remote_ip_blocks": blocks,
    "not_remote_ip_blocks": blocks,
    "layer7": st.sampled_from(((), (), ("requestPrincipals",))),
}
"""Of a source: few of them at once, for of many hardly a connection meets all."""
sources = st.lists(st.sampled_from(sorted(FIELDS)), max_size=3, unique=True).flatmap(
    lambda names: st.builds(Source, **{name: FIELDS[name] for name in names})
)
port_lists = st.lists(st.sampled_from(PORTS), max_size=2).map(tuple)
operations = st.builds(
    Operation,
    ports=port_lists,
    not_ports=port_lists,
    layer7=st.sampled_from(((), (), ("methods",))),
)
rules = st.builds(
    AuthorizationRule,
    sources=st.lists(sources, max_size=2).map(tuple),
    operations=st.lists(operations, max_size=2).map(tuple),
    conditions=st.lists(st.one_of(sources, operations), max_size=1).map(
        lambda found: tuple(replace(one, layer7=()) for one in found)
    ),
    layer7=st.sampled_from(((), (), ("request.headers",))),
    origin=st.just(ORIGIN),
)
names = st.sampled_from(("p", "q", "r"))
policies = st.one_of(
    st.builds(
        NetworkPolicy,
        namespace=st.sampled_from(NAMESPACES),
        name=names,
        pods=selectors,
        types=st.sampled_from(
            (PolicyTypes.INGRESS, PolicyTypes.EGRESS, PolicyTypes.INGRESS | PolicyTypes.EGRESS)
        ),
        ingress=rule_lists,
        egress=rule_lists,
        origin=st.just(ORIGIN),
    ),
    st.builds(
        AuthorizationPolicy,
        namespace=st.sampled_from(NAMESPACES),
        name=names,
        action=st.sampled_from((Action.ALLOW, Action.DENY, *Action)),
        selector=chosen,
        dry_run=st.booleans(),
        targets_waypoint=st.sampled_from((False, False, True)),
        rules=st.lists(rules, max_size=2).map(tuple),
        origin=st.just(ORIGIN),
    ),
    st.builds(
        PeerAuthentication,
        namespace=st.sampled_from(NAMESPACES),
        name=names,
        selector=chosen,
        mode=st.sampled_from(MtlsMode),
        port_modes=st.dictionaries(
            st.sampled_from(PORTS), st.sampled_from(MtlsMode), max_size=2
        ).map(lambda found: tuple(sorted(found.items()))),
        origin=st.just(ORIGIN),
    ).map(lambda one: one if len(one.selector) else replace(one, port_modes=())),
)


@st.composite
def workloads(draw):
    index = draw(st.integers(0, 5))
    namespace = draw(st.sampled_from(NAMESPACES))
    name = f"w{index}"
    return Workload(
        uid=pod_uid(namespace, name),
        name=name,
        namespace=namespace,
        identity=Identity("cluster.local", namespace, draw(st.sampled_from(("s", "t")))),
        node=draw(st.sampled_from(("n1", "n2"))),
        addresses=(IPv4Address(0x0A020000 + index),),
        labels=draw(labels),
        ports=draw(
            st.sampled_from(
                (
                    (),
                    (WorkloadPort("web", 80, Protocol.TCP),),
                    (WorkloadPort("web", 8080, Protocol.UDP),),
                    (WorkloadPort("web", 443, Protocol.SCTP),),
                    (
                        WorkloadPort("web", 80, Protocol.TCP),
                        WorkloadPort("web", 81, Protocol.TCP),
                    ),
                )
            )
        ),
        host_network=draw(st.sampled_from((False, False, False, True))),
    )


events = st.one_of(
    policies.map(PolicyAdded),
    policies.map(lambda policy: PolicyRemoved(policy.key)),
    workloads().map(WorkloadAdded),
    st.builds(
        lambda name, tier: NamespaceAdded(
            Namespace(name, Labels({DATAPLANE_MODE_LABEL: "ambient", "tier": tier}))
        ),
        st.sampled_from(NAMESPACES),
        st.sampled_from(APPS),
    ),
)
worlds = st.lists(events, min_size=3, max_size=14)
comings_and_goings = st.one_of(
    events,
    workloads().map(lambda workload: WorkloadRemoved(workload.uid)),
    st.sampled_from(NAMESPACES).map(NamespaceRemoved),
)
steps = st.lists(st.lists(comings_and_goings, min_size=1, max_size=3), min_size=2, max_size=14)


def made(world):
    state = MeshState()
    for name in NAMESPACES:
        state.apply(NamespaceAdded(Namespace(name, Labels({DATAPLANE_MODE_LABEL: "ambient"}))))
    state.apply_all(world)
    return state
