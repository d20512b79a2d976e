# SPDX-License-Identifier: Apache-2.0
"""The quick check never says yes to what jsonschema refuses, and says yes to what is usual."""

import copy
import subprocess
import sys
from typing import Any

import pytest
from bad_mesh_text import BAD
from hypothesis import given, settings
from hypothesis import strategies as st
from mesh_text import GOOD, spoil

from agent.sources import schema
from agent.sources.problems import MeshFileError
from agent.sources.quick import compile_schema
from agent.sources.schema import load_schema
from agent.sources.yaml_text import parse_yaml

FITS = compile_schema(load_schema())


def refused(value: Any) -> bool:
    """What jsonschema says."""
    return next(schema._validator().iter_errors(value), None) is not None


def good() -> Any:
    document = parse_yaml(GOOD.encode(), "f").value
    document["cluster"] = "c1"
    document["agent"] = {
        "sameNode": "tunnel",
        "tunnel": {"workers": 2, "congestionControl": "bbr", "spinMicroseconds": 10},
        "certificates": {
            "provider": "ca",
            "address": "[fd00::1]:15012",
            "trustAnchor": "root.pem",
            "tokenFile": "token",
            "lifetime": "1h",
        },
    }
    document["workloads"][0] |= {
        "ports": [{"name": "http", "port": 80, "protocol": "UDP"}],
        "hostNetwork": False,
        "healthy": True,
    }
    document["services"] += [
        {
            "name": "listed",
            "namespace": "shop",
            "hostname": "a.b",
            "ports": [{"port": 1, "name": "n", "targetPort": "http", "protocol": "TCP"}],
            "endpoints": [{"workload": "shop/web"}, {"address": "10.9.9.9"}],
        }
    ]
    return document


def test_a_file_with_everything_gets_a_yes() -> None:
    assert not refused(good())
    assert FITS(good())


def test_files_as_the_provider_get_a_yes() -> None:
    document = good()
    document["agent"]["certificates"] = {"provider": "files", "directory": "d"}
    assert not refused(document)
    assert FITS(document)


def shape(old: str, new: str) -> Any:
    """The good file with one place changed; None where it is no YAML any more."""
    try:
        return parse_yaml(spoil(old, new).encode(), "f").value
    except MeshFileError:
        return None


SPOILT = [value for old, new, *_ in BAD if (value := shape(old, new)) is not None]


@pytest.mark.parametrize("value", SPOILT)
def test_a_spoilt_file_gets_a_yes_only_if_its_shape_is_right(value: Any) -> None:
    assert FITS(value) is not refused(value)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    parts: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        parts = enumerate(value)
    for key, part in parts:
        found += places(part, (*path, key))
    return found


WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70_000),
    st.floats(allow_nan=False),
    st.sampled_from(
        ["", "a\n", "A", "a" * 64, "-", "1.2.3", "::", "fe80::1%eth0", "::ffff:1.2.3.4"]
    ),
    st.sampled_from(["TCP", "files", "ca", "direct", "10.0.0.1", "shop/web", "9h", "/p", "\x00"]),
    st.text(max_size=4),
    st.just([]),
    st.just({}),
    st.lists(st.sampled_from(["10.0.0.1", "fd00::1", "x", 1, True, 1.0]), max_size=3),
    st.dictionaries(st.sampled_from(["name", "port", "a", "A/b"]), st.text(max_size=2), max_size=2),
)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_a_yes_is_certain(data: st.DataObject) -> None:
    """Up to three places of the good file are replaced, removed or added to."""
    document = copy.deepcopy(good())
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(places(document)))
        holder = document
        for key in path:
            holder = holder[key]
        match data.draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                holder[last] = data.draw(WRONG)
            case "remove":
                del holder[last]
            case _ if isinstance(holder, dict):
                names = ["selector", "endpoints", "directory", "netns", "x", "tokenFile"]
                holder[data.draw(st.sampled_from(names))] = data.draw(WRONG)
            case _:
                holder.append(data.draw(WRONG))
        if not document:
            break
    if FITS(document):
        assert not refused(document)


@pytest.mark.parametrize(
    "unknown",
    [
        {"dependentRequired": {}},
        {"not": {"type": "string"}},
        {"not": {"required": ["a"], "type": "object"}},
        {"if": {"properties": {"a": {"type": "string"}}}, "then": {}, "else": {}},
        {"const": 1},
        {"enum": ["a", 1]},
    ],
)
def test_an_unknown_keyword_or_form_of_it_is_an_error(unknown: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError)):
        compile_schema(unknown)


def test_a_good_file_needs_no_jsonschema() -> None:
    program = (
        "import sys; from pathlib import Path; from agent.sources.convert import parse_mesh;"
        f"parse_mesh({GOOD.encode()!r}, 'f', base=Path('/')); print('jsonschema' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"False\n"
