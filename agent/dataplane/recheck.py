# SPDX-License-Identifier: Apache-2.0
"""Open connections, judged again when the policy changes, so that idle ones end too.

::

    subjects that changed ─▶ pods ─▶ their TCP sockets (sock_diag) with the guard's `judged_sockets`
        ─▶ decide(), as the guard would at their next packet ─▶ refused: SOCK_DESTROY

The guard judges again at the next packet of a connection; here is looked after those that send
none. The socket's storage says who is at the other end, as it was proven when the connection was
made. What has no storage (tunnelled connections, which the core ends; those of lo; what is older
than the guard, or claimed and not proven, and has sent nothing since) is left alone, and what is
the agent's own.
"""

import ctypes
import logging
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

from agent.abi import policy
from agent.abi.codec import decode_address, encode_port
from agent.abi.policy import Direction, Judged, JudgedFlag
from agent.abi.structs import Address
from agent.dataplane import netns
from agent.dataplane.pods import EnrolledPod
from agent.dataplane.sockdiag import Diag, OpenSocket, can_destroy
from agent.dataplane.verdicts import Question, Verdict, ask
from agent.errors import DataplaneError
from mesh.model.workload import WorkloadUid
from mesh.reasons import Reason
from mesh.rows import changed_keys
from mesh.tables import SubjectRow, WorkloadId

__all__ = ["Recheck"]

log = logging.getLogger(__name__)

_SOCKETS_MOST: Final = 65_536
"""Of one pod, looked at in one go, at some 15 us each. The others wait for their next packet."""

_LEFT_ALONE: Final = JudgedFlag.EXEMPT | JudgedFlag.NODE

Subjects = Mapping[WorkloadId, SubjectRow]


@dataclass(frozen=True, slots=True)
class _Programs:
    query: int
    recheck: int


class Recheck:
    """Remembers by which subjects what is open has been judged."""

    def __init__(self, programs: Mapping[str, int], storage: int) -> None:
        """``storage`` is the fd of ``judged_sockets``."""
        self._programs = _Programs(programs["query"], programs["recheck"])
        self._storage = storage
        self._subjects: Subjects | None = None
        self.is_possible = can_destroy()
        """Whether the kernel can end a socket (CONFIG_INET_DIAG_DESTROY)."""

    def affected(self, pods: Iterable[EnrolledPod], subjects: Subjects) -> list[WorkloadUid]:
        """The pods whose open connections may be forbidden now; they are taken for looked at."""
        before, self._subjects = self._subjects, subjects
        if not self.is_possible:
            return []
        moved = None if before is None else _moved(before, subjects)
        return [
            pod.uid
            for pod in pods
            if (moved is None or pod.workload_id in moved)
            and _may_refuse(subjects.get(pod.workload_id))
        ]

    def look(self, pod: EnrolledPod | None, generation: int) -> None:
        """Judge a pod's open connections, if it is still there, and end what is forbidden."""
        if pod is None or pod.netns_fd < 0:
            return
        try:
            netns.run_in_netns(pod.netns_fd, lambda: self._look(pod, generation))
        except DataplaneError as error:
            log.warning("judging open connections of %s again: %s", pod.uid, error)

    def _look(self, pod: EnrolledPod, generation: int) -> None:
        known: dict[Question, Verdict] = {}
        ended = 0
        with Diag() as diag, Diag() as ending:
            for one, question in islice(self._questions(diag, pod, generation), _SOCKETS_MOST):
                verdict = known.get(question)
                if verdict is None:
                    verdict = known[question] = ask(self._programs.query, question)
                if verdict.reason is not Reason.NONE and self._is_refused(one, question):
                    ended += ending.destroy(one)
        if ended:
            log.info(
                "open connections ended, which the policy forbids now",
                extra={"fields": {"pod": pod.uid, "connections": ended}},
            )

    def _questions(
        self, diag: Diag, pod: EnrolledPod, generation: int
    ) -> Iterator[tuple[OpenSocket, Question]]:
        """The sockets that were judged under another generation than this."""
        families = (socket.AF_INET, socket.AF_INET6)
        for one in chain.from_iterable(diag.open_tcp(each, self._storage) for each in families):
            if len(one.storage) < ctypes.sizeof(Judged):
                continue
            judged = Judged.from_buffer_copy(one.storage)
            if judged.flags & _LEFT_ALONE or judged.generation == generation:
                continue
            question = _question(pod, one, judged)
            if question is not None:
                yield one, question

    def _is_refused(self, one: OpenSocket, question: Question) -> bool:
        """Ask once more, so that the refusal is counted and told by the kernel."""
        ends = policy.OpenConnection(
            Address.from_buffer_copy(one.local),
            encode_port(one.local_port),
            encode_port(one.remote_port),
            0,
        )
        return ask(self._programs.recheck, question, bytes(ends)).reason is not Reason.NONE


def _question(pod: EnrolledPod, one: OpenSocket, judged: Judged) -> Question | None:
    egress = judged.direction == Direction.EGRESS
    address = decode_address(one.remote)
    if address is None:
        return None
    return Question(
        subject=pod.workload_id,
        peer=judged.peer,
        address=address,
        port=one.remote_port if egress else one.local_port,
        protocol=socket.IPPROTO_TCP,
        egress=egress,
        attested=bool(judged.flags & JudgedFlag.ATTESTED),
        fail_open=pod.row.fail_open,
    )


def _may_refuse(row: SubjectRow | None) -> bool:
    """Whether anything could be refused; a pod that no policy selects lets everything pass."""
    return row is None or not row.judged or bool(row.ingress or row.egress)


def _moved(before: Subjects, now: Subjects) -> frozenset[WorkloadId] | None:
    """The pods whose verdicts may differ, by their rows; None: all, because a peer's class does.

    A peer that is new has no connections yet, and one that is gone has none any more.
    """
    keys = changed_keys(before, now)
    either = before.keys() | now.keys() if keys is None else keys
    moved = frozenset(key for key in either if before.get(key) != now.get(key))
    for key in moved:
        have, want = before.get(key), now.get(key)
        if have is not None and want is not None and have.peer_class != want.peer_class:
            return None
    return moved
