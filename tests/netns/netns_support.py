# SPDX-License-Identifier: Apache-2.0
"""A lab with the tests' own programs in it."""

import json
import sys
from pathlib import Path
from typing import Any

from lab.cluster import ROOT, Cluster
from lab.process import Process, wait_until
from lab.servers import start_servers
from lab.spec import PodSpec, default_spec, node_name

PROGRAMS = Path(__file__).resolve().parent / "programs"
STREAMS_PORT = 9000
ENDED = (7, 52, 55, 56)
"""What curl says of a connection that is refused or reset: at connect, before, while or after it
sent (CURLE_COULDNT_CONNECT, GOT_NOTHING, SEND_ERROR, RECV_ERROR)."""


class Lab:
    """A cluster, with the tests' own programs at hand."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.spec = cluster.spec
        self.one, self.two = (node.name for node in cluster.spec.real_nodes)

    def python(self, pod: str, program: str, *arguments: str, timeout: float = 60) -> str:
        """Run one of the programs in a pod; return what it printed."""
        command = [sys.executable, str(PROGRAMS / program), *arguments]
        env = {"PYTHONPATH": str(ROOT)}
        return self.cluster.pod(pod).run(command, timeout=timeout, env=env).stdout

    def start(self, pod: str, log: str, program: str, *arguments: str) -> Process:
        """Start one of the programs in a pod; its JSON lines go to a log of that name."""
        command = [sys.executable, str(PROGRAMS / program), *arguments]
        self.cluster.log(log).unlink(missing_ok=True)
        process = self.cluster.pod(pod).start(
            command, log=self.cluster.log(log), env={"PYTHONPATH": str(ROOT)}
        )
        wait_until(
            lambda: any(line.get("event") == "listening" for line in self.lines(log)),
            seconds=10,
            what=f"{program} in {pod}",
            alive=[process],
        )
        return process

    def lines(self, log: str) -> list[dict[str, Any]]:
        """The JSON lines that a started program has printed so far."""
        path = self.cluster.log(log)
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def start_asking(self, pod: str, log: str, address: str, *request: str) -> Process:
        """Begin to talk to the streams server in one of the ways of streams.py; return at once."""
        command = [sys.executable, str(PROGRAMS / "streams.py"), "ask", address, str(STREAMS_PORT)]
        self.cluster.log(log).unlink(missing_ok=True)
        return self.cluster.pod(pod).start([*command, *request], log=self.cluster.log(log))

    def sockets(self, pod: str, variant: str, address: str, port: int) -> list[dict[str, Any]]:
        """Dial in one of the ways of sockets.py."""
        own = self.spec.address6(pod) if ":" in address else self.spec.address4(pod)
        found = json.loads(self.python(pod, "sockets.py", variant, address, str(port), own))
        assert isinstance(found, list)
        return found

    def streams(
        self,
        pod: str,
        address: str,
        *request: str,
        timeout: float = 60,
        port: int = STREAMS_PORT,
    ) -> dict[str, Any]:
        """Talk to the streams server at an address in one of the ways of streams.py."""
        said = self.python(pod, "streams.py", "ask", address, str(port), *request, timeout=timeout)
        answer = json.loads(said.splitlines()[-1])
        assert isinstance(answer, dict)
        return answer

    def curl(self, pod: str, url: str, *options: str) -> tuple[int, str]:
        """Fetch; return curl's status (0 done, 7 refused, 28 too slow, 56 reset) and the body."""
        command = ["curl", "-sSg", "-m", "10", "--noproxy", "*", *options, url]
        done = self.cluster.pod(pod).run(command, check=False, timeout=20)
        return done.status, done.stdout

    def records(self, node: str, **wanted: object) -> list[dict[str, Any]]:
        """The node's connections, open and recent, that have these values."""
        found = self.cluster.admin(node, "/connections?recent=1&limit=2000")
        return [r for r in found if all(r.get(key) == value for key, value in wanted.items())]

    def map_entries(self, node: str, name: str) -> int:
        """Entries of a pinned map."""
        pins = list((Path("/sys/fs/bpf/nodemesh") / node).rglob(f"*{name}*"))
        assert len(pins) == 1, f"{name}: {pins}"
        command = ["bpftool", "-j", "map", "dump", "pinned", str(pins[0])]
        return len(json.loads(self.cluster.node(node).run(command).stdout))

    def open_files(self, node: str) -> int:
        """File descriptors of the node's agent."""
        return len(list(Path(f"/proc/{self.cluster.agents[node].pid}/fd").iterdir()))

    def memory(self, node: str) -> int:
        """Resident memory of the node's agent, bytes."""
        status = Path(f"/proc/{self.cluster.agents[node].pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def certificate(self, identity: str, folder: str) -> str:
        """Get a certificate from the lab's authority, as a stranger would; return its directory."""
        directory = self.cluster.dir / "certificates" / folder
        arguments = (
            self.cluster.document()["agent"]["certificates"]["address"],
            str(self.cluster.dir / "ca" / "root-cert.pem"),
            str(self.cluster.dir / "token"),
            identity,
            str(directory),
        )
        command = [sys.executable, str(PROGRAMS / "get_svid.py"), *arguments]
        self.cluster.node(self.one).run(command, env={"PYTHONPATH": str(ROOT)})
        return str(directory)


def make_lab(name: str, **options: Any) -> Lab:
    """A lab with every pod and server that the tests want; no agents yet."""
    one, two, three = (node_name(name, index) for index in (1, 2, 3))
    extra = (
        PodSpec("far", "shop", two, 40, "far", {"app": "far"}, mesh_node=three),
        PodSpec("multi", "shop", one, 41, "multi", {"app": "multi"}, links=2),
    )
    cluster = Cluster.up(default_spec(name, extra_pods=extra, far_node=True), **options)
    lab = Lab(cluster)
    try:
        start_servers(cluster)
        for pod in ("shop/web-1", "shop/web-2", "legacy/old-2"):
            log = f"streams-{pod.replace('/', '-')}"
            lab.start(pod, log, "streams.py", "serve", str(STREAMS_PORT))
    except BaseException:
        cluster.close()
        raise
    return lab
