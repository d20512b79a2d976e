# SPDX-License-Identifier: Apache-2.0
"""Policies in files of their own, and `nodemesh policy check`, with real agents and traffic."""

import json

import pytest
import yaml
from netns_support import ENDED
from policy_support import CLIENT, FAR, NEAR, STRANGER, authorization, network_policy, selector

from lab.process import wait_until
from lab.servers import HTTP_PORT

pytestmark = pytest.mark.netns


def run(lab, node, *arguments):
    return lab.cluster.ask_command(node, [*map(str, arguments)])


def get(lab, source, target):
    return lab.curl(source, f"http://{lab.spec.address4(target)}:{HTTP_PORT}/")[0]


def errors(lab):
    status = (lab.cluster.admin(node, "/status")["sources"][0] for node in (lab.one, lab.two))
    return [one["error"] for one in status]


@pytest.fixture
def folder(lab, policies):
    """A directory of policies that the mesh file names; pods have labels that are their names."""
    folder = lab.cluster.mesh_file.parent / "policies"
    folder.mkdir()
    policies(files=["policies"])
    yield folder
    lab.cluster.write_mesh(lab.cluster.document())
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def write(path, *documents):
    """As an editor does: a new file over the old one."""
    fresh = path.with_suffix(".tmp")
    fresh.write_text("---\n".join(yaml.safe_dump(one) for one in documents))
    fresh.replace(path)


def waits(what, holds):
    wait_until(holds, seconds=10, what=what)


def test_a_policy_file_comes_is_edited_broken_and_goes(lab, folder):
    assert get(lab, CLIENT, NEAR) == 0
    file = folder / "near.yaml"
    write(file, network_policy(NEAR, ingress=[]))
    waits("the new file to be enforced", lambda: get(lab, CLIENT, NEAR) in ENDED)

    write(file, network_policy(NEAR, ingress=[{"from": [{"podSelector": selector(CLIENT)}]}]))
    waits("the edit to be enforced", lambda: get(lab, CLIENT, NEAR) == 0)
    asked = ("explain", CLIENT, NEAR, "--port", HTTP_PORT, "-o", "json", "--node", lab.one)
    status, said = run(lab, lab.one, *asked)
    assert status == 0, said
    (half,) = (one for one in json.loads(said)["directions"] if one["direction"] == "ingress")
    rule = half["decided_by"]
    assert rule["file"] == str(file)
    assert file.read_text().splitlines()[rule["line"] - 1].strip().startswith("- from:")

    broken = network_policy(NEAR, ingress=[])
    broken["spec"]["ingres"] = broken["spec"].pop("ingress")
    write(file, broken)
    waits("both agents to see the mistake", lambda: all(errors(lab)))
    for sentence in errors(lab):
        assert f"{file}:" in sentence
        assert "spec.ingres: unknown field; did you mean ingress?" in sentence
    assert "spec.ingres: unknown field" in run(lab, lab.one, "status", "--node", lab.one)[1]
    assert get(lab, CLIENT, NEAR) == 0, "what was in force stays in force"

    file.unlink()
    waits("the mistake to be gone", lambda: not any(errors(lab)))
    waits("the policy to be gone", lambda: lab.cluster.admin(lab.one, "/policies") == [])
    assert get(lab, CLIENT, NEAR) == 0


def check(lab, *arguments):
    status, said = run(lab, lab.one, "policy", "check", *arguments, "-o", "json")
    assert status in (0, 3), said
    found = json.loads(said)
    assert (status == 3) == bool(found["effect"]["refused"])
    return found["effect"]


def ends(changes):
    return {(one["source_workload"], one["destination_workload"], one["port"]) for one in changes}


