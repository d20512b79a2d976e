# SPDX-License-Identifier: Apache-2.0
"""Build the namespaces, links, addresses, routes and cgroups of a lab.

    pod eth0 ── br0 [node1] link0 ───────── link0 [node2] br0 ── eth0 pod

Each step is one `ip -batch` in one netns: fast, and no name ever appears in the host's netns.
"""

import json
import time
from pathlib import Path

from lab.errors import CommandError, LabError
from lab.host import NETNS_DIR, cgroup2_mount, in_netns, run
from lab.manifest import Manifest, load_manifest, plan_manifest
from lab.spec import LabSpec, NodeSpec, PodSpec
from lab.teardown import remove_lab

__all__ = ["build_topology", "remove_pod", "restore_pod"]

# BBR's pacing halves bulk throughput on a veth; reno is built into every kernel and always allowed
# in a netns. Loose rp_filter, as Kubernetes nodes have it. DAD would delay every IPv6 address.
_SYSCTLS = {
    "net/ipv4/tcp_congestion_control": "reno",
    "net/ipv4/conf/all/rp_filter": "2",
    "net/ipv4/conf/default/rp_filter": "2",
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/default/disable_ipv6": "0",
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/accept_ra": "0",
}
_NODE_SYSCTLS = _SYSCTLS | {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
}


def build_topology(spec: LabSpec) -> Manifest:
    """Make everything of ``spec`` but processes; LabError if anything of it is there already.

    A failure half way removes what was made.
    """
    manifest = plan_manifest(spec)
    if load_manifest(spec.name) is not None:
        raise LabError(
            f"the lab {spec.name!r} exists already: nodemesh lab down --name {spec.name}"
        )
    if left := manifest.left():
        raise LabError(f"in the way, and not of this lab's making: {', '.join(left)}")
    manifest.save()
    try:
        _build(spec)
    except BaseException:
        remove_lab(spec.name)
        raise
    return manifest


def _build(spec: LabSpec) -> None:
    for node in spec.real_nodes:
        _make_cgroups(spec, node)
        _make_netns(spec.node_netns(node.name), _NODE_SYSCTLS)
    for pod in spec.pods:
        _make_netns(spec.pod_netns(pod.key), _SYSCTLS)
    _join_nodes(spec)
    for node in spec.real_nodes:
        _wire_node(spec, node)
    for pod in spec.pods:
        _wire_pod(spec, pod)
    _wait_for_carrier(spec)


def remove_pod(spec: LabSpec, key: str) -> None:
    """Delete a pod's links and its netns, as a runtime does; its programs have to be gone."""
    pod = spec.pod(key)
    node_netns = spec.node_netns(pod.node)
    _ip(node_netns, [f"link del v{pod.host}n{number}" for number in range(pod.links)])
    run(["ip", "netns", "del", spec.pod_netns(key)])


def restore_pod(spec: LabSpec, key: str) -> None:
    """Make a removed pod again: a new netns and new links, the same name and addresses."""
    _make_netns(spec.pod_netns(key), _SYSCTLS)
    _wire_pod(spec, spec.pod(key))


def _wait_for_carrier(spec: LabSpec, patience_seconds: float = 5) -> None:
    """Wait until the kernel counts every link as up, which it may put off for a second."""
    deadline = time.monotonic() + patience_seconds
    waiting = [*(spec.node_netns(node.name) for node in spec.real_nodes)]
    waiting += [spec.pod_netns(pod.key) for pod in spec.pods]
    while waiting:
        waiting = [netns for netns in waiting if not _all_up(netns)]
        if waiting and time.monotonic() > deadline:
            raise LabError(f"links do not come up in {', '.join(waiting)}")
        if waiting:
            time.sleep(0.05)


def _all_up(netns: str) -> bool:
    links = json.loads(run(["ip", "-n", netns, "-j", "link"]))
    return all(link["operstate"] == "UP" for link in links if link["ifname"] != "lo")


def _make_cgroups(spec: LabSpec, node: NodeSpec) -> None:
    root = cgroup2_mount()
    try:
        (root / spec.node_cgroup(node.name) / "agent").mkdir(parents=True)
        (root / spec.node_cgroup(node.name) / "host").mkdir()
        (root / spec.pods_cgroup(node.name)).mkdir()
        for pod in spec.pods:
            if pod.node == node.name:
                (root / spec.pod_cgroup(pod.key)).mkdir()
    except OSError as error:
        raise LabError(f"a cgroup cannot be made: {error}") from error


