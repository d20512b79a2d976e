# SPDX-License-Identifier: Apache-2.0
"""Values of the model check themselves: what is in hand is valid."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mesh_world import ip, make_service, make_workload

from mesh.model.address import (
    Family,
    address_order,
    family_of,
    normalise_address,
    parse_address,
    parse_unicast_address,
)
from mesh.model.errors import (
    InvalidAddressError,
    InvalidIdentityError,
    InvalidNameError,
    InvalidServiceError,
    InvalidWorkloadError,
    MeshError,
    ModelError,
)
from mesh.model.identity import Identity, parse_identity
from mesh.model.labels import NO_LABELS, Labels
from mesh.model.namespace import Namespace
from mesh.model.node import Node
from mesh.model.service import Endpoint, Protocol, ServiceName, ServicePort
from mesh.model.workload import WorkloadPort, pod_uid


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_the_ipv4_address(address: IPv4Address) -> None:
    assert parse_address(f"::ffff:{address}") == address
    assert normalise_address(IPv6Address(f"::ffff:{address}")) == address


@given(st.ip_addresses(), st.ip_addresses())
def test_addresses_have_one_order_over_both_families(one, two) -> None:
    assert (address_order(one) == address_order(two)) == (one == two)
    assert family_of(one) == one.version
    assert (family_of(one) is Family.V4) == isinstance(one, IPv4Address)


@pytest.mark.parametrize("text", ["", "10.1.1", "10.0.0.256", "10.0.0.1/8", "fd00:::1", "web", " "])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidAddressError, match="is not an IP address") as caught:
        parse_address(text)
    assert caught.value.value == text
    assert isinstance(caught.value, ModelError)
    assert isinstance(caught.value, MeshError)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("255.255.255.255", "broadcast"),
        ("fd00::1%eth0", "zone"),
    ],
)
def test_addresses_that_name_no_one_peer(text: str, kind: str) -> None:
    with pytest.raises(InvalidAddressError, match=kind):
        parse_unicast_address(text)


@pytest.mark.parametrize("text", ["10.0.0.1", "fd00::1", "192.0.2.7", "2001:db8::1"])
def test_addresses_that_a_workload_may_have(text: str) -> None:
    assert str(parse_unicast_address(text)) == text


NAME = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)


@given(st.from_regex(r"[a-z0-9._-]{1,30}", fullmatch=True), NAME, NAME)
def test_a_spiffe_id_reads_back(trust_domain: str, namespace: str, account: str) -> None:
    identity = Identity(trust_domain, namespace, account)
    assert str(identity) == f"spiffe://{trust_domain}/ns/{namespace}/sa/{account}"
    assert parse_identity(str(identity)) == identity


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "https://td/ns/a/sa/b",
        "SPIFFE://td/ns/a/sa/b",
        "spiffe://td/ns/a/sa/",
        "spiffe://td/ns//sa/b",
        "spiffe:///ns/a/sa/b",
        "spiffe://td/ns/a/sa/b/",
        "spiffe://td/ns/a/sa/b/c",
        "spiffe://td/ns/a/sa/b?x=1",
        "spiffe://td/ns/a/sa/b#x",
        "spiffe://td:80/ns/a/sa/b",
        "spiffe://u@td/ns/a/sa/b",
        "spiffe://Td/ns/a/sa/b",
        "spiffe://td/ns/A/sa/b",
        "spiffe://td/ns/a.b/sa/b",
        "spiffe://td/ns/a/sa/b\n",
        "spiffe://td/ns/a/sa/%62",
        "spiffe://td/ns/a/sa/..",
        "spiffe://td/ns/a/sa/" + "b" * 254,
        "spiffe://td/ns/a/sa/" + "b" * 3000,
    ],
)
def test_what_is_no_spiffe_id(text: str) -> None:
    with pytest.raises(InvalidIdentityError):
        parse_identity(text)


@pytest.mark.parametrize(
    "parts", [("", "a", "b"), ("a/b", "a", "b"), ("td", "a/b", "b"), ("td", "a", "b/c")]
)
def test_no_part_of_an_identity_can_smuggle_in_a_slash(parts) -> None:
    with pytest.raises(InvalidIdentityError):
        Identity(*parts)


def test_identities_have_an_order() -> None:
    assert Identity("a", "b", "c") < Identity("a", "b", "d") < Identity("b", "a", "a")


def test_labels() -> None:
    labels = Labels({"b": "2", "a": "1"})
    assert list(labels.items()) == [("a", "1"), ("b", "2")]
    assert labels == Labels({"a": "1", "b": "2"})
    assert hash(labels) == hash(Labels({"a": "1", "b": "2"}))
    assert labels != {"a": "1", "b": "2"}
    assert labels.get("a") == "1"
    assert labels.get("c") is None
    assert labels.first_of("c", "b", "a") == "2"
    assert Labels({"a": ""}).first_of("a") is None
    assert len(labels) == 2
    assert not len(NO_LABELS)
    assert repr(labels) == "Labels({'a': '1', 'b': '2'})"
    assert labels.match(NO_LABELS)
    assert labels.match(Labels({"a": "1"}))
    assert not labels.match(Labels({"a": "2"}))
    assert not labels.match(Labels({"a": "1", "c": "3"}))


def test_labels_do_not_change_with_what_they_were_made_of() -> None:
    pairs = {"a": "1"}
    labels = Labels(pairs)
    pairs["a"] = "2"
    assert labels.get("a") == "1"


def test_protocol_numbers_are_those_of_the_kernel() -> None:
    assert (Protocol.ANY, Protocol.TCP, Protocol.UDP) == (0, 6, 17)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_ports_out_of_range(port: int) -> None:
    for make in (
        lambda: ServicePort(port, 80),
        lambda: ServicePort(80, port),
        lambda: WorkloadPort("http", port, Protocol.TCP),
    ):
        with pytest.raises(InvalidServiceError, match=f"{port}, not within 1 to 65535"):
            make()


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: ServicePort(80, 80, Protocol.ANY), InvalidServiceError, "no protocol"),
        (
            lambda: make_service(
                "a", selector=Labels({"a": "b"}), endpoints=(Endpoint(pod_uid("a", "b")),)
            ),
            InvalidServiceError,
            "both a selector and endpoints",
        ),
        (lambda: make_service("a", selector=NO_LABELS), InvalidServiceError, "empty selector"),
        (lambda: make_service("a", "10.0.0.1", "10.0.0.1"), InvalidServiceError, "VIP twice"),
        (
            lambda: make_service("a", ports=(ServicePort(80, 1), ServicePort(80, 2))),
            InvalidServiceError,
            "port twice",
        ),
        (lambda: make_service("a.b"), InvalidNameError, "not a DNS label"),
        (lambda: make_service("a", namespace="A"), InvalidNameError, "not a DNS label"),
        (lambda: make_workload("A_b", "10.0.0.1"), ModelError, "not a DNS subdomain"),
        (
            lambda: make_workload("a", "10.0.0.1", "10.0.0.1"),
            InvalidWorkloadError,
            "an address twice",
        ),
        (
            lambda: make_workload("a", identity=Identity("td", "bank", "a")),
            InvalidWorkloadError,
            "of another namespace",
        ),
        (lambda: Namespace("a/b"), InvalidNameError, "namespace"),
        (lambda: Namespace("a" * 64), InvalidNameError, "namespace"),
        (lambda: Node("-a"), InvalidNameError, "node name"),
        (lambda: Node("a.b." + "c" * 250), InvalidNameError, "node name"),
    ],
)
def test_values_that_contradict_themselves(make, error, sentence) -> None:
    with pytest.raises(error, match=sentence):
        make()


def test_one_port_may_serve_both_protocols() -> None:
    ports = (ServicePort(53, 53), ServicePort(53, 53, Protocol.UDP))
    assert make_service("dns", ports=ports).key == ServiceName("shop", "dns")
    assert str(ServiceName("shop", "dns")) == "shop/dns"


def test_named_ports_and_uids() -> None:
    ports = (WorkloadPort("dns", 53, Protocol.UDP), WorkloadPort("dns", 54, Protocol.TCP))
    workload = make_workload("a", ports=ports)
    assert workload.port_named("dns", Protocol.TCP) == 54
    assert workload.port_named("dns", Protocol.UDP) == 53
    assert workload.port_named("http", Protocol.TCP) is None
    assert workload.uid == "Kubernetes//Pod/shop/a"
    assert pod_uid("shop", "a", cluster="east") == "east//Pod/shop/a"
    assert workload.addresses == ()
    assert ip("10.0.0.1") not in workload.addresses
