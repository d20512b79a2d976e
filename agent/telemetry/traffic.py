# SPDX-License-Identifier: Apache-2.0
"""Traffic totals as records, and how they become monotonic metric series.

The tunnel and the kernel count by workload id; Prometheus wants series by labels. Several ids may
share labels, and ids go away, but a series must never run backwards while it lives: the last totals
of a gone id stay carried under its labels until no living id has them, then the series is dropped.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from agent.telemetry.labels import resolve, response_flag, tcp_labels, with_flag
from mesh.tables import PeerRow, ServiceId, ServiceRow, WorkloadId

__all__ = ["SeriesBook", "TrafficTotals"]

Reporter = Literal["source", "destination"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficTotals:
    """Totals since start of one (reporter, source, destination, service)."""

    reporter: Reporter
    source_id: int
    destination_id: int
    service_id: int
    secure: bool
    """Mutual TLS carried it; False for what the kernel forwarded."""

    opened: int = 0
    closed: int = 0
    client_bytes: int = 0
    """From the source to the destination."""

    server_bytes: int = 0
    """From the destination to the source."""

    failed: Mapping[int, int] = field(default_factory=dict)
    """Failures by reason number."""

    @property
    def key(self) -> tuple[Reporter, int, int, int, bool]:
        """What the totals are counted under."""
        return (self.reporter, self.source_id, self.destination_id, self.service_id, self.secure)

    def plus(self, other: "TrafficTotals") -> "TrafficTotals":
        """Return both together, under this one's key."""
        failed = dict(self.failed)
        for reason, count in other.failed.items():
            failed[reason] = failed.get(reason, 0) + count
        return replace(
            self,
            opened=self.opened + other.opened,
            closed=self.closed + other.closed,
            client_bytes=self.client_bytes + other.client_bytes,
            server_bytes=self.server_bytes + other.server_bytes,
            failed=failed,
        )


@dataclass(slots=True)
class _Sums:
    opened: int = 0
    closed: int = 0
    client_bytes: int = 0
    server_bytes: int = 0
    failed: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, totals: TrafficTotals) -> None:
        self.opened += totals.opened
        self.closed += totals.closed
        self.client_bytes += totals.client_bytes
        self.server_bytes += totals.server_bytes
        for reason, count in totals.failed.items():
            self.failed[response_flag(reason)] += count

    def merge(self, other: "_Sums") -> None:
        self.opened += other.opened
        self.closed += other.closed
        self.client_bytes += other.client_bytes
        self.server_bytes += other.server_bytes
        for flag, count in other.failed.items():
            self.failed[flag] += count


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one series."""

    metric: str
    labels: tuple[str, ...]
    value: int


_Key = tuple[Reporter, int, int, int, bool]


class SeriesBook:
    """Sums totals by labels. Used by one scrape at a time."""

    def __init__(self) -> None:
        self._last: dict[_Key, TrafficTotals] = {}
        self._labels: dict[_Key, tuple[str, ...]] = {}
        self._carried: dict[tuple[str, ...], _Sums] = {}

    def __len__(self) -> int:
        """Keys counted at present."""
        return len(self._last)

    def observe(
        self,
        totals: Iterable[TrafficTotals],
        *,
        peers: Mapping[WorkloadId, PeerRow],
        services: Mapping[ServiceId, ServiceRow],
    ) -> None:
        """Take the newest totals; labels are looked up once for each key and then kept."""
        for key, item in _sum_by_key(totals).items():
            last = self._last.get(key)
            self._last[key] = item
            if last is not None and item.opened < last.opened:
                # Whoever counts began anew (the workload was away for a moment): go on from there.
                self._carried.setdefault(self._labels[key], _Sums()).add(last)
            if key not in self._labels:
                source, destination, service = resolve(
                    peers,
                    services,
                    source=item.source_id,
                    destination=item.destination_id,
                    service=item.service_id,
                )
                self._labels[key] = tcp_labels(
                    reporter=item.reporter,
                    source=source,
                    destination=destination,
                    service=service,
                    secure=item.secure,
                )

    def forget(self, workload_ids: Iterable[int]) -> None:
        """Drop every key that names one of these workloads, and series that lost their last key."""
        gone = set(workload_ids)
        for key in [k for k in self._last if k[1] in gone or k[2] in gone]:
            totals = self._last.pop(key)
            self._carried.setdefault(self._labels.pop(key), _Sums()).add(totals)
        living = set(self._labels.values())
        for labels in [x for x in self._carried if x not in living]:
            del self._carried[labels]

    def samples(self) -> Iterable[Sample]:
        """Every series with its value now.

        ``sent`` is what the destination sent and ``received`` what it received, at both reporters,
        as in Istio (istio/istio#32399), so the two look swapped to a reader of the access log.
        """
        sums: dict[tuple[str, ...], _Sums] = {}
        for labels, carried in self._carried.items():
            sums.setdefault(labels, _Sums()).merge(carried)
        for key, totals in self._last.items():
            sums.setdefault(self._labels[key], _Sums()).add(totals)
        for labels, total in sums.items():
            yield Sample("opened", labels, total.opened)
            yield Sample("closed", labels, total.closed)
            yield Sample("received_bytes", labels, total.client_bytes)
            yield Sample("sent_bytes", labels, total.server_bytes)
            for flag, count in total.failed.items():
                yield Sample("failed", with_flag(labels, flag), count)


def _sum_by_key(totals: Iterable[TrafficTotals]) -> dict[_Key, TrafficTotals]:
    """One item for each key: the kernel counts by route and reason as well."""
    found: dict[_Key, TrafficTotals] = {}
    for item in totals:
        other = found.get(item.key)
        found[item.key] = item if other is None else other.plus(item)
    return found
