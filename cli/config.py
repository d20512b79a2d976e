# SPDX-License-Identifier: Apache-2.0
"""``nodemesh config``: look at a mesh file before an agent does."""

import argparse
from pathlib import Path

from agent.sources.file import read_mesh_file
from agent.sources.schema import schema_text
from mesh.compile import Compiler, IdTable, NodeConfig
from mesh.compile.policy.warnings import outside_warnings
from mesh.model.events import (
    NamespaceAdded,
    NodeAdded,
    PolicyAdded,
    ServiceAdded,
    WorkloadAdded,
)
from mesh.state import MeshState

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verbs."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    check = verbs.add_parser(
        "check",
        help="say whether a mesh file is right, and where it is not",
        description="Read a mesh file as an agent would. Says file, line, field and reason of what "
        "is wrong (exit status 1), and what is right but will not do what it seems to.",
    )
    check.add_argument("file", type=Path, metavar="FILE")
    verbs.add_parser("schema", help="print the JSON Schema of the mesh file")


def run(args: argparse.Namespace) -> int:
    """Run a verb. MeshFileError, which main prints, if the file is wrong."""
    if args.verb == "schema":
        print(schema_text().rstrip())
        return 0
    return _check(args.file)


def _check(path: Path) -> int:
    found = read_mesh_file(path)
    state = MeshState()
    state.apply_all(NamespaceAdded(namespace) for namespace in found.namespaces)
    state.apply_all(NodeAdded(node) for node in found.nodes)
    state.apply_all(WorkloadAdded(workload) for workload in found.workloads)
    state.apply_all(ServiceAdded(service) for service in found.services)
    state.apply_all(PolicyAdded(policy) for policy in found.policies)
    warnings: dict[str, None] = {}
    problems: dict[str, None] = {}
    for node in found.nodes:
        same_node = found.agent.same_node
        config = NodeConfig(node.name, same_node, found.root_namespace)
        tables = Compiler(IdTable()).compile(state, node=config)
        if tables.policy_problem:
            problems[tables.policy_problem] = None
        warnings.update(dict.fromkeys(tables.warnings))
    warnings.update(dict.fromkeys(outside_warnings(state, found.root_namespace)))
    for warning in warnings:
        print(f"{path}: warning: {warning}")
    for problem in problems:
        print(f"{path}: the policies cannot come into force: {problem}")
    if problems:
        return 1
    print(
        f"{path}: good: {len(found.nodes)} nodes, {len(found.workloads)} workloads, "
        f"{len(found.services)} services, {len(found.policies)} policies, "
        f"trust domain {found.trust_domain}"
    )
    return 0
