# SPDX-License-Identifier: Apache-2.0
"""Reading fields of Kubernetes objects: every mistake is a problem with its place, none ends it.

What is wrong reads as missing, so that one mistake is told once; whoever reads asks ``problems``
whether there was one.
"""

from collections.abc import Callable, Collection
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final, TypeVar

from agent.sources.problems import FieldPath, Problem
from agent.sources.yaml_text import Document
from mesh.model.errors import ModelError
from mesh.model.labels import NO_LABELS, Labels
from mesh.model.network_policy import IpNetwork
from mesh.model.policy import LabelSelector, Operator, Origin, Requirement

__all__ = ["Fields", "Raw"]

Raw = dict[str, Any]
T = TypeVar("T")

_PORT_MAX: Final = 65535
_PORT_DIGITS: Final = 5
_MAPPED: Final = IPv6Network("::ffff:0:0/96")


class Fields:
    """Typed access to the values of one document."""

    def __init__(self, document: Document) -> None:
        self.problems: list[Problem] = []
        self._document = document

    def origin(self, path: FieldPath) -> Origin:
        """Where a field stands."""
        line, _ = self._document.positions.get(path, (0, 0))
        return Origin(self._document.file, line)

    def refuse(self, path: FieldPath, reason: str, *, at_key: bool = False) -> None:
        """Note a problem."""
        self.problems.append(self._document.problem(path, reason, at_key=at_key))

    def attempt(self, path: FieldPath, make: Callable[[], T]) -> T | None:
        """What ``make`` returns; a ModelError becomes a problem at this place."""
        try:
            return make()
        except ModelError as error:
            self.refuse(path, str(error))
            return None

    def mapping(self, value: object, path: FieldPath, known: Collection[str]) -> Raw:
        """A mapping with no field but these; empty where it is missing or none."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.refuse(path, f"must be a mapping, not {_show(value)}")
            return {}
        for key in value.keys() - set(known):
            close = get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
            self.refuse((*path, key), f"unknown field; {hint}", at_key=True)
        return {key: value[key] for key in value.keys() & set(known)}

    def items(
        self, raw: Raw, key: str, path: FieldPath, *, filled: bool = False
    ) -> list[tuple[Any, FieldPath]]:
        """The elements of a list with their places; empty where it is missing or none.

        ``filled``: where the field stands it holds something. What a template has left empty would
        otherwise match everything.
        """
        value = raw.get(key)
        if filled and key in raw and value in (None, []):
            self.refuse((*path, key), "must not be empty; without the field anything matches")
        if value is None:
            return []
        if not isinstance(value, list):
            self.refuse((*path, key), f"must be a list, not {_show(value)}")
            return []
        found = [(one, (*path, key, index)) for index, one in enumerate(value)]
        for one, place in found:
            if one is None:
                self.refuse(place, "is empty: nothing follows the dash")
        return [(one, place) for one, place in found if one is not None]

    def text(self, raw: Raw, key: str, path: FieldPath, default: str | None = None) -> str:
        """A text; required where there is no default."""
        value = raw.get(key, default)
        if isinstance(value, str) and value:
            return value
        if key in raw:
            self.refuse((*path, key), f"must be text, not {_show(value)}")
        elif default is None:
            self.refuse(path, f'the field "{key}" is missing')
        return default or ""

    def texts(
        self, raw: Raw, key: str, path: FieldPath, *, filled: bool = False
    ) -> tuple[str, ...]:
        """A list of texts."""
        found: list[str] = []
        for value, place in self.items(raw, key, path, filled=filled):
            if isinstance(value, str) and value:
                found.append(value)
            else:
                self.refuse(place, f"must be text, not {_show(value)}")
        return tuple(found)

    def choice(self, raw: Raw, key: str, path: FieldPath, known: Collection[str]) -> str | None:
        """One of these words, or None where it is missing or wrong."""
        if key not in raw:
            return None
        value = raw[key]
        if value in known:
            return str(value)
        self.refuse((*path, key), f"must be {' or '.join(known)}, not {_show(value)}")
        return None

    def port(self, value: object, path: FieldPath) -> int | None:
        """A port number, also written as text (Istio writes them so)."""
        number = value
        if isinstance(value, str) and len(value) <= _PORT_DIGITS and value.isascii():
            number = int(value) if value.isdecimal() else value
        if type(number) is int and 1 <= number <= _PORT_MAX:
            return number
        self.refuse(path, f"must be a port from 1 to {_PORT_MAX}, not {_show(value)}")
        return None

    def network(self, value: object, path: FieldPath) -> IpNetwork | None:
        """An address block: ``10.0.0.0/8``, or one address."""
        try:
            # Host bits are cut off, as the API server does.
            network = ip_network(value, strict=False) if isinstance(value, str) else None
        except ValueError as error:
            self.refuse(path, f"{_show(value)} is not an address block like 10.0.0.0/8: {error}")
            return None
        if network is None:
            self.refuse(path, f"must be an address block like 10.0.0.0/8, not {_show(value)}")
            return None
        text = str(value)
        if "%" in text or text.partition("/")[2].strip("0123456789"):
            self.refuse(path, f"{_show(value)} is not an address block like 10.0.0.0/8")
            return None
        if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
            mapped = int(network.network_address) & 0xFFFFFFFF
            return IPv4Network((mapped, network.prefixlen - _MAPPED.prefixlen))
        return network

    def networks(
        self, raw: Raw, key: str, path: FieldPath, *, filled: bool = False
    ) -> tuple[IpNetwork, ...]:
        """A list of address blocks."""
        items = self.items(raw, key, path, filled=filled)
        found = (self.network(value, place) for value, place in items)
        return tuple(network for network in found if network is not None)

    def labels(self, value: object, path: FieldPath) -> Labels:
        """Label pairs."""
        if value is None:
            return NO_LABELS
        if not isinstance(value, dict):
            self.refuse(path, f"must be a mapping of labels, not {_show(value)}")
            return NO_LABELS
        for key, text in value.items():
            if not isinstance(text, str):
                self.refuse((*path, key), f"must be text (in quotes), not {_show(text)}")
        return Labels({k: v for k, v in value.items() if isinstance(v, str)})

    def selector(self, value: object, path: FieldPath) -> LabelSelector:
        """A metav1.LabelSelector."""
        raw = self.mapping(value, path, ("matchLabels", "matchExpressions"))
        labels = self.labels(raw.get("matchLabels"), (*path, "matchLabels"))
        expressions: list[Requirement] = []
        for one, place in self.items(raw, "matchExpressions", path):
            made = self._requirement(one, place)
            if made is not None:
                expressions.append(made)
        return LabelSelector(labels, tuple(expressions))

    def _requirement(self, value: object, path: FieldPath) -> Requirement | None:
        raw = self.mapping(value, path, ("key", "operator", "values"))
        key = self.text(raw, "key", path)
        operator = self.choice(raw, "operator", path, [one.value for one in Operator])
        if "operator" not in raw:
            self.refuse(path, 'the field "operator" is missing')
        if operator is None:
            return None
        values = self.texts(raw, "values", path)
        return self.attempt(path, lambda: Requirement(key, Operator(operator), values))


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
