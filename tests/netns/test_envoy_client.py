# SPDX-License-Identifier: Apache-2.0
"""Envoy as the HBONE client of an agent: identity, traffic, ends and refusals."""

import json
import time

import pytest
from envoy_support import Envoy, Tunnel, client_config, foreign_authority, foreign_trust_domain
from netns_support import STREAMS_PORT

from lab.process import wait_until
from lab.servers import HTTP_PORT

pytestmark = pytest.mark.netns

FAR, WEB, OTHER = "shop/far", "shop/web-1", "shop/web-2"
HERE = "127.0.0.1"
CLOSED_PORT = 9
(STREAMS, HTTP, CLOSED, ELSEWHERE, NONSENSE, UNSIGNED, ABROAD, MISTAKEN) = range(11001, 11009)


@pytest.fixture(scope="module")
def envoy(shared_lab):
    """An Envoy in the pod whose node has no agent, with a listener for each case."""
    lab, spec = shared_lab, shared_lab.spec
    own, web, address = spec.identity(FAR), spec.identity(WEB), spec.address4(WEB)
    svid = lab.certificate(own, "envoy-client")
    unsigned = foreign_authority(lab, own)
    abroad = foreign_trust_domain(lab, "spiffe://elsewhere/ns/shop/sa/far")
    streams = f"{address}:{STREAMS_PORT}"
    tunnels = [
        Tunnel(STREAMS, streams, svid, web),
        Tunnel(HTTP, f"{address}:{HTTP_PORT}", svid, web),
        Tunnel(CLOSED, f"{address}:{CLOSED_PORT}", svid, web),
        Tunnel(ELSEWHERE, f"{spec.address4(OTHER)}:{STREAMS_PORT}", svid, web),
        Tunnel(NONSENSE, f"{address}:99999", svid, web),
        Tunnel(UNSIGNED, streams, unsigned, web),
        Tunnel(ABROAD, streams, abroad, web),
        Tunnel(MISTAKEN, streams, svid, spec.identity("shop/client")),
    ]
    started = Envoy.start(lab, FAR, "envoy-client", client_config(tunnels, address))
    yield started
    started.process.kill()


def logged(envoy, port):
    """What Envoy's access log says last of a listener; it is flushed once a second."""
    return envoy.logged(lambda entry: entry.get("port") == str(port))


def answer(entry):
    """The agent's response headers as Envoy serialises them, in one text."""
    return json.dumps(entry["answer"])


def streams_reached(lab):
    """How many connections the application behind the tunnel has seen end."""
    return sum(line["event"] == "closed" for line in lab.lines("streams-shop-web-1"))


def test_the_application_sees_the_client_and_the_agent_proves_it(lab, envoy):
    status, body = lab.curl(FAR, f"http://{HERE}:{HTTP}/whoami")
    assert status == 0
    seen = json.loads(body)
    assert seen["pod"] == WEB
    assert seen["client"] == lab.spec.address4(FAR)
    entry = logged(envoy, HTTP)
    assert entry["peer"] == lab.spec.identity(WEB)
    assert entry["version"] == "TLSv1.3"
    destination = f"{lab.spec.address4(WEB)}:{HTTP_PORT}"
    record = recorded(lab, destination, "none")
    assert record["source"].rpartition(":")[0] == lab.spec.address4(FAR)
    shown = json.loads(
        lab.cluster.command(lab.one, ["connections", "--recent", "-o", "json", "--node", lab.one])
    )
    assert lab.spec.identity(FAR) in json.dumps(shown)


def recorded(lab, destination, reason):
    """The newest record of the agent of a connection to there; its identity is proven."""
    deadline = time.monotonic() + 5
    while True:
        found = [
            record
            for record in lab.records(lab.one, destination=destination, direction="inbound")
            if lab.spec.address4(FAR) in record["source"] and record["reason"] == reason
        ]
        if found:
            return found[0]
        assert time.monotonic() < deadline, lab.records(lab.one, destination=destination)
        time.sleep(0.05)


