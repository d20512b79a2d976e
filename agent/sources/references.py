# SPDX-License-Identifier: Apache-2.0
"""Checks across entries of a mesh file, which a schema cannot make.

Names given twice, names that resolve to nothing, addresses that two things claim. In a file each of
these is a mistake; the compiler, which hears of moments between two states, decides them instead.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from agent.sources.problems import FieldPath, Problem, format_field
from agent.sources.yaml_text import Document
from mesh.model.address import IpAddress

__all__ = ["check_references"]

Raw = dict[str, Any]


def check_references(
    document: Document, broken: AbstractSet[FieldPath], addresses: Mapping[str, IpAddress]
) -> list[Problem]:
    """Every problem between entries. ``broken`` entries are only asked for their names.

    ``addresses`` has the value of each address that stands in one of the others.
    """
    check = _References(document, broken, addresses)
    check.names()
    check.nodes()
    check.addresses()
    check.netns()
    check.services()
    return check.problems


class _References:
    """The claims made so far, and what two entries claim."""

    def __init__(
        self,
        document: Document,
        broken: AbstractSet[FieldPath],
        addresses: Mapping[str, IpAddress],
    ) -> None:
        self.problems: list[Problem] = []
        self._document = document
        self._broken = broken
        self._addresses = addresses
        self._claims: dict[object, FieldPath] = {}
        self._node_names = {raw.get("name") for _, raw in self._entries("nodes")}
        self._workload_names = {_full_name(raw) for _, raw in self._entries("workloads")}

    def names(self) -> None:
        for section in ("nodes", "namespaces"):
            for path, raw in self._entries(section):
                self._claim((section, raw.get("name")), (*path, "name"), f'"{raw.get("name")}"')
        for section in ("workloads", "services"):
            for path, raw in self._entries(section):
                if isinstance(raw.get("namespace"), str):
                    name = _full_name(raw)
                    self._claim((section, name), (*path, "name"), f'"{name}"')

    def nodes(self) -> None:
        for path, raw in self._sound("workloads"):
            if raw["node"] not in self._node_names:
                self._complain((*path, "node"), f'no node is named "{raw["node"]}"')

    def addresses(self) -> None:
        for path, raw in self._sound("nodes"):
            for place, address in self._addresses_of(raw, path, "addresses"):
                self._claim(address, place, f"address {address}")
        for path, raw in self._sound("workloads"):
            if raw.get("hostNetwork"):
                continue  # its addresses are the node's
            for place, address in self._addresses_of(raw, path, "addresses"):
                self._claim(address, place, f"address {address}")
        self._vips()

    def _vips(self) -> None:
        """A VIP may be shared by services with different ports, but with nothing else."""
        dialled: dict[object, FieldPath] = {}
        for path, raw in self._sound("services"):
            for place, vip in self._addresses_of(raw, path, "vips"):
                holder = self._claims.get(vip)
                if holder is not None:
                    self._taken(place, f"address {vip}", holder)
                for port in raw["ports"]:
                    protocol = port.get("protocol", "TCP")
                    key = (vip, port["port"], protocol)
                    first = dialled.setdefault(key, path)
                    if first != path:
                        what = f"VIP {vip} port {port['port']}/{protocol}"
                        self._taken(place, what, (*first, "name"))

    def netns(self) -> None:
        for path, raw in self._sound("workloads"):
            place = (*path, "netns")
            if "netns" not in raw:
                continue
            if raw.get("hostNetwork"):
                self._complain(place, "a workload with hostNetwork has no netns of its own")
            else:
                self._claim(("netns", raw["node"], raw["netns"]), place, f'"{raw["netns"]}"')

    def services(self) -> None:
        for path, raw in self._sound("services"):
            for index, port in enumerate(raw["ports"]):
                if "name" in port:
                    key = ("port name", path, port["name"])
                    self._claim(key, (*path, "ports", index, "name"), f'"{port["name"]}"')
            for index, endpoint in enumerate(raw.get("endpoints", ())):
                name = endpoint.get("workload")
                if name is not None and name not in self._workload_names:
                    self._complain(
                        (*path, "endpoints", index, "workload"), f'no workload is named "{name}"'
                    )

    def _claim(self, key: object, path: FieldPath, what: str) -> None:
        first = self._claims.setdefault(key, path)
        if first != path:
            self._taken(path, what, first)

    def _taken(self, path: FieldPath, what: str, first: FieldPath) -> None:
        line = self._document.positions.get(first, (0, 0))[0]
        self._complain(path, f"{what} is already in use by {format_field(first)} (line {line})")

    def _complain(self, path: FieldPath, reason: str) -> None:
        self.problems.append(self._document.problem(path, reason))

    def _entries(self, section: str) -> Iterator[tuple[FieldPath, Raw]]:
        """Every entry that can be asked for a name."""
        raws = self._document.value.get(section)
        for index, raw in enumerate(raws if isinstance(raws, list) else ()):
            if isinstance(raw, dict) and isinstance(raw.get("name"), str):
                yield (section, index), raw

    def _sound(self, section: str) -> Iterator[tuple[FieldPath, Raw]]:
        """Every entry that has no problem of its own."""
        return ((path, raw) for path, raw in self._entries(section) if path not in self._broken)

    def _addresses_of(
        self, raw: Raw, path: FieldPath, name: str
    ) -> Iterator[tuple[FieldPath, IpAddress]]:
        for index, text in enumerate(raw.get(name, ())):
            yield (*path, name, index), self._addresses[text]


def _full_name(raw: Raw) -> str:
    return f"{raw.get('namespace')}/{raw.get('name')}"
