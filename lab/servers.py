# SPDX-License-Identifier: Apache-2.0
"""Stock servers in the pods: nginx for the web, socat as the TCP and UDP echo.

Every answer says which address the server saw, so that nobody has to be believed.
"""

import stat
from pathlib import Path

from lab.cluster import Cluster
from lab.process import Process, wait_until

__all__ = ["ECHO_PORT", "HTTP_PORT", "PAYLOAD", "start_echo", "start_servers", "start_web"]

HTTP_PORT = 8080
ECHO_PORT = 7007
PAYLOAD = "hello world " * 5 + "hello"
"""The small body that requests per second are counted with; 65 bytes."""

_NGINX = """\
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {home}/pid;
error_log {home}/error.log;
user root;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    default_type text/plain;
    server {{
        listen {port} backlog=4096;
        listen [::]:{port} backlog=4096;
        location = / {{ return 200 "{payload}"; }}
        location = /whoami {{ return 200 '{whoami}\n'; }}
    }}
}}
"""

_WHOAMI = (
    '{{"client": "$remote_addr", "port": $remote_port, "server": "$server_addr", '
    '"pod": "{pod}", "marker": "$http_x_marker"}}'
)

_ECHO = """\
#!/bin/sh
read -r line
echo "$SOCAT_PEERADDR $SOCAT_PEERPORT $line"
"""


def start_servers(cluster: Cluster) -> list[Process]:
    """Start a web server in every web and unenrolled pod, the echo in the echo pod.

    Returns when all listen. Every answer also carries the marker that the request carried.
    """
    started = [
        start_web(cluster, pod.key)
        for pod in cluster.spec.pods
        if pod.labels.get("app") in ("web", "old")
    ]
    for pod in cluster.spec.pods:
        if pod.labels.get("app") == "echo":
            started += start_echo(cluster, pod.key)
    return started


def _home(cluster: Cluster, pod: str) -> Path:
    home = cluster.dir / "servers" / pod.replace("/", "-")
    home.mkdir(parents=True, exist_ok=True)
    return home


def start_web(cluster: Cluster, pod: str) -> Process:
    """Start nginx in a pod, on port 8080 of every address."""
    home = _home(cluster, pod)
    config = home / "nginx.conf"
    config.write_text(
        _NGINX.format(
            home=home,
            port=HTTP_PORT,
            payload=PAYLOAD,
            whoami=_WHOAMI.format(pod=pod),
        )
    )
    place = cluster.pod(pod)
    server = place.start(
        ["nginx", "-e", str(home / "error.log"), "-c", str(config)], log=home / "out.log"
    )
    wait_until(
        lambda: cluster.listens(place, HTTP_PORT),
        seconds=10,
        what=f"nginx in {pod} to listen",
        alive=[server],
    )
    return server


def start_echo(cluster: Cluster, pod: str) -> list[Process]:
    """Start the echo in a pod: TCP and UDP, v4 and v6, one line there and one back."""
    home = _home(cluster, pod)
    script = home / "echo.sh"
    script.write_text(_ECHO)
    script.chmod(stat.S_IRWXU)
    place = cluster.pod(pod)
    listeners = [
        f"TCP4-LISTEN:{ECHO_PORT},fork,reuseaddr,backlog=128",
        f"TCP6-LISTEN:{ECHO_PORT},fork,reuseaddr,backlog=128,ipv6only=1",
        f"UDP4-RECVFROM:{ECHO_PORT},fork,reuseaddr",
        f"UDP6-RECVFROM:{ECHO_PORT},fork,reuseaddr,ipv6only=1",
    ]
    servers = [
        place.start(["socat", listener, f"EXEC:{script}"], log=home / f"out-{number}.log")
        for number, listener in enumerate(listeners)
    ]

    def listening() -> bool:
        sockets = place.run(["ss", "-Hlntu"]).stdout
        return sockets.count(f":{ECHO_PORT} ") >= len(listeners)

    wait_until(listening, seconds=10, what=f"the echo in {pod} to listen", alive=servers)
    return servers
