# SPDX-License-Identifier: Apache-2.0
"""What a good mesh file means, and what each bad one is told: file, line, field, reason."""

import json
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import pytest
from bad_mesh_text import BAD, TWICE
from hypothesis import given, settings
from hypothesis import strategies as st
from mesh_text import BASE, GOOD, HEAD, parse, problems, spoil

from agent.errors import ConfigError
from agent.sources.file import read_mesh_file
from agent.sources.problems import MeshFileError, Problem, format_field
from agent.sources.settings import (
    AgentSettings,
    CaCertificates,
    FileCertificates,
    TunnelSettings,
)
from mesh.compile import SameNode
from mesh.model.identity import Identity
from mesh.model.labels import Labels
from mesh.model.service import Endpoint, Protocol, ServicePort
from mesh.model.workload import WorkloadPort, pod_uid

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def test_what_a_good_file_means() -> None:
    mesh_file = parse(GOOD)
    assert mesh_file.trust_domain == "cluster.local"
    assert mesh_file.agent == AgentSettings()
    (node,), (namespace,) = mesh_file.nodes, mesh_file.namespaces
    assert (node.name, node.addresses, node.cgroup) == ("node1", (ip_address("172.31.0.1"),), None)
    assert namespace.labels == Labels({"istio.io/dataplane-mode": "ambient"})
    (web,) = mesh_file.workloads
    assert web.uid == "Kubernetes//Pod/shop/web"
    assert web.identity == Identity("cluster.local", "shop", "web")
    assert web.addresses == (ip_address("10.0.0.1"), ip_address("fd00::1"))
    assert (web.netns, web.healthy, web.host_network) == ("/var/run/netns/web", True, False)
    (service,) = mesh_file.services
    assert service.hostname == "web.shop.svc.cluster.local"
    assert service.ports == (ServicePort(80, 8080),)
    assert service.selector == Labels({"app": "web"})


def test_every_field_that_may_be_left_out() -> None:
    mesh_file = parse(
        HEAD
        + """\
cluster: east
agent:
  sameNode: tunnel
  certificates: {provider: ca, address: "[fd00::1]:15012", trustAnchor: root.pem,
                 tokenFile: /run/token, lifetime: 90s}
  tunnel: {workers: 2, congestionControl: bbr, spinMicroseconds: 50}
nodes:
  - {name: node1, cgroup: lab/kubepods}
workloads:
  - {name: a, namespace: n, node: node1, addresses: [10.0.0.1], healthy: false,
     ports: [{name: dns, port: 53, protocol: UDP}]}
  - {name: b, namespace: n, node: node1, addresses: [172.31.0.1], hostNetwork: true}
services:
  - name: s
    namespace: n
    hostname: s.example.org
    ports: [{port: 53, targetPort: dns, protocol: UDP, name: dns}, {port: 80}]
    endpoints: [{workload: n/a}, {address: 192.0.2.1}]
"""
    )
    assert mesh_file.agent == AgentSettings(
        same_node=SameNode.TUNNEL,
        certificates=CaCertificates(
            address="[fd00::1]:15012",
            trust_anchor=BASE / "root.pem",
            token_file=Path("/run/token"),
            lifetime_seconds=90,
        ),
        tunnel=TunnelSettings(workers=2, congestion_control="bbr", spin_microseconds=50),
    )
    a, b = mesh_file.workloads
    assert a.identity == Identity("cluster.local", "n", "default")
    assert a.ports == (WorkloadPort("dns", 53, Protocol.UDP),)
    assert (a.cluster, a.healthy, b.host_network) == ("east", False, True)
    (service,) = mesh_file.services
    assert service.ports == (ServicePort(53, "dns", Protocol.UDP, "dns"), ServicePort(80, 80))
    assert service.endpoints == (
        Endpoint(pod_uid("n", "a", cluster="east")),
        Endpoint(ip_address("192.0.2.1")),
    )


def test_certificates_from_files_and_the_units_of_a_lifetime() -> None:
    nodes = "nodes: [{name: n}]\n"
    text = HEAD + nodes + "agent: {certificates: {provider: files, directory: certs}}\n"
    assert parse(text).agent.certificates == FileCertificates(directory=BASE / "certs")
    ca = "agent: {certificates: {provider: ca, address: 'a:1', trustAnchor: r%s}}\n"
    for written, seconds in (
        ("", 86400),
        (", lifetime: 2m", 120),
        (", lifetime: 24h", 86400),
        (", lifetime: 7d", 604800),
    ):
        certificates = parse(HEAD + nodes + ca % written).agent.certificates
        assert isinstance(certificates, CaCertificates)
        assert certificates.lifetime_seconds == seconds
        assert certificates.token_file is None


