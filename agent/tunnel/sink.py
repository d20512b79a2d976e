# SPDX-License-Identifier: Apache-2.0
"""Makes the Rust core hold what it should: services, peers, SVIDs, and the workloads of this node.

::

    Tables ──────────┐
    EnrolledPod … ───┼─▶ want ─ diff with have ─▶ put_services, put_peers, put_svid,
    Svid … ──────────┘                            put_workload, and remove_… in reverse

What a call refers to is put before it and removed after it. Nothing is removed before every source
was in sync, so a restart never tears down what it has not heard of yet.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from agent.tunnel.baggage import format_baggage
from mesh.rows import changed_keys
from mesh.tables import PeerRow, ServiceId, ServiceRow, Tables, WorkloadId

if TYPE_CHECKING:
    from agent.tunnel._hbone import Core

__all__ = ["EnrolledPod", "Svid", "TunnelSink", "TunnelWant"]

log = logging.getLogger(__name__)


class EnrolledPod(Protocol):
    """A captured pod as the dataplane hands it over. The dataplane owns every descriptor in it."""

    @property
    def uid(self) -> str: ...  # noqa: D102
    @property
    def workload_id(self) -> int: ...  # noqa: D102
    @property
    def identity(self) -> object: ...  # noqa: D102
    @property
    def netns_fd(self) -> int: ...  # noqa: D102
    @property
    def netns_cookie(self) -> int: ...  # noqa: D102
    @property
    def addresses(self) -> Sequence[object]: ...  # noqa: D102
    @property
    def capture_listeners(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def inbound_listeners(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def mark(self) -> int: ...  # noqa: D102


class Svid(Protocol):
    """Certificate and key of one identity, as DER."""

    @property
    def chain(self) -> Sequence[bytes]: ...  # noqa: D102
    @property
    def private_key(self) -> bytes: ...  # noqa: D102
    @property
    def roots(self) -> Sequence[bytes]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class TunnelWant:
    """Everything the core should hold now."""

    tables: Tables = field(default_factory=Tables)
    pods: Mapping[str, EnrolledPod] = field(default_factory=dict)
    """By uid."""

    svids: Mapping[str, Svid] = field(default_factory=dict)
    """By SPIFFE ID."""


class TunnelSink:
    """Remembers what the core holds, applies differences. ``apply`` runs in the core's thread."""

    def __init__(self, *, remove_drain_ms: int) -> None:
        self._remove_drain_ms = remove_drain_ms
        self._services: dict[int, str] = {}
        self._peers: dict[WorkloadId, PeerRow] = {}
        self._peer_rows: Mapping[WorkloadId, PeerRow] = {}
        """The core has all of these."""
        self._kept_peers: Mapping[WorkloadId, PeerRow] = {}
        """When the core had none beside these."""
        self._service_rows: Mapping[ServiceId, ServiceRow] = {}
        self._kept_services: Mapping[ServiceId, ServiceRow] = {}
        """The same of services."""
        self._texts: dict[int, tuple[PeerRow, str]] = {}
        self._svids: dict[str, Svid] = {}
        self._pods: dict[str, tuple[EnrolledPod, str]] = {}
        self.refused: dict[str, str] = {}
        """What the core would not take, by uid or identity, with its sentence."""

    def apply(self, core: "Core", want: TunnelWant, *, may_remove: bool) -> None:
        """Make the core hold ``want``. What it refuses is logged and tried at the next call."""
        self.refused = {}
        self._put_services(core, want)
        self._put_peers(core, want)
        self._put_svids(core, want)
        # A pod that came back under the same uid is another pod: the old one goes first.
        self._remove_pods(core, self._replaced(want))
        self._put_pods(core, want)
        if may_remove:
            self._remove_pods(core, [uid for uid in self._pods if uid not in want.pods])
            self._remove_svids(core, want)
            self._remove_peers(core, want)
            self._remove_services(core, want)

    def _put_services(self, core: "Core", want: TunnelWant) -> None:
        rows = want.tables.services
        if rows is self._service_rows:
            return
        wanted = {int(row.key): row.hostname for row in rows.values()}
        changed = [(n, host) for n, host in wanted.items() if self._services.get(n) != host]
        if changed:
            core.put_services(changed)
            self._services.update(changed)
        self._service_rows = rows

    def _remove_services(self, core: "Core", want: TunnelWant) -> None:
        rows = want.tables.services
        if rows is self._kept_services:
            return
        gone = [number for number in self._services if ServiceId(number) not in rows]
        if gone:
            core.put_services([(number, "") for number in gone])
            for number in gone:
                del self._services[number]
        self._kept_services = rows

    def _put_peers(self, core: "Core", want: TunnelWant) -> None:
        rows = want.tables.peers
        keys = changed_keys(self._peer_rows, rows)
        looked = rows.values() if keys is None else [rows[key] for key in keys if key in rows]
        enrolled = [row for row in looked if row.enrolled]
        changed = [row for row in enrolled if not _same_peer(self._peers.get(row.key), row)]
        moved = [int(row.key) for row in changed if _has_moved(self._peers.get(row.key), row)]
        if moved:
            core.remove_peers(moved)
        if changed:
            core.put_peers([_peer_put(row) for row in changed])
        # Rows that say the same to the core are taken too: else the old ones would stay in memory.
        self._peers.update((row.key, row) for row in enrolled)
        self._peer_rows = rows

    def _remove_peers(self, core: "Core", want: TunnelWant) -> None:
        rows = want.tables.peers
        keys = changed_keys(self._kept_peers, rows)
        looked = list(self._peers) if keys is None else [key for key in keys if key in self._peers]
        gone = [n for n in looked if (row := rows.get(n)) is None or not row.enrolled]
        if gone:
            core.remove_peers([int(number) for number in gone])
            for number in gone:
                del self._peers[number]
        self._kept_peers = rows

    def _put_svids(self, core: "Core", want: TunnelWant) -> None:
        for identity, svid in want.svids.items():
            if self._svids.get(identity) is svid:
                continue
            try:
                core.put_svid(
                    identity,
                    chain=list(svid.chain),
                    private_key=svid.private_key,
                    roots=list(svid.roots),
                )
            except ValueError as error:
                self._refuse("certificate", identity, error)
                continue
            self._svids[identity] = svid

    def _remove_svids(self, core: "Core", want: TunnelWant) -> None:
        for identity in [i for i in self._svids if i not in want.svids]:
            core.remove_svid(identity)
            del self._svids[identity]

    def _replaced(self, want: TunnelWant) -> list[str]:
        replaced = []
        for uid, (pod, baggage) in self._pods.items():
            wanted = want.pods.get(uid)
            if (
                wanted is not None
                and (wanted is not pod or baggage != self._baggage(want, wanted.workload_id))
                and not _same_pod(pod, wanted)
            ):
                replaced.append(uid)
        return replaced

    def _put_pods(self, core: "Core", want: TunnelWant) -> None:
        for uid, pod in want.pods.items():
            baggage = self._baggage(want, pod.workload_id)
            have = self._pods.get(uid)
            if have is not None and have[0] is pod and have[1] == baggage:
                continue
            try:
                core.put_workload(
                    pod.workload_id,
                    uid=uid,
                    identity=str(pod.identity),
                    netns_fd=pod.netns_fd,
                    netns_cookie=pod.netns_cookie,
                    addresses=[str(address) for address in pod.addresses],
                    capture_listeners=list(pod.capture_listeners),
                    inbound_listeners=list(pod.inbound_listeners),
                    mark=pod.mark,
                    baggage=baggage,
                )
            except (OSError, ValueError) as error:
                self._refuse("workload", uid, error)
                continue
            self._pods[uid] = (pod, baggage)

    def _remove_pods(self, core: "Core", uids: Iterable[str]) -> None:
        for uid in list(uids):
            pod, _ = self._pods.pop(uid)
            self._texts.pop(pod.workload_id, None)
            core.remove_workload(pod.workload_id, drain_ms=self._remove_drain_ms)

    def _baggage(self, want: TunnelWant, workload_id: int) -> str:
        row = want.tables.peers.get(WorkloadId(workload_id))
        if row is None:
            return ""
        known = self._texts.get(workload_id)
        if known is None or known[0] is not row:
            known = self._texts[workload_id] = (row, format_baggage(row))
        return known[1]

    def _refuse(self, noun: str, name: str, error: Exception) -> None:
        self.refused[name] = str(error)
        log.error(
            "the tunnel core refused a %s", noun, extra={"fields": {noun: name, "error": error}}
        )


def _same_peer(have: PeerRow | None, want: PeerRow) -> bool:
    """Whether the core would hear nothing new."""
    return have is want or (
        have is not None
        and have.addresses == want.addresses
        and have.identity == want.identity
        and have.node == want.node
    )


def _has_moved(have: PeerRow | None, want: PeerRow) -> bool:
    """Whether the pod was made anew on another node: tunnels to the old one lead nowhere."""
    return have is not None and have.node != want.node


def _peer_put(row: PeerRow) -> tuple[int, list[str], list[str]]:
    return int(row.key), [str(address) for address in row.addresses], [str(row.identity)]


def _same_pod(one: EnrolledPod, other: EnrolledPod) -> bool:
    """Whether two descriptions are of one pod: then the core updates it in place.

    It takes the listeners of the new one for all of the old one's; what is open lives on.
    """
    return one.workload_id == other.workload_id and one.netns_cookie == other.netns_cookie
