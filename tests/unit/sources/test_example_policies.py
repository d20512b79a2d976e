# SPDX-License-Identifier: Apache-2.0
"""The policies of ``examples/``, in the mesh of ``two-nodes.yaml``: each does what it says."""

from pathlib import Path

import pytest
import yaml

from agent.sources.file import read_mesh_file
from agent.sources.settings import MeshFile
from cli.main import main
from mesh.decide import Connection, Oracle
from mesh.model.address import IpAddress
from mesh.model.events import NamespaceAdded, NodeAdded, PolicyAdded, WorkloadAdded
from mesh.model.service import Protocol
from mesh.model.workload import Workload
from mesh.reasons import Reason
from mesh.state import MeshState

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
FILES = sorted((EXAMPLES / "policies").glob("*.yaml"))

CURL, WEB, FAR, BATCH = "shop/curl", "shop/web-1", "shop/web-2", "legacy/batch"
NONE, NETWORK = Reason.NONE, Reason.NETWORK_POLICY
CASES = {
    "default-deny.yaml": [(CURL, WEB, 8080, NETWORK), (BATCH, WEB, 8080, NETWORK)],
    "allow-one-client.yaml": [
        (CURL, WEB, 8080, NONE),
        (CURL, WEB, 8081, NETWORK),
        (FAR, WEB, 8080, NETWORK),
        (BATCH, FAR, 8080, NETWORK),
        (WEB, CURL, 8080, NONE),
    ],
    "named-port.yaml": [
        (CURL, WEB, 8080, NONE),
        (BATCH, FAR, 8080, NONE),
        (CURL, WEB, 8081, NETWORK),
    ],
    "ip-block-except.yaml": [
        (CURL, WEB, 8080, NONE),
        (CURL, FAR, 1, NONE),
        (FAR, WEB, 8080, NETWORK),
        (BATCH, WEB, 8080, NETWORK),
    ],
    "deny-principal.yaml": [
        (CURL, WEB, 8080, Reason.POLICY_DENY),
        (FAR, WEB, 8080, NONE),
        (BATCH, WEB, 8080, NONE),
    ],
    "allow-service-account.yaml": [
        (CURL, WEB, 8080, NONE),
        (CURL, WEB, 8081, Reason.NO_ALLOW_RULE),
        (FAR, WEB, 8080, Reason.NO_ALLOW_RULE),
        (BATCH, WEB, 8080, Reason.NO_ALLOW_RULE),
        (WEB, CURL, 8080, Reason.NO_ALLOW_RULE),
    ],
    "strict-namespace.yaml": [
        (CURL, WEB, 8080, NONE),
        (BATCH, WEB, 8080, Reason.NOT_ATTESTED),
        (BATCH, CURL, 9100, Reason.NOT_ATTESTED),
        (BATCH, WEB, 9100, NONE),
    ],
    "dry-run.yaml": [(CURL, WEB, 8080, NONE), (BATCH, WEB, 8080, NONE)],
}
"""Source, destination, port and what is said at the destination."""


def documents(file: Path) -> list[object]:
    return list(yaml.safe_load_all(file.read_text()))


def mesh_with(folder: Path, **fields: object) -> Path:
    """The mesh of the example, with policies."""
    mesh = yaml.safe_load((EXAMPLES / "two-nodes.yaml").read_text())
    path = folder / "mesh.yaml"
    path.write_text(yaml.safe_dump({**mesh, **fields}))
    return path


def state_of(found: MeshFile) -> MeshState:
    state = MeshState()
    state.apply_all(NamespaceAdded(one) for one in found.namespaces)
    state.apply_all(NodeAdded(one) for one in found.nodes)
    state.apply_all(WorkloadAdded(one) for one in found.workloads)
    state.apply_all(PolicyAdded(one) for one in found.policies)
    return state


def judge(found: MeshFile, source: str, target: str, port: int, version: int) -> Reason:
    state = state_of(found)
    by_name = {f"{one.namespace}/{one.name}": one for one in found.workloads}
    peer, subject = by_name[source], by_name[target]
    connection = Connection(
        subject=subject,
        peer=peer,
        address=address(peer, version),
        port=port,
        protocol=Protocol.TCP,
        egress=False,
        attested=peer.namespace == "shop",  # the only namespace in the mesh
    )
    oracle = Oracle(state, root_namespace=found.root_namespace, node=subject.node)
    return oracle.judge(connection).reason


def address(workload: Workload, version: int) -> IpAddress:
    return next(one for one in workload.addresses if one.version == version)


def test_every_example_has_its_cases() -> None:
    assert [file.name for file in FILES] == sorted(CASES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_example_is_read_alike_in_the_mesh_file_and_by_itself(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inline = mesh_with(tmp_path, policies=documents(file))
    assert main(["config", "check", str(inline)]) == 0
    said = capsys.readouterr().out
    assert f"{len(documents(file))} policies" in said
    assert "warning" not in said
    keys = {policy.key for policy in read_mesh_file(inline).policies}
    apart = mesh_with(tmp_path, policyFiles=[str(file)])
    assert main(["config", "check", str(apart)]) == 0
    assert {policy.key for policy in read_mesh_file(apart).policies} == keys


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_example_does_what_it_says(file: Path, version: int, tmp_path: Path) -> None:
    found = read_mesh_file(mesh_with(tmp_path, policies=documents(file)))
    for source, target, port, reason in CASES[file.name]:
        said = judge(found, source, target, port, version)
        assert said is reason, f"{source} > {target}:{port}: {said.name}"


def test_the_dry_run_would_refuse_strangers_alone(tmp_path: Path) -> None:
    policy = documents(EXAMPLES / "policies" / "dry-run.yaml")[0]
    assert isinstance(policy, dict)
    del policy["metadata"]["annotations"]
    found = read_mesh_file(mesh_with(tmp_path, policies=[policy]))
    assert judge(found, CURL, WEB, 8080, 4) is NONE
    assert judge(found, BATCH, WEB, 8080, 4) is Reason.POLICY_DENY


def test_default_deny_lets_questions_to_the_dns_out(tmp_path: Path) -> None:
    mesh = yaml.safe_load((EXAMPLES / "two-nodes.yaml").read_text())
    dns = {
        "name": "dns",
        "namespace": "kube-system",
        "node": "node2",
        "addresses": ["10.81.2.53", "fd81:2::53"],
    }
    policies = documents(EXAMPLES / "policies" / "default-deny.yaml")
    path = mesh_with(tmp_path, workloads=[*mesh["workloads"], dns], policies=policies)
    found = read_mesh_file(path)
    by_name = {one.name: one for one in found.workloads}
    oracle = Oracle(state_of(found), root_namespace=found.root_namespace, node="node1")
    for peer, port, protocol, reason in (
        ("dns", 53, Protocol.UDP, NONE),
        ("dns", 53, Protocol.TCP, NONE),
        ("dns", 80, Protocol.TCP, NETWORK),
        ("web-1", 53, Protocol.UDP, NETWORK),
    ):
        connection = Connection(
            subject=by_name["curl"],
            peer=by_name[peer],
            address=address(by_name[peer], 4),
            port=port,
            protocol=protocol,
            egress=True,
            attested=False,
        )
        assert oracle.judge(connection).reason is reason, f"{peer}:{port}"
