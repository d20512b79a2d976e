# SPDX-License-Identifier: Apache-2.0
"""Send one request with a stock client and say what each end saw."""

import ipaddress
import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.cluster import Cluster
from lab.errors import LabError
from lab.servers import ECHO_PORT, HTTP_PORT
from lab.spec import LabSpec

__all__ = ["Answer", "Flow", "Result", "ask", "default_flows", "drive", "look_up"]

_UDP = Path(__file__).resolve().parent / "udp_ask.py"

_CURL_FACTS = (
    '{"dialled_ip": "%{remote_ip}", "dialled_port": %{remote_port}, "local_ip": "%{local_ip}", '
    '"local_port": %{local_port}, "total": %{time_total}}'
)


@dataclass(frozen=True, slots=True)
class Flow:
    """Something a client dials, and what should come of it."""

    source: str
    """The client's pod."""
    destination: str
    """What is dialled, in words for the table."""
    address: str
    port: int
    path: str
    """kernel, tunnel or passthrough; empty where either of the first two may be chosen."""
    servers: tuple[str, ...]
    """The pods that may answer."""
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request showed."""

    server: str
    """The pod that answered."""
    seen_ip: str
    """The client's address as the server saw it (its getpeername)."""
    seen_port: int
    peer_ip: str
    """The server's address as the client saw it (its getpeername, or an answer's source)."""
    peer_port: int
    local_ip: str
    local_port: int
    milliseconds: float


@dataclass(slots=True)
class Result:
    """A flow, driven: what was seen, and what of it is wrong."""

    flow: Flow
    answer: Answer | None = None
    path: str = ""
    client_identity: str = ""
    """As the server's end proved it."""
    server_identity: str = ""
    """As the client's end proved it."""
    milliseconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def default_flows(spec: LabSpec) -> list[Flow]:
    """Return the matrix of the demo."""
    client, web1, web2, old1, old2 = (
        "shop/client", "shop/web-1", "shop/web-2", "legacy/old-1", "legacy/old-2",
    )  # fmt: skip
    web, echo = spec.service("web"), spec.service("echo")
    pods = (web1, web2)
    four, six = spec.address4, spec.address6
    return [
        Flow(client, "web-1, same node", four(web1), HTTP_PORT, "kernel", (web1,)),
        Flow(client, "web-1, same node, IPv6", six(web1), HTTP_PORT, "kernel", (web1,)),
        Flow(client, "web-2, other node", four(web2), HTTP_PORT, "tunnel", (web2,)),
        Flow(client, "web-2, other node, IPv6", six(web2), HTTP_PORT, "tunnel", (web2,)),
        Flow(client, "service web", web.vip4, 80, "", pods),
        Flow(client, "service web, IPv6", web.vip6, 80, "", pods),
        Flow(web1, "itself", four(web1), HTTP_PORT, "kernel", (web1,)),
        Flow(client, "service echo", echo.vip4, 7, "tunnel", ("shop/echo",)),
        Flow(client, "service echo, UDP", echo.vip4, 7, "passthrough", ("shop/echo",), "UDP"),
        Flow(client, "service echo, UDP, IPv6", echo.vip6, 7, "passthrough", ("shop/echo",), "UDP"),
        Flow(client, "old-2, not in the mesh", four(old2), HTTP_PORT, "passthrough", (old2,)),
        Flow(old1, "web-2, from outside the mesh", four(web2), HTTP_PORT, "passthrough", (web2,)),
        Flow(old1, "old-2, both outside", four(old2), HTTP_PORT, "passthrough", (old2,)),
    ]


def ask(cluster: Cluster, flow: Flow, marker: str) -> Answer:
    """Send one request with ``marker`` in it on a new connection; LabError if none is answered."""
    if flow.protocol == "UDP":
        return _ask_udp(cluster, flow, marker)
    if flow.port in (7, ECHO_PORT):
        return _ask_echo(cluster, flow, marker)
    return _ask_web(cluster, flow, marker)


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _ask_web(cluster: Cluster, flow: Flow, marker: str) -> Answer:
    url = f"http://{_host(flow.address)}:{flow.port}/whoami"
    command = ["curl", "-sSg", "-m", "10", "--noproxy", "*", "-w", _CURL_FACTS]
    command += ["-H", f"X-Marker: {marker}", "-d", marker, url]
    text = cluster.pod(flow.source).run(command).stdout
    body, _, facts = text.partition("\n")
    try:
        seen, own = json.loads(body), json.loads(facts)
    except ValueError as error:
        raise LabError(f"no answer of this lab's web server: {text[:200]!r}") from error
    if seen["marker"] != marker:
        raise LabError(f"the answer does not carry the marker: {body}")
    return Answer(
        server=seen["pod"],
        seen_ip=seen["client"],
        seen_port=seen["port"],
        peer_ip=own["dialled_ip"],
        peer_port=own["dialled_port"],
        local_ip=own["local_ip"],
        local_port=own["local_port"],
        milliseconds=own["total"] * 1000,
    )


def _ask_echo(cluster: Cluster, flow: Flow, marker: str) -> Answer:
    """Ask by curl's gopher: it sends one line and reads until the end, whatever comes."""
    url = f"gopher://{_host(flow.address)}:{flow.port}/_{marker}"
    command = ["curl", "-sSg", "-m", "10", "--noproxy", "*", "-w", _CURL_FACTS, url]
    body, _, facts = cluster.pod(flow.source).run(command).stdout.partition("\n")
    own = json.loads(facts)
    seen_ip, seen_port = _seen(body, marker)
    return Answer(
        server=flow.servers[0],
        seen_ip=seen_ip,
        seen_port=seen_port,
        peer_ip=own["dialled_ip"],
        peer_port=own["dialled_port"],
        local_ip=own["local_ip"],
        local_port=own["local_port"],
        milliseconds=own["total"] * 1000,
    )