def _make_netns(name: str, sysctls: dict[str, str]) -> None:
    run(["ip", "netns", "add", name])
    script = "\n".join(f"echo {value} > /proc/sys/{key}" for key, value in sysctls.items())
    try:
        run(in_netns(name, ["sh", "-e"]), stdin=script)
    except CommandError as error:
        raise LabError(
            f"settings of the netns {name} cannot be written (is /proc/sys read-only?): "
            f"{error.output.strip()}"
        ) from error
    _ip(name, ["link set lo up"])


def _ip(netns: str, commands: list[str]) -> None:
    run(["ip", "-n", netns, "-batch", "-"], stdin="\n".join(commands) + "\n")


def _join_nodes(spec: LabSpec) -> None:
    """Join two nodes by a veth, and further ones to the first node's bridge on that link."""
    first, second, *more = spec.real_nodes
    if more:
        raise LabError("the lab joins two nodes; further ones exist in mesh.yaml only")
    here, there = spec.node_netns(first.name), spec.node_netns(second.name)
    run(["ip", "link", "add", "link0", "netns", here, "type", "veth",
         "peer", "name", "link0", "netns", there])  # fmt: skip
    for node, other in ((first, second), (second, first)):
        _ip(
            spec.node_netns(node.name),
            [
                f"addr add {node.link4}/24 dev link0",
                f"addr add {node.link6}/64 dev link0 nodad",
                "link set link0 up",
                f"route add 10.81.{other.index}.0/24 via {other.link4}",
                f"route add fd81:{other.index}::/64 via {other.link6}",
            ],
        )


def _wire_node(spec: LabSpec, node: NodeSpec) -> None:
    links = max((pod.links for pod in spec.pods if pod.node == node.name), default=1)
    commands = []
    for number in range(links):
        bridge, net = f"br{number}", 81 + number
        # An address of its own: a bridge that takes one of its ports' changes it as pods come and
        # go, and every pod's gateway would be somewhere else for a while.
        address = f"02:{net:02x}:00:00:{node.index:02x}:00"
        commands += [
            f"link add {bridge} address {address} type bridge mcast_snooping 0",
            f"addr add 10.{net}.{node.index}.1/24 dev {bridge}",
            f"addr add fd{net}:{node.index}::1/64 dev {bridge} nodad",
            f"link set {bridge} up",
        ]
    try:
        _ip(spec.node_netns(node.name), commands)
    except CommandError as error:
        raise LabError(
            f"the bridge of {node.name} cannot be made (has this kernel bridges?): "
            f"{error.output.strip()}"
        ) from error


def _wire_pod(spec: LabSpec, pod: PodSpec) -> None:
    node = spec.node(pod.node)
    netns, node_netns = spec.pod_netns(pod.key), spec.node_netns(pod.node)
    commands, node_commands = [], []
    for number in range(pod.links):
        inside = "eth0" if number == 0 else f"net{number}"
        outside, net = f"v{pod.host}n{number}", 81 + number
        # A pod that is made again keeps its link address: no neighbour holds a stale one, as where
        # nodes route to their pods and do not bridge them.
        address = f"02:{net:02x}:00:00:{node.index:02x}:{pod.host:02x}"
        run(["ip", "link", "add", inside, "address", address, "netns", netns, "type", "veth",
             "peer", "name", outside, "netns", node_netns])  # fmt: skip
        node_commands += [f"link set {outside} master br{number}", f"link set {outside} up"]
        commands += [
            f"addr add 10.{net}.{node.index}.{pod.host}/24 dev {inside}",
            f"addr add fd{net}:{node.index}::{pod.host}/64 dev {inside} nodad",
            f"link set {inside} up",
        ]
    _ip(node_netns, node_commands)
    commands.append(f"route add default via 10.81.{node.index}.1 dev eth0")
    commands.append(f"route add ::/0 via fd81:{node.index}::1 dev eth0")
    _ip(netns, commands)


def netns_path(name: str) -> Path:
    """Return the file that stands for a named netns."""
    return NETNS_DIR / name
