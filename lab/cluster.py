# SPDX-License-Identifier: Apache-2.0
"""A running lab: the topology, a certificate authority, and one agent per node.

with Cluster.up(default_spec()) as cluster:
    cluster.start_mesh()
    cluster.pod("shop/client").run(["curl", "http://10.96.0.10/"])
"""

import http.client
import json
import os
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab.errors import LabError
from lab.host import check_machine, ensure_bpffs
from lab.manifest import Manifest, lab_dir
from lab.meshfile import CA_PORT, Document, MeshOptions, mesh_document, write_document
from lab.process import Place, Process, node_place, pod_place, wait_until
from lab.spec import LabSpec
from lab.teardown import remove_lab
from lab.topology import build_topology

__all__ = ["Cluster", "nodemesh"]

ROOT = Path(__file__).resolve().parent.parent
READY_SECONDS = 120.0
"""The first agent on a machine compiles the kernel half, with clang, which takes seconds."""


def nodemesh(*arguments: str) -> list[str]:
    """Return the command line of the product, run by this interpreter."""
    return [sys.executable, "-m", "cli.main", *arguments]


def _environment() -> dict[str, str]:
    """Let the product be imported from where this package lies, whatever the working directory."""
    path = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": f"{ROOT}:{path}" if path else str(ROOT), "PYTHONUNBUFFERED": "1"}


