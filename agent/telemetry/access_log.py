# SPDX-License-Identifier: Apache-2.0
"""One line for each closed connection, with ztunnel's field names. Never payload, never secrets.

Cost is bounded three times: orderly connections are sampled, a token bucket limits the lines of one
second, and only so many lines wait for whoever reads the log; what is left out is counted.

::

    ended ─ select ─▶ LineWriter's thread ─▶ lines of one batch ─▶ one write

Between the same two workloads most of a line is the same each time. That part is made once and
kept; a line is then one ``%``. (Making each line anew took 22 us of CPU, this takes 2.)
"""

import json
import os
import sys
import time
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any, Final

from agent.config import AccessLogSettings, LogFormat
from agent.telemetry.connections import ConnectionRecord, Ended, Path
from agent.telemetry.log import format_fields
from agent.telemetry.writer import LineWriter

__all__ = ["AccessLog", "access_fields"]

_MOST_WAITING: Final = 8000
"""Lines that may wait to be written, some 4 MB: four seconds of the most there can be."""

_MOST_TEMPLATES: Final = 4096
"""Pairs of workloads whose lines are prepared, about 1 KB each. Beyond, they are made anew."""

_NUMBERS: Final = frozenset({"bytes_sent", "bytes_recv"})
_OWN: Final = _NUMBERS | {
    "src.addr",
    "dst.addr",
    "dst.original_addr",
    "dst.hbone_addr",
    "connect",
    "duration",
    "trace_id",
}
"""What differs from line to line: the values of Own, in the order in which fields are written."""


def access_fields(record: ConnectionRecord) -> dict[str, Any]:
    """The fields of a line in the order they are written; empty ones are left out."""
    return {key: value for key, value in _all_fields(record).items() if value != ""}


def _all_fields(record: ConnectionRecord) -> dict[str, Any]:
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
    return fields


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
        self._tail = "}\n" if self._as_json else "\n"
        self._clock = clock
        self._now = now
        self._random = random
        self._tokens = float(settings.lines_per_second)
        self._filled_at = clock()
        self._refused = 0
        self._templates: dict[Hashable, str] = {}
        self._stamp = (-1.0, "")
        self._fd = (
            sys.stdout.fileno()
            if settings.path is None
            else os.open(
                settings.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640
            )
        )
        self._writer = LineWriter(self._fd, name="access-log", most_lines=_MOST_WAITING)

    @property
    def dropped(self) -> int:
        """Lines that should have been written and were not."""
        return self._refused + self._writer.dropped

    def select(self, ended: Iterable[Ended]) -> list[Ended]:
        """Return those that are to be written: sampled, then limited. Counts what it drops."""
        sample = self._settings.sample
        chosen = [
            item for item in ended if sample >= 1.0 or not item.orderly or self._random() < sample
        ]
        self._refill()
        allowed = min(len(chosen), int(self._tokens))
        self._tokens -= allowed
        self._refused += len(chosen) - allowed
        return chosen[:allowed]

    def write(self, ended: list[Ended]) -> None:
        """Write a line for each, soon. Never waits; what cannot be written counts as dropped."""
        if ended:
            self._writer.put(len(ended), partial(self._lines, ended))

    def close(self) -> None:
        """Write what waits, a second at most, and close the file if it is ours."""
        free = self._writer.close()
        if free and self._settings.path is not None:
            os.close(self._fd)

    def _refill(self) -> None:
        now = self._clock()
        limit = float(self._settings.lines_per_second)
        self._tokens = min(limit, self._tokens + (now - self._filled_at) * limit)
        self._filled_at = now

    def _lines(self, ended: list[Ended]) -> bytes:
        return "".join([self._line(item) for item in ended]).encode(errors="backslashreplace")

    def _line(self, ended: Ended) -> str:
        brief = ended.brief() if ended.orderly else None
        if brief is None:
            return self._whole_line(ended.make())
        common, own = brief
        shape = (
            own.original_destination in ("", own.destination),
            not own.hbone_address,
            not own.connect_us,
            not own.trace_id,
        )
        template = self._templates.get((common, shape))
        if template is None:
            template = self._template(ended.make())
            if len(self._templates) >= _MOST_TEMPLATES:
                self._templates.clear()
            self._templates[common, shape] = template
        return template % (
            self._time(ended.ended_at),
            *own[:6],
            _milliseconds(own.connect_us),
            _milliseconds(own.duration_us),
            own.trace_id,
        )

    def _template(self, record: ConnectionRecord) -> str:
        """The line of a record, with a conversion for the time and for each value of Own.

        Those values need no quotes: addresses, numbers and hexadecimal digits.
        """
        text = self._head("%s", record)
        for name, value in _all_fields(record).items():
            if name not in _OWN:
                text += self._field(name, value).replace("%", "%%") if value != "" else ""
            elif value == "":
                text += "%.0s"  # takes a value and writes nothing
            elif self._as_json and name not in _NUMBERS:
                text += f', "{name}": "%s"'
            else:
                text += f', "{name}": %s' if self._as_json else f" {name}=%s"
        return text + self._tail

    def _whole_line(self, record: ConnectionRecord) -> str:
        head = self._head(self._time(record.ended_at or self._now()), record)
        fields = access_fields(record).items()
        return head + "".join([self._field(*field) for field in fields]) + self._tail

    def _head(self, stamp: str, record: ConnectionRecord) -> str:
        level = "info" if record.is_orderly else "error"
        # What is passed on unfollowed is told of once, when it begins.
        unfollowed = record.path is Path.PASSTHROUGH and not record.duration_us
        message = f"connection {'passed on' if unfollowed else 'complete'}"
        if self._as_json:
            head = {"level": level, "time": stamp, "scope": "access", "message": message}
            return json.dumps(head)[:-1]
        return f"{stamp} {level:5} access {message}"

    def _field(self, name: str, value: Any) -> str:
        if self._as_json:
            return f', "{name}": {json.dumps(value)}'
        return f" {format_fields({name: value})}"

    def _time(self, seconds: float) -> str:
        """A batch ended at one time, so the last answer is mostly the next one."""
        if seconds != self._stamp[0]:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
            self._stamp = (seconds, f"{text}.{int(seconds % 1 * 1000):03d}Z")
        return self._stamp[1]
