# SPDX-License-Identifier: Apache-2.0
"""Endings in order: an agent drains, an address is another pod's at once; descriptors run out."""

import resource
import signal
import sys
import time

import pytest
from netns_support import ENDED, PROGRAMS, STREAMS_PORT

from lab.process import wait_until
from lab.servers import HTTP_PORT

pytestmark = pytest.mark.netns

CLIENT, SERVER = "shop/client", "shop/web-2"
CROWD_PORTS = ("9201", "9202")


def background(lab, name, pod, program, *arguments):
    """Start one of the programs; return it and a function for its JSON lines."""
    lab.cluster.log(name).unlink(missing_ok=True)
    command = [sys.executable, str(PROGRAMS / program), *arguments]
    process = lab.cluster.pod(pod).start(command, log=lab.cluster.log(name))
    return process, lambda: lab.lines(name)


@pytest.mark.parametrize("end", ["one", "two"])
def test_what_is_open_finishes_while_an_agent_drains(lab, end):
    """Bytes run both ways across the drain; whoever comes meanwhile is refused at once."""
    node = getattr(lab, end)
    address = lab.spec.address4(SERVER)
    assert lab.curl(CLIENT, f"http://{address}:{HTTP_PORT}/")[0] == 0
    exchange = ("ask", address, str(STREAMS_PORT), "exchange", "300")
    process, lines = background(lab, "exchange", CLIENT, "streams.py", *exchange)
    wait_until(
        lambda: bool(lab.records(node, open=True)),
        seconds=10,
        what="the exchange to be open",
        alive=[process],
    )
    agent = lab.cluster.agents[node]
    try:
        agent.popen.terminate()
        time.sleep(0.3)
        assert process.running, "over before the drain began"
        began = time.monotonic()
        status, _ = lab.curl(CLIENT, f"http://{address}:{HTTP_PORT}/")
        assert status in ENDED
        assert time.monotonic() - began < 3
        assert process.popen.wait(60) == 0
        assert agent.popen.wait(30) == 0
    finally:
        if agent.running:
            agent.kill()
        lab.cluster.start_agent(node)
    whole = {"missing": 0, "received_as_sent": True, "sent_as_received": True}
    assert lines()[-1] == whole


def known_identity(lab, node, address):
    found = lab.cluster.admin(node, "/workloads")
    return [(item["identity"], item["state"]) for item in found if address in item["addresses"]]


def wait_known(lab, address, identity):
    """Wait until for both agents the address is of that identity, and of no other."""
    wanted = {lab.one: [(identity, "remote")], lab.two: [(identity, "captured")]}
    wait_until(
        lambda: all(known_identity(lab, node, address) == is_so for node, is_so in wanted.items()),
        seconds=20,
        what=f"both agents to know {identity}",
    )


def test_an_address_that_is_another_pods_at_once(lab):
    """Identity and uid behind an address change under traffic; nobody is taken for another."""
    address = lab.spec.address4(SERVER)
    load, _ = background(
        lab, "load", CLIENT, "streams.py", "ask", address, str(STREAMS_PORT), "load", "60"
    )
    try:
        for turn in range(4):
            name = f"next-{turn}"
            document = lab.cluster.document()
            web = next(w for w in document["workloads"] if w["name"] == "web-2")
            web["name"] = web["serviceAccount"] = name
            lab.cluster.write_mesh(document)
            identity = f"spiffe://cluster.local/ns/shop/sa/{name}"
            wait_known(lab, address, identity)
            answer = lab.streams(CLIENT, address, "many", "20")
            assert answer["wrong"] == 0, answer
            tunnels = lab.cluster.admin(lab.one, "/tunnels")
            to_pod = {t["peer_identity"] for t in tunnels if t["remote"].startswith(f"{address}:")}
            assert to_pod == {identity}
            # Every record that names the new pod as destination has its identity, and no other.
            wait_until(
                lambda named=identity: len(lab.records(lab.one, destination_identity=named)) >= 20,
                seconds=5,
                what=f"records of connections to {identity}",
            )
    finally:
        load.kill()
        lab.cluster.write_mesh()
    wait_known(lab, address, lab.spec.identity(SERVER))