@pytest.mark.parametrize("target", [NEAR, FAR], ids=["same-node", "across"])
def test_check_foresees_what_then_happens(lab, folder, target, tmp_path):
    nodes = ("--node", lab.one, "--node", lab.two)
    for _ in range(3):
        assert get(lab, CLIENT, target) == 0
    client = lab.spec.identity(CLIENT).removeprefix("spiffe://")
    talk = (CLIENT, target, HTTP_PORT)

    def seen():
        found = lab.cluster.admin(lab.one, "/connections/recent")
        return [one for one in found if one["destination_workload"] == target]

    waits("the agent to have seen them", lambda: any(one["count"] >= 3 for one in seen()))
    proposed = tmp_path / "deny.yaml"
    write(proposed, authorization(target, "DENY", {"principals": [client]}))
    effect = check(lab, proposed, *nodes)
    assert talk in ends(effect["refused"])
    assert {one["destination_workload"] for one in effect["refused"]} == {target}
    (cause,) = next(one for one in effect["refused"] if one["source_workload"] == CLIENT)["because"]
    assert (cause["policy"], cause["rule"]) == (
        "AuthorizationPolicy shop/deny",
        "rules[0].from[0]",
    )
    assert cause["file"] == str(proposed)

    # The same by a state that was saved, without any agent.
    status, saved = run(lab, lab.one, "policy", "state", "--node", lab.one)
    assert status == 0
    state = tmp_path / "state.json"
    state.write_text(saved)
    assert talk in ends(check(lab, proposed, "--state", state)["refused"])
    assert get(lab, CLIENT, target) == 0, "nothing is in force yet"

    # And so it comes, and is foreseen to go.
    write(folder / "deny.yaml", authorization(target, "DENY", {"principals": [client]}))
    waits("the policy to be enforced", lambda: get(lab, CLIENT, target) in ENDED)
    (folder / "more.yaml").write_text((folder / "deny.yaml").read_text())
    waits("the second of one name to be a mistake", lambda: all(errors(lab)))
    sentence = errors(lab)[0]
    assert f"{folder}/more.yaml:" in sentence
    assert f"AuthorizationPolicy shop/deny is at {folder}/deny.yaml:1 too" in sentence
    (folder / "more.yaml").unlink()
    waits("the mistake to be gone", lambda: not any(errors(lab)))
    allowing = tmp_path / "allow.yaml"
    deny = authorization(target, "DENY", {"principals": ["cluster.local/ns/x/sa/nobody"]})
    write(allowing, deny)
    assert talk in ends(check(lab, allowing, *nodes)["allowed"])


def test_what_strangers_were_refused_is_seen(lab, folder, tmp_path):
    write(folder / "near.yaml", network_policy(NEAR, ingress=[]))
    waits("the policy to be enforced", lambda: get(lab, STRANGER, NEAR) in ENDED)
    opened = tmp_path / "open.yaml"
    write(opened, network_policy(NEAR, ingress=[{}]))
    waits(
        "the refusal to be seen, and foreseen to end",
        lambda: (
            (STRANGER, NEAR, HTTP_PORT)
            in ends(check(lab, opened, "--node", lab.one, "--node", lab.two)["allowed"])
        ),
    )


def test_a_port_has_a_name_too(lab, policies):
    policies(
        network_policy(NEAR, ingress=[{"ports": [{"port": "http"}]}]), named={"http": HTTP_PORT}
    )
    query = f"/explain?from={CLIENT}&to={NEAR}"
    named = lab.cluster.admin(lab.one, f"{query}&port=http")
    assert named["destination"]["port"] == HTTP_PORT
    assert named["verdict"] == "allowed"
    assert named == lab.cluster.admin(lab.one, f"{query}&port={HTTP_PORT}")
    status, said = run(lab, lab.one, "explain", CLIENT, NEAR, "--port", "grpc", "--node", lab.one)
    assert status == 1
    assert f"{NEAR} has no TCP port 'grpc'; it has http ({HTTP_PORT}/TCP)" in said
    service = lab.spec.services[0]
    port = service.ports[0]
    name = f"{service.namespace}/{service.name}"
    found = lab.cluster.admin(lab.one, f"/explain?from={CLIENT}&to={name}&port={port.name}")
    assert found["destination"]["service"] == name
    assert found == lab.cluster.admin(lab.one, f"/explain?from={CLIENT}&to={name}&port={port.port}")
