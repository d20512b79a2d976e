# SPDX-License-Identifier: Apache-2.0
"""The rows depend on what is known, never on how it came to be known.

Lists of worlds are replayed forwards, reversed, with events in another order, one event at a time,
squashed into one step, and with empty worlds between; after each the Tables must be those that are
compiled from scratch.
"""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from mesh_world import EMPTY, World, events_between, state_of, worlds

from mesh.compile import Compiler, IdTable, NodeConfig, SameNode, compile_mesh
from mesh.diff import ORDER, apply, diff_tables
from mesh.model.enrollment import is_enrolled
from mesh.model.events import Event
from mesh.state import MeshState
from mesh.tables import Route, Tables

WORLD_LISTS = st.lists(worlds(), min_size=1, max_size=4)
CONFIGS = st.builds(NodeConfig, st.just("node1"), st.sampled_from(SameNode))


def check_replay(steps: list[tuple[list[Event], World]], node: NodeConfig) -> None:
    state, ids = MeshState(), IdTable()
    compiler = Compiler(ids)
    for events, moment in steps:
        state.apply_all(events)
        incremental = compiler.compile(state, node=node)
        assert incremental == compile_mesh(state_of(moment), node=node, ids=ids)


def in_steps(moments: list[World]) -> list[tuple[list[Event], World]]:
    return [(events_between(have, want), want) for have, want in pairwise([EMPTY, *moments])]


@settings(max_examples=60, deadline=None)
@given(WORLD_LISTS, CONFIGS, st.randoms(use_true_random=False))
def test_no_path_to_a_world_leaves_a_trace(moments, node, random) -> None:
    check_replay(in_steps(moments), node)
    check_replay(in_steps(moments[::-1]), node)
    check_replay(in_steps([each for moment in moments for each in (moment, EMPTY)]), node)
    reordered = [(random.sample(events, len(events)), want) for events, want in in_steps(moments)]
    check_replay(reordered, node)
    squashed = [event for events, _ in in_steps(moments) for event in events]
    check_replay([(squashed, moments[-1])], node)


@settings(max_examples=40, deadline=None)
@given(worlds(), CONFIGS, st.randoms(use_true_random=False))
def test_even_new_numbers_do_not_depend_on_the_order_of_events(moment, node, random) -> None:
    events = events_between(EMPTY, moment)
    state = MeshState()
    state.apply_all(random.sample(events, len(events)))
    tables = compile_mesh(state, node=node, ids=IdTable())
    assert tables == compile_mesh(state_of(moment), node=node, ids=IdTable())


@settings(max_examples=40, deadline=None)
@given(worlds(), worlds(), CONFIGS)
def test_a_compile_after_each_event_ends_where_one_compile_does(before, after, node) -> None:
    state, ids = state_of(before), IdTable()
    compiler = Compiler(ids)
    for event in events_between(before, after):
        compiler.compile(state, node=node)
        state.apply(event)
    end = compiler.compile(state, node=node)
    assert end == compile_mesh(state_of(after), node=node, ids=ids)
    assert compiler.compile(state, node=node) is end


@settings(max_examples=60, deadline=None)
@given(worlds(), worlds(), CONFIGS)
def test_patches_lead_from_any_tables_to_any_other(before, after, node) -> None:
    ids = IdTable()
    have = compile_mesh(state_of(before), node=node, ids=ids)
    want = compile_mesh(state_of(after), node=node, ids=ids)
    patch = diff_tables(have, want)
    for table in ORDER:
        part = getattr(patch, table)
        assert apply(part, getattr(have, table)) == getattr(want, table)
        assert part.upserts.keys().isdisjoint(part.removes)
    assert bool(patch) == any(getattr(have, t) != getattr(want, t) for t in ORDER)


@settings(max_examples=60, deadline=None)
@given(worlds(), worlds())
def test_at_no_point_of_a_patch_does_a_row_refer_to_nothing(before, after) -> None:
    node, ids = NodeConfig("node1"), IdTable()
    have = compile_mesh(state_of(before), node=node, ids=ids)
    want = compile_mesh(state_of(after), node=node, ids=ids)
    tables = {table: dict(getattr(have, table)) for table in ORDER}
    patch = diff_tables(have, want)
    check_references(tables)
    for table, rows in patch.upserts():
        tables[table].update(rows)
        check_references(tables)
    for table, keys in patch.removes():
        for key in keys:
            del tables[table][key]
        check_references(tables)
    assert tables == {table: getattr(want, table) for table in ORDER}


def check_references(tables: dict) -> None:
    for row in tables["frontends"].values():
        assert row.service_id in tables["services"]
        for index in range(row.endpoint_count):
            assert (row.frontend_id, index) in {
                (key.frontend_id, key.index) for key in tables["endpoints"]
            }
    for row in tables["endpoints"].values():
        assert row.workload_id == 0 or row.workload_id in tables["peers"]
    for row in tables["workloads"].values():
        assert row.workload_id in tables["peers"]
    for row in tables["enrollments"].values():
        assert row.workload_id in tables["peers"]
        assert row.identity in tables["svids"]


@settings(max_examples=100, deadline=None)
@given(worlds(), CONFIGS)
def test_what_holds_of_all_tables(moment, node) -> None:
    tables = compile_mesh(state_of(moment), node=node, ids=IdTable())
    for table in ORDER:
        assert all(row.key == key for key, row in getattr(tables, table).items())
    check_routes(moment, tables, node)
    check_frontends(moment, tables)
    captured = [row.netns and row.key for row in tables.enrollments.values()]
    assert set(captured) == {
        uid
        for uid, workload in moment.workloads.items()
        if workload.node == "node1"
        and workload.netns
        and is_enrolled(workload, moment.namespaces.get(workload.namespace))
    }


def check_routes(moment: World, tables: Tables, node: NodeConfig) -> None:
    claimed = {
        address
        for workload in moment.workloads.values()
        if not workload.host_network
        for address in workload.addresses
    }
    assert tables.workloads.keys() == claimed
    for address, row in tables.workloads.items():
        peer = tables.peers[row.workload_id]
        assert address in peer.addresses
        assert row.local == (peer.node == "node1")
        assert row.enrolled == peer.enrolled
        direct = not row.enrolled or (row.local and node.same_node is SameNode.DIRECT)
        assert row.route is (Route.DIRECT if direct else Route.TUNNEL)


def check_frontends(moment: World, tables: Tables) -> None:
    vips = {vip for service in moment.services.values() for vip in service.vips}
    assert {key.address for key in tables.frontends if key.port == 0} == vips
    counts = {row.frontend_id: row.endpoint_count for row in tables.frontends.values()}
    for key, row in tables.endpoints.items():
        assert key.index < counts[key.frontend_id]
        if row.workload_id:
            assert moment.workloads[tables.peers[row.workload_id].uid].healthy
    for key, row in tables.frontends.items():
        behind = [e for e in tables.endpoints.values() if e.key.frontend_id == row.frontend_id]
        assert len(behind) == row.endpoint_count or key.port == 0
        assert key.port == 0 or all(e.address.version == key.address.version for e in behind)
