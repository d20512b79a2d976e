# SPDX-License-Identifier: Apache-2.0
"""Whatever happens in whatever order: the rows are those that are made from scratch."""

from dataclasses import fields, replace
from ipaddress import IPv4Address, ip_network
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st
from policy_world import NODE, ORIGIN, made, steps, worlds

from mesh.compile import Compiler, IdTable, NodeConfig, compile_mesh
from mesh.compile.policy import PolicyCompiler
from mesh.model.events import NamespaceAdded, PolicyAdded, WorkloadAdded, WorkloadRemoved
from mesh.model.identity import Identity
from mesh.model.labels import Labels
from mesh.model.namespace import Namespace
from mesh.model.network_policy import IpBlock, NetworkPolicy, NetworkRule, PodPeer, PolicyTypes
from mesh.model.policy import LabelSelector, Operator, Requirement
from mesh.model.workload import DATAPLANE_MODE_LABEL, Workload, pod_uid
from mesh.rows import changed_keys
from mesh.tables import POLICY_SET_RULES, Tables

TABLES = [one.name for one in fields(Tables) if one.name not in ("warnings", "policy_problem")]
SETTINGS = st.tuples(
    st.sampled_from((NODE, NODE, NODE, NodeConfig("n2"), NodeConfig("n1", root_namespace="a"))),
    st.sampled_from((True, True, True, False)),
)


def differing(one, other):
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


@settings(max_examples=150, deadline=None)
@given(worlds, steps, st.data())
def test_after_every_event_the_rows_are_those_from_scratch(world, events, data):
    ids, state = IdTable(), made(world)
    compiler = Compiler(ids)
    seen = [compiler.compile(state, node=NODE)]
    node, judged = NODE, True
    for step in events:
        state.apply_all(step)
        if data.draw(st.integers(0, 4)) == 0:
            node, judged = data.draw(SETTINGS)
        now = compiler.compile(state, node=node, judged=judged)
        assert now == compile_mesh(state, node=node, ids=ids, judged=judged)
        assert compiler.compile(state, node=node, judged=judged) is now
        seen.append(now)
    for one, other in combinations(seen, 2):
        for name in TABLES:
            keys = changed_keys(getattr(one, name), getattr(other, name))
            assert keys is None or differing(getattr(one, name), getattr(other, name)) <= set(keys)


@settings(max_examples=40, deadline=None)
@given(worlds, steps)
def test_a_compiler_that_is_shown_another_state_starts_anew(world, events):
    ids = IdTable()
    compiler = Compiler(ids)
    for step in events:
        state = made([*world, *step])
        assert compiler.compile(state, node=NODE) == compile_mesh(state, node=NODE, ids=ids)


def pod(name: str, **labels: str) -> Workload:
    return Workload(
        uid=pod_uid("a", name),
        name=name,
        namespace="a",
        identity=Identity("cluster.local", "a", "s"),
        node="n1",
        addresses=(IPv4Address(f"10.2.0.{ord(name[0])}"),),
        labels=Labels(labels),
    )


def test_a_pod_that_no_policies_fit_is_refused_alone_and_said_until_they_do():
    """Each policy fits; the pod that both select has more rules than a set."""
    blocks = tuple(IpBlock(ip_network((0x0A000000 + i, 32))) for i in range(POLICY_SET_RULES))
    half = NetworkPolicy(
        namespace="a",
        name="one",
        pods=LabelSelector(Labels({"one": "y"})),
        types=PolicyTypes.INGRESS,
        ingress=(NetworkRule(blocks, (), ORIGIN),),
        origin=ORIGIN,
    )
    other = replace(half, name="two", pods=LabelSelector(Labels({"two": "y"})))
    state, ids = made([]), IdTable()
    fits, strange = pod("fits", one="y"), pod("strange", one="y", two="y")
    state.apply_all([PolicyAdded(half), PolicyAdded(other), WorkloadAdded(fits)])
    compiler = PolicyCompiler(ids)
    before = compiler.compile(state, node=NODE, judged=True)
    assert not before.problem
    state.apply(WorkloadAdded(strange))
    for label in ("x", "y"):
        rows = compiler.compile(state, node=NODE, judged=True)
        assert "a/strange" in rows.problem
        assert (
            rows.subjects[ids.workload_id(fits.uid)] == before.subjects[ids.workload_id(fits.uid)]
        )
        assert not rows.subjects[ids.workload_id(strange.uid)].judged
        state.apply(WorkloadAdded(pod("third", app=label)))
    state.apply_all([WorkloadAdded(pod("strange", one="y")), WorkloadRemoved(pod("third").uid)])
    after = compiler.compile(state, node=NODE, judged=True)
    assert not after.problem
    assert after.subjects[ids.workload_id(strange.uid)].judged
    assert after == PolicyCompiler(ids).compile(state, node=NODE, judged=True)


def test_labels_of_a_namespace_are_those_of_its_pods_at_once():
    """Which of them are judged, and what class each is in."""
    tiers = Requirement("tier", Operator.EXISTS)
    peers = (PodPeer(LabelSelector(expressions=(tiers,)), LabelSelector()),)
    policy = NetworkPolicy(
        namespace="a",
        name="one",
        pods=LabelSelector(),
        types=PolicyTypes.INGRESS,
        ingress=(NetworkRule(peers, (), ORIGIN),),
        origin=ORIGIN,
    )
    state, ids = made([]), IdTable()
    web = pod("web")
    state.apply_all([PolicyAdded(policy), WorkloadAdded(web)])
    compiler, seen = PolicyCompiler(ids), []
    for labels in ({DATAPLANE_MODE_LABEL: "ambient", "tier": "x"}, {"tier": "x"}, {}):
        compiler.compile(state, node=NODE, judged=True)
        state.apply(NamespaceAdded(Namespace("a", Labels(labels))))
        rows = compiler.compile(state, node=NODE, judged=True)
        assert rows == PolicyCompiler(ids).compile(state, node=NODE, judged=True)
        seen.append(rows.subjects[ids.workload_id(web.uid)])
    assert [row.judged for row in seen] == [True, False, False]
    assert seen[0].peer_class == seen[1].peer_class != seen[2].peer_class
