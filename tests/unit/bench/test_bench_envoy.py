# SPDX-License-Identifier: Apache-2.0
"""The configuration that Envoy is started with, and who is measured against whom."""

from pathlib import Path

from bench.envoy import client_config, server_config
from bench.topology import PORTS, bench_spec, far_routes, near_routes

SPEC = bench_spec("nmb")


def test_envoy_carries_each_port_to_the_same_port() -> None:
    client = client_config(SPEC, Path("/c"))["static_resources"]
    server = server_config(SPEC, Path("/c"))["static_resources"]
    hosts = {
        listener["filter_chains"][0]["filters"][0]["typed_config"]["tunneling_config"]["hostname"]
        for listener in client["listeners"]
    }
    manager = server["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    domains = {host["domains"][0] for host in manager["route_config"]["virtual_hosts"]}
    assert hosts == domains == {f"10.81.2.30:{port}" for port in PORTS}


def test_both_ends_prove_who_they_are() -> None:
    client = client_config(SPEC, Path("/c"))["static_resources"]["clusters"][0]
    listener = server_config(SPEC, Path("/c"))["static_resources"]["listeners"][0]
    ends = [client, listener["filter_chains"][0]]
    wanted = [
        end["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"][
            "match_typed_subject_alt_names"
        ][0]["matcher"]["exact"]
        for end in ends
    ]
    assert wanted == [
        "spiffe://cluster.local/ns/envoy/sa/server",
        "spiffe://cluster.local/ns/envoy/sa/client",
    ]
    assert ends[1]["transport_socket"]["typed_config"]["require_client_certificate"] is True


def test_only_envoys_client_dials_its_own_pod() -> None:
    dialled = {route.system: route.address for route in far_routes(SPEC)}
    assert dialled == {
        "direct": "10.81.2.20",
        "envoy": "10.81.1.30",
        "nodemesh": "10.81.2.10",
    }


def test_near_routes_stay_on_their_node() -> None:
    for route in near_routes(SPEC):
        assert SPEC.pod(route.client).node == SPEC.pod(route.server).node
    assert [route.system for route in near_routes(SPEC)] == ["direct", "nodemesh"]
    assert all(SPEC.pod(r.client).node != SPEC.pod(r.server).node for r in far_routes(SPEC))
