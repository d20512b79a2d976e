# SPDX-License-Identifier: Apache-2.0
"""What a policy asks for that is not done here, said in a sentence each."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from mesh.compile.policy.select import Book
from mesh.model.authorization_policy import Action, AuthorizationPolicy, AuthorizationRule
from mesh.model.enrollment import is_enrolled
from mesh.model.network_policy import NetworkPolicy
from mesh.model.policies import Policy
from mesh.model.policy import PolicyName
from mesh.model.workload import Workload
from mesh.state import MeshState

__all__ = ["outside_warnings", "policy_warnings"]


def policy_warnings(policies: Iterable[Policy]) -> tuple[str, ...]:
    """Sentences for people, in the order of the policies."""
    return tuple(
        sentence
        for policy in policies
        if isinstance(policy, AuthorizationPolicy)
        for sentence in _authorization(policy)
    )


def outside_warnings(state: MeshState, root_namespace: str) -> Iterator[str]:
    """Policies that select pods outside the mesh, where nobody holds anyone to them.

    What the root namespace says to every namespace is meant for who is in the mesh. Host-network
    pods are nobody's pods to select, in Kubernetes neither.
    """
    policies = {
        one.key: one
        for one in state.policies.values()
        if isinstance(one, NetworkPolicy) or one.namespace != root_namespace
    }
    book = Book(policies.values(), root_namespace)
    found: dict[PolicyName, list[Workload]] = defaultdict(list)
    for _, workload in sorted(state.workloads.by_key().items()):
        namespace = state.namespaces.get(workload.namespace)
        if workload.host_network or is_enrolled(workload, namespace):
            continue
        selected = book.select(workload)
        for policy in (*selected.network, *selected.authorization, selected.mode):
            if policy is not None:
                found[policy.key].append(workload)
    for key in sorted(found):
        first, *more = found[key]
        others = f" and {len(more)} more, which are" if more else ", which is"
        yield (
            f"{key} ({policies[key].origin}) selects {first.namespace}/{first.name}{others} "
            "not in the mesh: nothing enforces it there"
        )


def _authorization(policy: AuthorizationPolicy) -> Iterator[str]:
    where = f"{policy.key} ({policy.origin})"
    if policy.targets_waypoint:
        yield f"{where} has targetRefs: it is for a waypoint and judges nothing at layer 4"
        return
    if policy.action is Action.CUSTOM:
        yield f"{where} has action CUSTOM, which only a waypoint can carry out"
        return
    if policy.action is Action.AUDIT:
        return
    for index, rule in enumerate(policy.rules):
        fields = sorted(set(_layer7(rule)))
        if not fields:
            continue
        what = (
            "so it permits nothing here"
            if policy.action is Action.ALLOW
            else "so it refuses whatever its other fields match"
        )
        asked = ", ".join(fields)
        yield f"{where} rules[{index}] asks for {asked}, which layer 4 cannot see, {what}"


def _layer7(rule: AuthorizationRule) -> Iterator[str]:
    yield from rule.layer7
    for source in rule.sources:
        yield from source.layer7
    for operation in rule.operations:
        yield from operation.layer7
