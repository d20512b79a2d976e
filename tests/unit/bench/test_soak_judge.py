# SPDX-License-Identifier: Apache-2.0
"""Which failures of a soak are explained, and which are not; and that wrong bytes are seen."""

import pytest

from bench.soak.judge import CONNECTION_ENDED, KILLED, Fault, Judge
from bench.soak.leaks import Holding, compare, growth
from bench.soak.pattern import BLOCK, Checker, Pattern

NODES = {"a": "one", "b": "one", "c": "two"}


def operation(**changes):
    return {
        "kind": "short", "source": "a", "target": "c", "pods": ["c"], "who": "c", "seed": 1,
        "began": 9.0, "used": 0.0, "ended": 10.0, "error": "ECONNRESET", "detail": "", "bytes": 5,
    } | changes  # fmt: skip


def fault(**changes):
    what = {"errors": CONNECTION_ENDED, "ended": 10.5} | changes
    return Fault("test", "", 9.5, **what)


@pytest.mark.parametrize(
    ("what", "done"),
    [
        (fault(), operation()),
        (fault(pods=frozenset({"c"})), operation()),
        (fault(pods=frozenset({"c"})), operation(who="", pods=["b", "c"])),
        (fault(between_nodes=True), operation()),
        (fault(ended=8.0), operation()),
        (fault(), operation(used=11.0, ended=30.0)),
        (fault(errors=KILLED, between_nodes=True, ends_early="one"), operation(error="EOF")),
        (fault(errors=KILLED, between_nodes=True, ends_early="two"), operation(error="SHORT")),
        (fault(errors=frozenset({"TIMEOUT"})), operation(error="TIMEOUT", ended=50.0)),
    ],
)
def test_a_failure_that_a_fault_brings_is_explained(what, done):
    judge = Judge(NODES)
    judge.judge(done, [what])
    assert not judge.unexplained
    assert judge.explained.total() == 1


@pytest.mark.parametrize(
    ("what", "done"),
    [
        (fault(), operation(error="WRONG")),
        (fault(errors=KILLED), operation(error="WRONG")),
        (fault(errors=frozenset()), operation()),
        (fault(), operation(error="EOF")),
        (fault(), operation(ended=9.4)),
        (fault(), operation(ended=14.0)),
        (fault(), operation(used=14.0, ended=30.0)),
        (fault(pods=frozenset({"b"})), operation()),
        (fault(between_nodes=True), operation(who="b", pods=["b"])),
        (fault(errors=KILLED, between_nodes=True, ends_early="two"), operation(error="EOF")),
        (fault(errors=KILLED, between_nodes=True, ends_early="one"), operation(error="SHORT")),
        (fault(errors=frozenset({"TIMEOUT"})), operation(error="TIMEOUT", began=20.0, ended=60.0)),
    ],
)
def test_a_failure_that_no_fault_brings_is_not_explained(what, done):
    judge = Judge(NODES)
    judge.judge(done, [what])
    assert len(judge.unexplained) == 1


@pytest.mark.parametrize(
    ("told", "unexplained"),
    [
        ({"seed": "1", "end": "eof", "wrong_at": -1, "whole": True}, 0),
        ({"seed": "1", "end": "eof", "wrong_at": -1, "whole": False}, 1),
        ({"seed": "1", "end": "ConnectionResetError", "wrong_at": -1, "whole": False}, 1),
        ({"seed": "2", "end": "eof", "wrong_at": 7, "whole": False}, 2),
        (None, 1),
    ],
)
def test_what_only_the_server_saw_is_held_against_what_the_client_believes(told, unexplained):
    judge = Judge(NODES)
    judge.judge(operation(kind="server ends first", error=""), [])
    if told:
        judge.told_by_server(told)
    judge.settle([])
    assert len(judge.unexplained) == unexplained


def stream(seed, size):
    pattern, data = Pattern(seed), b""
    while len(data) < size:
        data += pattern.read(len(data), size - len(data))
    return data


def test_the_right_bytes_are_right_however_they_are_cut():
    data, check = stream(3, 2 * BLOCK + 77), Checker(Pattern(3), 2 * BLOCK + 77)
    for start in range(0, len(data), 9999):
        check.take(data[start : start + 9999])
    assert check.complete


@pytest.mark.parametrize("change", ["flip", "swap", "drop", "more", "other"])
def test_wrong_bytes_are_seen(change):
    size = 3 * BLOCK
    data, check = stream(3, size), Checker(Pattern(3), size)
    data = {
        "flip": data[:100_000] + bytes([data[100_000] ^ 1]) + data[100_001:],
        "swap": data[BLOCK : 2 * BLOCK] + data[:BLOCK] + data[2 * BLOCK :],
        "drop": data[:500] + data[501:],
        "more": data + b"x",
        "other": stream(4, size),
    }[change]
    check.take(data)
    assert check.wrong_at >= 0
    assert not check.complete
    if change == "flip":
        assert check.wrong_at == 100_000


def test_what_is_left_over_is_named():
    before = Holding(threads=5, maps={"nonces": 0, "flow_records": 0})
    before.fds["socket"] = 10
    after = Holding(threads=16, tunnels=4, connections=1, maps={"nonces": 2, "flow_records": 3})
    after.fds["socket"] = 14
    assert len(compare(before, after, waited=10)) == 3
    assert len(compare(before, after, waited=200)) == 4
    after.fds["socket"] = 20
    assert len(compare(before, after, waited=10)) == 4
    assert compare(before, before, waited=200) == []


def test_memory_that_grows_is_told_from_memory_that_plays():
    flat = [(float(i), 50_000_000 + i % 7 * 100_000) for i in range(100)]
    rising = [(float(i), 50_000_000 + i * 400_000) for i in range(100)]
    assert growth(flat)[2] == ""
    assert "grew" in growth(rising)[2]
