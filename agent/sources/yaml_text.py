# SPDX-License-Identifier: Apache-2.0
"""YAML text to plain values, with the line of each. The one doorway to ruamel.yaml.

YAML 1.2 by its node graph rather than by ruamel's objects: every value keeps its position, a key
twice is refused, a tag builds nothing, and what aliases expand to is counted, so that a small file
cannot become a large one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from agent.sources.problems import FieldPath, MeshFileError, Problem, format_field

__all__ = ["MAX_BYTES", "Document", "Position", "parse_yaml"]

MAX_BYTES: Final = 32 * 1024 * 1024
"""A mesh of 50,000 workloads is about half of it."""

_MAX_VALUES: Final = 4_000_000
_MAX_DEPTH: Final = 32

Position = tuple[int, int]
"""Line and column, from 1."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file's value, and where each field (by its value, or by its key) stands in it."""

    file: str
    value: Any
    positions: Mapping[FieldPath, Position]
    key_positions: Mapping[FieldPath, Position]

    def problem(self, path: FieldPath, reason: str, *, at_key: bool = False) -> Problem:
        """A problem at this path, or at the nearest place around it that exists."""
        known = self.key_positions if at_key else self.positions
        where = path
        while where and where not in known:
            where = where[:-1]
        line, column = known.get(where) or self.positions.get(where, (1, 1))
        return Problem(line=line, column=column, field=format_field(path), reason=reason)


def parse_yaml(text: bytes, file: str) -> Document:
    """Read one YAML document. Raises MeshFileError."""
    if len(text) > MAX_BYTES:
        raise _refusal(file, (1, 1), f"the file is larger than {MAX_BYTES // 1024**2} MiB")
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        raise _refusal(file, (line, 1), "the file is not UTF-8 text") from error
    try:
        node = YAML(typ="safe", pure=True).compose(decoded)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        reason = error.problem or error.context or "malformed"
        raise _refusal(file, where, f"not YAML: {reason}") from error
    except RecursionError as error:
        raise _refusal(file, (1, 1), "values are nested too deeply") from error
    except (YAMLError, ValueError) as error:
        raise _refusal(file, (1, 1), f"not YAML: {str(error).splitlines()[0]}") from error
    if node is None:
        raise _refusal(file, (1, 1), "the file is empty")
    reader = _Reader(file)
    value = reader.read(node, ())
    if reader.problems:
        raise MeshFileError(file, reader.problems)
    return Document(file, value, reader.positions, reader.key_positions)


def _refusal(file: str, where: Position, reason: str) -> MeshFileError:
    return MeshFileError(file, [Problem(where[0], where[1], "", reason)])


class _Reader:
    """Turns nodes into values, noting positions and collecting what cannot be a value."""

    def __init__(self, file: str) -> None:
        self.positions: dict[FieldPath, Position] = {}
        self.key_positions: dict[FieldPath, Position] = {}
        self.problems: list[Problem] = []
        self._file = file
        self._count = 0

    def read(self, node: Node, path: FieldPath) -> Any:
        where = _position(node)
        self._count += 1
        if self._count > _MAX_VALUES or len(path) > _MAX_DEPTH:
            # An alias may repeat or even contain itself: stop, whatever the file's size.
            raise _refusal(self._file, where, "values or aliases expand too far")
        self.positions[path] = where
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            self._check_tag(node, path, "seq")
            return [self.read(child, (*path, index)) for index, child in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: FieldPath) -> dict[str, Any]:
        self._check_tag(node, path, "map")
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._complain(key_node, path, "a key must be a plain word")
                continue
            key = str(key_node.value)
            if key in result:
                first = self.key_positions[*path, key][0]
                self._complain(key_node, (*path, key), f"given twice; first in line {first}")
                continue
            self.key_positions[*path, key] = _position(key_node)
            result[key] = self.read(value_node, (*path, key))
            if value_node.start_mark.index == value_node.end_mark.index:
                # Nothing is written there: the parser names the next thing's place instead.
                self.positions[*path, key] = _position(key_node)
        return result

    def _scalar(self, node: Node, path: FieldPath) -> Any:
        text = str(node.value)
        match _tag(node):
            case "str" | "timestamp":
                return text
            case "int":
                return _integer(text)
            case "float":
                return _float(text)
            case "bool":
                return text.lower() == "true"
            case "null":
                return None
            case _:
                self._complain(node, path, f"the tag {_full_tag(node)} is not supported")
                return None

    def _check_tag(self, node: Node, path: FieldPath, expected: str) -> None:
        if _tag(node) != expected:
            self._complain(node, path, f"the tag {_full_tag(node)} is not supported")

    def _complain(self, node: Node, path: FieldPath, reason: str) -> None:
        line, column = _position(node)
        self.problems.append(Problem(line, column, format_field(path), reason))


def _position(node: Node) -> Position:
    mark = node.start_mark
    return mark.line + 1, mark.column + 1


def _full_tag(node: Node) -> str:
    return str(node.tag)


def _tag(node: Node) -> str:
    return _full_tag(node).removeprefix("tag:yaml.org,2002:")


def _integer(text: str) -> int | str:
    """YAML 1.2 integers; ruamel resolves only these to !!int, an explicit tag may hold anything."""
    try:
        return int(text.replace("_", ""), 0)
    except ValueError:
        pass
    try:
        return int(text)  # leading zeros
    except ValueError:
        return text


def _float(text: str) -> float | str:
    try:
        return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        return text
