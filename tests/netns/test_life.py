# SPDX-License-Identifier: Apache-2.0
"""What changes while a mesh runs: agents die and come back, pods enrol and leave, files change."""

import json
import sys
import time
from pathlib import Path

import pytest
from netns_support import ENDED, PROGRAMS, STREAMS_PORT, make_lab

from lab.errors import LabError
from lab.servers import HTTP_PORT
from lab.traffic import Flow, drive, look_up

pytestmark = pytest.mark.netns

CLIENT = "shop/client"


def flow_to(lab, pod, path):
    return Flow(CLIENT, pod, lab.spec.address4(pod), HTTP_PORT, path, (pod,))


def works(lab, pod, path):
    result = drive(lab.cluster, flow_to(lab, pod, path), "m", repeat=1)
    look_up(lab.cluster, result, seconds=1.5)
    return result.problems


def eventually_works(lab, pod, path, seconds=10):
    deadline = time.monotonic() + seconds
    while problems := works(lab, pod, path):
        assert time.monotonic() < deadline, problems
        time.sleep(0.1)


def pins(node):
    """Each pin and the id of the kernel object behind it."""
    root = Path("/sys/fs/bpf/nodemesh") / node
    return sorted(str(path) for path in root.rglob("*") if path.is_file())


def map_ids(lab, node):
    found = {}
    for path in pins(node):
        done = lab.cluster.node(node).run(
            ["bpftool", "-j", "map", "show", "pinned", path], check=False
        )
        if done.status == 0:
            found[path] = json.loads(done.stdout)["id"]
    return found


def hold(lab, pod, address, seconds):
    """A connection that is used all the time, in the background."""
    log = lab.cluster.log(f"hold-{time.monotonic_ns()}")
    arguments = ("ask", address, str(STREAMS_PORT), "hold", str(seconds))
    command = [sys.executable, str(PROGRAMS / "streams.py"), *arguments]
    process = lab.cluster.pod(pod).start(command, log=log)
    deadline = time.monotonic() + 5
    while '"open"' not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return process, log


def test_an_agent_is_killed_and_comes_back(lab):
    spec, cluster = lab.spec, lab.cluster
    assert works(lab, "shop/web-2", "tunnel") == []
    same_node = hold(lab, CLIENT, spec.address4("shop/web-1"), 4)
    outside = hold(lab, CLIENT, spec.address4("legacy/old-2"), 4)
    before = map_ids(lab, lab.one)
    assert before
    cluster.kill_agent(lab.one)
    try:
        # Same node and outside the mesh: new connections work, and open ones go on.
        for pod in ("shop/web-1", "legacy/old-2"):
            assert drive(cluster, flow_to(lab, pod, ""), "m", repeat=3).problems == []
        # Tunnelled ones fail at once, and are never sent in plain text.
        began = time.monotonic()
        status, _ = lab.curl(CLIENT, f"http://{spec.address4('shop/web-2')}:{HTTP_PORT}/")
        assert status in ENDED
        assert time.monotonic() - began < 2
        assert map_ids(lab, lab.one) == before
    finally:
        cluster.start_agent(lab.one)
    assert map_ids(lab, lab.one) == before
    eventually_works(lab, "shop/web-2", "tunnel")
    assert works(lab, "shop/web-1", "kernel") == []
    for process, log in (same_node, outside):
        assert process.popen.wait(10) == 0
        assert json.loads(log.read_text().splitlines()[-1])["end"] == "alive"


def test_an_agent_that_is_asked_to_end_ends_in_order_and_comes_back(lab):
    before = map_ids(lab, lab.two)
    assert lab.cluster.stop_agent(lab.two) == 0
    try:
        assert map_ids(lab, lab.two) == before
    finally:
        lab.cluster.start_agent(lab.two)
    eventually_works(lab, "shop/web-2", "tunnel")


def test_a_pod_leaves_the_mesh_and_comes_back(lab):
    document = lab.cluster.document()
    client = next(w for w in document["workloads"] if w["name"] == "client")
    client["labels"]["istio.io/dataplane-mode"] = "none"
    try:
        lab.cluster.write_mesh(document)
        eventually_works(lab, "shop/web-2", "passthrough")
        eventually_works(lab, "shop/web-1", "passthrough")
    finally:
        lab.cluster.write_mesh()
    eventually_works(lab, "shop/web-2", "tunnel")
    eventually_works(lab, "shop/web-1", "kernel")


