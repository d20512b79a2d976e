# SPDX-License-Identifier: Apache-2.0
"""The agent's own log: structured lines on standard error, text or JSON.

Modules log with ``logging.getLogger(__name__)`` and put values into ``extra={"fields": {...}}``;
the formatter writes them. Never a key, token or payload.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from typing_extensions import override

from agent.telemetry.writer import LineWriter

__all__ = [
    "configure_logging",
    "current_level",
    "dropped_lines",
    "flush_log",
    "format_fields",
    "set_level",
]

_ROOTS: Final = ("agent", "mesh", "control")
"""Our own packages; libraries log warnings only."""

_MOST_WAITING: Final = 2000
"""Lines that may wait for a reader of standard error, some 400 KB; it is never that far behind."""

_SPECIAL: Final = re.compile('[ "=]').search


def format_fields(fields: Mapping[str, Any]) -> str:
    """Write ``key=value`` pairs; a value with spaces, quotes or control characters is quoted."""
    return " ".join(f"{key}={_quote(value)}" for key, value in fields.items())


def _quote(value: Any) -> str:
    text = "true" if value is True else "false" if value is False else str(value)
    if text and text.isprintable() and not _SPECIAL(text):
        return text
    return json.dumps(text)


class _Formatter(logging.Formatter):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    @override
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = dict(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = repr(record.exc_info[1])
            if record.levelno >= logging.ERROR:
                fields["trace"] = self.formatException(record.exc_info)
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        stamp = f"{when}.{int(record.msecs):03d}Z"
        level = record.levelname.lower()
        if self._as_json:
            return json.dumps(
                {
                    "time": stamp,
                    "level": level,
                    "scope": record.name,
                    "message": record.getMessage(),
                    **fields,
                },
                default=str,
            )
        line = f"{stamp} {level:7} {record.name}: {record.getMessage()}"
        return f"{line} {format_fields(fields)}" if fields else line


class _Handler(logging.Handler):
    """Standard error by way of a thread: whoever logs never waits for who reads."""

    def __init__(self) -> None:
        super().__init__()
        self.writer = LineWriter(sys.stderr.fileno(), name="log", most_lines=_MOST_WAITING)

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            data = f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception:  # noqa: BLE001 - as every handler does: a bad record ends nothing
            self.handleError(record)
            return
        self.writer.put(1, lambda: data)

    @override
    def flush(self) -> None:
        self.writer.flush()

    @override
    def close(self) -> None:
        self.writer.close()
        super().close()


def _handlers() -> list[_Handler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _Handler)]


def flush_log() -> None:
    """Wait until what was logged is written, a second at most: before words of another kind."""
    for handler in _handlers():
        handler.flush()


def dropped_lines() -> int:
    """How many lines were not written because nobody read standard error."""
    return sum(handler.writer.dropped for handler in _handlers())


def configure_logging(*, level: str, as_json: bool) -> None:
    """Send the log to standard error. Called once, by the process's entry point."""
    handler = _Handler()
    handler.setFormatter(_Formatter(as_json=as_json))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    set_level(level)


def set_level(level: str) -> None:
    """Change the level of our own packages. ValueError for an unknown name."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"unknown log level {level!r}: use debug, info, warning or error")
    for name in _ROOTS:
        logging.getLogger(name).setLevel(number)


def current_level() -> str:
    """The level in force, such as ``info``."""
    return logging.getLevelName(logging.getLogger(_ROOTS[0]).level).lower()
