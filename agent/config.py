# SPDX-License-Identifier: Apache-2.0
"""Settings of the agent process: what the command line says.

What a mesh shares (trust domain, certificates, same-node route) stands in the mesh file and is read
by ``agent.sources``; here is only what belongs to one process on one node. Paths follow from the
node's name, so that two nodes can live on one machine (the lab does that).
"""

import re
import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

from agent.errors import ConfigError

__all__ = [
    "AccessLogSettings",
    "AgentConfig",
    "ListenSettings",
    "LogFormat",
    "LogLevel",
    "Paths",
    "agent_version",
    "check_node_name",
]

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

STATE_ROOT: Final = Path("/run/nodemesh")
"""tmpfs on every systemd machine: what lies here means nothing after a reboot, as do the pins."""

_NODE_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""An RFC 1123 subdomain, as Kubernetes demands of node names; it becomes part of paths."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Where one node's agent keeps what must outlive it."""

    state_dir: Path
    """Directory of everything below; default /run/nodemesh/NODE; made with mode 0700."""

    @property
    def admin_socket(self) -> Path:
        """The unix socket of the admin interface, mode 0600."""
        return self.state_dir / "admin.sock"

    @property
    def ids_file(self) -> Path:
        """Numbers given to workloads and services; pinned maps hold the same numbers."""
        return self.state_dir / "ids.json"

    @property
    def added_ids_file(self) -> Path:
        """The numbers that were given since that file was written."""
        return self.ids_file.with_suffix(".added")

    @property
    def lock_file(self) -> Path:
        """Held by flock for as long as an agent lives: there is one writer of a node's maps."""
        return self.state_dir / "agent.lock"

    @classmethod
    def of_node(cls, node: str, state_root: Path = STATE_ROOT) -> "Paths":
        """The default paths of a node."""
        return cls(state_dir=state_root / node)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenSettings:
    """TCP ports of the agent, in the network namespace that it runs in."""

    address: str = ""
    """Address to listen on; empty is every address, because Prometheus and kubelet come from
    outside. Neither port can change anything."""

    metrics_port: int = 15020
    """Port of GET /metrics and /healthz; Istio's number, so scrape rules still fit. 0 is off."""

    readiness_port: int = 15021
    """Port of GET /healthz/ready; Istio's number, so probes keep working. 0 disables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLogSettings:
    """One line for each closed connection."""

    sample: float = 1.0
    """Share of orderly closed connections that are written, 0 to 1; failures are always written.
    Default all: a quiet log is worse than a long one until a node is busy."""

    lines_per_second: int = 2000
    """Most lines written in a second; more are counted in nodemesh_access_log_dropped_total. About
    1 MB/s of text, what a container runtime's log file can take. A guess, not a measurement."""

    path: Path | None = None
    """File to append to; None is standard output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """One agent process."""

    node: str
    """Name of the node in the mesh file."""

    mesh_file: Path
    """The mesh file, watched and read again when it changes."""

    paths: Paths
    """State directory and what lies in it."""

    cache_dir: Path = Path("/var/cache/nodemesh")
    """Compiled BPF objects, by hash of source, flags and kernel."""

    listen: ListenSettings = field(default_factory=ListenSettings)
    access_log: AccessLogSettings = field(default_factory=AccessLogSettings)

    log_level: LogLevel = "info"
    """Lowest level written; can be changed while running (POST /log-level)."""

    log_format: LogFormat = "text"
    """text is key=value for people, json for collectors."""

    drain_seconds: float = 5.0
    """How long open tunnelled connections may finish after SIGTERM. Default as ztunnel's: below
    the 30 s that Kubernetes gives a pod."""

    series_grace_seconds: float = 300.0
    """How long the metric series of a removed workload stay: five scrapes at the usual minute."""

    kept_connections: int = 2000
    """Closed connections kept in memory for `nodemesh connections`; about 1 KB each."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the field."""
        check_node_name(self.node)
        if not 0.0 <= self.access_log.sample <= 1.0:
            raise ConfigError(f"access log sample must lie in 0..1, not {self.access_log.sample}")
        if self.access_log.lines_per_second < 1:
            raise ConfigError("access log lines per second must be at least 1")
        for name in ("metrics_port", "readiness_port"):
            port = getattr(self.listen, name)
            if not 0 <= port <= 65535:
                raise ConfigError(f"{name.replace('_', ' ')} must lie in 0..65535, not {port}")
        for name in ("drain_seconds", "series_grace_seconds"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name.replace('_', ' ')} must not be negative")
        if self.kept_connections < 1:
            raise ConfigError("kept connections must be at least 1")


def check_node_name(node: str) -> None:
    """Raise ConfigError unless ``node`` can be a Kubernetes node name (it becomes a path)."""
    if not _NODE_NAME.fullmatch(node) or ".." in node:
        raise ConfigError(
            f"node name {node!r} is not a lower-case DNS name (letters, digits, '-' and '.')"
        )


@cache
def agent_version() -> str:
    """Return the version of the installed package, or of the checkout that this runs from."""
    try:
        return version("nodemesh")
    except PackageNotFoundError:
        project = Path(__file__).resolve().parent.parent / "pyproject.toml"
    try:
        return f"{tomllib.loads(project.read_text())['project']['version']}+checkout"
    except OSError:
        return "unknown"
