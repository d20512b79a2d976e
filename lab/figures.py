# SPDX-License-Identifier: Apache-2.0
"""First figures: the same programs between the nodes, without the mesh and through the tunnel.

Both sides run alternately, round after round, in pods that differ only in being enrolled: on a
shared machine only figures of one interleaved run can be compared. Medians.
"""

import json
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from lab.cluster import Cluster
from lab.errors import LabError
from lab.process import Process, wait_until
from lab.servers import HTTP_PORT

__all__ = ["Figure", "measure"]

IPERF_PORT = 5201
CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity, without the mesh and through the tunnel."""

    name: str
    unit: str
    direct: float
    tunnel: float


def measure(
    cluster: Cluster, *, rounds: int, seconds: int, progress: Callable[[str], None]
) -> list[Figure]:
    """Measure bulk, requests and short connections; ``rounds`` of ``seconds`` each and side.

    Needs the web servers in old-2 and web-2. LabError if a program fails or a request is refused.
    """
    sides = {
        "direct": ("legacy/old-1", "legacy/old-2"),
        "tunnel": ("shop/client", "shop/web-2"),
    }
    servers = [_start_iperf(cluster, server) for _, server in sides.values()]
    try:
        figures = []
        for name, unit, work in _MEASURES:
            progress(f"measuring {name}")
            taken: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(rounds):
                for side, (client, server) in sides.items():
                    taken[side].append(work(cluster, client, server, seconds))
            direct, tunnel = (statistics.median(taken[side]) for side in ("direct", "tunnel"))
            figures.append(Figure(name, unit, direct, tunnel))
        return figures
    finally:
        for process in servers:
            process.stop()


def _start_iperf(cluster: Cluster, pod: str) -> Process:
    place = cluster.pod(pod)
    server = place.start(
        ["iperf3", "-s", "-p", str(IPERF_PORT)], log=cluster.log(f"iperf3-{pod.replace('/', '-')}")
    )
    wait_until(
        lambda: cluster.listens(place, IPERF_PORT),
        seconds=5,
        what=f"iperf3 in {pod} to listen",
        alive=[server],
    )
    return server


def _bulk(cluster: Cluster, client: str, server: str, seconds: int) -> float:
    address = cluster.spec.address4(server)
    command = ["iperf3", "-J", "-c", address, "-p", str(IPERF_PORT), "-t", str(seconds)]
    done = cluster.pod(client).run(command, timeout=seconds + 20, check=False)
    try:
        report = json.loads(done.stdout)
        return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9
    except (ValueError, KeyError) as error:
        raise LabError(f"iperf3 from {client} to {server}: {done.stdout[-300:]}") from error


def _wrk(cluster: Cluster, client: str, server: str, seconds: int, *headers: str) -> float:
    url = f"http://{cluster.spec.address4(server)}:{HTTP_PORT}/"
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s"]
    for header in headers:
        command += ["-H", header]
    said = cluster.pod(client).run([*command, url], timeout=seconds + 20).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if rate is None or "Non-2xx" in said or re.search(r"connect [1-9]", said):
        raise LabError(f"wrk from {client} to {server}: {said.strip()}")
    return float(rate[1])


def _requests(cluster: Cluster, client: str, server: str, seconds: int) -> float:
    return _wrk(cluster, client, server, seconds)


def _short(cluster: Cluster, client: str, server: str, seconds: int) -> float:
    return _wrk(cluster, client, server, seconds, "Connection: close")


_MEASURES: tuple[tuple[str, str, Callable[[Cluster, str, str, int], float]], ...] = (
    ("bulk, one stream", "Gb/s", _bulk),
    (f"requests over {CONNECTIONS} connections", "/s", _requests),
    (f"short connections, {CONNECTIONS} at a time", "/s", _short),
)