def descriptor_troubles(lab):
    troubles = lab.cluster.admin(lab.one, "/status")["troubles"]
    return [trouble for trouble in troubles if "descriptors" in trouble]


@pytest.mark.timeout(180)
def test_a_pod_that_takes_all_descriptors_leaves_some_to_others(lab):
    """The limit is lowered under a running agent, one pod takes what it gets, and it is lifted."""
    address = lab.spec.address4(SERVER)
    pid = lab.cluster.agents[lab.one].pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    server = lab.start(SERVER, "pressed", "crowd.py", "serve", *CROWD_PORTS)
    arguments = ("press", "40", address, *CROWD_PORTS)
    greedy, lines = background(lab, "greedy", CLIENT, "crowd.py", *arguments)
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (1500, limits[1]))
        wait_until(lambda: bool(lines()), seconds=35, what="a refusal", alive=[greedy])
        assert 500 < lines()[0]["open"] < 1400, lines()
        answer = lab.streams("shop/web-1", address, "many", "20")
        assert answer == {"opened": 20, "wrong": 0, "first_wrong": []}
        assert 'nodemesh_capture_refused_total{reason="resource-limit"}' in lab.cluster.metrics(
            lab.one
        )
        assert descriptor_troubles(lab)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        time.sleep(0.6)
        assert lab.streams(CLIENT, address, "many", "50")["wrong"] == 0
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        greedy.kill()
        server.kill()
    wait_until(
        lambda: not lab.records(lab.one, open=True),
        seconds=20,
        what="the crowd to be gone",
        alive=[],
    )
    assert not descriptor_troubles(lab)


def test_a_full_accept_queue_is_the_pods_own_and_is_counted(lab):
    """The pod's namespace allows a queue of 4; its agent sleeps while 60 connect."""
    address, client = lab.spec.address4(SERVER), lab.cluster.pod(CLIENT)
    somaxconn = "/proc/sys/net/core/somaxconn"
    usual = client.run(["cat", somaxconn]).stdout.strip()
    agent = lab.cluster.agents[lab.one]
    try:
        client.run(["sh", "-c", f"echo 4 > {somaxconn}"])
        enrol_again(lab, "client")
        agent.popen.send_signal(signal.SIGSTOP)
        arguments = ("ask", address, str(STREAMS_PORT), "many", "60")
        crowd, lines = background(lab, "queue", CLIENT, "streams.py", *arguments)
        time.sleep(1)
        agent.popen.send_signal(signal.SIGCONT)
        # The kernel repeats what it dropped: late, but none is lost.
        assert crowd.popen.wait(40) == 0
        assert lines()[-1]["wrong"] == 0, lines()
        dropped = [
            line
            for line in lab.cluster.metrics(lab.one).splitlines()
            if line.startswith("nodemesh_listener_drops_total")
        ]
        assert len(dropped) == 1, dropped
        assert "client" in dropped[0]
        assert 'kind="capture"' in dropped[0]
    finally:
        agent.popen.send_signal(signal.SIGCONT)
        client.run(["sh", "-c", f"echo {usual} > {somaxconn}"])
        enrol_again(lab, "client")


def enrol_again(lab, name):
    """Take a pod of node one out of the mesh and in again: its listeners are made anew."""
    address = lab.spec.address4(f"shop/{name}")
    identity = lab.spec.identity(f"shop/{name}")

    def wait_state(state):
        wait_until(
            lambda: known_identity(lab, lab.one, address) == [(identity, state)],
            seconds=20,
            what=f"{name} to be {state}",
        )

    document = lab.cluster.document()
    pod = next(w for w in document["workloads"] if w["name"] == name)
    pod["labels"]["istio.io/dataplane-mode"] = "none"
    lab.cluster.write_mesh(document)
    wait_state("outside the mesh")
    lab.cluster.write_mesh()
    wait_state("captured")
