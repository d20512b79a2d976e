# SPDX-License-Identifier: Apache-2.0
"""Read what the programs print: iperf3, wrk, the peer, procfs. Pure functions of text."""

import json
import re
from dataclasses import dataclass

__all__ = [
    "Bulk",
    "Latency",
    "ParseError",
    "Requests",
    "parse_cpu_ticks",
    "parse_iperf3",
    "parse_latency",
    "parse_rss_bytes",
    "parse_wrk",
]


class ParseError(ValueError):
    """A program did not print a figure; the message shows the end of what it did print."""


@dataclass(frozen=True, slots=True)
class Bulk:
    """What iperf3's receiver saw."""

    bits_per_second: float
    received_bytes: float


@dataclass(frozen=True, slots=True)
class Requests:
    """What wrk saw. ``failed``: socket errors and answers other than 2xx and 3xx."""

    per_second: float
    total: int
    p50_us: float
    p99_us: float
    failed: int


@dataclass(frozen=True, slots=True)
class Latency:
    """What the peer saw: microseconds of a request and its response on an open connection."""

    p50_us: float
    p99_us: float


def parse_iperf3(text: str) -> Bulk:
    """Read ``iperf3 -J``; ParseError if it failed or moved nothing."""
    try:
        total = json.loads(text)["end"]["sum_received"]
        bulk = Bulk(float(total["bits_per_second"]), float(total["bytes"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ParseError(f"iperf3: {text.strip()[-400:]}") from error
    if not bulk.received_bytes:
        raise ParseError("iperf3 received nothing")
    return bulk


_WRK_UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}


def _microseconds(text: str) -> float:
    found = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if found is None:
        raise ParseError(f"wrk: {text!r} is no time")
    return float(found[1]) * _WRK_UNITS[found[2]]


def parse_wrk(text: str) -> Requests:
    """Read ``wrk --latency``; ParseError if it made no request."""
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    total = re.search(r"(\d+) requests in ", text)
    middle = re.search(r"^\s+50%\s+(\S+)", text, re.MULTILINE)
    high = re.search(r"^\s+99%\s+(\S+)", text, re.MULTILINE)
    if not (rate and total and middle and high) or not int(total[1]):
        raise ParseError(f"wrk: {text.strip()[-400:]}")
    failed = sum(
        int(count)
        for line in re.findall(r"Socket errors: (.*)|Non-2xx or 3xx responses: (\d+)", text)
        for count in re.findall(r"\d+", " ".join(line))
    )
    return Requests(
        per_second=float(rate[1]),
        total=int(total[1]),
        p50_us=_microseconds(middle[1]),
        p99_us=_microseconds(high[1]),
        failed=failed,
    )


def parse_latency(text: str) -> Latency:
    """Read the JSON line of ``peer.py ask``; ParseError if there is none."""
    try:
        said = json.loads(text)
        return Latency(float(said["p50_us"]), float(said["p99_us"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ParseError(f"the peer: {text.strip()[-400:]}") from error


def parse_cpu_ticks(stat: str) -> int:
    """Read user and system time of /proc/PID/stat, all threads, in clock ticks (proc(5))."""
    # The name may hold spaces and parentheses; fields are counted from the last of them.
    fields = stat.rpartition(")")[2].split()
    try:
        return int(fields[11]) + int(fields[12])
    except (IndexError, ValueError) as error:
        raise ParseError(f"/proc/PID/stat: {stat[:100]!r}") from error


def parse_rss_bytes(status: str) -> int:
    """Read the resident memory of /proc/PID/status, in bytes."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    if found is None:
        raise ParseError("/proc/PID/status names no VmRSS")
    return int(found[1]) * 1024
