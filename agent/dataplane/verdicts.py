# SPDX-License-Identifier: Apache-2.0
"""Asks the kernel's decide(), for people: BPF_PROG_TEST_RUN of ``mesh_query``; counts nothing."""

import ctypes
from dataclasses import dataclass

from agent.abi import policy
from agent.abi.codec import encode_address, encode_port
from agent.dataplane import bpf
from agent.errors import DataplaneError
from mesh.model.address import IpAddress
from mesh.reasons import Reason
from mesh.tables import RuleKey, SetId

__all__ = ["Question", "Verdict", "ask"]

_ANSWERED = 0
"""TC_ACT_OK."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A connection: ``subject`` is the workload id of the pod that is judged."""

    subject: int
    peer: int
    """Workload id of the other side; 0: none that is known."""
    address: IpAddress
    """Of the other side."""
    port: int
    protocol: int
    egress: bool
    attested: bool
    node: bool = False
    fail_open: bool = False
    """Where no policy is known, everything may pass."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What decide() says, and by which rows. ``reason`` NONE: it may pass."""

    reason: Reason
    generation: int
    set_id: SetId
    peer_class: int
    rule: RuleKey | None
    """The rule that decided; None where the lack of one did, or no policy is there."""
    dry_deny: bool
    dry_rule: RuleKey | None = None
    """The rule of a policy in dry run that would refuse."""


def ask(program: int, question: Question, behind: bytes = b"") -> Verdict:
    """One answer; ``program`` is the query program's fd. Raises DataplaneError.

    The program ``recheck`` wants the ends of the connection (OpenConnection) ``behind`` that.
    """
    flags = policy.QueryFlag.ATTESTED if question.attested else 0
    flags |= policy.QueryFlag.NODE if question.node else 0
    flags |= policy.QueryFlag.FAIL_OPEN if question.fail_open else 0
    direction = policy.Direction.EGRESS if question.egress else policy.Direction.INGRESS
    query = policy.VerdictQuery(
        question.subject,
        question.peer,
        encode_port(question.port),
        question.protocol,
        direction,
        0,
        flags,
        encode_address(question.address),
    )
    room = bytes(ctypes.sizeof(policy.Verdict))
    returned, packet = bpf.program_test_run(program, bytes(query) + room + behind)
    if returned != _ANSWERED:
        raise DataplaneError("The query program gave no answer.")
    found = policy.Verdict.from_buffer_copy(packet, ctypes.sizeof(query))
    set_id = SetId(found.set_id)
    return Verdict(
        reason=Reason(found.reason),
        generation=found.generation,
        set_id=set_id,
        peer_class=found.peer_class,
        rule=_rule(set_id, found.rule),
        dry_deny=bool(found.flags & policy.VerdictFlag.DRY_DENY),
        dry_rule=_rule(set_id, found.dry_rule),
    )


def _rule(set_id: SetId, bit: int) -> RuleKey | None:
    return None if bit == policy.POLICY_NO_RULE else RuleKey(set_id, bit)
