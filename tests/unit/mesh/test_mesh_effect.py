# SPDX-License-Identifier: Apache-2.0
"""What other policies would change: held to asking the specifications for both, in full."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from policy_world import ADDRESSES, ASKED, ASKED_PORTS, ORIGIN, events, policies

from mesh.decide import Connection, Oracle
from mesh.effect import Effect, Policies, Talk
from mesh.model.authorization_policy import AuthorizationPolicy, AuthorizationRule, Source
from mesh.model.enrollment import is_enrolled
from mesh.model.events import PolicyAdded
from mesh.model.identity import Identity
from mesh.model.labels import Labels
from mesh.model.namespace import Namespace
from mesh.model.network_policy import NetworkPolicy, PolicyTypes
from mesh.model.policies import Policy
from mesh.model.policy import EVERYTHING, Origin
from mesh.model.service import Protocol
from mesh.model.workload import DATAPLANE_MODE_LABEL, Workload, pod_uid
from mesh.reasons import Reason
from mesh.state import MeshState

ROOT = "istio-system"


def passes(state: MeshState, known: list[Policy], talk: Talk) -> bool:
    """Both halves, asked of every policy there is."""
    trial = MeshState()
    for namespace in state.namespaces.values():
        trial.namespaces.insert(namespace.name, namespace)
    for workload in state.workloads.values():
        trial.workloads.insert(workload.uid, workload)
    trial.apply_all(PolicyAdded(policy) for policy in known)
    judged = [
        one is not None and is_enrolled(one, state.namespaces.get(one.namespace))
        for one in (talk.source, talk.destination)
    ]
    proven = talk.attested or (talk.protocol == Protocol.TCP and all(judged))
    for subject, peer, address, egress in (
        (talk.source, talk.destination, talk.destination_address, True),
        (talk.destination, talk.source, talk.source_address, False),
    ):
        if subject is None or not judged[0 if egress else 1]:
            continue
        assert address is not None
        oracle = Oracle(trial, root_namespace=ROOT, node=subject.node)
        connection = Connection(
            subject=subject,
            peer=peer,
            address=address,
            port=talk.port,
            protocol=talk.protocol,
            egress=egress,
            attested=proven and not egress,
        )
        if oracle.judge(connection).reason is not Reason.NONE:
            return False
    return True


unique = st.lists(policies, max_size=4, unique_by=lambda policy: policy.key)


@settings(max_examples=300, deadline=None)
@given(st.lists(events, max_size=12), unique, unique, st.data())
def test_a_change_is_told_where_the_specifications_say_so(happened, fresh, kept, data) -> None:
    state = MeshState()
    state.apply_all(happened)
    before = list({policy.key: policy for policy in (*state.policies.values(), *kept)}.values())
    after = list({policy.key: policy for policy in (*before, *fresh)}.values())
    pods = st.sampled_from([None, *state.workloads.values()])
    talk = Talk(
        source=data.draw(pods),
        source_address=data.draw(st.sampled_from(ADDRESSES)),
        destination=data.draw(pods),
        destination_address=data.draw(st.sampled_from(ADDRESSES)),
        port=data.draw(st.sampled_from(ASKED_PORTS)),
        protocol=int(data.draw(st.sampled_from(ASKED))),
        attested=False,
    )
    sides = [Policies(state, known, root_namespace=ROOT) for known in (before, after)]
    change = Effect(state, *sides).of(talk)
    was, will = passes(state, before, talk), passes(state, after, talk)
    assert (change is not None) == (was != will)
    if change is not None:
        reason = change.before if will else change.after
        assert reason is not Reason.NONE
        names = {policy.key for policy in (before if will else after)}
        assert change.causes
        assert {cause.policy for cause in change.causes} <= names


WEB, CLIENT = (
    Workload(
        uid=pod_uid("a", name),
        name=name,
        namespace="a",
        identity=Identity("cluster.local", "a", name),
        node=f"n{number}",
        addresses=(ADDRESSES[number],),
        labels=Labels({"app": name}),
    )
    for number, name in enumerate(("web", "client"))
)
TALK = Talk(CLIENT, None, WEB, ADDRESSES[0], 80, 6, False)
ISOLATED = NetworkPolicy(
    namespace="a", name="none", pods=EVERYTHING, types=PolicyTypes.INGRESS, origin=Origin("f", 7)
)
DENY = AuthorizationPolicy(
    namespace="a",
    name="deny",
    rules=(
        AuthorizationRule(
            sources=(Source(service_accounts=("a/client",)),), origin=Origin("g.yaml", 12)
        ),
    ),
    origin=ORIGIN,
)


def effect(before: list[Policy], after: list[Policy]) -> Effect:
    state = MeshState()
    state.namespaces.insert("a", Namespace("a", Labels({DATAPLANE_MODE_LABEL: "ambient"})))
    for workload in (WEB, CLIENT):
        state.workloads.insert(workload.uid, workload)
    return Effect(state, *(Policies(state, one, root_namespace=ROOT) for one in (before, after)))


def test_a_lack_names_the_policies_that_permit_nothing() -> None:
    change = effect([], [ISOLATED]).of(TALK)
    assert change is not None
    assert (change.egress, change.after) == (False, Reason.NETWORK_POLICY)
    (cause,) = change.causes
    assert (cause.policy, cause.place, str(cause.origin)) == (ISOLATED.key, "", "f:7")


def test_a_rule_that_refuses_is_named_with_its_line() -> None:
    deny = replace(DENY, action=type(DENY.action).DENY)
    change = effect([], [deny]).of(TALK)
    assert change is not None
    (cause,) = change.causes
    assert (cause.place, str(cause.origin)) == ("rules[0].from[0]", "g.yaml:12")
    back = effect([deny], []).of(TALK)
    assert back is not None
    assert (back.before, back.after, back.causes) == (
        Reason.POLICY_DENY,
        Reason.NONE,
        change.causes,
    )


def test_what_stays_refused_or_stays_allowed_is_no_change() -> None:
    deny = replace(DENY, action=type(DENY.action).DENY)
    assert effect([ISOLATED], [deny]).of(TALK) is None
    assert effect([], [DENY]).of(TALK) is None
