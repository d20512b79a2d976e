# SPDX-License-Identifier: Apache-2.0
"""Generated policies at the real hooks: what a pod's connect() meets is what they specify."""

import errno
import random
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agent.abi.structs import EventKind
from mesh.compile import NodeConfig
from mesh.decide import Connection, Oracle
from mesh.model.events import PolicyAdded, WorkloadAdded
from mesh.model.policies import Policy
from mesh.model.service import Protocol
from mesh.model.workload import Workload
from mesh.reasons import Reason
from mesh.tables import Route, Tables
from tests.kernel.node import Node
from tests.kernel.pods import Pod
from tests.kernel.test_oracle import ROUNDS
from tests.unit.mesh.policy_world import PORTS, made, policies, workloads

WORLDS = 60
DIALS = 6
"""Of each client in each world."""

STRANGER_ID = 77


@dataclass
class Dial:
    client: int
    server: int
    address: str
    port: int
    local: int = 0
    found: str = ""


def dial_all(pod: Pod, dials: list[Dial]) -> list[Dial]:
    """As a process of the pod; ``found`` is the name of the error, or "open"."""

    def run() -> list[Dial]:
        for one in dials:
            version6 = ":" in one.address
            family = socket.AF_INET6 if version6 else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as made_:
                made_.settimeout(2)
                made_.bind((pod.v6 if version6 else pod.v4, 0))
                one.local = made_.getsockname()[1]
                code = made_.connect_ex((one.address, one.port))
                one.found = errno.errorcode[code] if code else "open"
        return dials

    return pod.run(run)


def listen(pod: Pod) -> list[socket.socket]:
    """On every port that the worlds speak of, for both families."""

    def make() -> list[socket.socket]:
        found = []
        for port in PORTS:
            made_ = socket.create_server(
                ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256
            )
            made_.setblocking(False)
            found.append(made_)
        return found

    return pod.inside(make)


def drain(listeners: list[socket.socket]) -> None:
    for one in listeners:
        while True:
            try:
                one.accept()[0].close()
            except BlockingIOError:
                break


class Stage:
    """Pods of one node, two of them servers, the last one outside of the mesh."""

    def __init__(self, node: Node, make_pod: Callable[..., Pod]) -> None:
        self.node = node
        self.pods = [make_pod() for _ in range(4)]
        node.enrol(*self.pods[:-1])
        stranger = self.pods[-1]
        for address in stranger.addresses:
            node.add_workload(str(address), STRANGER_ID, Route.DIRECT, enrolled=False, local=True)
        self.listeners = [one for pod in self.pods[1:3] for one in listen(pod)]
        self.actors: list[Workload] = []

    def load(self, looks: list[Workload], wanted: list[Policy]) -> Oracle:
        """The pods look like these workloads now, and these are the policies."""
        node = self.node
        self.actors = [
            replace(
                look,
                uid=f"{look.uid}-{index}",
                name=f"{look.name}-{index}",
                node=node.name,
                host_network=False,
                addresses=pod.addresses,
            )
            for index, (look, pod) in enumerate(zip(looks, self.pods, strict=True))
        ]
        state = made([*map(WorkloadAdded, self.actors), *map(PolicyAdded, wanted)])
        numbers = [node.enrolled(pod).workload_id for pod in self.pods[:-1]] + [STRANGER_ID]
        node.compiler.numbers = {
            actor.uid: number for actor, number in zip(self.actors, numbers, strict=True)
        }
        config = NodeConfig(node.name)
        rows = node.compiler.compile(state, node=config, judged=True)
        assert not rows.problem
        policy = rows.put_into(Tables())
        node.apply(
            replace(policy, enrollments=node.tables.enrollments, workloads=node.tables.workloads)
        )
        return Oracle(state, root_namespace=config.root_namespace, node=node.name)

    def expected(self, oracle: Oracle, dial: Dial) -> tuple[str, Reason]:
        """How connect() ends, and the reason that is told of it."""
        is_enrolled = dial.client < len(self.pods) - 1
        client, server = self.actors[dial.client], self.actors[dial.server]
        known = {"port": dial.port, "protocol": Protocol.TCP}
        if is_enrolled:
            out = Connection(
                subject=client,
                peer=server,
                address=ip_address(dial.address),
                egress=True,
                attested=False,
                **known,
            )
            reason = oracle.judge(out).reason
            if reason is not Reason.NONE:
                return "EPERM", reason
        pod = self.pods[dial.client]
        enters = Connection(
            subject=server,
            peer=client,
            address=ip_address(pod.v6 if ":" in dial.address else pod.v4),
            egress=False,
            attested=is_enrolled,
            **known,
        )
        reason = oracle.judge(enters).reason
        return ("open" if reason is Reason.NONE else "ECONNREFUSED"), reason

    def dials(self, client: int, dice: random.Random) -> list[Dial]:
        found = []
        for _ in range(DIALS):
            server = dice.choice([one for one in (1, 2) if one != client])
            pod = self.pods[server]
            found.append(Dial(client, server, dice.choice((pod.v4, pod.v6)), dice.choice(PORTS)))
        return found

    def told(self, dials: list[Dial]) -> list[tuple[EventKind, int, Reason]]:
        """Refusals: for the guard's the client's port, for the hook's the destination's.

        The last packets of a connection of the world before may meet the policies of this one.
        """
        found, own = [], {one.local for one in dials}
        for event in self.node.dataplane.events():
            if event.kind is EventKind.DROPPED and event.source_port in own:
                found.append((event.kind, event.source_port, event.reason))
            elif event.kind is EventKind.DENIED:
                found.append((event.kind, event.destination_port, event.reason))
        return found


def test_connections_end_as_specified(node: Node, make_pod: Callable[..., Pod]) -> None:
    stage = Stage(node, make_pod)
    seen: Counter[object] = Counter()
    clients = (0, 1, 3)

    @settings(
        max_examples=WORLDS,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(
        st.lists(workloads(), min_size=4, max_size=4),
        st.lists(policies, min_size=6, max_size=24),
        st.integers(0, 2**32),
    )
    def compare(looks: list[Workload], wanted: list[Policy], seed: int) -> None:
        dice = random.Random(seed)
        oracle = stage.load(looks, wanted)
        stage.told([])
        for client in clients:
            dials = dial_all(stage.pods[client], stage.dials(client, dice))
            refusals = []
            for one in dials:
                how, reason = stage.expected(oracle, one)
                assert one.found == how, (one, how, reason)
                seen[how, reason] += 1
                if how == "EPERM":
                    refusals.append((EventKind.DENIED, one.port, reason))
                elif how == "ECONNREFUSED":
                    refusals.append((EventKind.DROPPED, one.local, reason))
            assert stage.told(dials) == refusals
            drain(stage.listeners)

    def is_enough() -> bool:
        refused = sum(count for (how, _), count in seen.items() if how == "ECONNREFUSED")
        return (
            seen["open", Reason.NONE] > 20
            and seen["EPERM", Reason.NETWORK_POLICY] > 10
            and refused > 20
        )

    # What is made up is another each time, and may happen to hold too little of something.
    for _ in range(ROUNDS):
        compare()
        if is_enough():
            break
    assert is_enough(), seen
    for one in stage.listeners:
        one.close()