def test_the_examples_are_good() -> None:
    found = sorted(EXAMPLES.glob("*.yaml"))
    assert found
    for path in found:
        if b"kind: Mesh" in path.read_bytes():
            assert read_mesh_file(path).nodes


@pytest.mark.parametrize("case", BAD, ids=[f"{case[0][:20]}-{case[1][:25]}" for case in BAD])
def test_what_a_bad_file_is_told(case: tuple[str, ...]) -> None:
    old, new, *messages = case
    assert problems(spoil(old, new)) == [f"mesh.yaml:{message}" for message in messages]


@pytest.mark.parametrize("case", TWICE, ids=[case[1].split("\n")[1][:45] for case in TWICE])
def test_nothing_may_be_claimed_twice(case: tuple[str, str, str]) -> None:
    old, new, message = case
    assert problems(spoil(old, new)) == [f"mesh.yaml:{message}"]


def test_host_network_workloads_share_their_nodes_addresses() -> None:
    host = "  - {name: h%d, namespace: shop, node: node1, addresses: [172.31.0.1], "
    host += "hostNetwork: true}\n"
    assert not problems(spoil("workloads:\n", "workloads:\n" + host % 1 + host % 2))


def test_the_same_netns_path_on_another_node_is_another_netns() -> None:
    other = "  - {name: w2, namespace: shop, node: node2, addresses: [10.0.0.2], "
    other += "netns: /var/run/netns/web}\n"
    text = spoil("workloads:\n", "workloads:\n" + other)
    assert not problems(text.replace("nodes:\n", "nodes:\n  - {name: node2}\n"))


def test_every_problem_is_reported_at_once_and_each_once() -> None:
    text = spoil('"10.0.0.1"', '"10.1.1"').replace("node: node1", "node: nope")
    text = text.replace("selector: {app: web}", "endpoints: [{workload: shop/web}]")
    text = text.replace("port: 80", "port: 0")
    told = problems(text)
    assert [line.split(": ")[1] for line in told] == [
        "workloads[0].addresses[0]",  # its node is not asked: the entry is broken as it is
        "services[0].ports[0].port",
    ]


def test_a_long_list_of_problems_is_cut() -> None:
    text = HEAD + "nodes: [{name: n}]\nworkloads:\n" + "  - {name: A}\n" * 30
    told = problems(text)
    assert len(told) == 51
    assert told[-1] == "mesh.yaml: and 70 more problems"


@pytest.mark.parametrize("text", ["[]", "a", "1", "null"])
def test_a_file_that_is_no_mapping(text: str) -> None:
    (told,) = problems(text)
    assert told.startswith("mesh.yaml:1: must be a mapping")


def test_a_section_of_the_wrong_type() -> None:
    told = problems(HEAD + "nodes: {}\nworkloads: [1, null]\nservices: 3\n")
    assert told == [
        "mesh.yaml:4: nodes: must be a list, not {}",
        "mesh.yaml:5: workloads[0]: must be a mapping, not 1",
        "mesh.yaml:5: workloads[1]: must be a mapping, but is empty",
        "mesh.yaml:6: services: must be a list, not 3",
    ]


def test_fields_as_people_write_them() -> None:
    assert format_field(()) == ""
    assert format_field(("a", 0, "b-c", "istio.io/x")) == 'a[0].b-c["istio.io/x"]'


def test_the_error_is_a_configuration_error_that_carries_its_problems() -> None:
    error = MeshFileError("f", [Problem(2, 1, "b", "y"), Problem(1, 1, "", "x")])
    assert isinstance(error, ConfigError)
    assert str(error) == "f:1: x\nf:2: b: y"
    assert [problem.line for problem in error.problems] == [1, 2]


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(
    section=st.sampled_from(["agent", "nodes", "namespaces", "workloads", "services"]),
    value=JSON_LIKE,
    data=st.data(),
)
def test_no_file_does_anything_but_be_read_or_be_refused(section, value, data) -> None:
    text = GOOD if data.draw(st.booleans()) else HEAD
    text = "\n".join(line for line in text.split("\n") if not line.startswith(f"{section}:"))
    entry = [value] if data.draw(st.booleans()) else value
    with suppress(MeshFileError):
        parse(f"{section}: {json.dumps(entry)}\n{text}")
