# SPDX-License-Identifier: Apache-2.0
"""Policies of a mesh file: what their YAML means, and what is said of mistakes."""

# ruff: noqa: E501 - a case is a line

import contextlib
import json
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sources.convert import parse_mesh
from agent.sources.problems import MeshFileError
from mesh.model.authorization_policy import Action, Match, MatchKind, Operation, Source
from mesh.model.labels import Labels
from mesh.model.network_policy import IpBlock, NetworkPort, PodPeer, PolicyTypes
from mesh.model.peer_authentication import MtlsMode
from mesh.model.policy import EVERYTHING, LabelSelector, Operator, Requirement
from mesh.model.service import Protocol

TOP = """\
apiVersion: nodemesh.io/v1alpha1
kind: Mesh
trustDomain: cluster.local
nodes: [{name: n1, addresses: ["172.31.0.1"]}]
policies:
"""
NP = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: np, namespace: a}, spec: %s}"
AP = (
    "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: ap, namespace: a%s},"
    " spec: %s}"
)
PA = (
    "{apiVersion: security.istio.io/v1beta1, kind: PeerAuthentication, metadata: {name: pa, namespace: a},"
    " spec: %s}"
)


def parse(*policies):
    text = TOP + "".join(f"  - {policy}\n" for policy in policies)
    return parse_mesh(text.encode(), "mesh.yaml", base=Path("/")).policies


def complaints(*policies):
    with pytest.raises(MeshFileError) as caught:
        parse(*policies)
    return str(caught.value)


@pytest.mark.parametrize(
    ("spec", "types"),
    [
        ("{podSelector: {}}", PolicyTypes.INGRESS),
        ("{podSelector: {}, egress: [{}]}", PolicyTypes.INGRESS | PolicyTypes.EGRESS),
        ("{podSelector: {}, egress: []}", PolicyTypes.INGRESS),
        ("{podSelector: {}, policyTypes: [Egress]}", PolicyTypes.EGRESS),
        ("{podSelector: {}, policyTypes: [Ingress], egress: [{}]}", PolicyTypes.INGRESS),
    ],
)
def test_directions_are_defaulted_as_the_api_does(spec, types):
    (policy,) = parse(NP % spec)
    assert policy.types is types
    assert policy.origin.line == 6


def test_a_network_policy_in_full():
    (policy,) = parse(
        NP
        % """{podSelector: {matchLabels: {app: web}}, ingress: [{from: [
          {podSelector: {matchLabels: {app: x}}},
          {namespaceSelector: {}},
          {namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [a]}]},
           podSelector: {}},
          {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}],
          ports: [{port: 80}, {port: web, protocol: UDP}, {protocol: SCTP}, {port: 1, endPort: 9}]}]}"""
    )
    (rule,) = policy.ingress
    assert policy.pods == LabelSelector(Labels({"app": "web"}))
    assert rule.peers == (
        PodPeer(None, LabelSelector(Labels({"app": "x"}))),
        PodPeer(EVERYTHING, EVERYTHING),
        PodPeer(
            LabelSelector(expressions=(Requirement("team", Operator.NOT_IN, ("a",)),)), EVERYTHING
        ),
        IpBlock(ip_network("10.0.0.0/8"), (ip_network("10.1.0.0/16"),)),
    )
    assert rule.ports == (
        NetworkPort(Protocol.TCP, 80),
        NetworkPort(Protocol.UDP, "web"),
        NetworkPort(Protocol.SCTP),
        NetworkPort(Protocol.TCP, 1, 9),
    )


def test_a_namespace_selector_that_is_none_is_not_one_that_selects_all():
    (policy,) = parse(
        NP % "{podSelector: {}, ingress: [{from: [{namespaceSelector: ~, podSelector: {}}]}]}"
    )
    assert policy.ingress[0].peers == (PodPeer(None, EVERYTHING),)


