# SPDX-License-Identifier: Apache-2.0
"""Who is behind a number: workloads and services as telemetry names them.

The tunnel and the kernel count by workload id. The directory turns ids into names from the rows of
the last Tables, and remembers a removed workload for a grace, so that its last figures still carry
its name; after that its series are dropped everywhere.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mesh.model.address import IpAddress
from mesh.rows import Rows, changed_keys
from mesh.tables import PeerRow, ServiceId, ServiceRow, Tables, WorkloadId

__all__ = ["Directory", "NamedWorkload"]


@dataclass(frozen=True, slots=True)
class NamedWorkload:
    """A workload for people: ``namespace/name`` and its SPIFFE ID."""

    name: str
    namespace: str
    identity: str
    enrolled: bool

    @property
    def text(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


class Directory:
    """Names by number and by address. Lives on the event loop's thread; readers take a snapshot.

    ``peers`` and ``services`` are replaced, never changed in place, so that a thread which took a
    reference (a scrape) sees one coherent state without a lock.
    """

    def __init__(self, *, grace_seconds: float, clock: Callable[[], float]) -> None:
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._gone: dict[WorkloadId, float] = {}
        self._gone_services: dict[ServiceId, float] = {}
        self._by_address: dict[IpAddress, set[WorkloadId]] = {}
        self._peer_rows: Mapping[WorkloadId, PeerRow] = {}
        self._service_rows: Mapping[ServiceId, ServiceRow] = {}
        self.peers: Rows[WorkloadId, PeerRow] = Rows()
        self.services: Mapping[ServiceId, ServiceRow] = {}
        self.revision = 0
        """Grows when a name may have changed: with it go texts that were made of names."""

    def update(self, tables: Tables) -> None:
        """Learn the rows of new Tables; rows that vanished start their grace."""
        now = self._clock()
        self.revision += 1
        self._update_peers(tables.peers, now)
        if tables.services is self._service_rows:
            return
        self._service_rows = tables.services
        services = dict(tables.services)
        for service, service_row in self.services.items():
            if service not in services:
                self._gone_services.setdefault(service, now)
                services[service] = service_row
        for service in tables.services:
            self._gone_services.pop(service, None)
        self.services = services

    def _update_peers(self, rows: Mapping[WorkloadId, PeerRow], now: float) -> None:
        before, self._peer_rows = self._peer_rows, rows
        keys = changed_keys(before, rows)
        if keys is None:
            keys = before.keys() | rows.keys()
        for number in keys:
            for address in before[number].addresses if number in before else ():
                self._by_address[address].discard(number)
                if not self._by_address[address]:
                    del self._by_address[address]
            if number in rows:
                self._gone.pop(number, None)
            else:
                self._gone.setdefault(number, now)
        for number in keys:
            for address in rows[number].addresses if number in rows else ():
                self._by_address.setdefault(address, set()).add(number)
        self.peers = self.peers.change({key: rows[key] for key in keys if key in rows})

    def expire(self) -> list[WorkloadId]:
        """Forget workloads whose grace is over and return their ids: their series must go too.

        Services go likewise; a series that names one lives as long as its workloads do.
        """
        now = self._clock()
        self._expire_services(now)
        over = [n for n, since in self._gone.items() if now - since >= self._grace_seconds]
        if over:
            self.revision += 1
            for number in over:
                del self._gone[number]
            self.peers = self.peers.change({}, over)
        return over

    def _expire_services(self, now: float) -> None:
        over = {n for n, since in self._gone_services.items() if now - since >= self._grace_seconds}
        if over:
            self.revision += 1
            self._gone_services = {n: t for n, t in self._gone_services.items() if n not in over}
            self.services = {n: row for n, row in self.services.items() if n not in over}

    def is_gone(self, number: WorkloadId) -> bool:
        """Whether the workload was removed (and may still be in its grace)."""
        return number not in self.peers or number in self._gone

    def workload(self, number: int) -> NamedWorkload | None:
        """The workload with this id; None if it is unknown or 0."""
        row = self.peers.get(WorkloadId(number))
        if row is None:
            return None
        return NamedWorkload(row.name, row.namespace, str(row.identity), row.enrolled)

    def at_address(self, address: IpAddress) -> int:
        """The id of the workload that has this address now, of several the highest; 0 if none."""
        return max(self._by_address.get(address, (0,)))

    def service_hostname(self, number: int) -> str:
        """The host name of a service; empty if it is unknown or 0."""
        row = self.services.get(ServiceId(number))
        return row.hostname if row is not None else ""
