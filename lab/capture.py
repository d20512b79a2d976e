# SPDX-License-Identifier: Apache-2.0
"""A capture on the link between the nodes, and what it proves.

Reads the classic pcap format (libpcap's pcap-savefile(5)) that tcpdump writes; Ethernet, IPv4
(RFC 791), IPv6 without extension headers (RFC 8200), TCP (RFC 9293). TLS is judged by its record
layer (RFC 8446 section 5.1): type, legacy version, length, one record after another without a gap.
"""

import ipaddress
import os
import re
import signal
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.cluster import Cluster
from lab.errors import LabError
from lab.process import Process, wait_until
from lab.spec import LabSpec

__all__ = ["Evidence", "LinkCapture", "examine"]

HBONE_PORT = 15008
_TCP = 6
_RECORD_TYPES = {20: "change cipher spec", 21: "alert", 22: "handshake", 23: "application data"}

Stream = tuple[str, int, str, int]


class LinkCapture:
    """tcpdump on the link, at the first node, for as long as the block runs."""

    def __init__(self, cluster: Cluster) -> None:
        self.path = cluster.dir / "link.pcap"
        self._cluster = cluster
        self._process: Process | None = None

    def __enter__(self) -> Self:
        place = self._cluster.node(self._cluster.spec.real_nodes[0].name)
        log = self._cluster.log("tcpdump")
        command = ["tcpdump", "-Z", "root", "-n", "-U", "--immediate-mode", "-s", "0"]
        command += ["-B", "65536", "-i", "link0"]
        self._process = place.start([*command, "-w", str(self.path)], log=log)
        wait_until(
            lambda: "listening on" in log.read_text(errors="replace"),
            seconds=10,
            what="tcpdump to listen",
            alive=[self._process],
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._process is not None:
            time.sleep(0.3)  # the last packets on their way through tcpdump
            os.kill(self._process.pid, signal.SIGINT)
            self._process.stop()
            if error is None:
                _check_complete(self._cluster.log("tcpdump").read_text(errors="replace"))


def _check_complete(said: str) -> None:
    """LabError unless tcpdump wrote every packet that it was offered."""
    numbers = {
        what: int(number)
        for number, what in re.findall(r"(\d+) packets? (captured|received|dropped)", said)
    }
    if numbers.get("captured") != numbers.get("received") or numbers.get("dropped") != 0:
        raise LabError(f"the capture is not complete, so it proves nothing: {said.strip()}")


@dataclass(frozen=True, slots=True)
class Segment:
    """One TCP segment."""

    stream: Stream
    sequence: int
    syn: bool
    payload: bytes


@dataclass(slots=True)
class Evidence:
    """What the capture shows about the mesh's pods of different nodes."""

    packets: int = 0
    """TCP packets between them."""
    outside: Counter[str] = field(default_factory=Counter)
    """Those that did not travel on the HBONE port, by stream. Must be empty."""
    tunnels: int = 0
    """Directions of HBONE connections that carried bytes."""
    records: Counter[str] = field(default_factory=Counter)
    """TLS records by type."""
    broken: list[str] = field(default_factory=list)
    """Streams on the HBONE port that are not TLS records throughout. Must be empty."""
    found: dict[str, int] = field(default_factory=dict)
    """How often each marker occurs, in the file and in the streams put together."""


def examine(path: Path, spec: LabSpec, markers: list[str]) -> Evidence:
    """Read a capture and say what it shows. LabError if it is not one."""
    node_of = _mesh_addresses(spec)
    evidence = Evidence()
    parts: dict[Stream, dict[int, bytes]] = defaultdict(dict)
    starts: dict[Stream, int] = {}
    for segment in _segments(path):
        if segment.syn:
            starts[segment.stream] = (segment.sequence + 1) & 0xFFFFFFFF
        _keep_longest(parts[segment.stream], segment)
        _judge_port(segment.stream, node_of, evidence)
    streams = {key: _join(found, starts.get(key)) for key, found in parts.items()}
    for key, data in streams.items():
        if data and HBONE_PORT in (key[1], key[3]):
            evidence.tunnels += 1
            _read_records(_name(key), data, evidence)
    raw = path.read_bytes()
    for marker in markers:
        text = marker.encode()
        in_streams = sum(data.count(text) for data in streams.values())
        evidence.found[marker] = max(raw.count(text), in_streams)
    return evidence


def _mesh_addresses(spec: LabSpec) -> dict[str, str]:
    """Map each address of a pod in the mesh to its node."""
    ambient = {namespace.name for namespace in spec.namespaces if namespace.ambient}
    return {
        str(ipaddress.ip_address(address)): pod.node
        for pod in spec.pods
        if pod.namespace in ambient
        for address in (spec.address4(pod.key), spec.address6(pod.key))
    }


def _judge_port(stream: Stream, node_of: dict[str, str], evidence: Evidence) -> None:
    """Count a packet between mesh pods of different nodes, and mark it if it is not HBONE's."""
    here, there = node_of.get(stream[0]), node_of.get(stream[2])
    if here is None or there is None or here == there:
        return
    evidence.packets += 1
    if HBONE_PORT not in (stream[1], stream[3]):
        evidence.outside[_name(stream)] += 1


def _name(stream: Stream) -> str:
    return f"{stream[0]}:{stream[1]} > {stream[2]}:{stream[3]}"


def _keep_longest(parts: dict[int, bytes], segment: Segment) -> None:
    """Keep the longest segment at each sequence number: a retransmission may be cut otherwise."""
    if len(segment.payload) > len(parts.get(segment.sequence, b"")):
        parts[segment.sequence] = segment.payload


def _join(parts: dict[int, bytes], start: int | None) -> bytes:
    """Put a stream together from its segments, up to the first gap."""
    if not parts:
        return b""
    base = min(parts) if start is None else start
    data = bytearray()
    for sequence in sorted(parts, key=lambda number: (number - base) & 0xFFFFFFFF):
        offset = (sequence - base) & 0xFFFFFFFF
        if offset > len(data):
            break
        payload = parts[sequence]
        data += payload[len(data) - offset :] if len(data) - offset < len(payload) else b""
    return bytes(data)


def _read_records(name: str, data: bytes, evidence: Evidence) -> None:
    """Walk the TLS records of one direction; the last one may be cut off by the capture's end."""
    offset = 0
    while offset + 5 <= len(data):
        kind, major, _minor, length = struct.unpack_from("!BBBH", data, offset)
        if kind not in _RECORD_TYPES or major != 3 or length > 2**14 + 256:
            evidence.broken.append(f"{name}: no TLS record at byte {offset}")
            return
        evidence.records[_RECORD_TYPES[kind]] += 1
        offset += 5 + length


def _segments(path: Path) -> Iterator[Segment]:
    for frame in _frames(path):
        kind = int.from_bytes(frame[12:14], "big")
        if kind == 0x0800 and frame[23] == _TCP:
            header = (frame[14] & 15) * 4
            total = int.from_bytes(frame[16:18], "big") or len(frame) - 14
            source, destination = frame[26:30], frame[30:34]
            tcp = frame[14 + header : 14 + total]
        elif kind == 0x86DD and frame[20] == _TCP:
            total = int.from_bytes(frame[18:20], "big") or len(frame) - 54
            source, destination = frame[22:38], frame[38:54]
            tcp = frame[54 : 54 + total]
        else:
            continue
        source_port, destination_port, sequence = struct.unpack_from("!HHI", tcp)
        stream = (_text(source), source_port, _text(destination), destination_port)
        yield Segment(stream, sequence, bool(tcp[13] & 2), tcp[(tcp[12] >> 4) * 4 :])


def _text(address: bytes) -> str:
    return str(ipaddress.ip_address(address))


def _frames(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    if len(data) < 24 or data[:4] not in (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4"):
        raise LabError(f"{path} is no capture")
    order = "<" if data[0] == 0xD4 else ">"
    offset = 24
    while offset + 16 <= len(data):
        captured, original = struct.unpack_from(f"{order}II", data, offset + 8)
        if captured < original:
            raise LabError(f"{path} holds packets that were cut")
        yield data[offset + 16 : offset + 16 + captured]
        offset += 16 + captured