def test_an_authorization_policy_in_full():
    (policy,) = parse(
        AP
        % (
            ', annotations: {istio.io/dry-run: "true"}',
            """{action: DENY, selector: {matchLabels: {app: web}}, rules: [{
          from: [{source: {principals: ["spiffe://td/ns/a/sa/b", "td/*", "*/x", "*"],
                           notNamespaces: [b], serviceAccounts: [c, d/e], ipBlocks: [10.0.0.1],
                           notRemoteIpBlocks: ["fd00::/8"], requestPrincipals: ["*"]}}],
          to: [{operation: {ports: ["80"], notPorts: ["81"], methods: [GET]}}],
          when: [{key: source.namespace, values: [a]}, {key: destination.port, notValues: ["9"]},
                 {key: "request.headers[x]", values: [y]}]}]}""",
        )
    )
    (rule,) = policy.rules
    assert (policy.action, policy.dry_run) == (Action.DENY, True)
    assert rule.sources == (
        Source(
            principals=(
                Match(MatchKind.EXACT, "td/ns/a/sa/b"),
                Match(MatchKind.PREFIX, "td/"),
                Match(MatchKind.SUFFIX, "/x"),
                Match(MatchKind.PRESENCE),
            ),
            not_namespaces=(Match(MatchKind.EXACT, "b"),),
            service_accounts=("a/c", "d/e"),
            ip_blocks=(ip_network("10.0.0.1/32"),),
            not_remote_ip_blocks=(ip_network("fd00::/8"),),
            layer7=("requestPrincipals",),
        ),
    )
    assert rule.operations == (Operation(ports=(80,), not_ports=(81,), layer7=("methods",)),)
    assert rule.conditions == (
        Source(namespaces=(Match(MatchKind.EXACT, "a"),)),
        Operation(not_ports=(9,)),
    )
    assert rule.layer7 == ("request.headers[x]",)


def test_a_peer_authentication_in_full():
    (policy,) = parse(
        PA
        % "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}}}"
    )
    assert policy.mode is MtlsMode.STRICT
    assert policy.port_modes == ((8080, MtlsMode.DISABLE),)


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ("{kind: Pod}", "policies[0].kind: must be NetworkPolicy or AuthorizationPolicy or"),
        (NP % "{}", 'policies[0].spec: the field "podSelector" is missing'),
        (
            NP % "{podSelector: {}, ingres: []}",
            "policies[0].spec.ingres: unknown field; did you mean ingress?",
        ),
        (
            NP % "{podSelector: {}, policyTypes: [In]}",
            "policies[0].spec.policyTypes[0]: must be Ingress or Egress",
        ),
        (NP % "{podSelector: {}, ingress: [{from: [{}]}]}", "ingress[0].from[0]: names no peer"),
        (
            NP % "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: x}}]}]}",
            "ipBlock.cidr: 'x' is not an address block like 10.0.0.0/8",
        ),
        (
            NP
            % "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/8]}}]}]}",
            "except 11.0.0.0/8 is not within the cidr 10.0.0.0/8",
        ),
        (
            NP
            % "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}",
            "ipBlock cannot stand beside a selector",
        ),
        (
            NP % "{podSelector: {}, ingress: [{ports: [{port: 0}]}]}",
            "ports[0].port: must be a port from 1 to 65535",
        ),
        (
            NP % "{podSelector: {}, ingress: [{ports: [{port: 9, endPort: 8}]}]}",
            "endPort 8 needs a numeric port",
        ),
        (
            NP % "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
            "operator In on 'a' takes at least one value",
        ),
        (
            NP % "{podSelector: {matchLabels: {a: 1}}}",
            "matchLabels.a: must be text (in quotes), not 1",
        ),
        (
            AP % ("", "{action: BLOCK}"),
            "policies[0].spec.action: must be ALLOW or DENY or AUDIT or CUSTOM",
        ),
        (AP % ("", "{rules: [{from: [{}]}]}"), "must hold a source with at least one field"),
        (
            AP % ("", "{rules: [{to: [{operation: {ports: [web]}}]}]}"),
            "operation.ports[0]: must be a port",
        ),
        (
            AP % ("", "{rules: [{when: [{key: destination.ip, values: [a]}]}]}"),
            "destination.ip is not supported",
        ),
        (AP % ("", "{rules: [{when: [{key: source.ip}]}]}"), "when[0]: needs values or notValues"),
        (
            AP % ("", "{rules: [{when: [{key: source.ipp, values: [10.0.0.1]}]}]}"),
            "when[0].key: unknown condition 'source.ipp'; did you mean source.ip?",
        ),
        (
            AP % ("", "{rules: [{when: [{key: request.header, values: [x]}]}]}"),
            "when[0].key: unknown condition 'request.header'; did you mean request.headers[NAME]?",
        ),
        (
            AP % ("", "{rules: [{when: [{key: request.auth.claim, values: [x]}]}]}"),
            "when[0].key: unknown condition 'request.auth.claim'; did you mean request.auth.claims",
        ),
        (
            AP % ("", "{rules: [{when: [{key: 'request.headers[]', values: [x]}]}]}"),
            "when[0].key: unknown condition 'request.headers[]'",
        ),
        (
            PA % "{mtls: {mode: strict}}",
            "spec.mtls.mode: must be UNSET or DISABLE or PERMISSIVE or STRICT",
        ),
        (
            AP % ("", "{rules: [{from: [{source: {principals: []}}]}]}"),
            "source.principals: must not be empty; without the field anything matches",
        ),
        (AP % ("", "{rules: [{from: [{source: {namespaces: }}]}]}"), "namespaces: must not be"),
        (AP % ("", "{rules: [{to: [{operation: {methods: []}}]}]}"), "methods: must not be empty"),
        (AP % ("", "{rules: [{to: [{operation: {methods: 3}}]}]}"), "methods: must be a list"),
        (AP % ("", "{rules: [{from: []}]}"), "rules[0].from: must not be empty"),
        (AP % ("", "{rules: [~]}"), "rules[0]: is empty: nothing follows the dash"),
        (AP % ("", "{action: DENY, targetRefs: [], rules: [{}]}"), "targetRefs: must not be empty"),
        (AP % ("", "{action: DENY, targetRef: ~, rules: [{}]}"), "targetRef: must be a mapping"),
        (
            AP % ("", '{rules: [{from: [{source: {notServiceAccounts: ["b/"]}}]}]}'),
            "'b/' is not namespace/name or a name",
        ),
        (
            AP % (", annotations: {istio.io/dry-run: maybe}", "{rules: [{}]}"),
            'must be "true" or "false"',
        ),
        (NP % "{podSelector: {}, ingress: [~]}", "ingress[0]: is empty: nothing follows the dash"),
        (
            NP % "{podSelector: {}, ingress: [{from: [{namespaceSelector: ~}]}]}",
            "from[0]: names no peer",
        ),
        (
            NP % "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/0.0.0.255}}]}]}",
            "'10.0.0.0/0.0.0.255' is not an address block",
        ),
        *(
            (
                NP % f"{{podSelector: {{}}, ingress: [{{ports: [{{port: {huge}}}]}}]}}",
                "must be a port",
            )
            for huge in ("9" * 5000, f'"{"9" * 5000}"', "0x" + "f" * 5000, "Web", "a--b", "a" * 16)
        ),
        (
            PA
            % '{selector: {matchLabels: {a: b}}, portLevelMtls: {"80": {mode: STRICT}, "080": {mode: DISABLE}}}',
            "port 80 is given twice",
        ),
        (PA % "{portLevelMtls: {80: {mode: STRICT}}}", "portLevelMtls: needs a selector"),
    ],
)
def test_mistakes_are_named_with_their_place(policy, sentence):
    said = complaints(policy)
    assert sentence in said
    assert said.startswith("mesh.yaml:6: ")


