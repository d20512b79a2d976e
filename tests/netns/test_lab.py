# SPDX-License-Identifier: Apache-2.0
"""The lab itself, without a mesh: it is what it says, and leaves nothing behind."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lab.capture import LinkCapture, examine
from lab.cluster import ROOT, Cluster
from lab.errors import LabError
from lab.host import NETNS_DIR, cgroup2_mount
from lab.manifest import lab_dir, load_manifest
from lab.process import Place
from lab.servers import HTTP_PORT, start_servers
from lab.spec import PodSpec, default_spec, node_name
from lab.teardown import processes, remove_lab
from lab.traffic import Flow, drive

pytestmark = pytest.mark.netns


def reaches(place: Place, address: str, device: str = "eth0") -> bool:
    """A closed port answers with RST: packets went there and back."""
    host = f"[{address}]" if ":" in address else address
    peer = f"TCP:{host}:9,connect-timeout=1,so-bindtodevice={device}"
    return "refused" in place.run(["socat", "/dev/null", peer], check=False).stderr


def leftovers(name: str) -> list[str]:
    """Everything on the machine that carries the lab's name."""
    netns = [p.name for p in NETNS_DIR.glob(f"{name}-*")] if NETNS_DIR.exists() else []
    cgroups = [str(p) for p in cgroup2_mount().glob(f"nodemesh-lab-{name}*")]
    state = [str(p) for p in Path("/run/nodemesh").glob(f"*{name}*")]
    pins = [str(p) for p in Path("/sys/fs/bpf/nodemesh").glob(f"{name}*")]
    return netns + cgroups + state + pins


def test_pods_reach_each_other_and_leave_nothing(lab_name):
    spec = default_spec(lab_name)
    with Cluster.up(spec) as cluster:
        client = cluster.pod("shop/client")
        for key in ("shop/web-1", "shop/web-2", "legacy/old-2"):
            assert reaches(client, spec.address4(key))
            assert reaches(client, spec.address6(key))
        assert not reaches(client, "10.81.2.99")
        assert leftovers(lab_name)
    assert leftovers(lab_name) == []


def test_a_program_is_in_the_pods_cgroup_and_netns(lab_name):
    spec = default_spec(lab_name)
    with Cluster.up(spec) as cluster:
        pod = cluster.pod("shop/web-2")
        group = pod.run(["cat", "/proc/self/cgroup"]).stdout
        assert f"0::/{spec.pod_cgroup('shop/web-2')}\n" in group
        netns = pod.run(["readlink", "/proc/self/ns/net"]).stdout.strip()
        inode = (NETNS_DIR / spec.pod_netns("shop/web-2")).stat().st_ino
        assert netns == f"net:[{inode}]"
        node = cluster.node(spec.nodes[0].name, "agent").run(["cat", "/proc/self/cgroup"]).stdout
        assert f"/{spec.nodes[0].name}/agent\n" in node
        done = pod.run(["cat", "/proc/sys/net/ipv4/tcp_congestion_control"])
        assert done.stdout.strip() == "reno"


def test_a_pod_may_have_two_interfaces(lab_name):
    extra = PodSpec("multi", "shop", node_name(lab_name, 1), 30, links=2)
    with Cluster.up(default_spec(lab_name, extra_pods=(extra,))) as cluster:
        links = json.loads(cluster.pod("shop/multi").run(["ip", "-j", "addr"]).stdout)
        names = {link["ifname"]: [a["local"] for a in link["addr_info"]] for link in links}
        assert "10.81.1.30" in names["eth0"]
        assert "10.82.1.30" in names["net1"]
        assert reaches(cluster.pod("shop/multi"), "10.82.1.1", "net1")


def test_two_labs_at_once(lab_name):
    other = f"{lab_name}-b"
    with Cluster.up(default_spec(lab_name)) as one, Cluster.up(default_spec(other)) as two:
        for cluster in (one, two):
            assert reaches(cluster.pod("shop/client"), "10.81.2.11")
        one.close()
        assert reaches(two.pod("shop/client"), "10.81.2.11")
    assert leftovers(lab_name) == []


