# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a mesh file, as sentences with file, line, field and reason."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.errors import ConfigError

if TYPE_CHECKING:
    from agent.sources.places import PolicyPlace

__all__ = ["MAX_BYTES", "FieldPath", "MeshFileError", "Problem", "format_field"]

MAX_BYTES: Final = 32 * 1024 * 1024
"""A mesh of 50,000 workloads is about half of it."""

FieldPath = tuple[str | int, ...]
"""Where a value stands: keys and list positions from the top of the file."""

_SHOWN = 50


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong. ``line`` and ``column`` count from 1; ``field`` may be empty."""

    line: int
    column: int
    field: str
    reason: str
    file: str = ""
    """Where it is not in the file that was read, but in one that this one names."""

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}" if self.field else self.reason


class MeshFileError(ConfigError):
    """A mesh file cannot be used; it holds every problem found, and its text has one on a line."""

    def __init__(
        self,
        file: str,
        problems: Iterable[Problem],
        *,
        places: "tuple[PolicyPlace, ...] | None" = None,
    ) -> None:
        self.file = file
        self.problems = tuple(sorted(set(problems), key=lambda one: (one.file, one)))
        self.places = places
        """What ``policyFiles`` names, where so much could be read: to be watched as well."""
        lines = [f"{one.file or file}:{one.line}: {one}" for one in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"{file}: and {len(self.problems) - _SHOWN} more problems")
        super().__init__("\n".join(lines))


def format_field(path: FieldPath) -> str:
    """Write a path as people do: ``workloads[3].addresses[0]``; odd keys are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.replace("_", "").replace("-", "").isalnum():
            text += f".{part}" if text else part
        else:
            text += f'["{part}"]'
    return text
