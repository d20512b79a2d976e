# SPDX-License-Identifier: Apache-2.0
"""`nodemesh demo`: the whole story, with real traffic, on this machine.

build ─▶ start ─▶ traffic (captured on the link) ─▶ table ─▶ proof ─▶ policy ─▶ figures ─▶ what next
"""

import secrets
import shutil
import sys
from pathlib import Path

from lab.capture import Evidence, LinkCapture, examine
from lab.cluster import Cluster
from lab.errors import LabError
from lab.figures import Figure, measure
from lab.host import check_machine
from lab.manifest import load_manifest
from lab.policy_scene import policy_scene
from lab.screen import Screen, format_table
from lab.servers import start_servers
from lab.spec import LabSpec, default_spec
from lab.teardown import remove_lab
from lab.traffic import Result, default_flows, drive, look_up

__all__ = ["NO_FIGURES", "QUICK", "USUAL", "demo", "figures_only"]

NO_FIGURES, QUICK, USUAL, LONG = (0, 0), (1, 1), (3, 2), (5, 4)
"""How long to measure: rounds, and seconds of each."""

PROGRAMS = ("ip", "nsenter", "ss", "nginx", "curl", "socat", "tcpdump", "iperf3", "wrk")


def demo(name: str, *, keep: bool, effort: tuple[int, int] = USUAL) -> int:
    """Run the demo; 0 if every proof holds. Removes everything it made, unless ``keep``."""
    screen = Screen()
    cluster = _build(screen, name)
    kept = False
    try:
        holds = _story(screen, cluster, effort)
        if keep:
            cluster.manifest.disown().save()
            kept = True
        _what_next(screen, cluster, kept=kept)
    finally:
        if not kept:
            _remove(screen, cluster)
    return 0 if holds else 1


def figures_only(name: str) -> int:
    """Build, start, measure for longer than the demo does, remove."""
    screen = Screen()
    cluster = _build(screen, name)
    try:
        _start(screen, cluster)
        _figures(screen, cluster, LONG)
    finally:
        _remove(screen, cluster)
    return 0


def _build(screen: Screen, name: str) -> Cluster:
    check_machine(PROGRAMS)
    screen.title("A small cluster on this machine")
    manifest = load_manifest(name)
    if manifest is not None:
        if manifest.owner_alive():
            raise LabError(f"the lab {name!r} is in use by process {manifest.owner[0]}")
        with screen.step("an earlier lab of this name removed"):
            remove_lab(name)
    spec = default_spec(name)
    with screen.step(f"{len(spec.real_nodes)} nodes, {len(spec.pods)} pods, links, cgroups"):
        cluster = Cluster.up(spec)
    for line in _picture(spec):
        screen.say(f"      {line}")
    return cluster


def _picture(spec: LabSpec) -> list[str]:
    """Say who lives where."""
    ambient = {n.name for n in spec.namespaces if n.ambient}
    rows = [
        [
            pod.node,
            pod.key,
            spec.address4(pod.key),
            spec.address6(pod.key),
            "" if pod.namespace in ambient else "not in the mesh",
        ]
        for pod in spec.pods
    ]
    for service in spec.services:
        ports = ",".join(f"{port.port}/{port.protocol}" for port in service.ports)
        name = f"{service.namespace}/{service.name}"
        rows.append(["service", name, service.vip4, service.vip6, f"ports {ports}"])
    return format_table(["NODE", "POD", "IPV4", "IPV6", ""], rows)


def _remove(screen: Screen, cluster: Cluster) -> None:
    with screen.step("everything removed: processes, namespaces, cgroups, programs, maps, files"):
        cluster.close()


def _start(screen: Screen, cluster: Cluster) -> None:
    with screen.step("servers: nginx in the web and old pods, socat as the echo"):
        start_servers(cluster)
    with screen.step("the certificate authority, on node1"):
        cluster.start_ca()
    with screen.step("one agent per node; the first one compiles the kernel half"):
        for node in cluster.spec.real_nodes:
            cluster.start_agent(node.name, wait=False)
        for node in cluster.spec.real_nodes:
            cluster.wait_ready(node.name)


def _story(screen: Screen, cluster: Cluster, effort: tuple[int, int]) -> bool:
    _start(screen, cluster)
    secret, plain = (f"{kind}-{secrets.token_hex(16)}" for kind in ("secret", "plain"))
    results = []
    with LinkCapture(cluster) as capture:
        flows = default_flows(cluster.spec)
        with screen.step(f"{len(flows)} kinds of traffic, all links captured"):
            for flow in flows:
                # What leaves the mesh is not hidden: its marker shows that the capture sees.
                marker = plain if flow.path == "passthrough" else secret
                results.append(drive(cluster, flow, marker))
                look_up(cluster, results[-1])
    screen.title("Who reached whom, and how")
    _table(screen, results)
    screen.title("The proof")
    evidence = examine(capture.path, cluster.spec, [secret, plain])
    holds = _prove_link(screen, evidence, secret=secret, plain=plain)
    holds = _prove_ends(screen, results) and holds
    holds = policy_scene(screen, cluster) and holds
    if effort != NO_FIGURES:
        _figures(screen, cluster, effort)
    return holds


