# SPDX-License-Identifier: Apache-2.0
"""The change from one Tables to the next, done to a map, gives what the next would from scratch."""

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.rows import map_changes
from mesh.model.service import Protocol
from mesh.tables import (
    EndpointKey,
    EndpointRow,
    FrontendKey,
    FrontendRow,
    Route,
    ServiceId,
    Tables,
    WorkloadId,
    WorkloadRow,
)

ADDRESSES = [ip_address(text) for text in ("10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2")]
WORKLOADS = st.builds(
    WorkloadRow,
    key=st.sampled_from(ADDRESSES),
    workload_id=st.integers(1, 3).map(WorkloadId),
    route=st.sampled_from(Route),
    enrolled=st.booleans(),
    local=st.booleans(),
)
ENDPOINTS = st.builds(
    EndpointRow,
    key=st.builds(EndpointKey, st.integers(1, 2), st.integers(0, 2)),
    address=st.sampled_from(ADDRESSES),
    port=st.integers(1, 3),
    workload_id=st.integers(0, 2).map(WorkloadId),
)
FRONTENDS = st.builds(
    FrontendRow,
    key=st.builds(
        FrontendKey, st.sampled_from(ADDRESSES), st.integers(0, 2), st.sampled_from(Protocol)
    ),
    frontend_id=st.integers(1, 2),
    service_id=st.integers(1, 2).map(ServiceId),
    endpoint_count=st.integers(0, 2),
)


@st.composite
def successions(draw):
    """Tables, and others that have some of the same rows, equal ones, changed ones and new ones."""
    first, second = {}, {}
    parts = {"workloads": WORKLOADS, "endpoints": ENDPOINTS, "frontends": FRONTENDS}
    for name, rows in parts.items():
        before = {row.key: row for row in draw(st.lists(rows, max_size=5))}
        kept = [
            row if draw(st.booleans()) else replace(row)
            for row in before.values()
            if draw(st.booleans())
        ]
        first[name] = before
        second[name] = {row.key: row for row in [*kept, *draw(st.lists(rows, max_size=3))]}
    return Tables(**first), Tables(**second)


def whole(tables):
    return {name: change.content for name, change in map_changes(None, tables).items()}


@given(successions())
def test_a_change_leads_where_a_start_would(succession):
    before, after = succession
    held = {name: dict(content) for name, content in whole(before).items()}
    for name, change in map_changes(before, after).items():
        held[name].update(change.content)
        assert change.gone is not None
        for key in change.gone:
            del held[name][key]
    assert held == whole(after)


def test_a_table_that_is_the_same_object_needs_no_work():
    row = WorkloadRow(
        key=IPv4Address("10.0.0.1"),
        workload_id=WorkloadId(1),
        route=Route.TUNNEL,
        enrolled=True,
        local=False,
    )
    tables = Tables(workloads={row.key: row})
    assert map_changes(tables, replace(tables, endpoints={})).keys() == {"endpoints"}


@pytest.mark.parametrize("change", [{"enrolled": False}, {"local": True}, {"route": Route.DENY}])
def test_addresses_share_a_value_only_if_they_say_the_same(change):
    one = WorkloadRow(
        key=IPv4Address("10.0.0.1"),
        workload_id=WorkloadId(1),
        route=Route.TUNNEL,
        enrolled=True,
        local=False,
    )
    same, other = (
        replace(one, key=IPv4Address("10.0.0.2")),
        replace(one, key=IPv4Address("10.0.0.3"), **change),
    )
    rows = {row.key: row for row in (one, same, other)}
    first, second, third = whole(Tables(workloads=rows))["workloads"].values()
    assert first == second != third
