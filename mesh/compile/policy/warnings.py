# SPDX-License-Identifier: Apache-2.0
"""What a policy asks for that layer 4 cannot decide, said in a sentence each."""

from collections.abc import Iterable, Iterator

from mesh.model.authorization_policy import Action, AuthorizationPolicy, AuthorizationRule
from mesh.model.policies import Policy

__all__ = ["policy_warnings"]


def policy_warnings(policies: Iterable[Policy]) -> tuple[str, ...]:
    """Sentences for people, in the order of the policies."""
    return tuple(
        sentence
        for policy in policies
        if isinstance(policy, AuthorizationPolicy)
        for sentence in _authorization(policy)
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
