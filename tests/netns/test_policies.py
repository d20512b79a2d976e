# SPDX-License-Identifier: Apache-2.0
"""Policies of the mesh file, enforced between real pods by real agents, on one node and across."""

import sys
import time

import pytest
from netns_support import ENDED, PROGRAMS, STREAMS_PORT
from policy_support import (
    CLIENT,
    FAR,
    NEAR,
    STRANGER,
    STRICT,
    authorization,
    network_policy,
    selector,
)

from lab.process import wait_until
from lab.servers import HTTP_PORT

pytestmark = pytest.mark.netns


def get(lab, source, target, version=4):
    """How curl ends: 0 for an answer."""
    address = (lab.spec.address4 if version == 4 else lab.spec.address6)(target)
    host = f"[{address}]" if version == 6 else address
    return lab.curl(source, f"http://{host}:{HTTP_PORT}/")[0]


def refused(lab, source, target, version=4):
    started = time.monotonic()
    status = get(lab, source, target, version)
    assert time.monotonic() - started < 5, "a refusal must not take a timeout"
    return status in ENDED


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("target", [NEAR, FAR], ids=["same-node", "across"])
def test_a_network_policy_lets_in_who_it_names(lab, policies, target, version):
    policies(network_policy(target, ingress=[{"from": [{"podSelector": selector(CLIENT)}]}]))
    assert get(lab, CLIENT, target, version) == 0
    other = FAR if target == NEAR else NEAR
    assert refused(lab, other, target, version)
    policies(network_policy(target, ingress=[]))
    assert refused(lab, CLIENT, target, version)
    assert get(lab, CLIENT, other, version) == 0, "another pod is not touched"


def test_a_refused_connect_has_its_reason_on_both_nodes(lab, policies):
    policies(network_policy(FAR, ingress=[]))
    assert refused(lab, CLIENT, FAR)
    address = lab.spec.address4(FAR)
    wait_until(
        lambda: bool(lab.records(lab.two, direction="inbound", reason="network-policy")),
        seconds=5,
        what="the refusal in the record of the refusing node",
    )
    inbound = lab.records(lab.two, direction="inbound", reason="network-policy")
    assert inbound[0]["destination"] == f"{address}:{HTTP_PORT}"
    assert inbound[0]["source_identity"] == lab.spec.identity(CLIENT)
    assert lab.records(lab.one, direction="outbound", reason="connect-denied")


@pytest.mark.parametrize("target", [NEAR, FAR], ids=["same-node", "across"])
def test_egress_fails_at_connect(lab, policies, target):
    other = FAR if target == NEAR else NEAR
    rule = {"to": [{"podSelector": selector(other)}], "ports": [{"port": HTTP_PORT}]}
    policies(network_policy(CLIENT, egress=[rule]))
    assert get(lab, CLIENT, other) == 0
    assert get(lab, CLIENT, target) == 7


@pytest.mark.parametrize("target", [NEAR, FAR], ids=["same-node", "across"])
def test_principals_are_proven_by_certificate_and_by_nonce(lab, policies, target):
    principal = lab.spec.identity(CLIENT).removeprefix("spiffe://")
    policies(authorization(target, "ALLOW", {"principals": [principal]}))
    assert get(lab, CLIENT, target) == 0
    other = FAR if target == NEAR else NEAR
    assert refused(lab, other, target)
    policies(
        authorization(target, "ALLOW", {"namespaces": ["shop"]}),
        authorization(target, "DENY", {"principals": [principal]}),
    )
    assert refused(lab, CLIENT, target)
    assert get(lab, other, target) == 0


@pytest.mark.parametrize("target", [NEAR, FAR], ids=["from-another-node", "from-the-same"])
def test_strict_refuses_who_proves_nothing(lab, policies, target):
    assert get(lab, STRANGER, target) == 0
    policies(STRICT)
    assert refused(lab, STRANGER, target)
    assert get(lab, CLIENT, target) == 0


@pytest.mark.parametrize("how", ["hold", "wait"], ids=["used", "idle"])
@pytest.mark.parametrize("target", [NEAR, FAR], ids=["same-node", "across"])
def test_an_open_connection_ends_with_its_permission(lab, policies, target, how):
    """The one that is forbidden ends within a second of the edit's arrival; the other lives."""
    other = FAR if target == NEAR else NEAR
    policies(network_policy(target, ingress=[{}]))
    held = {}
    for name, source in (("cut", CLIENT), ("kept", other)):
        log = f"policy-{name}"
        lab.cluster.log(log).unlink(missing_ok=True)
        arguments = ("ask", lab.spec.address4(target), str(STREAMS_PORT), how, "8")
        command = [sys.executable, str(PROGRAMS / "streams.py"), *arguments]
        held[name] = lab.cluster.pod(source).start(command, log=lab.cluster.log(log))
    time.sleep(0.5)
    policies(network_policy(target, ingress=[{"from": [{"podSelector": selector(other)}]}]))
    wait_until(
        lambda: not held["cut"].running, seconds=2, what="the forbidden connection's end", alive=[]
    )
    assert held["kept"].running
    assert held["kept"].popen.wait(15) == 0
    assert held["cut"].popen.returncode != 0 or "Error" in str(lab.lines("policy-cut"))


def test_a_policy_that_cannot_be_read_changes_nothing(lab, policies):
    policies(network_policy(FAR, ingress=[]))
    document = lab.cluster.document()
    broken = network_policy(FAR, ingress=[{"form": []}])
    document["policies"] = [broken]
    lab.cluster.write_mesh(document)
    wait_until(
        lambda: "did you mean from" in str(lab.cluster.admin(lab.one, "/status")),
        seconds=10,
        what="the mistake in the status",
    )
    assert refused(lab, CLIENT, FAR)
