# SPDX-License-Identifier: Apache-2.0
"""YAML text to plain values, with the line of each. The one doorway to PyYAML.

YAML 1.2 out of the parser's events rather than by PyYAML's objects, which are YAML 1.1: every value
keeps its position, a key twice is refused, a tag builds nothing, and what aliases expand to is
counted, so that a small file cannot become a large one. (The parser is libyaml: 10,000 workloads
take a second. In Python alone the same took five.)
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import yaml
from yaml.cyaml import CParser  # type: ignore[attr-defined] # the stub forgets it

from agent.sources.problems import MAX_BYTES, FieldPath, MeshFileError, Problem, format_field

__all__ = ["Document", "Position", "parse_documents", "parse_yaml"]

_MAX_VALUES: Final = 4_000_000
_MAX_DEPTH: Final = 32
_MAX_DIGITS: Final = 128
_TAGS: Final = "tag:yaml.org,2002:"

Position = tuple[int, int]
"""Line and column, from 1."""

_Event = Any
"""An event of the parser; the stubs leave its members open."""


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
    with _sentences(text, file):
        reader = _Reader(file, CParser(_decode(text, file)))
        value = reader.document()
    if reader.problems:
        raise MeshFileError(file, reader.problems)
    return Document(file, value, reader.positions, reader.key_positions)


def parse_documents(text: bytes, file: str) -> tuple[list[Document], list[Problem]]:
    """Read every YAML document of a file, and what is wrong with its YAML.

    One that is not YAML ends the reading; those before it are returned all the same.
    """
    found: list[Document] = []
    problems: list[Problem] = []
    try:
        with _sentences(text, file):
            reader = _Reader(file, CParser(_decode(text, file)))
            for value in reader.documents():
                found.append(Document(file, value, reader.positions, reader.key_positions))
                problems += reader.problems
    except MeshFileError as error:
        problems += error.problems
    return found, problems


def _decode(text: bytes, file: str) -> str:
    if len(text) > MAX_BYTES:
        raise _refusal(file, (1, 1), f"the file is larger than {MAX_BYTES // 1024**2} MiB")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        raise _refusal(file, (line, 1), "the file is not UTF-8 text") from error


@contextmanager
def _sentences(text: bytes, file: str) -> Iterator[None]:
    """Turn the parser's errors into ours."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark or error.context_mark
        where = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        reason = error.problem or error.context or "malformed"
        raise _refusal(file, where, f"not YAML: {reason}") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count(b"\n") + 1
        raise _refusal(file, (line, 1), f"not YAML: {error.reason}") from error


def _refusal(file: str, where: Position, reason: str) -> MeshFileError:
    return MeshFileError(file, [Problem(where[0], where[1], "", reason)])


@dataclass(frozen=True, slots=True)
class _Anchored:
    """What an alias stands for: where it was written, its value and, of a scalar, its text."""

    path: FieldPath
    value: Any
    text: str | None


