# SPDX-License-Identifier: Apache-2.0
"""What must be done to turn the rows that are there into the rows that should be.

The one order in which a sink does it, so that traffic never meets a reference to nothing:
every upsert before any removal, the referent before what refers to it; removals the other way
round::

    svids ─ services ─ peers ─ workloads ─ endpoints ─ frontends ─ enrollments     ──▶ upserts
                                                                                  ◀── removals
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar

from mesh.model.address import IpAddress
from mesh.model.identity import Identity
from mesh.model.workload import WorkloadUid
from mesh.rows import changed_keys
from mesh.tables import (
    EndpointKey,
    EndpointRow,
    EnrollmentRow,
    FrontendKey,
    FrontendRow,
    PeerRow,
    ServiceId,
    ServiceRow,
    SvidRow,
    Tables,
    WorkloadId,
    WorkloadRow,
)

__all__ = ["ORDER", "Patch", "TableName", "TablesPatch", "apply", "diff", "diff_tables"]

KeyT = TypeVar("KeyT")
RowT = TypeVar("RowT")

TableName = Literal[
    "svids", "services", "peers", "workloads", "endpoints", "frontends", "enrollments"
]

ORDER: Final[tuple[TableName, ...]] = (
    "svids",
    "services",
    "peers",
    "workloads",
    "endpoints",
    "frontends",
    "enrollments",
)
"""Each table after everything that its rows refer to."""


@dataclass(frozen=True, slots=True)
class Patch(Generic[KeyT, RowT]):
    """The rows to write, by key, and the keys to remove."""

    upserts: Mapping[KeyT, RowT] = field(default_factory=dict)
    removes: tuple[KeyT, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.upserts or self.removes)


def diff(have: Mapping[KeyT, RowT], want: Mapping[KeyT, RowT]) -> Patch[KeyT, RowT]:
    """The patch from ``have`` to ``want``; ``apply(diff(have, want), have) == want``."""
    if have is want:
        return Patch()
    nothing = object()
    get: Any = have.get  # a default of another type than the rows
    keys = changed_keys(have, want)
    rows = want.items() if keys is None else [(key, want[key]) for key in keys if key in want]
    return Patch(
        upserts={
            key: row for key, row in rows if (old := get(key, nothing)) is not row and old != row
        },
        removes=tuple(
            key for key in (have if keys is None else keys) if key in have and key not in want
        ),
    )


def apply(patch: Patch[KeyT, RowT], have: Mapping[KeyT, RowT]) -> dict[KeyT, RowT]:
    """``have`` with the patch applied, as a new mapping."""
    result = {**have, **patch.upserts}
    for key in patch.removes:
        del result[key]
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class TablesPatch:
    """A patch for each table."""

    svids: Patch[Identity, SvidRow]
    services: Patch[ServiceId, ServiceRow]
    peers: Patch[WorkloadId, PeerRow]
    workloads: Patch[IpAddress, WorkloadRow]
    endpoints: Patch[EndpointKey, EndpointRow]
    frontends: Patch[FrontendKey, FrontendRow]
    enrollments: Patch[WorkloadUid, EnrollmentRow]

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return any(getattr(self, table) for table in ORDER)

    def upserts(self) -> Iterator[tuple[TableName, Mapping[Any, Any]]]:
        """What to write, table by table, the referent first; tables without work are left out."""
        for table in ORDER:
            patch: Patch[Any, Any] = getattr(self, table)
            if patch.upserts:
                yield table, patch.upserts

    def removes(self) -> Iterator[tuple[TableName, tuple[Any, ...]]]:
        """What to remove, table by table, the reference first; after every upsert."""
        for table in reversed(ORDER):
            patch: Patch[Any, Any] = getattr(self, table)
            if patch.removes:
                yield table, patch.removes


def diff_tables(have: Tables, want: Tables) -> TablesPatch:
    """The patch from one set of Tables to another."""
    return TablesPatch(
        svids=diff(have.svids, want.svids),
        services=diff(have.services, want.services),
        peers=diff(have.peers, want.peers),
        workloads=diff(have.workloads, want.workloads),
        endpoints=diff(have.endpoints, want.endpoints),
        frontends=diff(have.frontends, want.frontends),
        enrollments=diff(have.enrollments, want.enrollments),
    )
