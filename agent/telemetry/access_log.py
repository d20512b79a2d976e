# SPDX-License-Identifier: Apache-2.0
"""One line for each closed connection, with ztunnel's field names. Never payload, never secrets.

Cost is bounded twice: orderly connections are sampled, and a token bucket limits the lines of one
second; what the bucket refuses is counted. Lines of one batch leave in one write, which the caller
makes in a thread of its own; there is no queue here that could grow.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from agent.config import AccessLogSettings, LogFormat
from agent.telemetry.connections import ConnectionRecord, Ended, Path
from agent.telemetry.log import format_fields

__all__ = ["AccessLog", "access_fields"]


def access_fields(record: ConnectionRecord) -> dict[str, Any]:
    """The fields of a line in the order they are written; empty ones are left out."""
    source_namespace, _, source_name = record.source_workload.rpartition("/")
    destination_namespace, _, destination_name = record.destination_workload.rpartition("/")
    fields: dict[str, Any] = {
        "src.addr": record.source,
        "src.workload": source_name,
        "src.namespace": source_namespace,
        "src.identity": record.source_identity,
        "dst.addr": record.destination,
        "dst.original_addr": (
            record.original_destination if record.original_destination != record.destination else ""
        ),
        "dst.hbone_addr": record.hbone_address,
        "dst.service": record.service,
        "dst.workload": destination_name,
        "dst.namespace": destination_namespace,
        "dst.identity": record.destination_identity,
        "direction": record.direction,
        "path": str(record.path),
        "attested": record.attested,
        "bytes_sent": record.bytes_sent,
        "bytes_recv": record.bytes_received,
        "connect": _milliseconds(record.connect_us) if record.connect_us else "",
        "duration": _milliseconds(record.duration_us),
        "trace_id": record.trace_id,
    }
    if not record.is_orderly:
        fields["reason"] = record.reason
        fields["error"] = record.detail
    return {key: value for key, value in fields.items() if value != ""}


def _milliseconds(microseconds: int) -> str:
    return (
        f"{microseconds / 1000:.3g}ms"
        if microseconds < 1_000_000
        else (f"{microseconds / 1000:.0f}ms")
    )


class AccessLog:
    """Writes lines to a file descriptor that it owns (or to standard output)."""

    def __init__(
        self,
        settings: AccessLogSettings,
        *,
        log_format: LogFormat,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        random: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._as_json = log_format == "json"
        self._clock = clock
        self._now = now
        self._random = random
        self._tokens = float(settings.lines_per_second)
        self._filled_at = clock()
        self.dropped = 0
        self._fd = (
            sys.stdout.fileno()
            if settings.path is None
            else os.open(
                settings.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640
            )
        )

    def select(self, ended: Iterable[Ended]) -> list[Ended]:
        """Return those that are to be written: sampled, then limited. Counts what it drops."""
        chosen = []
        self._refill()
        sample = self._settings.sample
        for item in ended:
            if item.orderly and sample < 1.0 and self._random() >= sample:
                continue
            if self._tokens < 1.0:
                self.dropped += 1
                continue
            self._tokens -= 1.0
            chosen.append(item)
        return chosen

    def write(self, ended: Iterable[Ended]) -> None:
        """Format and write; blocks as long as the descriptor does. OSError counts as dropped."""
        lines = [self._line(item.make()) for item in ended]
        if not lines:
            return
        data = ("\n".join(lines) + "\n").encode()
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            self.dropped += len(lines)

    def close(self) -> None:
        """Close the file, if it is ours."""
        if self._settings.path is not None:
            os.close(self._fd)

    def _refill(self) -> None:
        now = self._clock()
        limit = float(self._settings.lines_per_second)
        self._tokens = min(limit, self._tokens + (now - self._filled_at) * limit)
        self._filled_at = now

    def _line(self, record: ConnectionRecord) -> str:
        level = "info" if record.is_orderly else "error"
        seconds = record.ended_at or self._now()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        stamp = f"{stamp}.{int(seconds % 1 * 1000):03d}Z"
        fields = access_fields(record)
        # What is passed on unfollowed is told of once, when it begins.
        unfollowed = record.path is Path.PASSTHROUGH and not record.duration_us
        message = f"connection {'passed on' if unfollowed else 'complete'}"
        if self._as_json:
            head = {"level": level, "time": stamp, "scope": "access"}
            return json.dumps({**head, "message": message, **fields})
        return f"{stamp} {level:5} access {message} {format_fields(fields)}"
