# SPDX-License-Identifier: Apache-2.0
"""A policy that is written again says the same as the one that was read."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "mesh"))

from policy_world import ORIGIN, policies

from agent.sources.places import Written
from agent.sources.policy_files import read_policies
from agent.sources.spelling import spell_policy
from mesh.model.authorization_policy import AuthorizationPolicy, Operation, Source
from mesh.model.labels import NO_LABELS
from mesh.model.network_policy import NetworkPolicy
from mesh.model.policies import Policy


def says_something(part: Source | Operation) -> bool:
    return part != type(part)()


def one_question(part: Source | Operation) -> bool:
    """A condition asks one thing; what has two is two conditions."""
    fields = ("principals", "namespaces", "service_accounts", "ip_blocks", "remote_ip_blocks")
    asked = [
        name
        for name in (*fields, "ports")
        if getattr(part, name, ()) or getattr(part, f"not_{name}", ())
    ]
    return len(asked) == 1


def readable(policy: Policy) -> Policy:
    """As it can stand in a file: no source or operation without a field, keys that Istio has."""
    if not isinstance(policy, AuthorizationPolicy):
        return policy
    rules = tuple(
        replace(
            rule,
            sources=tuple(one for one in rule.sources if says_something(one)),
            operations=tuple(one for one in rule.operations if says_something(one)),
            conditions=tuple(one for one in rule.conditions if one_question(one)),
            layer7=("request.headers[x]",) if rule.layer7 else (),
        )
        for rule in policy.rules
    )
    selector = NO_LABELS if policy.targets_waypoint else policy.selector
    return replace(policy, rules=rules, selector=selector)


def without_places(policy: Policy) -> Policy:
    if isinstance(policy, NetworkPolicy):
        parts = {
            name: tuple(replace(rule, origin=ORIGIN) for rule in getattr(policy, name))
            for name in ("ingress", "egress")
        }
        return replace(policy, **parts, origin=ORIGIN)
    if isinstance(policy, AuthorizationPolicy):
        rules = tuple(replace(rule, origin=ORIGIN) for rule in policy.rules)
        return replace(policy, rules=rules, origin=ORIGIN)
    return replace(policy, origin=ORIGIN)


@settings(max_examples=300, deadline=None)
@given(st.lists(policies, max_size=3, unique_by=lambda policy: policy.key))
def test_what_is_spelt_is_read_as_it_was(wanted: list[Policy]) -> None:
    wanted = [readable(policy) for policy in wanted]
    texts = [
        Written(f"{index}.json", json.dumps(spell_policy(policy)).encode())
        for index, policy in enumerate(wanted)
    ]
    found, problems = read_policies(texts, {})
    assert problems == []
    assert [without_places(policy) for policy in found] == wanted
