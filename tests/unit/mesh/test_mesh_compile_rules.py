# SPDX-License-Identifier: Apache-2.0
"""Each rule of the compiler, by an example that a person can follow."""

from dataclasses import replace

import pytest
from mesh_world import AMBIENT, MODE, ip, make_service, make_workload, state_of, world

from mesh.compile import Compiler, IdTable, NodeConfig, SameNode, compile_mesh
from mesh.model.events import ServiceAdded, WorkloadAdded, WorkloadRemoved
from mesh.model.labels import Labels
from mesh.model.namespace import Namespace
from mesh.model.service import Endpoint, Protocol, ServicePort
from mesh.model.workload import TunnelProtocol, WorkloadPort, pod_uid
from mesh.tables import FrontendKey, Route, Tables

SHOP = Namespace("shop", AMBIENT)


def compile_things(*things, same_node: SameNode = SameNode.DIRECT) -> Tables:
    node = NodeConfig("node1", same_node)
    return compile_mesh(state_of(world(*things)), node=node, ids=IdTable())


def behind(tables: Tables, vip: str, port: int, protocol: Protocol = Protocol.TCP) -> list:
    row = tables.frontends[FrontendKey(ip(vip), port, protocol)]
    rows = sorted(tables.endpoints.values(), key=lambda row: row.key)
    return [(str(e.address), e.port) for e in rows if e.key.frontend_id == row.frontend_id]


@pytest.mark.parametrize(
    ("node", "same_node", "mode", "route", "local", "enrolled"),
    [
        ("node1", SameNode.DIRECT, "ambient", Route.DIRECT, True, True),
        ("node1", SameNode.TUNNEL, "ambient", Route.TUNNEL, True, True),
        ("node2", SameNode.DIRECT, "ambient", Route.TUNNEL, False, True),
        ("node2", SameNode.TUNNEL, "ambient", Route.TUNNEL, False, True),
        ("node1", SameNode.TUNNEL, "none", Route.DIRECT, True, False),
        ("node2", SameNode.DIRECT, "none", Route.DIRECT, False, False),
    ],
)
def test_the_route_to_a_workload(node, same_node, mode, route, local, enrolled) -> None:
    web = make_workload("web", "10.0.0.1", "fd00::1", node=node, labels={MODE: mode})
    tables = compile_things(web, same_node=same_node)
    assert len(tables.workloads) == 2
    for row in tables.workloads.values():
        assert (row.route, row.local, row.enrolled) == (route, local, enrolled)


@pytest.mark.parametrize(
    ("pod", "namespace", "known", "enrolled"),
    [
        ({}, {}, None, False),
        ({}, {MODE: "ambient"}, None, True),
        ({}, {MODE: "none"}, None, False),
        ({MODE: "ambient"}, {}, None, True),
        ({MODE: "none"}, {MODE: "ambient"}, None, False),
        ({MODE: "odd"}, {MODE: "ambient"}, None, True),
        ({MODE: "none"}, {}, TunnelProtocol.HBONE, True),
        ({MODE: "ambient"}, {MODE: "ambient"}, TunnelProtocol.NONE, False),
    ],
)
def test_who_is_enrolled(pod, namespace, known, enrolled) -> None:
    web = make_workload("web", "10.0.0.1", labels=pod, tunnel_protocol=known)
    tables = compile_things(web, Namespace("shop", Labels(namespace)))
    assert (web.uid in tables.enrollments) == enrolled
    assert (web.identity in tables.svids) == enrolled
    assert [peer.enrolled for peer in tables.peers.values()] == [enrolled]


def test_a_namespace_that_was_never_named_enrolls_nobody() -> None:
    assert not compile_things(make_workload("web", "10.0.0.1")).enrollments


def test_host_network_is_never_enrolled_and_owns_no_address() -> None:
    agent = make_workload(
        "agent", "172.31.0.1", host_network=True, netns=None, labels={MODE: "ambient", "app": "x"}
    )
    other = replace(agent, uid=pod_uid("shop", "other"), name="other")
    service = make_service("x", "10.96.0.1", selector=Labels({"app": "x"}))
    tables = compile_things(SHOP, agent, other, service)
    assert not tables.workloads
    assert not tables.enrollments
    assert not tables.warnings
    assert behind(tables, "10.96.0.1", 80) == [("172.31.0.1", 8080)]  # one endpoint, said once


