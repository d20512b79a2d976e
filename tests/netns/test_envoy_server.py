# SPDX-License-Identifier: Apache-2.0
"""Envoy as the terminator that an agent's tunnels end at: identity, traffic, limits, draining."""

import json
import threading
import time

import pytest
from envoy_support import Envoy, server_config
from netns_support import ENDED, STREAMS_PORT

from lab.process import wait_until

pytestmark = pytest.mark.netns

FAR, CLIENT, WEB = "shop/far", "shop/client", "shop/web-1"
NO_ROUTE_PORT = 9001
FEW = 4


@pytest.fixture(scope="module")
def application(shared_lab):
    """The streams server beside Envoy, in the pod whose node has no agent."""
    process = shared_lab.start(FAR, "streams-far", "streams.py", "serve", str(STREAMS_PORT))
    yield process
    process.kill()


@pytest.fixture
def terminator(lab, application):
    """Start an Envoy beside the application; everything ends with the test."""
    assert application.running
    started = []

    def start(*, shows=FAR, admits=CLIENT, streams=100):
        svid = lab.certificate(lab.spec.identity(shows), "envoy-server")
        address, client = lab.spec.address4(FAR), lab.spec.identity(admits)
        config = server_config(svid, address, (STREAMS_PORT,), client, streams)
        started.append(Envoy.start(lab, FAR, "envoy-server", config))
        return started[-1]

    yield start
    for envoy in started:
        envoy.process.kill()


def destination(lab, port=STREAMS_PORT):
    return f"{lab.spec.address4(FAR)}:{port}"


def ask(lab, *request, timeout=60):
    return lab.streams(CLIENT, lab.spec.address4(FAR), *request, timeout=timeout)


def assert_reason(lab, reason, port=STREAMS_PORT):
    deadline = time.monotonic() + 5
    while True:
        found = lab.records(lab.one, destination=destination(lab, port), direction="outbound")
        if found and found[0]["reason"] == reason:
            return
        assert time.monotonic() < deadline, [record["reason"] for record in found]
        time.sleep(0.05)


def test_envoy_sees_who_connects_and_where_to(lab, terminator):
    envoy = terminator()
    assert ask(lab, "after-end", "5") == {"answer": "you sent 5"}
    entry = envoy.logged(lambda entry: entry.get("method") == "CONNECT")
    assert entry["identity"] == lab.spec.identity(CLIENT)
    assert entry["authority"] == destination(lab)
    assert entry["status"] == 200
    assert entry["version"] == "TLSv1.3"
    assert "k8s.namespace.name=shop" in entry["baggage"]
    assert lab.spec.address4(CLIENT) in entry["forwarded"]
    record = lab.records(lab.one, destination=destination(lab), direction="outbound")[0]
    assert record["path"] == "tunnel"
    assert lab.spec.identity(FAR) in json.dumps(record)


def test_80_megabytes_each_way_are_identical(lab, terminator):
    terminator()
    found = ask(lab, "exchange", "80")
    assert found == {"missing": 0, "received_as_sent": True, "sent_as_received": True}


def test_the_client_ends_first(lab, terminator):
    terminator()
    assert ask(lab, "after-end", "3000000") == {"answer": "you sent 3000000"}


def test_the_server_ends_first(lab, terminator):
    """Envoy then resets the stream with NO_ERROR: what came before is whole, and in order."""
    terminator()
    assert ask(lab, "end-first", "0") == {"answer": "bye"}
    assert_reason(lab, "none")


def test_more_connections_than_a_tunnel_may_have_streams(lab, terminator):
    envoy = terminator(streams=FEW)
    count = 40
    found = ask(lab, "many", str(count))
    assert found == {"opened": count, "wrong": 0, "first_wrong": []}
    # All were open at once, so no tunnel had more than its share.
    assert envoy.stat("http.in.downstream_cx_http2_total") >= count // FEW
    assert lab.streams(CLIENT, lab.spec.address4(FAR), "load", "1")["failed"] == 0


@pytest.mark.parametrize("order", ["/healthcheck/fail", "/drain_listeners?graceful&skip_exit"])
def test_draining_fails_no_connection(lab, terminator, order):
    """Envoy says GOAWAY to every tunnel while connections are open and new ones are made."""
    envoy = terminator()
    found = {}

    def during(name):
        found[name] = ask(lab, name, "4")

    threads = [threading.Thread(target=during, args=(name,)) for name in ("hold", "load")]
    for thread in threads:
        thread.start()
    # Both are under way.
    wait_until(lambda: envoy.stat("http.in.downstream_rq_total") > 5, seconds=10, what="requests")
    before = envoy.stat("http.in.downstream_cx_http2_total")
    envoy.admin("POST", order)
    for thread in threads:
        thread.join(30)
    assert found["load"]["failed"] == 0, found
    assert found["load"]["done"] > 20
    assert found["hold"]["end"] == "alive"
    assert found["hold"]["rounds"] > 10
    assert envoy.stat("http.in.downstream_cx_drain_close") >= 1
    assert envoy.stat("http.in.downstream_cx_http2_total") > before


def test_when_envoy_is_gone_new_connections_find_its_successor(lab, terminator):
    envoy = terminator()
    assert ask(lab, "after-end", "1") == {"answer": "you sent 1"}
    envoy.process.stop()
    assert lab.curl(CLIENT, f"http://{destination(lab)}/")[0] in ENDED
    terminator()
    assert ask(lab, "after-end", "1") == {"answer": "you sent 1"}


def test_another_identity_than_expected_is_refused(lab, terminator):
    envoy = terminator(shows=WEB)
    assert lab.curl(CLIENT, f"http://{destination(lab)}/")[0] in ENDED
    assert_reason(lab, "peer-identity-mismatch")
    assert envoy.stat("http.in.downstream_rq_total") == 0


def test_a_client_that_envoy_does_not_admit_is_told(lab, terminator):
    envoy = terminator(admits=WEB)
    assert lab.curl(CLIENT, f"http://{destination(lab)}/")[0] in ENDED
    assert_reason(lab, "tls-handshake-failed")
    assert envoy.stat("http.in.downstream_rq_total") == 0


def test_a_port_that_envoy_has_no_route_for_is_refused(lab, terminator):
    envoy = terminator()
    assert lab.curl(CLIENT, f"http://{destination(lab, NO_ROUTE_PORT)}/")[0] in ENDED
    assert_reason(lab, "connect-bad-request", NO_ROUTE_PORT)
    entry = envoy.logged(lambda entry: entry.get("status") == 404)
    assert entry["identity"] == lab.spec.identity(CLIENT)
