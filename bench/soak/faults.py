# SPDX-License-Identifier: Apache-2.0
"""The faults: what is done to the cluster at random times, and what may be noticed of it.

Two lanes run at once, so faults of different lanes meet: one for agents, tunnels and the link, one
for pods, the mesh file and the authority.
"""

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from typing import Any

from bench.soak.judge import CONNECTION_ENDED, GONE, KILLED, REFUSED, Fault
from bench.soak.world import APPS, CLIENTS, FLIPS, PEER, ROVER, World
from lab.cluster import ROOT
from lab.errors import LabError
from lab.host import in_netns, run
from lab.process import wait_until
from lab.topology import remove_pod, restore_pod

__all__ = ["Injector"]

POD_DRAIN_SECONDS = 6.0
"""Open connections of a pod that leaves the mesh may finish for 5 s; then they are reset."""

_NO_VIP = {"ENETUNREACH", "TIMEOUT", "LOST"}
"""What dialling a service address comes to where nothing serves it."""

START_ATTEMPTS = 5
"""An agent refuses to start with a bad mesh file, which lasts for 2 s at most."""


class Injector:
    """Runs the lanes, and remembers what it did."""

    def __init__(self, world: World, mean_gap_seconds: float) -> None:
        self.world = world
        self.faults: list[Fault] = []
        self.errors: list[str] = []
        """Steps of the lanes themselves that failed, such as an agent that was not ready again."""
        self.agent_down = False
        self._gap = mean_gap_seconds
        self._stop = threading.Event()
        self._lanes = [
            threading.Thread(target=self._lane, args=(number, ways), daemon=True)
            for number, ways in enumerate((self._node_ways(), self._pod_ways()))
        ]

    def start(self) -> None:
        """Start both lanes."""
        for lane in self._lanes:
            lane.start()

    def stop(self, patience_seconds: float = 90) -> None:
        """Start no more faults; return when those under way are undone."""
        self._stop.set()
        for lane in self._lanes:
            if lane.ident is not None:
                lane.join(patience_seconds)
                if lane.is_alive():
                    self.errors.append("a lane of faults did not come to its end")

    def _node_ways(self) -> list[Callable[[random.Random], None]]:
        return [
            self._kill_agent,
            self._drain_agent,
            self._reset_tunnels,
            self._reset_tunnels,
            self._link_dead,
            self._link_congested,
        ]

    def _pod_ways(self) -> list[Callable[[random.Random], None]]:
        return [
            self._kill_app,
            self._remove_workload,
            self._opt_out,
            self._opt_out_client,
            self._recreate_pod,
            self._move_endpoints,
            self._bad_edit,
            self._stop_authority,
            self._hostile_peer,
        ]

    def _lane(self, number: int, ways: list[Callable[[random.Random], None]]) -> None:
        rng = random.Random(self.world.seed * 10 + number)
        while True:
            # Every kind comes once before any comes again.
            for way in rng.sample(ways, len(ways)):
                if self._stop.wait(rng.uniform(0.5, 2 * self._gap)):
                    return
                try:
                    way(random.Random(rng.getrandbits(32)))
                except LabError as error:
                    self.errors.append(f"{way.__name__.strip('_')}: {error}")

    @contextmanager
    def _fault(self, kind: str, detail: str = "", **what: Any) -> Iterator[Fault]:
        fault = Fault(kind, detail, time.monotonic(), **what)
        self.faults.append(fault)
        try:
            yield fault
        finally:
            fault.ended = time.monotonic()

    # ── nodes ──

    def _kill_agent(self, rng: random.Random) -> None:
        node = self.world.mortal
        with self._fault(
            "agent killed", node, errors=KILLED - {"LOST"}, between_nodes=True, ends_early=node
        ):
            self.agent_down = True
            self.world.cluster.kill_agent(node)
            time.sleep(rng.uniform(0.1, 2))
            self._start_agent(node)

    def _drain_agent(self, rng: random.Random) -> None:
        node = self.world.mortal
        with self._fault("agent drained", node, errors=REFUSED, between_nodes=True):
            self.agent_down = True
            if status := self.world.cluster.stop_agent(node):
                self.errors.append(f"the agent of {node} ended with status {status} after SIGTERM")
            time.sleep(rng.uniform(0, 1))
            self._start_agent(node)

    def _start_agent(self, node: str) -> None:
        """Start it as a supervisor does: again, where the mesh file cannot be read just now."""
        for _ in range(START_ATTEMPTS - 1):
            with suppress(LabError):
                self.world.cluster.start_agent(node)
                break
            time.sleep(1)
        else:
            self.world.cluster.start_agent(node)
        self.agent_down = False

    def _reset_tunnels(self, rng: random.Random) -> None:
        """Abort a pod's tunnels, as a middlebox does: `ss -K` sends a reset to the peer, too."""
        pod = rng.choice((*APPS, *FLIPS, *CLIENTS))
        with (
            self._fault(
                "tunnels reset", pod, errors=CONNECTION_ENDED, pods=frozenset({pod}),
                between_nodes=True,
            ),
            suppress(LabError),  # the pod may be gone at this moment
        ):  # fmt: skip
            place = self.world.cluster.pod(pod)
            place.run(["ss", "-HK", "( dport = :15008 or sport = :15008 )"])

    def _link_dead(self, rng: random.Random) -> None:
        """Nothing gets through for a while: TCP waits, so nobody may notice."""
        with self._fault("link dead", errors=frozenset({"LOST"}), between_nodes=True):
            self._link(["bfifo", "limit", "1"], rng.uniform(1, 3))

    def _link_congested(self, rng: random.Random) -> None:
        """A slow link with a short queue: packets get lost."""
        with self._fault("link congested", errors=frozenset({"LOST"}), between_nodes=True):
            queue = ["tbf", "rate", "100mbit", "burst", "70k", "limit", "140k"]
            self._link(queue, rng.uniform(3, 8))

    def _link(self, queue: list[str], seconds: float) -> None:
        nodes = [self.world.spec.node_netns(node.name) for node in self.world.spec.real_nodes]
        try:
            for netns in nodes:
                run(in_netns(netns, ["tc", "qdisc", "replace", "dev", "link0", "root", *queue]))
            time.sleep(seconds)
        finally:
            for netns in nodes:
                run(in_netns(netns, ["tc", "qdisc", "del", "dev", "link0", "root"]), check=False)

    # ── pods, the mesh file, the authority ──

    def _kill_app(self, rng: random.Random) -> None:
        pod = rng.choice((*APPS, *FLIPS))
        with self._fault("app killed", pod, errors=KILLED, pods=frozenset({pod})):
            self.world.kill_server(pod)
            time.sleep(rng.uniform(0, 2))
            self.world.start_server(pod)

    def _remove_workload(self, rng: random.Random) -> None:
        self._leave("workload removed", rng.choice(FLIPS), self.world.excluded, rng)

    def _opt_out(self, rng: random.Random) -> None:
        self._leave("opted out", rng.choice(FLIPS), self.world.opted_out, rng)

    def _opt_out_client(self, rng: random.Random) -> None:
        """Outside the mesh nobody serves the VIP: there is no route to it."""
        self._leave("client opted out", ROVER, self.world.opted_out, rng, _NO_VIP)

    def _leave(
        self,
        kind: str,
        pod: str,
        gone: set[str],
        rng: random.Random,
        also: AbstractSet[str] = frozenset(),
    ) -> None:
        with self._fault(kind, pod, errors=REFUSED | also, pods=frozenset({pod})):
            gone.add(pod)
            self.world.write_mesh()
            time.sleep(POD_DRAIN_SECONDS + rng.uniform(0, 2))
            gone.discard(pod)
            self.world.write_mesh()
            self._wait_enrolled(pod)

    def _recreate_pod(self, rng: random.Random) -> None:
        """Delete a pod, and make another with its name and addresses."""
        world, pod = self.world, rng.choice(FLIPS)
        with self._fault("pod made again", pod, errors=GONE, pods=frozenset({pod})):
            world.excluded.add(pod)
            world.write_mesh()
            time.sleep(rng.uniform(0, 1))
            world.kill_server(pod)
            remove_pod(world.spec, pod)
            time.sleep(rng.uniform(0, 2))
            restore_pod(world.spec, pod)
            world.start_server(pod)
            world.excluded.discard(pod)
            world.write_mesh()
            self._wait_enrolled(pod)

    def _wait_enrolled(self, pod: str) -> None:
        node = self.world.node_of[pod]

        def enrolled() -> bool:
            with suppress(LabError):
                found = self.world.cluster.admin(node, "/workloads")
                key = tuple(pod.split("/"))
                return any((w["namespace"], w["name"], w["state"]) == (*key, "captured")
                           for w in found)  # fmt: skip
            return False

        time.sleep(1)  # the agent has to see the edit before its answer means anything
        wait_until(enrolled, seconds=60, what=f"{pod} to be enrolled again")

    def _move_endpoints(self, rng: random.Random) -> None:
        """Take an endpoint from the service: what is open stays, what is new goes to the other."""
        pod = rng.choice(APPS)
        with self._fault("endpoint taken away", pod):
            self.world.no_endpoint.add(pod)
            self.world.write_mesh()
            time.sleep(rng.uniform(1, 4))
            self.world.no_endpoint.discard(pod)
            self.world.write_mesh()

    def _bad_edit(self, rng: random.Random) -> None:
        """A file that cannot be read changes nothing."""
        with self._fault("bad edit"):
            path = self.world.cluster.mesh_file
            text = path.read_text()
            path.write_text(text[: rng.randrange(len(text) // 2, len(text) - 50)] + "\n ]: {")
            time.sleep(rng.uniform(0.5, 2))
            self.world.write_mesh()

    def _stop_authority(self, rng: random.Random) -> None:
        """No renewals for a while, shorter than what a leaf has left when it is renewed."""
        with self._fault("authority stopped"):
            assert self.world.cluster.ca is not None
            self.world.cluster.ca.kill()
            time.sleep(rng.uniform(1, 8))
            self.world.cluster.start_ca()

    def _hostile_peer(self, rng: random.Random) -> None:
        with self._fault("hostile peer"):
            spec = self.world.spec
            addresses = [spec.address4(pod) for pod in (*APPS, *FLIPS)]
            command = [sys.executable, "-m", "bench.soak.hostile", str(rng.getrandbits(30))]
            place = self.world.cluster.pod(PEER)
            place.run([*command, *addresses], timeout=120, env={"PYTHONPATH": str(ROOT)})
