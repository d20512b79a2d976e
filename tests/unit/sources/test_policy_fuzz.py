# SPDX-License-Identifier: Apache-2.0
"""Policies that are spoilt in every way: the mesh stays as it was, and a sentence says where."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mesh_text import GOOD

from agent.sources.changes import changes
from agent.sources.convert import parse_mesh
from agent.sources.places import Written
from agent.sources.policy_files import read_policies
from agent.sources.problems import MeshFileError, Problem
from agent.sources.settings import MeshFile
from mesh.model.policies import Policy
from mesh.state import MeshState

VALID: list[dict[str, Any]] = [
    {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "np", "namespace": "shop", "labels": {"a": "b"}},
        "spec": {
            "podSelector": {
                "matchLabels": {"app": "web"},
                "matchExpressions": [{"key": "tier", "operator": "In", "values": ["x", "y"]}],
            },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "from": [
                        {"podSelector": {}, "namespaceSelector": {"matchLabels": {"t": "1"}}},
                        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                    ],
                    "ports": [{"protocol": "TCP", "port": 80, "endPort": 90}, {"port": "http"}],
                }
            ],
            "egress": [{"to": [{"ipBlock": {"cidr": "fd00::/8"}}]}],
        },
    },
    {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {
            "name": "ap",
            "namespace": "shop",
            "annotations": {"istio.io/dry-run": "true"},
        },
        "spec": {
            "action": "DENY",
            "selector": {"matchLabels": {"app": "web"}},
            "rules": [
                {
                    "from": [{"source": {"principals": ["a/*"], "notNamespaces": ["x"]}}],
                    "to": [{"operation": {"ports": ["80"], "notPorts": ["81"]}}],
                    "when": [{"key": "source.ip", "values": ["10.0.0.1"]}],
                }
            ],
        },
    },
    {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": "pa", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "mtls": {"mode": "STRICT"},
            "portLevelMtls": {"8080": {"mode": "PERMISSIVE"}},
        },
    },
]
FREE = frozenset({"labels", "matchLabels", "annotations", "portLevelMtls"})
"""Mappings whose keys are the user's own."""


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value stands."""
    found = [path]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += places(inner, (*path, index))
    return found


PLACES = [(number, path) for number, one in enumerate(VALID) for path in places(one)]


def read(*texts: bytes) -> tuple[list[Policy], list[Problem]]:
    return read_policies([Written(f"{n}.yaml", text) for n, text in enumerate(texts)], {})


def spoilt(number: int, path: tuple[Any, ...], value: Any) -> bytes:
    """A valid policy with another value at one place."""
    if not path:
        return json.dumps(value, ensure_ascii=False).encode()
    policy = copy.deepcopy(VALID[number])
    inner: Any = policy
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return json.dumps(policy, ensure_ascii=False).encode()


def says_where(problems: list[Problem]) -> bool:
    """Each names the file, a line, and a field or what of the text is no YAML."""
    return all(
        one.file and one.line >= 1 and one.reason and "Traceback" not in one.reason
        for one in problems
    )


def test_what_is_spoilt_was_good() -> None:
    policies, problems = read(*(json.dumps(one).encode() for one in VALID))
    assert problems == []
    assert [policy.name for policy in policies] == ["np", "ap", "pa"]


anything = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12),
        st.sampled_from(("*", "10.0.0.0/8", "Ingress", "a" * 5000, -1, 0, 2**200, "9" * 200)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text("abcdefgh.-/", min_size=1, max_size=8), inner, max_size=3),
    ),
    max_leaves=8,
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(PLACES), anything)
def test_another_value_anywhere_is_good_or_a_mistake_with_its_place(
    place: tuple[int, tuple[Any, ...]], value: Any
) -> None:
    policies, problems = read(spoilt(*place, value))
    assert bool(policies) != bool(problems), "it is one or the other"
    assert says_where(problems)
    assert all(one.field for one in problems if place[1])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PLACES), st.text("abcdefghijkl", min_size=1, max_size=9), anything)
def test_a_field_that_nobody_knows_is_named(
    place: tuple[int, tuple[Any, ...]], name: str, value: Any
) -> None:
    number, path = place
    inner: Any = VALID[number]
    for step in path:
        inner = inner[step]
    if not isinstance(inner, dict) or (path and path[-1] in FREE) or name in ("to", "key"):
        return
    policies, problems = read(spoilt(number, path, {**inner, name: value}))
    if policies:  # a known field of ObjectMeta, say, that is spelt by chance
        return
    assert any(one.field.endswith(name) for one in problems), problems


@pytest.mark.parametrize("path", [path for path in PLACES if path[1] and path[1][-1] != 0])
def test_a_wrong_type_anywhere_names_the_field_or_one_around_it(
    path: tuple[int, tuple[Any, ...]],
) -> None:
    number, steps = path
    ignored = steps[:2] == ("metadata", "labels") and len(steps) == 2
    for value in ([[]], 3.5, {"x": {"y": 1}}):
        if isinstance(value, list) and ignored:
            continue
        policies, problems = read(spoilt(number, steps, value))
        assert policies == []
        assert all(one.field for one in problems)
        assert says_where(problems)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(range(3)), st.data())
def test_half_a_file_is_good_or_a_mistake(number: int, data: st.DataObject) -> None:
    text = json.dumps(VALID[number], indent=1).encode()
    cut = data.draw(st.integers(0, len(text) - 1))
    policies, problems = read(text[:cut])
    assert policies == []
    assert problems
    assert says_where(problems)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_are_never_more_than_a_mistake(text: bytes) -> None:
    policies, problems = read(text)
    assert policies == []
    assert problems
    assert says_where(problems)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(range(3)), st.integers(0, 2000), st.binary(min_size=1, max_size=3))
def test_bytes_written_over_a_policy_are_good_or_a_mistake(
    number: int, at: int, noise: bytes
) -> None:
    text = json.dumps(VALID[number]).encode()
    at %= len(text)
    policies, problems = read(text[:at] + noise + text[at + len(noise) :])
    assert bool(policies) != bool(problems)
    assert says_where(problems)


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (LAUGHS, "expand too far"),
        ("a: &a [*a]", "expand too far"),
        ("[" * 100_000, "maximum nesting depth"),
        ("{a: " * 100_000, "expand too far"),
        ("- " * 5_000 + "x", "expand too far"),
        ("kind: !!python/object/apply:os.system [ls]", "is not supported"),
        ("kind: *nobody", "undefined alias"),
        ("kind: NetworkPolicy\nkind: NetworkPolicy", "given twice"),
        ("? [a]\n: b", "a key must be a plain word"),
        ("\xff\xfe", "not UTF-8"),
        ("a: \x00", "not YAML"),
        ("%YAML 9.9\n---\na", "not YAML"),
        ("", "holds no policy"),
        ("# nothing\n---\n...\n---\n", "holds no policy"),
    ],
)
def test_tricks_of_yaml_are_mistakes(text: str, sentence: str) -> None:
    policies, problems = read(text.encode("latin-1"))
    assert policies == []
    assert sentence in " ".join(one.reason for one in problems)
    assert says_where(problems)


def test_a_list_of_ten_thousand_mistakes_is_told_in_time() -> None:
    items = [{"kind": "NetworkPolicy", "spec": {"x": n}} for n in range(10_000)]
    value = {"apiVersion": "v1", "kind": "List", "items": items}
    policies, problems = read(json.dumps(value).encode())
    assert policies == []
    assert len(problems) >= 10_000


def mesh_with(tmp_path: Path, text: bytes) -> MeshFile:
    (tmp_path / "p.yaml").write_bytes(text)
    mesh = f"{GOOD}policyFiles: [p.yaml]\n".encode()
    return parse_mesh(mesh, str(tmp_path / "mesh.yaml"), base=tmp_path)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(PLACES), anything)
def test_the_state_is_the_last_good_one_whatever_is_written(
    tmp_path: Path, place: tuple[int, tuple[Any, ...]], value: Any
) -> None:
    good = "---\n".join(json.dumps(one) + "\n" for one in VALID).encode()
    have = mesh_with(tmp_path, good)
    state = MeshState()
    state.apply_all(changes(None, have))
    before = dict(state.policies.by_key())
    rest = [json.dumps(one).encode() for n, one in enumerate(VALID) if n != place[0]]
    texts = b"\n---\n".join([*rest, spoilt(*place, value)])
    want, said = None, ""
    try:
        want = mesh_with(tmp_path, texts)
    except MeshFileError as error:
        said = str(error)
    if want is None:
        assert re.search(r"p\.yaml:[1-9][0-9]*: ", said)
        assert state.policies.by_key() == before
        return
    state.apply_all(changes(have, want))
    # A document that holds nothing is none; everything else is all of them.
    assert len(state.policies) == len(rest) + (value is not None or bool(place[1]))
