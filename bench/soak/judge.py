# SPDX-License-Identifier: Apache-2.0
"""Which failure is explained by which fault. Pure: no I/O, no clock.

A failure is explained when a fault touched that pair of pods at the moment it ended, or within
the grace after it, and brings that very error. Wrong bytes are never explained; a stream that
ended in order before its bytes were there only where a program that held it was killed.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["GRACE_SECONDS", "Fault", "Judge", "Unexplained"]

GRACE_SECONDS = 3.0
"""How long after a fault its failures may still come: what was tried during it takes a moment."""

CONNECTION_ENDED = frozenset({"ECONNRESET", "EPIPE", "ECONNABORTED", "ENOTCONN"})
REFUSED = CONNECTION_ENDED | {"ECONNREFUSED"}
KILLED = REFUSED | {"EOF", "SHORT", "LOST", "UNTOLD"}
_LATE = frozenset({"TIMEOUT", "ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH", "LOST"})
"""These take their time: an operation that began during the fault may end so long after it."""
GONE = KILLED | _LATE


@dataclass
class Fault:
    """Something that was done to the cluster. Times are of the monotonic clock, seconds."""

    kind: str
    detail: str
    began: float
    errors: frozenset[str] = frozenset()
    """What the operations that it touches may fail with; empty: it must not be noticed."""
    pods: frozenset[str] = frozenset()
    """It touches every operation of these pods; empty: of all."""
    between_nodes: bool = False
    """It touches operations between nodes only: the others do not need what broke."""
    ends_early: str = ""
    """Pods of this node may see a stream end early: their own agent was killed."""
    ended: float = float("inf")

    def explains(self, operation: dict[str, Any], node_of: dict[str, str]) -> bool:
        """Whether the operation may have failed as it did because of this."""
        error, moment = operation["error"], operation["ended"]
        if error not in self.errors:
            return False
        # A connection that rests learns only at its next use what happened since the last one.
        since = operation["used"] or moment
        if not (self.began <= moment and since <= self.ended + GRACE_SECONDS):
            # What hung since the fault gives up much later.
            hung = error in _LATE and operation["began"] <= self.ended + GRACE_SECONDS
            if not (hung and moment >= self.began):
                return False
        source = operation["source"]
        pods = [operation["who"]] if operation["who"] else operation["pods"]
        return any(self._touches(source, pod, error, node_of) for pod in pods)

    def _touches(self, source: str, pod: str, error: str, node_of: dict[str, str]) -> bool:
        if self.pods and not self.pods & {source, pod}:
            return False
        if self.between_nodes and node_of[source] == node_of[pod]:
            return False
        # The client's own agent ends its stream early, or the server's own what it reads.
        if self.ends_early and error == "EOF":
            return node_of[source] == self.ends_early
        if self.ends_early and error == "SHORT":
            return node_of[pod] == self.ends_early
        return True


@dataclass
class Unexplained:
    """An operation that failed without a fault to blame."""

    operation: dict[str, Any]
    log: list[str] = field(default_factory=list)


class Judge:
    """Counts operations and keeps what nothing explains."""

    def __init__(self, node_of: dict[str, str]) -> None:
        self._node_of = node_of
        self.operations: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.explained: Counter[tuple[str, str]] = Counter()
        self.unexplained: list[Unexplained] = []
        self.bytes = 0
        self._half_told: dict[str, dict[str, Any]] = {}
        self._told: dict[str, dict[str, Any]] = {}

    def judge(self, operation: dict[str, Any], faults: Iterable[Fault]) -> None:
        """Count an operation, and explain its failure if it failed."""
        kind = operation["kind"]
        self.operations[kind] += 1
        self.bytes += operation["bytes"]
        if not operation["error"]:
            if kind == "server ends first":
                self._half_told[str(operation["seed"])] = operation
            return
        self.failed[kind] += 1
        for fault in faults:
            if fault.explains(operation, self._node_of):
                self.explained[fault.kind, operation["error"]] += 1
                return
        self.unexplained.append(Unexplained(operation))

    def told_by_server(self, told: dict[str, Any]) -> None:
        """Keep what a server saw of a stream until ``settle``."""
        self._told[str(told["seed"])] = told

    def settle(self, faults: Iterable[Fault]) -> None:
        """At the end: hold what the servers saw against what their clients believe."""
        faults = list(faults)
        for seed, operation in self._half_told.items():
            told = self._told.pop(seed, None)
            if told is None:
                self._revise(operation, "UNTOLD", "its server never told its end", faults)
            elif not told["whole"] and told["wrong_at"] < 0:
                # The client had sent all and closed; a fault may still have taken it.
                error = "SHORT" if told["end"] == "eof" else "ECONNRESET"
                self._revise(operation, error, f"its server saw {told['end']}", faults)
        for told in self._told.values():
            if told["wrong_at"] >= 0:
                detail = f"stream {told['seed']}: the server got a wrong byte, {told['wrong_at']}"
                self.unexplained.append(Unexplained({"error": "WRONG", "detail": detail}))

    def _revise(
        self, operation: dict[str, Any], error: str, detail: str, faults: list[Fault]
    ) -> None:
        self.operations[operation["kind"]] -= 1
        self.bytes -= operation["bytes"]
        self.judge({**operation, "error": error, "detail": detail}, faults)
