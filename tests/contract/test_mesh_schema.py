# SPDX-License-Identifier: Apache-2.0
"""The published schema is the one that is enforced, is a valid schema, and knows the examples."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from agent.sources.schema import load_schema, schema_text
from agent.sources.yaml_text import parse_yaml

ROOT = Path(__file__).resolve().parents[2]


def test_the_published_schema_is_the_shipped_one() -> None:
    assert (ROOT / "docs/schema/mesh.schema.json").read_text() == schema_text()


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(load_schema())
    assert json.loads(schema_text())["$schema"].endswith("2020-12/schema")


def examples() -> list[Path]:
    found = sorted((ROOT / "examples").glob("*.yaml"))
    return [path for path in found if b"kind: Mesh" in path.read_bytes()]


@pytest.mark.parametrize("path", examples(), ids=lambda path: path.name)
def test_a_stock_validator_accepts_the_examples(path: Path) -> None:
    value = parse_yaml(path.read_bytes(), path.name).value
    Draft202012Validator(load_schema(), format_checker=FormatChecker()).validate(value)