def _ask_udp(cluster: Cluster, flow: Flow, marker: str) -> Answer:
    command = [sys.executable, "-I", str(_UDP), flow.address, str(flow.port), marker]
    own = json.loads(cluster.pod(flow.source).run(command).stdout)
    seen_ip, seen_port = _seen(own["answer"], marker)
    return Answer(
        server=flow.servers[0],
        seen_ip=seen_ip,
        seen_port=seen_port,
        peer_ip=own["peer_ip"],
        peer_port=own["peer_port"],
        local_ip="",
        local_port=own["local_port"],
        milliseconds=own["total"] * 1000,
    )


def _seen(line: str, marker: str) -> tuple[str, int]:
    """Read the echo's line: the client's address and port, and what was sent."""
    words = line.split()
    if len(words) != 3 or words[2] != marker:
        raise LabError(f"the echo answered {line[:200]!r}")
    return str(ipaddress.ip_address(words[0].strip("[]"))), int(words[1])


def drive(cluster: Cluster, flow: Flow, marker: str, *, repeat: int = 5) -> Result:
    """Drive a flow ``repeat`` times, each on a new connection; judge the last answer.

    Latency is the median, of a whole request with its connection.
    """
    result = Result(flow)
    try:
        answers = [ask(cluster, flow, marker) for _ in range(repeat)]
    except LabError as error:
        result.problems.append(f"no answer: {error}")
        return result
    result.answer = answers[-1]
    result.milliseconds = statistics.median(answer.milliseconds for answer in answers)
    _judge_addresses(cluster.spec, result, answers[-1])
    return result


def _judge_addresses(spec: LabSpec, result: Result, answer: Answer) -> None:
    """Hold what each end saw against the truth."""
    flow = result.flow
    own = spec.address6(flow.source) if ":" in flow.address else spec.address4(flow.source)
    if answer.server not in flow.servers:
        result.problems.append(f"{answer.server} answered")
    if answer.seen_ip != own:
        result.problems.append(f"the server saw {answer.seen_ip}, the client is {own}")
    if (answer.peer_ip, answer.peer_port) != (flow.address, flow.port):
        result.problems.append(
            f"the client dialled {flow.address}:{flow.port} "
            f"and sees {answer.peer_ip}:{answer.peer_port}"
        )
    if answer.local_ip not in ("", own):
        result.problems.append(f"the client's own address reads {answer.local_ip}")


def look_up(cluster: Cluster, result: Result, *, seconds: float = 5.0) -> None:
    """Ask the agents of both ends how the last connection of ``result`` went.

    An agent tells of a closed connection a moment later, so this waits ``seconds`` at most.
    """
    answer = result.answer
    if answer is None:
        return
    spec, flow = cluster.spec, result.flow
    mine = spec.address6(flow.source) if ":" in flow.address else spec.address4(flow.source)
    source = f"{_host(mine)}:{answer.local_port}"
    # A port of the client may serve connections to several servers.
    servers = {flow.address, spec.address4(answer.server), spec.address6(answer.server)}
    ends = {"outbound": spec.pod(flow.source).node, "inbound": spec.pod(answer.server).node}
    deadline = time.monotonic() + seconds
    while True:
        records = {
            side: _record(cluster, node, side, source, servers) for side, node in ends.items()
        }
        if _settled(spec, flow, records) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    _judge_records(cluster, result, answer, records)


Record = dict[str, Any]


def _record(
    cluster: Cluster, node: str, side: str, source: str, servers: set[str]
) -> Record | None:
    records = cluster.admin(node, "/connections?recent=1&limit=500")
    for record in records:
        if (record["source"], record["direction"]) != (source, side):
            continue
        if record["destination"].rpartition(":")[0].strip("[]") in servers:
            return dict(record)
    return None


def _settled(spec: LabSpec, flow: Flow, records: dict[str, Record | None]) -> bool:
    """Say whether every end in the mesh has told of the connection."""
    ambient = {namespace.name for namespace in spec.namespaces if namespace.ambient}
    if flow.protocol == "UDP" or spec.pod(flow.source).namespace not in ambient:
        return True
    told = [records["outbound"]]
    if flow.path != "passthrough":
        told.append(records["inbound"])
    return None not in told


def _judge_records(
    cluster: Cluster, result: Result, answer: Answer, records: dict[str, Record | None]
) -> None:
    found = [record for record in records.values() if record is not None]
    paths = {str(record["path"]) for record in found}
    result.path = "/".join(sorted(paths)) or "passthrough"
    spec, flow = cluster.spec, result.flow
    want = flow.path or (
        "kernel" if spec.pod(flow.source).node == spec.pod(answer.server).node else "tunnel"
    )
    if result.path != want:
        result.problems.append(f"the path was {result.path}, not {want}")
    if inbound := records["inbound"]:
        result.client_identity = str(inbound["source_identity"])
        if not inbound["attested"]:
            result.problems.append("the client's identity was not proven")
    if (outbound := records["outbound"]) and outbound["path"] != "passthrough":
        result.server_identity = str(outbound["destination_identity"])
    if want != "passthrough" and result.client_identity != spec.identity(flow.source):
        result.problems.append(f"the server's end saw {result.client_identity or 'no identity'}")
    if want == "tunnel" and result.server_identity != spec.identity(answer.server):
        result.problems.append(f"the client's end saw {result.server_identity or 'no identity'}")