class _Reader:
    """Turns events into values, noting positions and collecting what cannot be a value."""

    def __init__(self, file: str, parser: Any) -> None:
        self._file = file
        self._next = parser.get_event
        self._count = 0
        self._texts: dict[str, str] = {}
        self._begin()

    def _begin(self) -> None:
        """Of the document before, nothing holds in the next; but all are counted together."""
        self.positions: dict[FieldPath, Position] = {}
        self.key_positions: dict[FieldPath, Position] = {}
        self.problems: list[Problem] = []
        self._anchors: dict[str, _Anchored | None] = {}
        """None for one whose value is not complete."""

    def document(self) -> Any:
        """Read the only document that there is."""
        self._next()  # the start of the stream
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            raise _refusal(self._file, (1, 1), "the file is empty")
        value = self._read(self._next(), ())
        self._next()  # the end of the document
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise _refusal(self._file, _position(event), "not YAML: but found another document")
        return value

    def documents(self) -> Iterator[Any]:
        """Read one document after the other; positions are those of the last one."""
        self._next()  # the start of the stream
        while not isinstance(self._next(), yaml.StreamEndEvent):
            self._begin()
            value = self._read(self._next(), ())
            self._next()  # the end of the document
            yield value

    def _read(self, event: _Event, path: FieldPath) -> Any:
        if isinstance(event, yaml.AliasEvent):
            found = self._alias(event)
            return self._copy(found.value, found.path, path)
        self._visit(path, _position(event))
        anchor = event.anchor
        if anchor is not None:
            self._anchors[anchor] = None
        text: str | None = None
        if isinstance(event, yaml.ScalarEvent):
            text = self._texts.setdefault(event.value, event.value)
            value: Any = self._scalar(event, text, path)
        elif isinstance(event, yaml.MappingStartEvent):
            value = self._mapping(event, path)
        else:
            value = self._sequence(event, path)
        if anchor is not None:
            self._anchors[anchor] = _Anchored(path, value, text)
        return value

    def _visit(self, path: FieldPath, where: Position) -> None:
        self._count += 1
        if self._count > _MAX_VALUES or len(path) > _MAX_DEPTH:
            raise self._too_far(where)
        self.positions[path] = where

    def _too_far(self, where: Position) -> MeshFileError:
        return _refusal(self._file, where, "values or aliases expand too far")

    def _alias(self, event: _Event) -> _Anchored:
        where = _position(event)
        if event.anchor not in self._anchors:
            raise _refusal(self._file, where, f"not YAML: found undefined alias {event.anchor!r}")
        found = self._anchors[event.anchor]
        if found is None:  # it contains itself
            raise self._too_far(where)
        return found

    def _copy(self, value: Any, source: FieldPath, path: FieldPath) -> Any:
        """The same once more, and counted once more; it stands where it was written first."""
        self._visit(path, self.positions[source])
        if isinstance(value, list):
            return [self._copy(v, (*source, i), (*path, i)) for i, v in enumerate(value)]
        if isinstance(value, dict):
            for key in value:
                self.key_positions[*path, key] = self.key_positions[*source, key]
            return {k: self._copy(v, (*source, k), (*path, k)) for k, v in value.items()}
        return value

    def _sequence(self, event: _Event, path: FieldPath) -> list[Any]:
        self._check_tag(event, path, "seq")
        result: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            result.append(self._read(event, (*path, len(result))))
        return result

    def _mapping(self, event: _Event, path: FieldPath) -> dict[str, Any]:
        self._check_tag(event, path, "map")
        result: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._key(event, path)
            if key is None:
                self._complain(event, path, "a key must be a plain word")
                self._read(self._next(), (*path, "?"))
                continue
            field = (*path, key)
            if key in result:
                first = self.key_positions[field][0]
                self._complain(event, field, f"given twice; first in line {first}")
            where = self.key_positions[field] = _position(event)
            value = self._next()
            result[key] = self._read(value, field)
            if value.start_mark.index == value.end_mark.index:
                # Nothing is written there: the parser names the next thing's place instead.
                self.positions[field] = where
        return result

    def _key(self, event: _Event, path: FieldPath) -> str | None:
        """The text of a key; None for a list or a mapping, which is then read to its end."""
        if isinstance(event, yaml.ScalarEvent):
            key: str = self._texts.setdefault(event.value, event.value)
            if event.anchor is not None:
                self._anchors[event.anchor] = _Anchored((*path, key), key, key)
            return key
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event).text
        self._read(event, (*path, "?"))
        return None

    def _scalar(self, event: _Event, text: str, path: FieldPath) -> Any:
        match _scalar_tag(event, text):
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
                self._complain(event, path, f"the tag {event.tag} is not supported")
                return None

    def _check_tag(self, event: _Event, path: FieldPath, expected: str) -> None:
        if event.tag not in (None, "!", _TAGS + expected):
            self._complain(event, path, f"the tag {event.tag} is not supported")

    def _complain(self, event: _Event, path: FieldPath, reason: str) -> None:
        line, column = _position(event)
        self.problems.append(Problem(line, column, format_field(path), reason))


def _position(event: _Event) -> Position:
    mark = event.start_mark
    return mark.line + 1, mark.column + 1


_PLAIN: Final = re.compile(
    r"""(?P<null> ~ | null | Null | NULL | )
      | (?P<bool> true | True | TRUE | false | False | FALSE )
      | (?P<int> [-+]?0b[01_]+ | [-+]?0o[0-7_]+ | [-+]?0x[0-9a-fA-F_]+ | [-+]?[0-9][0-9_]* )
      | (?P<float> [-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)? | [-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
                 | [-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)? | [-+]?\.(?:inf|Inf|INF)
                 | \.(?:nan|NaN|NAN) )
    """,
    re.VERBOSE,
)
"""The core schema of YAML 1.2 (section 10.3.2), with binary numbers and underscores as well."""

_MAYBE_NOT_TEXT: Final = frozenset("0123456789+-.~nNtTfF")


def _scalar_tag(event: _Event, text: str) -> str:
    """The tag that is written, or what a plain word is; quotes make text."""
    tag: str | None = event.tag
    if tag not in (None, "!"):
        return str(tag).removeprefix(_TAGS)
    if not event.implicit[0] or (text and text[0] not in _MAYBE_NOT_TEXT):
        return "str"
    found = _PLAIN.fullmatch(text)
    return "str" if found is None else str(found.lastgroup)


def _integer(text: str) -> int | str:
    """An integer; an explicit tag may hold anything, and no field takes so long a number."""
    if len(text) > _MAX_DIGITS:
        return text
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
