# SPDX-License-Identifier: Apache-2.0
"""What the admin socket answers: plain values made from the agent's parts.

Times are seconds since 1970, durations microseconds where the name says so. Fields are only ever
added: ``nodemesh`` and the lab read them.
"""

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Final

from agent.admin.server import Query, View
from agent.config import AgentConfig, agent_version
from agent.dataplane.pods import EnrolledPod
from agent.descriptors import descriptor_trouble
from agent.figures import Parts
from agent.policy_status import policy_status
from agent.telemetry.log import current_level, set_level
from agent.tunnel.records import open_record
from mesh.model.identity import Identity
from mesh.model.workload import Workload
from mesh.tables import FrontendKey, PeerRow, Route, Tables

__all__ = ["Views"]

log = logging.getLogger(__name__)

_DEFAULT_LIMIT: Final = 100


class Views:
    """Answers for GET and POST.

    What is read is taken on the event loop, so it is coherent; what is long is put into words in a
    thread.
    """

    def __init__(
        self, config: AgentConfig, parts: Parts, *, trust_domain: str, stop: asyncio.Event
    ) -> None:
        self._config = config
        self._parts = parts
        self._trust_domain = trust_domain
        self._stop = stop
        self._started = time.time()

    @property
    def views(self) -> Mapping[str, View]:
        """GET routes."""
        return {
            "/status": self.status,
            "/workloads": self.workloads,
            "/services": self.services,
            "/connections": self.connections,
            "/certificates": self.certificates,
            "/tunnels": self.tunnels,
            "/tables": self.tables,
            "/log-level": self.log_level,
        }

    @property
    def actions(self) -> Mapping[str, View]:
        """POST routes."""
        return {"/log-level": self.set_log_level, "/drain": self.drain}

    async def status(self, _query: Query) -> Any:
        """How the agent is doing, in all."""
        parts = self._parts
        source = parts.source.status
        tables = parts.brain.latest.tables
        dataplane = parts.dataplane.status()
        return {
            "node": self._config.node,
            "trust_domain": self._trust_domain,
            "version": agent_version(),
            "pid": os.getpid(),
            "started_at": self._started,
            "uptime_seconds": round(time.time() - self._started, 1),
            "ready": parts.readiness.is_ready,
            "pending": parts.readiness.pending,
            "enrollments": dict(Counter(dataplane.pods.values())),
            "certificates": dict(Counter(s.state.value for s in parts.pki.status())),
            "core": dict(await parts.core.stats()),
            "dataplane": _plain(dataplane),
            "rows": {name: len(rows) for name, rows in _tables(tables).items()},
            "policy": policy_status(
                tables, parts.brain.state.policies.values(), parts.dataplane.generation
            ),
            "sources": [
                {
                    "name": "file",
                    "path": source.path,
                    "generation": source.generation,
                    "last_loaded": source.last_loaded.timestamp() if source.last_loaded else None,
                    "error": source.last_error,
                    "in_sync": "file" in parts.brain.state.in_sync,
                }
            ],
            "log_level": current_level(),
            "troubles": self._troubles(),
        }

    async def workloads(self, _query: Query) -> Any:
        """Every workload that is known, with what is so about it on this node."""
        brain, node = self._parts.brain, self._config.node
        tables, pods = brain.latest.tables, self._parts.dataplane.pods()
        known = list(brain.state.workloads.by_key().values())

        def describe() -> list[dict[str, Any]]:
            peers = {row.uid: row for row in tables.peers.values()}
            known.sort(key=lambda workload: workload.uid)
            return [
                _describe_workload(
                    workload,
                    row=peers.get(workload.uid),
                    pod=pods.get(workload.uid),
                    route=_route(tables, workload),
                    local=workload.node == node,
                )
                for workload in known
            ]

        return await asyncio.to_thread(describe)

    async def services(self, _query: Query) -> Any:
        """Every service that is known, with its ports and how many endpoints are behind them."""
        tables = self._parts.brain.latest.tables
        counts = {row.key: row.endpoint_count for row in tables.frontends.values()}
        numbers = {(row.namespace, row.name): int(row.key) for row in tables.services.values()}
        found = []
        for key, service in sorted(self._parts.brain.state.services.by_key().items()):
            ports = [
                {
                    "name": port.name,
                    "port": port.port,
                    "target_port": port.target_port,
                    "protocol": port.protocol.name,
                    "endpoints": max(
                        (
                            counts.get(FrontendKey(vip, port.port, port.protocol), 0)
                            for vip in service.vips
                        ),
                        default=0,
                    ),
                }
                for port in service.ports
            ]
            found.append(
                {
                    "service_id": numbers.get((service.namespace, service.name), 0),
                    "namespace": key.namespace,
                    "name": key.name,
                    "hostname": service.hostname,
                    "vips": [str(vip) for vip in service.vips],
                    "ports": ports,
                }
            )
        return found

    async def connections(self, query: Query) -> Any:
        """Open connections; with ``recent=1`` also the last ``limit`` that ended."""
        observer = self._parts.observer
        limit = _number(query, "limit", _DEFAULT_LIMIT)
        recent = observer.ledger.recent(limit) if query.get("recent") in {"1", "true"} else []
        followed = observer.flows.open_flows()
        streams = await self._parts.core.connections()

        def describe() -> list[dict[str, Any]]:
            records = [open_record(stream, observer.directory) for stream in streams]
            records += [make() for make in followed]
            records += [ended.make() for ended in recent]
            return [record.as_json() for record in records]

        return await asyncio.to_thread(describe)

    async def certificates(self, _query: Query) -> Any:
        """One entry for each identity that this node needs; never a key."""
        return [status.as_json() for status in self._parts.pki.status()]

    async def tunnels(self, _query: Query) -> Any:
        """Open HBONE connections."""
        directory = self._parts.observer.directory
        found = []
        for tunnel in await self._parts.core.tunnels():
            workload = directory.workload(tunnel["workload_id"])
            found.append({**tunnel, "workload": workload.text if workload else ""})
        return found

    async def tables(self, _query: Query) -> Any:
        """All rows as they were compiled last: what the sinks are to make true."""
        return await asyncio.to_thread(_plain_tables, self._parts.brain.latest.tables)

    async def log_level(self, _query: Query) -> Any:
        """The level of the agent's log."""
        return {"level": current_level()}

    async def set_log_level(self, query: Query) -> Any:
        """Change the level: ``level=debug``."""
        before = current_level()
        set_level(query.get("level", ""))
        fields = {"before": before, "now": current_level()}
        log.warning("the log level was changed", extra={"fields": fields})
        return {"level": current_level()}

    async def drain(self, _query: Query) -> Any:
        """Do what SIGTERM does: drain, then end."""
        self._stop.set()
        return {"draining": True, "seconds": self._config.drain_seconds}

    def _troubles(self) -> list[str]:
        """Sentences about what is not as it should be, worst first."""
        parts = self._parts
        found = [
            f"{name}: {timing.last_error}"
            for name, timing in parts.apply_timing.items()
            if timing.last_error
        ]
        found += [f"{name}: {error}" for name, error in parts.tunnel_sink.refused.items()]
        found += [
            f"{status.identity}: {status.last_error}"
            for status in parts.pki.status()
            if status.last_error
        ]
        tables = parts.brain.latest.tables
        worst = [one for one in (tables.policy_problem, descriptor_trouble()) if one]
        if not parts.dataplane.status().ends_idle:
            worst.append(_NO_DESTROY)
        return [*worst, *found, *tables.warnings]


