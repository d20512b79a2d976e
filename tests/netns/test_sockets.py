# SPDX-License-Identifier: Apache-2.0
"""Whatever way an application opens its connection, it is captured and sees what it should."""

import ipaddress
import time

import pytest

from lab.servers import HTTP_PORT, start_web

pytestmark = pytest.mark.netns


def check(lab, pod, variant, address, *, server="shop/web-2", path="tunnel", port=HTTP_PORT):
    """Dial, then hold every connection against what both ends and the agent saw."""
    for seen in lab.sockets(pod, variant, address, port):
        peer, local, answer = seen["peer"], seen["local"], seen["answer"]
        six = ":" in answer["client"]
        own = lab.spec.address6(pod) if six else lab.spec.address4(pod)
        assert answer["pod"] == server
        assert (answer["client"], local[0].removeprefix("::ffff:")) == (own, own)
        assert peer[1] == port
        source = f"[{own}]:{local[1]}" if six else f"{own}:{local[1]}"
        assert_path(lab, pod, source, path)


def assert_path(lab, pod, source, path):
    node = lab.spec.pod(pod).node
    side = "outbound" if path == "tunnel" else "inbound"
    deadline = time.monotonic() + 5
    while not (found := lab.records(node, source=source, direction=side)):
        assert time.monotonic() < deadline, f"no record of {source} at {node}"
        time.sleep(0.05)
    assert found[0]["path"] == path
    assert found[0]["source_identity"] == lab.spec.identity(pod)


VARIANTS = (
    "plain", "nonblocking", "retried", "unspecified", "bound-address", "bound-device", "fast-open",
    "fast-open-connect",
)  # fmt: skip


@pytest.mark.parametrize("variant", [*VARIANTS, "mapped", "multipath", "both-families"])
def test_tunnel_v4(lab, variant):
    check(lab, "shop/client", variant, lab.spec.address4("shop/web-2"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_tunnel_v6(lab, variant):
    check(lab, "shop/client", variant, lab.spec.address6("shop/web-2"))


@pytest.mark.parametrize("variant", [*VARIANTS, "mapped"])
def test_same_node(lab, variant):
    # No room for the nonce beside a Fast Open cookie: such a connection takes the tunnel.
    address = lab.spec.address4("shop/web-1")
    found = lab.sockets("shop/client", variant, address, HTTP_PORT)
    assert [seen["answer"]["pod"] for seen in found] == ["shop/web-1"]
    assert found[0]["answer"]["client"] == lab.spec.address4("shop/client")


def test_outside_the_mesh(lab):
    for variant in VARIANTS:
        found = lab.sockets("shop/client", variant, lab.spec.address4("legacy/old-2"), HTTP_PORT)
        assert found[0]["answer"]["pod"] == "legacy/old-2"
        assert found[0]["answer"]["client"] == lab.spec.address4("shop/client")


@pytest.mark.parametrize("family", ["4", "6"])
def test_connected_udp(lab, family):
    service = lab.spec.service("echo")
    vip = service.vip4 if family == "4" else service.vip6
    own = lab.spec.address4("shop/client") if family == "4" else lab.spec.address6("shop/client")
    (seen,) = lab.sockets("shop/client", "connected-udp", vip, 7)
    assert seen["peer"] == [vip, 7]
    assert ipaddress.ip_address(seen["answer"][0].strip("[]")) == ipaddress.ip_address(own)
    assert seen["answer"][1:] == [str(seen["local"][1]), "hello"]


def test_one_source_port_to_two_destinations(lab):
    """Two captured sockets of one source port differ only in their capture port."""
    server = start_web(lab.cluster, "shop/echo")
    try:
        address = lab.spec.address4("shop/web-2")
        one, two = lab.sockets("shop/client", "same-port", address, HTTP_PORT)
    finally:
        server.stop()
    assert one["local"] == two["local"]
    assert [one["answer"]["pod"], two["answer"]["pod"]] == ["shop/web-2", "shop/echo"]
    assert one["peer"][0] != two["peer"][0]


def test_loopback_is_not_touched(lab):
    for address in ("127.0.0.1", "::1"):
        (seen,) = lab.sockets("shop/web-1", "plain", address, HTTP_PORT)
        assert seen["peer"][0] == address
        assert seen["answer"]["client"] == address


def test_a_pod_of_two_interfaces_is_captured(lab):
    check(lab, "shop/multi", "plain", lab.spec.address4("shop/web-2"))
    check(lab, "shop/multi", "plain", lab.spec.address6("shop/web-2"))


def test_a_pod_calls_its_own_service(lab):
    vip = lab.spec.service("web").vip4
    seen = {lab.sockets("shop/web-1", "plain", vip, 80)[0]["answer"]["pod"] for _ in range(30)}
    assert seen == {"shop/web-1", "shop/web-2"}