def _table(screen: Screen, results: list[Result]) -> None:
    titles = ["FROM", "TO", "PATH", "CLIENT PROVEN AS", "SERVER PROVEN AS", "SERVER SAW", "LATENCY"]
    rows = [_row(result) for result in results]
    first, *rest = format_table(titles, rows)
    screen.say(f"    {screen.paint(first, '1')}")
    for line, result in zip(rest, results, strict=True):
        (screen.bad if result.problems else screen.good)(line)
        for problem in result.problems:
            screen.say(f"        {screen.paint(problem, '31')}")
    screen.say()
    screen.say("    kernel: same node, straight through, source proven by the kernel")
    screen.say("    tunnel: HTTP/2 CONNECT over mutual TLS 1.3, port 15008")
    screen.say("    passthrough: untouched; one end is outside the mesh, or it is not TCP")


def _row(result: Result) -> list[str]:
    flow, answer = result.flow, result.answer
    to = flow.destination
    if answer is not None and len(flow.servers) > 1:
        to = f"{to} ({answer.server.partition('/')[2]})"
    return [
        flow.source,
        to,
        result.path,
        result.client_identity.removeprefix("spiffe://cluster.local/") or "-",
        result.server_identity.removeprefix("spiffe://cluster.local/") or "-",
        answer.seen_ip if answer else "-",
        f"{result.milliseconds:.2f} ms" if answer else "-",
    ]


def _prove_link(screen: Screen, evidence: Evidence, *, secret: str, plain: str) -> bool:
    records = evidence.records
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(records.items()))
    claims = [
        (
            evidence.packets > 0 and not evidence.outside,
            f"link: all {evidence.packets} TCP packets between mesh pods travel on port 15008",
            f"link: packets between mesh pods outside port 15008: {dict(evidence.outside)}",
        ),
        (
            not evidence.broken and records["handshake"] > 0 and records["application data"] > 0,
            f"link: they hold nothing but TLS records ({kinds})",
            f"link: not TLS throughout: {evidence.broken or kinds or 'no record at all'}",
        ),
        (
            evidence.found[secret] == 0,
            "link: the text sent both ways between mesh pods does not occur in the capture",
            f"link: the text sent between mesh pods occurs {evidence.found[secret]} times",
        ),
        (
            evidence.found[plain] > 1,
            f"link: what was sent outside the mesh does, {evidence.found[plain]} times: it sees",
            "link: the capture does not even hold what was sent in plain text: it proves nothing",
        ),
    ]
    for holds, good, bad in claims:
        (screen.good if holds else screen.bad)(good if holds else bad)
    return all(holds for holds, _, _ in claims)


def _prove_ends(screen: Screen, results: list[Result]) -> bool:
    wrong = [result for result in results if result.problems]
    if wrong:
        screen.bad(f"ends: {len(wrong)} of {len(results)} flows are not as they should be")
        return False
    screen.good(f"ends: in all {len(results)} flows the server saw the client's own address")
    screen.good("ends: every client's getpeername() is what it dialled, VIPs and UDP too")
    return True


def _figures(screen: Screen, cluster: Cluster, effort: tuple[int, int]) -> None:
    rounds, seconds = effort
    screen.title("First figures, between the nodes")
    figures = measure(
        cluster, rounds=rounds, seconds=seconds, progress=lambda text: screen.say(f"  … {text}")
    )
    rows = [
        [
            figure.name,
            _number(figure, figure.direct),
            _number(figure, figure.tunnel),
            _ratio(figure),
        ]
        for figure in figures
    ]
    for line in format_table(["", "NO MESH", "TUNNEL", "RATIO"], rows):
        screen.say(f"    {line}")
    screen.say(f"    Medians of {rounds} x {seconds} s, both sides alternating, on this one")
    screen.say("    machine for both nodes and the load. Congestion control: reno. The mesh's side")
    screen.say("    is encrypted and has an identity proven at each end, the other has neither.")


def _number(figure: Figure, value: float) -> str:
    return f"{value:,.1f} {figure.unit}" if value < 100 else f"{value:,.0f} {figure.unit}"


def _ratio(figure: Figure) -> str:
    return f"{figure.tunnel / figure.direct:.2f}" if figure.direct else "-"


def _command() -> str:
    """Return how a reader starts the product from where they are."""
    script = Path(sys.executable).with_name("nodemesh")
    if script.exists():
        return str(script)
    return "nodemesh" if shutil.which("nodemesh") else f"{sys.executable} -m cli.main"


def _what_next(screen: Screen, cluster: Cluster, *, kept: bool) -> None:
    spec, command = cluster.spec, _command()
    screen.title("Look inside" if kept else "What to try next")
    if not kept:
        screen.say("    make demo KEEP=1     the same, left running, with commands to look inside")
        screen.say("    docs/ARCHITECTURE.md how it works, examples/ for mesh files of your own")
        return
    one, two = (node.name for node in spec.real_nodes)
    lab = "" if spec.name == "nml" else f" --name {spec.name}"
    pins = Path("/sys/fs/bpf/nodemesh") / one
    maps = sorted(path for path in pins.rglob("*") if path.is_file() and "map" in path.parent.name)
    pinned = next((path for path in maps if "workload" in path.name), maps[0] if maps else pins)
    for text in (
        f"{command} status --node {one}",
        f"{command} connections --recent --node {one}",
        f"{command} certificates --node {two}",
        f"{command} lab exec{lab} shop/client -- curl -s http://10.96.0.10/whoami",
        f"bpftool map dump pinned {pinned}",
        f"ip netns exec {spec.node_netns(one)} curl -s http://127.0.0.1:15020/metrics",
        f"$EDITOR {cluster.mesh_file}     # the agents follow",
        f"tail -f {cluster.log(f'agent-{one}')}",
        f"{command} lab down{lab}     # removes everything",
    ):
        screen.say(f"    {text}")
