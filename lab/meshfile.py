# SPDX-License-Identifier: Apache-2.0
"""Write a lab's mesh.yaml: the one file that its agents are configured by."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.host import NETNS_DIR
from lab.spec import AMBIENT, LabSpec, PodSpec, ServiceSpec

__all__ = ["MeshOptions", "mesh_document", "write_document"]

CA_PORT = 15012

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class MeshOptions:
    """What of mesh.yaml a lab varies."""

    state: Path
    """Where the certificate authority keeps its root and the bootstrap token is."""
    same_node: str = "direct"
    lifetime: str = "24h"
    workers: int = 0
    congestion_control: str = ""


def mesh_document(spec: LabSpec, options: MeshOptions) -> Document:
    """Return mesh.yaml as plain data, in the order a reader wants."""
    return {
        "apiVersion": "nodemesh.io/v1alpha1",
        "kind": "Mesh",
        "trustDomain": "cluster.local",
        "agent": _agent(spec, options),
        "nodes": [
            {
                "name": node.name,
                "addresses": [node.link4, node.link6],
                "cgroup": spec.pods_cgroup(node.name),
            }
            for node in spec.nodes
        ],
        "namespaces": [
            {"name": n.name, "labels": dict(AMBIENT) if n.ambient else {}} for n in spec.namespaces
        ],
        "workloads": [_workload(spec, pod) for pod in spec.pods],
        "services": [_service(service) for service in spec.services],
    }


def _agent(spec: LabSpec, options: MeshOptions) -> Document:
    agent: Document = {
        "sameNode": options.same_node,
        "certificates": {
            "provider": "ca",
            "address": f"{spec.real_nodes[0].link4}:{CA_PORT}",
            "trustAnchor": str(options.state / "ca" / "root-cert.pem"),
            "tokenFile": str(options.state / "token"),
            "lifetime": options.lifetime,
        },
    }
    tunnel: Document = {}
    if options.workers:
        tunnel["workers"] = options.workers
    if options.congestion_control:
        tunnel["congestionControl"] = options.congestion_control
    if tunnel:
        agent["tunnel"] = tunnel
    return agent


def _workload(spec: LabSpec, pod: PodSpec) -> Document:
    return {
        "name": pod.name,
        "namespace": pod.namespace,
        "serviceAccount": pod.service_account,
        "node": pod.mesh_node or pod.node,
        "addresses": [spec.address4(pod.key), spec.address6(pod.key)],
        "labels": dict(pod.labels),
        "netns": str(NETNS_DIR / spec.pod_netns(pod.key)),
    }


def _service(service: ServiceSpec) -> Document:
    return {
        "name": service.name,
        "namespace": service.namespace,
        "vips": [service.vip4, service.vip6],
        "ports": [
            {"name": p.name, "port": p.port, "targetPort": p.target, "protocol": p.protocol}
            for p in service.ports
        ],
        "selector": dict(service.selector),
    }


def write_document(path: Path, document: Document) -> None:
    """Write mesh.yaml, whole or not at all: agents watch it."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(yaml.safe_dump(document, sort_keys=False, default_flow_style=False))
    part.replace(path)