def test_connections_share_a_tunnel(lab, envoy):
    cluster = f"cluster.to-{STREAMS}"
    assert lab.streams(FAR, HERE, "many", "20", port=STREAMS)["wrong"] == 0
    before = envoy.stat(f"{cluster}.upstream_cx_total")
    found = lab.streams(FAR, HERE, "many", "150", port=STREAMS)
    assert found == {"opened": 150, "wrong": 0, "first_wrong": []}
    # The agent allows a hundred streams or more in one connection.
    assert envoy.stat(f"{cluster}.upstream_cx_total") - before <= 1
    assert envoy.stat(f"{cluster}.upstream_cx_connect_fail") == 0


@pytest.mark.usefixtures("envoy")
def test_80_megabytes_each_way_are_identical(lab):
    found = lab.streams(FAR, HERE, "exchange", "80", port=STREAMS)
    assert found == {"missing": 0, "received_as_sent": True, "sent_as_received": True}


@pytest.mark.usefixtures("envoy")
def test_the_client_ends_first(lab):
    found = lab.streams(FAR, HERE, "after-end", "3000000", port=STREAMS)
    assert found == {"answer": "you sent 3000000"}


@pytest.mark.usefixtures("envoy")
def test_the_server_ends_first(lab):
    log = "streams-shop-web-1"
    before = len(lab.lines(log))
    assert lab.streams(FAR, HERE, "end-first", "3000000", port=STREAMS) == {"answer": "bye"}
    wanted = {"event": "after our end", "size": 3000000}
    wait_until(lambda: wanted in lab.lines(log)[before:], seconds=5, what="the application's end")


@pytest.mark.parametrize(
    ("port", "status"), [(CLOSED, "503"), (ELSEWHERE, "400"), (NONSENSE, "400")]
)
def test_refusals_have_a_status(lab, envoy, port, status):
    before = streams_reached(lab)
    assert lab.curl(FAR, f"http://{HERE}:{port}/")[1] == ""
    assert status in answer(logged(envoy, port))
    assert streams_reached(lab) == before


@pytest.mark.usefixtures("envoy")
def test_a_closed_port_is_on_record_with_the_proven_identity(lab):
    lab.curl(FAR, f"http://{HERE}:{CLOSED}/")
    record = recorded(lab, f"{lab.spec.address4(WEB)}:{CLOSED_PORT}", "app-connect-failed")
    assert lab.spec.identity(FAR) in json.dumps(record)


@pytest.mark.parametrize(
    ("port", "reason"), [(UNSIGNED, "tls-handshake-failed"), (ABROAD, "peer-identity-mismatch")]
)
def test_who_cannot_prove_an_identity_of_the_mesh_gets_nothing(lab, envoy, port, reason):
    failed = f'nodemesh_handshakes_failed_total{{reason="{reason}"}}'
    before, reached = metric(lab, failed), streams_reached(lab)
    assert lab.curl(FAR, f"http://{HERE}:{port}/")[1] == ""
    entry = logged(envoy, port)
    assert "200" not in answer(entry)
    wait_until(lambda: metric(lab, failed) > before, seconds=5, what=failed)
    assert streams_reached(lab) == reached


def metric(lab, name):
    """A counter of the agent; 0 where it has not counted yet."""
    for line in lab.cluster.metrics(lab.one).splitlines():
        if line.startswith(f"{name} "):
            return float(line.rpartition(" ")[2])
    return 0.0


def test_an_agent_of_another_identity_is_not_trusted_by_envoy(lab, envoy):
    reached = streams_reached(lab)
    assert lab.curl(FAR, f"http://{HERE}:{MISTAKEN}/")[1] == ""
    assert envoy.stat(f"cluster.to-{MISTAKEN}.ssl.fail_verify_san") >= 1
    assert streams_reached(lab) == reached
