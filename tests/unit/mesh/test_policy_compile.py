# SPDX-License-Identifier: Apache-2.0
"""Compiled policies say what the specifications say: the tables against the oracle."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_world import ADDRESSES, ASKED, NODE, ORIGIN, PORTS, made, worlds

from mesh.compile import IdTable
from mesh.compile.policy import PolicyCompiler
from mesh.compile.policy.ports import complement, prefixes
from mesh.decide import Connection, Oracle
from mesh.model.events import NamespaceAdded, PolicyAdded, WorkloadAdded
from mesh.model.identity import Identity
from mesh.model.labels import Labels
from mesh.model.namespace import Namespace
from mesh.model.network_policy import (
    IpBlock,
    NetworkPolicy,
    NetworkRule,
    PolicyTypes,
)
from mesh.model.policy import LabelSelector
from mesh.model.service import Protocol
from mesh.model.workload import DATAPLANE_MODE_LABEL, Workload, pod_uid
from mesh.reasons import Reason
from mesh.state import MeshState
from mesh.tables import POLICY_SET_RULES, RuleKind


def evaluate(rows, number, connection, peer_number):
    """decide() of bpf/decide.c, over the rows."""
    if connection.node:
        return Reason.NONE
    peer = rows.subjects.get(peer_number)
    peer_class = peer.peer_class if peer is not None else 0
    subject = rows.subjects.get(number)
    if subject is None or not subject.judged:
        return Reason.POLICY_UNKNOWN
    set_id = subject.egress if connection.egress else subject.ingress
    if not set_id:
        return Reason.NONE
    head = rows.policy_sets[set_id]
    by_class = {(key.set_id, key.peer_class): row for key, row in rows.class_masks.items()}
    classes = by_class.get((set_id, peer_class)) or by_class[set_id, 0]
    address = ip_network(connection.address)
    cidr = max(
        (
            (key.network.prefixlen, row.mask)
            for key, row in rows.cidr_masks.items()
            if key.set_id == set_id
            and key.network.version == address.version
            and address.subnet_of(key.network)
        ),
    )[1]
    port = max(
        (
            (-1 if key.protocol is None else key.prefix, row.mask)
            for key, row in rows.port_masks.items()
            if key.set_id == set_id
            and (
                key.protocol is None
                or (
                    key.protocol == connection.protocol
                    and key.port >> 16 - key.prefix == connection.port >> 16 - key.prefix
                )
            )
        ),
    )[1]
    hits = (classes.attested if connection.attested else classes.claimed) & cidr & port
    kinds = {head.kinds[bit // 64] for bit in range(POLICY_SET_RULES) if hits >> bit & 1}
    tcp = connection.protocol == Protocol.TCP
    if RuleKind.STRICT in kinds:
        return Reason.NOT_ATTESTED
    if RuleKind.DENY in kinds:
        return Reason.POLICY_DENY
    if head.isolated and RuleKind.NETWORK not in kinds:
        return Reason.NETWORK_POLICY
    if tcp and head.allow_needed and RuleKind.ALLOW not in kinds:
        return Reason.NO_ALLOW_RULE
    return Reason.NONE


@st.composite
def asked(draw):
    """A world and connections in it."""
    world = draw(worlds)
    state = made(world)
    known = sorted(state.workloads.values(), key=lambda one: one.uid)
    subjects = [one for one in known if one.node == "n1" and not one.host_network]
    found = []
    for _ in range(6 if subjects else 0):
        peer = draw(st.one_of(st.none(), st.sampled_from(known)))
        found.append(
            Connection(
                subject=draw(st.sampled_from(subjects)),
                peer=peer,
                address=draw(st.sampled_from(ADDRESSES)),
                port=draw(st.sampled_from(PORTS)),
                protocol=draw(st.sampled_from(ASKED)),
                egress=draw(st.booleans()),
                attested=draw(st.booleans()),
                node=draw(st.sampled_from((False, False, False, True))),
            )
        )
    return state, found


@settings(max_examples=400, deadline=None)
@given(asked())
def test_the_tables_say_what_the_specifications_say(question):
    state, connections = question
    ids = IdTable()
    rows = PolicyCompiler(ids).compile(state, node=NODE, judged=True)
    assert not rows.problem
    oracle = Oracle(state, root_namespace=NODE.root_namespace, node=NODE.name)
    for connection in connections:
        number = ids.workload_id(connection.subject.uid)
        peer = 0 if connection.peer is None else ids.workload_id(connection.peer.uid)
        assert evaluate(rows, number, connection, peer) is oracle.judge(connection).reason, (
            connection
        )


@settings(max_examples=100, deadline=None)
@given(worlds, worlds)
def test_incremental_is_from_scratch(first, second):
    ids = IdTable()
    compiler = PolicyCompiler(ids)
    compiler.compile(made(first), node=NODE, judged=True)
    state = made([*first, *second])
    again = compiler.compile(state, node=NODE, judged=True)
    assert again == PolicyCompiler(ids).compile(state, node=NODE, judged=True)
    assert compiler.compile(state, node=NODE, judged=True) is again


@settings(deadline=None)
@given(st.integers(0, 65535), st.integers(0, 65535))
def test_prefixes_make_up_the_range(one, other):
    low, high = sorted((one, other))
    covered = []
    for port, length in prefixes(low, high):
        covered += range(port, port + (1 << 16 - length))
    assert covered == list(range(low, high + 1))


@settings(deadline=None)
@given(st.sets(st.integers(0, 65535), max_size=5))
def test_a_complement_is_everything_else(holes):
    inside = {port for low, high in complement(holes) for port in range(low, high + 1)}
    assert inside == set(range(65536)) - holes


def test_what_does_not_fit_changes_nothing_and_says_why():
    state, ids = MeshState(), IdTable()
    state.apply(NamespaceAdded(Namespace("a", Labels({DATAPLANE_MODE_LABEL: "ambient"}))))
    pod = Workload(
        uid=pod_uid("a", "w"),
        name="w",
        namespace="a",
        identity=Identity("cluster.local", "a", "s"),
        node="n1",
        addresses=(IPv6Address("fd00::1"),),
    )
    state.apply(WorkloadAdded(pod))
    small = NetworkPolicy(
        namespace="a", name="np", pods=LabelSelector(), types=PolicyTypes.INGRESS, origin=ORIGIN
    )
    state.apply(PolicyAdded(small))
    compiler = PolicyCompiler(ids)
    before = compiler.compile(state, node=NODE, judged=True)
    blocks_ = tuple(IpBlock(ip_network((0x0A000000 + i, 32))) for i in range(POLICY_SET_RULES + 1))
    big = replace(small, ingress=(NetworkRule(blocks_, (), ORIGIN),))
    state.apply(PolicyAdded(big))
    after = compiler.compile(state, node=NODE, judged=True)
    assert after.subjects == before.subjects
    assert "NetworkPolicy a/np" in after.problem
    assert "513" in after.problem
    fresh = PolicyCompiler(IdTable()).compile(state, node=NODE, judged=True)
    assert not any(row.judged for row in fresh.subjects.values()), "nothing before: nothing known"


@pytest.mark.parametrize("judged", [True, False])
def test_only_enrolled_pods_of_this_node_are_judged_and_only_once_all_is_known(judged):
    state, ids = made([]), IdTable()
    for index, node in enumerate(("n1", "n2")):
        state.apply(
            WorkloadAdded(
                Workload(
                    uid=pod_uid("a", node),
                    name=node,
                    namespace="a",
                    identity=Identity("cluster.local", "a", "s"),
                    node=node,
                    addresses=(IPv4Address(0x0A000001 + index),),
                )
            )
        )
    rows = PolicyCompiler(ids).compile(state, node=NODE, judged=judged)
    found = {number: row.judged for number, row in rows.subjects.items()}
    assert found == {
        ids.workload_id(pod_uid("a", "n1")): judged,
        ids.workload_id(pod_uid("a", "n2")): False,
    }
