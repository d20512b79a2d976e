# SPDX-License-Identifier: Apache-2.0
"""Labels and selectors, as Kubernetes has them: equality only, and every pair must match."""

from collections.abc import ItemsView, Mapping
from typing import final

__all__ = ["NO_LABELS", "Labels"]


@final
class Labels:
    """Immutable, hashable label pairs in the order of their keys."""

    __slots__ = ("_hash", "_pairs")

    def __init__(self, pairs: Mapping[str, str] | None = None) -> None:
        self._pairs = dict(sorted((pairs or {}).items()))
        self._hash = hash(tuple(self._pairs.items()))

    def get(self, key: str) -> str | None:
        """The value under ``key``, or None."""
        return self._pairs.get(key)

    def first_of(self, *keys: str) -> str | None:
        """The value of the first of ``keys`` that is present and not empty, or None."""
        return next((value for key in keys if (value := self._pairs.get(key))), None)

    def items(self) -> ItemsView[str, str]:
        """Every pair, in the order of the keys."""
        return self._pairs.items()

    def match(self, selector: "Labels") -> bool:
        """Whether every pair of ``selector`` is here too. An empty selector matches everything."""
        return selector.items() <= self._pairs.items()

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Labels):
            return self._pairs == other._pairs
        return NotImplemented

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type["Labels"], tuple[dict[str, str]]]:
        # A hash of text is good in the process that made it only.
        return Labels, (self._pairs,)

    def __repr__(self) -> str:
        return f"Labels({self._pairs!r})"


NO_LABELS = Labels()
