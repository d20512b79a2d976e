# SPDX-License-Identifier: Apache-2.0
"""What `nodemesh explain`, `events` and `policies` say of real agents, beside what traffic does."""

import json
import time

import pytest
from netns_support import ENDED
from policy_support import CLIENT, FAR, NEAR, STRANGER, authorization, network_policy, selector

from lab.process import wait_until
from lab.servers import ECHO_PORT, HTTP_PORT

pytestmark = pytest.mark.netns

VERSIONS = pytest.mark.parametrize("version", [4, 6])
PLACES = pytest.mark.parametrize("target", [NEAR, FAR], ids=["same-node", "across"])


def run(lab, node, *arguments):
    """Exit status and output of `nodemesh …` at a node."""
    return lab.cluster.ask_command(node, [*arguments, "--node", node])


def address(lab, pod, version):
    return (lab.spec.address4 if version == 4 else lab.spec.address6)(pod)


def explain(lab, node, source, target, *, version=4, port=HTTP_PORT, protocol="TCP"):
    ends = [address(lab, end, version) if "/" in end else end for end in (source, target)]
    options = ("--port", str(port), "--protocol", protocol, "-o", "json")
    status, said = run(lab, node, "explain", *ends, *options)
    assert status in (0, 3, 4), said
    found = json.loads(said)
    assert found["verdict"] == {0: "allowed", 3: "refused", 4: "unknown"}[status]
    return found


def half(found, direction):
    return next(one for one in found["directions"] if one["direction"] == direction)


def curl(lab, source, target, version):
    host = address(lab, target, version)
    host = f"[{host}]" if version == 6 else host
    return lab.curl(source, f"http://{host}:{HTTP_PORT}/")[0]


@VERSIONS
@PLACES
def test_ingress_as_the_receivers_node_judges_it(lab, policies, target, version):
    node = lab.spec.pod(target).node
    policies(network_policy(target, ingress=[{"from": [{"podSelector": selector(CLIENT)}]}]))
    allowed = explain(lab, node, CLIENT, target, version=version)
    rule = half(allowed, "ingress")["decided_by"]
    assert (rule["policy"], rule["kind"]) == ("NetworkPolicy shop/np", "network")
    line = lab.cluster.mesh_file.read_text().splitlines()[rule["line"] - 1]
    assert rule["file"] == str(lab.cluster.mesh_file)
    assert line.strip(), "the line exists"
    assert curl(lab, CLIENT, target, version) == 0
    policies(network_policy(target, ingress=[{"from": [{"podSelector": selector(STRANGER)}]}]))
    refused = half(explain(lab, node, CLIENT, target, version=version), "ingress")
    assert (refused["verdict"], refused["reason"]) == ("refused", "network-policy")
    assert [one["policy"] for one in refused["would_permit"]] == ["NetworkPolicy shop/np"]
    assert curl(lab, CLIENT, target, version) in ENDED


@VERSIONS
@PLACES
def test_egress_as_the_senders_node_judges_it(lab, policies, target, version):
    other = FAR if target == NEAR else NEAR
    rule = {"to": [{"podSelector": selector(other)}], "ports": [{"port": HTTP_PORT}]}
    policies(network_policy(CLIENT, egress=[rule]))
    refused = explain(lab, lab.one, CLIENT, target, version=version)
    assert half(refused, "egress")["reason"] == "network-policy"
    assert curl(lab, CLIENT, target, version) == 7
    allowed = explain(lab, lab.one, CLIENT, other, version=version)
    assert half(allowed, "egress")["decided_by"]["rule"].startswith("egress[0]")
    assert allowed["verdict"] == "allowed"
    wrong = explain(lab, lab.one, CLIENT, other, version=version, port=HTTP_PORT + 1)
    assert half(wrong, "egress")["verdict"] == "refused"


@PLACES
def test_udp_is_another_question(lab, policies, target):
    ports = [{"port": HTTP_PORT, "protocol": "TCP"}]
    policies(network_policy(CLIENT, egress=[{"ports": ports}]))
    assert half(explain(lab, lab.one, CLIENT, target), "egress")["verdict"] == "allowed"
    found = explain(lab, lab.one, CLIENT, target, port=ECHO_PORT, protocol="UDP")
    assert half(found, "egress")["verdict"] == "refused"
    assert found["attested"] == "no"


def test_each_node_answers_for_its_pods_and_the_command_asks_both(lab, policies):
    policies(network_policy(FAR, ingress=[]))
    query = f"from={CLIENT}&to={FAR}&port={HTTP_PORT}"
    here = lab.cluster.admin(lab.one, f"/explain?{query}")
    assert here["verdict"] == "unknown"
    assert half(here, "ingress")["node"] == lab.two
    there = lab.cluster.admin(lab.two, f"/explain?{query}")
    assert half(there, "ingress")["verdict"] == "refused"
    assert half(there, "egress")["verdict"] == "unknown"
    assert here["route"] == there["route"] == "tunnel"
    both = explain(lab, lab.one, CLIENT, FAR)
    assert half(both, "ingress")["reason"] == "network-policy"
    assert half(both, "egress")["verdict"] == "allowed"
    assert both["verdict"] == "refused"
    assert both["route"] == "tunnel"
    assert both["attested"] == "certificate"
    said = run(lab, lab.one, "explain", CLIENT, FAR, "--port", str(HTTP_PORT))[1]
    assert f"asked of {lab.two}" in said
    assert said.startswith("REFUSED")