@pytest.mark.parametrize(
    "key",
    [
        "request.headers[user-agent]",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "request.auth.claims[iss]",
        "request.auth.claims[a][b]",
        "connection.sni",
        "experimental.envoy.filters.network.mysql_proxy[db]",
    ],
)
def test_conditions_of_layer_7_are_kept_by_their_keys(key):
    (policy,) = parse(AP % ("", f'{{rules: [{{when: [{{key: "{key}", values: [x]}}]}}]}}'))
    assert policy.rules[0].layer7 == (key,)


def test_a_name_counts_once():
    one = NP % "{podSelector: {}}"
    assert "NetworkPolicy a/np is in line 6 too" in complaints(one, one)


anything = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-5, 70000), st.text(max_size=6), st.just("10.0.0.0/8")
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    "podSelector",
                    "ingress",
                    "egress",
                    "from",
                    "to",
                    "ports",
                    "port",
                    "endPort",
                    "ipBlock",
                    "cidr",
                    "except",
                    "rules",
                    "source",
                    "principals",
                    "when",
                    "key",
                    "values",
                    "mtls",
                    "mode",
                    "portLevelMtls",
                    "selector",
                    "matchLabels",
                    "matchExpressions",
                    "x",
                ]
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(("NetworkPolicy", "AuthorizationPolicy", "PeerAuthentication")),
    anything,
    anything,
)
def test_nothing_but_a_sentence_comes_of_nonsense(kind, metadata, spec):
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": kind,
        "metadata": metadata,
        "spec": spec,
    }
    with contextlib.suppress(MeshFileError):
        parse(json.dumps(policy))
