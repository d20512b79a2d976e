# SPDX-License-Identifier: Apache-2.0
"""Tasks that make Tables true, in the one order in which traffic never meets a hole.

::

    Tables ─▶ core: services, peers ─▶ kernel: maps, pods ─▶ core: SVIDs, pods ─▶ core: removals

The core knows a peer before the kernel sends a connection its way, and forgets it after. A pod is
captured when its certificate is there, or when waiting for that took too long: then its connections
are refused with a reason until it comes, never let through in the clear.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Final

from agent.brain import Compiled, Timing
from agent.dataplane.pods import EnrolledPod
from agent.dataplane.sink import Dataplane
from agent.errors import DataplaneError
from agent.inbox import Inbox
from agent.pki.provider import SvidExpired, SvidFailed, SvidForgotten, SvidProvider, SvidUpdated
from agent.pki.svid import Svid
from agent.readiness import Readiness
from agent.tunnel.core import CoreThread
from agent.tunnel.sink import TunnelSink, TunnelWant
from mesh.model.identity import Identity
from mesh.tables import Tables

__all__ = ["Applier"]

log = logging.getLogger(__name__)

_SVID_WAIT_SECONDS: Final = 2.0
"""An authority answers in milliseconds. A new identity holds other changes back for so long, once;
a guess between a pod that starts with refused connections and a node that stands still."""

_RETRY_FIRST_SECONDS: Final = 1.0
_RETRY_MOST_SECONDS: Final = 30.0
"""Between attempts to apply the same Tables after a failure: doubled each time."""


class Applier:
    """Owns what is applied: a task for Tables, one for certificates, one for pods that changed."""

    def __init__(
        self,
        *,
        dataplane: Dataplane,
        core: CoreThread,
        pki: SvidProvider,
        readiness: Readiness,
        sink: TunnelSink,
    ) -> None:
        self._dataplane = dataplane
        self._core = core
        self._pki = pki
        self._readiness = readiness
        self._sink = sink
        self._one = asyncio.Lock()
        self._dirty = asyncio.Event()
        self._applied = asyncio.Event()
        self._certified = asyncio.Event()
        self._tables = Tables()
        self._may_remove = False
        self._judged = -1
        """The generation of the policy that the core's streams were judged by."""
        self._wanted: frozenset[Identity] = frozenset()
        self._svids: dict[str, Svid] = {}
        self._waited: set[Identity] = set()
        self.inbox: Inbox[Compiled] = Inbox()
        self.timing: Mapping[str, Timing] = {"dataplane": Timing(), "tunnel": Timing()}

    async def run(self) -> None:
        """Apply the latest Tables, again and again until cancelled."""
        compiled = await self.inbox.take()
        pause = _RETRY_FIRST_SECONDS
        while True:
            if await self._apply(compiled):
                self._readiness.done("tables")
                pause = _RETRY_FIRST_SECONDS
                compiled = await self.inbox.take()
                continue
            try:
                async with asyncio.timeout(pause):
                    compiled = await self.inbox.take()
            except TimeoutError:
                pause = min(pause * 2, _RETRY_MOST_SECONDS)

    async def watch_certificates(self) -> None:
        """Give every new SVID to the core, and take expired ones away, until cancelled."""
        while True:
            events = [await self._pki.updates.get()]
            while not self._pki.updates.empty():
                events.append(self._pki.updates.get_nowait())
            for event in events:
                match event:
                    case SvidUpdated(svid):
                        self._svids[str(svid.identity)] = svid
                    case SvidFailed():
                        continue
                    case SvidExpired(identity) | SvidForgotten(identity):
                        self._svids.pop(str(identity), None)
            self._check_certified()
            await self._apply_tunnel()

    async def watch_pods(self) -> None:
        """Give pods that changed on their own to the core, until cancelled."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await self._apply_tunnel()

    async def watch_policy(self) -> None:
        """End open connections on the node that a change forbids, until cancelled."""
        while True:
            await self._applied.wait()
            self._applied.clear()
            await self._dataplane.end_forbidden()

    def pods_changed(self) -> None:
        """Some pod was enrolled or lost outside of an application of Tables."""
        self._dirty.set()

    async def _apply(self, compiled: Compiled) -> bool:
        """Apply in order; False if the kernel would not take it all."""
        self._tables, self._may_remove = compiled.tables, False
        self._want(compiled)
        await self._apply_tunnel()
        await self._await_certificates()
        timing, started = self.timing["dataplane"], time.monotonic()
        try:
            await self._dataplane.apply(compiled.tables, in_sync=compiled.may_remove)
        except DataplaneError as error:
            timing.failed(error)
            log.error("the kernel did not take all of the tables: %s", error)  # noqa: TRY400 - a sentence
            return False
        timing.done(started, time.monotonic())
        self._applied.set()
        await self._judge_again()
        self._may_remove = compiled.may_remove
        self._check_certified()
        await self._apply_tunnel()
        return True

    async def _judge_again(self) -> None:
        """What is open in the tunnels must bear the policy that is in force now."""
        generation = self._dataplane.generation
        if generation != self._judged:
            await self._core.call(lambda core: core.judge_again())
            self._judged = generation

    def _want(self, compiled: Compiled) -> None:
        identities = frozenset(compiled.tables.svids)
        self._wanted = identities if compiled.may_remove else self._wanted | identities
        self._pki.want(self._wanted)
        self._waited &= self._wanted
        self._check_certified()

    async def _await_certificates(self) -> None:
        """Wait a moment for the certificates of identities that are new here."""
        if self._wanted <= self._waited:
            return
        try:
            async with asyncio.timeout(_SVID_WAIT_SECONDS):
                await self._certified.wait()
        except TimeoutError:
            missing = [str(i) for i in sorted(self._wanted) if str(i) not in self._svids]
            fields = {"missing": len(missing), "first": missing[0] if missing else ""}
            log.warning("pods are captured without a certificate yet", extra={"fields": fields})
        self._waited.update(self._wanted)

    def _check_certified(self) -> None:
        if all(str(identity) in self._svids for identity in self._wanted):
            self._certified.set()
            if self._may_remove:
                self._readiness.done("certificates")
        else:
            self._certified.clear()

    async def _apply_tunnel(self) -> None:
        timing = self.timing["tunnel"]
        async with self._one, self._dataplane.steady_pods() as pods:
            started = time.monotonic()
            captured: dict[str, EnrolledPod] = {
                uid: pod for uid, pod in pods.items() if pod.is_captured
            }
            want = TunnelWant(tables=self._tables, pods=captured, svids=dict(self._svids))
            may_remove = self._may_remove
            await self._core.call(lambda core: self._sink.apply(core, want, may_remove=may_remove))
            timing.done(started, time.monotonic())
        if self._sink.refused:
            timing.failures += 1
            asyncio.get_running_loop().call_later(_RETRY_MOST_SECONDS, self._dirty.set)
