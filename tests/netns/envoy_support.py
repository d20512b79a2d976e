# SPDX-License-Identifier: Apache-2.0
"""Envoy as a peer of the agent: what each of its roles is configured with, and what it reports."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from netns_support import Lab

from bench.envoy import envoy_binary, http2_options, socket_address, static_cluster
from lab.process import Process, wait_until
from wire.x509 import Issuer, PrivateKey, leaf_profile, make_root, parse_certificates

HBONE_PORT = 15008
ADMIN_PORT = 15000
_API = "type.googleapis.com/envoy.extensions"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
Config = dict[str, Any]


@dataclass(frozen=True)
class Tunnel:
    """One of Envoy's listeners: what is sent to ``port`` on loopback goes to ``authority``."""

    port: int
    authority: str
    """Of the CONNECT; empty: no CONNECT, the bytes go into the TLS connection as they are."""
    svid: str
    """The directory of the certificate that Envoy shows."""
    peer: str
    """The SPIFFE ID that Envoy wants to see."""


class Envoy:
    """A running Envoy in a pod, its log of connections and its statistics."""

    def __init__(self, lab: Lab, pod: str, process: Process, log: str) -> None:
        self.lab = lab
        self.pod = pod
        self.process = process
        self._log = log

    @classmethod
    def start(cls, lab: Lab, pod: str, name: str, config: Config) -> "Envoy":
        """Start it, on one worker thread; return when its admin interface says that it is live."""
        path = lab.cluster.dir / f"{name}.json"
        path.write_text(json.dumps(config, indent=1))
        log = lab.cluster.log(name)
        log.unlink(missing_ok=True)
        command = [
            str(envoy_binary()),
            *("-c", str(path), "--concurrency", "1", "--log-level", "warning"),
            *("--disable-hot-restart", "--use-dynamic-base-id"),
            # Minutes, so that no test sees the end of it; a GOAWAY with the next answer.
            *("--drain-time-s", "600", "--drain-strategy", "immediate"),
        ]
        envoy = cls(lab, pod, lab.cluster.pod(pod).start(command, log=log), name)
        try:
            wait_until(envoy._live, seconds=30, what=f"Envoy in {pod}", alive=[envoy.process])
        except BaseException:
            envoy.process.kill()
            raise
        return envoy

    def _live(self) -> bool:
        return self.admin("GET", "/ready").strip() == "LIVE"

    def admin(self, method: str, path: str) -> str:
        """Ask its admin interface."""
        command = ["curl", "-s", "-m", "5", "-X", method, f"http://127.0.0.1:{ADMIN_PORT}{path}"]
        return self.lab.cluster.pod(self.pod).run(command, check=False).stdout

    def stat(self, name: str) -> int:
        """One of its counters or gauges; LookupError where it has none of that name."""
        found = json.loads(self.admin("GET", f"/stats?format=json&filter=^{name}$"))["stats"]
        values = [entry["value"] for entry in found if entry.get("name") == name]
        if not values:
            raise LookupError(name)
        return int(values[0])

    def connections(self) -> list[dict[str, Any]]:
        """Its access log: one entry for each connection or request that ended."""
        return self.lab.lines(self._log)

    def logged(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The newest such entry of its access log; AssertionError if none comes."""
        deadline = time.monotonic() + 5
        while True:
            self.admin("POST", "/reopen_logs")
            if found := [entry for entry in self.connections() if wanted(entry)]:
                return found[-1]
            assert time.monotonic() < deadline, self.connections()[-3:]
            time.sleep(0.1)


# ── certificates that the lab's authority would not issue ──


def foreign_authority(lab: Lab, identity: str) -> str:
    """A certificate for that identity from an authority of its own, which nobody trusts."""
    key = PrivateKey.generate()
    root = make_root(key, organisation="elsewhere", now=_begin(), lifetime=timedelta(days=2))
    return _issue(lab, "unsigned", Issuer(root, key), identity)


def foreign_trust_domain(lab: Lab, identity: str) -> str:
    """A certificate for an identity of another trust domain, signed with the lab's own key."""
    folder = lab.cluster.dir / "ca"
    (root,) = parse_certificates((folder / "ca-cert.pem").read_bytes())
    key = PrivateKey.from_pem((folder / "ca-key.pem").read_bytes())
    return _issue(lab, "abroad", Issuer(root, key), identity)


def _begin() -> datetime:
    return datetime.now(UTC) - timedelta(minutes=1)


def _issue(lab: Lab, name: str, issuer: Issuer, identity: str) -> str:
    folder = lab.cluster.dir / "certificates" / name
    folder.mkdir(parents=True, exist_ok=True)
    own, begin = PrivateKey.generate(), _begin()
    end = begin + timedelta(hours=2)
    leaf = issuer.sign_key(own, leaf_profile(identity), now=begin, not_after=end)
    (folder / "chain.pem").write_text(leaf.pem)
    (folder / "key.pem").write_bytes(own.to_pem())
    # Only the agent shall object: Envoy trusts it.
    roots = Path(lab.cluster.dir / "ca" / "root-cert.pem")
    (folder / "roots.pem").write_bytes(roots.read_bytes())
    return str(folder)


def tls(svid: str, peers: list[str]) -> Config:
    """TLS 1.3 with that certificate, for peers of these SPIFFE IDs only."""
    names = [{"san_type": "URI", "matcher": {"exact": peer}} for peer in peers]
    own = {
        "certificate_chain": {"filename": f"{svid}/chain.pem"},
        "private_key": {"filename": f"{svid}/key.pem"},
    }
    return {
        "alpn_protocols": ["h2"],
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificates": [own],
        "validation_context": {
            "trusted_ca": {"filename": f"{svid}/roots.pem"},
            "match_typed_subject_alt_names": names,
        },
    }


def _access_log(fields: Config) -> list[Config]:
    """One JSON line on standard output for each; flushed within a second."""
    typed = {
        "@type": f"{_API}.access_loggers.stream.v3.StdoutAccessLog",
        "log_format": {"json_format": fields},
    }
    return [{"name": "stdout", "typed_config": typed}]


def _bootstrap(listeners: list[Config], clusters: list[Config]) -> Config:
    return {
        "admin": {"address": socket_address("127.0.0.1", ADMIN_PORT)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


# ── Envoy as the client ──


def client_config(tunnels: list[Tunnel], address: str) -> Config:
    """The bootstrap of an HBONE client of the agent at ``address``."""
    return _bootstrap(
        [_outbound(tunnel) for tunnel in tunnels],
        [_to_agent(tunnel, address) for tunnel in tunnels],
    )


def _outbound(tunnel: Tunnel) -> Config:
    proxy: Config = {
        "@type": f"{_API}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": f"out-{tunnel.port}",
        "cluster": f"to-{tunnel.port}",
        "access_log": _access_log(
            {
                "port": str(tunnel.port),
                "peer": "%UPSTREAM_PEER_URI_SAN%",
                "version": "%UPSTREAM_TLS_VERSION%",
                "flags": "%RESPONSE_FLAGS%",
                "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
                "answer": "%FILTER_STATE(envoy.tcp_proxy.propagate_response_headers:TYPED)%",
            }
        ),
    }
    if tunnel.authority:
        proxy["tunneling_config"] = {
            "hostname": tunnel.authority,
            "propagate_response_headers": True,
        }
    return {
        "name": f"out-{tunnel.port}",
        "address": socket_address("127.0.0.1", tunnel.port),
        "filter_chains": [{"filters": [{"name": "tcp", "typed_config": proxy}]}],
    }


def _to_agent(tunnel: Tunnel, address: str) -> Config:
    context = {
        "@type": f"{_API}.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": tls(tunnel.svid, [tunnel.peer]),
    }
    options = {
        "@type": f"{_API}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": http2_options()},
    }
    return static_cluster(
        f"to-{tunnel.port}",
        address,
        HBONE_PORT,
        typed_extension_protocol_options={_HTTP_OPTIONS: options},
        transport_socket={"name": "tls", "typed_config": context},
    )


# ── Envoy as the server ──


def server_config(
    svid: str, address: str, ports: tuple[int, ...], client: str, max_streams: int = 100
) -> Config:
    """The bootstrap of a pod's terminator: CONNECT to these ports of it, from that client only."""
    connect = [{"upgrade_type": "CONNECT", "connect_config": {}}]
    hosts = [
        {
            "name": f"to-{port}",
            "domains": [f"{address}:{port}"],
            "routes": [
                {
                    "match": {"connect_matcher": {}},
                    "route": {"cluster": f"to-{port}", "timeout": "0s", "upgrade_configs": connect},
                }
            ],
        }
        for port in ports
    ]
    router = {"@type": f"{_API}.filters.http.router.v3.Router"}
    manager = {
        "@type": f"{_API}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "http2_protocol_options": {**http2_options(), "max_concurrent_streams": max_streams},
        "drain_timeout": "0.5s",
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "route_config": {"virtual_hosts": hosts},
        "http_filters": [{"name": "router", "typed_config": router}],
        "access_log": _access_log(
            {
                "identity": "%DOWNSTREAM_PEER_URI_SAN%",
                "authority": "%REQ(:AUTHORITY)%",
                "method": "%REQ(:METHOD)%",
                "baggage": "%REQ(BAGGAGE)%",
                "forwarded": "%REQ(FORWARDED)%",
                "status": "%RESPONSE_CODE%",
                "version": "%DOWNSTREAM_TLS_VERSION%",
                "tunnel": "%CONNECTION_ID%",
            }
        ),
    }
    context = {
        "@type": f"{_API}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": tls(svid, [client]),
    }
    listener = {
        "name": "in",
        "address": socket_address(address, HBONE_PORT),
        "filter_chains": [
            {
                "transport_socket": {"name": "tls", "typed_config": context},
                "filters": [{"name": "manager", "typed_config": manager}],
            }
        ],
    }
    return _bootstrap([listener], [static_cluster(f"to-{port}", address, port) for port in ports])
