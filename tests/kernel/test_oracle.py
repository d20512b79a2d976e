# SPDX-License-Identifier: Apache-2.0
"""decide() in the kernel says what the specifications say: generated policies, real maps."""

import itertools
import random
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agent.dataplane.verdicts import Question, ask
from mesh.compile import IdTable
from mesh.compile.policy import PolicyCompiler, PolicyRows
from mesh.decide import Answer, Connection, DecidingRule, Oracle
from mesh.model.events import PolicyAdded, WorkloadAdded
from mesh.reasons import Reason
from mesh.state import MeshState
from mesh.tables import RuleKey, Tables
from tests.kernel.node import Node
from tests.unit.mesh.policy_world import (
    ADDRESSES,
    ASKED,
    ASKED_PORTS,
    NODE,
    events,
    made,
    policies,
    workloads,
)

MAPPED = tuple(ip_address(f"::ffff:{one}") for one in ADDRESSES if one.version == 4)
ROUNDS = 4
CONNECTIONS = 40
"""Asked of each world."""

here = workloads().map(lambda one: replace(one, node=NODE.name, host_network=False))
worlds = st.tuples(
    st.lists(st.one_of(here, here, workloads()).map(WorkloadAdded), min_size=3, max_size=8),
    st.lists(policies.map(PolicyAdded), min_size=4, max_size=24),
    st.lists(events, max_size=4),
).map(lambda parts: [*itertools.chain.from_iterable(parts)])


def some_connection(state: MeshState, dice: random.Random) -> Connection:
    known = sorted(state.workloads.values(), key=lambda one: one.uid)
    judged = [one for one in known if one.node == NODE.name and not one.host_network]
    return Connection(
        subject=dice.choice(judged if judged and dice.random() < 0.9 else known),
        peer=dice.choice([None, *known]),
        address=dice.choice((*ADDRESSES, *MAPPED)),
        port=dice.choice(ASKED_PORTS),
        protocol=dice.choice((*ASKED, 6, 6, 6, 6)),
        egress=dice.random() < 0.35,
        attested=dice.random() < 0.5,
        node=dice.random() < 0.05,
        fail_open=dice.random() < 0.2,
    )


class Asker:
    """Asks the kernel of a connection, and says the answer in the oracle's words."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.ids = IdTable()
        self.compiler = PolicyCompiler(self.ids)
        self.rows = PolicyRows()

    def load(self, state: MeshState) -> None:
        """Over what is there, as an agent does."""
        self.rows = self.compiler.compile(state, node=NODE, judged=True)
        assert not self.rows.problem
        self.node.apply(self.rows.put_into(Tables()))

    def answer(self, connection: Connection) -> Answer:
        peer = connection.peer
        question = Question(
            subject=self.ids.workload_id(connection.subject.uid),
            peer=0 if peer is None else self.ids.workload_id(peer.uid),
            address=connection.address,
            port=connection.port,
            protocol=connection.protocol,
            egress=connection.egress,
            attested=connection.attested,
            node=connection.node,
            fail_open=connection.fail_open,
        )
        verdict = ask(self.node.dataplane.query_fd(), question)
        assert verdict.generation == self.node.dataplane.generation
        return Answer(
            verdict.reason,
            self._name(verdict.rule),
            verdict.dry_deny,
            self._name(verdict.dry_rule),
        )

    def _name(self, key: RuleKey | None) -> DecidingRule | None:
        return None if key is None else (self.rows.rules[key].policy, self.rows.rules[key].rule)


def test_the_kernel_says_what_the_specifications_say(node: Node) -> None:
    asker = Asker(node)
    seen: Counter[object] = Counter()

    @settings(
        max_examples=400,
        deadline=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(worlds, st.integers(0, 2**32))
    def compare(world: list[object], seed: int) -> None:
        dice = random.Random(seed)
        state = made(world)
        asker.load(state)
        oracle = Oracle(state, root_namespace=NODE.root_namespace, node=NODE.name)
        seen["policies"] += len(state.policies)
        for _ in range(CONNECTIONS):
            connection = some_connection(state, dice)
            answer = asker.answer(connection)
            assert answer == oracle.judge(connection), connection
            seen.update((answer.reason, ("rule", answer.rule is not None)))
            seen.update((("dry", answer.dry_deny), ("dry rule", answer.dry_rule is not None)))

    # What is made up is another each time, and may happen to hold too little of something.
    for _ in range(ROUNDS):
        compare()
        if not lacking(seen):
            break
    assert not lacking(seen), seen


def lacking(seen: Counter[object]) -> list[object]:
    """What was not met often enough for the comparison to mean something."""
    reasons = (
        Reason.NONE,
        Reason.POLICY_DENY,
        Reason.POLICY_UNKNOWN,
        Reason.NETWORK_POLICY,
        Reason.NO_ALLOW_RULE,
        Reason.NOT_ATTESTED,
    )
    facts = [(fact, True) for fact in ("rule", "dry", "dry rule")]
    rare = [one for one in (*reasons, *facts) if seen[one] <= 50]
    return [*rare, *(["policies"] if seen["policies"] <= 2000 else [])]