class Cluster:
    """A lab that exists. ``close`` removes it and everything it made."""

    def __init__(self, spec: LabSpec, manifest: Manifest, options: MeshOptions) -> None:
        self.spec = spec
        self.manifest = manifest
        self.options = options
        self.dir = lab_dir(spec.name)
        self.agents: dict[str, Process] = {}
        self.ca: Process | None = None
        self.agent_arguments: tuple[str, ...] = ()
        """Further arguments of every agent that is started."""

    @classmethod
    def up(cls, spec: LabSpec, **options: Any) -> Self:
        """Build the topology and write mesh.yaml; start nothing. ``options``: of MeshOptions."""
        check_machine()
        ensure_bpffs()
        manifest = build_topology(spec)
        cluster = cls(spec, manifest, MeshOptions(state=lab_dir(spec.name), **options))
        try:
            (cluster.dir / "logs").mkdir()
            cluster.write_mesh()
        except BaseException:
            cluster.close()
            raise
        return cluster

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the lab. Safe to call twice."""
        for process in [*self.agents.values(), *([self.ca] if self.ca else [])]:
            if process.running:
                process.popen.terminate()
        remove_lab(self.spec.name)
        for process in [*self.agents.values(), *([self.ca] if self.ca else [])]:
            process.popen.wait(5)

    # ── configuration ──

    @property
    def mesh_file(self) -> Path:
        """The mesh.yaml that every agent of the lab watches."""
        return self.dir / "mesh.yaml"

    def document(self) -> Document:
        """Return mesh.yaml of this lab as data, to be changed and written again."""
        return mesh_document(self.spec, self.options)

    def write_mesh(self, document: Document | None = None) -> None:
        """Write mesh.yaml: ``document``, or the lab's own."""
        write_document(self.mesh_file, document or self.document())

    def set_options(self, **changes: Any) -> None:
        """Change options of mesh.yaml and write it."""
        self.options = replace(self.options, **changes)
        self.write_mesh()

    # ── places ──

    def pod(self, key: str) -> Place:
        """Return the inside of the pod ``namespace/name``."""
        return pod_place(self.spec, key)

    def node(self, name: str, part: str = "host") -> Place:
        """Return the node itself."""
        return node_place(self.spec, name, part)

    def log(self, name: str) -> Path:
        """Return the log file of a part of the lab, such as ``agent-node1``."""
        return self.dir / "logs" / f"{name}.log"

    # ── the mesh's processes ──

    def start_mesh(self) -> None:
        """Start the certificate authority and every agent; return when all are ready."""
        self.start_ca()
        for node in self.spec.real_nodes:
            self.start_agent(node.name, wait=False)
        for node in self.spec.real_nodes:
            self.wait_ready(node.name)

    def start_ca(self) -> None:
        """Start `nodemesh ca` on the first node; return when it listens."""
        node = self.spec.real_nodes[0]
        token = self.dir / "token"
        if not token.exists():
            token.touch(mode=0o600)
            token.write_text(secrets.token_urlsafe(32))
        command = nodemesh(
            "ca",
            *("--listen", f"{node.link4}:{CA_PORT}"),
            *("--state-dir", str(self.dir / "ca")),
            *("--trust-domain", "cluster.local"),
            *("--token-file", str(token)),
        )
        place = self.node(node.name)
        self.ca = place.start(command, log=self.log("ca"), env=_environment())
        anchor = self.dir / "ca" / "root-cert.pem"
        wait_until(
            lambda: anchor.exists() and self.listens(place, CA_PORT),
            seconds=30,
            what="the certificate authority to listen",
            alive=[self.ca],
        )

    def start_agent(self, node: str, *, wait: bool = True) -> Process:
        """Start the node's agent in the node's netns and its own cgroup."""
        command = nodemesh("agent", "--node", node, *self.agent_arguments, str(self.mesh_file))
        place = self.node(node, "agent")
        agent = place.start(command, log=self.log(f"agent-{node}"), env=_environment())
        self.agents[node] = agent
        if wait:
            self.wait_ready(node)
        return agent

    def wait_ready(self, node: str, seconds: float = READY_SECONDS) -> None:
        """Wait until the agent's readiness probe (15021, /healthz/ready) says 200."""
        wait_until(
            lambda: self.is_ready(node),
            seconds=seconds,
            what=f"the agent of {node} to be ready",
            alive=[self.agents[node]],
        )

    def is_ready(self, node: str) -> bool:
        """Ask the node's readiness probe."""
        return self.http_status(node, "http://127.0.0.1:15021/healthz/ready") == 200

    def stop_agent(self, node: str) -> int:
        """End the agent with SIGTERM; return its exit status."""
        return self.agents[node].stop()

    def kill_agent(self, node: str) -> None:
        """End the agent as kill -9 does."""
        self.agents[node].kill()

    # ── looking inside ──

    def listens(self, place: Place, port: int) -> bool:
        """Say whether something listens on a TCP port there."""
        return f":{port} " in place.run(["ss", "-Hltn"]).stdout

    def http_status(self, node: str, url: str) -> int:
        """GET on the node; 0 where nothing answers."""
        command = ["curl", "-s", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}", url]
        return int(self.node(node).run(command, check=False).stdout or 0)

    def metrics(self, node: str) -> str:
        """Return the text of the agent's metrics."""
        command = ["curl", "-sf", "-m", "5", "http://127.0.0.1:15020/metrics"]
        return self.node(node).run(command).stdout

    def admin(self, node: str, path: str, *, timeout: float = 10) -> Any:
        """GET ``path`` of the agent's admin socket; return the JSON. LabError on other answers."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(timeout)
        try:
            connection.sock.connect(str(Path("/run/nodemesh") / node / "admin.sock"))
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        except OSError as error:
            raise LabError(f"the agent of {node} does not answer: {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise LabError(f"{path} of {node}: {answer.status} {body[:200]!r}")
        return json.loads(body)

    def command(
        self, node: str, arguments: Sequence[str], *, env: Mapping[str, str] | None = None
    ) -> str:
        """Run `nodemesh …` on a node and return what it printed; CommandError if it fails."""
        place = self.node(node)
        done = place.run(nodemesh(*arguments), env={**_environment(), **(env or {})})
        return done.stdout

    def ask_command(self, node: str, arguments: Sequence[str]) -> tuple[int, str]:
        """Run `nodemesh …` on a node; return its exit status and what it printed."""
        done = self.node(node).run(nodemesh(*arguments), env=_environment(), check=False)
        return done.status, done.stdout + done.stderr

    def start_command(self, node: str, arguments: Sequence[str], *, log: Path) -> Process:
        """Start a `nodemesh …` that stays, on a node."""
        return self.node(node).start(nodemesh(*arguments), log=log, env=_environment())
