# SPDX-License-Identifier: Apache-2.0
"""``nodemesh policy check``: mistakes, warnings, and what would become of what was seen."""

import json
import time
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from agent.saved_state import read_state, write_state
from agent.sources.file import read_mesh_file
from agent.sources.spelling import Facts
from agent.telemetry.recent import Seen
from cli.main import main
from mesh.compile import NodeConfig
from mesh.model.events import NamespaceAdded, NodeAdded, PolicyAdded, WorkloadAdded
from mesh.state import MeshState

MESH = """\
apiVersion: nodemesh.io/v1alpha1
kind: Mesh
trustDomain: cluster.local
nodes: [{name: n1, addresses: ["172.31.0.1"]}, {name: n2, addresses: ["172.31.0.2"]}]
namespaces:
  - {name: shop, labels: {istio.io/dataplane-mode: ambient}}
  - {name: legacy}
workloads:
  - {name: client, namespace: shop, node: n1, addresses: [10.0.0.1], labels: {app: client}}
  - {name: web, namespace: shop, node: n2, addresses: [10.0.0.2], labels: {app: web},
     ports: [{name: http, port: 8080}]}
  - {name: old, namespace: legacy, node: n1, addresses: [10.0.0.3]}
policyFiles: [policies]
"""
OLD = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
    - from: [{podSelector: {matchLabels: {app: client}}}]
      ports: [{port: http}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec:
  action: DENY
  selector: {matchLabels: {app: web}}
  rules:
    - to: [{operation: {ports: ["9000"]}}]
      when: [{key: "request.headers[x]", values: [y]}]
"""
SEEN = Seen(
    source_workload="shop/client",
    source="10.0.0.1",
    destination_workload="shop/web",
    destination="10.0.0.2",
    port=8080,
    protocol=6,
    attested=True,
    count=17,
    refused=0,
    last_seen=0.0,
)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A mesh file, its policies, and a state that an agent of it has saved."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "shop.yaml").write_text(OLD)
    (tmp_path / "mesh.yaml").write_text(MESH)
    mesh_file = read_mesh_file(tmp_path / "mesh.yaml")
    state = MeshState()
    state.apply_all(NodeAdded(one) for one in mesh_file.nodes)
    state.apply_all(NamespaceAdded(one) for one in mesh_file.namespaces)
    state.apply_all(WorkloadAdded(one) for one in mesh_file.workloads)
    state.apply_all(PolicyAdded(one) for one in mesh_file.policies)
    now = time.time()
    seen = [
        replace(SEEN, last_seen=now - 90),
        replace(SEEN, source_workload="legacy/old", source="10.0.0.3", attested=False, count=2),
        replace(SEEN, port=9000, count=1, refused=1),
        replace(SEEN, destination_workload="", destination="192.0.2.7", port=443, protocol=17),
        replace(SEEN, source_workload="shop/gone"),
    ]
    config = NodeConfig("n1", root_namespace="istio-system")
    saved = write_state(Facts.of(state), config, seen, trust_domain="cluster.local", now=now)
    (tmp_path / "state.json").write_text(json.dumps(saved))
    return tmp_path


def check(files: Path, *options: str, names: tuple[str, ...] = ("policies",)) -> int:
    asked = [str(files / name) for name in names]
    return main(["policy", "check", *asked, "--state", str(files / "state.json"), *options])


def test_a_saved_state_is_the_state_with_its_lines(files: Path) -> None:
    found = read_state(json.loads((files / "state.json").read_text()), "state")
    mesh_file = read_mesh_file(files / "mesh.yaml")
    assert list(found.state.policies.values()) == list(mesh_file.policies)
    assert sorted(found.state.workloads.keys()) == sorted(one.uid for one in mesh_file.workloads)
    assert found.state.workloads[mesh_file.workloads[1].uid].addresses == (IPv4Address("10.0.0.2"),)
    assert len(found.connections) == 5


def test_what_is_in_force_changes_nothing(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(files) == 0
    lines = capsys.readouterr().out.splitlines()
    file = files / "policies" / "shop.yaml"
    assert lines[0] == f"NetworkPolicy shop/web  1 rule  {file}:1"
    assert lines[1] == f"AuthorizationPolicy shop/no-admin  1 rule  {file}:10"
    assert "rules[0] asks for request.headers[x], which layer 4 cannot see" in lines[2]
    assert lines[3] == "Of 4 connections seen in the last hour none would change."
    assert len(lines) == 4


def test_what_would_be_refused_is_told_with_the_rule_and_the_exit_status(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = files / "new.yaml"
    new.write_text(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        "metadata: {name: no-client, namespace: shop}\nspec:\n  action: DENY\n  rules:\n"
        "  - from: [{source: {serviceAccounts: [default]}}]\n"
        "    to: [{operation: {ports: ['8080']}}]\n"
    )
    assert check(files, names=("new.yaml",)) == 3
    said = capsys.readouterr().out
    assert "1 connection seen in the last hour would now be refused:" in said
    assert "  shop/client -> shop/web:8080/TCP  (17 times, last 90s ago)" in said
    assert (
        "    ingress: policy-deny, because of AuthorizationPolicy shop/no-client "
        f"rules[0].from[0] ({new}:7)" in said
    )


def test_egress_and_udp_are_tried_too(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "new.yaml").write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        "metadata: {name: shut, namespace: shop}\n"
        "spec: {podSelector: {matchLabels: {app: client}}, policyTypes: [Egress]}\n"
    )
    assert check(files, "-o", "json", names=("new.yaml",)) == 3
    effect = json.loads(capsys.readouterr().out)["effect"]
    ports = sorted((one["port"], one["protocol"], one["direction"]) for one in effect["refused"])
    assert ports == [(443, 17, "egress"), (8080, 6, "egress")]
    assert effect["refused"][0]["because"] == [
        {
            "policy": "NetworkPolicy shop/shut",
            "rule": "",
            "file": str(files / "new.yaml"),
            "line": 1,
        }
    ]


def test_what_a_file_or_directory_no_longer_holds_counts_as_gone(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = files / "policies" / "shop.yaml"
    file.write_text(OLD.partition("---\n")[2])
    assert check(files) == 0
    said = capsys.readouterr().out
    assert "1 connection seen in the last hour would now be allowed:" in said
    assert "legacy/old -> shop/web:8080/TCP" in said
    assert f"network-policy, because of NetworkPolicy shop/web ({file}:1)" in said
    file.rename(files / "policies" / "other.yaml")
    assert check(files) == 0
    assert "would now be allowed" in capsys.readouterr().out


def test_a_mesh_file_stands_for_all_policies(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "policies" / "shop.yaml").write_text(OLD.partition("---\n")[0])
    assert check(files, names=("mesh.yaml",)) == 0
    assert "shop/client -> shop/web:9000" not in capsys.readouterr().out
    (files / "mesh.yaml").write_text(MESH.replace("policyFiles: [policies]", ""))
    assert check(files, names=("mesh.yaml",)) == 0
    said = capsys.readouterr().out
    assert "2 connections seen in the last hour would now be allowed:" in said
    assert "shop/client -> shop/web:9000/TCP" in said


def test_every_mistake_is_told_and_nothing_is_tried(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = files / "policies" / "a.yaml", files / "policies" / "b.yaml"
    one.write_text(OLD.replace("podSelector:", "podSelektor:", 1).replace("action", "actoin"))
    two.write_text("a: [")
    assert check(files, names=("policies", "none.yaml")) == 1
    caught = capsys.readouterr()
    assert caught.err.replace(f"{files}/", "").splitlines() == [
        "none.yaml:1: cannot be read: no such file or directory",
        'policies/a.yaml:4: spec: the field "podSelector" is missing ({} selects every pod)',
        "policies/a.yaml:5: spec.podSelektor: unknown field; did you mean podSelector?",
        "policies/a.yaml:14: spec.actoin: unknown field; did you mean action?",
        "policies/b.yaml:2: not YAML: did not find expected node content",
    ]
    assert "NetworkPolicy shop/web  1 rule" in caught.out
    assert "connections" not in caught.out
    assert check(files, "-o", "json", names=("policies", "none.yaml")) == 1
    found = json.loads(capsys.readouterr().out)
    assert len(found["problems"]) == 5
    assert found["effect"] is None


def test_a_dry_run_decides_nothing_and_says_so(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "new.yaml").write_text(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        "metadata: {name: dry, namespace: shop, annotations: {istio.io/dry-run: 'true'}}\n"
        "spec: {action: DENY, rules: [{}]}\n"
    )
    assert check(files, names=("new.yaml",)) == 0
    said = capsys.readouterr().out
    assert f"warning: AuthorizationPolicy shop/dry ({files}/new.yaml:1) is in dry run" in said
    assert "none would change" in said


def test_a_policy_of_pods_outside_the_mesh_enforces_nothing_and_says_so(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "new.yaml").write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        "metadata: {name: old, namespace: legacy}\nspec: {podSelector: {}}\n"
    )
    assert check(files, names=("new.yaml",)) == 0
    said = capsys.readouterr().out
    assert f"warning: NetworkPolicy legacy/old ({files}/new.yaml:1) selects legacy/old" in said
    assert check(files) == 0
    assert "selects" not in capsys.readouterr().out


def test_policies_that_do_not_fit_are_wrong(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peers = ", ".join(f"{{ipBlock: {{cidr: 10.1.{n >> 8}.{n & 255}/32}}}}" for n in range(513))
    (files / "policies" / "big.yaml").write_text(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: big, "
        f"namespace: shop}}, spec: {{podSelector: {{}}, ingress: [{{from: [{peers}]}}]}}}}"
    )
    assert check(files) == 1
    assert "cannot come into force: shop/" in capsys.readouterr().err


def test_without_an_agent_the_files_are_read_all_the_same(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["policy", "check", "--offline", str(files / "policies")]) == 0
    assert "Not tried" not in capsys.readouterr().out
    assert main(["policy", "check", "--node", "no-such-node", str(files / "policies")]) == 1
    assert "does not run here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is no JSON"),
        ("[]", "is no state that `nodemesh policy state` has written"),
        ('{"version": 2}', "is no state"),
        ('{"version": 1, "mesh": {}}', "trustDomain"),
    ],
)
def test_a_state_that_is_none_is_a_sentence(
    files: Path, capsys: pytest.CaptureFixture[str], content: str, sentence: str
) -> None:
    (files / "state.json").write_text(content)
    assert check(files) == 1
    assert sentence in capsys.readouterr().err
