# SPDX-License-Identifier: Apache-2.0
"""The tunnel's sink against a core that records: order, differences, removals."""

from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from app_rows import peer, tables

from agent.tunnel.baggage import format_baggage
from agent.tunnel.sink import TunnelSink, TunnelWant
from mesh.tables import Tables, WorkloadId


class RecordingCore:
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.refuse: set[str] = set()

    def put_services(self, services: list[Any]) -> None:
        self.calls.append(("put_services", services))

    def put_peers(self, peers: list[Any]) -> None:
        self.calls.append(("put_peers", [p[0] for p in peers]))

    def remove_peers(self, ids: list[int]) -> None:
        self.calls.append(("remove_peers", ids))

    def put_svid(self, identity: str, **_material: Any) -> None:
        if identity in self.refuse:
            raise ValueError("malformed")
        self.calls.append(("put_svid", identity))

    def remove_svid(self, identity: str) -> None:
        self.calls.append(("remove_svid", identity))

    def put_workload(self, workload_id: int, **values: Any) -> None:
        self.calls.append(("put_workload", (workload_id, values["baggage"])))

    def remove_workload(self, workload_id: int, **_drain: int) -> None:
        self.calls.append(("remove_workload", workload_id))

    def take(self) -> list[tuple[str, Any]]:
        calls, self.calls = self.calls, []
        return calls

    def names(self) -> list[str]:
        return [name for name, _ in self.take()]


@dataclass(frozen=True)
class Pod:
    uid: str = "Kubernetes//Pod/shop/curl"
    workload_id: int = 1
    identity: str = "spiffe://cluster.local/ns/shop/sa/curl"
    netns_fd: int = 10
    netns_cookie: int = 77
    addresses: tuple[Any, ...] = (ip_address("10.0.0.1"),)
    capture_listeners: tuple[int, ...] = (11, 12)
    inbound_listeners: tuple[int, ...] = (13,)
    mark: int = 0x6D65


@dataclass(frozen=True)
class Material:
    chain: tuple[bytes, ...] = (b"leaf",)
    private_key: bytes = b"key"
    roots: tuple[bytes, ...] = (b"root",)


KNOWN = tables(peer(1, "curl"), peer(2, "web"), peer(3, "outside", enrolled=False))
WANT = TunnelWant(tables=KNOWN, pods={Pod.uid: Pod()}, svids={Pod.identity: Material()})


def applied() -> tuple[RecordingCore, TunnelSink]:
    core, sink = RecordingCore(), TunnelSink(remove_drain_ms=1000)
    sink.apply(core, WANT, may_remove=True)  # type: ignore[arg-type]
    return core, sink


def test_referents_come_first_and_only_enrolled_workloads_are_peers() -> None:
    core, _ = applied()
    calls = core.take()
    assert [name for name, _ in calls] == ["put_services", "put_peers", "put_svid", "put_workload"]
    assert calls[1][1] == [1, 2]


def test_nothing_changed_calls_nothing() -> None:
    core, sink = applied()
    core.take()
    sink.apply(core, WANT, may_remove=True)  # type: ignore[arg-type]
    same_rows = TunnelWant(tables=tables(*KNOWN.peers.values()), pods=WANT.pods, svids=WANT.svids)
    sink.apply(core, same_rows, may_remove=True)  # type: ignore[arg-type]
    assert core.take() == []


def test_nothing_is_removed_before_every_source_is_in_sync() -> None:
    core, sink = applied()
    core.take()
    sink.apply(core, TunnelWant(), may_remove=False)  # type: ignore[arg-type]
    assert core.take() == []
    sink.apply(core, TunnelWant(), may_remove=True)  # type: ignore[arg-type]
    removed = ["remove_workload", "remove_svid", "remove_peers", "put_services"]
    assert core.names() == removed, "a service under an empty name is forgotten"
    sink.apply(core, WANT, may_remove=True)  # type: ignore[arg-type]
    assert core.names() == ["put_services", "put_peers", "put_svid", "put_workload"]


def test_a_peer_that_leaves_the_mesh_is_removed_though_its_row_stays() -> None:
    core, sink = applied()
    core.take()
    left = tables(peer(1, "curl"), peer(2, "web", enrolled=False))
    sink.apply(core, replace(WANT, tables=left), may_remove=True)  # type: ignore[arg-type]
    assert core.take() == [("remove_peers", [2])]


def test_a_pod_made_anew_on_another_node_loses_its_tunnels_before_it_is_known_again() -> None:
    core, sink = applied()
    core.take()
    moved = replace(KNOWN.peers[WorkloadId(2)], node="elsewhere")
    known = Tables(peers={**KNOWN.peers, WorkloadId(2): moved}, services=KNOWN.services)
    sink.apply(core, replace(WANT, tables=known), may_remove=True)  # type: ignore[arg-type]
    assert core.take() == [("remove_peers", [2]), ("put_peers", [2])]


def test_a_renewed_certificate_is_put_alone() -> None:
    core, sink = applied()
    core.take()
    renewed = replace(WANT, svids={Pod.identity: Material(chain=(b"new",))})
    sink.apply(core, renewed, may_remove=True)  # type: ignore[arg-type]
    assert core.take() == [("put_svid", Pod.identity)]


def test_a_new_pod_under_the_same_uid_replaces_the_old_one() -> None:
    core, sink = applied()
    core.take()
    again = replace(WANT, pods={Pod.uid: Pod(netns_cookie=78)})
    sink.apply(core, again, may_remove=False)  # type: ignore[arg-type]
    assert core.names() == ["remove_workload", "put_workload"]


def test_new_labels_reach_the_baggage_without_a_removal() -> None:
    core, sink = applied()
    core.take()
    renamed = replace(KNOWN.peers[WorkloadId(1)], canonical_revision="v2")
    known = Tables(peers={**KNOWN.peers, WorkloadId(1): renamed}, services=KNOWN.services)
    sink.apply(core, replace(WANT, tables=known), may_remove=True)  # type: ignore[arg-type]
    ((name, (number, baggage)),) = core.take()
    assert (name, number) == ("put_workload", 1)
    assert "service.version=v2" in baggage


def test_one_refused_certificate_does_not_stop_the_rest_and_is_tried_again() -> None:
    core, sink = RecordingCore(), TunnelSink(remove_drain_ms=1000)
    core.refuse = {Pod.identity}
    sink.apply(core, WANT, may_remove=True)  # type: ignore[arg-type]
    assert core.names() == ["put_services", "put_peers", "put_workload"]
    assert sink.refused == {Pod.identity: "malformed"}
    core.refuse = set()
    sink.apply(core, WANT, may_remove=True)  # type: ignore[arg-type]
    assert core.names() == ["put_svid"]
    assert sink.refused == {}


def test_baggage_has_ztunnels_names_and_encodes_values() -> None:
    row = replace(peer(1, "curl"), canonical_revision="a b,c")
    assert format_baggage(row) == (
        "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.pod.name=curl,"
        "service.name=curl,service.version=a%20b%2Cc"
    )


def test_a_pod_with_other_listeners_is_updated_in_place() -> None:
    """An address or interface more must not end what is open."""
    core, sink = applied()
    core.take()
    more = replace(WANT, pods={Pod.uid: Pod(capture_listeners=(11, 12, 14))})
    sink.apply(core, more, may_remove=True)  # type: ignore[arg-type]
    assert core.names() == ["put_workload"]
