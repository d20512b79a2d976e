# SPDX-License-Identifier: Apache-2.0
"""Policies from files, tried on what agents know: the work of ``nodemesh policy check``."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from agent.saved_state import SavedState
from agent.sources.convert import parse_mesh
from agent.sources.places import Written, find_policy_files, read_file
from agent.sources.policy_files import read_policies
from agent.sources.problems import MeshFileError, Problem
from agent.sources.settings import MeshFile
from agent.sources.yaml_text import parse_documents
from agent.telemetry.recent import Seen
from mesh.compile import IdTable, NodeConfig
from mesh.compile.policy import PolicyCompiler
from mesh.compile.policy.warnings import outside_warnings, policy_warnings
from mesh.effect import Change, Effect, Policies, Talk
from mesh.model.address import parse_address
from mesh.model.authorization_policy import AuthorizationPolicy
from mesh.model.events import NamespaceAdded, PolicyAdded, WorkloadAdded
from mesh.model.network_policy import NetworkPolicy
from mesh.model.peer_authentication import MtlsMode
from mesh.model.policies import Policy
from mesh.model.workload import Workload
from mesh.reasons import Reason
from mesh.state import MeshState

__all__ = ["Checked", "Outcome", "check_files", "outcome_of"]


@dataclass(slots=True)
class Checked:
    """What stands in files, and what is wrong with them."""

    known: list[Policy] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """A sentence each, with file, line and field."""
    files: list[Path] = field(default_factory=list)
    directories: list[Path] = field(default_factory=list)
    mesh: bool = False
    """A mesh file is among them: it stands for all policies there are."""

    @property
    def policies(self) -> list[dict[str, Any]]:
        """Each that is right, as plain values."""
        return [_describe(policy) for policy in self.known]


@dataclass(slots=True)
class Outcome:
    """What would become of what was seen."""

    tried: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)
    allowed: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Why the policies do not fit."""
    warnings: list[str] = field(default_factory=list)
    """Policies that select pods outside the mesh, where nothing enforces them."""


def check_files(paths: Sequence[Path]) -> Checked:
    """Read every file of policies, and tell every mistake of all of them."""
    checked = Checked()
    problems: list[Problem] = []
    texts: list[Written] = []
    meshes: list[MeshFile] = []
    for path in paths:
        try:
            files = list(find_policy_files([path]))
        except OSError as error:
            reason = f"cannot be read: {(error.strerror or str(error)).lower()}"
            problems.append(Problem(1, 1, "", reason, file=str(path)))
            continue
        (checked.directories if path.is_dir() else checked.files).append(path)
        if not files:
            problems.append(Problem(1, 1, "", "holds no policy file", file=str(path)))
        for file in files:
            try:
                text = Written(str(file), read_file(file))
                if not _is_mesh(text):
                    texts.append(text)
                    continue
                checked.mesh = True
                meshes.append(parse_mesh(text.content, text.name, base=file.absolute().parent))
            except MeshFileError as error:
                named = (one.file or str(file) for one in error.problems)
                problems += (
                    Problem(one.line, one.column, one.field, one.reason, file=name)
                    for one, name in zip(error.problems, named, strict=True)
                )
    checked.known = [policy for mesh in meshes for policy in mesh.policies]
    found, more = read_policies(texts, {one.key: one.origin for one in checked.known})
    checked.known += found
    problems += more
    ordered = sorted(set(problems), key=lambda one: (one.file, one))
    checked.problems = [f"{one.file}:{one.line}: {one}" for one in ordered]
    return checked


def _is_mesh(text: Written) -> bool:
    if b"Mesh" not in text.content:
        return False
    documents, _ = parse_documents(text.content, text.name)
    first = documents[0].value if documents else None
    return isinstance(first, dict) and first.get("kind") == "Mesh"


def _describe(policy: Policy) -> dict[str, Any]:
    return {
        "kind": policy.key.kind.value,
        "namespace": policy.namespace,
        "name": policy.name,
        "rules": _count(policy),
        "file": policy.origin.file,
        "line": policy.origin.line,
        "warnings": [*_notes(policy), *policy_warnings([policy])],
    }


def _notes(policy: Policy) -> Iterator[str]:
    if isinstance(policy, AuthorizationPolicy) and policy.dry_run:
        yield f"{policy.key} ({policy.origin}) is in dry run: it decides nothing"