def test_only_workloads_of_this_node_are_enrolled_here() -> None:
    tables = compile_things(
        SHOP,
        make_workload("here", "10.0.0.1", account="one"),
        make_workload("there", "10.0.0.2", account="two", node="node2"),
    )
    assert list(tables.enrollments) == [pod_uid("shop", "here")]
    assert [svid.service_account for svid in tables.svids] == ["one"]
    assert len(tables.peers) == 2
    row = tables.enrollments[pod_uid("shop", "here")]
    assert row.netns == "/var/run/netns/shop-here"
    assert row.addresses == (ip("10.0.0.1"),)


def test_an_enrolled_workload_without_netns_is_said_aloud() -> None:
    tables = compile_things(SHOP, make_workload("web", "10.0.0.1", netns=None))
    assert not tables.enrollments
    assert len(tables.svids) == 1
    assert tables.warnings == (
        "workload shop/web is enrolled on this node but has no netns; it cannot be captured",
    )
    elsewhere = make_workload("web", "10.0.0.1", netns=None, node="node2")
    assert not compile_things(SHOP, elsewhere).warnings


def test_endpoints_have_the_family_of_the_vip_and_the_order_of_uids() -> None:
    tables = compile_things(
        make_workload("c", "10.0.0.3", "fd00::3", labels={"app": "web"}),
        make_workload("a", "10.0.0.1", labels={"app": "web"}),
        make_workload("b", "fd00::2", "10.0.0.2", "10.0.0.9", labels={"app": "web"}),
        make_workload("d", "10.0.0.4", labels={"app": "other"}),
        make_workload("e", "10.0.0.5", labels={"app": "web"}, namespace="bank"),
        make_service("web", "10.96.0.1", "fd96::1", selector=Labels({"app": "web"})),
    )
    assert behind(tables, "10.96.0.1", 80) == [
        ("10.0.0.1", 8080),
        ("10.0.0.2", 8080),
        ("10.0.0.3", 8080),
    ]
    assert behind(tables, "fd96::1", 80) == [("fd00::2", 8080), ("fd00::3", 8080)]


def test_an_unhealthy_workload_is_no_endpoint() -> None:
    web = make_workload("web", "10.0.0.1", labels={"app": "web"}, healthy=False)
    tables = compile_things(web, make_service("web", "10.96.0.1", selector=Labels({"app": "web"})))
    key = FrontendKey(ip("10.96.0.1"), 80, Protocol.TCP)
    assert tables.frontends[key].endpoint_count == 0
    assert not tables.endpoints
    assert ip("10.0.0.1") in tables.workloads  # by its own address it can be reached


def test_a_service_without_selector_and_endpoints_refuses() -> None:
    tables = compile_things(make_service("web", "10.96.0.1"))
    assert [row.endpoint_count for row in tables.frontends.values()] == [0, 0]


def test_a_vip_has_a_row_of_its_own_and_each_port_and_protocol_another() -> None:
    ports = (ServicePort(53, 53), ServicePort(53, 5353, Protocol.UDP))
    dns = make_workload("dns", "10.0.0.1", labels={"app": "dns"})
    service = make_service("dns", "10.96.0.1", ports=ports, selector=Labels({"app": "dns"}))
    tables = compile_things(dns, service)
    vip = ip("10.96.0.1")
    assert set(tables.frontends) == {
        FrontendKey(vip, 0, Protocol.ANY),
        FrontendKey(vip, 53, Protocol.TCP),
        FrontendKey(vip, 53, Protocol.UDP),
    }
    assert behind(tables, "10.96.0.1", 53) == [("10.0.0.1", 53)]
    assert behind(tables, "10.96.0.1", 53, Protocol.UDP) == [("10.0.0.1", 5353)]
    assert tables.frontends[FrontendKey(vip, 0, Protocol.ANY)].frontend_id == 0


def test_vips_of_one_family_share_a_frontend_id() -> None:
    tables = compile_things(make_service("web", "10.96.0.1", "10.96.0.2", "fd96::1"))
    ids = {key.address: row.frontend_id for key, row in tables.frontends.items() if key.port}
    assert ids[ip("10.96.0.1")] == ids[ip("10.96.0.2")] != ids[ip("fd96::1")]


