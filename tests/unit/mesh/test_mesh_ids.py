# SPDX-License-Identifier: Apache-2.0
"""Numbers stay with their names, through restarts and absences, and are not given twice."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from mesh_world import make_workload, state_of, world

from mesh.compile import IdTable, IdTableError, NodeConfig, compile_mesh
from mesh.compile.ids import _Numbers, frontend_name
from mesh.model.address import Family
from mesh.model.service import Protocol, ServiceName
from mesh.model.workload import WorkloadUid

UIDS = st.sampled_from([WorkloadUid(f"Kubernetes//Pod/shop/{name}") for name in "abcdef"])


class IdMachine(RuleBasedStateMachine):
    """Any order of asking, storing and collecting."""

    @initialize()
    def start(self) -> None:
        self.ids = IdTable()
        self.held: dict[WorkloadUid, int] = {}
        self.given: set[int] = set()

    @rule(uid=UIDS)
    def ask(self, uid: WorkloadUid) -> None:
        before = self.ids.revision
        number = self.ids.workload_id(uid)
        if uid in self.held:
            assert number == self.held[uid]
            assert self.ids.revision == before
        else:
            assert number not in self.given  # not even after collection, for 2**32 turns
            assert self.ids.revision == before + 1
        self.held[uid] = number
        self.given.add(number)
        assert self.ids.workload_uid(number) == uid

    @rule()
    def restart(self) -> None:
        self.ids = IdTable.from_json(self.ids.to_json())

    @rule(live=st.sets(UIDS))
    def collect(self, live: set[WorkloadUid]) -> None:
        gone = self.held.keys() - live
        assert self.ids.collect(workloads=live, services=[], frontends=[]) == len(gone)
        for uid in gone:
            assert self.ids.workload_uid(self.held.pop(uid)) is None

    @invariant()
    def no_number_is_zero_or_shared(self) -> None:
        numbers = list(self.held.values())
        assert 0 not in numbers
        assert len(set(numbers)) == len(numbers)


TestIds = IdMachine.TestCase


def test_the_kinds_are_numbered_apart_and_survive_a_restart() -> None:
    ids = IdTable()
    service = ServiceName("shop", "web")
    frontend = frontend_name(service, 80, Protocol.TCP, Family.V6)
    assert frontend == "shop/web:80/TCP/6"
    assert ids.workload_id(WorkloadUid("w")) == 1
    assert ids.service_id(service) == 1
    assert ids.frontend_id(frontend) == 1
    again = IdTable.from_json(ids.to_json())
    assert again.service_id(ServiceName("shop", "db")) == 2
    assert again.service_id(service) == 1
    assert again.frontend_id(frontend) == 1
    assert again.collect(workloads=[], services=[service], frontends=[frontend]) == 2


def test_a_workload_that_comes_back_has_its_number_again_and_no_one_else_gets_it() -> None:
    ids, node = IdTable(), NodeConfig("node1")
    web, db = make_workload("web", "10.0.0.1"), make_workload("db", "10.0.0.1")

    def number() -> int:
        return next(iter(tables.peers))

    tables = compile_mesh(state_of(world(web)), node=node, ids=ids)
    first = number()
    tables = compile_mesh(state_of(world(db)), node=node, ids=ids)
    assert number() != first
    ids = IdTable.from_json(ids.to_json())
    tables = compile_mesh(state_of(world(web)), node=node, ids=ids)
    assert number() == first


def test_numbers_go_round_past_those_still_held_and_end_with_a_sentence() -> None:
    numbers = _Numbers(maximum=3)
    assert [numbers.number(name) for name in "abc"] == [1, 2, 3]
    with pytest.raises(IdTableError, match="all 3 numbers are taken"):
        numbers.number("d")
    assert numbers.collect(["a", "c"]) == 1
    assert numbers.number("d") == 2
    assert numbers.collect(["d"]) == 2
    assert [numbers.number(name) for name in "ef"] == [3, 1]


GOOD = json.loads(IdTable().to_json())


@pytest.mark.parametrize(
    ("stored", "sentence"),
    [
        ("", "not JSON"),
        ("[]", "not the format 1"),
        ('{"format": 2}', "not the format 1"),
        ('{"format": 1}', "has no workloads"),
        (json.dumps({**GOOD, "services": {}}), "services of the id table are malformed"),
        (
            json.dumps({**GOOD, "services": {"last": -1, "numbers": {}}}),
            "last number of services is not one",
        ),
        (
            json.dumps({**GOOD, "frontends": {"last": 1, "numbers": {"a": 0}}}),
            "id of 'a' in frontends",
        ),
        (
            json.dumps({**GOOD, "frontends": {"last": 1, "numbers": {"a": True}}}),
            "id of 'a' in frontends",
        ),
        (
            json.dumps({**GOOD, "workloads": {"last": 1, "numbers": {"a": 2**32}}}),
            "id of 'a' in workloads",
        ),
        (
            json.dumps({**GOOD, "workloads": {"last": 1, "numbers": {"a": 1, "b": 1}}}),
            "two workloads of the id table have one number",
        ),
    ],
)
def test_a_stored_table_that_cannot_be_trusted(stored: str, sentence: str) -> None:
    with pytest.raises(IdTableError, match=sentence):
        IdTable.from_json(stored)


@given(st.binary() | st.text())
def test_no_stored_text_does_anything_else(stored) -> None:
    text = stored if isinstance(stored, str) else stored.decode("latin-1")
    with suppress(IdTableError):
        IdTable.from_json(text)
