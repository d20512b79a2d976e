# SPDX-License-Identifier: Apache-2.0
"""Groups of rows by origin, kept for as long as what they were made from stays the same."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

__all__ = ["Change", "Groups", "merge_table"]

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
        self, wanted: Iterable[tuple[OriginT, InputsT]], make: Callable[[InputsT], GroupT]
    ) -> list[Change[GroupT]]:
        """Hold exactly the wanted groups, in their order; returns what is not as it was."""
        kept: dict[OriginT, tuple[InputsT, GroupT]] = {}
        changes: list[Change[GroupT]] = []
        for origin, inputs in wanted:
            before = self._kept.get(origin)
            if before is not None and before[0] == inputs:
                kept[origin] = before
                continue
            group = make(inputs)
            if before is None:
                changes.append((None, group))
            elif before[1] == group:
                group = before[1]
            else:
                changes.append((before[1], group))
            kept[origin] = (inputs, group)
        changes += [(self._kept[gone][1], None) for gone in self._kept.keys() - kept.keys()]
        self._kept = kept
        return changes

    def __iter__(self) -> Iterator[GroupT]:
        return (group for _, group in self._kept.values())


def merge_table(
    before: Mapping[KeyT, RowT],
    rows_of: Callable[[GroupT], Mapping[KeyT, RowT]],
    groups: Iterable[GroupT],
    changes: list[Change[GroupT]],
) -> Mapping[KeyT, RowT]:
    """One table out of its part of every group; ``before`` itself if no change touches it."""
    nothing: Mapping[KeyT, RowT] = {}
    touched = any(
        (nothing if old is None else rows_of(old)) != (nothing if new is None else rows_of(new))
        for old, new in changes
    )
    if not touched:
        return before
    merged: dict[KeyT, RowT] = {}
    for rows in map(rows_of, groups):
        merged.update(rows)  # copies the stored hashes: hashing an address anew is slow
    return merged
