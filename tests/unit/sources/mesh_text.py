# SPDX-License-Identifier: Apache-2.0
"""Mesh files for tests: a small good one, and ways to spoil it."""

from pathlib import Path

from agent.sources.convert import parse_mesh
from agent.sources.problems import MeshFileError
from agent.sources.settings import MeshFile

BASE = Path("/etc/nodemesh")

HEAD = """\
apiVersion: nodemesh.io/v1alpha1
kind: Mesh
trustDomain: cluster.local
"""

GOOD = (
    HEAD
    + """\
nodes:
  - {name: node1, addresses: ["172.31.0.1"]}
namespaces:
  - {name: shop, labels: {istio.io/dataplane-mode: ambient}}
workloads:
  - name: web
    namespace: shop
    serviceAccount: web
    node: node1
    addresses: ["10.0.0.1", "fd00::1"]
    labels: {app: web}
    netns: /var/run/netns/web
services:
  - name: web
    namespace: shop
    vips: ["10.96.0.1"]
    ports: [{port: 80, targetPort: 8080}]
    selector: {app: web}
"""
)


def parse(text: str | bytes) -> MeshFile:
    raw = text if isinstance(text, bytes) else text.encode()
    return parse_mesh(raw, "mesh.yaml", base=BASE)


def problems(text: str | bytes) -> list[str]:
    """The lines of the error that the text causes; empty where it is good."""
    try:
        parse(text)
    except MeshFileError as error:
        return str(error).splitlines()
    return []


def spoil(old: str, new: str) -> str:
    """The good file with one place changed."""
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)