def test_a_named_target_port_is_looked_up_at_each_workload() -> None:
    def web(name: str, address: str, *ports: WorkloadPort):
        return make_workload(name, address, labels={"app": "web"}, ports=ports)

    tables = compile_things(
        web("a", "10.0.0.1", WorkloadPort("http", 8080, Protocol.TCP)),
        web("b", "10.0.0.2", WorkloadPort("http", 9090, Protocol.TCP)),
        web("c", "10.0.0.3", WorkloadPort("http", 7070, Protocol.UDP)),
        web("d", "10.0.0.4"),
        make_service(
            "web",
            "10.96.0.1",
            ports=(ServicePort(80, "http"),),
            selector=Labels({"app": "web"}),
        ),
    )
    assert behind(tables, "10.96.0.1", 80) == [("10.0.0.1", 8080), ("10.0.0.2", 9090)]


def test_listed_endpoints() -> None:
    bank = make_workload("db", "10.0.0.1", namespace="bank")
    listed = (
        Endpoint(ip("192.0.2.1")),
        Endpoint(bank.uid),
        Endpoint(pod_uid("bank", "gone")),
        Endpoint(ip("10.0.0.1")),
    )
    tables = compile_things(bank, make_service("db", "10.96.0.1", endpoints=listed))
    assert behind(tables, "10.96.0.1", 80) == [("192.0.2.1", 8080), ("10.0.0.1", 8080)]
    assert [row.workload_id for row in tables.endpoints.values()] == [0, 1]
    named = make_service("db", "10.96.0.1", endpoints=listed, ports=(ServicePort(80, "http"),))
    assert behind(compile_things(bank, named), "10.96.0.1", 80) == []


def test_a_listed_address_is_the_workload_that_has_it() -> None:
    ports = (WorkloadPort("http", 8081, Protocol.TCP),)
    web = make_workload("web", "10.0.0.1", ports=ports)
    endpoint = (Endpoint(ip("10.0.0.1")),)
    service = make_service("web", "10.96.0.1", endpoints=endpoint, ports=(ServicePort(80, "http"),))
    assert behind(compile_things(web, service), "10.96.0.1", 80) == [("10.0.0.1", 8081)]
    tables = compile_things(replace(web, healthy=False), service)
    assert behind(tables, "10.96.0.1", 80) == []


def test_an_address_of_two_workloads_goes_to_the_enrolled_then_healthy_then_first() -> None:
    plain = make_workload("a", "10.0.0.1", "10.0.0.2", labels={MODE: "none"})
    ill = make_workload("b", "10.0.0.1", healthy=False)
    well = make_workload("c", "10.0.0.1", labels={"app": "web"})
    late = make_workload("d", "10.0.0.1", labels={"app": "web"})
    service = make_service("web", "10.96.0.1", selector=Labels({"app": "web"}))
    tables = compile_things(SHOP, plain, ill, well, late, service)
    owner = tables.peers[tables.workloads[ip("10.0.0.1")].workload_id]
    assert owner.name == "c"
    assert {peer.name: peer.addresses for peer in tables.peers.values()} == {
        "a": (ip("10.0.0.2"),),
        "b": (),
        "c": (ip("10.0.0.1"),),
        "d": (),
    }
    assert tables.enrollments[late.uid].addresses == ()
    assert behind(tables, "10.96.0.1", 80) == [("10.0.0.1", 8080)]
    assert tables.warnings == (
        (
            "address 10.0.0.1 is claimed by Kubernetes//Pod/shop/c and Kubernetes//Pod/shop/d and "
            "Kubernetes//Pod/shop/b and Kubernetes//Pod/shop/a; Kubernetes//Pod/shop/c has it"
        ),
    )


def test_services_may_share_a_vip_but_not_a_port_of_it() -> None:
    web = make_workload("web", "10.0.0.1", labels={"app": "web"})
    selector = Labels({"app": "web"})
    one = make_service("one", "10.96.0.1", selector=selector, ports=(ServicePort(80, 1),))
    ports = (ServicePort(80, 2), ServicePort(81, 3))
    two = make_service("two", "10.96.0.1", "10.96.0.2", selector=selector, ports=ports)
    tables = compile_things(web, one, two)
    assert behind(tables, "10.96.0.1", 80) == [("10.0.0.1", 1)]
    assert behind(tables, "10.96.0.1", 81) == [("10.0.0.1", 3)]
    assert behind(tables, "10.96.0.2", 80) == [("10.0.0.1", 2)]
    assert tables.warnings == (
        "VIP 10.96.0.1 port 80/TCP is claimed by shop/one and shop/two; shop/one has it",
    )
    alone = replace(two, vips=(ip("10.96.0.1"),))
    tables = compile_things(web, one, alone)
    assert len(tables.endpoints) == 2  # nothing is stored that no frontend refers to
    assert len(tables.services) == 2


