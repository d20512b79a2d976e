# SPDX-License-Identifier: Apache-2.0
"""The state: every event, and indexes that stay in step with the values."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mesh_world import AMBIENT, EMPTY, events_between, ip, make_service, make_workload, worlds

from mesh.model.events import (
    Event,
    InSync,
    NamespaceAdded,
    NamespaceRemoved,
    NodeAdded,
    NodeRemoved,
    ServiceAdded,
    ServiceRemoved,
    WorkloadAdded,
    WorkloadRemoved,
)
from mesh.model.identity import Identity
from mesh.model.labels import NO_LABELS, Labels
from mesh.model.namespace import Namespace
from mesh.model.node import Node
from mesh.state import MeshState, own_addresses
from mesh.store import Store

WEB = make_workload("web", "10.0.0.1", labels={"app": "web", "tier": "front"})
BANK = Identity("cluster.local", "bank", "db")
NEITHER_WEB = {"web_changes": False, "shop_changes": True}
SERVICE = make_service("web", "10.96.0.1")


def test_each_event_does_what_it_says() -> None:
    state = MeshState()
    things = [
        (state.workloads, WEB.uid, WEB, WorkloadAdded(WEB), WorkloadRemoved(WEB.uid)),
        (
            state.services,
            SERVICE.key,
            SERVICE,
            ServiceAdded(SERVICE),
            ServiceRemoved(SERVICE.key),
        ),
        (
            state.namespaces,
            "shop",
            Namespace("shop", AMBIENT),
            NamespaceAdded(Namespace("shop", AMBIENT)),
            NamespaceRemoved("shop"),
        ),
        (state.nodes, "node1", Node("node1"), NodeAdded(Node("node1")), NodeRemoved("node1")),
    ]
    for store, key, value, added, removed in things:
        state.apply(removed)  # of what was never there
        state.apply_all([added, added])
        assert store.get(key) == value
        assert (len(store), key in store, list(store.keys())) == (1, True, [key])
        state.apply(removed)
        assert store.get(key) is None
        assert (len(store), key in store) == (0, False)


def test_in_sync_is_said_by_each_source() -> None:
    state = MeshState()
    assert state.is_in_sync([])
    assert not state.is_in_sync(["file"])
    state.apply(InSync("file"))
    assert state.is_in_sync(["file"])
    assert not state.is_in_sync(["file", "xds"])


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ({}, ["a", "b", "c"]),
        ({"app": "web"}, ["a", "b"]),
        ({"app": "web", "tier": "front"}, ["a"]),
        ({"app": "web", "tier": "back"}, []),
        ({"app": "none"}, []),
    ],
)
def test_selectors(selector, found) -> None:
    state = MeshState()
    for workload in (
        make_workload("c", labels={"app": "db"}),
        make_workload("b", labels={"app": "web"}),
        make_workload("a", labels={"app": "web", "tier": "front"}),
        make_workload("d", labels={"app": "web", "tier": "front"}, namespace="bank"),
    ):
        state.apply(WorkloadAdded(workload))
    selected = state.select("shop", Labels(selector) if selector else NO_LABELS)
    assert [workload.name for workload in selected] == found


def test_a_stamp_is_the_same_until_the_selection_may_differ() -> None:
    state = MeshState()
    web, everything = Labels({"app": "web", "tier": "front"}), NO_LABELS

    def stamps() -> list[object]:
        return [state.selection_stamp("shop", selector) for selector in (web, everything)]

    def check(event: Event, *, web_changes: bool, shop_changes: bool) -> None:
        before = stamps()
        assert all(one is two for one, two in zip(before, stamps(), strict=True))
        state.apply(event)
        changed = [one is not two for one, two in zip(before, stamps(), strict=True)]
        assert changed == [web_changes, shop_changes]

    other = make_workload("db", labels={"app": "db"})
    check(WorkloadRemoved(WEB.uid), web_changes=False, shop_changes=False)
    check(WorkloadAdded(other), web_changes=False, shop_changes=True)
    check(WorkloadAdded(WEB), web_changes=True, shop_changes=True)
    check(WorkloadAdded(replace(WEB, healthy=False)), web_changes=True, shop_changes=True)
    check(WorkloadAdded(replace(WEB, labels=NO_LABELS)), web_changes=True, shop_changes=True)
    check(WorkloadAdded(replace(other, namespace="bank", identity=BANK)), **NEITHER_WEB)
    check(WorkloadRemoved(WEB.uid), web_changes=False, shop_changes=True)


def test_a_replaced_value_leaves_no_trace_in_any_index() -> None:
    state = MeshState()
    state.apply(WorkloadAdded(WEB))
    moved = replace(WEB, addresses=(ip("10.0.0.2"),), labels=NO_LABELS, node="node2")
    state.apply(WorkloadAdded(moved))
    assert set(state.workloads_by_address) == {ip("10.0.0.2")}
    assert not state.workloads_by_node["node1"]
    assert not set(state.workloads_by_label)
    assert list(state.workloads_by_node["node2"]) == [WEB.uid]


@settings(deadline=None)
@given(st.lists(worlds(), max_size=4))
def test_every_index_says_what_the_values_say(moments) -> None:
    state, have = MeshState(), EMPTY
    for want in moments:
        state.apply_all(events_between(have, want))
        have = want
    assert state.workloads.by_key() == have.workloads
    check_index(state.workloads, state.workloads_by_address, own_addresses)
    check_index(state.workloads, state.workloads_by_node, lambda w: [w.node])
    check_index(
        state.workloads,
        state.workloads_by_label,
        lambda w: [(w.namespace, *pair) for pair in w.labels.items()],
    )
    check_index(state.services, state.services_by_vip, lambda s: s.vips)
    check_index(state.services, state.services_by_namespace, lambda s: [s.namespace])


def check_index(store: Store, index, facets) -> None:
    expected: dict = {}
    for key, value in store.by_key().items():
        for facet in facets(value):
            expected.setdefault(facet, set()).add(key)
    assert {facet: set(index[facet]) for facet in index} == expected
    assert index.shared == {facet for facet, keys in expected.items() if len(keys) > 1}
    assert all(index.count(facet) == len(keys) for facet, keys in expected.items())
    assert list(store.values()) == [store[key] for key in store.keys()]  # noqa: SIM118
