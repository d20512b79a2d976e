# SPDX-License-Identifier: Apache-2.0
"""The policy in force, in numbers: for the status and for the metrics."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from mesh.model.policies import Policy
from mesh.tables import Tables

__all__ = ["policy_status"]


def policy_status(tables: Tables, known: Iterable[Policy], generation: int) -> dict[str, Any]:
    """What is in force, in numbers; and, where that is not what is known, why."""
    return {
        "problem": tables.policy_problem,
        "generation": generation,
        "policies": dict(Counter(policy.key.kind.value for policy in known)),
        "sets": len(tables.policy_sets),
        "rules": len(tables.rules),
        "classes": len({row.peer_class for row in tables.subjects.values()}),
    }
