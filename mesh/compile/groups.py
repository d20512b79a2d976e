# SPDX-License-Identifier: Apache-2.0
"""Groups of rows by origin, kept for as long as what they were made from stays the same."""

from collections.abc import Callable, Hashable, Iterable, KeysView, Mapping
from typing import Generic, TypeVar

from mesh.rows import Rows

__all__ = ["Change", "Groups", "merge_changes"]

OriginT = TypeVar("OriginT", bound=Hashable)
InputsT = TypeVar("InputsT")
GroupT = TypeVar("GroupT")
KeyT = TypeVar("KeyT")
RowT = TypeVar("RowT")

Change = tuple[GroupT | None, GroupT | None]
"""A group before and after; None where there was or is none."""


class Groups(Generic[OriginT, InputsT, GroupT]):
    """The memo.

    A group whose inputs are equal is the same object as before, and so is one that came out equal
    from other inputs.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[OriginT, tuple[InputsT, GroupT]] = {}

    def renew(
        self,
        wanted: Iterable[tuple[OriginT, InputsT | None]],
        make: Callable[[InputsT], GroupT],
    ) -> list[Change[GroupT]]:
        """Make these groups anew where their inputs differ, and leave all others as they are.

        Inputs of None: there is no such group any more. Returns what is not as it was.
        """
        changes: list[Change[GroupT]] = []
        for origin, inputs in wanted:
            before = self._kept.get(origin)
            if inputs is None:
                if before is not None:
                    del self._kept[origin]
                    changes.append((before[1], None))
                continue
            if before is not None and before[0] == inputs:
                continue
            group = make(inputs)
            if before is None:
                changes.append((None, group))
            elif before[1] == group:
                group = before[1]
            else:
                changes.append((before[1], group))
            self._kept[origin] = (inputs, group)
        return changes

    def inputs(self, origin: OriginT) -> InputsT | None:
        """What a group was made from; None where there is none."""
        kept = self._kept.get(origin)
        return None if kept is None else kept[0]

    def origins(self) -> KeysView[OriginT]:
        """Whose groups are kept."""
        return self._kept.keys()


def merge_changes(
    before: Rows[KeyT, RowT],
    rows_of: Callable[[GroupT], Mapping[KeyT, RowT]],
    changes: list[Change[GroupT]],
) -> Rows[KeyT, RowT]:
    """One table out of its part of every group; ``before`` itself if no change touches it.

    No two groups have a row of one key at a time; a key may go from one to the other.
    """
    upserts: dict[KeyT, RowT] = {}
    for _, new in changes:
        if new is not None:
            upserts.update(rows_of(new))
    removes = [
        key for old, _ in changes if old is not None for key in rows_of(old) if key not in upserts
    ]
    return before.change(upserts, removes)