def test_what_does_not_exist_is_a_sentence(lab):
    for ends in (("shop/nobody", NEAR), (CLIENT, "10.0.0"), (CLIENT, "shop/nobody")):
        status, said = run(lab, lab.one, "explain", *ends)
        assert status == 1
        assert "no workload" in said
        assert "Traceback" not in said
    status, said = run(lab, lab.one, "explain", CLIENT, NEAR, "--port", "70000")
    assert status == 1
    assert "65535" in said


class Follower:
    """`nodemesh events -f` at a node."""

    def __init__(self, lab, node, *options):
        self.lab, self.log = lab, lab.cluster.log("events")
        self.log.unlink(missing_ok=True)
        command = ["events", "-f", "-o", "json", *options, "--node", node]
        self.process = lab.cluster.start_command(node, command, log=self.log)
        # It has no way to say that it listens: what is allowed shows it.
        time.sleep(2)

    def events(self, **wanted):
        found = [line for line in self.lab.lines("events") if "verdict" in line]
        return [one for one in found if all(one[name] == value for name, value in wanted.items())]

    def wait(self, seconds, **wanted):
        wait_until(
            lambda: bool(self.events(**wanted)),
            seconds=seconds,
            what=f"the event {wanted}",
            alive=[self.process],
        )
        return self.events(**wanted)[0]


@pytest.fixture
def follow(lab):
    started = []

    def start(node, *options):
        started.append(Follower(lab, node, *options))
        return started[-1]

    yield start
    for one in started:
        one.process.stop()


@VERSIONS
@PLACES
def test_a_refused_connect_is_seen_as_it_happens(lab, policies, follow, target, version):
    policies(network_policy(CLIENT, egress=[]))
    live = follow(lab.one, "--verdict", "denied", "--from", CLIENT)
    assert curl(lab, CLIENT, target, version) == 7
    event = live.wait(5, destination_workload=target)
    assert (event["reason"], event["direction"]) == ("network-policy", "outbound")
    assert event["told_by"] == "kernel"
    _, kept = run(lab, lab.one, "events", "--to", target, "-o", "json")
    assert event in json.loads(kept)


@PLACES
def test_a_refusal_by_a_rule_names_it(lab, policies, follow, target):
    node = lab.spec.pod(target).node
    deny = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "no-client", "namespace": "shop"},
        "spec": {
            "selector": selector(target),
            "action": "DENY",
            "rules": [{"from": [{"source": {"namespaces": ["shop"]}}]}],
        },
    }
    policies(deny)
    live = follow(node, "--to", target)
    assert curl(lab, CLIENT, target, 4) in ENDED
    event = live.wait(5, reason="policy-deny")
    assert event["rule"]["policy"] == "AuthorizationPolicy shop/no-client"
    assert event["direction"] == "inbound"
    assert event["source_workload"] == CLIENT
    metrics = lab.cluster.metrics(node)
    by = "kernel" if target == NEAR else "tunnel"
    labels = f'by="{by}",direction="inbound",reason="policy-deny",verdict="denied"'
    assert f"nodemesh_verdicts_total{{{labels}}}" in metrics
    labels = 'direction="inbound",policy="AuthorizationPolicy shop/no-client",verdict="denied"'
    assert f"nodemesh_policy_refusals_total{{{labels}}}" in metrics


def test_what_dry_run_would_refuse_passes_and_names_its_rule(lab, policies, follow):
    deny = authorization(NEAR, "DENY", {"namespaces": ["shop"]})
    deny["metadata"]["annotations"] = {"istio.io/dry-run": "true"}
    policies(deny)
    live = follow(lab.one, "--to", NEAR, "--verdict", "dry-run")
    assert curl(lab, CLIENT, NEAR, 4) == 0
    event = live.wait(5, reason="policy-deny")
    assert event["rule"]["policy"] == "AuthorizationPolicy shop/deny"
    labels = 'direction="inbound",policy="AuthorizationPolicy shop/deny",verdict="dry-run"'
    assert f"nodemesh_policy_refusals_total{{{labels}}}" in lab.cluster.metrics(lab.one)


def test_what_is_allowed_is_seen_too_and_others_are_not(lab, follow):
    live = follow(lab.one, "--verdict", "allowed", "--from", CLIENT, "--to", NEAR)
    assert curl(lab, CLIENT, FAR, 4) == 0
    assert curl(lab, CLIENT, NEAR, 4) == 0
    live.wait(5, destination_workload=NEAR)
    assert not live.events(destination_workload=FAR)


def test_policies_are_listed_with_whom_they_select(lab, policies):
    policies(network_policy(NEAR, ingress=[{}]))
    (policy,) = lab.cluster.admin(lab.one, "/policies")
    assert (policy["kind"], policy["namespace"], policy["name"]) == ("NetworkPolicy", "shop", "np")
    assert policy["pods"] == [NEAR]
    assert policy["rules"] == 1
    assert lab.cluster.admin(lab.two, "/policies")[0]["pods"] == []
    status, said = run(lab, lab.one, "policies")
    assert status == 0
    assert NEAR in said
    assert "1 NetworkPolicy; 1 rules in 1 sets" in run(lab, lab.one, "status")[1]
    metrics = lab.cluster.metrics(lab.one)
    assert 'nodemesh_policies{kind="NetworkPolicy"} 1.0' in metrics
    assert "nodemesh_policy_problem 0.0" in metrics
    assert 'nodemesh_policy_rows{what="rules"} 1.0' in metrics
