# SPDX-License-Identifier: Apache-2.0
"""A table that never changes, made from another by changing some rows; it knows which.

::

    before ── change(upserts, removes) ──▶ after        changed_keys(before, after) = those rows

Rows lie in shards by the hash of their key, and what did not change is shared: a change of one row
of ten thousand copies forty. Each table remembers the last few steps that led to it, so that a sink
which holds an older one, or one of another branch, is told what to look at without comparing all.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, count
from typing import Any, Final, Generic, NamedTuple, TypeVar

__all__ = ["Rows", "changed_keys"]

K = TypeVar("K")
R = TypeVar("R")

_SHARDS: Final = 256
"""A power of two. 10,000 rows make 40 to a shard, which is copied in a microsecond."""

_STEPS: Final = 64
"""A sink that is further behind compares everything, as it does at its start."""

_STEP_KEYS: Final = 1024
"""A step that changes more is not worth remembering."""

_stamps = count()


class _Step(NamedTuple):
    """One change: the stamp of the table before it, and the keys that it touched."""

    before: int
    keys: tuple[Any, ...]


class Rows(Mapping[K, R], Generic[K, R]):
    """The rows of one table by key. Rows are never None."""

    __slots__ = ("_count", "_history", "_shards", "_stamp")

    def __init__(self) -> None:
        self._shards: tuple[dict[K, R], ...] = ({},) * _SHARDS  # copied before it is written
        self._count = 0
        self._stamp = next(_stamps)
        self._history: tuple[_Step, ...] = ()

    def change(self, upserts: Mapping[K, R], removes: Iterable[K] = ()) -> "Rows[K, R]":
        """The table with these rows put in and those taken out; itself where that is no change.

        A row that is equal to the one that is there is left as it is. A key must not be in both.
        """
        copies: dict[int, dict[K, R]] = {}
        touched: list[K] = []
        size = self._count
        for key, row in upserts.items():
            index = hash(key) % _SHARDS
            old = self._shards[index].get(key)
            if old is row or old == row:
                continue
            size += old is None
            touched.append(key)
            self._copy(copies, index)[key] = row
        for key in removes:
            index = hash(key) % _SHARDS
            if key in copies.get(index, self._shards[index]):
                size -= 1
                touched.append(key)
                del self._copy(copies, index)[key]
        return self._with(copies, size, touched) if touched else self

    def become(self, want: Mapping[K, R]) -> "Rows[K, R]":
        """The table with exactly these rows; itself where it has them."""
        return self.change(want, [key for key in self if key not in want])

    def _copy(self, copies: dict[int, dict[K, R]], index: int) -> dict[K, R]:
        shard = copies.get(index)
        if shard is None:
            shard = copies[index] = self._shards[index].copy()
        return shard

    def _with(self, copies: dict[int, dict[K, R]], size: int, touched: list[K]) -> "Rows[K, R]":
        made: Rows[K, R] = Rows()
        shards = list(self._shards)
        for index, shard in copies.items():
            shards[index] = shard
        made._shards = tuple(shards)
        made._count = size
        if len(touched) <= _STEP_KEYS:
            step = _Step(self._stamp, tuple(touched))
            made._history = (*self._history[1 - _STEPS :], step)
        return made

    def __getitem__(self, key: K) -> R:
        return self._shards[hash(key) % _SHARDS][key]

    def get(self, key: K, default: Any = None) -> Any:  # noqa: D102 - as any mapping's
        return self._shards[hash(key) % _SHARDS].get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._shards[hash(key) % _SHARDS]

    def __iter__(self) -> Iterator[K]:
        return chain.from_iterable(self._shards)

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Mapping):
            return NotImplemented
        nothing = object()
        return len(self) == len(other) and all(
            (held := other.get(key, nothing)) is row or held == row for key, row in self.items()
        )

    __hash__ = None  # type: ignore[assignment] # a mapping

    def __repr__(self) -> str:
        return f"Rows({dict(self.items())!r})"


def changed_keys(have: Mapping[K, R], want: Mapping[K, R]) -> Collection[K] | None:
    """The keys that can differ between two tables; None where nothing less than all is known."""
    if have is want:
        return ()
    if not isinstance(have, Rows) or not isinstance(want, Rows):
        return None
    if want._history and want._history[-1].before == have._stamp:  # noqa: SLF001 - see below
        return want._history[-1].keys  # noqa: SLF001 - see below
    places = {step.before: place for place, step in enumerate(have._history)}  # noqa: SLF001
    places[have._stamp] = len(places)  # noqa: SLF001 - a table and its changes are one thing
    steps = want._history  # noqa: SLF001 - as above
    if want._stamp in places:  # noqa: SLF001 - as above
        shared, own = want._stamp, len(steps)  # noqa: SLF001 - as above
    else:
        for own in range(len(steps) - 1, -1, -1):
            shared = steps[own].before
            if shared in places:
                break
        else:
            return None
    others = have._history[places[shared] :]  # noqa: SLF001 - as above
    return {key for step in (*others, *steps[own:]) for key in step.keys}
