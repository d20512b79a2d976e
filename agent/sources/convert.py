# SPDX-License-Identifier: Apache-2.0
"""From the text of a mesh file to the model, or to every problem in it at once.

::

    text ─ yaml_text ─▶ Document ─ schema ─▶ (this module) ─ references ─▶ MeshFile
                                      └───────────┴──────────────┴───────▶ MeshFileError

An entry that is broken is left out of the later checks, but its name still counts, so that one
mistake is reported once.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from agent.sources.places import PolicyPlace
from agent.sources.policies import claim, read_policy
from agent.sources.policy_fields import Fields
from agent.sources.policy_files import parse_policies
from agent.sources.problems import FieldPath, MeshFileError, Problem
from agent.sources.references import check_references
from agent.sources.schema import check_schema
from agent.sources.settings import (
    AgentSettings,
    CaCertificates,
    CertificateSettings,
    FileCertificates,
    MeshFile,
    TunnelSettings,
)
from agent.sources.yaml_text import Document, parse_yaml
from mesh.compile.node import DEFAULT_ROOT_NAMESPACE, SameNode
from mesh.model.address import IpAddress, parse_unicast_address
from mesh.model.errors import ModelError
from mesh.model.identity import Identity
from mesh.model.labels import Labels
from mesh.model.namespace import Namespace
from mesh.model.node import Node
from mesh.model.policies import Policy
from mesh.model.policy import Origin, PolicyName
from mesh.model.service import Endpoint, Protocol, Service, ServicePort, service_hostname
from mesh.model.workload import DEFAULT_CLUSTER, Workload, WorkloadPort, pod_uid

__all__ = ["parse_mesh"]

T = TypeVar("T")
Raw = dict[str, Any]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_mesh(text: bytes, file: str, *, base: Path) -> MeshFile:
    """Read a mesh file. ``base`` is where its relative paths start. Raises MeshFileError."""
    document = parse_yaml(text, file)
    by_path = check_schema(document)
    problems = [problem for _, problem in by_path]
    if not isinstance(document.value, dict):
        raise MeshFileError(file, problems)
    reader = _Converter(document, {path[:2] for path, _ in by_path}, base)
    mesh_file = reader.convert()
    problems += reader.problems
    problems += check_references(document, reader.broken, reader.addresses)
    policies, digest = _policy_files(mesh_file, file, base, problems)
    if problems:
        raise MeshFileError(file, problems, places=mesh_file.policy_places)
    return replace(mesh_file, policies=mesh_file.policies + policies, policy_digest=digest)


def _policy_files(
    mesh_file: MeshFile, file: str, base: Path, problems: list[Problem]
) -> tuple[tuple[Policy, ...], bytes]:
    """The policies of files of their own; what is wrong with them is added to ``problems``."""
    known = {policy.key: policy.origin for policy in mesh_file.policies}
    try:
        return parse_policies(file, base, mesh_file.policy_places, known)
    except MeshFileError as error:
        problems += error.problems
        return (), b""


class _Converter:
    """Makes model values out of entries of the right shape; collects those that cannot be."""

    def __init__(self, document: Document, broken: set[FieldPath], base: Path) -> None:
        self.problems: list[Problem] = []
        self.broken = broken
        self.addresses: dict[str, IpAddress] = {}
        """What the text of an address stands for, once it was seen."""

        self._document = document
        self._top: Raw = document.value
        self._base = base
        self._trust_domain = "invalid"
        self._seen_identities: dict[tuple[str, str], Identity] = {}
        self._seen_labels: dict[Labels, Labels] = {}
        self._cluster = DEFAULT_CLUSTER

    def convert(self) -> MeshFile:
        if ("trustDomain",) not in self.broken and "trustDomain" in self._top:
            self._trust_domain = self._top["trustDomain"]
        if ("cluster",) not in self.broken:
            self._cluster = self._top.get("cluster", DEFAULT_CLUSTER)
        agent = AgentSettings()
        if not any(path[:1] == ("agent",) for path in self.broken):
            agent = self._agent(self._top.get("agent", {}))
        policies = tuple(self._policies())
        return MeshFile(
            trust_domain=self._trust_domain,
            agent=agent,
            nodes=tuple(self._each("nodes", self._node)),
            namespaces=tuple(self._each("namespaces", self._namespace)),
            workloads=tuple(self._each("workloads", self._workload)),
            services=tuple(self._each("services", self._service)),
            policies=policies,
            root_namespace=self._top.get("rootNamespace", DEFAULT_ROOT_NAMESPACE),
            inline_policies=len(policies),
            policy_places=tuple(self._places()),
        )

    def _policies(self) -> Iterator[Policy]:
        """Every policy, once each; the names of those that are wrong do not count."""
        if ("policies",) in self.broken:
            return
        fields = Fields(self._document)
        seen: dict[PolicyName, Origin] = {}
        for index, raw in enumerate(self._top.get("policies", ())):
            path: FieldPath = ("policies", index)
            policy = None if path in self.broken else read_policy(fields, raw, path)
            if policy is not None and claim(fields, policy, path, seen):
                yield policy
        self.problems += fields.problems

    def _places(self) -> Iterator[PolicyPlace]:
        """Where other policies stand."""
        if ("policyFiles",) in self.broken:
            return
        for index, path in enumerate(self._top.get("policyFiles", ())):
            place: FieldPath = ("policyFiles", index)
            if place not in self.broken:
                yield PolicyPlace(path, self._document.positions[place][0])

    def _each(self, section: str, make: Callable[[Raw, FieldPath], T]) -> Iterator[T]:
        """Every entry of a section that is in order."""
        if (section,) in self.broken:
            return
        for index, raw in enumerate(self._top.get(section, ())):
            path: FieldPath = (section, index)
            if path in self.broken:
                continue
            found = len(self.problems)
            try:
                value = make(raw, path)
            except ModelError as error:
                self.problems.append(self._document.problem(path, str(error)))
            else:
                if found == len(self.problems):
                    yield value
                    continue
            self.broken.add(path)

    def _addresses(self, raw: Raw, path: FieldPath, name: str) -> tuple[IpAddress, ...]:
        found: list[IpAddress] = []
        for index, text in enumerate(raw.get(name, ())):
            address = self._address(text, (*path, name, index))
            if address is not None:
                found.append(address)
        return tuple(found)

    def _address(self, text: str, path: FieldPath) -> IpAddress | None:
        found = self.addresses.get(text)
        if found is not None:
            return found
        try:
            found = self.addresses[text] = parse_unicast_address(text)
        except ModelError as error:
            self.problems.append(self._document.problem(path, str(error)))
        return found

    def _agent(self, raw: Raw) -> AgentSettings:
        tunnel = raw.get("tunnel", {})
        return AgentSettings(
            same_node=SameNode(raw.get("sameNode", SameNode.DIRECT)),
            certificates=self._certificates(raw.get("certificates")),
            tunnel=TunnelSettings(
                workers=int(tunnel.get("workers", 0)),
                congestion_control=tunnel.get("congestionControl", ""),
                spin_microseconds=int(tunnel.get("spinMicroseconds", 0)),
            ),
        )

    def _certificates(self, raw: Raw | None) -> CertificateSettings | None:
        if raw is None:
            return None
        if raw["provider"] == "files":
            return FileCertificates(directory=self._base / raw["directory"])
        token = raw.get("tokenFile")
        return CaCertificates(
            address=raw["address"],
            trust_anchor=self._base / raw["trustAnchor"],
            token_file=None if token is None else self._base / token,
            lifetime_seconds=_duration_seconds(raw.get("lifetime", "24h")),
        )

    def _node(self, raw: Raw, path: FieldPath) -> Node:
        return Node(raw["name"], self._addresses(raw, path, "addresses"), raw.get("cgroup"))

    def _namespace(self, raw: Raw, _: FieldPath) -> Namespace:
        return Namespace(raw["name"], Labels(raw.get("labels")))

    def _workload(self, raw: Raw, path: FieldPath) -> Workload:
        name, namespace = raw["name"], raw["namespace"]
        account = raw.get("serviceAccount", "default")
        return Workload(
            uid=pod_uid(namespace, name, cluster=self._cluster),
            name=name,
            namespace=namespace,
            identity=self._identity(namespace, account),
            node=raw["node"],
            addresses=self._addresses(raw, path, "addresses"),
            labels=self._labels(raw),
            ports=tuple(
                WorkloadPort(port["name"], int(port["port"]), _protocol(port))
                for port in raw.get("ports", ())
            ),
            netns=raw.get("netns"),
            host_network=raw.get("hostNetwork", False),
            healthy=raw.get("healthy", True),
            cluster=self._cluster,
        )

    def _identity(self, namespace: str, account: str) -> Identity:
        """One object for one identity: replicas are many, and an agent keeps all of them."""
        key = (namespace, account)
        found = self._seen_identities.get(key)
        if found is None:
            found = Identity(self._trust_domain, namespace, account)
            self._seen_identities[key] = found
        return found

    def _labels(self, raw: Raw) -> Labels:
        labels = Labels(raw.get("labels"))
        return self._seen_labels.setdefault(labels, labels)

    def _service(self, raw: Raw, path: FieldPath) -> Service:
        name, namespace = raw["name"], raw["namespace"]
        selector = raw.get("selector")
        return Service(
            name=name,
            namespace=namespace,
            hostname=raw.get("hostname", service_hostname(namespace, name)),
            vips=self._addresses(raw, path, "vips"),
            ports=tuple(_service_port(port) for port in raw["ports"]),
            selector=None if selector is None else Labels(selector),
            endpoints=tuple(self._endpoints(raw, path)),
        )

    def _endpoints(self, raw: Raw, path: FieldPath) -> Iterator[Endpoint]:
        for index, endpoint in enumerate(raw.get("endpoints", ())):
            if "workload" in endpoint:
                namespace, _, name = endpoint["workload"].partition("/")
                yield Endpoint(pod_uid(namespace, name, cluster=self._cluster))
                continue
            address = self._address(endpoint["address"], (*path, "endpoints", index, "address"))
            if address is not None:
                yield Endpoint(address)


def _service_port(raw: Raw) -> ServicePort:
    port = int(raw["port"])
    target = raw.get("targetPort", port)
    return ServicePort(
        port=port,
        target_port=target if isinstance(target, str) else int(target),
        protocol=_protocol(raw),
        name=raw.get("name", ""),
    )


def _protocol(raw: Raw) -> Protocol:
    return Protocol[raw.get("protocol", "TCP")]


def _duration_seconds(text: str) -> int:
    return int(text[:-1]) * _SECONDS[text[-1]]
