# SPDX-License-Identifier: Apache-2.0
"""A scene of the demo: a policy is edited, a request refused, seen live and explained."""

import json
import time
from typing import Any, Final

from lab.cluster import Cluster
from lab.errors import LabError
from lab.meshfile import Document
from lab.process import Process, wait_until
from lab.screen import Screen
from lab.servers import HTTP_PORT

__all__ = ["policy_scene"]

CLIENT: Final = "shop/client"
SERVER: Final = "shop/web-2"
"""Of another node, so that both agents have a part in it."""

POLICY: Final = {
    "apiVersion": "security.istio.io/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "not-the-client", "namespace": "shop"},
    "spec": {
        "action": "DENY",
        "rules": [{"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/client"]}}]}],
    },
}

_SECONDS: Final = 10.0
"""From an edit to its effect it is a fraction of a second; more means that something is broken."""


def policy_scene(screen: Screen, cluster: Cluster) -> bool:
    """Show it; say whether everything was as it should be."""
    screen.title("A policy, from the edit to the explanation")
    node = cluster.spec.pod(SERVER).node
    if not _answers(cluster):
        screen.bad(f"{CLIENT} cannot reach {SERVER} before there is any policy")
        return False
    follower = _follow(cluster, node)
    try:
        took = _edit(cluster, cluster.document() | {"policies": [POLICY]}, answers=False)
        screen.good(f"edited mesh.yaml: DENY {CLIENT}; {took:.0f} ms later its request is refused")
        event = _event(cluster, follower)
        screen.good(f"live, from `nodemesh events -f` on {node}:")
        rule = event["rule"] or {"policy": "?", "rule": ""}
        verdict = (
            f"{event['verdict']} {event['source_workload']} -> {event['destination_workload']}"
        )
        screen.say(f"      {verdict}: {event['reason']}, {rule['policy']} {rule['rule']}")
        holds = _explain(screen, cluster)
    finally:
        follower.stop()
        took = _edit(cluster, cluster.document(), answers=True)
    screen.good(f"put back: {took:.0f} ms later the same request is answered again")
    return holds


def _answers(cluster: Cluster) -> bool:
    url = f"http://{cluster.spec.address4(SERVER)}:{HTTP_PORT}/"
    command = ["curl", "-s", "-m", "2", "-o", "/dev/null", "--noproxy", "*", url]
    return cluster.pod(CLIENT).run(command, check=False).status == 0


def _edit(cluster: Cluster, document: Document, *, answers: bool) -> float:
    """Write the mesh file and return the milliseconds until it shows, with the request in them."""
    began = time.monotonic()
    cluster.write_mesh(document)
    wait_until(
        lambda: _answers(cluster) is answers, seconds=_SECONDS, what="the edit to take effect"
    )
    return (time.monotonic() - began) * 1000


def _follow(cluster: Cluster, node: str) -> Process:
    log = cluster.log("events")
    log.unlink(missing_ok=True)
    arguments = ("events", "-f", "--verdict", "denied", "--to", SERVER, "-o", "json")
    return cluster.start_command(node, [*arguments, "--node", node], log=log)


def _event(cluster: Cluster, follower: Process) -> dict[str, Any]:
    """The first refusal that the follower tells of. The demo's requests go on until it does."""

    def told() -> list[dict[str, Any]]:
        lines = (json.loads(line) for line in follower.log.read_text().splitlines())
        return [line for line in lines if line.get("source_workload") == CLIENT]

    # A command takes a moment to start, and tells of what happens from then on.
    wait_until(
        lambda: bool(told() or _answers(cluster) or told()),
        seconds=_SECONDS,
        what="the refusal among the events",
        alive=[follower],
    )
    found = told()
    if not found:
        raise LabError(f"{CLIENT} was answered although a policy forbids it")
    return found[0]


def _explain(screen: Screen, cluster: Cluster) -> bool:
    node = cluster.spec.pod(CLIENT).node
    question = ("explain", CLIENT, SERVER, "--port", str(HTTP_PORT), "--node", node)
    status, said = cluster.ask_command(node, question)
    refused = 3
    (screen.good if status == refused else screen.bad)(f"`nodemesh {' '.join(question[:5])}`:")
    for line in said.rstrip().splitlines():
        screen.say(f"      {line.replace(str(cluster.mesh_file), cluster.mesh_file.name)}")
    return status == refused and str(POLICY["kind"]) in said
