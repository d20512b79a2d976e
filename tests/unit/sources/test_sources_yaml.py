# SPDX-License-Identifier: Apache-2.0
"""YAML text: positions, what is refused, and how much a file may become."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sources import yaml_text
from agent.sources.problems import MeshFileError
from agent.sources.yaml_text import parse_yaml


def read(text: str | bytes):
    raw = text if isinstance(text, bytes) else text.encode()
    return parse_yaml(raw, "f").value


def refusal(text: str | bytes) -> str:
    with pytest.raises(MeshFileError) as caught:
        read(text)
    return str(caught.value)


def test_every_value_and_key_has_its_place() -> None:
    document = parse_yaml(b"a:\n  - b: 1\n    c: [x, y]\n", "f")
    assert document.value == {"a": [{"b": 1, "c": ["x", "y"]}]}
    assert document.positions[("a", 0, "c", 1)] == (3, 12)
    assert document.key_positions[("a", 0, "c")] == (3, 5)
    assert document.problem(("a", 0, "c"), "r", at_key=True).column == 5
    assert document.problem(("a", 0, "missing", "deep"), "r").line == 2
    assert document.problem(("nowhere",), "r", at_key=True).line == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-1", -1),
        ("0o17", 15),
        ("0x1f", 31),
        ("010", 10),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".inf", float("inf")),
        ("true", True),
        ("False", False),
        ("~", None),
        ("yes", "yes"),
        ("on", "on"),
        ("2024-01-01", "2024-01-01"),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("!!int x", "x"),
        ("!!float x", "x"),
        ("1:30", "1:30"),
        ("\ufeffa", "a"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    result = read(text)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "f:1: the file is empty"),
        ("# only a comment\n", "f:1: the file is empty"),
        ("a: 1\nb: [\n", "f:3: not YAML: "),
        ("a: 1\n\tb: 2\n", "f:2: not YAML: "),
        ("a: b: c\n", "f:1: not YAML: "),
        ("a: *x\n", "f:1: not YAML: found undefined alias"),
        ("a: 1\n---\nb: 2\n", "f:2: not YAML: but found another document"),
        ("a: 1\nb: 2\na: 3\n", "f:3: a: given twice; first in line 1"),
        ("x: 1\na: {b: 1, 'b': 2}\n", "f:2: a.b: given twice; first in line 2"),
        ("? [a]\n: 1\n", "f:1: a key must be a plain word"),
        ("a: !!python/object:os.system x\n", "f:1: a: the tag tag:yaml.org,2002:python/object"),
        ("a: !mine 1\n", "f:1: a: the tag !mine is not supported"),
        ("a: !!set {b}\n", "f:1: a: the tag tag:yaml.org,2002:set is not supported"),
        ("a: !mine [1]\n", "f:1: a: the tag !mine is not supported"),
        ("a: !!binary aGk=\n", "f:1: a: the tag tag:yaml.org,2002:binary is not supported"),
        (b"a: 1\nb: \xff\n", "f:2: the file is not UTF-8 text"),
        (b"a: \x00\n", "f:1: not YAML: "),
    ],
)
def test_what_is_refused(text: str | bytes, sentence: str) -> None:
    assert refusal(text).startswith(sentence)


def test_aliases_work_and_are_counted() -> None:
    assert read("a: &x [1]\nb: *x\n") == {"a": [1], "b": [1]}
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 12):
        bomb += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n"
    assert "values or aliases expand too far" in refusal(bomb)


def test_an_alias_within_itself_ends() -> None:
    assert "values or aliases expand too far" in refusal("a: &x [*x]\n")


@pytest.mark.parametrize("depth", [40, 5000])
def test_deep_nesting_ends(depth: int) -> None:
    told = refusal("[" * depth + "]" * depth)
    assert "nesting depth" in told or "too far" in told


def test_a_huge_file_is_not_even_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_text, "MAX_BYTES", 10)
    assert "larger than" in refusal("a: 12345678")


@settings(deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet="a:-[]{}&*!?|>'\"#% \n\t1,", max_size=40))
def test_no_text_does_anything_but_be_read_or_be_refused(text: str | bytes) -> None:
    with suppress(MeshFileError):
        read(text)
