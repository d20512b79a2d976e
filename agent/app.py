# SPDX-License-Identifier: Apache-2.0
"""The composition root of the agent. ``_run`` reads top to bottom as the boot sequence.

::

    FileSource ─▶ Brain ─▶ Applier ─┬─▶ Dataplane ─ kernel events ─▶ Observer ─▶ ledger, access log
                                    └─▶ CoreThread ─ core events ──▶    │
    SvidProvider ──────────▶ Applier                                    └─▶ Gatherer ─▶ /metrics

A task that fails stops the agent (what it pinned goes on without it); a pod that cannot be enrolled
is only a pod with a state. SIGTERM and SIGINT drain: no new tunnelled connections, the open ones
may finish within the deadline, everything pinned stays for the next agent.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final, assert_never

from agent.admin.server import AdminServer
from agent.apply import Applier
from agent.brain import Brain
from agent.config import AgentConfig
from agent.dataplane.sink import Dataplane
from agent.dataplane.verdicts import ask
from agent.descriptors import raise_descriptor_limit
from agent.errors import ConfigError
from agent.explain import Explainer
from agent.figures import Gatherer, Parts
from agent.memory import Trimmer, configure_memory, freeze_memory
from agent.observe import Observer
from agent.pki.ca_settings import CaSettings
from agent.pki.open import FilesSettings, PkiSettings, open_provider
from agent.policy_views import PolicyViews
from agent.readiness import Readiness
from agent.sources.file import SOURCE_NAME, FileSource
from agent.sources.settings import AgentSettings, CaCertificates, FileCertificates, MeshFile
from agent.statefiles import IdsFile, hold_lock
from agent.telemetry.log import configure_logging, flush_log
from agent.telemetry.metrics import MetricsPage
from agent.tunnel.core import CoreSettings, CoreThread, require_core, start_core
from agent.tunnel.sink import TunnelSink
from agent.verdict_rules import PolicyCounts, RuleFinder
from agent.views import Views
from mesh.compile import NodeConfig
from mesh.compile.node import DEFAULT_ROOT_NAMESPACE
from mesh.model.errors import MeshError
from mesh.model.node import Node

__all__ = ["main"]

log = logging.getLogger(__name__)

_POD_DRAIN_MS: Final = 5000
"""How long open connections of a pod that leaves may finish; kubelet has ended it long before."""


class _SettingsInForce:
    """The agent section of the mesh file: what can change while running, and what cannot."""

    def __init__(self) -> None:
        self._first: AgentSettings | None = None
        self.now = AgentSettings()
        self.root_namespace = DEFAULT_ROOT_NAMESPACE
        self.on_change: Callable[[], None] = lambda: None

    def take(self, mesh_file: MeshFile) -> None:
        """Take the section of a good mesh file; what needs a restart is said."""
        before, self.now = (self.now, self.root_namespace), mesh_file.agent
        self.root_namespace = mesh_file.root_namespace
        if self._first is None:
            self._first = self.now
            return
        first = (self._first.certificates, self._first.tunnel)
        if (self.now.certificates, self.now.tunnel) != first:
            log.warning("a change of agent.certificates or agent.tunnel takes a restart")
        if (self.now, self.root_namespace) != before:
            self.on_change()


def main(config: AgentConfig) -> int:
    """Run the agent until a signal ends it. The exit status: 0 drained, 1 something failed.

    Raises:
        MeshError: it cannot start, or a task failed for a reason that is one sentence.

    """
    configure_memory()
    configure_logging(level=config.log_level, as_json=config.log_format == "json")
    try:
        require_core()
        raise_descriptor_limit()
        with hold_lock(config.paths):
            asyncio.run(_run(config))
    except* MeshError as group:
        raise _first_error(group) from group
    finally:
        flush_log()
    return 0


def _first_error(group: BaseExceptionGroup[MeshError]) -> MeshError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, MeshError)  # noqa: S101 - what except* has selected
    return error


async def _run(config: AgentConfig) -> None:
    async with contextlib.AsyncExitStack() as stack:
        readiness = Readiness(["sources", "kernel", "tunnel", "tables", "certificates"])

        # Facts: a good mesh file and the numbers that pinned maps hold, before anything is touched.
        settings, trimmer = _SettingsInForce(), Trimmer()

        def take(mesh_file: MeshFile) -> None:
            settings.take(mesh_file)
            trimmer.wake()

        source = FileSource(config.mesh_file, on_load=take)
        mesh_file = await asyncio.to_thread(source.load)
        node = _own_node(config, mesh_file)
        ids = IdsFile(config.paths.ids_file)
        ids.load()

        # Kernel: programs compiled or adopted, attached at the cgroup of the node's pods.
        dataplane = Dataplane(config.node, cgroup=node.cgroup)
        await dataplane.start()
        stack.callback(dataplane.close)
        readiness.done("kernel")

        # Tunnel: the Rust core and its threads.
        core = start_core(
            _core_settings(mesh_file),
            flow_records_fd=dataplane.flow_records_fd(),
            query_fd=dataplane.query_fd(),
        )
        stack.push_async_callback(core.stop)
        readiness.done("tunnel")

        # Certificates, brain and what makes its tables true.
        pki = await stack.enter_async_context(open_provider(_pki_settings(config, mesh_file)))
        sink = TunnelSink(remove_drain_ms=_POD_DRAIN_MS)
        applier = Applier(dataplane=dataplane, core=core, pki=pki, readiness=readiness, sink=sink)
        observer = Observer(config)
        stack.callback(observer.close)
        brain = Brain(
            ids=ids,
            node_config=lambda: NodeConfig(
                config.node, settings.now.same_node, settings.root_namespace
            ),
            sources=[SOURCE_NAME],
            observers=[observer.directory.update],
            inbox=applier.inbox,
            readiness=readiness,
        )
        settings.on_change = brain.compile_again

        # What can be looked at.
        def explainer() -> Explainer:
            program, tables = dataplane.query_fd(), brain.latest.tables
            return Explainer(brain.state, tables, config.node, partial(ask, program))

        policy_counts = PolicyCounts(RuleFinder(explainer))
        parts = Parts(
            readiness=readiness,
            source=source,
            brain=brain,
            pki=pki,
            core=core,
            dataplane=dataplane,
            tunnel_sink=sink,
            observer=observer,
            policy_counts=policy_counts,
            apply_timing=applier.timing,
        )
        page = MetricsPage()
        gatherer = Gatherer(parts, page)
        stop = asyncio.Event()
        views = Views(config, parts, trust_domain=mesh_file.trust_domain, stop=stop)
        policy = PolicyViews(parts, explainer, trust_domain=mesh_file.trust_domain)
        admin = AdminServer(
            views={**views.views, **policy.views},
            actions=views.actions,
            streams=policy.streams,
            refresh_metrics=gatherer.refresh,
            render_metrics=page.render,
            pending=lambda: readiness.pending,
        )
        await stack.enter_async_context(admin.running(config.paths.admin_socket, config.listen))

        # Everything runs.
        _stop_on_signals(stop)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(work, name=name)
                for name, work in {
                    "file source": source.run(brain.queue),
                    "brain": brain.run(),
                    "certificates": pki.run(),
                    "apply tables": applier.run(),
                    "apply certificates": applier.watch_certificates(),
                    "apply pods": applier.watch_pods(),
                    "apply policy": applier.watch_policy(),
                    "look after pods": dataplane.run(lambda _pods: applier.pods_changed()),
                    "core events": observer.watch_core(core),
                    "kernel events": observer.watch_kernel(dataplane),
                    "count by policy": policy_counts.run(observer.feed),
                    "metrics": gatherer.run(),
                    "give memory back": trimmer.run(),
                    "say ready": _say_ready(readiness),
                }.items()
            ]
            await stop.wait()
            await _drain(config, readiness, core)
            await observer.flush(core)
            for task in tasks:
                task.cancel()


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def _drain(config: AgentConfig, readiness: Readiness, core: CoreThread) -> None:
    readiness.drain()
    log.info("draining", extra={"fields": {"seconds": config.drain_seconds}})
    await core.drain(config.drain_seconds)
    log.info("drained; what is pinned stays for the next agent")


async def _say_ready(readiness: Readiness) -> None:
    await readiness.wait()
    log.info("ready")
    freeze_memory()


def _own_node(config: AgentConfig, mesh_file: MeshFile) -> Node:
    for node in mesh_file.nodes:
        if node.name == config.node:
            return node
    known = ", ".join(node.name for node in mesh_file.nodes) or "none"
    raise ConfigError(f"{config.mesh_file} has no node {config.node!r}; it has: {known}")


def _core_settings(mesh_file: MeshFile) -> CoreSettings:
    tunnel = mesh_file.agent.tunnel
    return CoreSettings(
        workers=tunnel.workers,
        congestion_control=tunnel.congestion_control,
        spin_microseconds=tunnel.spin_microseconds,
    )


def _pki_settings(config: AgentConfig, mesh_file: MeshFile) -> PkiSettings:
    """Translate the file's certificate section. ConfigError if it does not say enough."""
    match mesh_file.agent.certificates:
        case CaCertificates(token_file=Path() as token) as ca:
            return CaSettings(
                address=ca.address,
                trust_anchor=ca.trust_anchor,
                token_file=token,
                lifetime=timedelta(seconds=ca.lifetime_seconds),
            )
        case CaCertificates():
            raise ConfigError(f"{config.mesh_file}: agent.certificates needs a tokenFile")
        case FileCertificates(directory=directory):
            return FilesSettings(directory)
        case None:
            raise ConfigError(
                f"{config.mesh_file}: agent.certificates is missing, so no pod could prove who it "
                "is: set provider ca (address, trustAnchor, tokenFile) or files (directory)"
            )
        case _ as never:
            assert_never(never)