def test_a_vip_that_is_a_workloads_address_is_said_aloud() -> None:
    tables = compile_things(make_workload("web", "10.0.0.1"), make_service("db", "10.0.0.1"))
    assert tables.warnings == (
        (
            "address 10.0.0.1 of Kubernetes//Pod/shop/web is also a VIP of shop/db; "
            "whoever dials it reaches the service"
        ),
    )


def test_what_telemetry_is_told() -> None:
    plain = make_workload("web-1", "10.0.0.1")
    labels = {
        "app": "a",
        "version": "v1",
        "service.istio.io/canonical-name": "n",
        "service.istio.io/canonical-revision": "r",
    }
    rich = make_workload("web-2", "10.0.0.2", labels=labels, cluster="east")
    tables = compile_things(plain, rich)
    told = {
        peer.name: (
            peer.canonical_name,
            peer.canonical_revision,
            peer.app,
            peer.version,
            peer.cluster,
        )
        for peer in tables.peers.values()
    }
    assert told == {
        "web-1": ("web-1", "latest", "web-1", "latest", "Kubernetes"),
        "web-2": ("n", "r", "a", "v1", "east"),
    }
    hostname = next(iter(compile_things(make_service("web")).services.values())).hostname
    assert hostname == "web.shop.svc.cluster.local"


def test_a_change_keeps_every_table_and_row_that_it_does_not_touch() -> None:
    web = make_workload("web", "10.0.0.1", labels={"app": "web"})
    other = make_workload("other", "10.0.0.2")
    service = make_service("web", "10.96.0.1", selector=Labels({"app": "web"}))
    compiler, node = Compiler(IdTable()), NodeConfig("node1")
    state = state_of(world(SHOP, web, other, service))
    before = compiler.compile(state, node=node)
    state.workloads.insert(web.uid, replace(web, healthy=False))
    after = compiler.compile(state, node=node)
    assert after.frontends != before.frontends
    assert after.workloads is before.workloads
    assert after.peers is before.peers
    assert after.enrollments is before.enrollments
    state.workloads.insert(web.uid, replace(web, netns="/proc/1/ns/net"))
    moved = compiler.compile(state, node=node)
    assert moved.enrollments != before.enrollments
    assert moved.enrollments[other.uid] is before.enrollments[other.uid]
    assert moved.workloads is before.workloads


def test_another_setting_of_the_node_recompiles_everything() -> None:
    compiler = Compiler(IdTable())
    state = state_of(world(SHOP, make_workload("web", "10.0.0.1")))
    direct = compiler.compile(state, node=NodeConfig("node1"))
    tunnel = compiler.compile(state, node=NodeConfig("node1", SameNode.TUNNEL))
    assert direct.workloads[ip("10.0.0.1")].route is Route.DIRECT
    assert tunnel.workloads[ip("10.0.0.1")].route is Route.TUNNEL


def test_a_kept_selection_is_dropped_with_the_selector_and_with_the_address() -> None:
    compiler, node = Compiler(IdTable()), NodeConfig("node1")
    web = make_workload("web", "10.0.0.1", labels={"app": "web"})
    service = make_service("web", "10.96.0.1", selector=Labels({"app": "web"}))
    state = state_of(world(web, service))
    assert behind(compiler.compile(state, node=node), "10.96.0.1", 80)
    claimant = make_workload("new", "10.0.0.1", namespace="bank", labels={MODE: "ambient"})
    state.apply(WorkloadAdded(claimant))
    assert not behind(compiler.compile(state, node=node), "10.96.0.1", 80)
    state.apply(WorkloadRemoved(claimant.uid))
    assert behind(compiler.compile(state, node=node), "10.96.0.1", 80)
    narrower = Labels({"app": "web", "tier": "front"})
    state.apply(ServiceAdded(replace(service, selector=narrower)))
    assert not behind(compiler.compile(state, node=node), "10.96.0.1", 80)
