# SPDX-License-Identifier: Apache-2.0
"""The command line: help, usage, tables, error sentences, exit status."""

# ruff: noqa: E501 - a policy is a line

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli.agent import add_arguments, parse_config
from cli.main import main
from cli.output import format_age, format_bytes, format_microseconds, format_table, print_data
from cli.show import _table


def test_help_names_every_command_and_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for command in ("agent", "ca", "cleanup", "status", "connections", "config", "lab", "demo"):
        assert command in [line.split()[0] for line in text.splitlines() if line.startswith("    ")]
    assert "Exit status" in text


def test_no_command_and_a_wrong_one_are_usage_errors() -> None:
    assert main([]) == 2
    with pytest.raises(SystemExit) as ended:
        main(["frobnicate"])
    assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        main(["agent"])
    assert ended.value.code == 2


def test_an_absent_agent_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--node", "no-such-node"]) == 1
    assert capsys.readouterr().err == (
        "nodemesh: the agent of node no-such-node does not run here\n"
    )
    assert main(["status", "--node", "../../etc"]) == 1


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, contextlib, io\n"
        "from cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(['status', '--help'])\n"
        "heavy = {'aiohttp', 'grpc', 'cryptography', 'pyroute2', 'asyncio', 'yaml', 'lab'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_agent_arguments_become_settings(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    config = parse_config(
        parser.parse_args(["--node", "n1", "--access-log-sample", "0.1", str(tmp_path / "m.yaml")])
    )
    assert config.paths.state_dir == Path("/run/nodemesh/n1")
    assert config.access_log.sample == 0.1
    assert config.listen.metrics_port == 15020


MESH = """\
apiVersion: nodemesh.io/v1alpha1
kind: Mesh
trustDomain: cluster.local
nodes: [{name: n1, addresses: ["172.31.0.1"]}]
namespaces: [{name: a, labels: {istio.io/dataplane-mode: ambient}}]
workloads: [{name: w, namespace: a, node: n1, addresses: [10.0.0.5], netns: /run/netns/w}]
policies:
"""


def test_config_check_says_what_layer_4_cannot_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mesh.yaml"
    file.write_text(
        MESH + "  - {apiVersion: security.istio.io/v1, kind: AuthorizationPolicy,"
        " metadata: {name: p, namespace: a}, spec: {rules: [{to: [{operation: {methods: [GET]}}]}]}}\n"
    )
    assert main(["config", "check", str(file)]) == 0
    said = capsys.readouterr().out
    assert f"AuthorizationPolicy a/p ({file}:8) rules[0] asks for methods" in said
    assert "1 policies" in said


@pytest.mark.parametrize(
    ("kind", "namespace", "spec", "told"),
    [
        ("NetworkPolicy", "b", "{podSelector: {}}", "b/v and 1 more, which are"),
        ("NetworkPolicy", "b", "{podSelector: {matchLabels: {x: y}}}", "b/v, which is"),
        ("AuthorizationPolicy", "b", "{selector: {matchLabels: {x: y}}}", "b/v, which is"),
        ("PeerAuthentication", "b", "{mtls: {mode: STRICT}}", "b/v and 1 more, which are"),
        ("PeerAuthentication", "istio-system", "{mtls: {mode: STRICT}}", ""),
        ("AuthorizationPolicy", "istio-system", "{}", ""),
        ("NetworkPolicy", "a", "{podSelector: {}}", ""),
    ],
)
def test_config_check_names_policies_for_pods_outside_the_mesh(
    kind: str,
    namespace: str,
    spec: str,
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "mesh.yaml"
    group = "networking.k8s.io/v1" if kind == "NetworkPolicy" else "security.istio.io/v1"
    outside = (
        "  - {name: v, namespace: b, node: n1, addresses: [10.0.0.6], labels: {x: y}}\n"
        "  - {name: z, namespace: b, node: n1, addresses: [10.0.0.7]}\n"
        "  - {name: h, namespace: b, node: n1, addresses: [172.31.0.1], hostNetwork: true}\n"
    )
    workloads = "workloads:\n  - {name: w, namespace: a, node: n1, addresses: [10.0.0.5], netns: /run/netns/w}\n"
    head = MESH.partition("workloads:")[0]
    file.write_text(
        f"{head}{workloads}{outside}policies:\n  - {{apiVersion: {group}, kind: {kind},"
        f" metadata: {{name: p, namespace: {namespace}}}, spec: {spec}}}\n"
    )
    assert main(["config", "check", str(file)]) == 0
    said = capsys.readouterr().out
    assert ("warning" in said) == bool(told)
    if told:
        assert f"{kind} b/p ({file}:12) selects {told} not in the mesh" in said


def test_config_check_refuses_policies_that_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peers = ", ".join(f"{{ipBlock: {{cidr: 10.1.{i >> 8}.{i & 255}/32}}}}" for i in range(513))
    file = tmp_path / "mesh.yaml"
    file.write_text(
        MESH + "  - {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy,"
        f" metadata: {{name: p, namespace: a}}, spec: {{podSelector: {{}}, ingress: [{{from: [{peers}]}}]}}}}\n"
    )
    assert main(["config", "check", str(file)]) == 1
    said = capsys.readouterr().out
    assert "a/w is selected by policies with 513 rules" in said
    assert "good" not in said


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert format_table(["A", "LONG"], [["xyz", ""], ["", "q"]]) == "A    LONG\nxyz  -\n-    q"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (1_234_000, "1.2M"), (200_000_000, "200M")],
)
def test_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_times() -> None:
    assert format_microseconds(0) == ""
    assert format_microseconds(340) == "340us"
    assert format_microseconds(1_840) == "1.8ms"
    assert format_microseconds(12_000_000) == "12s"
    assert format_age(12_000) == "3h20m"
    assert format_age(-90) == "-90s"
    assert format_age(442_800) == "5d3h"


def test_a_connection_shows_path_ends_and_proof() -> None:
    base = {
        "path": "kernel",
        "direction": "outbound",
        "source": "10.0.0.1:4000",
        "source_workload": "shop/curl",
        "destination": "10.0.0.2:80",
        "destination_workload": "",
        "source_identity": "spiffe://cluster.local/ns/shop/sa/curl",
        "attested": True,
        "bytes_sent": 1500,
        "open": True,
    }
    text = _table("connections", [base, {**base, "attested": False, "open": False, "reason": "x"}])
    header, proven, claimed = text.splitlines()
    assert header.split()[:3] == ["PATH", "SEEN", "FROM"]
    assert "shop/curl (10.0.0.1:4000)" in proven
    assert "cluster.local/ns/shop/sa/curl  " in proven
    assert "1.5k" in proven
    assert proven.endswith("open")
    assert "(claimed)" in claimed
    assert claimed.endswith("x")
    assert _table("tunnels", []) == "No tunnels."


def test_json_output_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_data([{"a": 1}], "json")
    assert json.loads(capsys.readouterr().out) == [{"a": 1}]
    print_data([{"b": 1, "a": "x: y"}], "yaml")
    assert capsys.readouterr().out == "- b: 1\n  a: 'x: y'\n"
