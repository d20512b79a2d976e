# SPDX-License-Identifier: Apache-2.0
"""What an agent knows, saved: the mesh in the spelling of a mesh file, and who talked to whom.

``nodemesh policy state`` writes it, ``nodemesh policy check`` tries policies on it. JSON::

    {"version": 1, "node", "taken_at", "mesh": {a mesh file}, "origins": {policy: lines},
     "connections": [Seen, ...]}
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from agent.errors import ConfigError
from agent.sources.spelling import Facts, spell_mesh
from agent.telemetry.recent import Seen
from mesh.compile import NodeConfig
from mesh.model.authorization_policy import AuthorizationPolicy
from mesh.model.events import NamespaceAdded, NodeAdded, PolicyAdded, WorkloadAdded
from mesh.model.network_policy import NetworkPolicy
from mesh.model.policies import Policy
from mesh.model.policy import Origin
from mesh.state import MeshState

__all__ = ["SavedState", "read_state", "write_state"]

_VERSION: Final = 1

R = TypeVar("R", bound=Any)


@dataclass(frozen=True, slots=True)
class SavedState:
    """A state to try policies on."""

    node: str
    taken_at: float
    state: MeshState
    root_namespace: str
    connections: tuple[Seen, ...]


def write_state(
    facts: Facts,
    config: NodeConfig,
    connections: Iterable[Seen],
    *,
    trust_domain: str,
    now: float,
) -> dict[str, Any]:
    """Plain values for JSON."""
    root = config.root_namespace
    return {
        "version": _VERSION,
        "node": config.name,
        "taken_at": now,
        "mesh": spell_mesh(facts, trust_domain=trust_domain, root_namespace=root),
        "origins": {str(policy.key): _lines(policy) for policy in facts.policies},
        "connections": [seen.as_json() for seen in connections],
    }


def read_state(value: Any, name: str) -> SavedState:
    """The state again. ``name`` says where it is from. Raises ConfigError."""
    from agent.sources.convert import parse_mesh  # noqa: PLC0415 - nothing that an agent needs

    if not isinstance(value, dict) or value.get("version") != _VERSION:
        raise ConfigError(f"{name} is no state that `nodemesh policy state` has written")
    try:
        text = json.dumps(value["mesh"], ensure_ascii=False).encode()
        found = parse_mesh(text, name, base=Path("/"))
        origins = value["origins"]
        policies = [_with_lines(one, origins[str(one.key)]) for one in found.policies]
        connections = tuple(Seen(**seen) for seen in value["connections"])
        node, taken_at = str(value["node"]), float(value["taken_at"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"{name} is damaged: {type(error).__name__} {error}") from error
    state = MeshState()
    state.apply_all(NodeAdded(one) for one in found.nodes)
    state.apply_all(NamespaceAdded(one) for one in found.namespaces)
    state.apply_all(WorkloadAdded(one) for one in found.workloads)
    state.apply_all(PolicyAdded(one) for one in policies)
    return SavedState(node, taken_at, state, found.root_namespace, connections)


def _rules(policy: Policy) -> tuple[Any, ...]:
    """Every part of it that stands in a line of its own."""
    match policy:
        case NetworkPolicy():
            return (*policy.ingress, *policy.egress)
        case AuthorizationPolicy():
            return policy.rules
        case _:
            return ()


def _lines(policy: Policy) -> dict[str, Any]:
    origin = policy.origin
    lines = [rule.origin.line for rule in _rules(policy)]
    return {"file": origin.file, "line": origin.line, "rules": lines}


def _with_lines(policy: Policy, lines: dict[str, Any]) -> Policy:
    file = str(lines["file"])
    numbers = iter([int(line) for line in lines["rules"]])

    def moved(rules: tuple[R, ...]) -> tuple[R, ...]:
        return tuple(
            replace(rule, origin=Origin(file, number))
            for rule, number in zip(rules, numbers, strict=False)
        )

    origin = Origin(file, int(lines["line"]))
    match policy:
        case NetworkPolicy():
            ingress, egress = moved(policy.ingress), moved(policy.egress)
            return replace(policy, ingress=ingress, egress=egress, origin=origin)
        case AuthorizationPolicy():
            return replace(policy, rules=moved(policy.rules), origin=origin)
        case _:
            return replace(policy, origin=origin)
