# SPDX-License-Identifier: Apache-2.0
"""A store: one primary map and named indexes, kept in step by one insert and one remove.

It remembers which keys were touched last, so that who has seen an earlier revision is told what is
new since.
"""

from collections import OrderedDict
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    ValuesView,
)
from collections.abc import (
    Set as AbstractSet,
)
from typing import Any, Final, Generic, TypeVar

__all__ = ["Index", "Store"]

K = TypeVar("K")
V = TypeVar("V")
H = TypeVar("H")

_REMEMBERED: Final = 4096
"""Keys whose last change is remembered; who is further behind looks at everything."""


class Index(Generic[H, K, V]):
    """From something that values say of themselves to the keys of the values that say it.

    Make one with :meth:`Store.add_index`; the store keeps it current.
    """

    __slots__ = ("_facets", "_keys", "_nothing", "_shared", "_stamps")

    def __init__(self, facets: Callable[[V], Iterable[H]]) -> None:
        self._facets = facets
        self._keys: dict[H, tuple[K] | set[K]] = {}  # most have one, and a set takes 216 bytes
        self._shared: set[H] = set()
        self._stamps: dict[H, object] = {}
        self._nothing = object()

    @property
    def shared(self) -> AbstractSet[H]:
        """The facets that more than one value has."""
        return self._shared

    def __getitem__(self, facet: H) -> Collection[K]:
        """The keys of the values with this facet, in no order; empty where there are none."""
        return self._keys.get(facet, ())

    def __iter__(self) -> Iterator[H]:
        """Every facet that some value has, in no order."""
        return iter(self._keys)

    def count(self, facet: H) -> int:
        """How many values have this facet."""
        return len(self._keys.get(facet, ()))

    def stamp(self, facet: H) -> object:
        """The same object for as long as no value with this facet comes, goes or is replaced.

        For a memo to compare by ``is``; of an index of another store it is always another.
        """
        if facet not in self._keys:
            return self._nothing
        return self._stamps.setdefault(facet, object())

    def _insert(self, key: K, value: V) -> None:
        for facet in self._facets(value):
            self._stamps.pop(facet, None)
            keys = self._keys.get(facet)
            if keys is None:
                self._keys[facet] = (key,)
            elif isinstance(keys, set):
                keys.add(key)
            elif keys != (key,):
                self._keys[facet] = {*keys, key}
                self._shared.add(facet)

    def _remove(self, key: K, value: V) -> None:
        for facet in self._facets(value):
            self._stamps.pop(facet, None)
            keys = self._keys[facet]
            if isinstance(keys, set):
                keys.discard(key)
                if len(keys) == 1:
                    (last,) = keys
                    self._keys[facet] = (last,)
                    self._shared.discard(facet)
            elif keys == (key,):
                del self._keys[facet]


class Store(Generic[K, V]):
    """Values by key. ``insert`` replaces; ``remove`` of what is not there does nothing."""

    __slots__ = ("_forgotten", "_indexes", "_touched", "_values", "revision")

    def __init__(self) -> None:
        self._values: dict[K, V] = {}
        self._indexes: list[Index[Any, K, V]] = []
        self._touched: OrderedDict[K, int] = OrderedDict()
        self._forgotten = 0
        self.revision = 0
        """Grows with every change."""

    def add_index(self, facets: Callable[[V], Iterable[H]]) -> Index[H, K, V]:
        """An index over ``facets``, which must depend on the value alone. Call before inserting."""
        index: Index[H, K, V] = Index(facets)
        self._indexes.append(index)
        return index

    def insert(self, key: K, value: V) -> None:
        """Put the value under the key and into every index."""
        self._take(key)
        self._note(key)
        self._values[key] = value
        for index in self._indexes:
            index._insert(key, value)  # noqa: SLF001 - a store and its indexes are one thing

    def remove(self, key: K) -> None:
        """Take the value out of the map and of every index."""
        if key in self._values:
            self._take(key)
            self._note(key)

    def changed_since(self, revision: int) -> list[K] | None:
        """The keys that came, went or were replaced since then, the last first; None: too many."""
        if revision < self._forgotten:
            return None
        found: list[K] = []
        for key in reversed(self._touched):
            if self._touched[key] <= revision:
                break
            found.append(key)
        return found

    def _take(self, key: K) -> None:
        if key in self._values:
            value = self._values.pop(key)
            for index in self._indexes:
                index._remove(key, value)  # noqa: SLF001 - as above

    def _note(self, key: K) -> None:
        self.revision += 1
        self._touched[key] = self.revision
        self._touched.move_to_end(key)
        if len(self._touched) > _REMEMBERED:
            _, self._forgotten = self._touched.popitem(last=False)

    def get(self, key: K) -> V | None:
        """The value under the key, or None."""
        return self._values.get(key)

    def keys(self) -> KeysView[K]:
        """Every key, in the order of insertion, which must not reach any output."""
        return self._values.keys()

    def values(self) -> ValuesView[V]:
        """Every value, in the order of the keys."""
        return self._values.values()

    def by_key(self) -> Mapping[K, V]:
        """The primary map, to read."""
        return self._values

    def __getitem__(self, key: K) -> V:
        return self._values[key]

    def __contains__(self, key: K) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)
