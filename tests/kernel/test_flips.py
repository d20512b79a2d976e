# SPDX-License-Identifier: Apache-2.0
"""A change of the policy comes into force whole: under traffic each answer is of one generation."""

import os
import pickle
import signal
import time
from dataclasses import replace
from ipaddress import IPv4Network, ip_address

from agent.dataplane.verdicts import Question, Verdict, ask
from mesh.compile import IdTable, NodeConfig
from mesh.compile.policy import PolicyCompiler
from mesh.model.events import NamespaceAdded, PolicyAdded, WorkloadAdded
from mesh.model.identity import Identity
from mesh.model.labels import Labels
from mesh.model.namespace import Namespace
from mesh.model.network_policy import (
    IpBlock,
    NetworkPolicy,
    NetworkPort,
    NetworkRule,
    PodPeer,
    PolicyTypes,
)
from mesh.model.policy import EVERYTHING, LabelSelector, Origin
from mesh.model.workload import DATAPLANE_MODE_LABEL, Workload, pod_uid
from mesh.state import MeshState
from mesh.tables import Tables
from tests.kernel.node import Node
from tests.kernel.pods import SLOWNESS

FLIPS = 300
SECONDS = 10
"""Where the machine is busy, fewer flips do."""

READERS = 2
ORIGIN = Origin("test.yaml", 1)
NODE = NodeConfig("n1")
ADDRESSES = [ip_address(text) for text in ("10.0.0.1", "10.0.1.1", "fd00::1")]
Seen = set[tuple[int, Verdict]]
"""A question's number, and an answer to it."""


def tables(ids: IdTable, peers: tuple[str, str], block: str, port: int) -> Tables:
    """Two pods that may enter one another by label ``peers``, and what comes from ``block``."""
    state = MeshState()
    state.apply(NamespaceAdded(Namespace("a", Labels({DATAPLANE_MODE_LABEL: "ambient"}))))
    for index, app in enumerate(peers):
        state.apply(
            WorkloadAdded(
                Workload(
                    uid=pod_uid("a", f"w{index}"),
                    name=f"w{index}",
                    namespace="a",
                    identity=Identity("cluster.local", "a", "s"),
                    node=NODE.name,
                    addresses=(ip_address(f"10.2.0.{index + 1}"),),
                    labels=Labels({"app": app}),
                )
            )
        )
    rules = (
        NetworkRule(
            (PodPeer(None, LabelSelector(Labels({"app": "friend"}))),),
            (NetworkPort(port=port),),
            ORIGIN,
        ),
        NetworkRule((IpBlock(IPv4Network(block)),), (NetworkPort(port=port),), ORIGIN),
    )
    state.apply(
        PolicyAdded(
            NetworkPolicy(
                namespace="a",
                name="np",
                pods=EVERYTHING,
                types=PolicyTypes.INGRESS | PolicyTypes.EGRESS,
                ingress=rules,
                egress=rules,
                origin=ORIGIN,
            )
        )
    )
    return PolicyCompiler(ids).compile(state, node=NODE, judged=True).put_into(Tables())


def questions(ids: IdTable) -> list[Question]:
    numbers = [ids.workload_id(pod_uid("a", f"w{index}")) for index in (0, 1)]
    return [
        Question(
            subject=subject,
            peer=peer,
            address=address,
            port=port,
            protocol=6,
            egress=egress,
            attested=True,
        )
        for subject, peer in (numbers, numbers[::-1], (numbers[0], 0))
        for address in ADDRESSES
        for port in (80, 81)
        for egress in (False, True)
    ]


def read(program: int, asked: list[Question], until: int) -> Seen:
    """Every answer that there is, asked without a pause, until something comes by the pipe."""
    os.set_blocking(until, False)
    seen: Seen = set()
    while True:
        seen.update((index, ask(program, question)) for index, question in enumerate(asked))
        try:
            os.read(until, 1)
        except BlockingIOError:
            continue
        return seen


class Reader:
    """A process that reads, for threads would wait for one another."""

    def __init__(self, program: int, asked: list[Question]) -> None:
        stop, self._stop = os.pipe()
        self._answers, answers = os.pipe()
        self._process = os.fork()
        if self._process == 0:
            status = 1
            try:
                signal.alarm(60 * SLOWNESS)
                with os.fdopen(answers, "wb") as pipe:
                    pickle.dump(read(program, asked, stop), pipe)
                status = 0
            finally:
                os._exit(status)
        os.close(stop)
        os.close(answers)

    def stop(self) -> Seen:
        os.write(self._stop, b"x")
        os.close(self._stop)
        with os.fdopen(self._answers, "rb") as pipe:
            raw = pipe.read()
        assert os.waitpid(self._process, 0)[1] == 0
        return pickle.loads(raw)  # type: ignore[no-any-return]


def test_each_answer_is_of_one_generation(node: Node) -> None:
    ids = IdTable()
    states = (
        tables(ids, ("friend", "foe"), "10.0.0.0/24", 80),
        tables(ids, ("foe", "friend"), "10.0.1.0/24", 81),
    )
    asked = questions(ids)
    program = node.dataplane.query_fd()
    expected: list[list[Verdict]] = []
    for state in states:
        node.apply(state)
        expected.append([replace(ask(program, one), generation=0) for one in asked])
    differing = sum(one != other for one, other in zip(*expected, strict=True))
    assert differing == len(asked), "each question has two answers"
    assert {one.reason for one in expected[0]} == {one.reason for one in expected[1]}

    which = {node.dataplane.generation: 1}
    readers = [Reader(program, asked) for _ in range(READERS)]
    until = time.monotonic() + SECONDS * SLOWNESS
    for number in range(FLIPS):
        if time.monotonic() > until:
            break
        node.apply(states[number & 1])
        assert node.dataplane.generation not in which
        which[node.dataplane.generation] = number & 1
    answers = [reader.stop() for reader in readers]
    for seen in answers:
        for index, verdict in seen:
            state_of = which[verdict.generation]
            assert replace(verdict, generation=0) == expected[state_of][index], (index, verdict)
        generations = {verdict.generation for _, verdict in seen}
        assert len(generations) > 20, "the readers were there all the time"
