# SPDX-License-Identifier: Apache-2.0
"""The shape of a mesh file, checked against the published JSON Schema. The doorway to jsonschema.

``mesh.schema.json`` beside this module is the one source; docs/schema holds the same text for
editors. The schema says in ``x-expected`` what a value must be, so the words of a message stand
beside the rule that it explains.
"""

import json
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from agent.sources.problems import FieldPath, Problem
from agent.sources.quick import Fits, compile_pattern, compile_schema
from agent.sources.yaml_text import Document

if TYPE_CHECKING:
    from jsonschema import ValidationError

__all__ = ["check_schema", "load_schema", "schema_text"]

_TYPE_NAMES = {
    "array": "a list",
    "object": "a mapping",
    "string": "text",
    "integer": "a whole number",
    "boolean": "true or false",
}
_SHOWN = 80

_Error = Any
"""A jsonschema ValidationError; its own types leave every part open."""


def schema_text() -> str:
    """The published schema as it is shipped."""
    return files("agent.sources").joinpath("mesh.schema.json").read_text(encoding="utf-8")


@cache
def load_schema() -> dict[str, Any]:
    """The published schema as a mapping; not to be changed."""
    schema: dict[str, Any] = json.loads(schema_text())
    return schema


def check_schema(document: Document) -> list[tuple[FieldPath, Problem]]:
    """Every way in which the document is not of the published shape, with its path."""
    found: list[tuple[FieldPath, Problem]] = []
    if _quick()(document.value):
        return found
    for error in _validator().iter_errors(document.value):
        path: FieldPath = tuple(error.absolute_path)
        found += ((path, problem) for problem in _explain(document, path, error))
    return found


@cache
def _quick() -> Fits:
    return compile_schema(load_schema())


def _pattern(_: Any, pattern: str, instance: object, __: Any) -> "Iterator[ValidationError]":
    from jsonschema import ValidationError  # noqa: PLC0415 - loaded by now

    if isinstance(instance, str) and not compile_pattern(pattern).search(instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


@cache
def _validator() -> Any:
    # 40 ms and 10 MB, which only a file with a mistake needs.
    from jsonschema import Draft202012Validator, FormatChecker  # noqa: PLC0415
    from jsonschema.validators import extend  # noqa: PLC0415

    extend_class: Any = extend  # untyped in jsonschema's stubs
    validator_class = extend_class(Draft202012Validator, {"pattern": _pattern})
    return validator_class(load_schema(), format_checker=FormatChecker(formats=("ipv4", "ipv6")))


def _explain(document: Document, path: FieldPath, error: _Error) -> Iterator[Problem]:
    instance: Any = error.instance
    if "propertyNames" in error.absolute_schema_path:  # about a key, which has no path of its own
        reason = f"{_show(instance)} is not {_expected(error)}"
        yield document.problem((*path, instance), reason, at_key=True)
    elif error.validator == "additionalProperties":
        known = error.schema["properties"]
        for key in instance.keys() - known.keys():
            yield document.problem((*path, key), _unknown_field(key, known), at_key=True)
    elif error.validator == "required":
        for name in error.validator_value:
            if name not in instance:
                yield document.problem(path, f'the field "{name}" is missing')
    else:
        yield document.problem(path, _reason(error))


def _reason(error: _Error) -> str:
    shown, rule = _show(error.instance), error.validator_value
    match error.validator:
        case "type" if error.instance is None:
            reason = f"must be {_TYPE_NAMES[rule]}, but is empty"
        case "type":
            reason = f"must be {_TYPE_NAMES[rule]}, not {shown}"
        case "const":
            reason = f"must be {_show(rule)}, not {shown}"
        case "enum":
            reason = f"must be {' or '.join(rule)}, not {shown}"
        case "uniqueItems":
            reason = "names something twice"
        case "minItems" | "minProperties":
            reason = "must not be empty"
        case "maxProperties":
            reason = "must have only one of these fields"
        case "not":
            reason = str(error.schema.get("x-not") or error.schema["x-expected"])
        case _:
            reason = f"{shown} is not {_expected(error)}"
    return reason


def _expected(error: _Error) -> str:
    return str(error.schema.get("x-expected", f"allowed by the schema ({error.validator})"))


def _unknown_field(key: str, known: dict[str, Any]) -> str:
    close = get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
    return f"unknown field; {hint}"


def _show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
