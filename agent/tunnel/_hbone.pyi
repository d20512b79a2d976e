# SPDX-License-Identifier: Apache-2.0
"""The byte path: HBONE tunnels in Rust, one thread per worker. The only doorway to the core.

All calls return at once (a worker is told by a queue and an eventfd) unless they say otherwise, and
may be made from one thread at a time. File descriptors are duplicated: the caller keeps its own.
"""

from typing import Literal, TypedDict, final, type_check_only

__all__ = ["ClosedConnection", "Core", "build_fingerprint"]

@type_check_only
class SvidMaterial(TypedDict):
    """DER: the leaf first, then intermediates; the key as PKCS#8; the roots of the trust domain."""

    chain: list[bytes]
    private_key: bytes
    roots: list[bytes]

@type_check_only
class Event(TypedDict, total=False):
    """Something the loop should hear of. ``kind`` says which; see docs/ARCHITECTURE.md."""

    kind: Literal[
        "handshake_failed",
        "tunnel_opened",
        "tunnel_closed",
        "capture_refused",
        "worker_panicked",
    ]
    direction: Literal["outbound", "inbound"]
    workload_id: int
    peer_workload_id: int
    service_id: int
    source: str
    destination: str
    original_destination: str
    hbone_address: str
    source_identity: str
    destination_identity: str
    bytes_sent: int
    bytes_received: int
    duration_us: int
    connect_us: int
    reason: int
    detail: str
    trace_id: str

@type_check_only
class Counter(TypedDict):
    """Totals since start for one (direction, workload, peer, service, reason-class)."""

    direction: Literal["outbound", "inbound"]
    workload_id: int
    peer_workload_id: int
    service_id: int
    secure: bool
    opened: int
    closed: int
    bytes_sent: int
    bytes_received: int
    failed: dict[int, int]

@type_check_only
class Connection(TypedDict):
    """One open stream, as `nodemesh connections` shows it."""

    direction: Literal["outbound", "inbound"]
    workload_id: int
    peer_workload_id: int
    service_id: int
    source: str
    destination: str
    original_destination: str
    source_identity: str
    destination_identity: str
    bytes_sent: int
    bytes_received: int
    age_us: int
    connect_us: int

@type_check_only
class Tunnel(TypedDict):
    """One open HBONE connection."""

    direction: Literal["outbound", "inbound"]
    workload_id: int
    local: str
    remote: str
    peer_identity: str
    streams: int
    age_us: int
    worker: int

@type_check_only
class WorkerShare(TypedDict):
    """What one worker does."""

    worker: int
    busy: float
    """Smoothed share of time not asleep, 0 to 1."""
    tunnels: int
    connections: int

@type_check_only
class Stats(TypedDict):
    """Gauges and totals of the whole core."""

    workers: int
    connections: int
    tunnels: int
    handshakes: int
    handshakes_failed: dict[int, int]
    tunnels_opened: int
    tunnels_reused: int
    spills: int
    tunnels_moved: int
    tunnels_evicted: int
    tunnels_refused: int
    tunnels_closed: dict[int, int]
    events_dropped: int
    events_withheld: int
    capture_refused: dict[int, int]
    buffers_bytes: int
    shares: list[WorkerShare]

@final
class ClosedConnection:
    """A connection that ended. Each member makes its value anew: ask once."""

    @property
    def reason(self) -> int:
        """Why, a number of mesh.reasons; 0 is in order."""
    @property
    def detail(self) -> str:
        """More about the reason, for people; empty if there is no more."""
    @property
    def between(self) -> tuple[bool, int, int, int, str, str]:
        """What connections of a pair of workloads have in common.

        Whether it is outbound; the ids of the workload of this node, of its peer and of the
        service, 0 if unknown; the SPIFFE IDs of source and destination, empty if unproven.
        """
    @property
    def own(self) -> tuple[str, str, str, str, int, int, int, int, str]:
        """What is its own.

        Addresses with ports, empty where they do not apply: source, destination, original
        destination, the peer's HBONE address. Bytes sent towards the peer workload, and received.
        Microseconds until it was connected, and of its whole life. The trace id, in hexadecimal.
        """

@final
class Core:
    """Starts the workers; they live until stop()."""

    def __new__(
        cls,
        *,
        flow_records_fd: int,
        query_fd: int,
        workers: int = 0,
        hbone_port: int = 15008,
        congestion_control: str = "",
        max_events: int = 65536,
        half_close_idle_ms: int = 300_000,
        pool_idle_ms: int = 300_000,
        connect_timeout_ms: int = 10_000,
        spin_us: int = 0,
    ) -> Core: ...
    def event_fd(self) -> int:
        """An eventfd that is readable while events wait; owned by the core."""
    def drain_events(self) -> tuple[list[ClosedConnection], list[Event]]:
        """Every waiting event, oldest first; resets the eventfd.

        Connections that ended come apart from everything else: by the thousand, and cheaper.
        """
    def put_svid(
        self, identity: str, *, chain: list[bytes], private_key: bytes, roots: list[bytes]
    ) -> None:
        """New handshakes of this identity use it; open tunnels live on. ValueError if malformed."""
    def judge_again(self) -> None:
        """The policy has changed: open streams that it refuses now end, with its reason."""
    def remove_svid(self, identity: str) -> None: ...
    def put_workload(
        self,
        workload_id: int,
        *,
        uid: str,
        identity: str,
        netns_fd: int,
        netns_cookie: int,
        addresses: list[str],
        capture_listeners: list[int],
        inbound_listeners: list[int],
        mark: int,
        baggage: str,
    ) -> None:
        """Serve a pod of this node: accept on its listeners, dial in its netns."""
    def remove_workload(self, workload_id: int, *, drain_ms: int) -> None:
        """Stop accepting at once; end what is open within the deadline."""
    def put_peers(self, peers: list[tuple[int, list[str], list[str]]]) -> None:
        """(workload id, addresses, SPIFFE IDs to expect there); replaces those ids."""
    def remove_peers(self, workload_ids: list[int]) -> None:
        """Forget them and close their pooled tunnels at once."""
    def put_services(self, services: list[tuple[int, str]]) -> None:
        """(service id, hostname): the names that ``forwarded: host=`` may refer to.

        An empty hostname forgets the service.
        """
    def counters(self) -> list[Counter]:
        """Asks every worker; blocks (GIL released) for at most a second."""
    def forget_counters(self, workload_ids: list[int]) -> None:
        """Drop the series that name these workloads."""
    def connections(self) -> list[Connection]: ...
    def tunnels(self) -> list[Tunnel]: ...
    def stats(self) -> Stats: ...
    def drain(self, deadline_ms: int) -> None:
        """GOAWAY everywhere, no new connections, finish what is open; returns when done."""
    def stop(self) -> None:
        """Ends and joins the workers. Safe to call twice."""

def build_fingerprint() -> str:
    """Hash of the sources this module was built from, to refuse a stale build."""