def test_a_pod_from_outside_joins_and_leaves(lab):
    document = lab.cluster.document()
    old = next(w for w in document["workloads"] if w["name"] == "old-2")
    old["labels"]["istio.io/dataplane-mode"] = "ambient"
    try:
        lab.cluster.write_mesh(document)
        eventually_works(lab, "legacy/old-2", "tunnel")
    finally:
        lab.cluster.write_mesh()
    eventually_works(lab, "legacy/old-2", "passthrough")


def test_a_service_that_is_removed_is_gone(lab):
    document = lab.cluster.document()
    vip = lab.spec.service("web").vip4
    document["services"] = [s for s in document["services"] if s["name"] != "web"]
    try:
        assert lab.curl(CLIENT, f"http://{vip}/")[0] == 0
        lab.cluster.write_mesh(document)
        deadline = time.monotonic() + 10
        while lab.curl(CLIENT, f"http://{vip}/", "-m", "1")[0] == 0:
            assert time.monotonic() < deadline
    finally:
        lab.cluster.write_mesh()
    deadline = time.monotonic() + 10
    while lab.curl(CLIENT, f"http://{vip}/", "-m", "1")[0] != 0:
        assert time.monotonic() < deadline


def test_a_bad_edit_changes_nothing_and_is_named(lab):
    good = lab.cluster.mesh_file.read_text()
    bad = good.replace("trustDomain: cluster.local", "trustDomain: cluster.local\ntrustee: x")
    assert bad != good
    log = lab.cluster.log(f"agent-{lab.one}")
    offset = log.stat().st_size
    try:
        lab.cluster.mesh_file.write_text(bad)
        deadline = time.monotonic() + 10
        while "trustee" not in log.read_text()[offset:]:
            assert time.monotonic() < deadline, log.read_text()[offset:]
            time.sleep(0.1)
        line = next(text for text in log.read_text()[offset:].splitlines() if "trustee" in text)
        assert "4" in line
        assert str(lab.cluster.mesh_file) in line
        assert works(lab, "shop/web-2", "tunnel") == []
        assert works(lab, "shop/web-1", "kernel") == []
    finally:
        lab.cluster.write_mesh()
    eventually_works(lab, "shop/web-2", "tunnel")


@pytest.mark.timeout(300)
def test_certificates_of_a_minute_rotate_under_load(lab_name):
    """Leaves of 60 s are replaced while short connections run; not one may fail."""
    made = make_lab(lab_name, lifetime="60s")
    try:
        made.cluster.start_mesh()
        first = serials(made)
        assert first
        answer = made.streams(CLIENT, made.spec.address4("shop/web-2"), "load", "75", timeout=120)
        assert answer["failed"] == 0, answer
        assert answer["done"] > 500
        second = serials(made)
        assert second.keys() == first.keys()
        assert not set(first.values()) & set(second.values())
        for item in made.cluster.admin(made.one, "/certificates"):
            assert item["not_after"] > time.time()
    finally:
        made.cluster.close()


def serials(made):
    return {
        item["identity"]: item["serial"] for item in made.cluster.admin(made.one, "/certificates")
    }


def test_sameNode_tunnel_forces_the_tunnel(lab):  # noqa: N802 - the name of the setting
    lab.cluster.set_options(same_node="tunnel")
    try:
        eventually_works(lab, "shop/web-1", "tunnel")
    finally:
        lab.cluster.set_options(same_node="direct")
    eventually_works(lab, "shop/web-1", "kernel")


def test_metrics_name_both_ends(lab):
    assert works(lab, "shop/web-2", "tunnel") == []
    text = lab.cluster.metrics(lab.one)
    lines = [
        line
        for line in text.splitlines()
        if line.startswith("istio_tcp_connections_opened_total") and 'reporter="source"' in line
    ]
    wanted = ('source_workload="client"', 'destination_workload="web-2"', "mutual_tls")
    assert any(all(part in line for part in wanted) for line in lines), lines


def test_cleanup_leaves_nothing_in_the_kernel(lab_name):
    made = make_lab(lab_name)
    try:
        made.cluster.start_mesh()
        assert pins(made.one)
        made.cluster.stop_agent(made.one)
        made.cluster.command(made.one, ["cleanup", "--node", made.one])
        assert not (Path("/sys/fs/bpf/nodemesh") / made.one).exists()
        rules = made.cluster.pod(CLIENT).run(["ip", "rule"]).stdout
        assert "28005" not in rules
        assert (
            made.curl(CLIENT, f"http://{made.spec.address4('legacy/old-2')}:{HTTP_PORT}/")[0] == 0
        )
    finally:
        made.cluster.close()
    with pytest.raises(LabError):
        made.cluster.admin(made.one, "/status")
