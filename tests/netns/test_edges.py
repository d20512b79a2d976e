# SPDX-License-Identifier: Apache-2.0
"""Pods that get in the way: busy ports, reused addresses, many at once, strange callers."""

import json
import time

import pytest
from netns_support import ENDED, Lab

from lab.cluster import Cluster
from lab.servers import HTTP_PORT, start_web
from lab.spec import PodSpec, default_spec, node_name
from lab.traffic import Flow, drive, look_up

pytestmark = pytest.mark.netns

CLIENT = "shop/client"


def workload(lab, node, key):
    namespace, name = key.split("/")
    found = lab.cluster.admin(node, "/workloads")
    return next(w for w in found if (w["namespace"], w["name"]) == (namespace, name))


def eventually(test, seconds=10):
    deadline = time.monotonic() + seconds
    while not (held := test()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return held


def test_an_application_on_the_hbone_port_is_a_clear_state_of_its_workload(lab):
    busy = lab.cluster.pod("legacy/old-1").start(
        ["socat", "TCP6-LISTEN:15008,fork,reuseaddr,ipv6only=0", "EXEC:/bin/cat"],
        log=lab.cluster.log("busy"),
    )
    document = lab.cluster.document()
    old = next(w for w in document["workloads"] if w["name"] == "old-1")
    old["labels"]["istio.io/dataplane-mode"] = "ambient"
    try:
        assert eventually(lambda: lab.cluster.listens(lab.cluster.pod("legacy/old-1"), 15008))
        lab.cluster.write_mesh(document)
        assert eventually(lambda: "15008" in json.dumps(workload(lab, lab.one, "legacy/old-1")))
        # Nobody else is held up by it.
        flow = Flow(CLIENT, "web-2", lab.spec.address4("shop/web-2"), HTTP_PORT, "tunnel",
                    ("shop/web-2",))  # fmt: skip
        assert drive(lab.cluster, flow, "m", repeat=1).problems == []
    finally:
        lab.cluster.write_mesh()
        busy.kill()


def test_an_application_on_15001_is_left_alone(lab):
    app = lab.cluster.pod(CLIENT).start(
        ["socat", "TCP4-LISTEN:15001,fork,reuseaddr", "EXEC:/bin/cat"], log=lab.cluster.log("15001")
    )
    try:
        time.sleep(0.3)
        if app.running:
            url = f"gopher://{lab.spec.address4(CLIENT)}:15001/_hello"
            done = lab.cluster.pod("legacy/old-1").run(
                ["sh", "-c", f"curl -sg -m 2 {url} | head -c 5"], check=False
            )
            assert done.stdout == "hello"
        flow = Flow(CLIENT, "web-2", lab.spec.address4("shop/web-2"), HTTP_PORT, "tunnel",
                    ("shop/web-2",))  # fmt: skip
        assert drive(lab.cluster, flow, "m", repeat=1).problems == []
    finally:
        app.kill()


def test_an_address_that_changes_hands_takes_its_new_owners_identity(lab):
    document = lab.cluster.document()
    web = next(w for w in document["workloads"] if w["name"] == "web-2")
    web["name"], web["serviceAccount"] = "web-9", "heir"
    seen = set()

    def inherited():
        code, _ = lab.curl(CLIENT, f"http://{lab.spec.address4('shop/web-2')}:{HTTP_PORT}/")
        found = lab.records(lab.one, destination_workload="shop/web-9", path="tunnel")
        seen.add(code)
        return bool(found) and found[0]["destination_identity"].endswith("/sa/heir")

    try:
        lab.cluster.write_mesh(document)
        assert eventually(inherited), seen
    finally:
        lab.cluster.write_mesh()
    flow = Flow(CLIENT, "web-2", lab.spec.address4("shop/web-2"), HTTP_PORT, "tunnel",
                ("shop/web-2",))  # fmt: skip

    def back():
        result = drive(lab.cluster, flow, "m", repeat=1)
        look_up(lab.cluster, result)
        return not result.problems

    assert eventually(back)


def test_who_dials_a_capture_port_gets_nothing(lab):
    own = lab.spec.address4(CLIENT)
    said = lab.cluster.pod(CLIENT).run(["ss", "-Hltn4"]).stdout
    ports = {line.split()[3].rpartition(":")[2] for line in said.splitlines() if f"{own}:" in line}
    capture = sorted(ports - {"15008"})
    assert len(capture) == 4, said
    for port in capture:
        status, body = lab.curl(CLIENT, f"http://{own}:{port}/", "-m", "5")
        assert (body, status in ENDED) == ("", True)
    for pod in ("shop/web-1", "legacy/old-2"):
        status, body = lab.curl(pod, f"http://{own}:{capture[0]}/", "-m", "2")
        assert body == ""
        assert status in (28, *ENDED)


@pytest.mark.timeout(240)
def test_thirty_pods_on_one_node(lab_name):
    one = node_name(lab_name, 1)
    crowd = tuple(PodSpec(f"p{n}", "shop", one, 100 + n, f"p{n}") for n in range(30))
    with Cluster.up(default_spec(lab_name, extra_pods=crowd)) as cluster:
        start_web(cluster, "shop/web-2")
        cluster.start_mesh()
        made = Lab(cluster)
        for pod in crowd:
            flow = Flow(pod.key, "web-2", cluster.spec.address4("shop/web-2"), HTTP_PORT, "tunnel",
                        ("shop/web-2",))  # fmt: skip
            result = drive(cluster, flow, "m", repeat=1)
            look_up(cluster, result)
            assert result.problems == []
        assert made.open_files(made.one) < 1000