_NO_DESTROY: Final = (
    "The kernel has no CONFIG_INET_DIAG_DESTROY: an idle connection on the node that a policy "
    "forbids ends at its next packet, not at once."
)


def _number(query: Query, name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not text.isdecimal() or len(text) > 9:
        raise ValueError(f"{name} must be a number, not {text!r}")
    return int(text)


def _tables(tables: Tables) -> dict[str, Mapping[Any, Any]]:
    names = ("frontends", "endpoints", "workloads", "enrollments", "peers", "services", "svids")
    return {name: getattr(tables, name) for name in names}


def _plain_tables(tables: Tables) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: [_plain(row) for row in rows.values()] for name, rows in _tables(tables).items()
    }
    return {**found, "warnings": list(tables.warnings)}


def _describe_workload(
    workload: Workload, *, row: PeerRow | None, pod: EnrolledPod | None, route: str, local: bool
) -> dict[str, Any]:
    return {
        "uid": workload.uid,
        "workload_id": int(row.key) if row is not None else 0,
        "namespace": workload.namespace,
        "name": workload.name,
        "node": workload.node,
        "addresses": [str(address) for address in workload.addresses],
        "identity": str(row.identity) if row is not None else "",
        "enrolled": row.enrolled if row is not None else False,
        "local": local,
        "route": route,
        "state": pod.state.value if pod is not None else _remote_state(row),
        "detail": pod.detail if pod is not None else "",
        "capture_ports": list(pod.capture_ports) if pod is not None else [],
    }


def _route(tables: Tables, workload: Workload) -> str:
    for address in workload.addresses:
        row = tables.workloads.get(address)
        if row is not None:
            return Route(row.route).name.lower()
    return ""


def _remote_state(row: PeerRow | None) -> str:
    if row is None or not row.enrolled:
        return "outside the mesh"
    return "remote"


def _plain(value: Any) -> Any:
    """Rows as JSON values: records become objects, enums their names."""
    if is_dataclass(value) and not isinstance(value, type):
        if isinstance(value, Identity):
            return str(value)
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
