# SPDX-License-Identifier: Apache-2.0
"""The agent as a process: one writer, what can be looked at and told, what is forgotten."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from netns_support import Lab, make_lab

from lab import cluster as lab_cluster
from lab.cluster import nodemesh
from lab.process import wait_until

pytestmark = pytest.mark.netns


def post(node: str, path: str) -> tuple[int, Any]:
    """POST to an agent's admin socket."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(10)
    connection.sock.connect(f"/run/nodemesh/{node}/admin.sock")
    connection.request("POST", path)
    answer = connection.getresponse()
    try:
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_a_second_agent_of_a_node_is_refused_and_harmless(lab: Lab) -> None:
    place = lab.cluster.node(lab.one, "agent")
    command = nodemesh("agent", "--node", lab.one, str(lab.cluster.mesh_file))
    done = place.run(command, check=False, env={"PYTHONPATH": str(lab_cluster.ROOT)})
    assert done.status == 1
    *before, said = [line for line in done.stderr.splitlines() if line]
    # A machine that allows few descriptors is warned of first.
    assert all(" agent.descriptors: " in line for line in before)
    assert said.startswith("nodemesh: another agent already runs")
    assert f"process {lab.cluster.agents[lab.one].pid}" in said
    assert lab.cluster.is_ready(lab.one)


def test_cleanup_is_refused_while_the_agent_runs(lab: Lab) -> None:
    place = lab.cluster.node(lab.one, "agent")
    done = place.run(
        nodemesh("cleanup", "--node", lab.one),
        check=False,
        env={"PYTHONPATH": str(lab_cluster.ROOT)},
    )
    assert done.status == 1
    assert lab.curl("shop/client", f"http://{lab.spec.address4('shop/web-2')}:8080/")[0] == 0


@pytest.mark.parametrize(
    "command", ["status", "workloads", "services", "connections", "certificates", "tunnels"]
)
def test_every_looking_command_in_every_form(lab: Lab, command: str) -> None:
    lab.curl("shop/client", f"http://{lab.spec.address4('shop/web-2')}:8080/")
    for form in ("table", "json", "yaml"):
        more = ["--recent"] if command == "connections" else []
        said = lab.cluster.command(lab.one, [command, "--node", lab.one, "-o", form, *more])
        assert said.strip()
        if form == "json":
            assert json.loads(said)
    assert "Traceback" not in lab.cluster.log(f"agent-{lab.one}").read_text()


def test_the_admin_socket_is_roots_alone(lab: Lab) -> None:
    path = Path(f"/run/nodemesh/{lab.one}/admin.sock")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    for view in ("status", "connections", "tables", "log-level"):
        assert lab.cluster.http_status(lab.one, f"http://127.0.0.1:15020/{view}") == 404


def test_no_key_and_no_token_can_be_seen_anywhere(lab: Lab) -> None:
    token = (lab.cluster.dir / "token").read_text().strip()
    said = "".join(
        json.dumps(lab.cluster.admin(lab.one, view))
        for view in ("/status", "/certificates", "/tables", "/connections?recent=1")
    )
    said += lab.cluster.log(f"agent-{lab.one}").read_text() + lab.cluster.metrics(lab.one)
    assert token not in said
    assert "PRIVATE KEY" not in said


def test_the_log_level_can_be_changed_while_it_runs(lab: Lab) -> None:
    assert post(lab.one, "/log-level?level=debug") == (200, {"level": "debug"})
    try:
        assert lab.cluster.admin(lab.one, "/log-level") == {"level": "debug"}
        status, answer = post(lab.one, "/log-level?level=loud")
        assert status == 400
        assert "loud" in answer["error"]
    finally:
        post(lab.one, "/log-level?level=info")


def test_a_drain_that_is_posted_ends_the_agent_in_order(lab: Lab) -> None:
    assert post(lab.one, "/drain")[0] == 200
    agent = lab.cluster.agents[lab.one]
    assert agent.popen.wait(20) == 0
    lab.cluster.start_agent(lab.one)


def test_the_series_of_a_removed_workload_expire(
    lab_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quick(*arguments: str) -> list[str]:
        more = ("--series-grace-seconds", "1") if arguments[0] == "agent" else ()
        return nodemesh(*arguments, *more)

    monkeypatch.setattr(lab_cluster, "nodemesh", quick)
    made = make_lab(lab_name)
    try:
        made.cluster.start_mesh()
        for server in ("shop/web-1", "shop/web-2"):
            address = made.spec.address4(server)
            assert made.curl("shop/client", f"http://{address}:8080/")[0] == 0

        def series(node: str) -> list[str]:
            lines = made.cluster.metrics(node).splitlines()
            named = ('source_workload="client"', 'destination_workload="client"')
            return [line for line in lines if any(name in line for name in named)]

        wait_until(lambda: bool(series(made.one)), seconds=5, what="series of the client")
        wait_until(lambda: bool(series(made.two)), seconds=5, what="series of the client")
        document = made.cluster.document()
        document["workloads"] = [w for w in document["workloads"] if w["name"] != "client"]
        made.cluster.write_mesh(document)
        wait_until(
            lambda: not series(made.one) and not series(made.two),
            seconds=20,
            what="both agents to forget the client",
        )
    finally:
        made.cluster.close()
