# SPDX-License-Identifier: Apache-2.0
"""Pods for the kernel tests: a netns on a bridge, a cgroup, and a way to run code as the pod."""

import contextlib
import ctypes
import os
import pickle
import signal
import socket
import subprocess
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from agent.dataplane import kernel, netns
from mesh.model.address import IpAddress

Result = TypeVar("Result")
_libc = ctypes.CDLL(None, use_errno=True)
SLOWNESS = 15 if "NODEMESH_VM" in os.environ else 1
"""An emulated guest (tests/vm) is so much slower: every time limit is so much longer there."""

RUN_TIMEOUT_SECONDS = 20 * SLOWNESS


def sh(command: str, *, check: bool = True) -> str:
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{command}: {done.stderr.strip()}")
    return done.stdout


def run_as(
    cgroup: Path, netns_fd: int, function: Callable[[], Result], timeout: int = RUN_TIMEOUT_SECONDS
) -> Result:
    """What ``function`` returns in a child process in that cgroup and netns; raises as it does."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        answer: tuple[bool, Any]
        try:
            signal.alarm(timeout)
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))
            assert _libc.setns(netns_fd, 0x40000000) == 0
            answer = (True, function())
        except BaseException as error:  # noqa: BLE001 # raised again in the parent
            error.add_note(traceback.format_exc())
            answer = (False, error)
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        raw = pipe.read()
    os.waitpid(child, 0)
    if not raw:
        raise AssertionError("the pod's process died or did not end in time")
    worked, value = pickle.loads(raw)
    if worked:
        return value  # type: ignore[no-any-return]
    raise value


@dataclass
class Pod:
    name: str
    netns: str
    cgroup: Path
    v4: str
    v6: str
    mac: str = ""
    fd: int = -1
    addresses: tuple[IpAddress, ...] = field(default=())

    def run(self, function: Callable[[], Result], timeout: int = RUN_TIMEOUT_SECONDS) -> Result:
        """As a process of the pod: in its cgroup, so the hooks see it."""
        return run_as(self.cgroup, self.fd, function, timeout)

    def run_socket(self, function: Callable[[], socket.socket]) -> socket.socket:
        """A socket that a process of the pod has made, passed out of it; it stays the pod's."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

        def make() -> None:
            made = function()
            socket.send_fds(theirs, [b"x"], [made.fileno()])

        self.run(make)
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        ours.close()
        theirs.close()
        return socket.socket(fileno=fds[0])

    def inside(self, function: Callable[[], Result]) -> Result:
        """In the pod's netns, but as this process, which no hook sees."""
        return netns.run_in_netns(self.fd, function)

    def sh(self, command: str, *, check: bool = True) -> str:
        return sh(f"nsenter --net=/var/run/netns/{self.netns} sh -c '{command}'", check=check)

    def serve(self, port: int, address: str | None = None, backlog: int = 64) -> socket.socket:
        """A listening TCP socket in the pod."""
        where = self.v4 if address is None else address
        family = socket.AF_INET6 if ":" in where else socket.AF_INET

        def make() -> socket.socket:
            server = socket.socket(family, socket.SOCK_STREAM)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((where, port))
            server.listen(backlog)
            server.settimeout(3)
            return server

        return self.inside(make)


class Lan:
    """A bridge in a netns of its own, with pods on it, under one pod cgroup."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.host = f"nmt-{tag}"
        self.cgroup_name = f"nmt-{tag}"
        self.cgroup = kernel.cgroup2_mount() / self.cgroup_name
        self.pods: list[Pod] = []
        self._number = 9
        self.cgroup.mkdir()
        sh(f"ip netns add {self.host}")
        self.host_fd = os.open(f"/var/run/netns/{self.host}", os.O_RDONLY | os.O_CLOEXEC)
        sh(f"ip -n {self.host} link add br0 type bridge mcast_snooping 0")
        sh(f"ip -n {self.host} addr add 10.230.0.1/16 dev br0")
        sh(f"ip -n {self.host} addr add fd23::1/64 dev br0 nodad")
        sh(f"ip -n {self.host} link set br0 up")
        sh(f"ip -n {self.host} link set lo up")

    def run_on_host(self, function: Callable[[], Result], cgroup: Path | None = None) -> Result:
        """As a process of the node: outside of the pods' cgroup, if no other is given."""
        return run_as(cgroup or kernel.cgroup2_mount(), self.host_fd, function)

    def pod(self, name: str | None = None, *, number: int | None = None) -> Pod:
        if number is None:
            self._number += 1
            number = self._number
        label = name or f"p{number}"
        space = f"nmt-{self.tag}-{label}"
        v4, v6 = f"10.230.{1 + number // 256}.{number % 256}", f"fd23::{number:x}"
        port = f"{label[:14]}h"
        sh(f"ip netns add {space}")
        commands = [
            f"link add {port} type veth peer name eth0 netns {space}",
            f"link set {port} master br0 up",
        ]
        for command in commands:
            sh(f"ip -n {self.host} {command}")
        for command in (
            "link set lo up",
            f"addr add {v4}/16 dev eth0",
            f"addr add {v6}/64 dev eth0 nodad",
            "link set eth0 up",
            "route add default via 10.230.0.1",
            "-6 route add default via fd23::1",
        ):
            sh(f"ip -n {space} {command}")
        fd = netns.open_netns(f"/var/run/netns/{space}")
        netns.run_in_netns(
            fd, lambda: Path("/proc/sys/net/ipv4/tcp_congestion_control").write_text("reno")
        )
        mac = sh(f"ip -n {space} -br link show eth0").split()[2]
        cgroup = self.cgroup / label
        cgroup.mkdir(exist_ok=True)
        pod = Pod(label, space, cgroup, v4, v6, mac, fd, (ip_address(v4), ip_address(v6)))
        self.pods.append(pod)
        return pod

    def remove(self, pod: Pod) -> None:
        self.pods.remove(pod)
        os.close(pod.fd)
        sh(f"ip -n {self.host} link del {pod.name[:14]}h", check=False)
        sh(f"ip netns del {pod.netns}", check=False)
        with contextlib.suppress(OSError):
            pod.cgroup.rmdir()

    def close(self) -> None:
        for pod in list(self.pods):
            self.remove(pod)
        os.close(self.host_fd)
        for path in Path("/var/run/netns").glob(f"nmt-{self.tag}*"):  # also what was half made
            sh(f"ip netns del {path.name}", check=False)
        for directory in (*self.cgroup.glob("*/"), self.cgroup):
            with contextlib.suppress(OSError):
                directory.rmdir()