def test_a_second_lab_of_the_same_name_is_refused_and_harmless(lab_name):
    with Cluster.up(default_spec(lab_name)) as cluster:
        with pytest.raises(LabError, match="exists already"):
            Cluster.up(default_spec(lab_name))
        assert reaches(cluster.pod("shop/client"), "10.81.2.11")


def test_what_others_made_is_neither_used_nor_removed(lab_name):
    theirs = f"{lab_name}-node2-shop-web-2"
    subprocess.run(["ip", "netns", "add", theirs], check=True)
    try:
        with pytest.raises(LabError, match="in the way"):
            Cluster.up(default_spec(lab_name))
        assert leftovers(lab_name) == [theirs]
        assert not remove_lab(lab_name)
        assert leftovers(lab_name) == [theirs]
    finally:
        subprocess.run(["ip", "netns", "del", theirs], check=True)


def test_removal_ends_processes_that_ignore_sigterm(lab_name):
    spec = default_spec(lab_name)
    with Cluster.up(spec) as cluster:
        stubborn = cluster.pod("shop/client").start(
            ["sh", "-c", "trap '' TERM; (sleep 60 & sleep 60)"], log=cluster.log("stubborn")
        )
        time.sleep(0.2)
        assert len(processes(cluster.manifest.cgroup_path)) >= 2
    assert stubborn.popen.wait(5) != 0
    assert leftovers(lab_name) == []


@pytest.mark.parametrize("delay", [0.05, 0.2, 0.5])
def test_killed_half_way_then_removed(lab_name, delay):
    code = (
        "import sys; from lab.cluster import Cluster; from lab.spec import default_spec\n"
        "c = Cluster.up(default_spec(sys.argv[1]))\n"
        "c.pod('shop/client').start(['sleep', '60'], log=c.log('x'))\n"
        "import time; time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, lab_name], cwd=ROOT)
    deadline = time.monotonic() + 10
    while not lab_dir(lab_name).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    child.wait()
    # A step that was under way when the lab died may still end its work.
    time.sleep(0.3)
    manifest = load_manifest(lab_name)
    if manifest is not None:
        assert not manifest.owner_alive()
    command = [sys.executable, "-m", "lab", "down", "--name", lab_name]
    subprocess.run(command, cwd=ROOT, check=True)
    assert leftovers(lab_name) == []
    subprocess.run(command, cwd=ROOT, check=True)


def test_a_failing_step_removes_what_was_made(lab_name, monkeypatch):
    def fail(*_: object) -> None:
        raise LabError("planned")

    monkeypatch.setattr("lab.topology._wire_pod", fail)
    with pytest.raises(LabError, match="planned"):
        Cluster.up(default_spec(lab_name))
    assert leftovers(lab_name) == []


def test_without_root_it_says_so():
    # Imported first: a checkout below /root cannot be read by anyone else.
    code = (
        "import os, sys, lab.commands; os.setuid(65534); "
        "sys.exit(lab.commands.main(['up', '--name', 'nmt-x']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "needs root" in done.stderr
    assert "Traceback" not in done.stderr
    assert not lab_dir("nmt-x").exists()


def test_the_capture_tells_plain_text_from_a_tunnel(lab_name):
    """Without a mesh the demo's proof must fail on every claim that a mesh makes true."""
    spec = default_spec(lab_name)
    flow = Flow("shop/client", "web-2", spec.address4("shop/web-2"), HTTP_PORT, "", ("shop/web-2",))
    six = replace(flow, address=spec.address6("shop/web-2"))
    with Cluster.up(spec) as cluster:
        start_servers(cluster)
        with LinkCapture(cluster) as capture:
            assert not drive(cluster, flow, "secret-four", repeat=1).problems
            assert not drive(cluster, six, "secret-six", repeat=1).problems
        evidence = examine(capture.path, spec, ["secret-four", "secret-six", "never-sent"])
    assert evidence.found == {"secret-four": 3, "secret-six": 3, "never-sent": 0}
    assert evidence.packets == sum(evidence.outside.values()) >= 18
    assert evidence.tunnels == 0