def _count(policy: Policy) -> int:
    """Rules as they are written; the modes of a PeerAuthentication are its rules."""
    match policy:
        case NetworkPolicy():
            return len(policy.ingress) + len(policy.egress)
        case AuthorizationPolicy():
            return len(policy.rules)
        case _:
            return len(policy.port_modes) + (policy.mode is not MtlsMode.UNSET)


def outcome_of(checked: Checked, states: Sequence[SavedState]) -> Outcome:
    """Try them on what was seen. States are of the nodes of one mesh, each with its own pods'."""
    outcome = Outcome()
    first = states[0]
    state, root = first.state, first.root_namespace
    before = list(state.policies.values())
    after = list(_applied(checked, before))
    trial = _trial(state, after)
    asked = {f"{policy.key} ({policy.origin})" for policy in checked.known}
    outcome.warnings = [
        one for one in outside_warnings(trial, root) if one.startswith(tuple(asked))
    ]
    problem = _misfit(trial, root)
    if problem:
        outcome.problems.append(problem)
        return outcome
    effect = Effect(
        state,
        Policies(state, before, root_namespace=root),
        Policies(state, after, root_namespace=root),
    )
    named = {f"{one.namespace}/{one.name}": one for one in state.workloads.values()}
    for seen in _together(states):
        talk = _talk(seen, named)
        if talk is None:
            continue
        outcome.tried += 1
        change = effect.of(talk)
        if change is not None:
            refused = change.after is not Reason.NONE
            (outcome.refused if refused else outcome.allowed).append(_told(seen, change))
    return outcome


def _applied(checked: Checked, before: Iterable[Policy]) -> Iterator[Policy]:
    """What would be in force once these files are."""
    names = {policy.key for policy in checked.known}
    files = {file.resolve() for file in checked.files}
    directories = {one.resolve() for one in checked.directories}
    for policy in () if checked.mesh else before:
        place = Path(policy.origin.file).resolve()
        if policy.key in names or place in files or place.parent in directories:
            continue
        yield policy
    yield from checked.known


_NODE: Final = NodeConfig("here")


def _trial(state: MeshState, policies: Sequence[Policy]) -> MeshState:
    """Other policies for the same pods, all of them as if on one node.

    What may be too large is what selects one pod, wherever the others are: one compile finds it.
    """
    trial = MeshState()
    trial.apply_all(NamespaceAdded(namespace) for namespace in state.namespaces.values())
    trial.apply_all(
        WorkloadAdded(replace(one, node=_NODE.name)) for one in state.workloads.values()
    )
    trial.apply_all(PolicyAdded(policy) for policy in policies)
    return trial


def _misfit(trial: MeshState, root: str) -> str:
    """What the compiler says against them, or nothing."""
    node = replace(_NODE, root_namespace=root)
    return PolicyCompiler(IdTable()).compile(trial, node=node, judged=True).problem


def _together(states: Sequence[SavedState]) -> Iterator[Seen]:
    """Of a connection that both its nodes have seen, one."""
    found: dict[object, Seen] = {}
    for state in states:
        for seen in state.connections:
            other = found.get(seen.key)
            if other is None or (other.attested, other.count) < (seen.attested, seen.count):
                found[seen.key] = seen
    return iter(found.values())


def _talk(seen: Seen, named: dict[str, Workload]) -> Talk | None:
    """None where one of its workloads is gone, or its destination was never known."""
    names = [one for one in (seen.source_workload, seen.destination_workload) if one]
    if not seen.destination or any(name not in named for name in names):
        return None
    return Talk(
        source=named.get(seen.source_workload),
        source_address=parse_address(seen.source) if seen.source else None,
        destination=named.get(seen.destination_workload),
        destination_address=parse_address(seen.destination),
        port=seen.port,
        protocol=seen.protocol,
        attested=seen.attested,
    )


def _told(seen: Seen, change: Change) -> dict[str, Any]:
    reason = change.before if change.after is Reason.NONE else change.after
    return {
        **seen.as_json(),
        "direction": "egress" if change.egress else "ingress",
        "reason": reason.text,
        "because": [
            {
                "policy": str(cause.policy),
                "rule": cause.place,
                "file": cause.origin.file,
                "line": cause.origin.line,
            }
            for cause in change.causes
        ],
    }
