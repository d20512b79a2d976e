# SPDX-License-Identifier: Apache-2.0
"""The difference of two mappings, and the order in which a sink applies it."""

from hypothesis import given
from hypothesis import strategies as st
from mesh_world import AMBIENT, make_service, make_workload, state_of, world

from mesh.compile import IdTable, NodeConfig, compile_mesh
from mesh.diff import ORDER, Patch, apply, diff, diff_tables
from mesh.model.labels import Labels
from mesh.model.namespace import Namespace
from mesh.tables import Tables

MAPPINGS = st.dictionaries(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 2)))


@given(MAPPINGS, MAPPINGS)
def test_a_patch_leads_from_have_to_want_and_does_nothing_more(have, want) -> None:
    before = dict(have)
    patch = diff(have, want)
    assert apply(patch, have) == want
    assert have == before
    assert all(key not in have or have[key] != row for key, row in patch.upserts.items())
    assert set(patch.removes) == have.keys() - want.keys()
    assert bool(patch) == (have != want)


def test_nothing_is_looked_at_where_nothing_changed() -> None:
    have = {1: float("nan")}  # unequal to itself: a look would show
    assert diff(have, have) == Patch()
    assert not diff(have, have)


def test_the_order_is_referent_first_and_removal_the_other_way_round() -> None:
    web = make_workload("web", "10.0.0.1", labels={"app": "web"})
    service = make_service("web", "10.96.0.1", selector=Labels({"app": "web"}))
    full = compile_mesh(
        state_of(world(Namespace("shop", AMBIENT), web, service)),
        node=NodeConfig("node1"),
        ids=IdTable(),
    )
    growth, end = diff_tables(Tables(), full), diff_tables(full, Tables())
    assert [table for table, _ in growth.upserts()] == list(ORDER)
    assert list(growth.removes()) == []
    assert [table for table, _ in end.removes()] == list(reversed(ORDER))
    assert list(end.upserts()) == []
    assert growth
    assert not diff_tables(full, full)
